"""People's experiments: verdicts that made-up numbers turn each way, analyses of planted memories whose laws
are known, the command, and a killed run that goes on to the same tables.
"""

import json
import math
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from consolidation.decay import humans
from consolidation.experiments import __main__ as experiments
from consolidation.experiments import frequency, practice, retention, savings, spacing
from consolidation.experiments.config import ROLES, conditions
from consolidation.experiments.figures import spacing as spacing_figure
from consolidation.experiments.identification import effects
from consolidation.experiments.outcome import QUICK, Claim, Outcome, direction, inside
from consolidation.experiments.readings import (
    crossing,
    objection,
    over_seeds,
    prepared,
    read,
    share_over_seeds,
    value_at,
)
from labbook.estimate import Estimate
from tests.conftest import fails

pytestmark = pytest.mark.slow

PLAN = conditions("practice")[0].config.benchmark.schedule
STEPS = 3000
SEEDS = 4
# the fewest that a claim of yes or no can be decided by
ENOUGH = 6


@cache
def exposures():
    """(step, pattern) exposures after every number of steps, 90 a step in proportion to the weights, and the
    step after the last of them.
    """
    count, last = np.zeros((STEPS + 1, PLAN.patterns)), np.zeros((STEPS + 1, PLAN.patterns))
    for step in range(STEPS):
        weights = np.array(PLAN.weights(step))
        count[step + 1] = count[step] + 90 * weights / weights.sum()
        last[step + 1] = np.where(weights > 0, step + 1, last[step])
    return count, last


def planted(recall, used=None, seeds=SEEDS):
    """The table of runs whose patterns are recalled with probability recall(row, noise), and whose
    P(episodic) is used(row, noise); row has step, k, lag, others, pattern, cohort and age.
    """
    count, last = exposures()
    cohort = np.array(PLAN.cohort_of())
    introduced = np.array([PLAN.cohorts[c].introduced for c in cohort])
    tables = []
    for seed in range(seeds):
        noise = np.random.default_rng(seed)
        for step in sorted(PLAN.marks(STEPS)):
            which = np.flatnonzero(introduced <= step)
            k = np.round(count[step][which])
            then = last[step][which].astype(int)
            since = count.sum(1)[step] - count.sum(1)[then] - (count[step][which] - count[then, which])
            row = pd.DataFrame(
                {
                    "seed": seed,
                    "step": step,
                    "cohort": cohort[which],
                    "pattern": which,
                    "age": step - introduced[which],
                    "k": k.astype(int),
                    "lag": np.where(k > 0, step - then, -1).astype(int),
                    "others": np.where(k > 0, np.round(since), -1).astype(int),
                    "queries": 1000,
                    "right": 1000,
                }
            )
            row["recall"] = np.clip(recall(row, noise), 0, 1)
            row["known"] = (1000 * row["recall"]).round().astype(int)
            row["probability"] = 1 - row["recall"] if used is None else np.clip(used(row, noise), 0, 1)
            tables.append(row.assign(routed=row["probability"]))
    return prepared(pd.concat(tables, ignore_index=True), PLAN)


def verdicts(outcome):
    return {claim.name: claim.verdict for claim in outcome.claims}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (Estimate(0.2, 0.1, 0.3, 8), "as people"),
        (Estimate(-0.2, -0.3, -0.1, 8), "unlike people"),
        (Estimate(0.1, -0.1, 0.3, 8), "undecided"),
        (Estimate(0.2, 0.1, 0.3, 2), "undecided"),
        (Estimate(0.2, math.nan, math.nan, 1), "undecided"),
        (Estimate(math.nan, math.nan, math.nan, 0), "undecided"),
    ],
)
def test_a_verdict_follows_from_the_number_and_its_interval(number, expected):
    assert direction(number, "above") == expected
    assert direction(-number, "below") == expected
    other = {"as people": "unlike people", "unlike people": "as people", "undecided": "undecided"}
    assert direction(number, "below") == other[expected]


def test_a_range_needs_the_whole_interval():
    assert inside(Estimate(0.3, 0.2, 0.4, 8), 0.1, 0.5) == "as people"
    assert inside(Estimate(0.3, 0.2, 0.6, 8), 0.1, 0.5) == "undecided"
    assert inside(Estimate(0.7, 0.6, 0.8, 8), 0.1, 0.5) == "unlike people"
    assert inside(Estimate(0.05, 0.0, 0.08, 8), 0.1, 0.5) == "unlike people"
    assert inside(Estimate(0.3, 0.2, 0.4, 2), 0.1, 0.5) == "undecided"
    assert inside(Estimate(0.3, math.nan, math.nan, 8), 0.1, 0.5) == "undecided"


