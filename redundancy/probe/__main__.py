"""The command line of `python -m redundancy.probe`; the experiment itself is `experiment.execute`."""

from pathlib import Path

from labbook.command import Repeat, run_command
from redundancy.probe.config import Command


def work(command: Command) -> Path | None:
    """Measure, draw and print."""
    # torch and transformers take seconds to import: --help, errors of the options and the repetition of a
    # finished run do not wait for them
    from redundancy.finished import told

    folder = None if command.settings.full else told(command.config, command.settings)
    if folder is not None:
        return folder
    from labbook import processes
    from redundancy.probe.experiment import execute
    from redundancy.probe.figures import draw
    from redundancy.probe.report import print_tables, report

    with processes.together():
        tables = execute(command.config, command.settings)
        if processes.rank() > 0:
            return None
        draw(tables.folder, tables.folder)
        if command.settings.report:
            report(tables).write(tables.folder)
        print_tables(tables, full=command.settings.full)
    return tables.folder


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.probe", Command, work, args, repeat=Repeat({"weight_hash", "data_hash"}))


if __name__ == "__main__":
    main()
