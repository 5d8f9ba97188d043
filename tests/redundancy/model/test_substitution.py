"""Substitution against hand-made replacements: where it acts, and that it acts nowhere else."""

import numpy as np
import pytest
import torch

from redundancy.evaluation import log_probabilities
from redundancy.model.capture import activations
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, Substitution, zero
from tests.conftest import TINY, build
from tests.planted import NORMED, first_batch, run_substituted, stored, task


def test_the_true_output_in_place_of_attention_changes_nothing(tiny, tokenizer):
    t = task(tokenizer)
    batch = first_batch(tiny, t)
    truth = {n: activations(tiny, batch.ids, n)["z"][:, 1:].flatten(0, 1) for n in (0, 1)}
    changed, skipped = run_substituted(
        tiny, t, {n: Rule(lambda x, position, n=n: truth[n]) for n in (0, 1)}, batch
    )
    assert (changed - log_probabilities(tiny, batch.ids)).abs().max() < 1e-6
    assert skipped.tolist() == (batch.keep.sum(1) * 2 * tiny.n_heads).tolist()


def test_a_replaced_head_changes_its_own_columns_at_scored_positions_only(tiny, tokenizer):
    t = task(tokenizer)
    batch = first_batch(tiny, t)
    intact = activations(tiny, batch.ids, 0)["z"]
    with Substitution(
        tiny, {0: Rule(lambda x, position: torch.full((len(x), tiny.d_z), 7.0), heads=(2,))}, 1
    ):
        z = activations(tiny, batch.ids, 0)["z"]
    own = slice(2 * tiny.d_head, 3 * tiny.d_head)
    assert (z[:, 1:, own] == 7).all()
    assert torch.equal(z[:, :1], intact[:, :1])
    rest = [i for i in range(tiny.d_z) if not own.start <= i < own.stop]
    assert torch.equal(z[:, 1:, rest], intact[:, 1:, rest])


def test_a_dropped_layer_is_one_whose_output_weights_are_zero(tokenizer):
    t = task(tokenizer, start=0)
    decoder, other = (Decoder(build(TINY["gpt2"]), "gpt2") for _ in range(2))
    batch = first_batch(decoder, t)
    changed, _ = run_substituted(decoder, t, {1: Rule(zero, dropped=True)}, batch)
    projection = other.projection(1)
    projection.weight.zero_()
    projection.bias.zero_()
    assert (changed - log_probabilities(other, batch.ids)).abs().max() < 1e-6


def test_mean_ablation_puts_the_training_mean_of_the_control(fitted_gpt2):
    decoder, t, _, fitted, _ = fitted_gpt2
    batch, train = first_batch(decoder, t), stored(decoder, t, "train", 1)
    with Substitution(decoder, {1: Rule(lambda x, position: fitted[1].mean.to(x).expand(len(x), -1))}, 1):
        z = activations(decoder, batch.ids, 1)["z"]
    assert np.abs(z[0, 1:].numpy() - train["z"].mean(0)).max() < 1e-5
    rows = torch.zeros(3, decoder.d_model)
    control = fitted[1].predictors["training_mean"]
    assert torch.allclose(control(type("R", (), {"x": rows})()), fitted[1].mean.float().expand(3, -1))


@pytest.mark.parametrize("name", list(NORMED))
def test_a_dropped_layer_adds_nothing_to_the_stream(name, tokenizer):
    decoder = Decoder(build(NORMED[name]), name)
    batch = first_batch(decoder, task(tokenizer, start=0))
    assert (decoder.to_stream(1, torch.zeros(3, decoder.d_model)) == 0).all()
    with Substitution(decoder, {1: Rule(zero, dropped=True)}, 0) as substitution:
        substitution.read(batch)
        found = activations(decoder, batch.ids, 1)
    assert (found["projected"] == 0).all() or (found["attn_out"] == 0).all()
