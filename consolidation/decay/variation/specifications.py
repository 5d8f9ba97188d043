"""Inference on all specifications together, as specification-curve analysis has it (Simonsohn, Simmons &
Nelson 2020, Nature Human Behaviour 4, 1208-1214).

The specifications share their data, so their number says nothing about certainty. Intervals: the same units
are drawn, or left out, for every specification at once, and the median of the exponents and the share of them
in a range are taken again; percentiles of a bootstrap from 15 units on, jackknife-t below, as for single
exponents. A floor that is subtracted stays that of all units. Test that y does not depend on x: y is shuffled
over x within every unit, before all that a specification does to it, and the median of the exponents of the
pure power law, which has one also where nothing falls, is compared with the observed one; over the whole
window, by the estimators that every curve has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from consolidation.decay.curve import Curve
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import (
    ERRORS,
    FEW_UNITS,
    Estimator,
    Fit,
    checked,
    collapse,
    labels,
    units_of,
)
from consolidation.decay.solver import Data, solve, starts
from consolidation.decay.units import of_practice
from consolidation.decay.variation.multiverse import shapes
from labbook.console import UserError
from labbook.estimate import LEVEL, Array, Estimate, resamples

LEAST_UNITS = 5
SHUFFLES = 99
NULL, WINDOW = "power", "all"
BY: tuple[Estimator, ...] = ("loglog", "nls")


@dataclass(frozen=True)
class Together:
    """What all specifications say together.

    Attributes
    ----------
    median, share : median exponent and share of exponents in the range, with 95 % intervals over units.
    p : of the median when y does not depend on x, two-sided; `shuffles` behind it. nan where the pure power
        law has no exponent.
    practice : the clock counts repetitions, as the human range does; else the share is not said.
    """

    median: Estimate
    share: Estimate
    p: float
    shuffles: int
    practice: bool = True

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        return {
            "median": vars(self.median),
            "share": vars(self.share),
            "p": self.p,
            "shuffles": self.shuffles,
        }

    @property
    def verdict(self) -> str:
        """It in words."""
        if np.isfinite([self.median.lower, self.median.upper]).all():
            over = f"Over {self.median.n} units the median is {self.median.text(2)}"
            if self.practice:
                over += f" and that share {self.share.estimate:.0%} [{self.share.lower:.0%}, "
                over += f"{self.share.upper:.0%}]"
            over += ". "
        else:
            over = "There are no intervals over units. "
        if np.isnan(self.p):
            return f"{over}The pure power law has no exponent here, so shuffled data say nothing."
        return (
            f"{over}The median exponent of the pure power law is "
            f"{'not one' if self.p < 0.05 else 'one'} that shuffled data give (p = {self.p:.2g}, "
            f"{self.shuffles} shuffles)."
        )


def together(
    curve: Curve, fits: Sequence[Fit], within: tuple[float, float], seed: int = 0, replicates: int = 200
) -> Together:
    """Inference on the exponents of specifications of one curve.

    Parameters
    ----------
    curve : the data behind all of them.
    fits : of all specifications that have an exponent.
    within : the range whose share is taken.
    """
    observed = np.array([one.exponent for one in fits])
    units = units_of(curve)
    # a window may leave a unit without points; the specification then has no exponent of its own
    whole = [one for one in fits if np.array_equal(units_of(one.curve), units)]
    nan = float("nan")
    median = Estimate(float(np.median(observed)), nan, nan, len(units))
    share = Estimate(_share(observed, within), nan, nan, len(units))
    if len(units) >= LEAST_UNITS:
        exponents = _refitted(whole, _draws(len(units), seed, replicates))
        median = _over_units(median, exponents, lambda e: float(np.nanmedian(e)))
        share = _over_units(share, exponents, lambda e: _share(e, within))
        share = replace(share, lower=max(share.lower, 0.0), upper=min(share.upper, 1.0))
    practice = of_practice(curve.clock.counts)
    return Together(median, share, _shuffled(curve, seed), SHUFFLES, practice)


def _share(exponents: Array, within: tuple[float, float]) -> float:
    known = exponents[np.isfinite(exponents)]
    return float(((known >= within[0]) & (known <= within[1])).mean()) if len(known) else float("nan")


def _by_form(fits: Sequence[Fit]) -> dict[tuple[str, str], list[int]]:
    """Places of fits that can be solved at once: of one form and error model."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(fits):
        groups.setdefault((one.form.name, ERRORS[one.estimator]), []).append(place)
    return groups


