"""People's experiments on the verdict page: made-up outcomes bring out every verdict, in every condition."""

import math

import pandas as pd
import pytest

from consolidation.experiments.config import conditions
from consolidation.experiments.outcome import QUICK, Claim, Outcome
from consolidation.experiments.practice import ALL, ATTENDING
from labbook.estimate import Estimate
from labbook.run import Run
from replication import __main__ as pages
from replication.claims import experiments
from replication.rows import ROOT
from replication.verdict import Verdict
from tests.planted import comes_out_each_way

HOLDS, FAILS, UNDECIDED, UNTESTED = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED, Verdict.UNTESTED
NAN = Estimate(math.nan, math.nan, math.nan, 0)


def tight(value: float, n: int = 8) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.01, n)


def wide(value: float, n: int = 8) -> Estimate:
    return Estimate(value, value - 2, value + 2, n)


def forms(gamma: Estimate, gap: float = 0.0, rejected: float = 0.0, **more: str) -> pd.DataFrame:
    """The table of fitted forms in which the power law lies `gap` above the best."""
    number = {f"gamma_{key}": getattr(gamma, key) for key in ("estimate", "lower", "upper", "n")}
    power = {"form": "power", "delta_aicc": gap, "rejected_in_seeds": rejected} | number
    other = {"form": "apex", "delta_aicc": 0.0 if gap else 5.0, "rejected_in_seeds": 0.0}
    return pd.DataFrame([power, other]).assign(**more)


def claim(verdict: str) -> Claim:
    return Claim("name", "cram", "People: so.", "Number:", tight(0.1), verdict)


