"""Curves to which forms of decay are fitted, and the clocks of their x.

A curve carries its clock: what x counts, in which unit. Exponents on different clocks are different
quantities; `Clock.require_same` refuses to compare them.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from consolidation.decay import units
from labbook.console import UserError
from labbook.estimate import Array

# the objective and its curvature hold fourth powers of the data
LARGEST = 1e60


ErrorModel = Literal["gaussian", "lognormal", "binomial"]


# classes of measures whose exponents may be compared: latencies, shares of errors, shares recalled, savings
# in relearning
MEASURES = ("time", "error", "recall", "savings")


@dataclass(frozen=True)
class Clock:
    """What x counts (one of units.CLOCKS, or the user's own words) and its unit, as the user wrote it."""

    counts: str
    unit: str

    def __str__(self) -> str:
        return f"{self.counts} ({self.unit})"

    def require_same(self, other: "Clock") -> None:
        """Raise UserError unless both clocks count the same thing in the same unit, however it is written."""
        same = self.counts == other.counts and (
            self.unit == other.unit or units.factor(self.counts, self.unit, other.unit) == 1
        )
        if not same:
            raise UserError(
                f"exponents on different clocks cannot be compared: {self} and {other}. Compare curves of "
                "one clock, or rescale one with Curve.on_clock, which says so in the result."
            )


@dataclass(frozen=True)
class Curve:
    """Observations y at x, with everything that its exponent depends on.

    Attributes
    ----------
    name : of the curve.
    x, y : (n,) ascending x; several observations may share an x (units, subjects).
    clock : what x counts.
    unit : (n,) independent unit (seed, pattern, list, subject) of each observation, or None when each point
        is one.
    count : (n,) number of trials behind each y, for the binomial error model, or None.
    error : error model.
    normalisation, window : what was done to y, and which x were kept, in words.
    source : where the numbers come from.
    measure : what kind of number y is (one of MEASURES), or "" when nobody said so.
    study : which study or subjects a human series is from, or "".
    """

    name: str
    x: Array
    y: Array
    clock: Clock
    unit: npt.NDArray[np.str_] | None = None
    count: Array | None = None
    error: ErrorModel = "gaussian"
    normalisation: str = "as given"
    window: str = "all"
    source: str = ""
    measure: str = ""
    study: str = ""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise UserError(
                f"{self.name}: x and y have to be finite numbers. Remove or mark the missing rows."
            )
        for axis, values in (("x", self.x), ("y", self.y)):
            size = float(np.max(np.abs(values), initial=0.0))
            if not (size == 0 or 1 / LARGEST < size < LARGEST):
                raise UserError(
                    f"{self.name}: the largest {axis} is {size:.3g} in size; powers of numbers beyond "
                    f"{1 / LARGEST:g} to {LARGEST:g} cannot be summed. Choose another unit of {axis}."
                )
        if (self.x < 0).any():
            raise UserError(
                f"{self.name}: x is negative in {int((self.x < 0).sum())} rows, and no clock counts below 0. "
                "Remove them."
            )
        if self.error == "binomial":
            if self.count is None or (self.count <= 0).any():
                raise UserError(
                    f"{self.name}: the binomial error model needs the number of trials of every point, all "
                    "positive."
                )
            if (self.count != np.round(self.count)).any():
                raise UserError(f"{self.name}: numbers of trials are whole numbers. Change --count.")
            if (self.y < 0).any() or (self.y > 1).any():
                raise UserError(f"{self.name}: the binomial error model needs proportions between 0 and 1.")

    @property
    def possible(self) -> tuple[float, float]:
        """The least and the largest y that there can be, as far as its measure, its trials and its values say
        it: a time, an error or a recall is not negative, a proportion not above 1.
        """
        proportion = self.count is not None or (
            self.measure in ("error", "recall", "savings") and bool((self.y <= 1).all())
        )
        # forgetting may cost more than it saved, so savings have no lower limit
        negative = self.measure == "savings" or (not proportion and bool((self.y < 0).any()))
        return -np.inf if negative else 0.0, 1.0 if proportion else np.inf

    @cached_property
    def stray_x(self) -> Array:
        """The x that only one unit has, where it lacks one that all others have, of three units or more: what
        a delay that slipped looks like.
        """
        if self.unit is None:
            return np.array([])
        units, code = np.unique(self.unit, return_inverse=True)
        x, of = np.unique(np.column_stack([self.x, code]), axis=0).T
        place, times = np.unique(x, return_inverse=True, return_counts=True)[1:]
        # the one unit that lacks an x of all others: its code is what their sum falls short of that of all
        short = np.arange(len(units)).sum() - np.bincount(place, of)
        lacks = short[times == len(units) - 1]
        own = (times[place] == 1) & np.isin(of, lacks)
        return x[own] if len(units) >= 3 else np.array([])

    def rows(self, keep: npt.NDArray[np.bool_]) -> "Curve":
        """The observations marked in `keep`."""
        return replace(
            self,
            x=self.x[keep],
            y=self.y[keep],
            unit=None if self.unit is None else self.unit[keep],
            count=None if self.count is None else self.count[keep],
        )

    def within(self, first: float, last: float) -> "Curve":
        """The part with first <= x <= last."""
        part = self.rows((self.x >= first) & (self.x <= last))
        return replace(part, window=f"{first:g} to {last:g} {self.clock.unit}")

    def falling(self) -> "Curve":
        """The part from the x with the largest mean on: what can be called a decay. The whole curve when that
        is the first x.
        """
        x, place = np.unique(self.x, return_inverse=True)
        top = x[np.argmax(np.bincount(place, self.y) / np.bincount(place))]
        return self if top == x[0] else self.within(float(top), float(x[-1]))

    def in_unit(self, unit: str) -> "Curve":
        """The same curve with x in another unit of its clock. Raises UserError when the unit is of another
        dimension.
        """
        times = units.factor(self.clock.counts, self.clock.unit, unit)
        clock = Clock(self.clock.counts, unit)
        return replace(self, clock=clock) if times == 1 else self.on_clock(clock, times)

    def on_clock(self, clock: Clock, factor: float) -> "Curve":
        """The curve with x times `factor` on another clock; the normalisation names the rescaling."""
        said = f"x rescaled by {factor:g} from {self.clock}"
        note = said if self.normalisation == "as given" else f"{self.normalisation}; {said}"
        return replace(self, x=self.x * factor, clock=clock, normalisation=note)
