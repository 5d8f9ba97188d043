"""One console script for several commands: `redundancy probe gpt2` is `python -m redundancy.probe gpt2`.

Nothing heavy is imported before a command is chosen, so that `--help` and `--version` answer at once.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence

from labbook import __version__


def dispatch(script: str, commands: Mapping[str, tuple[str, str]], args: Sequence[str] | None = None) -> None:
    """Give the arguments after the name of a command to the `main` of its module.

    Parameters
    ----------
    script : name of the console script.
    commands : module and one line of help for the name of each command.
    args : the arguments; None means those of the process.

    Exits with 2 when the first argument is neither a command nor `--help` nor `--version`.
    """
    first, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if first in ("-h", "--help"):
        print(overview(script, commands))
    elif first == "--version":
        print(f"{script} {__version__}")
    elif first in commands:
        importlib.import_module(commands[first][0]).main(rest)
    else:
        print(
            f"error: {first!r} is no command of {script}; there are {', '.join(commands)}. See {script} "
            "--help.",
            file=sys.stderr,
        )
        sys.exit(2)


def overview(script: str, commands: Mapping[str, tuple[str, str]]) -> str:
    """What `--help` prints."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in commands.items()]
    return "\n".join(
        [
            f"usage: {script} COMMAND [options]",
            "",
            *lines,
            "",
            f"{script} COMMAND --help explains every option; {script} --version says which version this is.",
        ]
    )
