"""Maps trained in place: never worse than their start, exact on a planted linear model, the same again."""

from dataclasses import replace

import pytest
import torch

from redundancy.model.decoder import Decoder
from redundancy.passes import collect, solve
from redundancy.removal.replacements import inplace
from redundancy.removal.replacements.inplace import train_in_place
from tests.conftest import TINY, build
from tests.planted import plant_linear_attention, task


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


def test_a_rate_that_ruins_the_maps_leaves_them_as_they_were(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    monkeypatch.setattr(inplace, "HOW", replace(inplace.HOW, rate=1e3))
    found = train_in_place(decoder, t, *start(fitted, moments))
    assert found.after == found.before
    for layer, fit in fitted.items():
        assert torch.allclose(
            found.maps[layer].weight, fit.with_position.weight.double(), rtol=1e-5, atol=1e-7
        )


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
