"""Whether a trajectory changes at a point, where and how sharply, and whether a schedule moves it.

preferred  the form of the mean trajectory with the smallest AICc (the error variance counts as a parameter):
           `constant`; `linear`, a drift from the first to the last step; `step`, two levels with one break
           between neighbouring steps; `ramp`, two levels joined by a straight line between two steps. Only
           `step` and `ramp` are a transition. `support` is the share of resamplings of the units that prefer
           the same
location   the split of a trajectory into two levels with the smallest squared error (the single change point
           of Dynp in `ruptures`, for all bootstrap replicates at once), midway between the two steps around
           it
width      from where the trajectory has made 10 % to where it has made 90 % of the way from the first level
           to the second, by linear interpolation
half-time  the step at which the trajectory of one unit has fallen for good to half of its largest value;
           `schedule_slope` asks by how many steps it moves when a scheduled step is moved by one: 0 when
           nothing follows the schedule, 1 when everything does
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from labbook.console import UserError
from labbook.estimate import LEVEL, Array, Bootstrap, Estimate

# free parameters of the mean trajectory under each alternative, error variance included
ALTERNATIVES = {"constant": 2, "linear": 3, "step": 4, "ramp": 5}
# pairs of breaks of a ramp grow with the square of this; longer trajectories get evenly chosen ones
BREAKS = 60


@dataclass(frozen=True)
class ScheduleShift:
    """How far half-times move with a scheduled step: `slope` in steps per step, n units; the half-times by
    unit and scheduled step.
    """

    event: str
    slope: Estimate
    half_times: dict[str, dict[float, float]]
    verdict: str


@dataclass(frozen=True)
class Transition:
    """The change point of the mean of several units.

    Attributes
    ----------
    location, width : with intervals over units; they mean something only when `preferred` is a transition.
    events : scheduled events within the interval of the location.
    preferred, support, aicc : the preferred alternative, the share of resamplings that prefer it, and the
        AICc of each.
    schedule : what runs with a shifted schedule say, if there are some.
    """

    location: Estimate
    width: Estimate
    events: tuple[str, ...]
    preferred: str
    support: float
    aicc: dict[str, float]
    verdict: str
    schedule: ScheduleShift | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        schedule = None
        if self.schedule is not None:
            schedule = {**vars(self.schedule), "slope": vars(self.schedule.slope)}
        return {
            "location": vars(self.location),
            "width": vars(self.width),
            "events": self.events,
            "preferred": self.preferred,
            "support": self.support,
            "aicc": self.aicc,
            "schedule": schedule,
            "verdict": self.verdict,
        }


def _steps(number: Estimate) -> str:
    """Steps are whole."""
    return number.text(0, n=True)


def split(y: Array) -> Array:
    """Index of the first point after the best single split of every row of y (batch, n): (batch,)."""
    n = y.shape[-1]
    total = np.cumsum(y, -1)[:, :-1]
    whole = y.sum(-1, keepdims=True)
    left = np.arange(1, n)
    # squared error of two means = sum y^2 - (sums^2 / counts): the larger the subtracted part, the better
    gain = total**2 / left + (whole - total) ** 2 / (n - left)
    return np.asarray(gain.argmax(-1) + 1)


def alternatives(x: Array, y: Array) -> dict[str, Array]:
    """AICc of every alternative for every row of y (batch, n), n at least 7: (batch,)."""
    n = len(x)
    centred = y - y.mean(-1, keepdims=True)
    square = np.sum(centred**2, -1)
    place = np.unique(np.linspace(0, n - 1, min(n, BREAKS)).round().astype(int))
    first, last = (x[place[side]] for side in np.triu_indices(len(place), 1))
    shapes = {
        "linear": x[None, :],
        "step": np.tril(np.ones((n, n)))[:-1],
        "ramp": np.clip((x - first[:, None]) / (last - first)[:, None], 0, 1),
    }
    residual = {"constant": square}
    for name, shape in shapes.items():
        # the squared error of a regression on one regressor; the best of all breaks
        inner = shape - shape.mean(-1, keepdims=True)
        residual[name] = square - np.max((centred @ inner.T) ** 2 / np.sum(inner**2, -1), -1)
    out = {}
    for name, k in ALTERNATIVES.items():
        variance = np.maximum(residual[name] / n, 1e-15 * np.mean(y**2, -1) + 1e-300)
        out[name] = n * np.log(variance) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return out


def _width(x: Array, y: Array, place: Array) -> Array:
    """10-90 % width of every row, given the index of its split."""
    out = np.empty(len(y))
    for i, row in enumerate(y):
        first, second = row[: place[i]].mean(), row[place[i] :].mean()
        way = (row - first) / (second - first) if second != first else np.zeros_like(row)
        marks = []
        for level in (0.1, 0.9):
            over = way >= level
            j = int(over.argmax()) if over.any() else len(x) - 1
            if j == 0:
                marks.append(x[0])
                continue
            rise = way[j] - way[j - 1]
            marks.append(x[j - 1] + (x[j] - x[j - 1]) * ((level - way[j - 1]) / rise if rise > 0 else 1.0))
        out[i] = max(marks[1] - marks[0], 0.0)
    return out


def transition(x: Array, y: Array, events: Mapping[str, float] | None = None, seed: int = 0) -> Transition:
    """The change point of the mean of several units, beside its alternatives.

    Parameters
    ----------
    x : (n,) training steps; y : (unit, n), at least 2 units.
    events : scheduled steps by name.

    Raises UserError for fewer than 7 points or 2 units.
    """
    if y.ndim != 2 or y.shape[1] != len(x) or len(x) < 7 or len(y) < 2:
        raise UserError(
            f"a change point needs at least 2 units of at least 7 common points; got {y.shape} for {len(x)} "
            "points."
        )
    bootstrap = Bootstrap(len(y), seed)
    means = bootstrap.weights @ y / len(y)
    found = alternatives(x, means)
    ranks = np.stack([found[name] for name in ALTERNATIVES]).argmin(0)
    preferred, support = list(ALTERNATIVES)[ranks[0]], float(np.mean(ranks[1:] == ranks[0]))
    aicc = {name: float(values[0]) for name, values in found.items()}
    place = split(means)
    location = bootstrap.estimate((x[place - 1] + x[place]) / 2)
    width = bootstrap.estimate(_width(x, means, place))
    gaps = ", ".join(f"{name} {value - min(aicc.values()):+.1f}" for name, value in aicc.items())
    compared = (
        f"AICc against the best: {gaps}; {support:.0%} of the resamplings of {len(y)} units prefer the same"
    )
    if preferred in ("constant", "linear"):
        shape = "does not change" if preferred == "constant" else "drifts evenly"
        verdict = f"there is no transition: the trajectory {shape} ({compared})."
        return Transition(location, width, (), preferred, support, aicc, verdict)
    inside = tuple(name for name, step in (events or {}).items() if location.lower <= step <= location.upper)
    shape = "a sharp step" if preferred == "step" else "a gradual ramp"
    verdict = (
        f"the transition is {shape} ({compared}), at {_steps(location)} with a 10-90 % width of "
        f"{_steps(width)}"
    )
    if events:
        coincides = f"it coincides with {', '.join(inside)}"
        verdict += f"; {coincides if inside else 'no scheduled event lies within the interval'}"
    return Transition(location, width, inside, preferred, support, aicc, verdict + ".")


def half_times(x: Array, y: Array) -> Array:
    """The step at which every row of y (unit, n) has fallen for good to half of its largest value, by linear
    interpolation; nan when it never has.
    """
    out = np.full(len(y), np.nan)
    for i, row in enumerate(y):
        level = row.max() / 2
        above = np.flatnonzero(row > level)
        if len(above) and above[-1] < len(x) - 1:
            j = int(above[-1])
            out[i] = x[j] + (x[j + 1] - x[j]) * (row[j] - level) / (row[j] - row[j + 1])
    return out


def schedule_slope(event: str, half: Mapping[float, Mapping[str, float]]) -> ScheduleShift:
    """By how many steps half-times move when a scheduled step is moved by one: least squares with a level for
    every unit, Student's interval.

    Parameters
    ----------
    half : the half-time of every unit (seed) by the step of the event; the same name is the same unit. Units
        at a single place, and those without a half-time, say nothing about the slope and are left out.

    Raises UserError when fewer than 2 units are at several places.
    """
    courses: dict[str, dict[float, float]] = {}
    for step, values in sorted(half.items()):
        for unit, value in values.items():
            if np.isfinite(value):
                courses.setdefault(unit, {})[float(step)] = float(value)
    courses = {unit: course for unit, course in sorted(courses.items()) if len(course) > 1}
    points = sum(map(len, courses.values()))
    free = points - len(courses) - 1
    if len(courses) < 2 or free < 1:
        raise UserError(
            f"{len(courses)} units have half-times at several places of the event {event!r}; at least 2 are "
            "needed, and 4 half-times. "
            "Train more seeds of the shifted schedules."
        )
    at = np.concatenate([np.array(list(c)) - np.mean(list(c)) for c in courses.values()])
    moved = np.concatenate([np.array(list(c.values())) - np.mean(list(c.values())) for c in courses.values()])
    estimate = float(at @ moved / (at @ at))
    error = float(np.sqrt(np.sum((moved - estimate * at) ** 2) / free / (at @ at)))
    reach = float(stats.t.ppf(1 - (1 - LEVEL) / 2, free)) * error
    slope = Estimate(estimate, estimate - reach, estimate + reach, len(courses))
    follows = slope.lower <= 1 <= slope.upper
    if slope.lower > 0:
        said = "the half-time follows the schedule" + (
            "" if follows else " in part" if slope.upper < 1 else " and moves further"
        )
    elif slope.upper < 0:
        said = "the half-time moves against the schedule"
    elif follows:
        said = "whether the half-time follows the schedule is not decided"
    else:
        said = "the half-time does not follow the schedule"
    shown = "; ".join(
        f"unit {unit}: " + ", ".join(f"{value:,.0f} for {step:g}" for step, value in c.items())
        for unit, c in courses.items()
    )
    verdict = (
        f"half-times by the step at which {event!r} happens: {shown}. Moved by one step it moves them by "
        f"{estimate:.2f} steps [{slope.lower:.2f}, {slope.upper:.2f}] (n = {slope.n} units); {said}."
    )
    return ScheduleShift(event, slope, courses, verdict)
