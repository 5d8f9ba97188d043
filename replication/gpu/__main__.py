"""The command line of `python -m replication.gpu`; the stages are in `stages`."""

from pathlib import Path

from labbook.command import run_command
from labbook.console import UserError
from labbook.view import print_table
from replication.gpu.config import Command


def work(command: Command) -> Path:
    """Run the stages and say how each ended."""
    if not command.minutes > 0:
        raise UserError(f"--minutes {command.minutes}: give how long all stages may take.")
    # torch takes seconds to import: --help and errors of the options do not wait for it
    from replication.gpu.experiment import execute

    table = execute(command)
    rows = [[str(r.stage), str(r.job), str(r.state), f"{r.seconds:.0f}"] for r in table.itertuples()]
    print_table("stages", ["stage", "command", "state", "seconds"], rows)
    return command.out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("replication.gpu", Command, work, args)


if __name__ == "__main__":
    main()
