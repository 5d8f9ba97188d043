"""Schedules of exposures: against a plain loop over their definition, what training records with them, and
their errors.
"""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from consolidation.config import SRCDConfig
from consolidation.schedule import schedule
from consolidation.srcd import generate
from consolidation.train import trajectory
from consolidation.train.knowledge import KnowledgeTable
from consolidation.train.presets import preset
from consolidation.train.trainer import STATE, Trainer
from labbook.console import Interrupted, UserError

COHORTS = ("12", "6@10^1", "4@10-20,30", "2@10-20", "2@10-30/2")
BENCHMARK = SRCDConfig(
    length=64, patterns=26, novel_keys=20, values=8, bindings=0.125, queries=0.125, cohorts=COHORTS
)
TINY = replace(
    preset("tiny"),
    steps=40,
    evaluations=2,
    evaluation=8,
    batch=4,
    learning_rate_schedule="constant",
    benchmark=BENCHMARK,
)


def shown_by_a_plain_reading(step):
    """The patterns that the texts of COHORTS show at a step."""
    spans = [
        (12, [(0, 10**9)], 1),
        (6, [(10, 10**9)], 1),
        (4, [(10, 20), (30, 10**9)], 1),
        (2, [(10, 20)], 1),
        (2, [(10, 30)], 2),
    ]
    found, first = set(), 0
    for patterns, times, every in spans:
        for start, end in times:
            if start <= step < end and (step - start) % every == 0:
                found |= set(range(first, first + patterns))
        first += patterns
    return found


def test_each_step_shows_the_patterns_of_its_cohorts_and_no_others():
    plan = schedule(COHORTS)
    for step in range(45):
        expected = shown_by_a_plain_reading(step)
        assert {p for p, w in enumerate(plan.weights(step)) if w > 0} == expected
        batch = generate(BENCHMARK, 3, step, 16)
        shown = set(batch.shows[batch.shows >= 0].tolist())
        assert shown <= expected
        # 16 sequences with five or six recurring bindings each show nearly all of them
        assert len(shown) > len(expected) / 2
        for row in range(16):
            bound = batch.shows[row][(batch.role[row] == 1) & (batch.shows[row] >= 0)].tolist()
            assert len(bound) == len(set(bound))


def test_counts_by_pattern_step_and_cohort_are_those_of_a_loop():
    config = replace(TINY, steps=35)
    table = KnowledgeTable(BENCHMARK, torch.device("cpu"))
    exposures = torch.zeros(26, dtype=torch.int64)
    count, last, others, total = [0] * 26, [0] * 26, [0] * 26, 0
    for step in range(config.steps):
        batch = generate(BENCHMARK, 1, step, 4)
        seen = [p for row in batch.shows.tolist() for p in row if p >= 0]
        exposures += torch.bincount(batch.shows[batch.shows >= 0], minlength=26)
        table.add(step + 1, batch, exposures)
        for pattern in seen:
            count[pattern] += 1
            total += 1
        for pattern in set(seen):
            last[pattern] = step + 1
            others[pattern] = total - count[pattern]
    assert exposures.tolist() == count
    assert table.recency.tolist() == [last, others]


def test_massed_and_spread_exposures_are_equally_many():
    texts = ("20", "2@0-100", "2@100-200", "2@0-200/2", "2@1-200/2")
    config = replace(BENCHMARK, patterns=28, cohorts=texts)
    steps = [sum(shows.active(s) for s in range(300)) for shows in schedule(texts).cohorts[1:]]
    assert steps == [100] * 4
    counts = torch.zeros(28)
    for step in range(200):
        batch = generate(config, 0, step, 8)
        counts += torch.bincount(batch.shows[batch.shows >= 0], minlength=28)
    # at every step one massed and one spread group are shown, so both compete with as many others
    assert float(counts[20:24].sum() / counts[24:].sum()) == pytest.approx(1, abs=0.06)