def test_a_sentence_says_what_is_missing():
    claim = Claim("it falls", "cram", "People: it falls.", "Change:", over_seeds([0.5]), "undecided")
    assert claim.sentence() == "cram, it falls: undecided. Change: no interval (1 seed). People: it falls."
    assert "no seed comes to a number" in Claim(*"abcd", over_seeds([]), "undecided").sentence()


def test_crossings_are_those_of_the_curve_and_not_of_its_noise():
    x = np.array([0.0, 1, 10, 100, 1000])
    assert crossing(x, np.array([0, 0, 0.25, 0.75, 1]), 0.5) == pytest.approx(10**1.5)
    # one probe that is too high by chance is averaged with those after it
    assert crossing(x, np.array([0, 0.6, 0, 0.3, 1]), 0.5) > 100
    assert math.isnan(crossing(x, np.zeros(5), 0.5))
    assert value_at(x, x, 10) == pytest.approx(10)
    assert math.isnan(value_at(x, x, 2000))


@pytest.mark.parametrize("law", ["k", "step"])
def test_what_only_exposures_or_only_steps_change_is_told_apart(law):
    def recall(row, noise):
        y = 1 / (1 + (row["k"] / 200) ** -1.5) if law == "k" else (row["step"] / 4000) ** 2
        return y + 0.02 * noise.standard_normal(len(row))

    found = effects(planted(recall), "knowledge")
    real, absent = ("k given step", "step given k") if law == "k" else ("step given k", "k given step")
    assert found[real].lower > 0.05
    assert abs(found[absent].estimate) < 0.02
    assert found[absent].lower < 0.01
    assert found[absent].upper > -0.01


def test_practice_tells_exponentials_from_power_laws_and_sees_the_artefact():
    # some patterns are learnt within 2 exposures, some not within the run
    speed = 10 ** (np.arange(PLAN.patterns) % 8 * 0.65)

    def exponential(row, noise):
        return 1 - 0.94 * np.exp(-row["k"] / speed[row["pattern"]]) + 0.003 * noise.standard_normal(len(row))

    def power(row, noise):
        return 1 - 0.94 * np.maximum(row["k"], 1) ** -0.3 + 0.003 * noise.standard_normal(len(row))

    one = practice.analyse({"cram": planted(exponential, lambda row, _: np.exp(-row["k"] / 2000), ENOUGH)})
    found = verdicts(one)
    assert found["single items follow an exponential rather than a power law"] == "as people"
    assert found["knowing comes before relying on it"] == "as people"
    share = one.tables["averaging"]
    # the mean of such speeds bends like a power law
    assert (share["power_better_for_mean"] > share["power_better"]).all()
    other = verdicts(practice.analyse({"cram": planted(power, lambda row, _: np.exp(-row["k"] / 5), ENOUGH)}))
    assert other["single items follow an exponential rather than a power law"] == "unlike people"
    assert other["knowing comes before relying on it"] == "unlike people"
    assert other["averaging makes a power law"] == "undecided"
    fits = one.tables["forms"].query("measure == 'P(episodic)'").set_index("form")
    assert fits.loc["exponential", "delta_aicc"] == 0


def test_effects_are_given_without_seeds_that_gave_up_attention_too():
    """A seed that never attends lowers P(episodic) whatever is familiar."""

    def used(row, noise):
        return 1 - 0.2 * np.log10(1 + row["k"])

    runs = {
        name: planted(lambda row, noise: np.log10(1 + row["k"]) / 5, used) for name in ("cram", "control")
    }
    gone = runs["cram"]["seed"] == 0
    runs["cram"].loc[gone, ["routed", "probability"]] = 0.0
    kept = practice.attending(runs)
    assert set(kept["cram"]["seed"]) == {1, 2, 3}
    assert set(kept["control"]["seed"]) == {0, 1, 2, 3}
    found = practice.with_and_without(practice.identified, runs)
    rows = found.query("measure == 'probability' and effect == 'k given step'")
    by = rows.set_index(["condition", "seeds"])
    assert by.loc[("cram", "that attend"), "estimate"] == pytest.approx(-0.2)
    assert by.loc[("cram", "all"), "estimate"] == pytest.approx(-0.15)
    assert list(by.loc["cram", "n"]) == [SEEDS, SEEDS - 1]
    assert list(by.loc["control", "n"]) == [SEEDS, SEEDS]
    found = practice.with_and_without(practice.against_first, runs)
    reads = found.query("role == 'later' and measure == 'probability'").set_index("seeds")
    assert reads.loc["all", "estimate"] > 0.05
    assert reads.loc["that attend", "estimate"] == pytest.approx(0)


