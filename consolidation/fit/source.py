"""What is fitted: a human series, a training run, or a table, read as a curve with its clock."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from consolidation.config import EXPOSURE_CLOCKS
from consolidation.decay import humans, units
from consolidation.decay.analysis import require_size
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import FORMS
from consolidation.decay.solver import MORE_POINTS
from consolidation.decay.transitions import ScheduleShift, Transition, half_times, schedule_slope, transition
from consolidation.fit.config import REFERENCE, FitConfig
from consolidation.fit.given import Data, table_of
from consolidation.fit.table import curve_of, require_no_misprint, require_possible
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from labbook import reading as tables
from labbook.console import UserError, choice, warn
from labbook.escape import plain

# what the smallest form with an exponent needs
WINDOW_LEAST = min(len(form.parameters) for form in FORMS.values() if form.exponent) + MORE_POINTS
# how many times every other y the largest may be before that is said
FAR_ABOVE = 10
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
        curve = curve_of(table, config, name, path.name)
        return _settled(Source(_within(curve, config), unit=config.unit), config, "of the table")
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
        require_no_misprint(data.clock.counts, f"the curve {plain(data.name)}", "Change its Clock")
        require_possible(data.y, config.measure or data.measure, data.count, lambda i: f"{data.name}: y[{i}]")
        return _settled(Source(_within(data, config), unit=config.unit), config, "of the curve")
    table = table_of(data, config.x, config.y)
    curve = curve_of(table, config, config.y, str(table.place))
    return _settled(Source(_within(curve, config), unit=config.unit), config, f"of {table.place}")


def _settled(source: Source, config: FitConfig, whose: str) -> Source:
    """The source with its clock said, its measure, and on the clock on which it shall be read."""
    curve = source.curve
    told = "asked for" if config.clock is not None else whose
    choice("clock", curve.clock, told)
    if config.measure is not None:
        curve = replace(curve, measure=config.measure)
    below = int((curve.y < 0).sum()) if curve.measure == "savings" else 0
    if below:
        choice(
            "savings below 0",
            f"kept, {below} of {len(curve.y)}",
            "relearning took longer than learning; a form that ends at 0 does not reach them",
        )
    largest = np.argsort(curve.y)[-2:]
    if 0 < FAR_ABOVE * curve.y[largest[0]] < curve.y[largest[1]]:
        x, y = curve.x[largest[1]], curve.y[largest[1]]
        warn(
            f"{plain(curve.name)}: y is {y:g} at {x:g}, more than {FAR_ABOVE} times every other y. Correct a "
            "slip of the decimal point or another unit; as it is, the fit follows it."
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
            warn(f"{folder} is left out of the change point: {error}")
            continue
        found = half_times(course.index.to_numpy(float), course.to_numpy(float).T)
        half[onset] = dict(zip(map(str, course.columns), map(float, found), strict=True))
    if len(half) < 2:
        return None
    try:
        return schedule_slope("routing pressure sets in", half)
    except UserError as error:
        warn(str(error))
        return None