def test_zipfs_law_is_that_of_the_weights():
    assert schedule(("3^1", "2")).weights(0) == pytest.approx((18 / 11, 9 / 11, 6 / 11, 1, 1))
    config = SRCDConfig(
        length=64,
        patterns=40,
        novel_keys=40,
        bindings=0.016,
        queries=0.016,
        recurrence=1.0,
        cohorts=("40^1",),
    )
    batch = generate(config, 0, 0, 40_000)
    asked = torch.bincount(batch.pattern[:, 0], minlength=40).double()
    law = 1 / torch.arange(1, 41).double()
    expected = 40_000 * law / law.sum()
    # one binding per sequence, so nothing is left out for being there already; chi-squared of 39 degrees
    assert float(((asked - expected) ** 2 / expected).sum()) < 72.1


def test_one_cohort_of_all_patterns_is_the_benchmark_without_cohorts():
    plain = replace(BENCHMARK, cohorts=())
    for step in (0, 7):
        one, other = (
            generate(c, 5, step, 6, split=split)
            for c in (plain, replace(BENCHMARK, cohorts=("26",)))
            for split in ("train",)
        )
        for field in fields(one):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    # and these are the numbers of today
    assert generate(plain, 5, 7, 2).key.sum(1).tolist() == [291, 281]
    assert "cohorts" not in replace(TINY, benchmark=plain).recorded()["benchmark"]
    assert "learning_rate_schedule" not in preset("small").recorded()


def test_an_evaluation_asks_for_all_patterns_so_far():
    def asked(step):
        batch = generate(BENCHMARK, 0, step, 400, split="evaluation")
        return set(batch.pattern[batch.recurring].tolist())

    assert asked(9) == set(range(12))
    assert asked(10) == asked(25) == asked(500) == set(range(26))


def test_looks_are_at_log_spaced_ages_and_lags():
    assert sorted(schedule(("12", "6@10-20")).marks(60)) == [
        *(0, 1, 2, 3, 6, 10, 11, 12, 13, 16, 18, 20, 21, 22, 23, 26, 28, 30, 32, 38, 42, 52, 56)
    ]


class Planted(torch.nn.Module):
    """A memory that answers pattern p with probability planted[p] when attention is out, and always else."""

    def __init__(self, planted, values):
        super().__init__()
        self.planted, self.values = planted, values

    def forward(self, batch, routing=None, without=frozenset(), *, dense=False):
        from consolidation.cram import Outputs

        right = batch.target.clamp(min=0)
        logits = torch.zeros(*right.shape, self.values)
        key = torch.zeros_like(right).scatter(1, batch.position, batch.pattern.clamp(min=0))
        p = self.planted[key] if "attention" in without else torch.full(right.shape, 0.999)
        rest = ((1 - p) / (self.values - 1)).log()
        logits += rest[..., None]
        logits.scatter_(2, right[..., None], p.log()[..., None])
        share = torch.stack([1 - p, p, torch.zeros_like(p)], -1)

        class Trace:
            probability = share

        return Outputs(logits, torch.zeros(right.shape), [Trace])


def test_knowledge_of_a_planted_memory_is_found_by_its_law_of_forgetting():
    """A memory that forgets by (1 + lag / 5)^-.7 is measured at every lag as it was planted."""
    table = KnowledgeTable(BENCHMARK, torch.device("cpu"))
    exposures = torch.zeros(26, dtype=torch.int64)
    for step in range(60):
        batch = generate(BENCHMARK, 1, step, 8)
        exposures += torch.bincount(batch.shows[batch.shows >= 0], minlength=26)
        table.add(step + 1, batch, exposures)
        if step + 1 in (20, 25, 40, 60):
            lag = step + 1 - table.recency[0]
            held = generate(BENCHMARK, 1, step + 1, 60, split="evaluation")
            table.probe(Planted(0.98 * (1 + lag / 5) ** -0.7, 8), held, step + 1, exposures)
    frame = table.table()
    shown = frame[frame["k"] > 0]
    expected = 0.98 * (1 + shown["lag"] / 5) ** -0.7
    np.testing.assert_allclose(shown["recall"], expected, rtol=1e-5)
    assert (shown["right"] == shown["queries"]).all()
    assert ((shown["known"] > 0) == (expected > 1 / 8)).all()
    retired = shown[(shown["cohort"] == 3) & (shown["step"] == 60)]
    # shown until step 20, if it was drawn at the last step
    assert retired["lag"].min() >= 40
    assert retired["age"].tolist() == [50, 50]
    assert (retired["others"] > 40 * 8 * 5).all()


