"""The SRCD benchmark against a plain reading of its definition, its statistics, and its errors."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from consolidation.config import EXPOSURE_CLOCKS, SRCDConfig
from consolidation.srcd import (
    BIND,
    IGNORED,
    NONE,
    QUERY,
    SORTED,
    Exposures,
    _different,
    answers,
    generate,
)
from labbook.console import UserError

CPU = torch.device("cpu")
SMALL = SRCDConfig(length=128, patterns=30, novel_keys=30, values=8)

configs = st.builds(
    lambda length, queries, bindings, distractors, recurrence, novel, variant, lag: SRCDConfig(
        length=length,
        queries=queries,
        bindings=bindings,
        distractors=distractors,
        recurrence=recurrence,
        novel=novel,
        variant=variant,
        lag_exponent=lag,
        patterns=40,
        novel_keys=40,
        values=5,
    ),
    st.integers(40, 160),
    st.floats(0.03, 0.2),
    st.floats(0.03, 0.2),
    st.sampled_from([0.0, 0.02]),
    st.floats(0, 1),
    st.sampled_from(["disjoint", "shared"]),
    st.sampled_from(["srcd", "copy", "associative"]),
    st.sampled_from([0.0, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(0, 2**32), st.integers(0, 10**6))
def test_every_query_has_exactly_one_answer_before_it(config: SRCDConfig, seed: int, step: int) -> None:
    batch = generate(config, seed, step, 3)
    known = answers(config, seed, CPU)
    for row in range(3):
        role, key, value = (getattr(batch, name)[row].tolist() for name in ("role", "key", "value"))
        assert role.count(QUERY) == config.query_count
        assert role.count(BIND) == config.binding_count + config.distractor_count
        assert all(
            (k == 0) == (r == NONE) and (v == 0) == (r != BIND)
            for r, k, v in zip(role, key, value, strict=True)
        )
        positions = [t for t in range(config.length) if role[t] == QUERY]
        assert batch.position[row].tolist() == positions
        for number, t in enumerate(positions):
            holders = [s for s in range(config.length) if role[s] == BIND and key[s] == key[t]]
            assert holders == [int(batch.binding[row, number])]
            assert holders[0] < t
            assert batch.target[row, t] == value[holders[0]] - 1
            assert batch.seen[row, number] == sum(key[s] == key[t] for s in range(t))
            pattern = int(batch.pattern[row, number])
            if pattern >= 0:
                assert key[t] == pattern + 1
                assert value[holders[0]] == known[pattern]
        assert (batch.target[row] != IGNORED).sum() == config.query_count


def test_the_stream_is_a_function_of_seed_step_and_split() -> None:
    def same(a: object, b: object) -> bool:
        # type: ignore[arg-type]
        return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))

    one = generate(SMALL, 7, 3, 4)
    torch.manual_seed(99)
    torch.rand(10)
    assert same(one, generate(SMALL, 7, 3, 4))
    for other in (
        generate(SMALL, 8, 3, 4),
        generate(SMALL, 7, 4, 4),
        generate(SMALL, 7, 3, 4, split="evaluation"),
    ):
        assert not torch.equal(one.key, other.key)
    state = torch.get_rng_state()
    generate(SMALL, 7, 3, 4)
    assert torch.equal(state, torch.get_rng_state())


def test_shares_and_laws_are_those_of_the_paper() -> None:
    config = SRCDConfig()
    batch = generate(config, 0, 0, 200)
    assert config.query_count == 102
    assert config.optimum() == pytest.approx(0.015)
    assert config.chance == 1 / 16
    # 200 sequences with round(.7 x 82) recurring bindings each: the share of queries has a standard error
    # below .005
    assert float(batch.recurring.double().mean()) == pytest.approx(0.7, abs=0.02)
    inside = batch.gap[(batch.gap > 0.1) & (batch.gap < 1000)].double().numpy()
    low, high = (1 - (1 + g) ** -1.5 for g in (0.1, 1000.0))
    assert stats.kstest(inside[:20000], lambda g: ((1 - (1 + g) ** -1.5) - low) / (high - low)).pvalue > 1e-3
    assert float((batch.gap == 0.1).double().mean()) == pytest.approx(low, abs=0.005)
    assert batch.gap.max() <= 1000


def test_the_process_is_the_recursion() -> None:
    config = replace(SMALL, noise=0.0)
    batch = generate(config, 1, 0, 2)
    assert torch.equal(batch.previous[:, 1:], batch.dynamics[:, :-1])
    v = batch.previous[:, 0].double()
    for t in range(config.length):
        v = 0.95 * v + config.beta * torch.sin(config.omega * batch.gap[:, t].double())
        torch.testing.assert_close(batch.dynamics[:, t].double(), v, atol=2e-5, rtol=1e-5)
    noisy = generate(SMALL, 1, 0, 100)
    residual = noisy.dynamics - 0.95 * noisy.previous - 0.5 * noisy.gap.sin()
    assert float(residual.std()) == pytest.approx(0.1, rel=0.03)


def test_novel_keys_are_disjoint_or_shared_and_lags_follow_their_law() -> None:
    novel = generate(SMALL, 0, 0, 50)
    keys = novel.key.gather(1, novel.position)
    assert bool(((keys <= SMALL.patterns) == novel.recurring).all())
    shared = replace(SMALL, novel="shared")
    batch = generate(shared, 0, 0, 200)
    keys = batch.key.gather(1, batch.position)[~batch.recurring]
    assert int(keys.max()) <= SMALL.patterns
    # a shared key with a random value is right by memory 1 time in 8
    answer = answers(shared, 0, CPU)[keys - 1] - 1
    right = (answer == batch.target.gather(1, batch.position)[~batch.recurring]).double().mean()
    assert float(right) == pytest.approx(1 / 8, abs=0.05)


def test_of_many_novel_keys_hardly_one_comes_twice() -> None:
    draw = torch.rand((3, SORTED + 1), generator=torch.Generator().manual_seed(0))
    assert torch.equal(_different(draw, 9), draw.argsort(1)[:, :9])
    many = replace(SMALL, novel_keys=100_000)
    batch = generate(many, 0, 0, 200)
    bound = batch.key[(batch.role == BIND) & (batch.key > many.patterns)]
    assert len(bound.unique()) > 0.99 * len(bound) > 100


@pytest.mark.parametrize("exponent", [0.0, 1.5])
def test_lags_follow_their_law(exponent: float) -> None:
    batch = generate(replace(SMALL, lag_exponent=exponent), 0, 0, 300)
    excess, variance = [], []
    for row in range(300):
        places = (batch.role[row] == BIND).nonzero()[:, 0]
        for t, lag in zip(batch.position[row], batch.lag[row], strict=True):
            lags = (t - places[places < t]).double()
            weight = lags**-exponent / (lags**-exponent).sum()
            mean = (weight * lags.log()).sum()
            excess.append(float(lag.double().log() - mean))
            variance.append(float((weight * (lags.log() - mean) ** 2).sum()))
    assert abs(sum(excess)) < 4 * sum(variance) ** 0.5


def test_exposures_on_three_clocks_are_the_counts_of_a_loop() -> None:
    config = replace(SMALL, novel="shared", distractors=0.05)
    rows, exposures = 3, Exposures(3, config.patterns)
    stream = np.zeros((rows, config.patterns), int)
    for step in range(4):
        batch = generate(config, 5, step, rows)
        counted = exposures.before(batch)
        assert counted.shape == (len(EXPOSURE_CLOCKS), rows, config.query_count)
        known = answers(config, 5, CPU)
        shown = np.zeros((rows, config.patterns), int)
        for row in range(rows):
            key, role, value = (getattr(batch, n)[row].tolist() for n in ("key", "role", "value"))
            # a shared key shows its pattern unless this sequence binds it to a value drawn anew (which may be
            # equal by chance)
            novel = {
                key[int(b)] for b, r in zip(batch.binding[row], batch.recurring[row], strict=True) if not r
            }
            for number, t in enumerate(batch.position[row].tolist()):
                p = int(batch.pattern[row, number])
                if p < 0:
                    assert counted[:, row, number].tolist() == [0, 0, 0]
                    continue
                inside = sum(k == p + 1 for k in key[:t])
                assert counted[:, row, number].tolist() == [
                    inside,
                    inside + stream[row, p],
                    inside + stream[:, p].sum(),
                ]
            for t in range(config.length):
                if role[t] != NONE and key[t] not in novel and int(batch.shows[row, t]) >= 0:
                    assert role[t] == QUERY or value[t] == known[key[t] - 1]
                    shown[row, key[t] - 1] += 1
        exposures.add(batch)
        stream += shown
        assert np.array_equal(exposures.rows.numpy(), stream)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": 0.6, "bindings": 0.6}, "do not fit into 128 positions"),
        ({"patterns": 3}, "need as many different keys, but there are 3 patterns"),
        ({"novel_keys": 2}, "Increase --novel-keys"),
        ({"queries": 0.001}, "at least one of each"),
        ({"recurrence": 1.2}, "--recurrence 1.2 is not a share"),
        ({"values": 1}, "at least 2 values"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SMALL, **change)  # type: ignore[arg-type]
