"""Human curves with their sources: `python -m consolidation.humans` prints the registry with refitted exponents.

Practice data count repetitions, the clock of the examined claim; retention data measure time or intervening items, which is another clock.
Your own CSV has the columns of COLUMNS (`doi`, `year`, `n_subjects`, `unit` and `count` may be empty or missing).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from rich import box
from rich.table import Table

from consolidation.decay import CLOCKS, Clock, Curve
from consolidation.inference import fit, profile
from labbook.console import UserError, console, guarded

DATA = Path(__file__).parent / "data"
COLUMNS = ("series", "study", "measure", "clock", "clock_unit", "x", "value", "how_read", "confidence", "licence")
CONFIDENCE = ("certain", "good", "fair", "weak")
PAPER_SERIES = "cram2026_fig4a"


def read_csv(path: Path) -> pd.DataFrame:
    """Read and check a file in the documented schema.

    Raises UserError naming missing columns, unknown clocks or units, duplicates, and values that are missing or not numbers.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Name a CSV with the columns {', '.join(COLUMNS)}.")
    table = pd.read_csv(path)
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}. The schema is {', '.join(COLUMNS)}."
        )
    for column in ("x", "value"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = numbers.isna() | ~np.isfinite(numbers)
        if bad.any():
            raise UserError(
                f"{path}: {column} is missing or not a number in row {int(bad.to_numpy().argmax()) + 2} ({int(bad.sum())} rows in all). Fill or remove them."
            )
        table[column] = numbers
    for (clock, unit), _ in table.groupby(["clock", "clock_unit"], dropna=False):
        if clock not in CLOCKS or CLOCKS[clock] != unit:
            known = "; ".join(f"{c} in {u}" for c, u in CLOCKS.items())
            raise UserError(f"{path}: the clock {clock!r} in {unit!r} is not known; there are {known}.")
    unknown = sorted(set(table["confidence"]) - set(CONFIDENCE))
    if unknown:
        raise UserError(f"{path}: confidence is one of {', '.join(CONFIDENCE)}; found {', '.join(map(str, unknown))}.")
    keys = ["series", "x", *(["unit"] if "unit" in table else [])]
    twice = table.duplicated(keys)
    if twice.any():
        first = table[twice].iloc[0]
        raise UserError(
            f"{path}: series {first['series']!r} has x = {first['x']:g} twice. Remove one, or tell them apart in a column `unit`."
        )
    return table


def _paper() -> pd.DataFrame:
    """The thirteen points of the examined paper's figure 4A as one more series; its clock is not defined there."""
    points = pd.read_csv(DATA / "paper_figures.csv").query("series == 'fig4a_p_episodic'")
    return pd.DataFrame(
        {
            "series": PAPER_SERIES, "study": "CRAM (arXiv:2602.12204), figure 4A, a model and no human", "year": 2026, "doi": "10.48550/arXiv.2602.12204",
            "measure": "P(episodic)", "material": "SRCD", "clock": "repetition", "clock_unit": "count", "x": points["x"], "value": points["y"],
            "how_read": "vector graphics of the PDF; the paper does not say whether k counts within a sequence, a batch stream or training",
            "confidence": "good", "licence": "single facts",
        }
    )  # fmt: skip


def registry() -> pd.DataFrame:
    """Every row of every shipped series."""
    parts = [read_csv(DATA / "human" / f"{name}.csv") for name in ("practice", "retention")]
    return pd.concat([*parts, _paper()], ignore_index=True)


def list_series() -> pd.DataFrame:
    """One row per series: study, measure, clock, points, subjects, licence, confidence, how it was read."""
    table = registry()
    grouped = table.groupby("series", sort=False)
    first = grouped[
        ["study", "year", "doi", "measure", "clock", "clock_unit", "n_subjects", "how_read", "confidence", "licence"]
    ].first()
    return first.assign(points=grouped.size()).reset_index()


def __getattr__(name: str) -> Any:
    # `humans.list()` is the registry's own verb; as a plain name in this module it would hide the built-in
    if name == "list":
        return list_series
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def to_curve(rows: pd.DataFrame) -> Curve:
    """One series of a checked table as a curve."""
    rows = rows.sort_values("x")
    first = rows.iloc[0]
    return Curve(
        name=str(first["series"]),
        x=rows["x"].to_numpy(dtype=float),
        y=rows["value"].to_numpy(dtype=float),
        clock=Clock(str(first["clock"]), str(first["clock_unit"])),
        unit=np.array([str(u) for u in rows["unit"]]) if "unit" in rows else None,
        count=rows["count"].to_numpy(dtype=float) if "count" in rows else None,
        source=f"{first['study']}; {first['how_read']}",
    )


def load(series: str) -> Curve:
    """A shipped series. Raises UserError naming those there are."""
    if series == "dros_time_by_list":
        rows = pd.read_csv(DATA / "human" / "dros_time_by_list.csv").sort_values("delay_seconds")
        return Curve(
            name=series,
            x=rows["delay_seconds"].to_numpy(dtype=float),
            y=rows["savings"].to_numpy(dtype=float),
            clock=Clock("retention interval", "s"),
            unit=np.array([f"{i:02d}" for i in range(len(rows))]),
            source="Murre & Dros 2015, single lists of one subject, savings by time",
        )
    table = registry()
    rows = table[table["series"] == series]
    if rows.empty:
        names = [*dict.fromkeys(table["series"]), "dros_time_by_list"]
        raise UserError(f"there is no series {series!r}; there are {', '.join(names)}.")
    return to_curve(rows)


@dataclass(frozen=True)
class Command:
    """Print the registry of human curves with the exponent of a pure power law refitted to each."""

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """Your own CSV in the schema, checked and printed the same way."""


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m consolidation.humans")

    def body() -> None:
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
                str(name),
                str(first["study"]),
                str(first["measure"]),
                str(curve.clock),
                str(len(rows)),
                gamma,
                str(first["confidence"]),
            )
        console.print(out)

    guarded(body)


if __name__ == "__main__":
    main()