def test_a_killed_run_with_cohorts_goes_on_to_the_same_tables(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole" / "seed-0", tmp_path / "parts" / "seed-0"
    Trainer(TINY, 0, whole).train()
    trainer = Trainer(TINY, 0, parts)
    monkeypatch.setattr("labbook.training.stopping", lambda: trainer.step >= 23)
    with pytest.raises(Interrupted):
        trainer.train()
    assert (parts / STATE).exists()
    monkeypatch.setattr("labbook.training.stopping", lambda: False)
    Trainer(TINY, 0, parts).train()
    for name in ("knowledge", "patterns"):
        one, other = (trajectory.read(folder / f"{name}.parquet")[0] for folder in (whole, parts))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    found = trajectory.load(whole.parent, "knowledge")
    assert set(found["step"]) == schedule(COHORTS).marks(40)
    # at its introduction a cohort is looked at once before it was ever shown
    assert set(found[(found["cohort"] == 1) & (found["age"] == 0)]["k"]) == {0}
    assert (found["known"] <= found["queries"]).all()
    assert found["probability"].between(0, 1).all()


@pytest.mark.parametrize(
    ("cohorts", "said"),
    [
        (("26@x",), "is not PATTERNS"),
        (("0", "26"), "at least 1 pattern"),
        (("20", "6@30-20"), "retired at step 20 and introduced at step 30, so it is never active"),
        (("20", "6@10-20,15"), "returns at step 15, but before that it is retired at step 20"),
        (("20", "6@10,20"), "returns at step 20, but before that it is never retired"),
        (("20", "5@10"), "have 25 patterns, but --patterns is 26"),
        (("6", "20@10"), "8 bindings, but only 6 patterns of the cohorts 6 20@10 are active at step 0"),
        (("26@0-50",), "only 0 patterns of the cohorts 26@0-50 are active at step 50"),
        (("7", "10/2", "9@1/2"), None),
        (("7", "19/2"), "only 7 patterns of the cohorts 7 19/2 are active at step 1"),
    ],
)
def test_cohorts_that_cannot_be_are_refused(cohorts, said):
    if said is None:
        assert replace(BENCHMARK, cohorts=cohorts).schedule.fewest() == (16, 1)
        return
    with pytest.raises(UserError) as error:
        replace(BENCHMARK, cohorts=cohorts)
    assert said in str(error.value)


def test_cohorts_of_other_tasks_and_after_the_end_are_refused():
    with pytest.raises(UserError, match="only the variant srcd has patterns"):
        replace(BENCHMARK, variant="copy")
    with pytest.raises(UserError, match="introduced after the last step, 20, so it is never active"):
        replace(TINY, steps=20, benchmark=replace(BENCHMARK, cohorts=("22", "4@20")))


def test_the_learning_rate_stays_where_the_schedule_says_so():
    assert {TINY.learning_rate_at(step) for step in range(TINY.warmup, 400)} == {TINY.learning_rate}
    cosine = replace(TINY, learning_rate_schedule="cosine", warmup=1)
    assert cosine.learning_rate_at(20) == pytest.approx(cosine.learning_rate / 2)
    assert cosine.learning_rate_at(40) == pytest.approx(0)
