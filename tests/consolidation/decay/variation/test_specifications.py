"""Inference on all specifications against refits of resampled curves, and against data without a fall."""

import numpy as np
import pytest

from consolidation.decay.curve import Clock, Curve
from consolidation.decay.variation import specifications
from consolidation.decay.variation.multiverse import multiverse
from consolidation.decay.variation.specifications import together

X, HUMAN = np.geomspace(1, 100, 8), (0.4, 0.5)


def units(n: int, exponent: float, noise: float, seed: int = 0) -> Curve:
    g = np.random.default_rng(seed)
    y = 0.8 * X ** -(exponent + 0.05 * g.standard_normal((n, 1))) * np.exp(noise * g.standard_normal((n, 8)))
    names = np.repeat([f"{i:02d}" for i in range(n)], 8)
    return Curve("test", np.tile(X, n), y.ravel(), Clock("repetition", "count"), unit=names)


def test_leaving_a_unit_out_is_refitting_every_specification_without_it():
    """Those without a floor, whose curve does not depend on the unit that is left out."""
    data = units(6, 0.45, 0.02)
    fits = [
        one
        for one in multiverse({"k": data}, HUMAN).fits["k"]
        if one.form.name == "power"
        and one.curve.normalisation == "as given"
        and one.curve.y.min() == data.y.min()
    ]
    weights = np.ones((6, 6)) - np.eye(6)
    found = specifications._refitted(fits, weights)
    for place, one in enumerate(fits):
        keep = one.curve.unit != "02"
        alone = specifications._refitted(
            [specifications.replace(one, curve=one.curve.rows(keep))], np.ones((1, 5))
        )
        if one.estimator != "weighted":  # whose weights are those of all units
            assert found[place, 2] == pytest.approx(alone[0, 0], rel=1e-7)
    result = together(data, fits, HUMAN)
    medians = np.median(found, 0)
    error = np.sqrt(5 / 6 * ((medians - medians.mean()) ** 2).sum())
    assert result.median.upper - result.median.estimate == pytest.approx(2.5706 * error, rel=1e-4)
    assert 0 <= result.share.lower <= result.share.upper <= 1


def test_a_fall_is_no_shuffle_and_no_fall_is_one():
    fall = units(5, 0.45, 0.05)
    assert specifications._shuffled(fall, 0) == pytest.approx(1 / 100)
    p = [specifications._shuffled(units(3, 0.0, 0.2, seed), seed) for seed in range(6)]
    assert min(p) > 0.005
    assert np.mean(p) > 0.25


def test_few_units_have_no_interval_and_say_so():
    data = units(2, 0.45, 0.05)
    found = together(data, multiverse({"k": data}, HUMAN).fits["k"], HUMAN)
    assert np.isnan(found.median.lower)
    assert "There are no intervals over units" in found.verdict
    assert "is not one that shuffled data give (p = 0.01, 99 shuffles)" in found.verdict


def test_where_the_power_law_has_no_exponent_shuffles_decide_nothing():
    """x = 0 on a clock of time, where there is no 1 + x; other forms have exponents."""
    x = np.append(0.0, X)
    g = np.random.default_rng(0)
    y = 0.8 * (1 + x / 2) ** -0.45 * np.exp(0.01 * g.standard_normal(9))
    data = Curve("test", x, y, Clock("delay", "day"))
    found = together(data, multiverse({"k": data}, HUMAN).fits["k"], HUMAN)
    assert np.isnan(found.p)
    assert found.verdict.endswith("has no exponent here, so shuffled data say nothing.")


def test_shuffles_without_an_exponent_are_no_evidence(monkeypatch):
    """Where only the observed order can be fitted nothing was compared, so p is 1."""

    def powers(curves):
        return np.full((2, len(curves)), 0.5 if len(curves) == 1 else np.nan)

    monkeypatch.setattr(specifications, "_powers", powers)
    assert specifications._shuffled(units(3, 0.4, 0.1), 0) == 1
