"""One observation that lies apart from all the others, and what is left without it.

A slip of the decimal point (.041 for .41) leaves a number that its measure can have, and flexible forms bend
to it. So every x is left out in turn, the forms are compared on the others, and the observation there is held
against each form that survives on them:

    t = (y - f(x)) / sqrt(s^2 (1 + h)),   h = g' (J' J)^-1 g

on the scale of that form's noise, with s^2 and J of the others and g the gradient at x; of a linear form this
is the externally studentised residual (Cook & Weisberg 1982, Residuals and Influence in Regression, section
2.2). Its p, times the number of x (Bonferroni), is the largest of those forms: what any of them expects is
not apart. Of counted trials s^2 is at least 1, and p at least that of the binomial tail. Of several x that
lie apart the one is named without which the best form describes the others best: a slip makes its neighbours
look apart, too.

Where there are units, single rows are held against the other rows of their unit and of their x: residuals of
y = unit + x + slope of the unit times ln x, and of ln y likewise, studentised the same way; p is the larger
of both. Units differ in more than that, so a row is told at a tenth of the level.

Two slips of equal size can hide each other.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from consolidation.decay.comparison import FOLDS, SURVIVES, Comparison, compare
from consolidation.decay.curve import Curve
from consolidation.decay.exponents import ExponentRow, to_cite
from consolidation.decay.forms import form
from consolidation.decay.inference import LEAST_UNITS as LEAST_LEFT_OUT
from consolidation.decay.inference import ROUNDING, Estimator, Fit, fit, interval, units_of
from consolidation.decay.solver import PROBABILITY_FLOOR
from labbook.console import UserError
from labbook.estimate import Array, Estimate

# one sound curve in a hundred is told of an observation; of a row, see above
ALPHA, ALPHA_ROW = 0.01, 0.001
# fewer degrees of freedom say nothing
FREEDOM = 2
LEAST_UNITS, LEAST_X = 3, 3
# without one x fewer leave no form that changes an AICc
LEAST_POINTS = 6
# rows times effects up to which rows are held against each other
MOST_CELLS = 5_000_000
# a change of an exponent by less makes no difference to what is said of it
SMALL = 0.1
# states that other data can turn; without one x more the rest are only less known
DECIDED = ("survives", "is weakened", "does not survive")


@dataclass(frozen=True)
class Apart:
    """The observation that lies furthest apart, and what is left without it.

    Attributes
    ----------
    x, y, unit : the observation; y is the mean at that x where no unit is named.
    p : of the test, corrected for the number of observations.
    form : that of the headline; `state` and `state_without` how it stands, `gamma` and `without` its exponent
        with the observation and without, by the same estimator.
    hangs : why nothing may be cited that rests on the observation; empty where that makes no difference.
    """

    x: float
    y: float
    unit: str
    p: float
    form: str
    state: str
    state_without: str
    gamma: float
    without: Estimate | None
    hangs: str

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self.unit and f'{self.unit}, '}x = {self.x:g}"

    @property
    def verdict(self) -> str:
        """It in words."""
        others = "the other rows of its unit and x" if self.unit else "what the other points say"
        number = "cannot be fitted" if self.without is None else f"has gamma = {self.without.text()}"
        return (
            f"y = {self.y:.3g} at {self.place} lies apart from {others} (outlier test, p = {self.p:.2g} over "
            f"all of them): is it a slip? Without it {self.form} {verb(self.state_without)} and {number}; "
            f"with it {verb(self.state)}, gamma = {self.gamma:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        return {**vars(self), "without": None if self.without is None else vars(self.without)}


def verb(state: str) -> str:
    """How a form stands, as a verb."""
    return state if state in DECIDED else f"is {state}"


def apart(
    curve: Curve,
    comparison: Comparison,
    exponents: pd.DataFrame,
    head: ExponentRow,
    estimator: Estimator | None = None,
) -> Apart | None:
    """The observation that lies apart, or None.

    Parameters
    ----------
    comparison, exponents, head : of the curve, and the exponent of the headline.
    estimator : that of the comparison, which is made again without the observation.
    """
    found = _row(curve) or _point(curve, comparison)
    if found is None:
        return None
    keep, p, unit = found
    rest = curve.rows(keep)
    try:
        without = compare(rest, tuple(comparison.fits), estimator)
        state = without.standing(head.form).state
    except UserError:
        without, state = None, "not compared"
    number = _exponent(rest, head)
    return Apart(
        x=float(curve.x[~keep][0]),
        y=float(curve.y[~keep].mean()),
        unit=unit,
        p=p,
        form=head.form,
        state=comparison.standing(head.form).state,
        state_without=state,
        gamma=head.gamma,
        without=number,
        hangs=_hangs(comparison, without, rest, to_cite(comparison, exponents, head), head, number),
    )


def _exponent(rest: Curve, of: ExponentRow) -> Estimate | None:
    """The same exponent of the rest, with an interval of the same kind; None where it cannot be fitted."""
    unit = None if of.method == "profile" else of.unit
    try:
        return interval(fit(rest, of.form, of.estimator), str(form(of.form).exponent), unit).number
    except UserError:
        return None


def _hangs(
    comparison: Comparison,
    without: Comparison | None,
    rest: Curve,
    cited: ExponentRow | None,
    head: ExponentRow,
    of_head: Estimate | None,
) -> str:
    """What changes without the observation of that which would be cited, or of the form that is rejected;
    `of_head` is the exponent of the headline then.
    """
    for name in dict.fromkeys([head.form, *([] if cited is None else [cited.form])]):
        state = comparison.standing(name).state
        other = "not compared" if without is None else without.standing(name).state
        # between weakened and rejected nothing may be cited either way
        if state in DECIDED and other in DECIDED and (state == "survives") != (other == "survives"):
            return f"without it {name} {other}"
    if cited is None:
        return ""
    number = of_head if cited == head else _exponent(rest, cited)
    if number is None:
        return f"without it {cited.form} cannot be fitted"
    inside = number.lower <= cited.gamma <= number.upper
    if inside or abs(cited.gamma - number.estimate) <= SMALL * abs(number.estimate):
        return ""
    return f"without it gamma of {cited.form} is {number.text()}"


def untested(curve: Curve) -> str:
    """Why no observation of a curve can be held against the others; empty where one can."""
    units, different = len(units_of(curve)), len(np.unique(curve.x))
    if _has_rows(curve) or (units < LEAST_LEFT_OUT and LEAST_POINTS <= different <= FOLDS):
        return ""
    if len(curve.x) * (2 * units + different) > MOST_CELLS:
        return f"{len(curve.x):,} rows of {units} units are many"
    if different > FOLDS:
        return f"{different} x are more than {FOLDS}"
    return f"{len(curve.x)} rows at {different} x are few"


def _has_rows(curve: Curve) -> bool:
    """Whether rows can be held against those of their unit and their x: there are units, and neither too few
    nor too many rows for effects of units, of x, and slopes of units.
    """
    units, different = len(units_of(curve)), len(np.unique(curve.x))
    freedom = len(curve.x) - (2 * units + different - 2) - 1
    enough = units >= LEAST_UNITS and different >= LEAST_X and freedom >= FREEDOM
    return curve.unit is not None and enough and len(curve.x) * (2 * units + different) <= MOST_CELLS


def _row(curve: Curve) -> tuple[npt.NDArray[np.bool_], float, str] | None:
    """All rows but the one that lies apart from those of its unit and its x, p, and the unit."""
    if curve.unit is None or not _has_rows(curve):
        return None
    p = row_p(curve.unit, curve.x, curve.y)
    worst = int(np.argmin(p))
    if not p[worst] < ALPHA_ROW:
        return None
    return np.arange(len(p)) != worst, float(p[worst]), str(curve.unit[worst])


def row_p(unit: npt.NDArray[np.str_], x: Array, values: Array) -> Array:
    """p of the outlier test of every row, corrected for their number: (rows,)."""
    (_, units), (_, places) = (np.unique(of, return_inverse=True) for of in (unit, x))
    every = np.arange(len(x))
    size = int(units.max()) + 1, int(places.max()) + 1
    of_unit, of_x = np.zeros((len(x), size[0])), np.zeros((len(x), size[1]))
    of_unit[every, units] = of_x[every, places] = 1.0
    # units differ in how fast they fall
    along = places - places.mean() if (x <= 0).any() else np.log(x) - np.log(x).mean()
    left, spread, _ = np.linalg.svd(np.hstack([of_unit, of_x, of_unit * along[:, None]]), full_matrices=False)
    basis = left[:, spread > 1e-9 * spread[0]]
    freedom, free = len(x) - basis.shape[1] - 1, 1 - (basis**2).sum(1)
    if freedom < FREEDOM:
        return np.ones(len(x))
    found = []
    for y in [values, np.log(values)] if (values > 0).all() else [values]:
        off, kept = y - basis @ (basis.T @ y), np.maximum(free, 1e-12)
        variance = np.maximum((np.sum(off**2) - off**2 / kept) / freedom, (ROUNDING * np.abs(y).max()) ** 2)
        p = 2 * stats.t.sf(np.abs(off) / np.sqrt(variance * kept), freedom)
        # a row that is alone in its unit or at its x has nothing to be held against
        found.append(np.where(free < 1e-6, 1.0, np.minimum(len(y) * p, 1.0)))
    return np.maximum.reduce(found)


def _point(curve: Curve, comparison: Comparison) -> tuple[npt.NDArray[np.bool_], float, str] | None:
    """All rows but those at the x that lies apart, and p."""
    p, aicc = point_p(comparison)
    told = p < ALPHA
    if not told.any():
        return None
    place = int(np.argmin(np.where(told, aicc, np.inf)))
    return curve.x != np.unique(curve.x)[place], float(p[place]), ""


def point_p(comparison: Comparison) -> tuple[Array, Array]:
    """p of the outlier test of every x, corrected for their number, 1 where it cannot be tested; and the AICc
    of the best form of the others: (points,) each, empty where no x was left out.

    An x that is left out adds nothing to the likelihood but what a change of scale would: ln y of the noise
    that is relative to y, so that the AICc of different others can be compared.
    """
    if not comparison.without:
        return np.zeros(0), np.zeros(0)
    whole = next(iter(comparison.fits.values()))
    found, lowest = list[float](), list[float]()
    for place, several in enumerate(zip(*comparison.without.values(), strict=True)):
        x, y, weight = (float(values[place]) for values in (whole.x, whole.y, whole.weight))
        fits = [one for one in several if isinstance(one, Fit) and one.converged and np.isfinite(one.aicc)]
        aicc = [one.aicc + (2 * math.log(y) if one.estimator == "loglog" else 0.0) for one in fits]
        lowest.append(min(aicc, default=math.inf))
        near = [one for one, own in zip(fits, aicc, strict=True) if own <= lowest[-1] + SURVIVES]
        if all(one.form.null for one in fits):
            near = []  # too few are left for a form that changes
        found.append(max((_expected(one, x, y, weight) for one in near), default=1.0))
    return np.minimum(len(found) * np.array(found), 1.0), np.array(lowest)


def _expected(of: Fit, x: float, y: float, weight: float) -> float:
    """Two-sided p of an observation at x under a fit without it."""
    parameters = np.array(list(of.parameters.values()))
    place = np.array([x])
    gradient, own = (of.form.gradient(at, parameters) for at in (of.x, place))
    gradient = np.broadcast_to(gradient, (len(of.x), len(parameters)))
    predicted = float(of.predict(place)[0])
    residual, scale, own_scale, off = of.y - of.fitted, of.weight, weight, y - predicted
    match of.estimator:
        case "loglog":
            if not (predicted > 0 and y > 0 and (of.fitted > 0).all()):
                return 1.0
            residual, off = np.log(of.y / of.fitted), float(np.log(y / predicted))
            gradient, own = gradient / of.fitted[:, None], own / predicted
        case "ml":
            fitted = np.clip(of.fitted, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
            here = min(max(predicted, PROBABILITY_FLOOR), 1 - PROBABILITY_FLOOR)
            scale, own_scale = of.weight / (fitted * (1 - fitted)), weight / (here * (1 - here))
    freedom = len(of.x) - len(parameters)
    if freedom < FREEDOM or not np.isfinite([*gradient.ravel(), *own.ravel(), off]).all():
        return 1.0
    gradient = gradient * np.sqrt(scale)[:, None]
    size = np.linalg.norm(gradient, axis=0)
    size = np.where(size > 0, size, 1.0)
    _, spread, axes = np.linalg.svd(gradient / size, full_matrices=False)
    # what the others leave open, they do not expect anywhere
    reach = axes @ (own.ravel() / size) / np.maximum(spread, 1e-12)
    least = 1.0 if of.estimator == "ml" else of.rounding**2 * float(scale.mean())
    variance = max(float(np.sum(scale * residual**2)) / freedom, least)
    t = abs(off) / np.sqrt(variance * (1 / own_scale + float(reach @ reach)))
    p = float(2 * stats.t.sf(t, freedom))
    if of.estimator != "ml":
        return p
    tail = stats.binomtest(round(y * weight), round(weight), min(max(predicted, 0.0), 1.0)).pvalue
    return max(p, float(tail))
