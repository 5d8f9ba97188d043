"""The command line of `python -m redundancy.pretrain`; the experiment itself is `experiment.execute`."""

from pathlib import Path

from labbook.command import Repeat, run_command
from redundancy.pretrain.config import Command, begin


def work(command: Command) -> Path:
    """Train, and copy what is shipped."""
    # torch and transformers take seconds to import: --help and errors of the options do not wait for them
    from labbook.training import joined
    from redundancy.pretrain.experiment import prepare, pretrain, ship

    if command.pack is not None:
        return prepare(command.config, command.pack)
    pretrain(command.config, command.out, report=command.report, minutes=command.minutes)
    if command.ship is not None and joined().is_main_process:
        ship(command.out, command.ship, command.ship_steps)
    return command.ship or command.out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.pretrain", Command, work, args, start=begin, repeat=Repeat())


if __name__ == "__main__":
    main()
