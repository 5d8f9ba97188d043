"""What is captured is what TransformerLens captures, and what the model computes."""

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import BertConfig, BloomConfig, FalconConfig, Gemma2Config, GPTJConfig, Qwen3Config

from labbook.console import UserError
from redundancy.model.capture import Capture, activations, check_identity
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from tests.conftest import SIZE, build

IDS = torch.randint(5, 2000, (2, 24), generator=torch.Generator().manual_seed(0))


def test_captured_tensors_equal_transformer_lens(tiny, tokenizer):
    bridge = TransformerBridge.boot_transformers(
        tiny.name, hf_model=tiny.model, tokenizer=tokenizer, device="cpu"
    )
    _, cache = bridge.run_with_cache(IDS)
    for layer in range(len(tiny.layers)):
        found = activations(tiny, IDS, layer)
        z = found["z"].unflatten(-1, (tiny.n_heads, tiny.d_head))
        for ours, theirs in (
            (found["resid_pre"], cache[f"blocks.{layer}.hook_resid_pre"]),
            (z.reshape(z.shape), cache[f"blocks.{layer}.attn.hook_z"].reshape(z.shape)),
            (found["attn_out"], cache[f"blocks.{layer}.hook_attn_out"]),
        ):
            assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)


def test_heads_add_up_to_the_attention_output(tiny):
    assert check_identity(tiny, IDS) < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SIZE),
        FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **SIZE),
        GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, **SIZE),
        Gemma2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=48,
            **SIZE,
        ),
        Qwen3Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            **SIZE,
        ),
    ],
    ids=lambda c: c.model_type,
)
def test_attention_is_found_by_what_it_does(config):
    decoder = Decoder(build(config), config.model_type)
    assert check_identity(decoder, IDS) < 1e-4
    assert decoder.d_model == 32


def test_an_identity_that_fails_is_an_error(tiny, monkeypatch):
    weight, bias = tiny.output_map(0)
    monkeypatch.setattr(tiny, "output_map", lambda layer: (weight * 1.01, bias))
    with pytest.raises(UserError, match="differs from the attention output"):
        check_identity(tiny, IDS)


def test_an_encoder_is_refused():
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **SIZE
    )
    with pytest.raises(UserError, match="not causal"):
        Decoder(build(config), "bert")


def test_the_pass_ends_at_the_last_probed_layer_and_keeps_the_attention_kernel(tiny):
    seen, ran = [], []
    for number, layer in enumerate(tiny.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    kernel = tiny.model.config._attn_implementation
    with Capture(
        tiny, [0], "resid_pre", lambda layer, x, z: seen.append((layer, x.shape, z.shape))
    ) as capture:
        capture(IDS)
    assert seen == [(0, (2, 24, 32), (2, 24, tiny.d_z))]
    assert ran == []  # not even the rest of block 0
    assert tiny.model.config._attn_implementation == kernel == "sdpa"


@pytest.mark.parametrize("feature", ["resid_pre", "ln1", "embedding"])
def test_each_feature_is_the_tensor_it_is_called(tiny, feature):
    found = {}
    with Capture(tiny, [0, 1], feature, lambda layer, x, z: found.update({layer: x.clone()})) as capture:
        capture(IDS)
    expected = (
        activations(tiny, IDS, 0)["resid_pre"]
        if feature == "embedding"
        else activations(tiny, IDS, 1)[feature]
    )
    assert torch.equal(found[1], expected)


def test_padding_does_not_reach_real_positions(tiny):
    padded = torch.cat([IDS, torch.zeros(2, 8, dtype=torch.long)], 1)
    z, longer = activations(tiny, IDS, 1)["z"], activations(tiny, padded, 1)["z"]
    assert torch.allclose(z, longer[:, :24], atol=1e-6)


def test_the_random_twin_shares_the_architecture_and_not_the_weights(tiny):
    twin, again = random_twin(tiny, 1), random_twin(tiny, 1)
    assert twin.weight_hash() == again.weight_hash() != tiny.weight_hash()
    shapes = [p.shape for p in tiny.model.parameters()]
    assert [p.shape for p in twin.model.parameters()] == shapes
