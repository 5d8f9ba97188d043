"""Coverage of the document bootstrap by simulation, and its pairing."""

import numpy as np
import pytest

from labbook.estimate import Bootstrap, Estimate, Studentised, over_seeds
from redundancy.coverage.simulation import simulate


@pytest.mark.parametrize("documents", [6, 12, 40])
def test_interval_covers_a_ratio_over_documents_of_unequal_length(documents):
    """R over tokens of documents with their own level and length, as in the tables."""
    g, hits, trials = np.random.default_rng(documents), 0, 800
    bootstrap = Bootstrap(documents, seed=1, replicates=1000)
    for _ in range(trials):
        tokens = g.integers(200, 1200, documents)
        level = g.normal(0.5, 0.1, documents)
        sums = tokens * level + g.normal(0, 0.2, documents) * np.sqrt(tokens)
        e = bootstrap.estimate((bootstrap.weights @ sums) / (bootstrap.weights @ tokens))
        hits += e.lower <= 0.5 <= e.upper
    # binomial error of 800 trials is .8 %; the expanded percentile interval keeps its level for few documents
    assert 0.92 <= hits / trials <= 0.975


def test_differences_are_paired():
    bootstrap = Bootstrap(10, seed=0)
    a = np.random.default_rng(0).normal(size=10)
    difference = bootstrap.weights @ (a + 1) - bootstrap.weights @ a
    assert np.ptp(difference) < 1e-12  # shared variation between documents cancels


def test_same_seed_same_interval_and_row_zero_is_the_estimate():
    first, second = Bootstrap(7, 3), Bootstrap(7, 3)
    assert np.array_equal(first.weights, second.weights)
    assert (first.weights[0] == 1).all()
    assert (first.weights.sum(1) == 7).all()


def test_one_unit_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        Bootstrap(1, 0)


def test_an_estimate_prints_with_interval_and_n():
    assert str(Estimate(0.5, 0.4, 0.6, 8)) == "0.500 [0.400, 0.600] (n = 8)"


@pytest.mark.parametrize(("design", "least"), [("equal", 0.93), ("skewed", 0.89), ("by size", 0.86)])
def test_the_studentised_interval_holds_where_simpler_ones_do_not(design, least):
    rows = {row["method"]: row["coverage"] for row in simulate(design, 8, 500, 1)}
    # three standard errors of 500 simulations are 3 %
    assert rows["bootstrap-t"] >= least
    assert rows["bootstrap-t"] >= rows["percentile"] - 0.02
    if design != "equal":
        assert rows["bootstrap-t"] > max(rows["percentile"], rows["jackknife-t"])


def test_the_studentised_interval_of_a_mean_is_the_bootstrap_t_of_the_textbook():
    """Oracle: resample the values themselves, one by one (Efron & Tibshirani 1993, section 12.5)."""
    x = np.random.default_rng(0).lognormal(size=11)
    bootstrap = Studentised(11, 5, 4000)
    ours = bootstrap.estimate(bootstrap.weights @ x / bootstrap.weights.sum(1))
    t = []
    g = np.random.default_rng(1)
    for _ in range(20_000):
        y = g.choice(x, 11)
        if len(set(y)) > 1:
            t.append((y.mean() - x.mean()) / (y.std(ddof=1) / np.sqrt(11)))
    error = x.std(ddof=1) / np.sqrt(11)
    low, high = x.mean() - error * np.quantile(t, 0.975), x.mean() - error * np.quantile(t, 0.025)
    assert ours.estimate == pytest.approx(x.mean())
    assert ours.lower == pytest.approx(low, abs=0.03 * error)
    assert ours.upper == pytest.approx(high, abs=0.3 * error)  # the long tail of few units is rough


def test_no_spread_is_no_width_and_what_is_undefined_stays_so():
    bootstrap = Studentised(6, 0)
    e = bootstrap.estimate(np.full(7, 0.3))
    assert (e.lower, e.upper) == (0.3, 0.3)
    values = np.full((7, 2), 0.3)
    values[3, 1] = np.nan
    _, lower, upper = bootstrap.intervals(values)
    assert np.isfinite(lower[0])
    assert np.isnan([lower[1], upper[1]]).all()


def test_seeds_widen_an_interval_by_their_own():
    estimate, lower, upper = (np.array(v) for v in (0.5, 0.4, 0.7))
    same = over_seeds((estimate, lower, upper), None)
    assert same == (estimate, lower, upper)
    seeds = np.array([0.4, 0.5, 0.6])
    half = 4.302652729911275 * 0.1 / np.sqrt(3)  # Student, 2 degrees of freedom
    _, low, high = over_seeds((estimate, lower, upper), seeds)
    assert low == pytest.approx(0.5 - np.hypot(0.1, half))
    assert high == pytest.approx(0.5 + np.hypot(0.2, half))


def test_a_share_that_jumps_has_percentiles_of_replicates():
    bootstrap = Studentised(12, 0)
    heads = np.random.default_rng(0).normal([0.7, 0.8, 0.9], 0.05, (12, 3))
    values = bootstrap.weights @ heads / bootstrap.weights.sum(1, keepdims=True)
    replicates = bootstrap.replicates(values)
    assert np.allclose(replicates[0], heads.mean(0))
    assert replicates[1:].std(0) == pytest.approx(heads.std(0) / np.sqrt(12), rel=0.1)
    estimate, lower, upper = bootstrap.percentiles((replicates > 0.8).mean(-1))
    assert {float(lower), float(upper)} == {1 / 3, 2 / 3}
    assert estimate in (lower, upper)
