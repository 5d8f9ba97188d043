"""What a fit lets a reader cite: a form that was held against its rivals, of values that there can be."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from consolidation import fit_decay
from consolidation.decay import humans
from consolidation.decay.comparison import compare
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import FORMS
from consolidation.fit.__main__ import main
from consolidation.fit.citation import bibtex
from consolidation.fit.config import FitConfig
from consolidation.fit.figures import forest, specification_curve
from consolidation.fit.short import cited
from consolidation.fit.source import given
from labbook.console import UserError
from labbook.estimate import Estimate

DAYS = {"x": "days", "clock": "retention interval", "clock_unit": "days", "bootstrap": 100}
BAND = "human range"
DELAY = ("--clock", "retention interval", "--clock-unit", "days")


def frame(x, y, name="recall"):
    return pd.DataFrame({"days": x, name: y})


def power(points, slope=-0.25):
    """A power law with alternating noise of half a hundredth."""
    x = np.geomspace(1, 90, points)
    return frame(x, 0.3 * x**slope * (1 + 0.005 * (-1.0) ** np.arange(points)))


def state(x, y, forms=tuple(FORMS), **more):
    curve = Curve("c", x, y, Clock("repetition", "count"), **more)
    return compare(curve, forms, "ml" if "count" in more else "nls").standing("power")


def test_a_form_survives_only_beside_one_with_an_asymptote():
    """Which forms have an AICc is that of Hurvich & Tsai: n has to exceed its k + 1, variance counted."""
    x = np.arange(1.0, 13)
    y = 0.8 * x**-0.4
    of_few = sum(len(form.parameters) + 1 + 1 < 5 for form in FORMS.values())
    five = state(x[:5], y[:5])
    why = f"5 points allow {of_few} of {len(FORMS)} forms, none with an asymptote; 8 or more would do"
    assert (five.state, five.why) == ("not tested", why)
    assert state(x, y).state == "survives"
    # at 7 points a fourth parameter costs 8 + 40 / 2 where a third costs 6 + 24 / 3: nothing wins that back
    seven = state(x[:7], y[:7])
    assert seven.state == "not tested"
    assert seven.why == (
        "with 7 points every form with an asymptote is 14 or more of AICc behind for its parameters alone; "
        "8 or more would do"
    )
    assert state(x[:8], y[:8]).state == "survives"
    # those who ask for no form with an asymptote test no more
    assert state(x[:5], y[:5], ("power", "exponential", "constant")).state == "not tested"
    assert state(x[:8], y[:8], ("power", "exponential", "constant")).state == "survives"
    # what is beaten by few rivals is beaten by more
    assert state(x[:5], np.exp(-x[:5])).state == "does not survive"
    # binomial likelihood has no variance to count, so one point fewer is enough
    for points, found in ((5, "not tested"), (6, "survives")):
        trials = np.full(points, 100.0)
        assert state(x[:points], y[:points].round(2), count=trials, error="binomial").state == found
    # one form alone has no rivals, and one that does not change is none
    for forms in (("power",), ("power", "constant")):
        assert state(x, y, forms).state == "not compared"


def test_schedules_that_differ_have_no_stray_x():
    """Staggered groups that share a day, jittered days, a second schedule, dropout, and no units."""
    days = np.array([1.0, 2, 4, 7, 14, 21, 30, 45, 60, 90, 120, 180])
    g = np.random.default_rng(0)
    groups = [np.append(1.0, days[1 + k :: 3]) for k in range(3) for _ in range(5)]
    jittered = [np.append(1.0, days[1:] * g.uniform(0.99, 1.01, 11)) for _ in range(12)]
    two = [days[::2]] * 8 + [days[1::2]] * 3
    dropout = [days[: 12 - n // 3] for n in range(20)]
    for units in (groups, jittered, two, dropout):
        x, unit = np.concatenate(units), np.repeat(np.arange(len(units)).astype(str), [len(u) for u in units])
        assert not len(Curve("c", x, 1 / x, Clock("delay", "days"), unit=unit).stray_x)
    assert not len(
        Curve("c", np.append(np.repeat(1.0, 10), days), np.ones(22), Clock("delay", "days")).stray_x
    )
    slipped = np.tile(days, 6)
    slipped[8] = 600.0
    unit = np.repeat(list("abcdef"), 12)
    assert Curve("c", slipped, 1 / slipped, Clock("delay", "days"), unit=unit).stray_x.tolist() == [600.0]


@pytest.mark.parametrize("points", [5, 12])
def test_too_few_points_are_said_everywhere(points):
    found = fit_decay(power(points), y="recall", measure="recall", **DAYS)
    few = points == 5
    for text in (repr(found), found.fit_report(), found.to_latex()):
        assert ("5 points allow" in text) == few
    assert ("cite gamma" in repr(found)) == (not few)
    assert ("; it survives beside its rivals" in repr(found)) == (not few)


@pytest.mark.slow
def test_an_x_of_one_unit_is_no_point_and_is_named():
    """One delay that slipped makes an eighth x: seven still test nothing."""
    x = np.tile([1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0], 6)
    unit = np.repeat([f"s{i}" for i in range(6)], 7)
    g = np.random.default_rng(1)
    y = 0.8 * x**-0.25 * np.repeat(1 + 0.05 * g.standard_normal(6), 7) * (1 + 0.02 * g.standard_normal(42))
    x[4] = 18.0
    found = fit_decay({"days": x, "recall": y, "s": unit}, y="recall", measure="recall", unit="s", **DAYS)
    assert cited(found) is None
    assert found.comparison.standing("power").why.startswith("with 7 points every form with an asymptote")
    assert any(
        "only one unit has x = 18 (s0), and lacks an x that all others have" in text
        for text in found.cautions
    )


@pytest.mark.slow
def test_rivals_that_were_not_asked_for_are_counted():
    asked = {**DAYS, "y": "recall", "measure": "recall"}
    some = fit_decay(power(12), **asked, forms=("power", "exponential", "logarithmic"))
    left = len(FORMS) - 3
    rivals = ", ".join(name for name in FORMS if name in ("exponential", "logarithmic"))
    assert f"survives beside {rivals} ({left} other forms were not asked for)" in repr(some)


@pytest.mark.slow
def test_what_rises_or_is_beaten_is_not_cited():
    rising = fit_decay(power(12, slope=0.25), y="recall", measure="recall", **DAYS)
    assert "nothing to cite: y rises with x" in repr(rising)
    assert "cite gamma" not in repr(rising)
    assert "Caution: y rises with x" in repr(rising)
    assert r"\newcommand{\gammaRecall}{undefined}" in rising.to_latex()
    x = np.geomspace(1, 90, 12)
    curved = frame(x, 0.3 * (1 + x / 3) ** -0.6 * (1 + 0.15 * np.sin(9 * np.arange(12.0))))
    beaten = fit_decay(curved, y="recall", measure="recall", **DAYS)
    assert beaten.comparison.standing("power").state == "is weakened"
    assert beaten.summary["cited"] is None and rising.summary["cited"] is None
    assert "nothing to cite: power law is not the best form; gamma" in repr(beaten)
    assert "cite gamma" not in repr(beaten).split("rivals")[0]
    # the macro of a text is as careful as the screen
    assert r"\newcommand{\gammaRecall}{undefined}" in beaten.to_latex()


def test_macros_are_those_of_the_form_that_is_cited():
    """A text that takes the macro cites what the screen says."""
    x = np.geomspace(1, 90, 14)
    noise = 1 + 0.01 * np.sin(9 * np.arange(14.0))
    asked = {**DAYS, "y": "recall", "measure": "recall"}
    asked["forms"] = ("power", "shifted_power", "exponential", "constant")
    shifted = fit_decay(frame(x, 0.9 * (1 + x / 8) ** -0.9 * noise), **asked)
    assert shifted.comparison.standing("power").state == "does not survive"
    taken = cited(shifted)
    assert taken is not None and taken.form != "power"
    text = shifted.to_latex()
    assert f"\\newcommand{{\\gammaRecall}}{{{taken.gamma:.3f}}}" in text
    assert f"\\newcommand{{\\gammaRecallForm}}{{{taken.form.replace('_', ' ')}}}" in text
    assert f"cited in its place is {taken.form.replace('_', ' ')} with $\\gamma = {taken.gamma:.3f}$" in text
    assert f"cite gamma = {taken.gamma:.3f}" in repr(shifted)
    assert (shifted.summary["cited"]["form"], shifted.summary["cited"]["gamma"]) == (taken.form, taken.gamma)
    # where the form is rejected, the tests against people say so in front
    humans = shifted.fit_report().partition("[[Humans]]")[2]
    assert "nothing is concluded, because the form is rejected" in humans
    none = fit_decay(frame(x, np.exp(-x / 20) * noise), **asked)
    assert cited(none) is None
    assert r"\newcommand{\gammaRecall}{undefined}" in none.to_latex()
    assert "no form is cited in its place" in none.to_latex()
    assert "no form with an exponent survives" in repr(none)
    assert "Caution, of the form that is rejected: " in none.to_latex()


@pytest.mark.slow
def test_a_text_says_what_is_cited_where_the_own_fit_is_rejected_or_nothing_is_compared():
    x = np.geomspace(1, 90, 14)
    noise = np.exp(0.15 * np.random.default_rng(3).standard_normal(14))
    asked = {**DAYS, "y": "recall", "measure": "recall"}
    found = fit_decay(frame(x, 0.5 * x**-0.4 * noise), **asked, forms=("power", "exponential", "constant"))
    taken = cited(found)
    assert taken is not None and (taken.form, taken.estimator) == ("power", "loglog")
    assert f"cited in its place is power by loglog with $\\gamma = {taken.gamma:.3f}$" in found.to_latex()
    figure = specification_curve(found)
    marked = {t.get_text() for t in figure.axes[0].texts}
    assert {f"default: γ = {found.headline.gamma:.2f}", f"cited: γ = {taken.gamma:.2f}"} <= marked
    plt.close(figure)
    alone = fit_decay(frame(x, 0.5 * x**-0.4 * noise), **asked, forms=("power",))
    assert "Nothing to cite, because this form is compared with no other: a power law" in alone.to_latex()


def test_the_tables_that_are_named_are_there():
    found = fit_decay(power(6), y="recall", **DAYS)
    named = repr(found).split("tables: ")[1].split(", ")
    assert len(named) == len(found.tables)
    for name, table in zip(named, found.tables.values(), strict=True):
        place = found
        for part in name.strip().split("."):
            place = getattr(place, part)
        pd.testing.assert_frame_equal(place, table)


@pytest.mark.slow
def test_a_measure_that_is_not_said_is_asked_for():
    unsaid, said = (fit_decay(power(6), y="recall", measure=m, **DAYS) for m in (None, "recall"))
    assert "what kind of measure recall is, is not said (measure" in repr(unsaid)
    assert "humans, savings" in repr(unsaid)
    assert "is not said" not in repr(said)
    assert "humans, savings" not in repr(said)
    assert "only 1 study, so no comparison; gamma of power in the one study: " in repr(said)
    left = [name for name in said.missing if name.startswith("human ")]
    assert f"humans: {len(left)} more series are not compared; `missing`" in repr(said) and left


@pytest.mark.parametrize("clock", ["repetition", "retention interval"])
def test_the_human_range_is_one_of_practice(clock):
    asked = {**DAYS, "clock": clock, "clock_unit": "count" if clock == "repetition" else "days"}
    found = fit_decay(power(8), y="recall", measure="recall", **asked)
    for draw in (forest, specification_curve):
        figure = draw(found)
        texts = [t.get_text().replace("\n", " ") for axes in figure.axes for t in axes.texts]
        assert any(BAND in text for text in texts) == (clock == "repetition")
        plt.close(figure)
    assert ("lie within 0.4 to 0.5" in found.multiverse.verdict) == (clock == "repetition")


@pytest.mark.parametrize(
    ("measure", "value", "message"),
    [
        ("recall", -0.1, "no recall is below 0"),
        ("error", -0.1, "no error is below 0"),
        ("time", -0.1, "no time is below 0"),
        ("recall", 80.0, "no recall is above 1. Is it in percent"),
        ("savings", 80.0, "no savings is above 1. Is it in percent"),
    ],
)
def test_values_that_a_measure_cannot_have_name_their_row(measure, value, message, tmp_path, capsys):
    table = power(8)
    table.loc[3, "recall"] = value
    table.to_csv(tmp_path / "t.csv", index=False)
    args = ["--x", "days", "--y", "recall"]
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "t.csv"), *args, *DELAY, "--measure", measure])
    assert stop.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "line 5" in said
    assert "--measure" in said


def read_in(table, **more):
    asked = {"x": "days", "y": "recall", "clock": "retention interval", "clock_unit": "days"}
    return given(table, FitConfig(source="frame", **asked | more)).curve


def test_values_that_there_can_be_are_read(capsys):
    table = power(8)
    table.loc[7, "recall"] = -0.05
    called = table.rename(columns={"recall": "share"})
    assert read_in(called, y="share", measure="savings").y.min() == -0.05
    with pytest.raises(UserError, match="no proportion of trials is below 0"):
        read_in(table.assign(n=9), count="n")
    assert "times every other" not in capsys.readouterr().err
    table.loc[0, "recall"] = 80.0
    assert read_in(table).y.max() == 80.0
    said = " ".join(capsys.readouterr().err.split())
    assert "y is 80 at 1, more than 10 times every other y" in said
    with pytest.raises(UserError, match=r"no proportion is above 1\. Is it in percent"):
        read_in(table.assign(n=9), count="n")


def test_a_number_without_limits_says_so():
    assert Estimate(0.3, -np.inf, np.inf, 4).text(2, n=True) == "0.30, no interval (n = 4)"
    assert Estimate(0.3, 0.1, np.inf, 4).text(2) == "0.30 [0.10, inf]"


def test_a_file_is_called_by_its_column(tmp_path, capsys):
    power(6).to_csv(tmp_path / "curve.csv", index=False)
    asked = ["--x", "days", "--y", "recall", "--measure", "recall", "--bootstrap", "100"]
    out = tmp_path / "run"
    main([str(tmp_path / "curve.csv"), *asked, *DELAY, "--out", str(out)])
    assert json.loads((out / "fit.json").read_text())["curve"] == "recall"
    assert r"\gammaRecall" in (out / "gamma.tex").read_text()


def sources(found):
    """The entries of the BibTeX file by key, and what stands outside of them."""
    blocks = bibtex(found).strip().split("\n\n")
    entries = {re.match(r"@misc\{(\w+),", b)[1]: b for b in blocks if b.startswith("@")}
    return entries, [b for b in blocks if not b.startswith("@")]


def fitted(**more):
    """The fit of a curve of recall to few forms, which are no part of what is cited."""
    table = power(6).rename(columns={"recall": "share"})
    return fit_decay(table, y="share", forms=("power", "exponential", "constant"), **DAYS | more)


@pytest.mark.slow
def test_only_what_was_compared_is_cited():
    entries, beside = sources(fitted(measure="recall"))
    assert set(entries) == {"attention_redundancy", "carpenter2008e1"}
    assert len(beside) == 1
    assert beside[0].startswith(
        "Drawn beside the curve and not compared, so without entries: Ebbinghaus 1885;"
    )
    every, beside = sources(fitted())
    assert {"ebbinghaus1885", "carpenter2008e1"} < set(every)
    assert beside == []
    # a clock of one's own is compared with nobody, and the page of the run has no sources
    alone = fitted(clock="delay")
    assert sources(alone) == ({"attention_redundancy": sources(alone)[0]["attention_redundancy"]}, [])
    # the preprint's range of exponents stands beside curves of practice, and a human curve has its own source
    practice = fit_decay("kolers1976_inverted", bootstrap=100, forms=("power", "constant"))
    assert {"cram2026", "kolers1976_inverted", "remington_menu"} <= set(sources(practice)[0])


def test_an_entry_has_its_own_doi_or_none():
    entries, _ = sources(fitted(measure="savings"))
    again = "published again in Murre \\& Dros 2015, doi 10.1371/journal.pone.0120644"
    for key in ("ebbinghaus1885", "ebbinghaus1880ms", "ebbinghaus_reps", "mack", "seitz"):
        assert "\n  doi =" not in entries[key]
        assert again in entries[key]
    for key in ("dros_reps", "dros_time"):
        assert "\n  doi = {10.1371/journal.pone.0120644}" in entries[key]
        assert "published again" not in entries[key]


def test_no_doi_is_that_of_two_studies():
    table = humans.list_series()
    own = table[table["doi"].notna() & table["republished_in"].isna()]
    # the authors before the year, so that several series of one study count once
    study = own["study"].str.replace(r" \d{4}.*", "", regex=True)
    assert study.groupby(own["doi"]).nunique().max() == 1
    assert table["republished_in"].notna().sum() == 5
