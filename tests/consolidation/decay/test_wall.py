"""Binomial fits whose curve meets a proportion of 1, against scipy's constrained optimiser."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import fit, profile

X = np.array([1, 2, 3, 5, 8, 13, 21, 34, 55, 89.0])
# numbers recalled of 20, 40, 40 and 20: all of them at the first x, and at several
RECALLED = {
    "first": ([20, 20, 18, 17, 15, 13, 11, 9, 7, 6], 20),
    "steep": ([40, 34, 31, 27, 18, 15, 16, 7, 12, 5], 40),
    "flat": ([40, 37, 36, 30, 28, 22, 19, 15, 9, 8], 40),
    "several": ([20, 20, 20, 20, 19, 17, 13, 10, 8, 6], 20),
}


def recalled(name: str) -> Curve:
    k, n = RECALLED[name]
    trials = np.full(len(X), float(n))
    return Curve(name, X, np.array(k) / n, Clock("repetition", "count"), count=trials, error="binomial")


def least(data: Curve, name: str, start: np.ndarray, fixed: tuple[int, float] | None = None) -> float:
    """The least negative log-likelihood with the curve between 0 and 1, positive parameters as logarithms."""
    form, w = FORMS[name], data.count
    log = np.array([parameter in form.positive for parameter in form.parameters])

    def value(u):
        return form.value(data.x, np.where(log, np.exp(np.where(log, u, 0)), u))

    def negative(u):
        p = np.clip(value(u), 1e-12, 1 - 1e-12)
        return -np.sum(w * (data.y * np.log(p) + (1 - data.y) * np.log(1 - p)))

    inside = [{"type": "ineq", "fun": lambda u: 1 - value(u)}, {"type": "ineq", "fun": value}]
    found = []
    for factor in (1.0, 0.9, 0.6):
        u = start * factor
        if fixed is not None:
            u[fixed[0]] = fixed[1]
        u = np.where(log, np.log(np.where(log, u, 1.0)), u)
        held = [] if fixed is None else [{"type": "eq", "fun": lambda v, at=u[fixed[0]]: v[fixed[0]] - at}]
        with np.errstate(all="ignore"):
            one = minimize(
                negative,
                u,
                method="SLSQP",
                constraints=[*inside, *held],
                options={"maxiter": 400, "ftol": 1e-12},
            )
        if value(one.x).max() < 1 + 1e-6 and value(one.x).min() > -1e-6:
            found.append(one.fun)
    return min(found)


@pytest.mark.parametrize("data", RECALLED)
@pytest.mark.parametrize("name", ["power", "exponential", "logistic", "stretched_exponential"])
def test_a_fit_at_the_wall_is_the_best_one_inside(data, name):
    curve = recalled(data)
    found = fit(curve, name, "ml")
    start = np.array(list(found.parameters.values()))
    assert not found.failures
    assert found.fitted.max() <= 1 + 1e-9
    assert found.objective == pytest.approx(least(curve, name, start), abs=2e-5)


@pytest.mark.parametrize("data", ["first", "steep", "flat"])
def test_a_profile_at_the_wall_ends_where_the_likelihood_does(data):
    curve = recalled(data)
    found = fit(curve, "shifted_power", "ml")
    start, which = np.array(list(found.parameters.values())), found.form.parameters.index("gamma")
    assert found.fitted.max() == pytest.approx(1, abs=1e-9)
    made = profile(found, "gamma")
    assert made.number.lower < made.number.estimate < made.number.upper and not made.failures
    limit = found.objective + stats.chi2.ppf(0.95, 1) / 2
    for edge in (made.number.lower, made.number.upper):
        inward = edge + 0.05 * (made.number.estimate - edge)
        outward = edge - 0.05 * (made.number.estimate - edge)
        assert least(curve, "shifted_power", start, (which, inward)) < limit
        assert least(curve, "shifted_power", start, (which, outward)) > limit - 0.02
