"""The command line of `python -m consolidation.replicate`; the experiments are in `cells`, and what is
done with them is `experiment.execute`.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from consolidation.config import VARIANTS
from consolidation.replicate.config import Command
from consolidation.train.config import RETIRED
from consolidation.train.presets import begin
from labbook.command import Repeat, run_command
from labbook.console import UserError
from labbook.view import print_table, print_verdict

if TYPE_CHECKING:
    import pandas as pd


def show(table: "pd.DataFrame") -> None:
    """The tables on the terminal: retrieval, attention, and how many seeds succeeded; `cells.csv` has the
    rest.
    """
    print_verdict(verdict(table))
    shown = ("retrieval", "novel", "attention", "learnt", "consolidated")
    for name, cells_of in table.groupby("table", sort=False):
        rows = []
        for cell, values in cells_of.groupby("cell", sort=False):
            by = values.set_index("metric")
            rows.append([str(cell), *(_entry(by, metric) for metric in shown)])
        print_table(f"{name}: mean over seeds [95 % interval] (paper)", ["cell", *shown], rows)


def show_contrasts(table: "pd.DataFrame") -> None:
    """The contrasts of the factorial in its primary outcome, paired by seed."""
    shown = table.query("analysis == 'paired' and outcome == 'attends'")
    rows = [
        [
            row["contrast"],
            f"{row['estimate']:+.3f} [{row['lower']:+.3f}, {row['upper']:+.3f}]" if row["n"] > 1 else "–",
            *(
                f"{row['n']}",
                f"{row['p_holm']:.2g}",
                f"{row['p_equivalence']:.2g}",
                row["by_cell"],
                row["state"],
            ),
        ]
        for row in shown.to_dict("records")
    ]
    head = ["contrast", "difference", "seeds", "p (Holm)", "p equivalence", "not learnt", "state"]
    print_table("P(attend | recurring), paired by seed [95 % interval]", head, rows)


def verdict(table: "pd.DataFrame") -> list[str]:
    """What CRAM reaches here, where it is among the cells."""
    said = []
    for metric in ("retrieval", "attention"):
        found = table[(table["cell"] == "cram") & (table["metric"] == metric)]
        if len(found):
            said.append(f"{metric} {_entry(found.head(1).set_index('metric'), metric)}")
    return [f"CRAM, mean over seeds: {', '.join(said)}."] if said else []


def _entry(by: "pd.DataFrame", metric: str) -> str:
    from consolidation.replicate.cells import SEEDS

    if metric not in by.index:
        return "–"
    columns = ("estimate", "lower", "upper", "n", "paper")
    estimate, lower, upper, n, paper = (float(by[column].to_dict()[metric]) for column in columns)
    if metric in SEEDS:
        return f"{round(estimate * n)} of {n:.0f}"
    stated = "" if math.isnan(paper) else f" ({_short(paper)})"
    interval = "" if math.isnan(lower) else f" [{_short(lower)}, {_short(upper)}]"
    return f"{_short(estimate)}{interval}{stated}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def work(command: Command) -> Path | None:
    """Train what is missing, tabulate and print."""
    if command.config.model != "cram":
        raise UserError(
            f"--model {command.config.model}: the experiments choose the models themselves "
            f"({', '.join(VARIANTS)}). Leave it out."
        )
    # torch takes seconds to import: --help and errors of the options do not wait for it
    from consolidation.replicate.experiment import execute
    from labbook.run import read_table
    from labbook.training import joined

    out, table = execute(command)
    if not joined().is_main_process:
        return None
    show(table)
    if "factorial" in command.tables:
        show_contrasts(read_table(out / "contrasts.csv"))
    return out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.replicate", Command, work, args, start=begin, repeat=Repeat(retired=RETIRED))


if __name__ == "__main__":
    main()
