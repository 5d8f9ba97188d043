"""The removal curve: crossings, what can be removed, and paired intervals in simulation."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from labbook.console import UserError
from labbook.estimate import Studentised
from redundancy.evaluation import TALLIES, Key, Variant
from redundancy.removal.config import CONTROL, NOT_DEPLOYABLE, ORDERS, RemovalConfig
from redundancy.removal.curve import (
    BUDGETS,
    DEPLOYABLE,
    ROUNDS,
    Evaluated,
    chosen_orders,
    crossings,
    differences,
    interpolated,
    measures,
    removable,
    settled,
)


def test_the_interpolated_share_is_the_first_crossing():
    shares = np.array([[0.2, 0.5, 1.0]])
    assert interpolated(shares, np.array([[0.0, 0.03, 0.5]]), 0.01)[0] == pytest.approx(0.2 + 0.3 / 3)
    assert interpolated(shares, np.array([[0.02, 0.0, 0.5]]), 0.01)[0] == pytest.approx(0.1)
    assert interpolated(shares, np.array([[0.0, 0.0, 0.005]]), 0.01)[0] == 1.0
    assert interpolated(shares, np.array([[-0.01, 0.0, 0.02]]), 0.01)[0] == pytest.approx(0.75)


def removable_of(points: list[float], *, discrete: bool, spread: float = 0.001, shares=(0.2, 0.5, 1.0)):
    bootstrap = Studentised(12, 0)
    document = np.random.default_rng(0).normal(points, spread, (12, len(points)))
    increases = (
        bootstrap.weights @ (document - document.mean(0) + points) / bootstrap.weights.sum(1, keepdims=True)
    )
    return removable(np.tile(shares, (13, 1)), increases, 0.05, bootstrap, discrete=discrete)


def test_whole_layers_are_removed_whole_or_not_at_all():
    """One sixth of the layers already costs too much: the answer is 0, with the next measured share, and
    nothing between.
    """
    found = removable_of([0.08, 0.3, 0.9], discrete=True, shares=(1 / 6, 2 / 6, 1.0))
    assert (found.share.estimate, found.share.lower, found.share.upper, found.kind) == (0, 0, 0, "measured")
    assert found.beyond == pytest.approx(1 / 6)
    found = removable_of([0.01, 0.049, 0.9], discrete=True, spread=0.01)
    assert found.share.estimate == 0.5
    assert found.share.lower == 0.2  # in some resamples the second step costs too much
    assert {found.share.estimate, found.share.lower, found.share.upper} <= {0.0, 0.2, 0.5, 1.0}


def evaluated_curve(shares: list[float], increases: list[float], order: str = "random") -> Evaluated:
    """A curve of made-up losses on 6 documents of 100 tokens."""
    sums = torch.zeros(len(shares) + 1, 6, len(TALLIES), dtype=torch.float64)
    sums[:, :, 0], sums[:, :, 5] = 100, 400
    for row, (share, increase) in enumerate(zip(shares, increases, strict=True), 1):
        sums[row, :, 1], sums[row, :, 4] = 100 * increase, 400 * share
    keys = [Key("curve", "with_position", order=order, target_share=share) for share in shares]
    return Evaluated([Variant(k, {}) for k in keys], sums[0], sums[1:])


def test_the_order_is_chosen_among_those_that_could_be_followed():
    """A known order may be better; whole layers lose when their first step already costs too much."""
    curves = {
        "known_displacement": [0.0, 0.0, 0.0],
        "predicted_displacement": [0.02, 0.2, 0.9],
        "predicted_fisher": [0.001, 0.08, 0.9],
        "layers_cosine": [0.06, 0.2, 0.9],
    }
    parts = [evaluated_curve([0.2, 0.5, 1.0], values, order) for order, values in curves.items()]
    every = parts[0]
    for part in parts[1:]:
        every = every.joined(part)
    assert chosen_orders(every) == dict.fromkeys(BUDGETS, "predicted_fisher")
    parts[3] = evaluated_curve([0.2, 0.5, 1.0], [0.0, 0.04, 0.9], "layers_cosine")
    every = parts[0].joined(parts[2]).joined(parts[3])
    assert chosen_orders(every)[0.05] == "layers_cosine"
    assert chosen_orders(every)[0.01] == "predicted_fisher"
    assert not any(order.startswith(("known", "past", "random")) for order in DEPLOYABLE)
    assert {*DEPLOYABLE, *NOT_DEPLOYABLE, CONTROL} == set(ORDERS)


def test_what_lies_beyond_every_budget_changes_no_choice():
    """Measuring stops at the first share over all budgets; planted curves with any losses behind it."""
    draw = np.random.default_rng(0)
    shares, orders = [0.1, 0.3, 0.6, 1.0], ("predicted_fisher", "hidden_fisher", "layers_cosine")
    winners = set()
    for _ in range(50):
        losses = {o: (draw.normal(0.03, 0.05, len(shares)) + 0.1 * draw.random()).tolist() for o in orders}
        whole, short = (
            [evaluated_curve(shares[:n], losses[o][:n], o) for o, n in zip(orders, ends, strict=True)]
            for ends in ([4] * 3, [next((i for i in range(4) if losses[o][i] > 0.1), 3) + 1 for o in orders])
        )
        every, few = (p[0].joined(p[1]).joined(p[2]) for p in (whole, short))
        assert chosen_orders(few) == chosen_orders(every)
        assert settled(few) == settled(every) == {o for o in orders if max(losses[o]) > 0.1}
        winners |= set(chosen_orders(every).values())
    assert winners == set(orders)


def test_crossings_are_measured_until_their_neighbours_are_close():
    def loss(share):  # steep at first: the secant from (0, 0) misses
        return 0.3 * share**0.5

    shares = [0.05, 0.3, 1.0]
    for _ in range(ROUNDS):
        wanted = crossings(evaluated_curve(shares, [loss(s) for s in shares])).get("random", [])
        assert not set(wanted) & set(shares)
        shares = sorted({*shares, *wanted})
    for budget in BUDGETS:
        true = (budget / 0.3) ** 2
        below = max((s for s in shares if s <= true), default=0.0)
        above = min(s for s in shares if s > true)
        assert above - below <= 0.06
    assert not crossings(evaluated_curve([0.5, 1.0], [0.0, 0.001]))  # no budget is crossed
    assert not crossings(
        evaluated_curve([0.5, 1.0], [0.2, 0.9], "layers_cosine")
    )  # nothing lies between whole layers


def test_nothing_is_interpolated_below_the_first_measured_share_or_beyond_the_last():
    found = removable_of([0.08, 0.3, 0.9], discrete=False)
    assert np.isnan(found.share.estimate)
    assert (found.share.lower, found.share.upper, found.kind) == (0, 0.2, "less than")
    found = removable_of([0.0, 0.01, 0.02], discrete=False)
    assert (found.share.estimate, found.kind) == (1.0, "at least")
    found = removable_of([0.0, 0.03, 0.5], discrete=False)
    assert (found.within, found.beyond, found.kind) == (0.5, 1.0, "interpolated")
    assert 0.5 < found.share.lower <= found.share.estimate <= found.share.upper < 1


def paired(curves: dict[str, np.ndarray], shares=(0.2, 0.5, 1.0)):
    """Differences at the middle budget of made-up losses (document, point) by order."""
    bootstrap = Studentised(len(next(iter(curves.values()))), 0)

    def of(document):
        rises = bootstrap.weights @ document / bootstrap.weights.sum(1, keepdims=True)
        return np.tile(shares, (len(rises), 1)), rises

    found = differences({order: of(document) for order, document in curves.items()}, BUDGETS[1], bootstrap)
    return {(d.first, d.second): d.share for d in found}, bootstrap, of


def test_paired_differences_find_what_overlapping_intervals_hide():
    """Documents differ much, and one order is a little better on every one of them."""
    g = np.random.default_rng(0)
    level = g.normal(1.0, 0.3, (12, 1))
    one = np.array([[0.01, 0.06, 0.9]]) * level
    other = one * (1.06 + g.normal(0, 0.005, one.shape))
    found, bootstrap, of = paired({"predicted_fisher": one, "random": other})
    difference = found["predicted_fisher", "random"]
    assert difference.lower > 0
    assert difference.n == 12
    alone = [removable(*of(d), BUDGETS[1], bootstrap, discrete=False).share for d in (one, other)]
    assert difference.estimate == pytest.approx(alone[0].estimate - alone[1].estimate)
    assert alone[0].lower < alone[1].upper
    same, *_ = paired({"predicted_fisher": one, "random": one})
    assert same["predicted_fisher", "random"].upper == same["predicted_fisher", "random"].lower == 0
    turned, *_ = paired({"predicted_fisher": other, "random": one})
    assert turned["predicted_fisher", "random"].upper < 0


def test_paired_differences_of_whole_layers_are_between_measured_shares_and_limits_give_none():
    g = np.random.default_rng(1)
    smooth = np.array([[0.01, 0.06, 0.9]]) + g.normal(0, 0.001, (12, 3))
    steps = np.array([[0.02, 0.3, 0.9]]) + g.normal(0, 0.001, (12, 3))
    steep = np.array([[0.08, 0.3, 0.9]]) + g.normal(0, 0.001, (12, 3))
    found, *_ = paired({"predicted_fisher": smooth, "layers_cosine": steps, "random": steep})
    whole = found["predicted_fisher", "layers_cosine"]
    assert 0 < whole.lower <= whole.estimate <= whole.upper
    assert whole.estimate == pytest.approx(0.2 + 0.3 * 0.04 / 0.05 - 0.2, abs=0.02)
    assert np.isnan(found["predicted_fisher", "random"].estimate)  # random is only known to be less
    assert np.isnan(found["random", "layers_cosine"].lower)
    assert next(iter(found)) == ("predicted_fisher", "random")  # in the order of ORDERS


def test_intervals_of_paired_loss_differences_cover_in_simulation():
    """Documents of very different difficulty, a small difference: only a paired interval finds it with the
    right coverage.
    """
    g, documents, truth = np.random.default_rng(0), 12, 0.05
    inside, width, trials = 0, [], 300
    for _ in range(trials):
        tokens = g.integers(500, 1500, documents).astype(float)
        base = tokens * g.normal(3.5, 0.4, documents)
        change = base + tokens * g.normal(truth, 0.02, documents)
        sums = [np.zeros((documents, len(TALLIES))) for _ in range(2)]
        for s, loss in zip(sums, (base, change), strict=True):
            s[:, 0], s[:, 1], s[:, 5], s[:, 6:] = tokens, loss, tokens, 1
        bootstrap = Studentised(documents, int(g.integers(2**31)), 500)
        found = measures(torch.from_numpy(sums[0]), torch.from_numpy(sums[1])[None], bootstrap.weights)
        e = bootstrap.estimate(found["loss_increase"][0])
        inside += e.lower <= truth <= e.upper
        width.append(e.upper - e.lower)
    error = 3 * np.sqrt(0.95 * 0.05 / trials)
    assert 0.95 - error - 0.02 < inside / trials < 0.95 + error + 0.01
    assert np.median(width) < 4 * norm.ppf(0.975) * 0.02 / np.sqrt(documents)


def test_orders_that_were_not_measured_up_to_the_budget_are_not_compared():
    """Both stay within it up to a fifth, of which nothing follows for their difference; with all attention
    gone it is known.
    """
    g = np.random.default_rng(2)
    one, other = (np.array([[0.001, 0.002]]) + g.normal(0, 0.0001, (12, 2)) for _ in range(2))
    orders = {"predicted_fisher": one, "random": other}
    found, *_ = paired(orders, shares=(0.1, 0.2))
    assert np.isnan(found["predicted_fisher", "random"].estimate)
    found, *_ = paired(orders, shares=(0.1, 1.0))
    assert found["predicted_fisher", "random"].estimate == 0


def test_orders_are_those_asked_for_and_their_control():
    asked = RemovalConfig(parts=("curve",), orders=("predicted_fisher", "layers_cosine"))
    assert asked.curve_orders() == ("predicted_fisher", "random", "layers_cosine")
    assert RemovalConfig(parts=("layers",)).curve_orders() == ()
    assert RemovalConfig().curve_orders() == tuple(ORDERS)
    for wrong, said in (
        ({"parts": ("curve",), "orders": ("network_fisher",)}, "made by the part routers"),
        ({"parts": ("layers",), "orders": ("random",)}, "Add curve"),
    ):
        with pytest.raises(UserError, match=said):
            RemovalConfig(**wrong).curve_orders()
