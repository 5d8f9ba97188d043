"""Human curves with their sources: `python -m consolidation.humans` prints the registry with refitted
exponents.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from consolidation.decay.humans import read_csv, registry, to_curve
from consolidation.decay.inference import fit, profile
from labbook.console import UserError, at_once, console, guarded
from labbook.escape import markup


@dataclass(frozen=True)
class Command:
    """Print the registry of human curves with the exponent of a pure power law refitted to each."""

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """Your own CSV in the schema, checked and printed the same way."""


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m consolidation.humans")

    def body() -> None:
        with at_once():
            show()

    def show() -> None:
        table = read_csv(command.file) if command.file else registry()
        out = Table(
            box=box.SIMPLE,
            title="a x^-gamma by least squares, 95 % profile-likelihood intervals over points",
            title_justify="left",
        )
        for column in ("series", "study", "measure", "clock", "points", "gamma", "confidence"):
            out.add_column(
                column,
                justify="right" if column in ("points", "gamma") else "left",
                no_wrap=column in ("series", "clock"),
            )
        for name, rows in table.groupby("series", sort=False):
            curve = to_curve(rows)
            try:
                fitted = fit(curve, "power")
                number = profile(fitted, "gamma").number
                gamma = f"{number.estimate:.3f} [{number.lower:.3f}, {number.upper:.3f}]"
            except UserError as error:
                gamma = "none: " + str(error).split(";")[0].removeprefix(f"{name}: ")
            first = rows.iloc[0]
            out.add_row(
                markup(name),
                markup(first["study"]),
                markup(first["measure"]),
                markup(curve.clock),
                str(len(rows)),
                markup(gamma),
                markup(first["confidence"]),
            )
        console.print(out)

    guarded(body)


if __name__ == "__main__":
    main()
