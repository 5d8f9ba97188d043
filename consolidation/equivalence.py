"""Is an exponent that of humans? Two one-sided tests against a set of human exponents on the same form, clock and window.

The human side is the mean over series (each one study's curve), with a t interval over them. The difference is equivalent to zero when its
90 % interval lies within the margin (TOST, Schuirmann 1987), different when its 95 % interval excludes zero, else undecided; both may
hold at once: a difference that is real and too small to matter counts as equivalent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from consolidation.decay import Clock
from labbook.console import UserError
from labbook.estimate import LEVEL, Estimate

# half of the width of the range .4 to .5 that the examined paper calls human
MARGIN = 0.05


@dataclass(frozen=True)
class Exponent:
    """An exponent with everything it depends on."""

    name: str
    number: Estimate
    form: str
    clock: Clock
    window: str


@dataclass(frozen=True)
class Equivalence:
    """The difference to the human mean with its 95 % interval, p of the two one-sided tests, share of series whose interval overlaps."""

    difference: Estimate
    p_equivalence: float
    overlap: float
    verdict: str


def require_comparable(first: Exponent, others: Sequence[Exponent]) -> None:
    """Raise UserError unless form and clock are the same for all."""
    for other in others:
        if other.form != first.form:
            raise UserError(
                f"exponents of different forms cannot be compared: {first.name} ({first.form}), {other.name} ({other.form}). Fit one form to both."
            )
        first.clock.require_same(other.clock)


def equivalence(model: Exponent, humans: Sequence[Exponent], margin: float = MARGIN) -> Equivalence:
    """Hold an exponent against human ones. Raises UserError for fewer than 3 series, different forms or different clocks."""
    require_comparable(model, humans)
    if len(humans) < 3:
        raise UserError(
            f"{len(humans)} human series on the clock {model.clock}; at least 3 are needed. Change --human or --clock."
        )
    values = np.array([h.number.estimate for h in humans])
    n = len(values)
    half = (model.number.upper - model.number.lower) / 2
    own = half / stats.norm.ppf(1 - (1 - LEVEL) / 2)
    theirs = values.std(ddof=1) / np.sqrt(n)
    error = float(np.hypot(own, theirs))
    # Welch-Satterthwaite; the model's own interval counts as known
    freedom = error**4 / (theirs**4 / (n - 1)) if theirs > 0 else np.inf
    gap = float(model.number.estimate - values.mean())
    reach = float(stats.t.ppf(1 - (1 - LEVEL) / 2, freedom)) * error
    p = float(max(stats.t.sf((gap + margin) / error, freedom), stats.t.sf((margin - gap) / error, freedom)))
    difference = Estimate(gap, gap - reach, gap + reach, n)
    overlap = float(
        np.mean([h.number.lower <= model.number.upper and model.number.lower <= h.number.upper for h in humans])
    )
    state = "equivalent" if p < 0.05 else "different" if difference.lower > 0 or difference.upper < 0 else "undecided"
    verdict = (
        f"{model.name} is {state} (difference to the mean of {n} human series {difference.estimate:+.2f} [{difference.lower:+.2f}, {difference.upper:+.2f}], margin "
        f"{margin:g}, equivalence p = {p:.2g}; {overlap:.0%} of the series' intervals overlap its own), form {model.form}, clock {model.clock}."
    )
    return Equivalence(difference, p, overlap, verdict)
