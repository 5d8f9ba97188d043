"""One observation apart from all others: found where it was planted, silent where there is none, and nothing
is cited that hangs on it.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from consolidation import fit_decay
from consolidation.decay.comparison import compare
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import FORMS
from consolidation.decay.variation.influence import point_p, row_p, untested

pytestmark = pytest.mark.slow

FEW = ("power", "exponential", "logarithmic", "constant")
ASKED = {"x": "trial", "y": "recall", "measure": "recall", "clock": "repetition"}
X = np.geomspace(1, 100, 10)
# noise that is alike in size and in sign nowhere
OFF = 0.01 * np.array([0.3, -1.0, 0.8, 0.2, -0.6, 1.0, -0.9, 0.4, -0.5, 0.3])
POWER = 0.9 * X**-0.3 * (1 + 3 * OFF)


def curve(y, **more):
    return Curve(
        "planted", X[: len(y)], np.asarray(y), Clock("repetition", "count"), measure="recall", **more
    )


def slipped(y, place, times=0.1):
    return np.where(np.arange(len(y)) == place, np.asarray(y) * times, y)


def accused(of, forms=tuple(FORMS)):
    """The place that is named, or None."""
    p, aicc = point_p(compare(of, forms))
    return int(np.argmin(np.where(p < 0.01, aicc, np.inf))) if (p < 0.01).any() else None


def test_of_a_linear_form_it_is_the_prediction_of_a_point_from_the_others():
    y = 0.9 - 0.15 * np.log(X) + OFF
    found, _ = point_p(compare(curve(y), ("logarithmic",), "nls"))
    design = np.column_stack([np.ones(len(X)), -np.log(X)])
    for i in range(len(X)):
        keep = np.arange(len(X)) != i
        b, rss, *_ = np.linalg.lstsq(design[keep], y[keep], rcond=None)
        freedom = keep.sum() - 2
        spread = rss[0] / freedom * (1 + design[i] @ np.linalg.inv(design[keep].T @ design[keep]) @ design[i])
        t = (y[i] - design[i] @ b) / np.sqrt(spread)
        assert found[i] == pytest.approx(min(1, 10 * 2 * stats.t.sf(abs(t), freedom)), rel=1e-6)


# the first and the last x too, which a form with a break can go through
@pytest.mark.parametrize(("place", "times"), [(0, 0.1), (1, 0.1), (5, 0.1), (9, 0.1), (4, 5.0)])
def test_a_slip_is_found_where_it_is_whatever_forms_bend_to_it(place, times):
    assert accused(curve(slipped(POWER / 5, place, times))) == place


def test_a_sound_curve_has_no_point_apart():
    assert accused(curve(POWER)) is None
    assert accused(curve(0.15 + 0.75 * np.exp(-X / 15) + OFF)) is None


@pytest.mark.parametrize("place", [None, 0, 6])
def test_counted_trials_scatter_as_much_as_trials_do(place):
    trials = np.full(len(X), 400.0)
    y = np.round(0.9 * X**-0.3 * 400 * (1 + OFF)) / 400
    wrong = y if place is None else np.round(slipped(y, place) * 400) / 400
    assert accused(curve(wrong, count=trials, error="binomial"), FEW) == place
    # one error of 40, where .2 are expected, is not apart, whatever the normal distribution says
    rare = np.array([24, 9, 4, 2, 1, 1, 0, 0, 0, 1]) / 40
    assert accused(curve(rare, count=np.full(10, 40.0), error="binomial"), ("power", "exponential")) is None


def test_sound_curves_are_told_of_a_point_as_rarely_as_the_level_says():
    g, least = np.random.default_rng(0), []
    for _ in range(200):
        y = 0.9 * X**-0.3 * np.exp(0.05 * g.normal(size=len(X)))
        least.append(point_p(compare(curve(y), ("power",), "loglog"))[0].min())
    # p is uniform below 1 / 10: 2 of 200 below .01 are expected, and 20 below .1
    assert sum(p < 0.01 for p in least) <= 7
    assert 8 <= sum(p < 0.1 for p in least) <= 35


@pytest.mark.parametrize("slip", [True, False])
def test_nothing_is_cited_that_hangs_on_one_point(slip):
    y = 0.55 * np.exp(-X / 40) + 0.3 * OFF
    frame = pd.DataFrame({"trial": X, "recall": slipped(y, 3) if slip else y})
    found = fit_decay(frame, **ASKED, forms=FEW)
    told = [one for one in found.cautions if "lies apart from what the other points say" in one]
    assert bool(told) is slip and (found.apart is not None) is slip
    if not slip:
        assert found.summary["apart"] is None
        return
    alone = fit_decay(frame.drop(index=3), **ASKED, forms=FEW)
    assert found.apart.state_without == alone.comparison.standing("power").state == "does not survive"
    assert found.apart.without.estimate == pytest.approx(alone.headline.gamma)
    assert found.summary["cited"] is None and found.apart.hangs == "without it power does not survive"
    assert "nothing to cite: it hangs on one observation, at x = 4.64" in repr(found)
    assert r"\newcommand{\gammaRecall}{undefined}" in found.to_latex()
    assert "it hangs on one observation" in found.to_latex()


@pytest.mark.parametrize(("place", "times"), [(4, 5.0), (9, 5.0)])
def test_an_exponent_that_a_slip_moves_is_not_cited_though_its_form_survives(place, times):
    y = slipped(POWER / 5, place, times)
    found = fit_decay(pd.DataFrame({"trial": X, "recall": y}), **ASKED, forms=("power", "constant"))
    assert found.apart.x == pytest.approx(X[place])
    low, high = found.apart.without.lower, found.apart.without.upper
    assert low < 0.3 < high and not low < found.headline.gamma < high
    cited = found.summary["cited"]
    # on the logarithmic scale a slip in the middle tilts nothing
    assert cited is None or (cited["estimator"] == "loglog" and abs(cited["gamma"] / 0.3 - 1) < 0.15)
    assert place == 4 or cited is None


def test_a_point_apart_that_decides_nothing_is_told_and_the_law_is_cited():
    y = 0.9 * X**-0.3 + 0.1 * OFF
    y[5] *= 0.98
    found = fit_decay(pd.DataFrame({"trial": X, "recall": y}), **ASKED, forms=FEW)
    assert found.apart is not None and not found.apart.hangs
    assert "Without it power survives and has gamma = " in " ".join(found.cautions)
    assert found.summary["cited"]["form"] == "power"
    assert "cite gamma" in repr(found)


def test_eight_points_do_not_hang_on_one_because_seven_test_nothing():
    x = 2.0 ** np.arange(8)
    y = 0.9 * x**-0.3 * (1 + 0.1 * OFF[:8])
    y[3] *= 0.97
    found = fit_decay(pd.DataFrame({"trial": x, "recall": y}), **ASKED)
    assert found.apart is not None and found.apart.state_without == "not tested"
    gamma, without = found.headline.gamma, found.apart.without
    moved = not without.lower <= gamma <= without.upper and abs(gamma / without.estimate - 1) > 0.1
    assert bool(found.apart.hangs) == moved


def test_what_does_not_change_describes_it_as_well_so_nothing_is_cited():
    g = np.random.default_rng(4)
    frame = pd.DataFrame({"trial": X, "recall": 0.5 - 0.002 * np.log(X) + 0.05 * g.normal(size=10)})
    found = fit_decay(frame, **ASKED, forms=FEW)
    assert found.comparison.unchanging == "constant"
    assert found.summary["cited"] is None and "nothing to cite" in repr(found)


UNITS, STEPS = 12, np.array([1.0, 2, 3, 5, 8, 13, 21, 34])


def of_units(wrong=None):
    g = np.random.default_rng(1)
    rows = [
        (f"s{u}", x, min(1, (0.6 + 0.03 * u) * x ** -(0.3 + 0.01 * u) * np.exp(0.04 * g.normal())))
        for u in range(UNITS)
        for x in STEPS
    ]
    frame = pd.DataFrame(rows, columns=["subject", "trial", "recall"])
    if wrong is not None:
        frame.loc[wrong, "recall"] /= 10
    return frame


@pytest.mark.parametrize("wrong", [None, 0, 20, 37, 95])
def test_a_slip_in_one_row_of_one_unit_is_found(wrong):
    frame = of_units(wrong)
    p = row_p(frame["subject"].to_numpy(str), frame["trial"].to_numpy(), frame["recall"].to_numpy())
    assert (p < 0.001).sum() == (wrong is not None)
    assert wrong is None or p.argmin() == wrong


def test_a_row_is_predicted_from_all_others():
    """Ordinary least squares on the other rows: an effect of unit and x, and a slope of each unit."""
    frame = of_units(20)
    design = pd.get_dummies(frame[["subject", "trial"]].astype(str), dtype=float).to_numpy()
    own = pd.get_dummies(frame["subject"], dtype=float).to_numpy()
    design = np.hstack([design, own * np.log(frame["trial"].to_numpy())[:, None]])
    p, y = [], frame["recall"].to_numpy()
    for values in (y, np.log(y)):
        keep = np.arange(len(y)) != 20
        b, *_ = np.linalg.lstsq(design[keep], values[keep], rcond=None)
        freedom = keep.sum() - np.linalg.matrix_rank(design[keep])
        variance = np.sum((values[keep] - design[keep] @ b) ** 2) / freedom
        h = design[20] @ np.linalg.pinv(design[keep].T @ design[keep]) @ design[20]
        t = (values[20] - design[20] @ b) / np.sqrt(variance * (1 + h))
        p.append(min(1.0, len(y) * 2 * stats.t.sf(abs(t), freedom)))
    found = row_p(frame["subject"].to_numpy(str), frame["trial"].to_numpy(), y)
    assert found[20] == pytest.approx(max(p), rel=1e-6)


def test_units_that_fall_at_different_speeds_are_no_slips():
    g, told = np.random.default_rng(1), 0
    unit, x = np.repeat([f"s{u}" for u in range(10)], 8), np.tile(np.geomspace(1, 50, 8), 10)
    for _ in range(100):
        exponent = np.repeat(0.4 + 0.1 * g.normal(size=10), 8)
        told += (row_p(unit, x, 0.8 * x**-exponent * np.exp(0.04 * g.normal(size=80))) < 0.001).any()
    assert told <= 3


def test_the_row_is_named_and_left_out_alone():
    found = fit_decay(of_units(20), **ASKED, unit="subject", forms=FEW, bootstrap=100)
    assert (found.apart.unit, found.apart.x) == ("s2", 8.0)
    assert "at s2, x = 8 lies apart from the other rows of its unit and x" in " ".join(found.cautions)
    alone = fit_decay(of_units(20).drop(index=20), **ASKED, unit="subject", forms=FEW, bootstrap=100)
    assert found.apart.without.estimate == pytest.approx(alone.headline.gamma)


def test_what_is_too_large_to_be_held_apart_says_so():
    def of(x, units=None):
        unit = None if units is None else np.repeat([f"s{u}" for u in range(units)], len(x))
        x = np.tile(x, units or 1)
        return Curve("large", x, 1 / x, Clock("repetition", "count"), unit=unit)

    assert untested(of(np.arange(1.0, 73))) == ""
    assert untested(of(np.arange(1.0, 74))) == "73 x are more than 72"
    assert untested(of(np.arange(1.0, 74), 10)) == ""
    assert untested(of(np.arange(1.0, 101), 200)) == "20,000 rows of 200 units are many"
    assert untested(of(np.array([1.0, 2.0]), 10)) == "20 rows at 2 x are few"
    assert untested(of(np.arange(1.0, 6))) == "5 rows at 5 x are few"
    # 3 units have rows enough, 2 have points
    assert untested(of(np.arange(1.0, 9), 3)) == untested(of(np.arange(1.0, 9), 2)) == ""


def test_five_points_are_not_held_against_a_constant():
    p, _ = point_p(compare(curve([0.9, 0.3, 0.28, 0.27, 0.26]), tuple(FORMS)))
    assert (p == 1).all()
