"""Maps trained in place: never worse than their start, exact on planted models, the same again."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from redundancy.batches import places
from redundancy.evaluation import log_probabilities
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule
from redundancy.passes import collect, solve
from redundancy.removal.need import first_windows
from redundancy.removal.replacements import descent, inplace
from redundancy.removal.replacements.inplace import (
    NetworkMap,
    RankedMap,
    reduced,
    train_in_place,
    train_maps,
    train_networks_in_place,
    train_ranked,
)
from tests.conftest import TINY, build
from tests.planted import plant_linear_attention, stored, task, within_positions


def start(fitted, moments):
    maps = {n: f.with_position for n, f in fitted.items()}
    return maps, {n: sums.pilot["scale_x"] for n, sums in moments.items()}


def test_training_ends_below_its_start_and_gives_the_same_maps_again(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    monkeypatch.setattr(inplace, "HOW", replace(inplace.HOW, epochs=2))
    before = {name: p.clone() for name, p in decoder.model.named_parameters()}
    first, again = (train_in_place(decoder, t, *start(fitted, moments)) for _ in range(2))
    assert first.after < first.before
    assert first.before == again.before
    for layer in t.layers:
        assert torch.equal(first.maps[layer].weight, again.maps[layer].weight)
    assert all(torch.equal(p, before[name]) for name, p in decoder.model.named_parameters())  # frozen


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_what_is_kept_of_the_intact_model_changes_no_number(tiny, tokenizer, layers, monkeypatch):
    t = replace(task(tokenizer), layers=layers)
    rules = {n: Rule(lambda x, position: x[:, :1].expand(-1, tiny.d_z)) for n in layers}
    intact, calls = descent.Intact(tiny, t.start_position), []
    hook = next(tiny.attention(1).children()).register_forward_hook(lambda *_: calls.append(0))
    shuffled = t.shuffled("train", 1)
    for number, one in enumerate((t, shuffled)):
        for batch in one.batches("train", tiny.device):
            calls.clear()
            with torch.no_grad():
                found = intact.log_p(batch)
                without = descent.log_p_without(tiny, rules, t, batch, intact.prefix)
            # every window was met in the first round
            assert len(calls) == (number == 0)
            assert torch.allclose(found, log_probabilities(tiny, batch.ids), atol=1e-5)
            assert torch.allclose(without, descent.log_p_without(tiny, rules, t, batch), atol=1e-5)
    monkeypatch.setattr(descent, "KEPT", 0)
    forgetful, batch = descent.Intact(tiny, t.start_position), next(t.batches("train", tiny.device))
    calls.clear()
    first, again = (forgetful.log_p(batch) for _ in range(2))
    assert torch.equal(first, again) and len(calls) == 2
    hook.remove()


def test_a_rate_that_ruins_the_maps_leaves_them_as_they_were(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    monkeypatch.setattr(inplace, "HOW", replace(inplace.HOW, rate=1e3))
    found = train_in_place(decoder, t, *start(fitted, moments))
    assert found.after == found.before
    for layer, fit in fitted.items():
        assert torch.allclose(
            found.maps[layer].weight, fit.with_position.weight.double(), rtol=1e-5, atol=1e-7
        )


@pytest.mark.slow
def test_linear_attention_is_found_again_from_a_wrong_start(tokenizer):
    decoder, t = Decoder(build(TINY["gpt2"]), "gpt2"), task(tokenizer, tokens=6000, ridge=None)
    plant_linear_attention(decoder)
    moments = collect(decoder, t, None, "model", controls=True)
    maps, scale = start(solve(decoder, t, moments, "model"), moments)
    exact = train_in_place(decoder, t, maps, scale)
    assert exact.before == pytest.approx(0, abs=1e-4)
    wrong = {n: replace(m, weight=0.7 * m.weight) for n, m in maps.items()}
    found = train_in_place(decoder, t, wrong, scale)
    assert found.after < 0.05 * found.before


def train_each(decoder, t, moments, fitted):
    """Every kind of map, from where it begins in a run."""
    maps, scale = start(fitted, moments)
    narrow = {n: reduced(fitted[n], moments[n], decoder.output_map(n)[0]) for n in t.layers}
    return {
        "rank": train_ranked(decoder, t, narrow, scale),
        "network": train_networks_in_place(decoder, t, maps, moments),
    }


def test_ranks_and_networks_end_below_their_start_or_where_they_began(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    few = first_windows(t, "train", 800)
    monkeypatch.setattr(inplace, "HOW", replace(inplace.HOW, epochs=1))
    better = train_each(decoder, few, moments, fitted)
    monkeypatch.setattr(inplace, "HOW", replace(inplace.HOW, rate=1e3))
    for name, found in train_each(decoder, few, moments, fitted).items():
        assert better[name].after <= better[name].before == found.before == found.after, name
    # float32 rounds the product of the factors
    assert torch.linalg.matrix_rank(better["rank"].maps[0].weight, rtol=1e-5) == inplace.RANK


def test_the_start_of_low_rank_is_reduced_rank_regression_and_that_of_a_network_the_map(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    rows = stored(decoder, t, "train", 1)
    x, position = torch.from_numpy(rows["x"]), torch.from_numpy(rows["position"])
    weight = decoder.output_map(1)[0].double()
    placed, narrow = fitted[1].with_position, reduced(fitted[1], moments[1], decoder.output_map(1)[0])
    full, less = (found(x, position) @ weight for found in (placed, narrow))
    assert torch.allclose(full.mean(0), less.mean(0), atol=1e-6)
    # oracle: the best rank in the coordinates of ridge within positions (`test_rivals` has the formula)
    inside, _ = within_positions(rows["x"], rows["z"], rows["position"])
    scaled = inside / rows["x"].std(0)
    alpha = fitted[1].penalties["with_position"]
    extra = np.sqrt(len(x) * alpha) * np.eye(scaled.shape[1])
    slope = (placed.weight.double() * torch.from_numpy(rows["x"].std(0))[:, None] @ weight).numpy()
    leading = np.linalg.svd(np.vstack([scaled, extra]) @ slope, full_matrices=False)[2][: inplace.RANK]
    expected = scaled @ slope @ leading.T @ leading
    found = inside @ (narrow.weight.double() @ weight).numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    # the same function, as modules that learn
    scale = moments[1].pilot["scale_x"]
    ranked, network = RankedMap(narrow, scale, inplace.RANK), NetworkMap(placed, moments[1].pilot)
    assert torch.allclose(ranked(x, position).double(), narrow(x, position), atol=1e-5)
    assert torch.allclose(network(x, position).double(), placed(x, position), atol=1e-5)
    torch.nn.init.normal_(network.second.weight)
    assert torch.allclose(network.fixed()(x.float(), position), network(x, position), atol=1e-4)


def test_attention_of_low_rank_is_found_by_low_rank(tokenizer):
    """Planted: linear attention of rank 4, and a start that is wrong."""
    decoder, t = Decoder(build(TINY["gpt2"]), "gpt2"), task(tokenizer, ridge=None)
    for n in t.layers:
        value = decoder.attention(n).c_attn.weight.data[:, -decoder.d_z :]
        u, s, v = torch.linalg.svd(value)
        value.copy_(u[:, :4] * s[:4] @ v[:4])
    plant_linear_attention(decoder)
    moments = collect(decoder, t, None, "model", controls=True)
    maps, scale = start(solve(decoder, t, moments, "model"), moments)
    wrong = {n: replace(m, weight=0.7 * m.weight) for n, m in maps.items()}
    found = train_ranked(decoder, t, wrong, scale)
    assert found.after < 0.05 * found.before


def test_only_a_network_finds_attention_that_is_no_affine_map(tokenizer, monkeypatch):
    """Planted: z is an affine map of the hidden state with a network beside it."""
    decoder, t = Decoder(build(TINY["gpt2"]), "gpt2"), task(tokenizer, ridge=None)
    plant_linear_attention(decoder)
    moments = collect(decoder, t, None, "model", controls=True)
    linear, _ = start(solve(decoder, t, moments, "model"), moments)
    torch.manual_seed(0)
    truth = {n: NetworkMap(linear[n], moments[n].pilot).requires_grad_(False) for n in t.layers}
    for n, module in truth.items():
        torch.nn.init.normal_(module.second.weight)
        attn = decoder.attention(n)

        def forward(hidden_states, attn=attn, module=module, **kwargs):
            position = places(hidden_states).flatten()
            z = module(hidden_states.flatten(0, 1), position)
            return attn.c_proj(z.view_as(hidden_states)), None

        attn.forward = forward
    # what affine maps can do about it from the best that ridge finds, and a network from a wrong start
    moments = collect(decoder, t, None, "model", controls=True)
    maps, scale = start(solve(decoder, t, moments, "model"), moments)
    monkeypatch.setattr(inplace, "HOW", replace(inplace.HOW, epochs=3))
    affine = train_in_place(decoder, t, maps, scale)
    wrong = copy.deepcopy(truth)
    for module in wrong.values():
        module.requires_grad_(True)
        module.second.weight.data *= 0.7
    before, after = train_maps(decoder, t, wrong, replace(inplace.HOW, epochs=6))
    assert after < 0.05 * before
    assert after < 0.05 * affine.after
    exact, same = train_maps(decoder, t, copy.deepcopy(truth), replace(inplace.HOW, epochs=0))
    assert exact == same == pytest.approx(0, abs=1e-5)
