"""The curve in a table: its columns, what each may hold, and the clock of x."""

import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from consolidation.decay import units
from consolidation.decay.curve import Clock, Curve
from consolidation.fit.config import FitConfig
from labbook import reading as tables
from labbook.console import UserError, choice
from labbook.escape import plain
from labbook.estimate import Array

# names that are shown where there may be many
MOST_NAMED = 20
# what a row of a table of units is called that is none
SUMMARIES = ("mean", "average", "all", "total", "overall", "sum", "median")
# words in the name of a column that say which class of measure it holds
CALLED = {
    "time": {"rt", "rts", "latency", "latencies"},
    "error": {"error", "errors"},
    "recall": {"recall", "recalled"},
    "savings": {"savings", "saving"},
}


def curve_of(table: tables.StrictTable, config: FitConfig, name: str, title: str) -> Curve:
    """The curve in a table: `name` is what it is called where the table has no series, `title` what the table
    is called.

    Raises UserError for columns and series that are not there, for values that cannot be, and for a clock
    that is not said.
    """
    place = table.place
    named = {"--x": config.x, "--y": config.y, "--unit": config.unit, "--count": config.count}
    for flag, column in named.items():
        if column is not None and column not in table:
            raise UserError(
                f"{place} has no column {column!r}; it has {', '.join(map(plain, table.columns))}. Change "
                f"{flag}."
            )
    if "series" in table:
        names = list(dict.fromkeys(table.columns["series"].tolist()))
        shown = ", ".join(map(plain, names[:MOST_NAMED]))
        if config.series is None and len(names) > 1:
            raise UserError(f"{place} holds {len(names)} series ({shown}). Choose one with --series.")
        if config.series is not None and config.series not in names:
            raise UserError(f"{place} has no series {config.series!r}; there are {shown}. Change --series.")
        table = table.rows(table.columns["series"] == (config.series or names[0]))
    elif config.series is not None:
        raise UserError(
            f"{place} has no column 'series', so --series {config.series!r} chooses nothing. Leave it out."
        )
    known = {*named.values(), "series", "clock", "clock_unit"}
    if left := [plain(column) for column in table.columns if column not in known]:
        choice("columns not read", ", ".join(left[:MOST_NAMED]), "no option names them")
    clock = _clock(table, config)
    numbers = table.numbers([c for c in (config.x, config.y, config.count) if c])
    unit = None if config.unit is None else table.columns[config.unit]
    if unit is not None and len(np.unique(unit)) < 2:
        raise UserError(
            f"{place}: --unit {config.unit} was asked for, but all rows are of one unit, which has no "
            "spread. Leave --unit out; the interval is then over the points."
        )
    if unit is not None and (row := _first(unit == "")) is not None:
        raise UserError(f"{place}: {table.where(row)} has no {config.unit}. Fill it, or remove the row.")
    if unit is not None:
        _require_units(unit, table, config)
    _require_no_time(table, config, clock)
    require_possible(
        numbers[config.y],
        config.measure or "",
        None if config.count is None else numbers[config.count],
        lambda row: f"{table.where(row)}: {config.y}",
    )
    _require_counted(numbers, config, table)
    _require_called(table, config)
    order = np.argsort(numbers[config.x], kind="stable")
    return Curve(
        name=config.series or name,
        x=numbers[config.x][order],
        y=numbers[config.y][order],
        clock=clock,
        unit=None if unit is None else unit[order],
        count=None if config.count is None else numbers[config.count][order],
        error="binomial" if config.count else "gaussian",
        source=f"{title}, columns {config.x} and {config.y}",
    )


def _clock(table: tables.StrictTable, config: FitConfig) -> Clock:
    """What x counts and in which unit, by flag or column; a flag that contradicts its column is an error, and
    a unit is never guessed.
    """
    told = table.only("clock", "One curve has one clock: give each its own series, or choose rows.")
    if config.clock is not None and told is not None and config.clock != told:
        raise UserError(
            f"{table.place} has the clock {plain(told)!r} in its column `clock`, and --clock says "
            f"{config.clock!r}. Leave --clock out, or correct one."
        )
    counts = config.clock or told
    if counts is None:
        raise UserError(
            f"{table.place} does not say what {config.x} counts. Say it with --clock, for instance "
            f"{', '.join(map(repr, units.CLOCKS))}."
        )
    require_no_misprint(counts, table.place, "Change --clock" if config.clock else "Correct the column")
    written = table.only(
        "clock_unit", "One curve has one unit: convert the rows, or give each unit its own series."
    )
    for unit in (written, config.clock_unit):
        if unit is not None:
            units.check(counts, unit)
    if (
        written is not None
        and config.clock_unit is not None
        and units.factor(counts, written, config.clock_unit) != 1
    ):
        raise UserError(
            f"{table.place} has the unit {plain(written)!r} in its column `clock_unit`, and --clock-unit "
            f"says {config.clock_unit!r}. Leave --clock-unit out, or correct one."
        )
    unit = config.clock_unit or written
    if unit is not None:
        named = units.time_named(config.x)
        if named is not None and units.other_time(named, unit):
            says = "--clock-unit" if config.clock_unit else "its column `clock_unit`"
            raise UserError(
                f"{table.place}: the column {plain(config.x)!r} is called after the unit {named!r}, and "
                f"{says} says {plain(unit)!r}. Correct {says}, or rename the column."
            )
        choice("clock unit", unit, "--clock-unit" if config.clock_unit else "column clock_unit")
    elif counts in units.THINGS:
        if (named := units.time_named(config.x)) is not None:
            raise UserError(
                f"{table.place}: the column {plain(config.x)!r} is called after the unit {named!r}, and "
                f"{counts!r} is counted. Change --clock or --x; if each is one, say --clock-unit count."
            )
        unit = units.CLOCKS[counts]
        choice("clock unit", unit, f"{counts} is counted; --clock-unit says otherwise")
    else:
        raise UserError(
            f"{table.place} does not say in which unit {config.x} measures the clock {plain(counts)!r}. Say "
            "it with --clock-unit, for instance "
            f"{units.examples(counts)}."
        )
    return Clock(counts, unit)


