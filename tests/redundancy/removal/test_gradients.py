"""The slope of the loss against finite differences, its labels against their distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from redundancy.evaluation import log_probabilities
from redundancy.model.decoder import Decoder
from redundancy.removal.gradients import GradientReader, sample_labels
from redundancy.removal.need import SMALLEST_CHANGE, LayerNeed
from tests.conftest import TINY, build
from tests.planted import first_batch, task


def test_the_gradient_is_the_slope_of_the_loss_and_its_labels_are_those_of_the_model(tokenizer):
    """Finite differences of the loss with the same labels, in float64, for an error in one head and token."""
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    batch = first_batch(decoder, t)
    kept = {}
    with GradientReader(decoder, t, lambda n, x, z, b: kept.setdefault(n, z)) as reader:
        reader(batch)
    layer, row, place, head = 1, 0, 5, 2
    error = torch.zeros_like(kept[layer])
    own = slice(head * decoder.d_head, (head + 1) * decoder.d_head)
    error[row, place, own] = torch.randn(decoder.d_head, generator=torch.Generator().manual_seed(0)).double()

    def loss(step: float) -> float:
        hook = decoder.projection(layer).register_forward_pre_hook(lambda m, a: (a[0] + step * error,))
        try:
            log_p = log_probabilities(decoder, batch.ids)
        finally:
            hook.remove()
        valid = batch.keep[:, :-1] & batch.keep[:, 1:]
        return float(-(log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * valid).sum())

    labels = sample_labels(log_probabilities(decoder, batch.ids), batch, t.seed)
    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert float((reader.gradient[layer] * error).sum()) == pytest.approx(slope, rel=1e-5)
    need = LayerNeed(decoder, layer).log_fisher(
        kept[layer][row], (kept[layer] + error)[row], reader.gradient[layer][row]
    )
    assert float(need[place, head]) == pytest.approx(np.log(slope**2), abs=1e-4)
    assert float(need[place, 0]) == pytest.approx(np.log(SMALLEST_CHANGE))  # no error, no change


def test_sampled_labels_have_the_distribution_that_they_are_sampled_from():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    number = torch.arange(4000)
    batch = type("B", (), {"number": number})()
    labels = sample_labels(p.log().expand(4000, 1, 4), batch, 0).flatten()
    counts = torch.bincount(labels, minlength=4)
    assert counts[1] == 0
    assert torch.allclose(counts / 4000, p, atol=0.03)


@pytest.mark.slow
def test_the_squared_change_of_the_loss_has_the_fisher_information_as_its_mean(tokenizer):
    """E over labels of (g . e)^2 is the curvature of KL(intact || changed): checked by KL itself for a small
    error.
    """
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    whole = first_batch(decoder, t)
    batch = type(whole)(*(getattr(whole, f)[:1] for f in whole.__dataclass_fields__))
    layer, place = 1, 6
    error = torch.zeros(1, batch.ids.shape[1], decoder.d_z, dtype=torch.float64)
    error[0, place] = 0.05 * torch.randn(decoder.d_z, generator=torch.Generator().manual_seed(1)).double()
    squares = []
    for seed in range(1500):
        with GradientReader(decoder, replace(t, seed=seed, layers=(layer,)), lambda *a: None) as reader:
            reader(batch)
        squares.append(float((reader.gradient[layer] * error).sum()) ** 2)
    intact = log_probabilities(decoder, batch.ids)
    hook = decoder.projection(layer).register_forward_pre_hook(lambda m, a: (a[0] + error,))
    changed = log_probabilities(decoder, batch.ids)
    hook.remove()
    valid = batch.keep[:, :-1] & batch.keep[:, 1:]
    kl = float(((intact.exp() * (intact - changed)).sum(-1) * valid).sum())
    assert np.mean(squares) == pytest.approx(2 * kl, rel=0.15)
