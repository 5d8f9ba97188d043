"""Is an exponent that of humans? Two one-sided tests against human studies of one class of measure, on the
same form and clock.

Latencies, errors, recall and savings have exponents of their own, so they are never pooled. Series of the
same subjects are averaged first: a study counts once. The human side is the mean over studies with a t
interval; beside it stands the prediction interval in which the exponent of one new study of that kind is
expected, mean +- t_(n-1) s sqrt(1 + 1 / n). The difference is equivalent to zero when its 90 % interval lies
within the margin (TOST, Schuirmann 1987), different when its 95 % interval excludes zero, else undecided;
both may hold at once: a difference that is real and too small to matter counts as equivalent. Fewer than 3
studies decide nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from consolidation.decay.curve import Clock
from labbook.console import UserError
from labbook.estimate import LEVEL, Estimate

LEAST_STUDIES = 3
State = Literal["equivalent", "different", "undecided", "too few studies"]


@dataclass(frozen=True)
class Exponent:
    """An exponent with everything it depends on; `study` names the subjects, `measure` the class of measure,
    where they are known.
    """

    name: str
    number: Estimate
    form: str
    clock: Clock
    window: str
    study: str = ""
    measure: str = ""


@dataclass(frozen=True)
class Margin:
    """A difference too small to matter, and why."""

    value: float
    reason: str

    def __post_init__(self) -> None:
        if not (np.isfinite(self.value) and self.value > 0):
            raise UserError(f"--margin {self.value} has to be a positive number. Change --margin.")


@dataclass(frozen=True)
class Equivalence:
    """One exponent against the studies of one class of measure.

    Attributes
    ----------
    difference : to the mean of the studies, with its 95 % interval; n counts studies.
    mean, new_study : of the human exponents, with the 95 % interval of the mean, and that of the exponent of
        a new study.
    p_equivalence : the larger p of the two one-sided tests.
    overlap : share of the series whose interval overlaps the model's own.
    series : how many there are.
    whole : the same test with every series of the registry, those too of which DOI, number of subjects or
        licence are not known; None where there are no such, or series were named.
    """

    measure: str
    state: State
    difference: Estimate
    mean: Estimate
    new_study: Estimate
    p_equivalence: float
    overlap: float
    margin: float
    margin_reason: str
    verdict: str
    series: int
    whole: "Equivalence | None" = None

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        return {
            "measure": self.measure,
            "state": self.state,
            "difference": vars(self.difference),
            "human_mean": vars(self.mean),
            "new_study": vars(self.new_study),
            "margin": self.margin,
            "margin_reason": self.margin_reason,
            "p": self.p_equivalence,
            "overlap": self.overlap,
            "verdict": self.verdict,
            "series": self.series,
            "whole": None if self.whole is None else self.whole.to_json(),
        }


def require_comparable(first: Exponent, others: Sequence[Exponent]) -> None:
    """Raise UserError unless form and clock are the same for all, and the measure for all others."""
    for other in others:
        if other.form != first.form:
            raise UserError(
                f"exponents of different forms cannot be compared: {first.name} ({first.form}), "
                f"{other.name} ({other.form}). Fit one form to both."
            )
        first.clock.require_same(other.clock)
        if other.measure != others[0].measure or (first.measure and first.measure != other.measure):
            raise UserError(
                f"exponents of different measures cannot be compared: {other.name} is of "
                f"{other.measure or 'no known measure'}, "
                f"not of {first.measure or others[0].measure or 'no known measure'}. Compare one class of "
                "measure at a time (--measure)."
            )


def by_study(humans: Sequence[Exponent]) -> dict[str, float]:
    """The mean exponent of every study; a series without a named study is a study of its own."""
    parts: dict[str, list[float]] = {}
    for human in humans:
        parts.setdefault(human.study or human.name, []).append(human.number.estimate)
    return {study: float(np.mean(values)) for study, values in parts.items()}


def _too_few(model: Exponent, measure: str, n: int, series: int) -> Equivalence:
    """Nothing is said."""
    nan = float("nan")
    nothing = Estimate(nan, nan, nan, n)
    verdict = (
        f"{model.name}: {n} human {'study' if n == 1 else 'studies'} {_of(measure)}on the clock "
        f"{model.clock} {'is' if n == 1 else 'are'} too few studies, {LEAST_STUDIES} are needed; "
        "nothing is said about equivalence."
    )
    return Equivalence(
        measure, "too few studies", nothing, nothing, nothing, nan, nan, nan, "none", verdict, series
    )


def _of(measure: str) -> str:
    return f"of {measure} " if measure else ""


def _two_tests(
    own: Estimate, mean: float, mean_error: float, n: int, margin: float
) -> tuple[Estimate, float]:
    """Difference to the mean of n studies with its 95 % interval, and the larger p of two one-sided tests.

    `mean_error` is the standard error of the mean; that of the exponent is read from its interval.
    """
    own_error = (own.upper - own.lower) / 2 / stats.norm.ppf(1 - (1 - LEVEL) / 2)
    error = max(float(np.hypot(own_error, mean_error)), 1e-12)
    gap = float(own.estimate - mean)
    if np.isfinite(error):
        # Welch-Satterthwaite; the model's own interval counts as known
        freedom = error**4 / (mean_error**4 / (n - 1)) if mean_error > 0 else np.inf
        reach = float(stats.t.ppf(1 - (1 - LEVEL) / 2, freedom)) * error
        over, under = (gap + margin) / error, (margin - gap) / error
        p = float(max(stats.t.sf(over, freedom), stats.t.sf(under, freedom)))
    else:
        reach, p = float("inf"), 1.0
    return Estimate(gap, gap - reach, gap + reach, n), p


def equivalence(model: Exponent, humans: Sequence[Exponent], margin: Margin | None = None) -> Equivalence:
    """Hold an exponent against human ones of one class of measure.

    Parameters
    ----------
    margin : None takes the standard deviation between the studies, the distance at which human studies differ
        from one another.

    Raises UserError for different forms, clocks or measures.
    """
    require_comparable(model, humans)
    measure = humans[0].measure if humans else ""
    studies = by_study(humans)
    values = np.array(list(studies.values()))
    n = len(values)
    if n < LEAST_STUDIES:
        return _too_few(model, measure, n, len(humans))
    spread = float(values.std(ddof=1))
    if margin is None:
        margin = Margin(
            max(spread, 1e-12),
            f"the standard deviation between the {n} studies: no further off than they are from one another",
        )
    theirs = spread / np.sqrt(n)
    edge = float(stats.t.ppf(1 - (1 - LEVEL) / 2, n - 1))
    mean = float(values.mean())
    human = Estimate(mean, mean - edge * theirs, mean + edge * theirs, n)
    reach_new = edge * spread * np.sqrt(1 + 1 / n)
    new_study = Estimate(mean, mean - reach_new, mean + reach_new, n)
    overlap = float(
        np.mean(
            [h.number.lower <= model.number.upper and model.number.lower <= h.number.upper for h in humans]
        )
    )
    difference, p = _two_tests(model.number, mean, theirs, n, margin.value)
    state: State = "equivalent" if p < 0.05 else "different" if difference.excludes_zero else "undecided"
    inside = new_study.lower <= model.number.estimate <= new_study.upper
    verdict = (
        f"{model.name} is {state} (difference to the mean of {n} human studies "
        f"{_of(measure)}{difference.text(2, sign=True)}, margin {margin.value:.2g}: {margin.reason}; "
        f"equivalence p = {p:.2g}). "
        f"The exponent of a new study is expected within [{new_study.lower:.2f}, {new_study.upper:.2f}], "
        f"and {model.number.estimate:.2f} lies {'inside' if inside else 'outside'}; {overlap:.0%} of the "
        f"intervals of {len(humans)} series "
        f"overlap its own; form {model.form}, clock {model.clock}."
    )
    return Equivalence(
        measure,
        state,
        difference,
        human,
        new_study,
        p,
        overlap,
        margin.value,
        margin.reason,
        verdict,
        len(humans),
    )
