"""Where a trajectory changes, how sharply, and whether something was scheduled there.

location   the split of a trajectory into two levels with the smallest squared error (the single change point of Dynp in `ruptures`,
           for all bootstrap replicates at once), midway between the two steps around it
width      from where the trajectory has made 10 % to where it has made 90 % of the way from the first level to the second,
           by linear interpolation
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from consolidation.decay import Array
from labbook.console import UserError
from labbook.estimate import Bootstrap, Estimate


@dataclass(frozen=True)
class Transition:
    """Location and 10-90 % width with intervals over units, and which scheduled events lie within the interval of the location."""

    location: Estimate
    width: Estimate
    events: tuple[str, ...]
    verdict: str


def split(y: Array) -> Array:
    """Index of the first point after the best single split of every row of y (batch, n): (batch,)."""
    n = y.shape[-1]
    total = np.cumsum(y, -1)[:, :-1]
    whole = y.sum(-1, keepdims=True)
    left = np.arange(1, n)
    # squared error of two means = sum y^2 - (sums^2 / counts): the larger the subtracted part, the better
    gain = total**2 / left + (whole - total) ** 2 / (n - left)
    return np.asarray(gain.argmax(-1) + 1)


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
    """The change point of the mean of several units.

    Parameters
    ----------
    x : (n,) training steps; y : (unit, n), at least 2 units.
    events : scheduled steps by name.

    Raises UserError for fewer than 4 points or 2 units.
    """
    if y.ndim != 2 or y.shape[1] != len(x) or len(x) < 4 or len(y) < 2:
        raise UserError(
            f"a change point needs at least 2 units of at least 4 common points; got {y.shape} for {len(x)} points."
        )
    bootstrap = Bootstrap(len(y), seed)
    means = bootstrap.weights @ y / len(y)
    place = split(means)
    location = bootstrap.estimate((x[place - 1] + x[place]) / 2)
    width = bootstrap.estimate(_width(x, means, place))
    inside = tuple(name for name, step in (events or {}).items() if location.lower <= step <= location.upper)
    verdict = f"the transition is at {location} with a 10-90 % width of {width}"
    if events:
        verdict += (
            f"; {'it coincides with ' + ', '.join(inside) if inside else 'no scheduled event lies within the interval'}"
        )
    return Transition(location, width, inside, verdict + ".")
