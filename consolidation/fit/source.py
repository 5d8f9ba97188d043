"""What is fitted: a human series, a training run, or a table, read as a curve with its clock."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from consolidation.decay import humans, units
from consolidation.decay.analysis import require_size
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import FORMS
from consolidation.decay.solver import MORE_POINTS
from consolidation.decay.transitions import ScheduleShift, Transition, half_times, schedule_slope, transition
from consolidation.fit.config import REFERENCE, FitConfig
from consolidation.fit.given import Data, table_of
from consolidation.srcd import EXPOSURE_CLOCKS
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from labbook import reading as tables
from labbook.console import UserError, choice, warn
from labbook.escape import markup, plain
from labbook.estimate import Array

# the smallest form with an exponent has two parameters
WINDOW_LEAST = 2 + MORE_POINTS
# columns of a table that are named where they are not read
MOST_NAMED = 20
REFERENCE_RUN = humans.DATA / "runs" / "small" / "cram"


@dataclass(frozen=True)
class Source:
    """What is fitted: the curve, the same data on other clocks, the change point of its trajectory, and what
    a unit is.
    """

    curve: Curve
    clocks: tuple[Curve, ...] = ()
    change: Transition | None = None
    unit: str | None = None


def read(config: FitConfig) -> Source:
    """The data asked for. Raises UserError for missing files, columns, series and units, and for values that
    are no numbers.
    """
    path = REFERENCE_RUN if config.source == REFERENCE else Path(config.source)
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise UserError(
            f"{plain(config.source)[:100]} cannot be read ({error.strerror}). Name a folder, a table or a "
            "series."
        ) from error
    if folder:
        _refuse(config, ("x", "y", "series", "unit", "count", "clock_unit"), "a training run names its own")
        return _settled(_from_run(path, config), config, "of the run")
    if there or tables.is_table(config.source):
        table = tables.read(path)
        # the column says what decays; the name that is there without --y says nothing
        name = path.stem if config.y == FitConfig().y else config.y
        return _settled(_from_table(table, config, name, path.name), config, "of the table")
    _refuse(
        config,
        ("x", "y", "series", "unit", "count", "clock", "clock_unit", "measure"),
        "the registry names its own",
    )
    source = Source(_within(humans.load(config.source), config), unit=config.unit)
    return _settled(source, config, "of the registry of human series")


def given(data: Data, config: FitConfig) -> Source:
    """Data that Python hands over, read as strictly as a file; `config.source` says what they are called.

    Raises UserError for what `read` does, and for data of another kind.
    """
    if isinstance(data, Curve):
        _refuse(config, ("x", "y", "series", "count", "clock", "clock_unit"), "the curve itself says it")
        _require_no_misprint(data.clock.counts, f"the curve {plain(data.name)}", "Change its Clock")
        _require_possible(
            data.y, config.measure or data.measure, data.count, lambda i: f"{data.name}: y[{i}]"
        )
        return _settled(Source(_within(data, config), unit=config.unit), config, "of the curve")
    table = table_of(data, config.x, config.y)
    return _settled(_from_table(table, config, config.y, str(table.place)), config, f"of {table.place}")


def _settled(source: Source, config: FitConfig, whose: str) -> Source:
    """The source with its clock said, its measure, and on the clock on which it shall be read."""
    curve = source.curve
    told = "asked for" if config.clock is not None else whose
    choice("clock", markup(curve.clock), told)
    if config.measure is not None:
        curve = replace(curve, measure=config.measure)
    below = int((curve.y < 0).sum()) if curve.measure == "savings" else 0
    if below:
        choice(
            "savings below 0",
            f"kept, {below} of {len(curve.y)}",
            "relearning took longer than learning; a form that ends at 0 does not reach them",
        )
    if config.on_clock is not None:
        curve = _on_clock(curve, config.on_clock, config.on_clock_factor)
    require_size(curve)
    return replace(source, curve=curve)


def _refuse(config: FitConfig, names: tuple[str, ...], why: str) -> None:
    """Raise UserError when a field that this kind of source does not read was given."""
    for name in names:
        if getattr(config, name) != getattr(FitConfig(), name):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is for tables; of {plain(config.source)} {why}. Leave {flag} out.")


def _require_possible(y: Array, measure: str, count: Array | None, where: Callable[[int], str]) -> None:
    """Raise UserError for the first y that its measure, or a proportion of trials, cannot have.

    Savings may be negative: relearning can take longer than learning did.
    """
    if measure in ("time", "error", "recall") and (y < 0).any():
        row = int((y < 0).argmax())
        raise UserError(
            f"{where(row)} is {y[row]:g}, and no {measure} is below 0. Correct the row, or change --y or "
            "--measure."
        )
    share = measure if measure in ("recall", "savings") else "" if count is None else "proportion"
    if share and (y > 1).any():
        row = int((y > 1).argmax())
        raise UserError(
            f"{where(row)} is {y[row]:g}, and no {share} is above 1. Is it in percent? Divide by 100. A "
            "number of items? Divide by how many there were. Else change --y"
            f"{' or --measure' if measure else ''}{' or --count' if count is not None else ''}."
        )
    if count is not None and (y < 0).any():
        row = int((y < 0).argmax())
        raise UserError(
            f"{where(row)} is {y[row]:g}, and no proportion of trials is below 0. Correct the row, or change "
            "--y or --count."
        )


def _require_counted(numbers: Mapping[str, Array], config: FitConfig, table: tables.StrictTable) -> None:
    """Raise UserError for the first row that counts below 0 or has no trials, and where a proportion of so
    many trials cannot be: y times its trials is no whole number, as far as the digits of y tell.
    """
    x, y = numbers[config.x], numbers[config.y]
    if (x < 0).any():
        row = int((x < 0).argmax())
        raise UserError(
            f"{table.where(row)}: {config.x} is {x[row]:g}, and no clock counts below 0. Correct the row, or "
            "change --x."
        )
    if config.count is None:
        return
    count = numbers[config.count]
    if (count <= 0).any():
        row = int((count <= 0).argmax())
        raise UserError(
            f"{table.where(row)}: {config.count} is {count[row]:g}, and a proportion needs trials. Remove "
            "the row, or change --count."
        )
    digits = np.array([len(text.partition(".")[2]) for text in map(repr, y.tolist())])
    off = np.abs(y * count - np.round(y * count))
    wrong = off > count * 0.5 * 10.0 ** -np.minimum(digits, 12) + 1e-6
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{table.where(row)}: {config.y} is {y[row]:g} of {count[row]:g} trials, which would be "
            f"{y[row] * count[row]:.2f} of them. --count is the number of trials behind each proportion, not "
            "that of successes. Correct the row, or change --count; without --count the proportions are "
            "numbers like others."
        )


def _on_clock(curve: Curve, counts: str, factor: float | None) -> Curve:
    """The curve on another clock of the registry. Raises UserError when nobody says how they are related."""
    if counts not in units.CLOCKS:
        raise UserError(
            f"there is no clock {counts!r}; there are {', '.join(map(repr, units.CLOCKS))}. Change "
            "--on-clock."
        )
    clock = Clock(counts, units.CLOCKS[counts])
    if curve.clock.counts == counts:
        if factor is not None:
            raise UserError(
                f"x is on the clock {counts!r} already, so its unit decides the factor. Leave "
                "--on-clock-factor out."
            )
        return curve.in_unit(clock.unit)
    if factor is None:
        raise UserError(
            f"how many {clock.unit} of {counts!r} one unit of {curve.clock} is, is not known. Say it with "
            "--on-clock-factor "
            "(1: each counts as one), or leave --on-clock out."
        )
    if not (np.isfinite(factor) and factor > 0):
        raise UserError(f"--on-clock-factor {factor} has to be a positive number.")
    return curve.on_clock(clock, factor)


def _within(curve: Curve, config: FitConfig) -> Curve:
    if config.window is None:
        return curve
    if len(config.window) != 2:
        raise UserError(f"--window takes the first and the last x, and {config.window} was given.")
    part = curve.within(*config.window)
    different = len(np.unique(part.x))
    if different < WINDOW_LEAST:
        first, last = config.window
        raise UserError(
            f"--window {first:g} {last:g} leaves {different} different x of {curve.name}, and a fit needs "
            f"{WINDOW_LEAST} or more. Change --window."
        )
    return part


def _from_run(run: Path, config: FitConfig) -> Source:
    """P_episodic(k) of a training run on its three clocks, and the change point of its attention at recurring
    queries. Raises UserError for a model without attention, of which no use of it can fall.
    """
    # first, so that a damaged seed is named before its numbers are used
    seeds = trajectory.summaries(run)
    events = seeds[0].events
    attention = _falling_attention(run)
    if not attention.to_numpy().any():
        raise UserError(
            f"{run}: {seeds[0].label} attends nowhere at recurring queries, at no evaluation, so there is no "
            "P(episodic) that could fall. Name the run of a model with attention."
        )
    chosen = config.clock or EXPOSURE_CLOCKS[2]
    curves = {clock: episodic_curve(run, clock) for clock in dict.fromkeys((chosen, *EXPOSURE_CLOCKS))}
    if config.window is None:
        most = max(len(form.parameters) for form in FORMS.values())
        whole, curves = curves, {clock: c.falling() for clock, c in curves.items()}
        # a clock on which nothing falls keeps its points only if there are enough of them
        curves = {
            clock: c if len(np.unique(c.x)) >= most + 2 else whole[clock] for clock, c in curves.items()
        }
        choice(
            "window",
            curves[chosen].window,
            "from the largest mean on, because a decay is fitted; --window changes it",
        )
    else:
        curves = {clock: _within(c, config) if clock == chosen else c for clock, c in curves.items()}
    change = None
    if attention.shape[1] > 1:
        change = transition(attention.index.to_numpy(float), attention.to_numpy(float).T, events, config.seed)
        change = replace(change, schedule=_schedule(run))
    others = tuple(c for clock, c in curves.items() if clock != chosen)
    return Source(curves[chosen], others, change, "seed")


def _falling_attention(run: Path) -> pd.DataFrame:
    """Attention at recurring queries from its largest mean on: before that it is being learnt, not given up.
    Index step, one column per seed.

    Raises UserError when no evaluation has recurring queries in every seed.
    """
    attention = trajectory.course(run, "attention", "recurring").dropna()
    if attention.empty:
        raise UserError(
            f"{run}: attention at recurring queries has no number at any evaluation that all seeds share. "
            "Train with --recurrence above 0."
        )
    return attention.loc[attention.mean(axis=1).iloc[::-1].idxmax() :]


def _schedule(run: Path) -> ScheduleShift | None:
    """Half-times of this run and of the finished ones beside it that differ in the onset of routing pressure
    only; None when there are too few.
    """

    def conditions(folder: Path) -> dict[str, object]:
        config = trajectory.read_config(trajectory.seeds(folder)[0])
        return {key: value for key, value in config.items() if key not in ("seed", "pressure_start")}

    half: dict[float, dict[str, float]] = {}
    for folder in sorted(run.resolve().parent.iterdir()):
        if not list(folder.glob("seed-*/summary.json")):
            continue
        try:
            if conditions(folder) != conditions(run):
                continue
            onset = float(trajectory.read_config(trajectory.seeds(folder)[0])["pressure_start"])
            course = _falling_attention(folder)
        except UserError as error:
            warn(f"{markup(folder)} is left out of the change point: {markup(error)}")
            continue
        found = half_times(course.index.to_numpy(float), course.to_numpy(float).T)
        half[onset] = dict(zip(map(str, course.columns), map(float, found), strict=True))
    if len(half) < 2:
        return None
    try:
        return schedule_slope("routing pressure sets in", half)
    except UserError as error:
        warn(markup(error))
        return None


def _from_table(table: tables.StrictTable, config: FitConfig, name: str, title: str) -> Source:
    """The curve in a table: `name` is what it is called where the table has no series, `title` what the table
    is called.
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
    read_here = {*named.values(), config.y, "series", "clock", "clock_unit"}
    if left := [plain(column) for column in table.columns if column not in read_here]:
        choice("columns not read", markup(", ".join(left[:MOST_NAMED])), "no option names them")
    clock = _clock(table, config)
    numbers = table.numbers([c for c in (config.x, config.y, config.count) if c])
    unit = None if config.unit is None else table.columns[config.unit]
    if unit is not None and len(np.unique(unit)) < 2:
        raise UserError(
            f"{place}: --unit {config.unit} was asked for, but all rows are of one unit, which has no "
            "spread. Leave --unit out; the interval is then over the points."
        )
    if unit is not None and (unit == "").any():
        raise UserError(
            f"{place}: {table.where(int((unit == '').argmax()))} has no {config.unit}. Fill it, or "
            "remove the row."
        )
    _require_possible(
        numbers[config.y],
        config.measure or "",
        None if config.count is None else numbers[config.count],
        lambda row: f"{table.where(row)}: {config.y}",
    )
    _require_counted(numbers, config, table)
    order = np.argsort(numbers[config.x], kind="stable")
    curve = Curve(
        name=config.series or name,
        x=numbers[config.x][order],
        y=numbers[config.y][order],
        clock=clock,
        unit=None if unit is None else unit[order],
        count=None if config.count is None else numbers[config.count][order],
        error="binomial" if config.count else "gaussian",
        source=f"{title}, columns {config.x} and {config.y}",
    )
    return Source(_within(curve, config), unit=config.unit)


def _require_no_misprint(counts: str, place: object, remedy: str) -> None:
    """Raise UserError for a clock that is nearly one of the registry, or a part of its name."""
    clocks = units.meant(counts)
    if clocks:
        raise UserError(
            f"{place}: the clock {plain(counts)!r} is not one of the registry; did you mean "
            f"{' or '.join(map(repr, clocks))}? {remedy}, or say in other words what x counts: the curve is "
            "then compared with no people."
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
    _require_no_misprint(counts, table.place, "Change --clock" if config.clock else "Correct the column")
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
        choice("clock unit", markup(unit), "--clock-unit" if config.clock_unit else "column clock_unit")
    elif counts in units.THINGS:
        unit = units.CLOCKS[counts]
        choice("clock unit", unit, f"{counts} is counted; --clock-unit says otherwise")
    else:
        raise UserError(
            f"{table.place} does not say in which unit {config.x} measures the clock {plain(counts)!r}. Say "
            "it with --clock-unit, for instance "
            f"{units.examples(counts)}."
        )
    return Clock(counts, unit)
