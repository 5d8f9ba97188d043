"""Coverage of the document bootstrap by simulation, and its pairing."""

import numpy as np
import pytest

from labbook.estimate import Bootstrap, Estimate


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
