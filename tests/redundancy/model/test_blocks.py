"""Attention among the sublayers of a block, and what of it reaches the residual stream, over many
architectures.
"""

import pytest
import torch
import transformers
from accelerate import dispatch_model

from labbook.console import UserError
from redundancy.model.capture import activations, check_identity
from redundancy.model.decoder import Decoder
from tests.conftest import SIZE, TINY, build

IDS = torch.randint(5, 2000, (2, 24), generator=torch.Generator().manual_seed(0))
COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
COMMON |= {"intermediate_size": 48, "max_position_embeddings": 64, **SIZE}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
GRANITE = {"residual_multiplier": 0.22, "attention_multiplier": 0.3, "embedding_multiplier": 2.0}
FALCON_H1 = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
}
FALCON_H1 |= {"head_dim": 8, "attention_out_multiplier": 0.5}
# class of the configuration, what differs from COMMON, path of the module whose output is added, scale
DECODERS = {
    "Gemma": ({"head_dim": 8}, "self_attn.o_proj", 1),
    "Gemma2": ({"head_dim": 8}, "post_attention_layernorm", 1),
    "Gemma3Text": ({"head_dim": 8}, "post_attention_layernorm", 1),
    "Glm4": ({"head_dim": 8}, "post_self_attn_layernorm", 1),
    "Olmo": ({}, "self_attn.o_proj", 1),
    "Olmo2": ({}, "post_attention_layernorm", 1),
    "Granite": (GRANITE, "self_attn.o_proj", 0.22),
    "Cohere": ({}, "self_attn.o_proj", 1),
    "Phi": ({"num_key_value_heads": 4}, "self_attn.dense", 1),
    "Phi3": ({}, "self_attn.o_proj", 1),
    "Qwen2": ({}, "self_attn.o_proj", 1),
    "Qwen3": ({"head_dim": 8}, "self_attn.o_proj", 1),
    "Mistral": ({}, "self_attn.o_proj", 1),
    "Mixtral": (MOE, "self_attn.o_proj", 1),
    "StableLm": ({}, "self_attn.o_proj", 1),
    "FalconH1": (FALCON_H1, "self_attn.o_proj", 0.5),
}
OTHERS = {
    **TINY,
    "bloom": transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SIZE),
    "falcon": transformers.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **SIZE),
    "gptj": transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, **SIZE),
    "mpt": transformers.MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=64, **SIZE),
}


def named(name: str, more: dict) -> torch.nn.Module:
    return build(getattr(transformers, f"{name}Config")(**(COMMON | more)))


@pytest.fixture(params=[*DECODERS, *OTHERS])
def located(request) -> tuple[Decoder, str | None, float]:
    if request.param in OTHERS:
        return Decoder(build(OTHERS[request.param]), request.param), None, 1
    more, path, scale = DECODERS[request.param]
    return Decoder(named(request.param, more), request.param), path, scale


@torch.no_grad()
def added_to_the_stream(decoder: Decoder, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """attn_out, and resid_post - resid_pre of the real block while every other matrix of it is zero."""
    block, states = decoder.layers[layer], {}
    backup = {name: p.clone() for name, p in block.named_parameters()}
    for path, module in block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if path.split(".")[0] != decoder.attention_name and any(p.dim() > 1 for p in own.values()):
            for p in own.values():
                p.zero_()

    def keep(module, args, kwargs, output):
        states["pre"] = args[0] if args else kwargs["hidden_states"]
        states["post"] = output[0] if isinstance(output, tuple) else output

    hook = block.register_forward_hook(keep, with_kwargs=True)
    found = activations(decoder, IDS, layer)
    hook.remove()
    for name, p in block.named_parameters():
        p.copy_(backup[name])
    return found["projected"], states["post"] - states["pre"]


def test_what_reaches_the_stream_is_what_the_block_adds(located):
    decoder, path, scale = located
    assert check_identity(decoder, IDS) < 1e-5
    for layer in range(len(decoder.layers)):
        attn_out, added = added_to_the_stream(decoder, layer)
        mapped = decoder.to_stream(layer, attn_out)
        assert mapped.dtype == attn_out.dtype
        assert torch.allclose(mapped, added, atol=1e-5 * float(added.abs().max()), rtol=1e-4)
        rows = decoder.to_stream(layer, attn_out.flatten(0, 1))
        assert torch.allclose(rows, mapped.flatten(0, 1), rtol=1e-5, atol=1e-7)
        stream = decoder.stream(layer)
        assert stream.scale == pytest.approx(scale, rel=1e-6)
        assert path is None or stream.path == path
        if path is None:
            assert stream.plain
            assert decoder.to_stream(layer, attn_out) is attn_out


def test_the_stream_is_found_whatever_the_dtype_of_the_run():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        for name in ("Olmo2", "Granite"):
            more, path, scale = DECODERS[name]
            decoder = Decoder(named(name, more).to(dtype), name)
            assert decoder.stream(1).path == path
            assert decoder.stream(1).scale == pytest.approx(scale, rel=1e-3)
            assert check_identity(decoder, IDS) < 5e-3


def test_the_stream_of_layers_on_disk_is_that_of_layers_in_memory(tmp_path):
    more, path, _ = DECODERS["Olmo2"]
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    whole = Decoder(named("Olmo2", more), "olmo2")
    model = dispatch_model(
        named("Olmo2", more), places, main_device="cpu", offload_dir=tmp_path, force_hooks=True
    )
    spread = Decoder(model, "olmo2")
    assert next(spread.layers[1].parameters()).is_meta
    assert check_identity(spread, IDS) < 1e-5
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for layer in (0, 1):
        assert spread.stream(layer).path == path
        assert torch.allclose(spread.to_stream(layer, rows), whole.to_stream(layer, rows), atol=1e-6)
    before = next(spread.layers[1].parameters())
    assert before.is_meta  # nothing was left in memory


def test_a_block_that_adds_something_else_can_be_probed_and_not_removed_from():
    config = transformers.GPTNeoXJapaneseConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **SIZE
    )
    decoder = Decoder(build(config), "japanese")  # its last block adds a bias outside of attention
    assert check_identity(decoder, IDS) < 1e-5
    with pytest.raises(UserError, match="layer 1: what attention adds to the residual stream cannot be told"):
        decoder.to_stream(1, IDS)


