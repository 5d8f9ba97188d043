"""Decay fits against lmfit, scipy, published fits, closed forms and simulation; commands and error
messages.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmfit
import numpy as np
import pandas as pd
import pytest
import ruptures
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import least_squares
from scipy.stats import gamma as gamma_distribution

from consolidation import fit_decay
from consolidation import humans as humans_command
from consolidation.benchmark.config import Config
from consolidation.benchmark.experiment import fits
from consolidation.config import EXPOSURE_CLOCKS
from consolidation.coverage import __main__ as coverage_command
from consolidation.coverage import simulation as coverage
from consolidation.coverage.config import Config as CoverageConfig
from consolidation.coverage.simulation import unit_interval, unit_truth
from consolidation.decay import forms, functions, humans
from consolidation.decay.analysis import Choices, analyse
from consolidation.decay.comparison import compare, vuong
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.equivalence import Exponent, Margin, equivalence
from consolidation.decay.exponents import human_exponents
from consolidation.decay.forms import FORMS, Form, Parameter
from consolidation.decay.inference import ESTIMATORS, bootstrap, collapse, fit, profile
from consolidation.decay.solver import Data, fit_best, fit_stack, solve
from consolidation.decay.transitions import split, transition
from consolidation.decay.variation.averaging import averaging
from consolidation.decay.variation.multiverse import _shape, fitted, multiverse
from consolidation.fit import __main__ as fit_command
from consolidation.fit.citation import latex
from consolidation.fit.config import FitConfig
from consolidation.fit.report import drawn_line, read_fit
from consolidation.fit.short import short
from consolidation.fit.source import read
from labbook.console import UserError
from labbook.estimate import Estimate
from tests.conftest import fails

REPETITIONS = Clock("repetition", "count")
OLD_FIT = Path(__file__).parent / "data" / "fit-schema-1.json"
TRUE = {
    "power": (0.9, 0.43),
    "power_asymptote": (0.8, 0.5, 0.1),
    "shifted_power": (0.9, 0.7, 3.0),
    "general_power": (0.7, 0.9, 3.0, 0.15),
    "apex": (0.75, 0.2, 40.0, 0.1),
    "exponential": (1.0, 9.0),
    "exponential_asymptote": (0.7, 8.0, 0.2),
    "stretched_exponential": (1.0, 9.0, 0.6),
    "logarithmic": (1.0, 0.2),
    "hyperbolic": (1.0, 7.0),
    "double_exponential": (0.5, 3.0, 0.4, 30.0),
    "logistic": (0.9, 7.0, 1.5),
    "broken_power": (0.5, 0.2, 0.9, 8.0),
    "constant": (0.4,),
}
X = np.geomspace(1, 100, 13)


def curve(x=X, y=None, form="power", **more) -> Curve:
    y = FORMS[form].value(x, np.array(TRUE[form])) if y is None else y
    return Curve("test", x, y, REPETITIONS, **more)


@pytest.mark.parametrize(
    ("series", "published"),
    [("ebbinghaus1885", 0.130), ("mack", 0.093), ("seitz", 0.099), ("dros_reps", 0.167)],
)
def test_published_fits_of_murre_and_dros(series, published):
    assert fit(humans.load(series), "power").exponent == pytest.approx(published, abs=0.0006)


@pytest.mark.parametrize("name", FORMS)
def test_gradients_are_those_of_central_differences(name):
    p = np.array(TRUE[name])
    step = 1e-6 * np.maximum(np.abs(p), 1e-3)
    numeric = [
        (FORMS[name].value(X, p + e) - FORMS[name].value(X, p - e)) / (2 * e.sum()) for e in np.diag(step)
    ]
    assert np.allclose(FORMS[name].gradient(X, p), np.stack(numeric, -1), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FORMS)
def test_exact_data_give_back_their_parameters(name):
    found = fit(curve(form=name), name)
    assert tuple(found.parameters.values()) == pytest.approx(TRUE[name], rel=1e-6)
    assert "did not converge" not in found.failures


@pytest.mark.parametrize("name", FORMS)
def test_the_batched_solver_reaches_scipys_optimum(name):
    g, form = np.random.default_rng(1), FORMS[name]
    p = np.array(TRUE[name])
    y = form.value(X, p) + 0.01 * g.standard_normal((20, len(X)))
    found = solve(form, Data(X, y, np.ones_like(y)), np.tile(p, (20, 1)))
    low, high = form.limits(X)
    for i in range(20):
        oracle = least_squares(
            lambda q, i=i: form.value(X, q) - y[i],
            p,
            lambda q: form.gradient(X, q),
            (low, high),
            x_scale="jac",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=2000,
        )
        assert found.objective[i] <= oracle.cost * (1 + 1e-9)
    assert found.converged.all()


@pytest.mark.parametrize(("name", "model"), [("power", "PowerLawModel"), ("exponential", "ExponentialModel")])
def test_lmfit_finds_the_same_and_ranks_the_same(name, model):
    g = np.random.default_rng(2)
    data = curve(y=FORMS["power"].value(X, np.array(TRUE["power"])) + 0.01 * g.standard_normal(len(X)))
    oracle = getattr(lmfit.models, model)()
    result = oracle.fit(data.y, oracle.guess(data.y, x=X), x=X)
    ours = fit(data, name)
    best = {"power": "exponent", "exponential": "decay"}[name]
    value = -ours.exponent if name == "power" else ours.parameters["tau"]
    assert value == pytest.approx(result.params[best].value, rel=2e-4)  # leastsq stops early
    assert 2 * ours.objective == pytest.approx(result.chisqr, rel=1e-8)
    other = lmfit.models.ConstantModel()
    null = other.fit(data.y, other.guess(data.y, x=X), x=X)
    assert ours.bic - fit(data, "constant").bic == pytest.approx(result.bic - null.bic, abs=1e-6)


def test_profile_intervals_are_those_of_lmfit():
    g = np.random.default_rng(3)
    data = curve(y=FORMS["power"].value(X, np.array(TRUE["power"])) + 0.02 * g.standard_normal(len(X)))
    oracle = lmfit.models.PowerLawModel()
    result = oracle.fit(data.y, oracle.guess(data.y, x=X), x=X)
    limits = result.conf_interval(sigmas=[0.95])["exponent"]
    found = profile(fit(data, "power"), "gamma").number
    assert (found.lower, found.upper) == pytest.approx((-limits[2][1], -limits[0][1]), rel=2e-3)


def test_a_gamma_mixture_of_exponentials_is_the_shifted_power_law():
    exponent, tau = 0.6, 4.0
    rate = gamma_distribution(exponent, scale=1 / tau)
    y = np.array([quad(lambda u, x=x: np.exp(-rate.ppf(u) * x), 0, 1, limit=500, epsabs=1e-12)[0] for x in X])
    found = fit(curve(y=y), "shifted_power")
    assert found.parameters["a"] == pytest.approx(1, abs=1e-5)
    assert found.exponent == pytest.approx(exponent, rel=1e-4)
    assert found.parameters["tau"] == pytest.approx(tau, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 1000), st.floats(0.01, 100), st.floats(0.05, 2))
def test_units_of_x_and_y_leave_the_exponent_of_the_power_law_alone(x_factor, y_factor, exponent):
    g = np.random.default_rng(4)
    y = 0.9 * X**-exponent * np.exp(0.02 * g.standard_normal(len(X)))
    plain = fit(curve(y=y), "power")
    other = fit(curve(X * x_factor, y * y_factor), "power")
    assert other.exponent == pytest.approx(plain.exponent, rel=1e-6)
    assert profile(other, "gamma").number.upper == pytest.approx(
        profile(plain, "gamma").number.upper, rel=1e-3
    )


def test_log_log_least_squares_is_linear_regression_of_logarithms():
    g = np.random.default_rng(5)
    y = 0.9 * X**-0.4 * np.exp(0.1 * g.standard_normal(len(X)))
    slope, level = np.polyfit(np.log(X), np.log(y), 1)
    found = fit(curve(y=y), "power", "loglog")
    assert found.exponent == pytest.approx(-slope, rel=1e-9)
    assert found.parameters["a"] == pytest.approx(np.exp(level), rel=1e-9)


def test_binomial_likelihood_is_that_of_scipy():
    from scipy.optimize import minimize

    g, trials = np.random.default_rng(6), np.full(len(X), 60.0)
    successes = g.binomial(60, 0.9 * X**-0.4)
    data = curve(y=successes / 60, count=trials, error="binomial")

    def negative(p):
        f = np.clip(p[0] * X ** -p[1], 1e-12, 1 - 1e-12)
        return -np.sum(successes * np.log(f) + (60 - successes) * np.log(1 - f))

    oracle = minimize(
        negative, [0.8, 0.5], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 5000}
    )
    found = fit(data, "power", "ml")
    assert tuple(found.parameters.values()) == pytest.approx(tuple(oracle.x), rel=1e-5)


def test_weights_by_units_equal_refitting_the_drawn_units():
    g = np.random.default_rng(7)
    y = np.concatenate([0.9 * X**-e + 0.01 * g.standard_normal(len(X)) for e in (0.3, 0.4, 0.5)])
    data = curve(np.tile(X, 3), y, unit=np.repeat(["a", "b", "c"], len(X)))
    draw = np.array([[2.0, 0.0, 1.0]])
    means = (2 * y[: len(X)] + y[2 * len(X) :]) / 3
    found = collapse(data, "nls", draw)
    assert np.allclose(found.y[0], means)
    assert np.allclose(found.w, 3)


@pytest.mark.parametrize("points", [6, 13])
def test_profile_intervals_cover(points):
    g, x, inside, trials = np.random.default_rng(8), np.geomspace(1, 100, points), 0, 150
    for _ in range(trials):
        number = profile(
            fit(curve(x, 0.9 * x**-0.4 + 0.02 * g.standard_normal(points)), "power"), "gamma"
        ).number
        inside += number.lower <= 0.4 <= number.upper
    assert inside / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_bootstrap_intervals_over_units_cover():
    g, x, units, inside, trials = np.random.default_rng(9), np.geomspace(1, 100, 8), 15, 0, 150
    for trial in range(trials):
        exponents = 0.4 + 0.08 * g.standard_normal(units)
        y = 0.9 * x ** -exponents[:, None] * np.exp(0.05 * g.standard_normal((units, 8)))
        data = curve(np.tile(x, units), y.ravel(), unit=np.repeat(np.arange(units), 8).astype(str))
        number = bootstrap(fit(data, "power", "loglog"), trial, 400)["gamma"].number
        inside += number.lower <= 0.4 <= number.upper
    assert inside / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_the_best_form_wins_and_the_verdict_says_how_decisively():
    g = np.random.default_rng(10)
    data = curve(y=np.exp(-X / 20) + 0.003 * g.standard_normal(len(X)))
    found = compare(data, ["power", "exponential", "logarithmic", "constant"])
    assert found.best == "exponential"
    assert "decisively better" in found.verdict
    assert "does not survive" in found.verdict
    z, p = vuong(found.fits["power"], found.fits["exponential"])
    back, same = vuong(found.fits["exponential"], found.fits["power"])
    assert (z, p) == pytest.approx((-back, same))
    assert z < 0
    assert found.table["weight"].sum() == pytest.approx(1)


def test_averages_of_spread_exponentials_look_like_power_laws():
    g = np.random.default_rng(11)
    units = 40
    shapes = {}
    for name, spread in (("wide", 1.5), ("narrow", 0.02)):
        tau = 20 * np.exp(spread * g.standard_normal((units, 1)))
        y = np.exp(-X / tau) + 0.003 * g.standard_normal((units, len(X)))
        data = curve(np.tile(X, units), y.ravel(), unit=np.repeat([f"{i:02d}" for i in range(units)], len(X)))
        shapes[name] = averaging(data, simulations=100)
    assert shapes["wide"].power_wins < 0.2
    assert shapes["wide"].simulated[0] > shapes["narrow"].simulated[0]
    assert shapes["narrow"].simulated[2] < 0.1
    assert "decides nothing" in shapes["wide"].verdict or shapes["wide"].simulated[2] <= 0.05


def test_every_specification_of_an_exact_power_law_without_changes_gives_its_exponent():
    found = multiverse({"repetition": curve()}, (0.4, 0.5))
    plain = found.table[
        (found.table["offset"] == "x")
        & (found.table["floor"] == "none")
        & (found.table["form"] == "power")
        & (found.table["normalisation"] != "odds")
    ]["gamma"].dropna()
    assert len(plain) >= 10
    assert np.allclose(plain, 0.43, atol=1e-6)
    assert found.summary["specifications"] == len(found.table)
    assert found.table["gamma"].isna().sum() == (found.table["failures"] != "").sum()


def test_specifications_solved_at_once_are_those_solved_one_at_a_time():
    """With units and trials, so that all four estimators apply; windows cut x to different lengths."""
    g = np.random.default_rng(18)
    x, units = np.geomspace(1, 100, 9), 3
    y = g.binomial(80, np.tile(0.8 * x**-0.4 + 0.05, units)) / 80
    data = curve(np.tile(x, units), y, unit=np.repeat(list("abc"), 9), count=np.full(27, 80.0))
    rows = [row for row, _ in fitted(data)]
    keys = ("offset", "normalisation", "floor", "window")
    compared = 0
    for row in rows[::5]:
        if not np.isnan(row["gamma"]):
            shaped = _shape(data, *(row[key] for key in keys))
            alone = fit(shaped, row["form"], row["estimator"])
            assert alone.failures == ()
            assert row["gamma"] == pytest.approx(alone.exponent, rel=1e-6)
            compared += 1
    assert compared > 40
    assert {row["estimator"] for row in rows if not np.isnan(row["gamma"])} == set(ESTIMATORS)


def test_a_stack_of_different_x_is_solved_like_its_parts():
    g, form = np.random.default_rng(19), FORMS["shifted_power"]
    parts = []
    for n in (7, 13, 10):
        x = np.geomspace(1, 10 * n, n)
        y = form.value(x, np.array(TRUE["shifted_power"])) + 0.005 * g.standard_normal((2, n))
        parts.append(Data(x, y, np.ones((2, n))))
    whole, _ = fit_stack(form, parts)
    alone = [fit_best(form, part)[0] for part in parts]
    assert np.allclose(whole.parameters, np.concatenate([a.parameters for a in alone]), rtol=1e-6)
    assert np.allclose(whole.objective, np.concatenate([a.objective for a in alone]), rtol=1e-9)


def test_change_points_are_those_of_ruptures():
    g = np.random.default_rng(12)
    for _ in range(20):
        y = np.where(np.arange(60) < g.integers(5, 55), 1.0, 0.2) + 0.1 * g.standard_normal(60)
        oracle = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(y).predict(1)[0]
        assert split(y[None])[0] == oracle


def test_a_planted_transition_is_found_with_its_width_and_event():
    x, g = np.arange(0, 4000, 50.0), np.random.default_rng(13)
    starts = 2000 + 40 * g.standard_normal((6, 1))
    y = np.clip(1 - (x - starts + 200) / 400, 0, 1) + 0.005 * g.standard_normal((6, len(x)))
    found = transition(x, y, {"end of schedule": 2000.0, "other": 3000.0})
    assert found.location.lower <= 2000 <= found.location.upper
    assert found.width.estimate == pytest.approx(0.8 * 400, rel=0.15)
    assert found.events == ("end of schedule",)
    with pytest.raises(UserError, match="at least 2 units"):
        transition(x, y[:1])


def exponent(
    name: str, value: float, half: float = 0.01, clock: Clock = REPETITIONS, form: str = "power"
) -> Exponent:
    return Exponent(name, Estimate(value, value - half, value + half, 9), form, clock, "all")


def test_equivalence_knows_three_answers():
    close = [exponent(f"h{i}", v) for i, v in enumerate((0.44, 0.45, 0.46, 0.45, 0.44, 0.46))]
    margin = Margin(0.05, "half of .4 to .5")
    assert "is equivalent" in equivalence(exponent("model", 0.45), close, margin).verdict
    assert "is different" in equivalence(exponent("model", 0.6), close, margin).verdict
    wide = [exponent(f"h{i}", v) for i, v in enumerate((0.1, 0.9, 0.4))]
    assert "is undecided" in equivalence(exponent("model", 0.5), wide, margin).verdict


def test_different_clocks_and_forms_are_refused():
    other = exponent("h", 0.4, clock=Clock("retention interval", "s"))
    with pytest.raises(UserError, match="different clocks cannot be compared"):
        equivalence(exponent("model", 0.4), [other] * 3)
    with pytest.raises(UserError, match="different forms"):
        equivalence(exponent("model", 0.4), [exponent("h", 0.4, form="shifted_power")] * 3)
    seconds = curve().on_clock(Clock("retention interval", "s"), 60)
    assert "rescaled by 60" in seconds.normalisation
    seconds.clock.require_same(other.clock)


def test_failures_are_loud():
    with pytest.raises(UserError, match="needs at least 4"):
        fit(curve(X[:3], X[:3]), "power")
    with pytest.raises(UserError, match="are not positive"):
        fit(curve(np.append(0.0, X)[:-1], X), "power")
    with pytest.raises(UserError, match="y are not positive"):
        fit(curve(y=np.where(X > 50, 0.0, 1.0)), "power", "loglog")
    with pytest.raises(UserError, match="number of trials"):
        fit(curve(), "power", "ml")
    with pytest.raises(UserError, match="at least two observations"):
        fit(curve(), "power", "weighted")
    with pytest.raises(UserError, match="at least 5"):
        bootstrap(fit(curve(), "power"))
    with pytest.raises(UserError, match="finite numbers"):
        curve(y=np.full(len(X), np.nan))
    with pytest.raises(UserError, match="there is no form"):
        fit(curve(), "parabola")
    steps = fit(curve(y=np.where(X > 10, 0.0, 1.0)), "logistic")
    assert "a parameter is at its bound" in steps.failures
    flat = profile(fit(curve(y=0.5 + 0.01 * np.sin(X)), "shifted_power"), "gamma")
    assert any("open on one side" in f or "not monotone" in f for f in flat.failures)


def test_an_asymptote_that_y_cannot_have_is_said():
    """A recall that falls along -.4 + 1.3 x^-.15 tends to less than nothing."""
    below = replace(curve(y=-0.4 + 1.3 * X**-0.15), measure="recall")
    found = fit(below, "power_asymptote")
    assert found.impossible == "tends to c = -0.4, below 0, which no recall can be"
    assert fit(replace(below, measure="savings"), "power_asymptote").impossible == ""
    assert fit(replace(below, measure=""), "power_asymptote").impossible.endswith("where no y lies")
    assert fit(replace(below, y=below.y - 1), "power_asymptote").impossible != ""
    assert fit(replace(below, measure="", y=below.y - 1), "power_asymptote").impossible == ""
    assert fit(curve(form="power_asymptote"), "power_asymptote").impossible == ""
    rising = curve(y=1.4 - 0.7 * X**-0.5, count=np.full(len(X), 9.0))
    assert fit(replace(rising, y=rising.y.clip(0, 1)), "constant").impossible == ""
    grown = replace(curve(y=0.9 - 0.2 * X**0.3), measure="recall")
    assert "minus infinity, below 0" in fit(grown, "power_asymptote").impossible
    report = analyse(below, Choices(forms=("power", "power_asymptote", "constant")))
    assert "though it tends to c = -0.4" in report.comparison.verdict
    assert any("which no recall can be" in caution for caution in report.cautions)
    lines = "\n".join(short(report))
    assert "no form with an exponent survives that tends to what y can be" in lines
    assert "cite gamma" not in lines


@pytest.mark.parametrize("seed", range(6))
def test_forms_reach_what_they_hold(seed):
    """A form is never worse than one that is a special or limiting case of it, on power laws and exponentials
    with noise; on a power law without noise, its offset goes to nothing.
    """
    g = np.random.default_rng(seed)
    noise = 0.01 * g.standard_normal(len(X))
    for y in (0.9 * X ** -g.uniform(0.1, 1.5) + noise, 0.9 * np.exp(-X / g.uniform(3, 60)) + noise):
        data = curve(y=y)
        loss = {name: fit(data, name).objective for name in FORMS}
        for wide, narrow in (
            ("shifted_power", "power"),
            ("power_asymptote", "power"),
            ("general_power", "shifted_power"),
            ("general_power", "power_asymptote"),
            ("apex", "power_asymptote"),
            ("apex", "exponential_asymptote"),
        ):
            assert loss[wide] <= loss[narrow] * (1 + 1e-4), (wide, narrow)
    exact = fit(curve(), "shifted_power")
    assert exact.exponent == pytest.approx(0.43, rel=1e-4)
    assert exact.objective < 1e-10


def test_two_points_are_refused_in_one_sentence():
    with pytest.raises(UserError) as caught:
        compare(curve(X[:2], X[:2]), list(FORMS))
    assert str(caught.value).count("different x") == 1
    assert "2 different x; the forms have 1 to 4 parameters and need 3 to 6" in str(caught.value)


def test_people_are_on_the_first_page_by_name():
    """Undecided, and who is nearest, without --full; a rejected form concludes nothing."""
    g = np.random.default_rng(20)
    y = 5 * X**-0.3 * np.exp(0.05 * g.standard_normal(len(X)))
    report = analyse(replace(curve(y=y), measure="time"), Choices(forms=("power", "constant")))
    line = next(line for line in short(report) if line.startswith("humans, time: "))
    states = {"equivalent": "equivalent to", "different": "different from", "undecided": "undecided whether"}
    assert states[report.equivalences[0].state] in line
    assert f"the 3 nearest of {report.equivalences[0].mean.n} studies" in line
    assert not any(series in line for series in humans.names())
    other = replace(report, comparison=compare(curve(y=np.exp(-X / 20)), ["power", "exponential"]))
    assert "nothing is concluded, because the form is rejected" in "\n".join(short(other))


def test_the_papers_own_points_do_not_lie_on_its_line():
    data = humans.load(humans.PAPER_SERIES)
    number = profile(fit(data, "power"), "gamma").number
    assert number.lower > 0.43
    assert "k = 100, where it is 0.123 and the point 0.070" in drawn_line(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "run"
    fit_command.main(["kolers1976_inverted", "--out", str(out), "--window", "1", "20"])
    return out


def test_the_command_leaves_everything_a_paper_needs(finished):
    names = {p.name for p in finished.iterdir()}
    figures = {
        f"decay_{kind}.{end}" for kind in ("fits", "specifications", "forest") for end in ("png", "pdf")
    }
    tables = {"forms.csv", "exponents.csv", "multiverse.csv", "units.csv"}
    assert names == {
        "config.json",
        "provenance.json",
        "fit.json",
        "summary.json",
        "report.html",
        "gamma.tex",
        "gamma.bib",
        *tables,
        *figures,
    }
    found = json.loads((finished / "fit.json").read_text())
    assert {"gamma", "lower", "upper", "n", "form", "estimator", "clock", "window", "unit", "method"} <= set(
        found["gamma"]
    )
    assert found["schema"] == 3
    assert found["window"] == "1 to 20 count"
    assert len(found["humans"]) == 14
    text = (finished / "gamma.tex").read_text()
    assert r"\newcommand{\gammaKolersOneNineSevenSixInverted}" in text
    assert "95\\,\\%" in text
    assert "@misc{remington_menu" in (finished / "gamma.bib").read_text()


@pytest.mark.slow
def test_a_csv_with_units_and_trials(tmp_path, capsys):
    g, rows = np.random.default_rng(14), []
    for seed in range(8):
        p = 0.9 * X ** -(0.4 + 0.03 * g.standard_normal())
        rows += [
            {"k": x, "p": g.binomial(200, q) / 200, "seed": seed, "m": 200} for x, q in zip(X, p, strict=True)
        ]
    pd.DataFrame(rows).to_csv(tmp_path / "model.csv", index=False)
    base = [str(tmp_path / "model.csv"), "--x", "k", "--y", "p", "--clock", "repetition"]
    fit_command.main(
        [*base, "--unit", "seed", "--count", "m", "--bootstrap", "300", "--out", str(tmp_path / "run")]
    )
    found = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert found["gamma"]["estimator"] == "ml"
    assert found["gamma"]["method"] == "jackknife"
    assert found["gamma"]["unit"] == "seed"
    assert found["gamma"]["lower"] < 0.4 < found["gamma"]["upper"]
    assert found["averaging"] is not None
    assert len(pd.read_csv(tmp_path / "run" / "units.csv")) == 8
    out = capsys.readouterr().out
    assert "jackknife over seeds" in out
    assert out.strip().splitlines()[-1] == str(tmp_path / "run")


def test_bad_requests_name_the_flag(capsys, tmp_path):
    table = pd.DataFrame({"k": X, "p": X**-0.4, "series": ["a"] * 6 + ["b"] * 7})
    table.to_csv(tmp_path / "t.csv", index=False)
    path = str(tmp_path / "t.csv")
    assert "there is no series 'nobody'" in fails(fit_command.main, capsys, ["nobody"])
    assert "does not exist" in fails(fit_command.main, capsys, [str(tmp_path / "gone.csv")])
    assert "Change --x" in fails(fit_command.main, capsys, [path, "--x", "q"])
    assert "Choose one with --series" in fails(fit_command.main, capsys, [path, "--x", "k", "--y", "p"])
    assert "Change --series" in fails(
        fit_command.main, capsys, [path, "--x", "k", "--y", "p", "--series", "c"]
    )
    assert "--clock" in fails(fit_command.main, capsys, [path, "--x", "k", "--y", "p", "--series", "b"])
    assert "Change --window" in fails(fit_command.main, capsys, ["mack", "--window", "1", "2"])
    assert "Change --forms" in fails(fit_command.main, capsys, ["mack", "--forms", "parabola", "power"])
    table.assign(p="x").to_csv(path, index=False)
    assert "has no number in" in fails(
        fit_command.main, capsys, [path, "--x", "k", "--y", "p", "--series", "b", "--clock", "repetition"]
    )


def test_human_files_are_checked(tmp_path):
    good = pd.read_csv(humans.DATA / "human" / "practice.csv").query("series == 'lewicki_all17'")
    path = tmp_path / "own.csv"
    cases = {
        "lacks the columns": good.drop(columns="clock"),
        "line 4 of the file (data row 3) has no number in value but 'no'": good.assign(
            value=["1", "2", "no", *(["3"] * (len(good) - 3))]
        ),
        "cannot count in 'minutes'": good.assign(clock_unit="minutes"),
        "is not known; there are": good.assign(clock="tea"),
        "confidence is one of": good.assign(confidence="sure"),
        "twice": pd.concat([good, good]),
    }
    for message, table in cases.items():
        table.to_csv(path, index=False)
        with pytest.raises(UserError, match=re.escape(message)):
            humans.read_csv(path)
    good.to_csv(path, index=False)
    assert len(humans.read_csv(path)) == 17
    assert len(humans.list_series()) == len(set(humans.registry()["series"]))
    assert "practice" not in set(humans.list_series()["clock"])


def test_only_series_of_which_everything_is_known_are_compared():
    known = [series for series in humans.list_series()["series"] if not humans.lacks(series)]
    table = humans.list_series().set_index("series").loc[known]
    assert len(known) == 26
    assert table[["doi", "n_subjects", "licence"]].notna().all(axis=None)
    assert table["doi"].str.match(r"10\.\d{4,}/\S+$").all()
    assert humans.list_series()["doi"].notna().sum() - 1 == 28  # without the preprint's own series
    compared, left = human_exponents(REPETITIONS)
    assert {exponent.name for exponent in compared} <= set(known)
    assert "its DOI is not known" not in left["kolers1976_inverted"]
    assert "its number of subjects is not known; --human kolers1976_inverted" in left["kolers1976_inverted"]
    named, _ = human_exponents(REPETITIONS, series=["kolers1976_inverted"])
    assert [exponent.name for exponent in named] == ["kolers1976_inverted"]
    titles = [humans.title(series) for series in humans.names() if series != humans.PAPER_SERIES]
    assert len(set(titles)) == len(titles)
    assert not set(titles) & set(humans.names())


def test_the_registry_prints(capsys):
    humans_command.main([])
    out = capsys.readouterr().out
    assert "kolers1976_inverted" in out
    assert "retention interval" in out


@pytest.mark.slow
def test_the_python_interface_says_the_same(finished):
    found = fit_decay(humans.load("kolers1976_inverted").within(1, 20))
    table = pd.read_csv(finished / "exponents.csv")
    assert np.allclose(found.to_frame()["gamma"], table["gamma"])
    assert "gamma = " in found.fit_report()
    assert latex(found) == found.to_latex()
    assert len(found.plot().axes) == 3


def test_the_benchmark_reaches_the_same_optimum():
    row = fits(Config(curves=1, replicates=30, sample=10))
    assert row["worst_excess"] < 1e-9
    assert row["ratio"] > 1


def test_starts_do_not_decide():
    """The best of many starts is found again from any of the ten best."""
    g, form = np.random.default_rng(15), FORMS["shifted_power"]
    y = form.value(X, np.array(TRUE["shifted_power"])) + 0.005 * g.standard_normal(len(X))
    best, first = fit_best(form, Data(X, y[None], np.ones((1, len(X)))))
    n = first.shape[1]
    found = solve(form, Data(X, np.tile(y, (n, 1)), np.ones((n, len(X)))), first[0])
    assert (found.objective <= best.objective * (1 + 1e-9)).mean() > 0.5


def test_the_command_line_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "consolidation.fit", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "--human" in done.stdout


def test_an_old_fit_is_still_read(tmp_path):
    old = read_fit(OLD_FIT)
    assert old["schema"] == 1
    assert (old["change_point"], old["by_clock"], old["shown"]) == (None, {}, [])
    assert old["gamma"]["gamma"] == json.loads(OLD_FIT.read_text())["gamma"]["gamma"]
    with pytest.raises(UserError, match="cannot be read as a fit"):
        read_fit(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text("[]")
    with pytest.raises(UserError, match="JSON but no fit"):
        read_fit(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text(json.dumps({**old, "schema": 99}))
    with pytest.raises(UserError, match="has version 99"):
        read_fit(tmp_path / "fit.json")


def test_what_falls_starts_at_the_largest_mean():
    x = np.tile([1.0, 2.0, 3.0, 4.0], 2)
    data = curve(x, np.array([0.1, 0.9, 0.5, 0.2, 0.3, 0.7, 0.8, 0.1]), unit=np.repeat(["a", "b"], 4))
    assert np.unique(data.falling().x).tolist() == [2, 3, 4]
    assert data.falling().window == "2 to 4 count"
    assert curve().falling().window == "all"


def test_jackknife_intervals_of_a_mean_are_students():
    """Least squares of a constant over few units is the mean of the units, whose jackknife-t interval is
    Student's.
    """
    g = np.random.default_rng(3)
    levels = 0.5 + 0.1 * g.standard_normal(6)
    data = curve(np.tile(X, 6), np.repeat(levels, len(X)), unit=np.repeat(np.arange(6), len(X)).astype(str))
    found = bootstrap(fit(data, "constant"))["a"]
    half = stats.t.ppf(0.975, 5) * levels.std(ddof=1) / np.sqrt(6)
    assert found.method == "jackknife"
    assert (found.number.lower, found.number.upper) == pytest.approx(
        (levels.mean() - half, levels.mean() + half)
    )


@pytest.mark.slow
def test_jackknife_intervals_over_few_units_cover():
    g = np.random.default_rng(6)
    trials = 300
    truth = unit_truth("power")
    hits = 0
    for _ in range(trials):
        number = unit_interval("power", 6, 200, g)
        hits += number.lower <= truth <= number.upper
    assert hits / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.slow
def test_the_coverage_command_resumes_and_names_what_is_outside(tmp_path, capsys):
    args = ["--simulations", "1", "--replicates", "50", "--out", str(tmp_path / "c.csv")]
    coverage_command.main(args)
    table = pd.read_csv(tmp_path / "c.csv")
    assert {"points", "units"} == set(table["design"])
    assert set(table["form"]) == set(FORMS)
    assert f"of {len(table)} rows between 93 and 97 %" in capsys.readouterr().out
    table.iloc[:-1].to_csv(tmp_path / "c.csv", index=False)
    coverage_command.main(args)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "c.csv"), table)


@pytest.mark.slow
def test_the_reference_run_is_fitted_on_its_clock_and_not_against_humans(tmp_path, capsys):
    fit_command.main(
        [
            "--bootstrap",
            "200",
            "--forms",
            "power",
            "exponential",
            "logistic",
            "constant",
            "--out",
            str(tmp_path / "run"),
        ]
    )
    found = read_fit(tmp_path / "run" / "fit.json")
    assert found["clock"]["counts"] == "repetitions over training"
    assert set(found["by_clock"]) == {f"{c} (count)" for c in EXPOSURE_CLOCKS}
    assert found["gamma"]["unit"] == "seed"
    assert found["gamma"]["n"] == 5
    assert found["equivalences"] == []
    assert len(found["shown"]) == 14
    assert found["change_point"]["location"]["n"] == 5
    assert "not compared. Compare them on purpose with --on-clock" in found["missing"]["humans"]
    assert "from the largest mean on" in capsys.readouterr().out
    assert r"\newcommand{\gammaCRAM}" in (tmp_path / "run" / "gamma.tex").read_text()
    on_purpose = read(FitConfig(on_clock="repetition", on_clock_factor=1)).curve
    assert on_purpose.clock == REPETITIONS
    assert "x rescaled by 1 from repetitions over training" in on_purpose.normalisation
    compared = analyse(on_purpose, Choices(forms=("power", "constant")))
    assert [e.measure for e in compared.equivalences] == ["time", "error"]
    assert compared.shown == []
    assert "is not known. Say it with --on-clock-factor" in fails(
        fit_command.main, capsys, ["--on-clock", "repetition"]
    )
    assert "there is no clock 'tea'" in fails(fit_command.main, capsys, ["mack", "--on-clock", "tea"])


@pytest.mark.slow
def test_a_new_form_is_one_entry(monkeypatch, tmp_path):
    """A power law of 1 + x in the registry is fitted, compared, simulated, drawn and documented."""
    one_more = Form(
        name="power_of_one_more",
        formula="a (1 + x)^-gamma",
        latex=r"a\,(1 + x)^{-\gamma}",
        arguments=(
            Parameter("a", "y", 0.9, linear=True),
            Parameter("gamma", "1", 0.4, limits=(-50.0, 50.0)),
        ),
        checked="gamma",
        value=lambda x, p: functions.power(1 + x, p),
        gradient=lambda x, p: functions.power_gradient(1 + x, p),
        grid=lambda x: np.linspace(0.1, 2, 12)[:, None],
        source="counting starts one earlier",
        exponent="gamma",
        power_law=True,
        nested_with=("shifted_power",),
    )
    monkeypatch.setitem(FORMS, one_more.name, one_more)
    g = np.random.default_rng(17)
    data = curve(y=0.9 * (1 + X) ** -0.6 + 0.001 * g.standard_normal(len(X)))
    assert fit(data, one_more.name).exponent == pytest.approx(0.6, abs=0.01)
    report = fit_decay(data)
    assert report.comparison.best == one_more.name
    against = report.comparison.table.set_index("form")
    assert np.isfinite(against.loc[one_more.name, "held_out_rmse"])
    assert one_more.nested(FORMS["shifted_power"])
    assert FORMS["shifted_power"].nested(one_more)
    assert not one_more.nested(FORMS["power"])
    assert one_more.name in set(report.exponents["form"])
    assert one_more.name in set(report.multiverse.table["form"])
    assert one_more.formula in report.fit_report()
    names = {text.get_text() for axes in report.plot().axes for text in axes.texts}
    assert one_more.name.replace("_", " ") in names
    shown = replace(report, exponents=report.exponents[report.exponents["form"] == one_more.name])
    assert one_more.latex in latex(shown)
    simulated = coverage.simulate(CoverageConfig(1, 50, out=tmp_path / "c.csv"))
    assert (simulated["form"] == one_more.name).sum() == len(coverage.POINTS) * len(coverage.NOISE)
    assert f"| {one_more.name} | `{one_more.formula}` | a, gamma | gamma | shifted_power |" in forms.table()
    assert one_more.name in FitConfig().forms


def test_the_documented_forms_are_those_of_the_registry():
    page = (Path(__file__).parents[3] / "docs" / "forms.md").read_text(encoding="utf-8")
    assert forms.table() in page
