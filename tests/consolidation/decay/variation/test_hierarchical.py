"""Hierarchical fits against planted populations and a two-stage meta-analysis; skipped without the extra."""

import sys

import numpy as np
import pytest

from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import fit
from consolidation.decay.variation.hierarchical import _verdict, population
from labbook.console import UserError
from labbook.estimate import Estimate

X = np.geomspace(1, 100, 10)


def planted(law: str, units: int = 12, seed: int = 0) -> Curve:
    """Units with exponents .4 +- .1, or decay times around 25, and noise of .01."""
    g = np.random.default_rng(seed)
    gamma, tau = 0.4 + 0.1 * g.standard_normal((units, 1)), 25 * np.exp(0.3 * g.standard_normal((units, 1)))
    y = 0.9 * (X**-gamma if law == "power" else np.exp(-X / tau)) + 0.01 * g.standard_normal((units, len(X)))
    names = np.repeat([f"{i:02d}" for i in range(units)], len(X))
    return Curve("test", np.tile(X, units), y.ravel(), Clock("repetition", "count"), unit=names)


@pytest.fixture
def libraries():
    pytest.importorskip("numpyro", exc_type=ImportError)
    pytest.importorskip("arviz", exc_type=ImportError)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_population_of_power_laws_is_that_of_a_meta_analysis(libraries):
    """Exponents of single units, so precise here that their mean and spread are those of the population."""
    data = planted("power")
    alone = np.array(
        [
            fit(Curve("one", X, data.y[data.unit == unit], data.clock), "power").exponent
            for unit in np.unique(data.unit)
        ]
    )
    found = population(data, draws=400)
    assert not any("of the power" in failure for failure in found.failures)
    assert found.gamma.estimate == pytest.approx(alone.mean(), abs=0.01)
    assert found.gamma.lower < 0.4 < found.gamma.upper
    assert found.spread.estimate == pytest.approx(alone.std(ddof=1), rel=0.25)
    half = (found.new_unit.upper - found.new_unit.lower) / 2
    assert half == pytest.approx(2.2 * alone.std(ddof=1) * np.sqrt(1 + 1 / 12), rel=0.3)
    assert found.difference > 2 * found.error
    assert "power laws better than exponentials" in found.verdict


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_exponentials_are_known_though_their_mean_may_look_like_a_power_law(libraries):
    found = population(planted("exponential"), draws=400)
    assert found.difference < -2 * found.error
    assert "exponentials better than power laws" in found.verdict


@pytest.mark.parametrize(
    ("difference", "error", "words"),
    [
        (9.0, 2.0, "power laws better than exponentials"),
        (-9.0, 2.0, "exponentials better than power laws"),
        (3.0, 2.0, "not told apart"),
        (9.0, float("nan"), "not told apart"),
        (float("nan"), 2.0, "not told apart"),
    ],
)
def test_laws_are_told_apart_by_two_standard_errors_that_are_known(difference, error, words):
    some = Estimate(0.4, 0.3, 0.5, 12)
    assert words in _verdict(planted("power"), some, some, some, difference, error)


def test_too_few_units_and_a_missing_extra_are_said(monkeypatch):
    with pytest.raises(UserError, match="4 units; a spread between units needs at least 5"):
        population(planted("power", units=4))
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(UserError, match=r"attention-redundancy\[hierarchical\]"):
        population(planted("power"))