def test_retention_finds_the_planted_law_and_what_the_load_changes():
    def forgetting(gamma):
        return lambda row, noise: (
            0.9 * (1 + np.maximum(row["others"], 0)) ** -gamma + 0.003 * noise.standard_normal(len(row))
        )

    outcome = retention.analyse(
        {"cram": planted(forgetting(0.1), seeds=ENOUGH), "cram-load": planted(forgetting(0.15))}
    )
    found = {(c.condition, c.name): c.verdict for c in outcome.claims}
    assert found["cram", "what is not repeated is forgotten"] == "as people"
    assert found["cram", "forgetting slows down, as a power law and not an exponential"] == "as people"
    assert found["cram-load", "new material makes one forget more"] == "as people"
    gamma = outcome.tables["exponents"].groupby("condition")["gamma"].mean()
    assert gamma["cram"] == pytest.approx(0.1, abs=0.01)
    kept = outcome.tables["kept"]
    assert set(kept["lag"]) == {1000}
    assert outcome.tables["factors"]["estimate"].iloc[0] < 0
    same = retention.analyse(
        {"cram": planted(lambda row, noise: 0.9 + 0.01 * noise.standard_normal(len(row)))}
    )
    assert verdicts(same)["what is not repeated is forgotten"] == "undecided"
    assert "forgets nothing that matters" in same.claims[0].people
    # people's series by intervening items are those of one study
    assert set(outcome.tables["people"]["study"]) == {"Rubin, Hinton & Wenzel 1999"}
    assert all("4 series of 1 study" in claim.people for claim in outcome.claims[1:3])
    assert outcome.tables["people"]["gamma_estimate"].between(0.2, 0.5).all()


@pytest.mark.parametrize(
    ("again", "expected"), [(40, "as people"), (250, "unlike people"), (None, "undecided")]
)
def test_savings_are_those_of_the_planted_speeds(again, expected):
    """New patterns take 100 steps; one cohort relearns in 40, in 250, or has forgotten nothing."""

    def recall(row, noise):
        role = np.array(ROLES)[row["cohort"]]
        slow = np.where(role == "relearnt", again or 1, 100)
        since = np.where((role == "relearnt") & (row["step"] >= 2200), row["step"] - 2200, row["age"])
        y = 0.75 * since / np.where(row["step"] < 2200, 100, slow)
        still = (role == "relearnt") & (row["step"] >= 1200) & (again is None)
        return np.where(still, 0.9, y)

    table = planted(recall)
    steps = savings.to_criterion(table)
    assert steps["new"].to_numpy() == pytest.approx(100, rel=0.02)
    assert steps["again"].to_numpy() == pytest.approx(again or 0, rel=0.05)
    outcome = savings.analyse({"cram": table})
    assert verdicts(outcome)["relearning is faster than first learning of new patterns"] == expected
    # what was not forgotten cannot be relearnt
    claim = outcome.claims[0]
    assert (claim.number.n, claim.left_out) == ((SEEDS, 0) if again else (0, SEEDS))
    assert ("4 that still knew 75% when the cohort came back" in claim.sentence()) == (again is None)


def learning(again, own, new, until=(800, 600, 800)):
    """The table of savings of seeds with these steps to the criterion; None: not by the last observation."""

    def rows(role, start, steps, last, clock):
        marks = np.arange(0, last + 1, 50)
        level = 0.5 * savings.CRITERION
        known = np.where(marks >= (math.inf if steps is None else steps), 1.0, level)
        table = pd.DataFrame({"role": role, "step": start + marks, "knowledge": known})
        table[["age", "returned", "pause"]] = np.nan
        table[clock] = marks.astype(float)
        return table

    parts = []
    for seed, (first, second, third) in enumerate(zip(own, again, new, strict=True)):
        of_seed = [
            rows("relearnt", 600, first, until[1], "age"),
            rows("relearnt", 2200, second, until[0], "returned"),
            rows("new", 2200, third, until[2], "age"),
        ]
        parts.append(pd.concat(of_seed).assign(seed=seed))
    return savings.to_criterion(pd.concat(parts, ignore_index=True))


