"""Known and predicted needs against plain computation and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from redundancy.model.capture import activations
from redundancy.model.decoder import Decoder
from redundancy.regression.scores import head_coordinates, head_isometry
from redundancy.removal.need import AT_ONCE, NEEDS, LayerNeed
from tests.conftest import build
from tests.planted import NORMED, first_batch, stored, task, within_positions


def test_needs_are_relative_and_absolute_errors_of_heads(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    batch = first_batch(decoder, t)
    found = activations(decoder, batch.ids, 1)
    x, z = found["resid_pre"][0, 5:6], found["z"][0, 5:6]
    predicted = fitted[1].probe(x)
    weight = decoder.output_map(1)[0]
    h = 3
    own = slice(h * decoder.d_head, (h + 1) * decoder.d_head)
    error, a = (z - predicted)[:, own] @ weight[own], z[:, own] @ weight[own]
    logs = LayerNeed(decoder, 1).logs(x, z, predicted)[0]
    assert float(logs[0, h].exp()) == pytest.approx(float(error.norm() / a.norm()), rel=1e-4)
    assert float(logs[1, h].exp()) == pytest.approx(float(error.norm() / x.norm()), rel=1e-4)
    assert torch.allclose(
        head_coordinates(z, head_isometry(weight, decoder.n_heads))[0, h].norm(), a.norm(), rtol=1e-4
    )
    for kind in range(len(NEEDS)):
        share = (needs.known[kind] <= needs.threshold(kind, 0.3, known=True)).mean()
        assert share == pytest.approx(0.3, abs=0.01)


def test_the_predicted_need_is_the_ridge_of_scikit_learn(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    train, held = (stored(decoder, t, split, 1) for split in ("train", "evaluation"))

    def target(rows):
        x, z = torch.from_numpy(rows["x"]).float(), torch.from_numpy(rows["z"]).float()
        replaced = fitted[1].with_position(x, torch.from_numpy(rows["position"]))
        return needs.layers[1].logs(x, z, replaced).flatten(-2).double().numpy()

    at_once = slice(0, len(AT_ONCE) * decoder.n_heads)

    x, y = within_positions(train["x"], target(train), train["position"])
    held_x = torch.from_numpy(held["x"]).float()
    ours = needs.predictors[1](held_x, torch.from_numpy(held["position"])).numpy()[:, at_once]
    scale = x.std(0)
    differences = ours[1:] - ours[:1]  # of two tokens at one position the intercept cancels
    same = held["position"][1:] == held["position"][0]
    best = min(
        np.abs(
            differences[same]
            - (held["x"][1:] - held["x"][:1])[same]
            @ (Ridge(alpha=len(x) * 10.0**e, fit_intercept=False).fit(x / scale, y).coef_ / scale).T
        ).max()
        for e in range(-9, 3)
    )
    assert same.sum() > 5
    assert best < 1e-3


@pytest.mark.parametrize("name", list(NORMED))
def test_displacement_and_cosine_are_those_of_the_residual_stream_itself(name, tokenizer):
    """Oracle: run the block with one head replaced and its MLP silenced, and see how its output moves."""
    decoder = Decoder(build(NORMED[name]), name)
    t = task(tokenizer)
    batch, layer, head = first_batch(decoder, t), 1, 2
    found = activations(decoder, batch.ids, layer)
    x, z = found["resid_pre"], found["z"]
    predicted = z + 0.3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    own = torch.zeros(decoder.d_z, dtype=torch.bool)
    own[head * decoder.d_head : (head + 1) * decoder.d_head] = True

    def after_attention(replaced):
        """The stream behind attention: the block's output when everything after attention adds nothing."""
        block, kept = decoder.layers[layer], []
        silent = [m for n, m in block.named_modules() if n and n.split(".")[0] in ("mlp", "feed_forward")]
        hooks = [m.register_forward_hook(lambda m, a, out: torch.zeros_like(out)) for m in silent[:1]]
        hooks += [
            m.register_forward_hook(lambda m, a, out: torch.zeros_like(out))
            for n, m in block.named_modules()
            if "post_feedforward" in n
        ]
        hooks.append(decoder.projection(layer).register_forward_pre_hook(lambda m, a: (replaced,)))
        hooks.append(
            block.register_forward_hook(
                lambda m, a, out: kept.append(out if torch.is_tensor(out) else out[0])
            )
        )
        try:
            decoder.backbone(input_ids=batch.ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return kept[0]

    with torch.inference_mode():
        whole, changed = after_attention(z), after_attention(torch.where(own, predicted, z))
    moved = (whole - changed).norm(dim=-1) / x.norm(dim=-1)
    need = LayerNeed(decoder, layer)
    logs = need.logs(x.flatten(0, 1), z.flatten(0, 1), predicted.flatten(0, 1))
    assert torch.allclose(logs[:, 1, head].exp(), moved.flatten(), rtol=2e-3)
    assert torch.allclose(
        need.cosine(x.flatten(0, 1), z.flatten(0, 1)),
        torch.cosine_similarity(x, whole, dim=-1).flatten(),
        atol=1e-4,
    )
    assert bool(need.stream.norms) == (name in ("olmo2", "gemma2"))
    assert need.stream.scale == pytest.approx(0.22 if name == "granite" else 1.0)
