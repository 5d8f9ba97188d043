"""The command line of `python -m consolidation.fit`; the analysis itself is `experiment.execute`."""

from pathlib import Path

from consolidation.fit.config import Command
from labbook.command import Repeat, run_command
from labbook.console import at_once


def work(command: Command) -> Path:
    """Fit, draw and print."""
    # torch and scipy take seconds to import: --help and errors of the options do not wait for them
    from consolidation.fit.experiment import execute

    with at_once():
        return execute(command.config, command.settings)


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.fit", Command, work, args, repeat=Repeat({"read_on_clock", "data_hash"}))


if __name__ == "__main__":
    main()
