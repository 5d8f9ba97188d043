"""A fit that did not converge but is ahead of all that did is said, and leaves the comparison undecided."""

import numpy as np
import pandas as pd
import pytest

from consolidation import fit_decay
from consolidation.decay import comparison
from consolidation.decay.comparison import compare, rivals
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import UNCONVERGED
from consolidation.experiments.readings import advantage, fit_forms, objection, standing, unconverged_ahead

X = np.geomspace(1, 100, 20)
FEW = ("power", "power_asymptote", "apex", "exponential", "constant")
NOISE = 0.02 * np.sin(7 * np.arange(20.0))
LAWS = {"power": 0.9 * X**-0.4, "exponential": 0.9 * np.exp(-X / 30)}


def curve(law="power", shift=0.0) -> Curve:
    return Curve("c", X, LAWS[law] + np.roll(NOISE, int(shift)), Clock("repetition", "count"))


@pytest.fixture
def stopped(monkeypatch):
    """Makes the fits of one form by one estimator such that did not converge, with an AICc that lies so far
    below (above 0) or above the smallest of all others.
    """
    fit_all = comparison.fit_all

    def stop(form, below, estimator="nls"):
        def fits(data, forms, way):
            found, reasons = fit_all(data, forms, way)
            if way == estimator and form in found:
                every = [fit_all(data, forms, one)[0] for one in comparison.estimators(data)]
                lowest = min(f.aicc for of in every for name, f in of.items() if name != form)
                object.__setattr__(found[form], "failures", (UNCONVERGED,))
                object.__setattr__(found[form], "aicc", lowest - below)
            return found, reasons

        monkeypatch.setattr(comparison, "fit_all", fits)

    return stop


def test_a_form_that_is_ahead_without_having_converged_leaves_it_undecided(stopped):
    plain = compare(curve(), FEW)
    assert (plain.ahead, plain.unconverged) == ({}, {})
    assert plain.standing("power").state == "survives"
    stopped("apex", 7.5)
    found = compare(curve(), FEW)
    assert found.best == plain.best
    assert found.ahead == {"apex": pytest.approx(7.5)}
    assert "the fit of apex (AICc 7.5 lower already) did not converge and is ahead" in found.verdict
    assert "so which form is best is undecided" in found.verdict
    assert "the pure power law is undecided" in found.verdict
    state = found.standing("power")
    assert (state.state, state.gap) == ("undecided", plain.standing("power").gap)
    assert "apex" in state.why
    # what is rejected stays so, whoever is ahead
    assert found.standing("constant").state == "does not survive"
    assert found.standing("apex").state == "undecided"
    beaten = compare(curve("exponential"), FEW)
    assert beaten.ahead
    assert beaten.standing("power").state == "does not survive"


def test_a_form_that_did_not_converge_and_is_behind_changes_nothing_for_others(stopped):
    plain = compare(curve(), FEW)
    stopped("apex", -5.0)
    found = compare(curve(), FEW)
    assert found.ahead == {}
    assert found.standing("power") == plain.standing("power")
    assert "undecided" not in found.verdict


def test_the_better_noise_of_a_form_may_be_the_one_that_did_not_converge(stopped):
    """The form has a fit that converged, with noise of equal size, and is still ahead with the other."""
    stopped("power_asymptote", 3.0, "loglog")
    found = rivals(curve(), FEW)
    assert found.fits["power_asymptote"].estimator == "nls"
    assert found.fits["power_asymptote"].converged
    assert found.ahead == {"power_asymptote": pytest.approx(3.0)}


@pytest.mark.slow
def test_a_report_cites_no_exponent_that_is_undecided(stopped):
    stopped("apex", 7.5)
    table = pd.DataFrame({"k": X, "seconds": curve().y})
    found = fit_decay(table, x="k", y="seconds", clock="repetition", measure="time", forms=FEW)
    assert "cite gamma" not in repr(found)
    assert "undecided: the fit of apex" in repr(found)
    assert "Caution: whether the form survives is undecided" in repr(found)
    assert "Whether this form survives is undecided" in found.to_latex()
    assert found.summary["standing"]["state"] == "undecided"


@pytest.mark.slow
def test_experiments_say_it_too_and_judge_no_exponent(stopped):
    def table(law):
        return fit_forms([curve(law, s) for s in range(4)], curve(law), FEW)

    plain = table("power")
    assert standing(plain) == ("survives", "")
    assert unconverged_ahead(plain) == ""
    assert set(plain["undecided_in_seeds"]) == {0.0}
    assert standing(table("exponential"))[0] == "does not survive"
    # the same two noises as a fit of its own
    alone = compare(curve(), FEW)
    assert dict(zip(plain["form"], plain["error"], strict=True)) == {n: alone.error(n) for n in FEW}
    assert plain.set_index("form").loc["power", "delta_aicc"] == pytest.approx(alone.standing("power").gap)
    stopped("apex", 7.5)
    found = table("power")
    assert found.set_index("form").loc["apex", "delta_unconverged"] == pytest.approx(-7.5)
    assert (found["delta_aicc"] == 0).sum() == 1
    behind = found.assign(delta_unconverged=found["delta_unconverged"] + 8, undecided_in_seeds=0.0)
    assert standing(behind) == ("survives", "")
    assert "apex" not in set(found.loc[found["best_in_seeds"] > 0, "form"])
    assert standing(found)[0] == "undecided"
    assert "apex (AICc 7.5 lower already)" in objection(found)
    assert standing(table("exponential"))[0] == "does not survive"
    # of seeds alone: more than half of them may reject the power law
    seeds = plain.assign(undecided_in_seeds=0.75)
    assert standing(seeds)[0] == "undecided"
    assert standing(plain.assign(undecided_in_seeds=0.5))[0] == "survives"


def test_an_advantage_is_known_where_the_better_of_two_did_not_converge(stopped):
    assert advantage(curve()) > 0 > advantage(curve("exponential"))
    stopped("power", 4.0)
    assert advantage(curve("exponential")) == pytest.approx(4.0)
    # with noise of equal size alone there is no other fit of it
    data = Curve("c", np.append(X, 200.0), np.append(LAWS["exponential"], 0.0), Clock("repetition", "count"))
    stopped("power", -4.0)
    assert np.isnan(advantage(data))


def test_relative_noise_decides_in_experiments_where_it_fits_better():
    g = np.random.default_rng(4)
    y = 0.9 * X**-0.4 * np.exp(0.3 * g.standard_normal(20))
    data = Curve("c", X, y, Clock("repetition", "count"))
    found = fit_forms([data] * 3, data, FEW).set_index("form")
    assert found.loc["power", "error"] == "lognormal"
    only = compare(data, FEW, "nls").table.set_index("form")
    assert found.loc["exponential", "delta_aicc"] != pytest.approx(only.loc["exponential", "delta_aicc"])
