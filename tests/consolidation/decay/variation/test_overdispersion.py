"""The beta-binomial model against scipy's distribution, a Nelder-Mead search, and simulation."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from consolidation.decay.analysis import Choices, analyse
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import fit, profile
from consolidation.decay.variation.overdispersion import overdispersion
from labbook.console import UserError

X = np.tile(np.geomspace(1, 100, 8), 6)


def proportions(rho: float, seed: int = 0, trials: int = 40) -> Curve:
    """Power laws .9 x^-.4, with correlated trials."""
    g, f = np.random.default_rng(seed), 0.9 * X**-0.4
    p = g.beta(f * (1 - rho) / rho, (1 - f) * (1 - rho) / rho) if rho else f
    count = np.full(len(X), float(trials))
    return Curve(
        "test",
        X,
        g.binomial(trials, p) / trials,
        Clock("repetition", "count"),
        count=count,
        error="binomial",
    )


def test_it_is_the_maximum_of_scipys_beta_binomial():
    data = proportions(0.05)
    found = overdispersion(fit(data, "power", "ml"))

    def loss(p):
        f, s = np.clip(p[0] * X ** -p[1], 1e-12, 1 - 1e-12), (1 - p[2]) / p[2] if 0 < p[2] < 1 else np.nan
        return -stats.betabinom.logpmf(np.round(data.y * 40), 40, f * s, (1 - f) * s).sum()

    oracle = minimize(
        loss, [0.9, 0.4, 0.05], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10, "maxiter": 5000}
    )
    assert [*found.parameters.values(), found.rho] == pytest.approx(oracle.x, rel=1e-4)
    assert found.log_likelihood == pytest.approx(-oracle.fun, abs=1e-6)


def test_overdispersion_widens_the_interval_and_is_found():
    data = proportions(0.08)
    plain = fit(data, "power", "ml")
    found = overdispersion(plain)
    assert found.p < 1e-6
    assert found.rho == pytest.approx(0.08, abs=0.04)
    narrow, wide = profile(plain, "gamma").number, found.profile("gamma")
    assert wide.upper - wide.lower > 1.4 * (narrow.upper - narrow.lower)
    assert wide.lower < 0.4 < wide.upper
    report = analyse(data, Choices(forms=("power", "constant")))
    assert any("scatter more than their trials" in caution for caution in report.cautions)
    assert report.overdispersion.parameters == pytest.approx(found.parameters)


def test_without_overdispersion_it_is_the_binomial_model():
    """The hypothesis is rejected as often as its level says, and the estimates are those of `ml`."""
    rejected = 0
    for seed in range(60):
        plain = fit(proportions(0.0, seed), "power", "ml")
        found = overdispersion(plain)
        rejected += found.p < 0.05
        if found.gain == 0:
            assert found.parameters["gamma"] == pytest.approx(plain.exponent, rel=1e-2)
    assert rejected <= 8


def test_single_trials_have_no_scatter():
    with pytest.raises(UserError, match="every observation is one trial"):
        overdispersion(fit(proportions(0.0, trials=1), "power", "ml"))
    with pytest.raises(UserError, match="--count"):
        overdispersion(fit(Curve("test", X, 0.9 * X**-0.4, Clock("repetition", "count")), "power"))