@pytest.mark.parametrize(
    ("again", "own", "expected"),
    [
        # slow first learning is censored: relearning is faster in all, whatever would have come
        ([100] * 8, [300] * 4 + [None] * 4, "as people"),
        # who did not learn again in time would turn what the others say
        ([100] * 4 + [None] * 4, [300] * 8, "undecided"),
        ([None] * 7 + [400], [300] * 8, "unlike people"),
        # neither was seen: the order is not known, and might be the other
        ([100] * 5 + [None] * 3, [300] * 5 + [None] * 3, "undecided"),
        # the last of first learning lies before relearning was done
        ([100] * 5 + [700] * 3, [300] * 5 + [None] * 3, "undecided"),
    ],
)
def test_seeds_that_do_not_learn_in_time_are_in_the_verdict(again, own, expected):
    steps = learning(again, own, [300] * 8)
    assert savings.verdict(steps, "own") == expected
    # those of which both are known would all have said so
    both = steps.dropna(subset=["again", "own"])
    if expected == "undecided":
        assert (both["against_own"] > 0).all()
    missing = steps["own"].isna() & (steps["again"] <= 600)
    assert (steps.loc[missing, "faster_own"] == 1).all()
    assert steps.loc[missing, "bounded_own"].to_numpy() == pytest.approx(
        1 - steps.loc[missing, "again"].to_numpy() / 600
    )


@pytest.mark.parametrize(
    ("own", "again", "expected"),
    [
        ([100, 200, 300], [50, 60, 70], ""),
        ([100, None, 300], [50, 60, 70], ", at least"),
        ([100, 200, 300], [50, None, 70], ", at most"),
        ([100, None, 300], [50, 60, None], ", neither bound nor estimate"),
    ],
)
def test_a_mean_of_bounds_is_called_a_bound(own, again, expected):
    steps = learning(again, own, [300] * 3)
    assert savings._bound(steps, "own", 0) == expected
    left_out = {"": ", at least", ", at most": ", neither bound nor estimate"}
    assert savings._bound(steps, "own", 1) == left_out.get(expected, expected)


def test_a_sentence_about_savings_says_both_ways():
    def slow(row, noise):
        """New patterns come to the criterion in half of the seeds only, the relearnt cohort in 40 steps."""
        role = np.array(ROLES)[row["cohort"]]
        since = np.where((role == "relearnt") & (row["step"] >= 2200), row["step"] - 2200, row["age"])
        never = (role == "new") & (row["seed"] % 2 == 0)
        speed = np.where((role == "relearnt") & (row["step"] >= 2200), 40, 100)
        return np.where(never, 0.2, 0.75 * since / speed) * ((row["step"] < 1200) | (row["step"] >= 2200))

    claim = savings.analyse({"cram": planted(slow, seeds=8)}).claims[0]
    assert (claim.verdict, claim.number.n, claim.left_out) == ("as people", 8, 0)
    assert "Counted at the last step observed: 4 that did not learn that much in time" in claim.sentence()
    assert "Relearning was faster in 8 of 8 seeds, a share of [0.63, 1.00]." in claim.sentence()
    assert "without 0.6" in claim.sentence()


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.2, "as people"), (-0.2, "unlike people"), (0, "undecided")]
)
def test_spacing_is_the_planted_difference_at_equal_lags(gain, expected):
    def recall(row, noise):
        spread = np.char.startswith(np.array(ROLES)[row["cohort"]], "spread")
        grows = gain * spread * (1 + row["lag"] / 300)
        return 0.5 + grows - 0.0001 * row["lag"] + 0.02 * noise.standard_normal(len(row))

    outcome = spacing.analyse({"cram": planted(recall)})
    assert set(verdicts(outcome).values()) == {expected}
    ratio = outcome.tables["contrasts"].query("measure == 'exposures, ratio'")["estimate"]
    assert ratio.between(0.98, 1.02).all()


