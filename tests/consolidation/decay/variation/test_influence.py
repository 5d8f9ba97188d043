"""One point apart from all others: found where it was planted, silent where there is none, and nothing is
cited that hangs on it.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from consolidation import fit_decay
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import fit
from consolidation.decay.variation.influence import outlier_p

FORMS = ("power", "exponential", "logarithmic", "constant")
ASKED = {"x": "trial", "y": "recall", "measure": "recall", "clock": "repetition", "forms": FORMS}
X = np.geomspace(1, 100, 10)
# noise that is alike in size and in sign nowhere
OFF = 0.01 * np.array([0.3, -1.0, 0.8, 0.2, -0.6, 1.0, -0.9, 0.4, -0.5, 0.3])


def curve(y, **more):
    return Curve(
        "planted", X[: len(y)], np.asarray(y), Clock("repetition", "count"), measure="recall", **more
    )


def test_the_test_is_that_of_the_point_against_a_fit_without_it():
    """A form that is linear: prediction of each point by ordinary least squares on the others."""
    y = 0.9 - 0.15 * np.log(X) + OFF
    found = outlier_p(fit(curve(y), "logarithmic"))
    design = np.column_stack([np.ones(len(X)), -np.log(X)])
    for i in range(len(X)):
        keep = np.arange(len(X)) != i
        b, rss, *_ = np.linalg.lstsq(design[keep], y[keep], rcond=None)
        freedom = keep.sum() - 2
        spread = rss[0] / freedom * (1 + design[i] @ np.linalg.inv(design[keep].T @ design[keep]) @ design[i])
        t = (y[i] - design[i] @ b) / np.sqrt(spread)
        assert found[i] == pytest.approx(min(1, 10 * 2 * stats.t.sf(abs(t), freedom)), rel=1e-6)


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("estimator", ["nls", "loglog", "ml"])
def test_a_slip_of_the_decimal_point_is_found_where_it_is(place, estimator):
    trials = np.full(len(X), 400.0) if estimator == "ml" else None
    y = np.round((0.9 * X**-0.3 + OFF) * 400) / 400
    sound = curve(y, count=trials, error="binomial" if estimator == "ml" else "gaussian")
    assert outlier_p(fit(sound, "power", estimator)).min() > 0.01
    slipped = np.where(np.arange(len(X)) == place, y / 10, y)
    wrong = curve(slipped, count=trials, error="binomial" if estimator == "ml" else "gaussian")
    p = outlier_p(fit(wrong, "power", estimator))
    assert p.argmin() == place and p[place] < 0.01


def test_sound_curves_are_told_of_a_point_as_rarely_as_the_level_says():
    g = np.random.default_rng(0)
    told = 0
    for _ in range(300):
        y = 0.9 * X**-0.3 * np.exp(0.05 * g.normal(size=len(X)))
        told += outlier_p(fit(curve(y), "power", "loglog")).min() < 0.01
    # 3 are expected; more than 9 come once in a thousand
    assert told <= 9


def test_a_point_that_a_parameter_of_its_own_goes_through_is_not_tested():
    y = np.array([0.9, 0.2, 0.21, 0.19, 0.2])
    assert (outlier_p(fit(curve(y), "exponential_asymptote")) == 1).all()


@pytest.mark.parametrize("slip", [True, False])
def test_nothing_is_cited_that_hangs_on_one_point(slip):
    y = 0.55 * np.exp(-X / 40) + 0.3 * OFF
    if slip:
        y[3] /= 10
    frame = pd.DataFrame({"trial": X, "recall": y})
    found = fit_decay(frame, **ASKED)
    told = [one for one in found.cautions if "lies apart from the other points" in one]
    assert bool(told) is slip and (found.apart is not None) is slip
    if not slip:
        assert found.summary["apart"] is None
        return
    # one point hides how the others fall
    assert found.hangs_on is not None
    alone = fit_decay(frame.drop(index=3), **ASKED)
    assert found.apart.without.state == alone.comparison.standing("power").state
    assert found.apart.gamma_without == pytest.approx(alone.headline.gamma)
    assert found.summary["cited"] is None
    assert "nothing to cite: how the power law stands hangs on one point, at x = 4.64" in repr(found)
    assert r"\newcommand{\gammaRecall}{undefined}" in found.to_latex()
    assert "hangs on one point" in found.to_latex()


def test_a_point_apart_that_decides_nothing_is_told_and_the_law_is_cited():
    y = 0.9 * X**-0.3 + 0.1 * OFF
    y[5] *= 0.93
    found = fit_decay(pd.DataFrame({"trial": X, "recall": y}), **ASKED)
    assert found.apart is not None and found.hangs_on is None
    assert f"Without it power survives, gamma = {found.apart.gamma_without:.3f}" in " ".join(found.cautions)
    assert found.summary["cited"]["form"] == "power"
    assert "cite gamma" in repr(found)
