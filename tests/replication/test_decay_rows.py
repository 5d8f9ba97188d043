"""The rows of a fitted curve: what a sentence says is what its verdict says."""

import json

import pytest

from replication.claims.decay import finding, fit_rows
from replication.rows import ROOT, Finished
from replication.verdict import Verdict

FIT = ROOT / "consolidation" / "data" / "runs" / "fits" / "figure4a"
WITHIN = "The interval of the difference lies within the margin"
OUTSIDE = "The interval of the difference lies outside the margin"
ACROSS = "The interval of the difference lies partly within the margin and partly outside"
NOT_ZERO = "it excludes 0, so there is a difference, which may be smaller than the margin"
NONE = "The difference has no interval to judge by"
OUTCOMES = {
    Verdict.HOLDS: (WITHIN, [(-0.1, 0.1), (0.05, 0.15)]),
    Verdict.FAILS: (OUTSIDE, [(0.3, 0.5), (-0.9, -0.25)]),
    Verdict.UNDECIDED: (ACROSS, [(-0.3, 0.1), (0.1, 0.3), (-0.5, 0.5)]),
}


def row(lower, upper, margin=0.2, state="survives", **more):
    """The row of one test whose verdict in the fit is 'different', whatever its interval, of a form in this
    state.
    """
    summary = json.loads((FIT / "fit.json").read_text())
    estimate = None if lower is None else (lower + upper) / 2
    difference = {"estimate": estimate, "lower": lower, "upper": upper, "n": 6}
    test = next(e for e in summary["equivalences"] if e["measure"] == "error")
    test |= {"difference": difference, "margin": margin, "verdict": "It is different.", "whole": None} | more
    summary |= {"equivalences": [test], "standing": summary["standing"] | {"state": state}}
    rows = list(fit_rows(Finished("fit", FIT, summary)))
    return next(r for r in rows if r.claim == "The exponent matches human memory (error)")


@pytest.mark.parametrize("verdict", list(OUTCOMES))
def test_the_sentence_beside_people_follows_the_verdict(verdict):
    said, intervals = OUTCOMES[verdict]
    for lower, upper in intervals:
        found = row(lower, upper)
        assert found.here is verdict
        assert found.sentence.startswith(said)
        assert "is different" not in found.sentence
        apart = verdict is Verdict.UNDECIDED and (lower > 0 or upper < 0)
        assert (NOT_ZERO in found.sentence) == apart


def test_the_exponent_of_a_rejected_form_is_not_judged():
    found = row(0.3, 0.5, state="does not survive")
    assert found.here is Verdict.UNDECIDED
    assert found.sentence.startswith(
        "The form power is rejected for this curve, so its exponent is not judged."
    )
    assert row(0.3, 0.5, state="is weakened").here is Verdict.FAILS


@pytest.mark.parametrize(("more", "verdict"), [((0.3, 0.6), Verdict.FAILS), ((0.0, 0.3), Verdict.UNDECIDED)])
def test_what_hangs_on_which_series_are_compared_is_undecided(more, verdict):
    lower, upper = more
    whole = {
        "difference": {"estimate": (lower + upper) / 2, "lower": lower, "upper": upper, "n": 9},
        "margin": 0.2,
        "new_study": {"lower": -1.0, "upper": 1.0},
        "overlap": 0.1,
        "series": 20,
    }
    found = row(0.3, 0.5, whole=whole, series=8)
    assert found.here is verdict
    assert ("Which series are compared decides" in found.sentence) == (verdict is Verdict.UNDECIDED)
    assert "with 12 more series of which DOI, number of subjects or licence is not known +" in found.control


def test_what_cannot_be_judged_says_why():
    few = row(None, None, None, verdict="c: 2 human studies of error are too few studies.")
    assert few.here is Verdict.UNDECIDED
    assert few.sentence.startswith("c: 2 human studies of error are too few studies.")
    # more series are too few as well
    nothing = {"difference": {"estimate": None, "lower": None, "upper": None, "n": 2}, "margin": None}
    both = row(None, None, None, verdict="c: too few.", whole={**nothing, "series": 3}, series=2)
    assert both.here is Verdict.UNDECIDED and "more series" not in both.control
    without = row(None, None)
    assert without.here is Verdict.UNDECIDED
    assert without.sentence.startswith(NONE)


def test_a_new_study_is_expected_in_an_interval():
    gamma = json.loads((FIT / "fit.json").read_text())["gamma"]["gamma"]
    for low, high, side in ((gamma - 1, gamma + 1, "inside"), (gamma + 0.1, gamma + 1, "outside")):
        new = {"estimate": 0.0, "lower": low, "upper": high, "n": 6}
        assert f"{gamma:.2f} lies {side};" in row(-0.1, 0.1, new_study=new).sentence


def test_the_finding_says_whether_the_power_law_survives_and_whether_clocks_differ():
    own = json.loads((FIT / "fit.json").read_text())
    other = own | {"curve": "model", "best_form": None, "standing": own["standing"] | {"state": "survives"}}
    other["error_models"] = {}
    said = finding([Finished("fit", FIT, own), Finished("fit", FIT, other)])
    assert f"figure 4A it {own['standing']['state']} (γ 0.51 [" in said and "(n = 13) points by nls" in said
    assert "P(episodic) it survives (γ 0.51 [" in said and "best: not decided" in said
    # a verdict that hangs on the noise says so
    hangs = other | {"error_models": {"lognormal": {"best_form": "logistic", "delta_aicc": 8.5}}}
    said_so = finding([Finished("fit", FIT, hangs)])
    assert "it survives (with noise relative to y alone it is weakened) (γ" in said_so
    (row, *_) = fit_rows(Finished("fit", FIT, hangs))
    assert "So the verdict hangs on the noise: with noise relative to y alone it is weakened." in row.sentence
    ways = own["multiverse"]
    fitted = f"{ways['fitted']} of {ways['specifications']}"
    assert f"; middle half of {fitted} specifications {ways['lower_quartile']:.2f} to" in said
    assert "best: shifted power or logistic)" in said  # 1.3 of AICc apart
    assert "clocks" not in said
    later = other | {"clock": {"counts": "repetitions over training", "unit": "count"}}
    assert finding([Finished("fit", FIT, own), Finished("fit", FIT, later)]).endswith("The clocks differ.")