def _refitted(fits: Sequence[Fit], draws: Array) -> Array:
    """Exponents under unit weights: (specifications, draws); nan where there is no fit."""
    out = np.full((len(fits), len(draws)), np.nan)
    for (name, _), places in _by_form(fits).items():
        form, parts = FORMS[name], [collapse(fits[i].curve, fits[i].estimator, draws) for i in places]
        first = [np.tile(list(fits[i].parameters.values()), (len(draws), 1)) for i in places]
        whole = Data.stacked(parts)
        found = solve(form, whole, np.concatenate(first))
        enough = (whole.w > 0).sum(-1) >= len(form.parameters)
        values = found.parameters[:, form.parameters.index(str(form.exponent))]
        good = found.converged & ~found.at_bound & enough
        out[places] = np.where(good, values, np.nan).reshape(len(places), len(draws))
    return out


def _draws(n: int, seed: int, replicates: int) -> Array:
    """How often each of n units counts: few are left out one at a time, many drawn again. (draws, n)."""
    if n < FEW_UNITS:
        return np.ones((n, n)) - np.eye(n)
    return resamples(n, seed, replicates).astype(float)


def _over_units(observed: Estimate, exponents: Array, statistic: Callable[[Array], float]) -> Estimate:
    """The interval of a statistic of all specifications over units, from their exponents by draw."""
    n = observed.n
    values = np.array([statistic(column) for column in exponents.T])
    if n < FEW_UNITS:
        error = float(np.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum()))
        reach = float(stats.t.ppf(1 - (1 - LEVEL) / 2, n - 1)) * error
        return replace(observed, lower=observed.estimate - reach, upper=observed.estimate + reach)
    lower, upper = np.nanquantile(values, [(1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2])
    return replace(observed, lower=float(lower), upper=float(upper))


def _shuffled(curve: Curve, seed: int) -> float:
    """p of the median exponent of the pure power law under shuffles of y over x within units."""
    g = np.random.default_rng(seed)
    observed = _powers([curve])
    if not np.isfinite(observed).any():
        return float("nan")
    places = [np.flatnonzero(labels(curve) == unit) for unit in units_of(curve)]
    shuffled = []
    for _ in range(SHUFFLES):
        order: npt.NDArray[np.intp] = np.arange(len(curve.x))
        for rows in places:
            order[rows] = g.permutation(rows)
        count = None if curve.count is None else curve.count[order]
        shuffled.append(replace(curve, y=curve.y[order], count=count))
    exponents = _powers(shuffled)
    fitted: npt.NDArray[np.bool_] = np.asarray(np.isfinite(exponents).any(axis=0))
    medians = np.nanmedian(exponents[:, fitted], 0)
    # a shuffle without any exponent says nothing against chance
    extreme = int((np.abs(medians) >= abs(float(np.nanmedian(observed)))).sum() + (~fitted).sum())
    return (1 + extreme) / (1 + SHUFFLES)


def _powers(curves: Sequence[Curve]) -> Array:
    """Exponents of the pure power law of curves with the same x by every specification over the whole window:
    (specifications, curves); nan where there is no fit.
    """
    form = FORMS[NULL]
    batches: dict[tuple[object, ...], list[tuple[int, Data]]] = {}
    for place, curve in enumerate(curves):
        for way, shaped in shapes(curve, (WINDOW,)).items():
            for estimator in BY:
                try:
                    if isinstance(shaped, UserError):
                        raise shaped
                    data = checked(form, shaped, estimator)
                except UserError:
                    continue
                batches.setdefault((*way, estimator), []).append((place, data))
    out = np.full((max(len(batches), 1), len(curves)), np.nan)
    for row, batch in enumerate(batches.values()):
        y, w = (np.concatenate([getattr(data, name) for _, data in batch]) for name in ("y", "w"))
        whole = replace(batch[0][1], y=y, w=w)
        # one start is enough for the power law, whose other parameter is linear
        found = solve(form, whole, starts(form, whole)[:, 0])
        values = found.parameters[:, form.parameters.index(str(form.exponent))]
        out[row, [place for place, _ in batch]] = np.where(found.converged, values, np.nan)
    return out
