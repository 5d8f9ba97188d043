"""The command line of `python -m redundancy.training`; the experiment itself is `experiment.execute`."""

from pathlib import Path

from labbook.command import Repeat, run_command
from redundancy.training.config import Command


def work(command: Command) -> Path | None:
    """Measure, draw and print."""
    # torch and transformers take seconds to import: --help, errors of the options and the repetition of a
    # finished run do not wait for them
    from redundancy.finished import told

    folder = None if command.settings.full else told(command.config, command.settings)
    if folder is not None:
        return folder
    from labbook import processes
    from redundancy.training.experiment import execute
    from redundancy.training.figures import draw_course
    from redundancy.training.report import report
    from redundancy.training.tables import print_course

    with processes.together():
        course = execute(command.config, command.settings)
        if processes.rank() > 0:
            return None
        draw_course(course.folder, course.folder)
        if command.settings.report:
            report(course).write(course.folder)
        print_course(course, full=command.settings.full)
    return course.folder


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command(
        "redundancy.training", Command, work, args, repeat=Repeat({"weight_hash", "data_hash", "steps"})
    )


if __name__ == "__main__":
    main()
