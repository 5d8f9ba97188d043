"""The command line of `python -m redundancy.removal`; the experiment itself is `experiment.execute`."""

from pathlib import Path

from labbook.command import Repeat, run_command
from redundancy.removal.config import Command


def work(command: Command) -> Path | None:
    """Measure, draw and print."""
    # torch and transformers take seconds to import: --help, errors of the options and the repetition of a
    # finished run do not wait for them
    from redundancy.finished import told

    folder = None if command.settings.full else told(command.config, command.settings)
    if folder is not None:
        return folder
    from labbook import processes
    from redundancy.removal.experiment import execute
    from redundancy.removal.figures import draw_removal
    from redundancy.removal.report import print_losses, report

    with processes.together():
        losses = execute(command.config, command.settings)
        if processes.rank() > 0:
            return None
        draw_removal(losses.folder, losses.folder)
        if command.settings.report:
            report(losses).write(losses.folder)
        print_losses(losses, full=command.settings.full)
    return losses.folder


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.removal", Command, work, args, repeat=Repeat({"weight_hash", "data_hash"}))


if __name__ == "__main__":
    main()