def test_frequency_tells_more_exposures_from_rarer_ones():
    def exposures_alone(row, noise):
        return np.log10(1 + row["k"]) / 5 + 0.005 * noise.standard_normal(len(row))

    def rare_is_better(row, noise):
        rank = 1 + row["pattern"] - 24
        return np.log10(1 + row["k"]) / 5 + 0.1 * np.log10(np.maximum(rank, 1))

    one, other = (
        verdicts(frequency.analyse({"cram": planted(law)})) for law in (exposures_alone, rare_is_better)
    )
    assert one["the frequent is known better"] == other["the frequent is known better"] == "as people"
    assert one["at equal exposures the rare is known better"] == "undecided"
    assert other["at equal exposures the rare is known better"] == "as people"


def test_a_killed_experiment_goes_on_to_the_same_tables(tmp_path, monkeypatch, capsys):
    def run(folder):
        experiments.main(["savings", "--quick", "--seeds", "1", "--out", str(folder), "--quiet"])

    run(tmp_path / "whole")
    calls = []
    monkeypatch.setattr("labbook.training.stopping", lambda: calls.append(1) or len(calls) == 150)
    with pytest.raises(SystemExit):
        run(tmp_path / "parts")
    assert not (tmp_path / "parts" / "savings").exists()
    monkeypatch.setattr("labbook.training.stopping", lambda: False)
    run(tmp_path / "parts")
    names = {path.name for path in (tmp_path / "whole" / "savings").iterdir()}
    assert {"claims.csv", "steps.csv", "experiments_savings.png", "report.html", "summary.json"} <= names
    for name in ("claims.csv", "courses.csv", "steps.csv"):
        one, other = ((tmp_path / part / "savings" / name).read_text() for part in ("whole", "parts"))
        assert one == other
    summary = json.loads((tmp_path / "whole" / "savings" / "summary.json").read_text())
    assert summary["experiment"] == "savings"
    assert summary["verdicts"] == [QUICK]
    capsys.readouterr()
    experiments.main(["savings", "--quick", "--seeds", "0", "--out", str(tmp_path / "whole")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--quick: tests only that it runs" in printed
    assert "undecided" not in printed
    # the other experiments find the same runs, and train nothing
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "whole").glob("c*/seed-0/*")}
    for name in ("practice", "spacing", "frequency"):
        experiments.main([name, "--quick", "--seeds", "1", "--out", str(tmp_path / "whole"), "--quiet"])
        assert (tmp_path / "whole" / name / f"experiments_{name}.pdf").exists()
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "whole").glob("c*/seed-0/*")}
    lags = pd.read_csv(tmp_path / "whole" / "spacing" / "contrasts.csv")
    assert set(lags["lag"]) == {0, 10, 32}
    assert (lags["n"] == 1).all()
    drawn = spacing_figure(Outcome.read(tmp_path / "whole" / "spacing"))
    assert "5 steps of exposure in a row or over 20 steps" in drawn.get_suptitle().replace("\n", " ")
    assert drawn.axes[-1].get_xlim() == (-1, 1)
    plt.close(drawn)
    config = tmp_path / "whole" / "practice" / "config.json"
    experiments.main(["--config", str(config), "--seeds", "0", "--out", str(tmp_path / "whole"), "--quiet"])
    said = fails(experiments.main, capsys, ["savings", "--seeds", "0", "--out", str(tmp_path / "whole")])
    assert "trained with another configuration than cram has" in said


def test_shares_keep_to_0_and_1_and_have_the_exact_interval():
    for yes in range(9):
        one = share_over_seeds([1.0] * yes + [0.0] * (8 - yes))
        exact = stats.binomtest(yes, 8).proportion_ci(method="exact")
        assert (one.lower, one.upper) == pytest.approx((exact.low, exact.high))
    assert share_over_seeds([1.0] * 8, low=-1).lower == pytest.approx(2 * 0.025 ** (1 / 8) - 1)
    assert share_over_seeds([-1.0, 0.5, 1.0], low=-1).lower >= -1
    assert math.isnan(share_over_seeds([]).estimate)
    assert math.isnan(share_over_seeds([1.0]).lower)
    assert (over_seeds([0.0, 1.0, 1.0], 0, 1).lower, over_seeds([0.0, 1.0, 1.0], 0, 1).upper) == (0, 1)


