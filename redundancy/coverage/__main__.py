"""The command line of `python -m redundancy.coverage`; what is simulated is in `simulation`."""

from pathlib import Path

from labbook.command import run_command
from labbook.console import console
from redundancy.coverage.config import Command


def work(command: Command) -> Path:
    """Simulate, and print the table by method."""
    # scipy takes a second to import: --help and errors of the options do not wait for it
    from redundancy.coverage.simulation import DESIGNS, execute

    wide = execute(command).pivot(index=["design", "documents"], columns="method", values="coverage")
    console.print(wide.loc[list(DESIGNS)].to_string(float_format=lambda v: f"{v:.3f}"))
    return command.out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.coverage", Command, work, args)


if __name__ == "__main__":
    main()
