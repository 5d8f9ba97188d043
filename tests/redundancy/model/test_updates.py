"""What attention, the MLP and blocks add to the stream, against TransformerLens and other models."""

import copy

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import BloomConfig, FalconConfig, MixtralConfig, Qwen3Config

from labbook.console import UserError
from redundancy.evaluation import log_probabilities
from redundancy.model.decoder import Decoder
from redundancy.model.updates import Unit, Updates, nothing, require_target
from tests.conftest import SIZE, TINY, build
from tests.planted import NORMED

IDS = torch.randint(5, 2000, (2, 24), generator=torch.Generator().manual_seed(0))
# the weights by which each architecture's MLP reaches the stream
LAST = {
    "gpt2": "mlp.c_proj",
    "neox": "mlp.dense_4h_to_h",
    "llama": "mlp.down_proj",
    "opt": "fc2",
    "olmo2": "mlp.down_proj",
    "gemma2": "mlp.down_proj",
    "granite": "mlp.down_proj",
}


def seen(decoder: Decoder, layer: int, ids=IDS) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """x and y of the three units of a layer."""
    found = {}

    def put(target):
        def keep(x, y):
            found[target] = x.clone(), y.clone()

        return keep

    with Updates(decoder, {Unit(layer, t): put(t) for t in ("attention", "mlp", "block")}, 0):
        log_probabilities(decoder, ids)
    return found


def test_updates_are_those_of_transformer_lens(tiny, tokenizer):
    ours = [seen(tiny, layer) for layer in range(len(tiny.layers))]  # the bridge wraps the model's modules
    bridge = TransformerBridge.boot_transformers(
        tiny.name, hf_model=tiny.model, tokenizer=tokenizer, device="cpu"
    )
    _, cache = bridge.run_with_cache(IDS)
    for layer, found in enumerate(ours):
        name = f"blocks.{layer}.hook_"
        pre, post = cache[f"{name}resid_pre"], cache[f"{name}resid_post"]
        theirs = {
            "attention": (pre, cache[f"{name}attn_out"]),
            "mlp": (pre if tiny.name == "neox" else cache[f"{name}resid_mid"], cache[f"{name}mlp_out"]),
            "block": (pre, post - pre),
        }
        for target, (x, y) in theirs.items():
            assert torch.allclose(found[target][0], x, atol=1e-5, rtol=1e-4), target
            assert torch.allclose(found[target][1], y.reshape(x.shape), atol=1e-5, rtol=1e-4), target


@pytest.mark.parametrize(
    "config",
    [
        *TINY.values(),
        *NORMED.values(),
        BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SIZE),
        FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **SIZE),
        Qwen3Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            **SIZE,
        ),
        MixtralConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            num_local_experts=3,
            **SIZE,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_the_two_sublayers_add_up_to_the_block(config):
    decoder = Decoder(build(config), config.model_type)
    found = seen(decoder, 1)
    (_, attended), (_, mlp), (_, whole) = (found[t] for t in ("attention", "mlp", "block"))
    assert torch.allclose(attended + mlp, whole, atol=2e-5)
    behind = decoder.mlp(1).behind
    assert torch.allclose(found["mlp"][0] - found["block"][0], attended if behind else 0 * mlp, atol=2e-5)


@pytest.mark.parametrize("name", list(LAST))
def test_a_removed_mlp_is_one_whose_last_weights_are_zero(name):
    config = {**TINY, **NORMED}[name]
    decoder, other = (Decoder(build(config), name) for _ in range(2))
    module = other.layers[1].get_submodule(LAST[name])
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    with Updates(decoder, {Unit(1, "mlp"): nothing}, 0):
        changed = log_probabilities(decoder, IDS)
    assert (changed - log_probabilities(other, IDS)).abs().max() < 1e-5
    assert (changed - log_probabilities(decoder, IDS)).abs().max() > 1e-3


def test_a_removed_block_is_a_model_without_it(tiny):
    with Updates(tiny, {Unit(0, "block"): nothing}, 0):
        changed = log_probabilities(tiny, IDS)
    shorter = copy.deepcopy(tiny.model)
    stack = next(m for m in shorter.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 1)
    del stack[0]
    for number, block in enumerate(stack):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    shorter.config.num_hidden_layers -= 1
    theirs = shorter(input_ids=IDS, use_cache=False).logits[:, :-1].log_softmax(-1)
    assert (changed - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("target", ["attention", "mlp", "block"])
def test_positions_before_the_first_changed_one_are_left(tiny, target):
    with Updates(tiny, {Unit(1, target): nothing}, 5):
        changed = log_probabilities(tiny, IDS)
    intact = log_probabilities(tiny, IDS)
    assert torch.allclose(changed[:, :5], intact[:, :5], atol=1e-6)
    assert not torch.allclose(changed[:, 5:], intact[:, 5:], atol=1e-3)


def test_an_update_put_back_changes_nothing(tiny):
    units = {Unit(n, t): lambda x, y: y.clone() for n in (0, 1) for t in ("attention", "mlp", "block")}
    with Updates(tiny, units, 0):
        changed = log_probabilities(tiny, IDS)
    assert torch.allclose(changed, log_probabilities(tiny, IDS), atol=1e-5)


class Nothing(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def test_a_target_without_modules_is_an_error():
    model = build(TINY["gpt2"])
    for block in model.transformer.h:
        block.mlp = Nothing()
    decoder = Decoder(model, "attention only")
    with pytest.raises(UserError, match=r"what its MLP adds .* nothing finite .* Leave mlp out of --targets"):
        require_target(decoder, ["mlp"], (0,))
    require_target(decoder, ["attention", "block"], (0, 1))
    with pytest.raises(UserError, match="names nothing to remove"):
        require_target(decoder, [], (0,))
