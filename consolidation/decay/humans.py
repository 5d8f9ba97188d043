"""Human curves with their sources: `python -m consolidation.humans` prints the registry with refitted
exponents.

Practice data count repetitions, the clock of the examined claim; retention data measure time or intervening
items, which is another clock. A series of which DOI, number of subjects, licence or class of measure is not
known is shown and can be fitted, but is compared only when it is named. Your own CSV has the columns of
COLUMNS (`doi`, `year` and `n_subjects` may be empty or missing, `unit` and `count` may be missing). Where the
DOI is not that of the study but of a publication that gives its numbers again, `republished_in` names it.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from consolidation.decay.curve import Clock, Curve
from consolidation.decay.units import CLOCKS, check
from labbook import reading as tables
from labbook.console import UserError
from labbook.escape import plain

DATA = Path(__file__).parent.parent / "data"
COLUMNS = (
    "series",
    "study",
    "measure",
    "clock",
    "clock_unit",
    "x",
    "value",
    "how_read",
    "confidence",
    "licence",
)
CONFIDENCE = ("certain", "good", "fair", "weak")
PAPER_SERIES = "cram2026_fig4a"


def read_csv(path: Path) -> pd.DataFrame:
    """Read and check a file in the documented schema (any ending that `tables.read` knows).

    Raises UserError naming missing columns, unknown clocks or units, duplicates, series with several clocks
    or units, and values that are missing or not numbers.
    """
    strict = tables.read(path)
    missing = [c for c in COLUMNS if c not in strict]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(map(plain, strict.columns))}. "
            f"The schema is {', '.join(COLUMNS)}."
        )
    table = pd.DataFrame({name: column.astype(object) for name, column in strict.columns.items()})
    for name, numbers in strict.numbers([*("x", "value"), *(["count"] if "count" in strict else [])]).items():
        table[name] = numbers
    for name in ("year", "n_subjects", "doi", "republished_in"):
        if name in table:
            table[name] = table[name].mask(table[name] == "")
        else:
            table[name] = None
    negative = table["x"] < 0
    if negative.any():
        raise UserError(
            f"{path}: x is negative in {strict.where(int(negative.to_numpy().argmax()))}. Remove it."
        )
    for series, rows in table.groupby("series", sort=False):
        pairs = list(
            dict.fromkeys(zip(rows["clock"].astype(str), rows["clock_unit"].astype(str), strict=True))
        )
        if len(pairs) > 1:
            shown = "; ".join(f"{plain(c)} in {plain(u)}" for c, u in pairs)
            raise UserError(
                f"{path}: series {plain(series)!r} has {len(pairs)} clocks or units ({shown}). Give each its "
                "own series."
            )
        clock, unit = pairs[0]
        if clock not in CLOCKS:
            known = "; ".join(f"{c} in {u}" for c, u in CLOCKS.items())
            raise UserError(
                f"{path}: the clock {plain(clock)!r} in {plain(unit)!r} is not known; there are {known}."
            )
        check(clock, unit)
    unknown = sorted(set(table["confidence"]) - set(CONFIDENCE))
    if unknown:
        shown = ", ".join(plain(u) or "nothing" for u in unknown)
        raise UserError(f"{path}: confidence is one of {', '.join(CONFIDENCE)}; found {shown}.")
    keys = ["series", "x", *(["unit"] if "unit" in table else [])]
    twice = table.duplicated(keys)
    if twice.any():
        first = table[twice].iloc[0]
        raise UserError(
            f"{path}: series {plain(first['series'])!r} has x = {first['x']:g} twice. Remove one, or tell "
            "them apart in a column `unit`."
        )
    return table


@cache
def _classes() -> dict[str, dict[str, str]]:
    """Readable name, subjects and class of measure of every shipped series; those of the same subjects are
    dependent.
    """
    rows = pd.read_csv(DATA / "human" / "classes.csv", dtype=str).to_dict("records")
    return {str(row["series"]): {str(k): str(v) for k, v in row.items()} for row in rows}


def title(series: str) -> str:
    """The name of a shipped series for readers; of any other the name that it has."""
    return _classes().get(series, {}).get("name", series)


def _paper() -> pd.DataFrame:
    """The thirteen points of the examined paper's figure 4A as one more series; its clock is not defined
    there.
    """
    points = pd.read_csv(DATA / "paper_figures.csv").query("series == 'fig4a_p_episodic'")
    return pd.DataFrame(
        {
            "series": PAPER_SERIES,
            "study": "CRAM (arXiv:2602.12204), figure 4A, a model and no human",
            "year": 2026,
            "doi": "10.48550/arXiv.2602.12204",
            "measure": "P(episodic)",
            "material": "SRCD",
            "clock": "repetition",
            "clock_unit": "count",
            "x": points["x"],
            "value": points["y"],
            "how_read": (
                "vector graphics of the PDF; the paper does not say whether k counts within a sequence, a "
                "batch stream or training"
            ),
            "confidence": "good",
            "licence": "single facts",
        }
    )


@cache
def _registry() -> pd.DataFrame:
    parts = [read_csv(DATA / "human" / f"{name}.csv") for name in ("practice", "retention")]
    return pd.concat([*parts, _paper()], ignore_index=True)


def registry() -> pd.DataFrame:
    """Every row of every shipped series."""
    return _registry().copy()


@cache
def _series() -> pd.DataFrame:
    table = _registry()
    grouped = table.groupby("series", sort=False)
    first = grouped[
        [
            "study",
            "year",
            "doi",
            "republished_in",
            "measure",
            "clock",
            "clock_unit",
            "n_subjects",
            "how_read",
            "confidence",
            "licence",
        ]
    ].first()
    return first.assign(points=grouped.size()).reset_index()


def list_series() -> pd.DataFrame:
    """One row per series: study, measure, clock, points, subjects, licence, confidence, how it was read."""
    return _series().copy()


def lacks(series: str) -> tuple[str, ...]:
    """What is not known of a shipped series and has to be before its exponent is compared with others: DOI,
    number of subjects, licence, class of measure.
    """
    rows = list_series().set_index("series")
    if series not in rows.index:
        return ("DOI", "number of subjects", "licence")
    row = rows.loc[series]
    needed = {"DOI": "doi", "number of subjects": "n_subjects", "licence": "licence"}
    missing = [said for said, column in needed.items() if str(row[column]) in ("", "nan", "None")]
    return (*missing, *(() if series in _classes() else ("class of measure",)))


def bibliography(series: str) -> tuple[str, str] | None:
    """Authors, as BibTeX writes them, and year of a shipped series; None when the registry does not name
    both.
    """
    row = list_series().set_index("series").loc[series]
    year: str = "" if pd.isna(row["year"]) else str(row["year"]).removesuffix(".0")
    named: re.Match[str] | None = re.match(rf"(\D+?) {year}\b", str(row["study"])) if year else None
    if named is None:
        return None
    others = named[1].endswith(" et al.")
    authors = re.split(r", | & ", named[1].removesuffix(" et al."))
    return " and ".join([*authors, *(["others"] if others else [])]), year


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


def _labelled(curve: Curve) -> Curve:
    """A shipped curve with the subjects and the class of measure that the registry knows."""
    known = _classes().get(curve.name, {})
    return replace(curve, study=known.get("subjects", ""), measure=known.get("class", ""))


def load(series: str) -> Curve:
    """A shipped series. Raises UserError naming those there are."""
    if series == "dros_time_by_list":
        rows = pd.read_csv(DATA / "human" / "dros_time_by_list.csv").sort_values("delay_seconds")
        curve = Curve(
            name=series,
            x=rows["delay_seconds"].to_numpy(dtype=float),
            y=rows["savings"].to_numpy(dtype=float),
            clock=Clock("retention interval", "s"),
            unit=np.array([f"{i:02d}" for i in range(len(rows))]),
            source="Murre & Dros 2015, single lists of one subject, savings by time",
        )
        return _labelled(curve)
    table = registry()
    rows = table[table["series"] == series]
    if rows.empty:
        raise UserError(f"there is no series {plain(series)!r}; there are {', '.join(names())}.")
    return _labelled(to_curve(rows))


def names() -> tuple[str, ...]:
    """Every shipped series."""
    return (*dict.fromkeys(registry()["series"]), "dros_time_by_list")
