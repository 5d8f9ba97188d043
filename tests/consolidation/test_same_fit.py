"""An exponent stands beside the AICc of its own fit, and beside that of the best form where it has one."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from consolidation import fit_decay
from consolidation.decay.comparison import compare
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import fit
from consolidation.fit.report import read_fit

pytestmark = pytest.mark.slow

FORMS = ("power", "power_asymptote", "shifted_power", "logistic", "exponential", "constant")
X = np.geomspace(1, 90, 14)
NOISE = np.random.default_rng(3).standard_normal((3, 14))
CURVES = {
    # the points of docs/start/memory.md
    "weakened": (
        [1.0, 2, 4, 7, 15, 30, 60, 90],
        [0.9, 0.78, 0.67, 0.59, 0.49, 0.41, 0.35, 0.32],
    ),
    "relative": (X, 0.5 * X**-0.4 * np.exp(0.15 * NOISE[0])),
    "rejected": (X, 0.6 * (1 + X / 5) ** -1.0 * np.exp(0.03 * NOISE[1])),
    "equal": (X, 0.6 * X**-0.4 + 0.01 * NOISE[2]),
}
DELAY = {"x": "days", "y": "recall", "clock": "retention interval", "clock_unit": "days", "measure": "recall"}


@pytest.fixture(scope="module")
def found():
    return {
        name: fit_decay(pd.DataFrame({"days": x, "recall": y}), forms=FORMS, bootstrap=100, **DELAY)
        for name, (x, y) in CURVES.items()
    }


def fits(name):
    """gamma and AICc above the best form of the power law, by nls and by loglog: fitted here."""
    x, y = (np.array(values, dtype=float) for values in CURVES[name])
    curve = Curve("recall", x, y, Clock("retention interval", "days"))
    all_of = [fit(curve, form, way) for form in FORMS for way in ("nls", "loglog")]
    least = min(one.aicc for one in all_of if one.converged)
    powers = [one for one in all_of if one.form.name == "power"]
    return [(f"{one.parameters['gamma']:.3f}", f"{one.aicc - least:.1f}") for one in powers]


@pytest.mark.parametrize(("name", "pairs"), [("weakened", 2), ("rejected", 2), ("relative", 1), ("equal", 0)])
def test_every_difference_of_aicc_is_that_of_the_gamma_before_it(found, name, pairs):
    parts = re.split(r"; |\. (?=[a-z])", repr(found[name]).split("rivals (AICc)")[0])
    said = [pair for part in parts for pair in re.findall(r"gamma = (\S+) .*AICc (\S+) above", part)]
    assert said == fits(name)[:pairs]
    # the numbers differ, so that a mixture of the two would be seen
    assert len({gap for _, gap in said}) == pairs


@pytest.mark.parametrize("name", list(CURVES))
def test_the_sentence_for_a_paper_gives_each_gamma_its_own_difference(found, name):
    own, other = fits(name)
    text = found[name].to_latex().split(" Caution:")[0]
    best, error = found[name].comparison.best, found[name].comparison.error(found[name].comparison.best)
    assert f"has $\\gamma = {own[0]}$" in text
    assert (f"AICc {own[1]} lower" in text) == ((best, error) != ("power", "gaussian"))
    nearer = f"with noise relative to y the form power has $\\gamma = {other[0]}$"
    assert (nearer in text) == (name in ("weakened", "rejected"))
    assert (f"an AICc {other[1]} above the best" in text) == (name in ("weakened", "rejected"))
    caution = [one for one in found[name].cautions if one.startswith("the form is ")]
    assert len(caution) == (name in ("weakened", "rejected"))
    for one in caution:
        assert f"its AICc is {own[1]} above that of {best} ({other[1]} with noise relative to y)" in one


def test_the_exponent_of_the_best_form_stands_beside_that_of_the_power_law(found, tmp_path):
    one = found["weakened"]
    own = one.of_best
    assert (own.form, own.estimator) == ("shifted_power", "nls")
    assert own.gamma == pytest.approx(one.forms.set_index("form")["gamma"]["shifted_power"])
    assert one.headline.form == "power"
    for text in (repr(one), one.to_latex()):
        assert f"{own.gamma:.3f}" in text
    assert "its gamma = 0.245 [0.238, 0.252] (nls, profile" in repr(one)
    assert r"its own $\gamma = 0.245$ (95\,\% interval 0.238 to 0.252)" in one.to_latex()
    folder = one.save(tmp_path / "run")
    assert read_fit(folder / "fit.json")["gamma_of_best_form"]["gamma"] == own.gamma
    # an older fit does not have it
    old = json.loads((folder / "fit.json").read_text())
    del old["gamma_of_best_form"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert read_fit(tmp_path / "old.json")["gamma_of_best_form"] is None
    # a best form without an exponent has none to show, and one exponent is not shown twice
    assert found["rejected"].comparison.best == "logistic"
    assert found["rejected"].of_best is None
    assert found["equal"].of_best == found["equal"].headline
    for name in ("rejected", "equal"):
        assert "; its gamma" not in repr(found[name])
        assert "its own" not in found[name].to_latex()


def test_what_survives_is_said_with_its_noise(found):
    (own, _), (other, _) = fits("relative")
    said = repr(found["relative"])
    # the fit with noise of equal size is rejected beside that with noise relative to y
    assert f"cite gamma = {other} " in said
    assert "; it survives beside " in said
    assert f"were not asked for), but not with noise of equal size: gamma = {own} " in said
    assert "were not asked for). rivals" in repr(found["equal"])
    # the one that is cited instead is fitted with the noise with which it survives
    instead = found["rejected"].exponent("shifted_power", "loglog")
    assert f"cite gamma = {instead.number.text()} of shifted_power (loglog" in repr(found["rejected"])


def test_the_warning_about_the_noise_says_of_which_form_it_speaks(found):
    noise = {
        name: [one for one in of.cautions if one.startswith("noise relative to y fits power better")]
        for name, of in found.items()
    }
    assert {name: len(of) for name, of in noise.items()} == {
        "weakened": 1,
        "relative": 1,
        "rejected": 0,
        "equal": 0,
    }
    other = "; the best form, shifted_power, fits better with noise of equal size (AICc 4.1 lower), so "
    assert other in noise["weakened"][0]
    assert "the best form" not in noise["relative"][0]


def test_the_verdict_says_what_becomes_of_a_power_law_with_more_parameters(found):
    assert found["weakened"].comparison.verdict.endswith(
        ", but a power law with more parameters, shifted_power, survives."
    )
    for name in ("rejected", "relative", "equal"):
        power, *more = (found[name].comparison.standing(f).gap for f in FORMS[:3])
        said = "with more parameters" in found[name].comparison.verdict
        assert said == (power > 2 and min(more) <= 2)
    # where nothing but power laws without an asymptote could be fitted, it is not tested
    x = np.arange(1.0, 8.0)
    few = Curve("c", x[:6], 0.9 * (1 + x[:6] / 3) ** -2.0, Clock("repetition", "count"))
    verdict = compare(few, ("power", "shifted_power", "general_power"), "nls").verdict
    assert "with more parameters, shifted_power, is not tested: with 6 points every form" in verdict
