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
from labbook.view import print_table, print_verdict, print_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from consolidation.replicate.contrasts import Contrast


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
        print_table(
            f"{name}: mean over seeds [95 % interval] (paper's, where it has one)", ["cell", *shown], rows
        )
    from consolidation.train.evaluation import CONSOLIDATED, LEARNT

    print_words(
        f"learnt: seeds that answer at least {LEARNT:.0%} of recurring, of novel and of all queries; "
        f"consolidated: those of them that attend, at no more than {CONSOLIDATED} times the optimum of eq 13."
    )


def show_contrasts(contrasts: "Sequence[Contrast]") -> None:
    """The contrasts of the factorial that decide."""
    rows = [
        [
            one.name,
            one.number.text(sign=True) if one.number.n > 1 else "–",
            str(one.number.n),
            *(f"{p:.2g}" for p in (one.p_holm, one.p_equivalence)),
            one.by_cell,
            one.state,
        ]
        for one in contrasts
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
    from consolidation.replicate.tabulation import SEEDS

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
    from consolidation.replicate.cells import DESIGNED
    from consolidation.replicate.contrasts import of_table, primary
    from consolidation.replicate.experiment import execute
    from labbook.run import read_table
    from labbook.training import joined

    out, table = execute(command)
    if not joined().is_main_process:
        return None
    show(table)
    contrasts = out / "contrasts.csv"
    if set(DESIGNED) & set(command.tables) and contrasts.is_file():  # no cell may be finished yet
        show_contrasts(primary(of_table(read_table(contrasts))))
    return out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.replicate", Command, work, args, start=begin, repeat=Repeat(retired=RETIRED))


if __name__ == "__main__":
    main()
