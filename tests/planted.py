"""Oracles and made-up inputs that several test files share."""

import gguf
import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from transformers import Gemma2Config, GraniteConfig, Olmo2Config

from redundancy.evaluation import log_probabilities
from redundancy.model.capture import activations
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Substitution
from redundancy.passes import Task
from redundancy.text import cut_windows, read_corpus, split_documents
from replication.verdict import Verdict
from tests.conftest import SIZE, TINY

ALPHA = 1e-3


def task(
    tokenizer,
    batch: int = 4,
    tokens: int = 3000,
    feature="resid_pre",
    ridge: float | None = ALPHA,
    start: int = 1,
    seed: int = 0,
) -> Task:
    """Windows of the embedded text, short last windows included."""
    documents = [type(d)(d.name, d.text[: 700 + 150 * i]) for i, d in enumerate(read_corpus(None).documents)]
    parts = split_documents(documents, seed)
    budget = {"train": tokens, "validation": 800, "evaluation": 1500}
    windows = {s: cut_windows(parts[s], tokenizer, 32, budget[s]).shuffled(seed) for s in parts}
    return Task(windows, (0, 1), feature, ridge, start, seed, batch)


def stored(decoder: Decoder, t: Task, split: str, layer: int) -> dict[str, np.ndarray]:
    """Kept tokens of a split, one window at a time, in the order of the windows."""
    rows = {k: [] for k in ("x", "previous", "z", "position", "id", "document", "a", "window")}
    windows = t.windows[split]
    for number, (ids, length) in enumerate(zip(windows.ids, windows.lengths, strict=True)):
        found = activations(decoder, torch.from_numpy(ids[None, :length]), layer)
        keep = slice(t.start_position, int(length))
        x, z, a = (found[k][0].double().numpy() for k in ("resid_pre", "z", "attn_out"))
        rows["x"].append(x[keep])
        rows["previous"].append(np.roll(x, 1, 0)[keep])
        rows["z"].append(z[keep])
        rows["a"].append(a[keep])
        rows["position"].append(np.arange(length)[keep])
        rows["id"].append(ids[:length][keep])
        rows["document"].append(np.full(length, windows.document[number])[keep])
        rows["window"].append(np.full(length, number)[keep])
    return {k: np.concatenate(v) for k, v in rows.items()}


def ridge(x: np.ndarray, z: np.ndarray):
    scaler = StandardScaler().fit(x)
    model = Ridge(alpha=len(x) * ALPHA).fit(scaler.transform(x), z)
    return lambda new: model.predict(scaler.transform(new))


def within_positions(x: np.ndarray, z: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of x and z after their means at each position."""
    out = [x.astype(float).copy(), z.astype(float).copy()]
    for p in np.unique(position):
        for values in out:
            values[position == p] -= values[position == p].mean(0)
    return out[0], out[1]


def plant_linear_attention(decoder: Decoder) -> None:
    """Make attention of every layer a linear map of resid_pre: identity norm, and a value of the token itself
    only.
    """
    for layer in decoder.layers:
        layer.ln_1 = torch.nn.Identity()
        attn = layer.attn

        def forward(hidden_states, attn=attn, **kwargs):
            value = attn.c_attn(hidden_states).split(32, dim=-1)[2]
            return attn.c_proj(value), None

        attn.forward = forward


def arguments(folder, text_folder, out, *more: str) -> list[str]:
    return [
        str(folder),
        "--corpus",
        str(text_folder),
        "--context",
        "32",
        "--tokens",
        "2000",
        "--eval-tokens",
        "1500",
        "--out",
        str(out),
        *more,
    ]


SMALL = [
    "--layers",
    "1",
    "--width",
    "16",
    "--heads",
    "2",
    "--context",
    "16",
    "--vocabulary",
    "300",
    "--batch",
    "4",
    "--steps",
    "12",
    "--precision",
    "no",
]


def write_gguf(path, model, leave=(), extra=(), **fields):
    """A tiny Llama as a GGUF file."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(fields.get("name", "Tiny Llama"))
    if "finetune" in fields:
        writer.add_finetune(fields["finetune"])
    if "template" in fields:
        writer.add_chat_template(fields["template"])
    if "file_type" in fields:
        writer.add_file_type(fields["file_type"])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, value in state.items():
        name = names.get_name(key, try_suffixes=(".weight",))
        if name not in leave:
            data, kind = value.numpy().astype(np.float32), None
            if "quantise" in fields and value.dim() == 2 and value.shape[1] % 32 == 0:
                kind = fields["quantise"]
                data = gguf.quantize(data, kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    for name in extra:
        writer.add_tensor(name, np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def first_batch(decoder, t):
    return next(t.batches("evaluation", decoder.device))


def run_substituted(decoder, t, rules, batch):
    with Substitution(decoder, rules, t.start_position) as substitution:
        substitution.read(batch)
        return log_probabilities(decoder, batch.ids), substitution.skipped


NORMED = {
    "olmo2": Olmo2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    ),
    "gemma2": Gemma2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    ),
    "granite": GraniteConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        residual_multiplier=0.22,
        **SIZE,
    ),
    "gpt2": TINY["gpt2"],
}


def comes_out_each_way(judge, cases) -> None:
    """A claim is judged as its made-up examples say, verdict -> arguments; three verdicts are among them."""
    assert {Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED} <= set(cases)
    for verdict, examples in cases.items():
        for example in examples:
            assert judge(*example) is verdict, (verdict, example)
