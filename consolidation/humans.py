"""Human curves with their sources: `python -m consolidation.humans` prints the registry with refitted
exponents.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from labbook.command import run_command
from labbook.console import UserError, at_once
from labbook.view import print_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Command:
    """Print the registry of human curves with the exponent of a pure power law refitted to each."""

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """Your own CSV in the schema, checked and printed the same way."""


def work(command: Command) -> None:
    """Print the table of exponents."""
    # pandas and scipy take seconds to import: --help and errors of the options do not wait for them
    from consolidation.decay.humans import read_csv, registry

    with at_once():
        show(read_csv(command.file) if command.file else registry())


def show(table: "pd.DataFrame") -> None:
    """One line per series: study, measure, clock, and gamma with its interval or why there is none."""
    from consolidation.decay.humans import to_curve
    from consolidation.decay.inference import fit, profile

    lines = []
    for name, rows in table.groupby("series", sort=False):
        curve = to_curve(rows)
        try:
            gamma = profile(fit(curve, "power"), "gamma").number.text()
        except UserError as error:
            gamma = "none: " + str(error).split(";")[0].removeprefix(f"{name}: ")
        first = rows.iloc[0]
        cells = (name, first["study"], first["measure"], curve.clock, len(rows), gamma, first["confidence"])
        lines.append([str(cell) for cell in cells])
    heads = ["series", "study", "measure", "clock", "points", "gamma", "confidence"]
    print_table(
        "a x^-gamma by least squares, 95 % profile-likelihood intervals over points", heads, lines, left=4
    )


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.humans", Command, work, args)


if __name__ == "__main__":
    main()
