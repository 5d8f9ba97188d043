"""One point that lies apart from all the others, and what is left without it.

A slip of the decimal point (.041 for .41) leaves a number that its measure can have. It is found by the
outlier test of regression on the best form: the externally studentised residual

    t_i = e_i / sqrt(s_(i)^2 (1 - h_i)),   s_(i)^2 = (sum e^2 - e_i^2 / (1 - h_i)) / (n - k - 1)

of n points and k parameters, on the scale of the noise of that form, with the leverages h of its gradient
there; its two-sided p times n (Bonferroni) is that of the largest (Cook & Weisberg 1982, Residuals and
Influence in Regression, section 2.2). Counted trials have weights 1 / variance, and s at least 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from consolidation.decay.comparison import Comparison, Standing, compare
from consolidation.decay.inference import ROUNDING, Estimator, Fit, fit
from consolidation.decay.solver import PROBABILITY_FLOOR
from labbook.console import UserError
from labbook.estimate import Array

# one sound curve in a hundred is told of a point
ALPHA = 0.01
# a point that a parameter of its own goes through, or fewer degrees of freedom, cannot be tested
LEVERAGE, FREEDOM = 0.999, 2


@dataclass(frozen=True)
class Apart:
    """The point that lies furthest from the best form, further than one of n would.

    Attributes
    ----------
    x, y : the point; y is the mean of what was observed there.
    expected : the best form there.
    p : of the test, corrected for all points.
    form : whose standing and exponent are given with the point and without: that of the headline.
    standing, without : how it stands; None where nothing can be compared without the point.
    gamma, gamma_without : its exponent.
    """

    x: float
    y: float
    expected: float
    p: float
    form: str
    standing: Standing
    without: Standing | None
    gamma: float
    gamma_without: float

    @property
    def decides(self) -> bool:
        """Whether the form of the headline stands otherwise without the point."""
        return self.without is None or self.without.state != self.standing.state

    @property
    def verdict(self) -> str:
        """It in words."""
        said = "nothing can be compared"
        if self.without is not None:
            said = f"{self.form} {_verb(self.without)}"
            if self.decides:
                said += f" (with it, it {_verb(self.standing)})"
        return (
            f"y = {self.y:.3g} at x = {self.x:g} lies apart from the other points (the best form has "
            f"{self.expected:.3g} there; outlier test, p = {self.p:.2g} for all points): is it a slip? "
            f"Without it {said}, gamma = {self.gamma_without:.3f} and not {self.gamma:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        return {
            "x": self.x,
            "y": self.y,
            "expected": self.expected,
            "p": self.p,
            "form": self.form,
            "state": self.standing.state,
            "state_without": None if self.without is None else self.without.state,
            "gamma": self.gamma,
            "gamma_without": self.gamma_without,
            "decides": self.decides,
        }


def _verb(standing: Standing) -> str:
    state = standing.state
    return state if state.split()[0] in ("survives", "is", "does") else f"is {state}"


def apart(
    comparison: Comparison, forms: Sequence[str], head: Fit, estimator: Estimator | None = None
) -> Apart | None:
    """The point that lies apart from the best form, or None.

    Parameters
    ----------
    forms, estimator : of the comparison, which is made again without the point.
    head : the fit of the headline.
    """
    if comparison.best is None:
        return None
    curve, best = head.curve, comparison.fits[comparison.best]
    p = outlier_p(best)
    place = int(np.argmin(p))
    if not p[place] < ALPHA:
        return None
    rest = curve.rows(curve.x != best.x[place])
    without, gamma = None, float("nan")
    try:
        without = compare(rest, forms, estimator).standing(head.form.name)
        gamma = fit(rest, head.form.name, head.estimator).exponent
    except UserError:
        pass  # too few points are left, which the verdict says
    return Apart(
        x=float(best.x[place]),
        y=float(best.y[place]),
        expected=float(best.fitted[place]),
        p=float(p[place]),
        form=head.form.name,
        standing=comparison.standing(head.form.name),
        without=without,
        gamma=head.exponent,
        gamma_without=gamma,
    )


def outlier_p(of: Fit) -> Array:
    """p of the outlier test of every point, corrected for their number: (points,); 1 where it cannot be
    tested.
    """
    residual, gradient = _scaled(of)
    n, k = gradient.shape
    freedom = n - k - 1
    if freedom < FREEDOM or not np.isfinite(gradient).all() or not np.isfinite(residual).all():
        return np.ones(n)
    size = np.linalg.norm(gradient, axis=0)
    basis = np.linalg.qr(gradient / np.where(size > 0, size, 1.0))[0]
    leverage = np.clip((basis**2).sum(1), 0.0, LEVERAGE)
    variance = (np.sum(residual**2) - residual**2 / (1 - leverage)) / freedom
    counted = of.estimator == "ml"
    least = 1.0 if counted else (ROUNDING * (1.0 if of.estimator == "loglog" else np.abs(of.y).max())) ** 2
    t = np.abs(residual) / np.sqrt(np.maximum(variance, least) * (1 - leverage))
    # the variance of counts that scatter no more than their trials is known
    known = counted & (variance <= least)
    p = 2 * np.where(known, stats.norm.sf(t), stats.t.sf(t, freedom))
    return np.where(leverage < LEVERAGE, np.minimum(n * p, 1.0), 1.0)


def _scaled(of: Fit) -> tuple[Array, Array]:
    """Residuals (n,) and the gradient of the fitted values (n, k), on the scale on which the noise has one
    size.
    """
    gradient = of.form.gradient(of.x, np.array(list(of.parameters.values())))
    match of.estimator:
        case "loglog":
            with np.errstate(divide="ignore", invalid="ignore"):
                residual, gradient = np.log(of.y / of.fitted), gradient / of.fitted[:, None]
            scale = of.weight / of.weight.mean()
        case "ml":
            p = np.clip(of.fitted, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
            residual, scale = of.y - of.fitted, of.weight / (p * (1 - p))
        case _:
            residual, scale = of.y - of.fitted, of.weight / of.weight.mean()
    root = np.sqrt(scale)
    return residual * root, gradient * root[:, None]
