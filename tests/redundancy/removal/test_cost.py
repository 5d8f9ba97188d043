"""Skipping for real against substitution, and what it saves."""

from dataclasses import replace

import torch

from redundancy.evaluation import log_probabilities
from redundancy.model.substitution import Rule
from redundancy.passes import collect, solve
from redundancy.removal.cost import Skipping, measure_cost, replaced_layers
from tests.planted import (
    first_batch,
    run_substituted,
    task,
)


def test_skipping_for_real_equals_substitution(tiny, tokenizer):
    t = task(tokenizer)
    fitted = solve(tiny, t, collect(tiny, t, None, "model", controls=True), "model")
    probe, batch = {n: fitted[n].with_position for n in t.layers}, first_batch(tiny, t)
    masks = {
        n: torch.rand(*batch.ids.shape, tiny.n_heads, generator=torch.Generator().manual_seed(n)) < 0.5
        for n in t.layers
    }
    for mask in masks.values():
        mask[:, 0] = True
    rules = {n: Rule(probe[n], choose=lambda site: ~masks[site.layer][:, 1:]) for n in t.layers}
    dense, _ = run_substituted(tiny, t, rules, batch)
    with Skipping(tiny, {n: lambda x, n=n: masks[n] for n in t.layers}, probe):
        gathered = log_probabilities(tiny, batch.ids)
    assert (dense - gathered).abs().max() < 1e-4
    everything, _ = run_substituted(
        tiny, replace(t, start_position=0), {n: Rule(probe[n]) for n in t.layers}, batch
    )
    with replaced_layers(tiny, probe):
        folded = log_probabilities(tiny, batch.ids)
    assert (everything - folded).abs().max() < 1e-4
    with Skipping(tiny, {}, probe):
        assert (log_probabilities(tiny, batch.ids) - log_probabilities(tiny, batch.ids)).abs().max() < 1e-5


def test_operations_fall_with_the_share_that_is_skipped(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    cost = measure_cost(decoder, t, {n: fitted[n].with_position for n in t.layers}, needs, (0.5, 1.0))
    layers = cost[cost["kind"] == "layers"].sort_values("share")
    assert layers["flops_ratio"].is_monotonic_decreasing
    assert (layers["flops_ratio"] < 1).all()
    operations = cost[cost["kind"] == "operations"].sort_values("share")
    assert operations["share"].iloc[-1] == 1
    assert (cost["n"] >= 5).all()