def _require_units(unit: npt.NDArray[np.str_], table: tables.StrictTable, config: FitConfig) -> None:
    """Raise UserError for units that differ by case or blanks alone, and for a summary among them."""
    seen = dict[str, str]()
    for name in dict.fromkeys(unit.tolist()):
        plainly = " ".join(name.casefold().split())
        row = table.where(int((unit == name).argmax()))
        if plainly in SUMMARIES:
            raise UserError(
                f"{row}: the {config.unit} is called {plain(name)!r}. A summary is no unit beside those that "
                "it sums up: remove its rows, or rename it."
            )
        if seen.setdefault(plainly, name) != name:
            raise UserError(
                f"{row}: the {config.unit} is called {plain(name)!r}, and another {plain(seen[plainly])!r}. "
                "If they are one, write it in one way; if they are two, rename one."
            )


def _require_no_time(table: tables.StrictTable, config: FitConfig, clock: Clock) -> None:
    """Raise UserError for a y that is called after a unit of time and said to be no time."""
    named = units.time_named(config.y)
    if named is None or config.measure in (None, "time"):
        return
    swapped = " Are --x and --y swapped?" * (units.time_named(clock.unit) == named)
    raise UserError(
        f"{table.place}: the column {plain(config.y)!r} is called after the unit {named!r}, and --measure "
        f"says {config.measure}.{swapped} Change --y or --measure, or rename the column."
    )


def _require_called(table: tables.StrictTable, config: FitConfig) -> None:
    """Raise UserError for a y that is called after another measure than it is said to be."""
    words = set(re.findall("[a-z]+", config.y.casefold()))
    called = {measure for measure, names in CALLED.items() if words & names}
    if config.measure is not None and called and config.measure not in called:
        raise UserError(
            f"{table.place}: the column {plain(config.y)!r} is called after {' and '.join(sorted(called))}, "
            f"and --measure says {config.measure}. Change --measure or --y, or rename the column."
        )


def require_no_misprint(counts: str, place: object, remedy: str) -> None:
    """Raise UserError for a clock that is nearly one of the registry, or a part of its name."""
    clocks = units.meant(counts)
    if clocks:
        raise UserError(
            f"{place}: the clock {plain(counts)!r} is not one of the registry; did you mean "
            f"{' or '.join(map(repr, clocks))}? {remedy}, or say in other words what x counts: the curve is "
            "then compared with no people."
        )


def require_possible(y: Array, measure: str, count: Array | None, where: Callable[[int], str]) -> None:
    """Raise UserError for the first y that its measure, or a proportion of trials, cannot have.

    Savings may be negative: relearning can take longer than learning did.
    """
    if measure in ("time", "error", "recall") and (row := _first(y < 0)) is not None:
        raise UserError(
            f"{where(row)} is {y[row]:g}, and no {measure} is below 0. Correct the row, or change --y or "
            "--measure."
        )
    share = measure if measure in ("recall", "savings") else "" if count is None else "proportion"
    if share and (row := _first(y > 1)) is not None:
        raise UserError(
            f"{where(row)} is {y[row]:g}, and no {share} is above 1. Is it in percent? Divide by 100. A "
            "number of items? Divide by how many there were. Else change --y"
            f"{' or --measure' if measure else ''}{' or --count' if count is not None else ''}."
        )
    if count is not None and (row := _first(y < 0)) is not None:
        raise UserError(
            f"{where(row)} is {y[row]:g}, and no proportion of trials is below 0. Correct the row, or change "
            "--y or --count."
        )


def _first(wrong: npt.NDArray[np.bool_]) -> int | None:
    """The first row that is wrong; None where none is."""
    return int(wrong.argmax()) if wrong.any() else None


def _require_counted(numbers: Mapping[str, Array], config: FitConfig, table: tables.StrictTable) -> None:
    """Raise UserError for the first row that counts below 0 or has no trials, and where a proportion of so
    many trials cannot be: y times its trials is no whole number, as far as the digits of y tell.
    """
    x, y = numbers[config.x], numbers[config.y]
    if (row := _first(x < 0)) is not None:
        raise UserError(
            f"{table.where(row)}: {config.x} is {x[row]:g}, and no clock counts below 0. Correct the row, or "
            "change --x."
        )
    if config.count is None:
        return
    count = numbers[config.count]
    if (row := _first(count <= 0)) is not None:
        raise UserError(
            f"{table.where(row)}: {config.count} is {count[row]:g}, and a proportion needs trials. Remove "
            "the row, or change --count."
        )
    if (row := _first(count != np.round(count))) is not None:
        raise UserError(
            f"{table.where(row)}: {config.count} is {count[row]:g}, and numbers of trials are whole numbers. "
            "Correct the row, or change --count."
        )
    digits = np.array([len(text.partition(".")[2]) for text in map(repr, y.tolist())])
    off = np.abs(y * count - np.round(y * count))
    if (row := _first(off > count * 0.5 * 10.0 ** -np.minimum(digits, 12) + 1e-6)) is not None:
        raise UserError(
            f"{table.where(row)}: {config.y} is {y[row]:g} of {count[row]:g} trials, which would be "
            f"{y[row] * count[row]:.2f} of them. --count is the number of trials behind each proportion, not "
            "that of successes. Correct the row, or change --count; without --count the proportions are "
            "numbers like others."
        )
