"""The command line of every command: parse, guard, do the work, and print last where the result lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from labbook.console import console, guarded, literal

Asked = TypeVar("Asked")


def run_command(
    name: str,
    command: type[Asked],
    body: Callable[[Asked], Path | None],
    args: list[str] | None,
    parse: Callable[[list[str] | None, type[Any], str], Any] | None = None,
) -> None:
    """Run `python -m NAME ARGS`.

    Parameters
    ----------
    name : dotted name of the command.
    command : dataclass whose fields are the options; the docstring below each is its help.
    body : does the work and returns the folder or file of the result, None on processes that print nothing.
    args : command-line arguments; None takes those of the process.
    parse : (args, command, prog) -> command, where tyro alone does not do.

    Exits with 2 on a `UserError` and with 130 when interrupted, see `guarded`.
    """
    prog = f"python -m {name}"

    def work() -> None:
        asked = parse(args, command, prog) if parse else tyro.cli(command, args=args, prog=prog)
        place = body(asked)
        if place is not None:
            console.print(literal(place))

    guarded(work)
