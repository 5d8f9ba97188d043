"""The floor: models that see one token and its position, and nothing before."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from redundancy.evaluation import next_token_log_p
from redundancy.model.substitution import Rule
from redundancy.pretrain.ngram import NGram
from redundancy.removal.replacements import floor
from redundancy.removal.replacements.floor import bigram, measure_floor, network
from tests.planted import first_batch, run_substituted


def given(fitted, moments):
    return (
        {n: f.with_position for n, f in fitted.items()},
        {n: sums.pilot["scale_x"] for n, sums in moments.items()},
    )


def test_the_bigram_counts_inside_windows_only(fitted_gpt2):
    decoder, t, *_ = fitted_gpt2
    train = t.windows["train"]
    rows = [row[:n] for row, n in zip(train.ids, train.lengths, strict=True)]
    speak, batch = bigram(t, decoder.vocabulary), first_batch(decoder, t)
    found = speak(batch).numpy()
    assert found.shape == (len(batch.ids), batch.ids.shape[1] - 1)
    # oracle: pairs counted one by one, interpolated with the share of left neighbours
    pairs: dict[tuple[int, int], int] = {}
    for row in rows:
        for pair in zip(row[:-1].tolist(), row[1:].tolist(), strict=True):
            pairs[pair] = pairs.get(pair, 0) + 1
    once, twice = (sum(c == k for c in pairs.values()) for k in (1, 2))
    discount = once / (once + 2 * twice)
    left: dict[int, int] = {}
    for _, after in pairs:
        left[after] = left.get(after, 0) + 1
    ones, twos = (sum(c == k for c in left.values()) for k in (1, 2))
    low = ones / (ones + 2 * twos) if ones else 0.0
    ids = batch.ids[0, :12].tolist()
    for place, (a, b) in enumerate(itertools.pairwise(ids)):
        lower = max(left.get(b, 0) - low, 0) / len(pairs) + low * len(left) / len(pairs) / decoder.vocabulary
        after = {w: c for (v, w), c in pairs.items() if v == a}
        total = sum(after.values())
        p = (max(after.get(b, 0) - discount, 0) + discount * len(after) * lower) / total if total else lower
        assert found[0, place] == pytest.approx(np.log(p), rel=1e-9)
    # the same as one array where nothing lies between the windows
    joined = NGram(rows[0].astype(np.int64), 2, decoder.vocabulary)
    alone = NGram([rows[0].astype(np.int64)], 2, decoder.vocabulary)
    one = batch.ids[0].numpy()
    assert np.array_equal(joined.log_probabilities(one), alone.log_probabilities(one))


def test_the_network_starts_as_the_replaced_model_and_sees_one_token(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    monkeypatch.setattr(floor, "HOW", replace(floor.HOW, epochs=0))
    before = {name: p.clone() for name, p in decoder.model.named_parameters()}
    maps, scale = given(fitted, moments)
    batch, every = first_batch(decoder, t), range(len(decoder.layers))
    whole = replace(t, layers=tuple(n for n in every if n in maps))
    speak = network(decoder, whole, maps, scale)
    replaced, _ = run_substituted(decoder, t, {n: Rule(m) for n, m in maps.items()}, batch)
    goal = batch.ids[:, 1:].unsqueeze(-1)
    assert torch.allclose(speak(batch), replaced.gather(-1, goal).squeeze(-1), atol=1e-4)
    monkeypatch.setattr(floor, "HOW", replace(floor.HOW, epochs=1))
    speak = network(decoder, whole, maps, scale)
    other = replace(batch, ids=batch.ids.clone())
    other.ids[:, 1:6] = (other.ids[:, 1:6] + 7) % decoder.vocabulary
    if len(maps) == len(decoder.layers):  # attention is gone from every layer
        assert torch.allclose(speak(batch)[:, 7:], speak(other)[:, 7:], atol=1e-6)
    assert all(torch.equal(p, before[name]) for name, p in decoder.model.named_parameters())
    assert not next_token_log_p(decoder, batch.ids).requires_grad  # the model that is given stays frozen


def test_the_floor_is_scored_by_document_and_lies_with_the_better_model(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    monkeypatch.setattr(floor, "HOW", replace(floor.HOW, epochs=1))
    found = measure_floor(decoder, t, *given(fitted, moments))
    if len(t.layers) < len(decoder.layers):
        assert not found.sums
        return
    assert set(found.sums) == {"bigram", "network"}
    assert next(iter(found.sums)) == min(found.validation, key=lambda name: found.validation[name])
    windows = t.windows["evaluation"]
    for sums in found.sums.values():
        expected = np.bincount(
            windows.document, np.maximum(windows.lengths - 1 - t.start_position, 0), len(windows.names)
        )
        assert np.array_equal(sums[:, 0].numpy(), expected)


def test_there_is_no_floor_while_some_layers_attend(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    few = replace(t, layers=t.layers[:1])
    assert not measure_floor(decoder, few, *given(fitted, moments)).sums
