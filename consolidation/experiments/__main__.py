"""The command line of `python -m consolidation.experiments`; the experiments are in modules of their names,
and what is done with them is `experiment.execute`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from consolidation.experiments.config import Command
from labbook.command import Repeat, run_command
from labbook.view import print_table, print_verdict

if TYPE_CHECKING:
    from consolidation.experiments.outcome import Outcome


def show(outcome: "Outcome") -> None:
    """The verdicts, and one line for every claim; of a toy run, that there are none."""
    if outcome.quick:
        print_verdict(outcome.sentences())
        return
    print_verdict([f"{c.condition}: {c.name}: {c.verdict}." for c in outcome.claims])
    rows = [[c.condition, c.name, c.verdict, c.said()] for c in outcome.claims]
    print_table(
        f"{outcome.name}: mean over seeds [95 % interval]",
        ["condition", "people", "verdict", "model"],
        rows,
        left=3,
    )


def work(command: Command) -> Path | None:
    """Train what is missing, analyse and print."""
    # torch takes seconds to import: --help and errors of the options do not wait for it
    from consolidation.experiments.experiment import execute
    from labbook.training import joined

    folder, outcome = execute(command)
    if not joined().is_main_process:
        return None
    show(outcome)
    return folder


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.experiments", Command, work, args, repeat=Repeat({"conditions"}))


if __name__ == "__main__":
    main()
