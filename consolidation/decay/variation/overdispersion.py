"""Proportions that scatter more than trials alone make them: the beta-binomial model (Skellam 1948).

Every observation has a probability of its own, drawn from a beta distribution with mean f(x) and correlation
rho between the trials of one observation, so that its variance is f (1 - f) (1 + (m - 1) rho) / m; rho = 0 is
the binomial model. Parameters and rho are at the maximum of

    sum ln C(m, k) + ln B(k + f s, m - k + (1 - f) s) - ln B(f s, (1 - f) s),   s = (1 - rho) / rho

over the observations themselves, not over their means. rho = 0 lies on the edge of what is possible, so twice
the gain in likelihood is half chi-square with one degree of freedom and half 0 (Self & Liang 1987).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from consolidation.decay.inference import Fit, aicc
from consolidation.decay.solver import PROBABILITY_FLOOR
from labbook.console import UserError
from labbook.estimate import LEVEL, Array, Estimate

# of rho, and how far a profile is followed, in units of the parameter
LEAST, MOST, REACH = 1e-8, 0.999, 64.0


@dataclass(frozen=True)
class Overdispersion:
    """A form fitted to proportions by beta-binomial likelihood.

    Attributes
    ----------
    parameters : by name.
    rho : correlation between the trials of one observation.
    log_likelihood, aicc : of the observations; rho counts as a parameter.
    gain : log-likelihood above that of the binomial model.
    p : of the hypothesis that there is no overdispersion.
    """

    fitted: Fit
    parameters: dict[str, float]
    rho: float
    log_likelihood: float
    aicc: float
    gain: float
    p: float

    @property
    def verdict(self) -> str:
        """It in words."""
        found = "scatter more than" if self.p < 0.05 else "are not shown to scatter more than"
        return (
            f"the proportions {found} their trials alone would make them: correlation between the trials of "
            f"an observation {self.rho:.2g}, p = {self.p:.2g}; {self.fitted.form.name} by beta-binomial "
            f"likelihood over {len(self.fitted.curve.x)} observations: AICc {self.aicc:.2f}, "
            f"{', '.join(f'{k} = {v:.4g}' for k, v in self.parameters.items())}."
        )

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        return {
            "form": self.fitted.form.name,
            "rho": self.rho,
            "p": self.p,
            "log_likelihood": self.log_likelihood,
            "aicc": self.aicc,
            "parameters": self.parameters,
            "observations": len(self.fitted.curve.x),
        }

    def profile(self, parameter: str) -> Estimate:
        """Profile-likelihood interval of a parameter over the observations, infinite on a side on which the
        likelihood stays close to its maximum.
        """
        model, index = _Model(self.fitted), self.fitted.form.parameters.index(parameter)
        best = np.array([*self.parameters.values(), self.rho])
        limit = -self.log_likelihood + float(stats.chi2.ppf(LEVEL, 1)) / 2
        scale = max(abs(best[index]), 0.1)

        def side(sign: float) -> float:
            inside, start, step = best[index], best, 0.1 * scale
            while abs(inside - best[index]) < REACH * scale:
                value = inside + sign * step
                end, loss = model.minimise(start, (index, value))
                if loss > limit:

                    def over(v: float, near: Array = end) -> float:
                        return model.minimise(near, (index, v))[1] - limit

                    return float(optimize.brentq(over, inside, value, xtol=1e-6 * scale))
                inside, start, step = value, end, 2 * step
            return sign * float("inf")

        return Estimate(self.parameters[parameter], side(-1.0), side(1.0), len(self.fitted.curve.x))


class _Model:
    """Minus the log-likelihood of a form and rho, with its gradient."""

    def __init__(self, fitted: Fit):
        curve, self.form = fitted.curve, fitted.form
        if curve.count is None:
            raise UserError(
                f"{curve.name}: overdispersion needs the number of trials behind every point. Give them with "
                "--count."
            )
        self.x, self.m = curve.x, curve.count
        self.k = curve.y * curve.count
        low, high = self.form.limits(self.x)
        self.bounds = [*zip(low, high, strict=True), (LEAST, MOST)]

    def loss(self, p: Array) -> tuple[float, Array]:
        """The objective at parameters and rho (k + 1,), and its gradient."""
        k, m, rho = self.k, self.m, p[-1]
        raw = self.form.value(self.x, p[:-1])
        f = np.clip(raw, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        s = (1 - rho) / rho
        a, b = f * s, (1 - f) * s
        total = special.betaln(k + a, m - k + b) - special.betaln(a, b)
        total += special.gammaln(m + 1) - special.gammaln(k + 1) - special.gammaln(m - k + 1)
        by_a = special.digamma(k + a) - special.digamma(a)
        by_b = special.digamma(m - k + b) - special.digamma(b)
        by_both = special.digamma(s) - special.digamma(m + s)
        by_f = np.where(raw == f, s * (by_a - by_b), 0.0)
        by_s = f * by_a + (1 - f) * by_b + by_both
        gradient = np.append(by_f @ self.form.gradient(self.x, p[:-1]), -by_s.sum() / rho**2)
        # beyond what a probability can be, the further the worse, so that a step leads back
        off = raw - f
        loss = -float(total.sum()) + 1e4 * float(off @ off)
        gradient[:-1] -= 2e4 * off @ self.form.gradient(self.x, p[:-1])
        return loss, -gradient

    def minimise(self, start: Array, fixed: tuple[int, float] | None = None) -> tuple[Array, float]:
        """The minimum from a start, one parameter fixed; and its loss."""
        bounds = list(self.bounds)
        if fixed is not None:
            bounds[fixed[0]] = (fixed[1], fixed[1])
        low, high = np.array(bounds).T
        found = optimize.minimize(
            self.loss,
            np.clip(start, low, high),
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 2000},
        )
        return found.x, float(found.fun)


def overdispersion(fitted: Fit) -> Overdispersion:
    """The form of a fit by `ml`, with overdispersion.

    Raises UserError when there are no trials, or one for each observation, which cannot scatter more or less.
    """
    curve = fitted.curve
    model = _Model(fitted)
    if (model.m <= 1).all():
        raise UserError(
            f"{curve.name}: every observation is one trial, so there is no scatter between observations. "
            "Give proportions of several trials."
        )
    start = np.array(list(fitted.parameters.values()))
    tries = [model.minimise(np.append(start, rho)) for rho in (1e-4, 1e-2, 0.1)]
    best, loss = min(tries, key=lambda one: one[1])
    f = np.clip(model.form.value(model.x, start), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    binomial = float(np.sum(stats.binom.logpmf(np.round(model.k), model.m, f)))
    gain = max(-loss - binomial, 0.0)
    return Overdispersion(
        fitted,
        dict(zip(fitted.form.parameters, map(float, best[:-1]), strict=True)),
        float(best[-1]),
        -loss,
        aicc(-loss, len(best), len(model.x)),
        gain,
        float(stats.chi2.sf(2 * gain, 1)) / 2 if gain > 0 else 0.5,
    )