CASES = {
    "as people": (
        experiments.judged,
        {
            HOLDS: [(claim("as people"),)],
            FAILS: [(claim("unlike people"),)],
            UNDECIDED: [(claim("undecided"),)],
            UNTESTED: [(None,)],
        },
    ),
    "grows": (
        experiments.grows,
        {
            HOLDS: [(tight(0.3),)],
            FAILS: [(tight(0.0),), (tight(-0.3),)],
            UNDECIDED: [(wide(0.3),), (NAN,), (None,), (tight(0.3, 2),)],
        },
    ),
    "falls": (
        experiments.falls,
        {
            HOLDS: [(tight(-0.3),)],
            FAILS: [(tight(0.0),), (tight(0.3),)],
            UNDECIDED: [(wide(-0.3),), (NAN,), (None,), (tight(-0.3, 2),)],
        },
    ),
    "stays": (
        experiments.stays,
        {
            HOLDS: [(tight(0.0),), (tight(0.3),)],
            FAILS: [(tight(-0.3),)],
            UNDECIDED: [(wide(0.0),), (None,)],
        },
    ),
    "of exposures alone": (
        experiments.of_exposures_alone,
        {
            HOLDS: [(tight(0.0),)],
            FAILS: [(tight(-0.3),), (tight(0.3),)],
            UNDECIDED: [(wide(0.0),), (None,)],
        },
    ),
    "the control reads more": (
        experiments.reads_more,
        {
            HOLDS: [([tight(0.3), tight(0.1)],)],
            FAILS: [([tight(0.0), tight(-0.3)],)],
            Verdict.PARTLY: [([tight(0.3), tight(0.0)],)],
            UNDECIDED: [([tight(0.3), wide(0.3)],), ([tight(0.3), None],)],
            UNTESTED: [([],)],
        },
    ),
    "power law": (
        lambda fitted: experiments.power_law_of(fitted)[0],
        {
            HOLDS: [(forms(tight(0.43)),)],
            FAILS: [(forms(tight(0.1), 300, 1.0),), (forms(tight(0.1), 5, 0.9),)],
            Verdict.PARTLY: [(forms(tight(0.1)),), (forms(tight(0.43), 300),)],
            UNDECIDED: [
                (forms(wide(0.43)),),
                (forms(tight(0.43), math.nan),),
                (forms(tight(0.43)).query("form != 'power'"),),
            ],
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_claim_can_come_out_each_way(name):
    comes_out_each_way(*CASES[name])


def row(number: Estimate, **more: str) -> dict:
    return more | {key: getattr(number, key) for key in ("estimate", "lower", "upper", "n")}


def practice(verdicts: dict[str, str], by_k: float, control_by_k: float, more: float) -> Outcome:
    """An outcome whose claims come out by condition as `verdicts`, and whose P(episodic) changes by `by_k`
    per factor of ten in exposures.
    """
    claims = [
        Claim(name, condition, "People: so.", "Number:", tight(0.1), verdict)
        for condition, verdict in verdicts.items()
        for name in experiments.CLAIMS["practice"]
    ]
    effects = [
        row(tight(value), condition=condition, measure=measure, effect=effect, seeds=seeds)
        for condition, k in (("cram", by_k), ("control", control_by_k))
        for measure, effect, value in (
            ("probability", "k given step", k),
            ("probability", "step given k", 0.0),
            ("knowledge", "k given step", 0.3),
        )
        for seeds in (ALL, ATTENDING)
    ]
    against = [
        row(tight(more), condition="control", against="cram", role=role, measure="probability", seeds=seeds)
        for role in experiments.COHORTS
        for seeds in (ALL, ATTENDING)
    ]
    fitted = [
        forms(tight(0.43), condition=condition, measure="P(episodic)") for condition in ("cram", "control")
    ]
    tables = {
        "identification": pd.DataFrame(effects),
        "against_first": pd.DataFrame(against),
        "forms": pd.concat(fitted),
    }
    return Outcome("practice", tuple(claims), tables)


def written(outcome: Outcome, folder, quick: bool = False):
    recorded = {one.folder: one.config.recorded() for one in conditions(outcome.name)}
    run = Run(folder, {"name": outcome.name, "quick": quick, "conditions": recorded})
    outcome.write(run)
    return pages.read_run(folder)


def by_claim(rows) -> dict:
    return {one.claim.split(": ", 1)[1]: one for one in rows}


def test_rows_tell_the_model_from_its_control_and_the_preprint_from_people(tmp_path):
    outcome = practice({"cram": "as people", "control": "as people"}, -0.3, 0.0, 0.3)
    run = written(outcome, tmp_path / "one")
    assert run.kind == "people"
    rows = by_claim(experiments.people_rows(run))
    assert set(experiments.CLAIMS["practice"]) < set(rows)
    lowers = rows["familiarity lowers the use of attention"]
    assert (lowers.here, lowers.verdict) == (HOLDS, "not tested on the paper's model")
    assert lowers.headline
    assert "eq 14" in lowers.paper
    assert "control without semantic memory +0.00 [-0.01, +0.01] (n = 8), does not hold" in lowers.control
    assert lowers.sentence.endswith("It does not hold without semantic memory.")
    assert rows["without semantic memory familiarity does not lower the use of attention"].here is HOLDS
    assert rows["the model stops attending where the control goes on"].here is HOLDS
    assert rows["P(episodic) falls with exposures as a power law with γ = .43"].here is HOLDS
    knowing = rows["knowing comes before relying on it"]
    assert (knowing.here, knowing.verdict) == (HOLDS, "not one of its claims")
    assert knowing.sentence == "It holds without semantic memory too, so it is no sign of that memory."
    match = rows["error falls with people's exponent"]
    assert match.verdict == "not tested on the paper's model"
    assert "here on a measure that people share" in match.paper
    for one in rows.values():
        assert one.scale.startswith("CRAM with learned keys, 112 patterns in cohorts, 24 to 72 of them")
        assert "constant learning rate, routing pressure constant from step 600 on" in one.scale
    other = practice({"cram": "unlike people", "control": "undecided"}, 0.0, -0.3, 0.0)
    rows = by_claim(experiments.people_rows(written(other, tmp_path / "other")))
    assert rows["familiarity lowers the use of attention"].here is FAILS
    assert rows["without semantic memory familiarity does not lower the use of attention"].here is FAILS
    assert rows["the model stops attending where the control goes on"].here is FAILS
    assert rows["knowing comes before relying on it"].here is FAILS
    assert "(8 seeds), undecided" in rows["knowing comes before relying on it"].control


def test_the_section_has_every_condition(tmp_path):
    outcome = practice({"cram": "as people", "control": "unlike people"}, -0.3, -0.3, 0.3)
    text = "\n".join(experiments.people_section(written(outcome, tmp_path)))
    assert text.startswith("### Practice\n\nLearned keys, 112 patterns in cohorts")
    line = next(one for one in text.splitlines() if "knowing comes" in one)
    assert line.startswith("| people |")
    assert "| **holds**, 0.10 [0.09, 0.11] (8 seeds) | **does not hold**, 0.10 [0.09, 0.11]" in line
    assert "| the preprint | familiarity lowers" in text
    assert text.endswith(f"*{experiments.CAPTIONS['practice']}*")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", experiments.CLAIMS)
def test_what_no_run_decides_is_not_tested(tmp_path, name, quick):
    tables = {} if quick or name != "practice" else practice({}, 0, 0, 0).tables
    claims = (Claim("name", "cram", "p", "m", tight(0.1), "as people"),)
    run = written(Outcome(name, claims, tables, quick), tmp_path, quick)
    rows = by_claim(experiments.people_rows(run))
    for one in experiments.CLAIMS[name]:
        assert rows[one].here is UNTESTED
        assert rows[one].sentence == (QUICK if quick else "No seed of it has been run.")
    if quick:
        assert set(rows) == set(experiments.CLAIMS[name])
        assert QUICK in list(experiments.people_section(run))


def test_claims_are_those_that_the_experiments_make():
    folder = ROOT / "consolidation" / "data" / "experiments"
    for name, claims in experiments.CLAIMS.items():
        stored = Outcome.read(folder / name)
        assert {one.name for one in stored.claims} == set(claims)
        assert {one.condition for one in stored.claims} <= set(experiments.CONDITIONS)
        # numbers at other lags and exposures are those of the tables
        if name in ("spacing", "frequency"):
            notes = [one.note for one in experiments.findings_of(stored) if one.note.startswith("After")]
            assert notes
            assert all("100" not in note for note in notes)
    assert set(experiments.CAPTIONS) == set(experiments.CLAIMS)


def test_shipped_experiments_are_among_the_shipped_runs():
    kinds = {folder.name for folder in pages.shipped() if folder.parent.name == "experiments"}
    assert kinds == set(experiments.CLAIMS)