def test_attention_that_reaches_the_stream_through_another_sublayer_is_refused():
    more = {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
    }
    more |= {"layers_block_type": ["hybrid"] * 3, "layer_types": ["hybrid"] * 3}
    decoder = Decoder(named("Zamba2", more), "zamba2")
    assert decoder.besides == ("mamba_decoder",)
    with pytest.raises(UserError, match="differs from the attention output"):
        check_identity(decoder, IDS)
    with pytest.raises(UserError, match="it does not come from attention"):
        decoder.stream(0)


def test_the_attention_of_a_block_with_a_state_space_part_is_the_one_that_is_measured():
    decoder = Decoder(named("FalconH1", FALCON_H1), "hybrid")
    assert decoder.attention_name == "self_attn"
    assert decoder.besides == ("mamba",)
    assert Decoder(build(OTHERS["bloom"]), "bloom").besides == ()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (
            "Bamba",
            MAMBA | {"attn_layer_indices": [1]},
            "block 0 that mix positions are mamba, of which none computes softmax",
        ),
        ("Bamba", MAMBA | {"attn_layer_indices": []}, "of which none computes softmax attention"),
        ("MiniMax", MOE, "block 1 that mix positions are self_attn, of which none"),
        ("RecurrentGemma", {"head_dim": 8}, "of which none computes softmax attention"),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "block 0 that mix positions are conv"),
        ("Qwen3Next", {"head_dim": 8}, "block 0 that mix positions are linear_attn"),
        (
            "Gemma4Text",
            {"head_dim": 8, "vocab_size_per_layer_input": 2048},
            "the same matrix shape in every block",
        ),
        ("Bert", {}, "not causal"),
        ("Roberta", {}, "not causal"),
    ],
)
def test_blocks_without_one_attention_sublayer_are_refused(name, more, message):
    with pytest.raises(UserError, match=message):
        Decoder(named(name, more), name)


@pytest.mark.parametrize(
    "config",
    [
        transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **SIZE),
        transformers.Mamba2Config(
            hidden_size=32, num_hidden_layers=2, state_size=4, num_heads=8, head_dim=8, n_groups=1, **SIZE
        ),
        transformers.RwkvConfig(
            hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, context_length=64, **SIZE
        ),
    ],
    ids=lambda c: c.model_type,
)
def test_models_without_heads_are_refused(config):
    with pytest.raises(UserError, match="no number of attention heads in its configuration"):
        Decoder(build(config), config.model_type)


def test_an_attention_module_that_returns_no_tensor_is_refused():
    config = transformers.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SIZE)
    decoder = Decoder(build(config), "openai-gpt")
    with pytest.raises(UserError, match="returns a list and no tensor"):
        check_identity(decoder, IDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda weight, bias: (weight * 4, bias),
        lambda weight, bias: (weight * 1.01, bias),
        lambda weight, bias: (weight.roll(1, 0), bias),
        lambda weight, bias: (weight.roll(1, 1), bias),
        lambda weight, bias: (weight, bias + 0.01 * weight.abs().max()),
    ],
    ids=["times 4", "times 1.01", "permuted in", "permuted out", "bias"],
)
def test_no_wrong_map_passes_the_identity_in_any_dtype(monkeypatch, dtype, wrong):
    decoder = Decoder(build(TINY["gpt2"]).to(dtype), "gpt2")
    assert check_identity(decoder, IDS) < 5e-3
    right = decoder.output_map
    monkeypatch.setattr(decoder, "output_map", lambda layer: wrong(*right(layer)))
    with pytest.raises(UserError, match="differs from the attention output"):
        check_identity(decoder, IDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_identity_is_checked_on_what_was_seen(dtype):
    """A module that does more than its weights say, inside the projection or behind it, fails too."""
    for place in ("projection", "attention"):
        decoder = Decoder(build(TINY["llama"]).to(dtype), "llama")

        def more(module, args, output):
            return (output[0] * 1.5, *output[1:]) if isinstance(output, tuple) else output * 1.5

        getattr(decoder, place)(1).register_forward_hook(more)
        with pytest.raises(UserError, match=r"layer 1: .*differs from the attention output"):
            check_identity(decoder, IDS)
