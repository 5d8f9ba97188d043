"""The contrasts of the factorial against scipy, against a maximised likelihood, and on planted runs."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from consolidation.replicate import __main__ as replicate
from consolidation.replicate import cell_figures, contrasts
from consolidation.replicate.contrasts import CELLS, FAMILY, MARGIN, analyse, holm, judge, mixed, paired
from consolidation.replicate.factorial import Factorial
from labbook.console import UserError
from labbook.estimate import Estimate
from tests.conftest import fails
from tests.planted_factorial import LISTED, around, plant, plant_seed

G = np.random.default_rng(0)


def made(by, novel=1.0, change=0.0):
    """Made-up outcomes; `by` cell -> P(attend | recurring) of every seed, None where it is missing."""
    rows = [
        {"cell": cell, "seed": seed, "attends": value, "known": 1.0, "novel": novel, "change": change}
        | {"learnt": novel >= contrasts.LEARNT}
        for cell, values in by.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    return pd.DataFrame(rows)


def found(by, name, analysis="paired", **more):
    every = analyse(made(by, **more))
    return next(c for c in every if (c.name, c.analysis, c.outcome) == (name, analysis, "attends"))


def test_a_row_without_an_interval_says_what_there_is():
    one = found({"E": [0.6], "D": [0.4]}, "E - D")
    assert cell_figures.too_few(one) == "+0.20, no interval (n = 1): fewer than 3 seeds decide nothing"
    two = found({"E": [0.6, 0.5], "D": [0.4, 0.5]}, "E - D")
    assert cell_figures.too_few(two).startswith("+0.10 [")
    assert "n = 0" in cell_figures.too_few(found({"E": [0.6], "D": [None]}, "E - D"))


def test_a_paired_difference_is_that_of_scipy():
    a, b = G.uniform(0, 1, (2, 8))
    ours = found({"A": a, "B": b}, "B - A")
    theirs = stats.ttest_rel(b, a)
    assert ours.p == pytest.approx(theirs.pvalue)
    for level, limits in (
        (0.95, (ours.number.lower, ours.number.upper)),
        (0.90, (ours.lower_90, ours.upper_90)),
    ):
        interval = theirs.confidence_interval(level)
        assert limits == pytest.approx((interval.low, interval.high))
    sides = [
        stats.ttest_1samp(b - a, edge, alternative=side).pvalue
        for edge, side in ((-MARGIN, "greater"), (MARGIN, "less"))
    ]
    assert ours.p_equivalence == pytest.approx(max(sides))
    exact = stats.permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert ours.p_signs == pytest.approx(exact.pvalue)
    # more seeds than all changes of sign can be tried for
    many = G.normal(0.1, 1, 20)
    drawn = contrasts.p_signs(many)
    assert drawn == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.03)


def restricted(values, error, seeds):
    """-2 x the restricted log-likelihood of y = cell + seed + error, from its definition with matrices."""
    n, k = values.shape
    y, x = values.ravel(), np.tile(np.eye(k), (n, 1))
    v = error * np.eye(n * k) + seeds * np.kron(np.eye(n), np.ones((k, k)))
    inverse = np.linalg.inv(v)
    weights = x.T @ inverse @ x
    r = y - x @ np.linalg.solve(weights, x.T @ inverse @ y)
    return np.linalg.slogdet(v)[1] + np.linalg.slogdet(weights)[1] + r @ inverse @ r


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_the_closed_form_is_the_maximum_of_the_restricted_likelihood(spread):
    """With seeds that differ, and with seeds that differ less than errors do, where the maximum is at 0."""
    g = np.random.default_rng(3)
    values = g.normal(0, 1, (8, 6)) + spread * g.normal(0, 1, (8, 1))
    error, seeds, freedom = contrasts.variances(values)
    best = min(
        (
            optimize.minimize(
                lambda at: restricted(values, math.exp(at[0]), at[1]),
                start,
                bounds=((-5, 5), (0, 20)),
                method="L-BFGS-B",
                options={"ftol": 1e-14, "gtol": 1e-9},
            )
            for start in ((0.0, 0.1), (0.0, 2.0))
        ),
        key=lambda result: result.fun,
    )
    assert (error, seeds) == pytest.approx((math.exp(best.x[0]), best.x[1]), abs=2e-4)
    assert freedom == (35 if seeds else 42)
    # the contrast: generalised least squares with these variances
    weights = np.array([-1, 1, 0, 0, 0, 0.0])
    tested = mixed(values, weights)
    x = np.tile(np.eye(6), (8, 1))
    v = error * np.eye(48) + seeds * np.kron(np.eye(8), np.ones((6, 6)))
    cov = np.linalg.inv(x.T @ np.linalg.inv(v) @ x)
    assert tested.error == pytest.approx(math.sqrt(weights @ cov @ weights))
    assert tested.estimate == pytest.approx(float(values.mean(0) @ weights))


def test_both_sides_of_the_boundary_were_seen():
    at = [contrasts.variances(np.random.default_rng(s).normal(0, 1, (8, 6)))[1] for s in range(20)]
    assert 0 in at and max(at) > 0


def test_two_cells_in_the_mixed_model_are_a_paired_test():
    values = G.normal(0, 0.1, (8, 1)) + G.normal(0, 0.05, (8, 2))
    one, other = mixed(values, np.array([-1.0, 1.0])), paired(values[:, 1] - values[:, 0])
    assert (one.estimate, one.error, one.freedom) == pytest.approx(
        (other.estimate, other.error, other.freedom)
    )


def test_holm():
    # Holm 1979: .01 x 3, .02 x 2, .04 x 1, and never below the one before
    assert holm({"a": 0.02, "b": 0.01, "c": 0.04}) == pytest.approx({"a": 0.04, "b": 0.03, "c": 0.04})
    assert holm({"a": 0.4, "b": 0.5, "c": 0.6}) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})
    # what was not run corrects the others all the same
    unknown = holm({"a": 0.01, "b": math.nan, "c": math.nan})
    assert unknown["a"] == pytest.approx(0.03) and math.isnan(unknown["b"])
    p = dict(zip("abc", (0.001, 0.03, 0.2), strict=True))
    assert holm(p)["b"] == pytest.approx(0.06)


STATES = {
    "larger": {"A": around(0.2), "B": around(0.6)},
    "smaller": {"A": around(0.6), "B": around(0.2)},
    "equivalent": {"A": around(0.6), "B": around(0.61)[::-1]},
    "undecided": {"A": around(0.5, spread=0.4), "B": around(0.5, spread=0.4)[::-1]},
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_comes_out(state):
    assert found(STATES[state], "B - A").state == state


def test_what_is_not_known_is_undecided():
    assert found({"A": [0.1, 0.2], "B": [0.8, 0.9]}, "B - A").state == "undecided"  # two seeds
    assert found({"A": [], "B": around(0.5)}, "B - A").number.n == 0
    nan = Estimate(math.nan, math.nan, math.nan, 8)
    assert judge(nan, math.nan, math.nan) == "undecided"
    # a difference that is real and too small to matter
    small = found({"A": around(0.5, spread=0.001), "B": around(0.52, spread=0.002)}, "B - A")
    assert small.p_holm < 0.05 and small.state == "equivalent"
    # seeds that are all alike have no spread, and their difference is known
    assert found({"A": [0.0] * 4, "B": [0.0] * 4}, "B - A").state == "equivalent"
    assert found({"A": [0.0] * 4, "B": [1.0] * 4}, "B - A").state == "larger"


def test_the_correction_is_over_the_three_that_the_paper_predicts():
    by = {cell: around(0.5, spread=0.1) for cell in "ACDEF"} | {"B": around(0.57, spread=0.15)}
    every = {c.name: c for c in analyse(made(by)) if c.analysis == "paired" and c.outcome == "attends"}
    assert [every[name].p_holm >= every[name].p for name in FAMILY] == [True] * 3
    assert every["B - A"].p_holm == pytest.approx(3 * every["B - A"].p)
    assert every["E - D"].p_holm == every["E - D"].p


def test_a_seed_without_one_of_its_cells_is_left_out_where_it_is_needed():
    by = {cell: around(0.5, 4) for cell in CELLS}
    by["E"] = [0.5, None, 0.6, 0.7]
    n = {(c.name, c.analysis): c.number.n for c in analyse(made(by)) if c.outcome == "attends"}
    assert n["B - A", "paired"] == 4
    assert n["E - D", "paired"] == n["(E - D) - (B - A)", "paired"] == 3
    # the mixed model of the family does without the other load
    assert [n[name, "mixed model"] for name in contrasts.CONTRASTS] == [4, 4, 4, 3, 3]


def test_seeds_that_have_not_learnt_are_counted_and_left_out_once_more():
    table = made({cell: around(0.2) for cell in CELLS} | {"B": around(0.6)})
    unlearnt = (table["cell"] == "A") & (table["seed"] < 2) | (table["cell"] == "B") & (table["seed"] == 1)
    every = {
        (c.name, c.analysis): c for c in analyse(table.assign(learnt=~unlearnt)) if c.outcome == "attends"
    }
    whole, without = every["B - A", "paired"], every["B - A", "paired, learnt seeds"]
    assert (whole.number.n, whole.not_learnt, whole.by_cell) == (8, 2, "B 1, A 2")
    assert (without.number.n, without.not_learnt) == (6, 0)
    kept = np.array(around(0.6))[2:] - np.array(around(0.2))[2:]
    assert without.number.estimate == pytest.approx(kept.mean())
    assert every["E - D", "paired"].not_learnt == 0


def test_runs_become_tables_and_are_read_again(tmp_path, capsys, monkeypatch):
    out = plant(
        tmp_path / "run",
        {"A": around(0.2, 4), "B": around(0.6, 4), "C": around(0.2, 3)},
        novel={"A": 0.5},
        known={"B": 0.9},
        change={"B": -0.3},
    )
    read = Factorial.read(out)
    a = read.seeds("A")
    assert list(a["attends"]) == pytest.approx(around(0.2, 4))
    assert not a["learnt"].any() and read.seeds("B")["learnt"].all()
    assert list(a["semantic_other"]) == [1.0] * 4 and read.seeds("B")["semantic_other"].isna().all()
    assert set(read.seeds("B")["known"]) == {0.9}
    main = read.contrast("B - A")
    assert (main.state, main.number.n, main.by_cell) == ("larger", 4, "B 0, A 4")
    assert read.contrast("B - A", "paired, learnt seeds").number.n == 0
    assert read.contrast("C - A").number.n == 3
    # .3 down over the last quarter of training, while the planted course falls by another .1
    assert read.contrast("B", "change").state == "smaller"
    assert read.contrast("F", "change").state == "undecided"
    course = read.courses.query("cell == 'B' and seed == 0").set_index("step")
    assert list(course.index[course["known"].notna()]) == [0, 1, 8, 64, 512, 1000]
    cells = pd.read_csv(out / "cells.csv").query("metric == 'semantic_other'")
    assert list(cells["cell"]) == ["cram, 20 patterns", "no-consolidation, 20 patterns"]
    # an analysis of the shipped outcomes gives the shipped contrasts
    again = contrasts.tabulated(analyse(read.outcomes))
    pd.testing.assert_frame_equal(again, contrasts.tabulated(read.contrasts), check_exact=False)
    said = capsys.readouterr().out
    assert "B - A" in said and "larger" in said
    # another seed of one cell changes the tables of a folder that was finished
    plant_seed(out, "C", 3, 0.2)
    flags = ["tiny", "--tables", "factorial", "--seeds", "0", "--no-report", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(cell_figures, "draw", lambda *_: [])
        replicate.main(flags)
    assert Factorial.read(out).contrast("C - A").number.n == 4
    # the tables are enough for the figure: weights, trajectories and patterns are not shipped
    for path in out.rglob("*.parquet"):
        path.rename(path.with_suffix(".left"))
    for drawn in (cell_figures.draw_again(out, tmp_path / "figures"), list(out.glob("factorial_*"))):
        assert {path.name for path in drawn} == {f"factorial_memory_and_use.{e}" for e in ("png", "pdf")}
    for path in out.rglob("*.left"):
        path.rename(path.with_suffix(".parquet"))
    text = (out / "contrasts.csv").read_text()
    (out / "contrasts.csv").write_text(text.replace("larger", "smaller"))
    with pytest.raises(UserError, match=r"contrasts\.csv is not the table that this run wrote"):
        Factorial.read(out)
    shutil.rmtree(out / LISTED["A"].folder / "seed-0")
    (out / LISTED["B"].folder / "seed-0" / "trajectory.parquet").unlink()
    assert "trajectory.parquet does not exist" in fails(replicate.main, capsys, flags)