@pytest.mark.parametrize("n", [3, 5, 8, 20])
@pytest.mark.parametrize("patterns", [1, 8])
def test_a_coin_decides_in_at_most_one_of_twenty(n, patterns):
    tosses = np.random.default_rng(n).binomial(patterns, 0.5, size=(2000, n)) / patterns
    decided = [direction(share_over_seeds(one), "above", 0.5) != "undecided" for one in tosses]
    # 5 % and three standard errors of 2,000 tries
    assert np.mean(decided) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_flat_recall_has_no_law_and_no_exponent():
    for shift in range(2):

        def flat(row, noise, shift=shift):
            level = 0.3 if shift % 2 else 0.9
            noise.standard_normal(shift)  # another draw
            return level + 0.01 * noise.standard_normal(len(row))

        found = retention.analyse({"cram": planted(flat, seeds=8)})
        if verdicts(found)["what is not repeated is forgotten"] == "as people":
            continue  # by chance, in at most 2.5 %
        for claim in found.claims[1:]:
            assert claim.verdict == "undecided"
            assert "No forgetting is shown" in claim.sentence()


def test_an_exponent_of_a_rejected_form_is_not_judged():
    def exponential(row, noise):
        gone = np.exp(-np.maximum(row["others"], 0) / 30000)
        return 0.9 * gone + 0.003 * noise.standard_normal(len(row))

    outcome = retention.analyse({"cram": planted(exponential)})
    assert verdicts(outcome)["what is not repeated is forgotten"] == "as people"
    assert verdicts(outcome)["the exponent is people's"] == "undecided"
    assert "The power law is rejected" in outcome.claims[2].note
    table = pd.DataFrame([{"form": "power", "delta_aicc": 10.0, "rejected_in_seeds": 0.5}])
    assert objection(table) == ""
    assert "AICc 10.1 above" in objection(table.assign(delta_aicc=10.1))
    assert "in 62% of seeds" in objection(table.assign(rejected_in_seeds=0.625))
    assert "could not be compared" in objection(table.assign(delta_aicc=math.nan))


def test_seeds_without_a_number_are_counted_in_the_sentence():
    claim = Claim(*"abcd", over_seeds([0.1, 0.2, math.nan]), "undecided", 1, "Left out: one.")
    assert "(2 seeds, 1 left out). Left out: one." in claim.sentence()
    never = practice.analyse({"cram": planted(lambda row, noise: 0.1 + 0 * row["k"])}).claims[3]
    assert (never.number.n, never.left_out, never.verdict) == (0, SEEDS, "undecided")
    assert "no seed comes to a number, 4 left out" in never.sentence()


@pytest.mark.parametrize("name", ["savings", "spacing"])
def test_shipped_verdicts_follow_from_the_shipped_runs(name):
    shipped = humans.DATA / "experiments"
    runs = {condition: read(shipped / condition) for condition in ("cram", "control")}
    assert all(set(table["seed"]) == set(range(8)) for table in runs.values())
    stored = Outcome.read(shipped / name)
    again = {"savings": savings, "spacing": spacing}[name].analyse(runs)
    pd.testing.assert_frame_equal(stored.claims_table(), again.claims_table(), rtol=1e-9)
    assert len(stored.tables["seeds"]) == 16


def test_what_cannot_be_asked_is_an_error(tmp_path, capsys):
    said = fails(experiments.main, capsys, ["practice", "--seeds", "-1"])
    assert "--seeds -1: give the number of seeds" in said
    said = fails(experiments.main, capsys, ["practice", "--seeds", "0", "--out", str(tmp_path)])
    assert "no finished seed of cram. Increase --seeds" in said
    with pytest.raises(SystemExit):
        experiments.main(["priming"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Estimate(-0.2, -0.3, -0.1, 8), "forgets"),
        (Estimate(-0.02, -0.03, -0.01, 8), "forgets less than 5% of the answers"),
        (Estimate(0.0, -0.01, 0.01, 8), "forgets nothing that matters"),
        (Estimate(-0.05, -0.2, 0.1, 8), "is undecided"),
        (Estimate(-0.2, -0.3, -0.1, 2), "is undecided"),
    ],
)
def test_words_of_forgetting_do_not_contradict_the_verdict(change, said):
    assert retention.forgets(change) == said
    assert (direction(change, "below") == "as people") == (said == "forgets" or "less than" in said)
