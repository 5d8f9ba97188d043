"""Model folders (weights, config.json, tokenizer) and GGUF files."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2Config

from redundancy.model.decoder import Decoder
from redundancy.model.loading import load_model, load_tokenizer, locate
from redundancy.text import DATA
from tests.conftest import TINY, build
from tests.fuzz.judge import Case, Right, damage, equal
from tests.planted import write_gguf

CONFIG = GPT2Config(
    n_embd=16,
    n_layer=2,
    n_head=2,
    n_positions=32,
    vocab_size=48,
    bos_token_id=0,
    eos_token_id=0,
    loss_type="ForCausalLM",
    layer_norm_epsilon=2e-5,
)
TYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16}
Tensors = dict[str, torch.Tensor]


def load(spec: str) -> Decoder:
    """The model as a command loads it."""
    return load_model(locate(spec), torch.device("cpu"), torch.float32, seed=0)


def read(path: Path) -> object:
    """All weights by name, and the configuration."""
    model = load(str(path)).model
    weights = {name: p.numpy().copy() for name, p in model.state_dict().items()}
    return weights, {key: getattr(model.config, key, None) for key in CONFIG.to_dict() if key not in IGNORED}


# where it was read from, by which version, and how it is asked to compute
IGNORED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


def by_numpy(folder: Path) -> Right:
    """Whether weights and configuration are what the bytes of model.safetensors and the text of config.json
    say.
    """

    def right(found: object) -> bool:
        weights, config = found  # type: ignore[misc]
        data = (folder / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        stored = {}
        for name, about in header.items():
            first, last = about["data_offsets"]
            values = np.frombuffer(data[8 + size + first : 8 + size + last], TYPES[about["dtype"]])
            stored[name] = values.reshape(about["shape"]).astype(np.float32)
        names = {n if n in weights else f"transformer.{n}": v for n, v in stored.items()}
        tied = {"lm_head.weight": names.get("transformer.wte.weight"), **names}
        stated = GPT2Config().to_dict() | json.loads((folder / "config.json").read_text())
        agrees = all(stated.get(key) == value for key, value in config.items())
        return agrees and equal(weights)(tied)

    return right


WEIGHT = "transformer.h.1.attn.c_attn.weight"


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda t: {k: v for k, v in t.items() if k != name}


def _with(change: Callable[[torch.Tensor], torch.Tensor], name: str = WEIGHT) -> Callable[[Tensors], Tensors]:
    return lambda t: {**t, name: change(t[name]).contiguous()}


def _put(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(t: torch.Tensor) -> torch.Tensor:
        t = t.clone()
        t[3, 3] = value
        return t

    return change


SOUND_WEIGHTS: dict[str, Callable[[Tensors], Tensors]] = {
    "as it is": lambda t: t,
    "float64": _with(lambda v: v.double()),
    "names without prefix": lambda t: {k.removeprefix("transformer."): v for k, v in t.items()},
}
UNSOUND_WEIGHTS: dict[str, Callable[[Tensors], Tensors]] = {
    "a tensor removed": _without(WEIGHT),
    "a bias removed": _without("transformer.h.0.attn.c_proj.bias"),
    "a norm removed": _without("transformer.ln_f.weight"),
    "a tensor renamed": lambda t: {k.replace("h.1.attn.c_proj", "h.1.attn.c_prj"): v for k, v in t.items()},
    "a layer renamed": lambda t: {k.replace(".h.1.", ".h.2."): v for k, v in t.items()},
    "a tensor more": lambda t: {**t, "transformer.h.0.attn.extra": torch.ones(3)},
    "transposed": _with(lambda v: v.T),
    "cut": _with(lambda v: v[:-1]),
    "flattened": _with(lambda v: v.reshape(-1)),
    "NaN": _with(_put(float("nan"))),
    "infinity": _with(_put(float("-inf"))),
    "beyond float32": _with(lambda v: _put(1e300)(v.double())),
    "whole numbers": _with(lambda v: v.to(torch.int32)),
    "truth values": _with(lambda v: v > 0),
    "none at all": lambda t: {},
}


def folder_of(place: Path, weights: Tensors | None = None) -> Path:
    """A tiny GPT-2 in the hub's layout."""
    shutil.rmtree(place, ignore_errors=True)
    build(CONFIG).save_pretrained(place)
    if weights is not None:
        save_file(weights, place / "model.safetensors", {"format": "pt"})
    return place


def safetensors_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Weights that are incomplete, of another shape, not finite, or damaged."""
    place = folder_of(folder / "model")
    tensors = load_file(place / "model.safetensors")
    for name, change in (SOUND_WEIGHTS | UNSOUND_WEIGHTS).items():
        folder_of(place, change(tensors))
        sound = name in SOUND_WEIGHTS
        yield Case("safetensors", name, lambda: read(place), by_numpy(place) if sound else None, whole=sound)
    while True:
        folder_of(place)
        fault = damage(place / "model.safetensors", rng)
        yield Case("safetensors", fault, lambda: read(place), by_numpy(place))


def config_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """config.json of models."""
    place = folder_of(folder / "model")
    file = place / "config.json"
    whole = json.loads(file.read_text())
    for name, change in {
        "as it is": {},
        "four heads": {"n_head": 4},
        "an unknown key": {"about": "x"},
    }.items():
        file.write_text(json.dumps(whole | change))
        yield Case("config.json", name, lambda: read(place), by_numpy(place), whole=True)
    changed: list[dict[str, object]] = (
        [{"n_layer": n} for n in (1, 3, 0, -1, "2", 2.5, None, [2], 10**9, True)]
        + [{"n_head": n} for n in (3, 0, -2, "2", 2.5, None)]
        + [{"n_embd": n} for n in (8, 32, 0, -16, "16", None)]
        + [{"vocab_size": n} for n in (47, 0, -1, None)]
        + [
            {"model_type": "gpt3"},
            {"model_type": None},
            {"model_type": "llama"},
            {"model_type": "t5"},
            {"model_type": "bert"},
            {"activation_function": "geluu"},
            {"activation_function": None},
            {"n_positions": 16},
            {"n_positions": "many"},
            {"layer_norm_epsilon": "small"},
            {"layer_norm_epsilon": None},
            {"layer_norm_epsilon": float("nan")},
            {"layer_norm_epsilon": -1.0},
            {"n_inner": 7},
        ]
    )
    for change in changed:
        file.write_text(json.dumps(whole | change))
        yield Case("config.json", f"{change}", lambda: read(place), None)
    for name, text in {
        "empty": "",
        "a list": "[]",
        "cut": json.dumps(whole)[:80],
        "nesting": "[" * 100_000,
        "null": "null",
        "no model_type": json.dumps({**whole, "model_type": None}),
        "not UTF-8": "\udcff",
        "UTF-16": json.dumps(whole).encode("utf-16").decode("utf-8", "surrogateescape"),
        "a key twice": json.dumps(whole).replace('"n_head": 2', '"n_head": 4, "n_head": 2'),
    }.items():
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        yield Case("config.json", name, lambda: read(place), None)
    while True:
        folder_of(place)
        fault = damage(file, rng)
        yield Case("config.json", fault, lambda: read(place), by_numpy(place))


TEXT = (
    "The whale, naïve and white, swam 1,234 miles; \u201cso they say\u201d, and the sea was "
    "calm.\n\nChapter 2"
)


def read_tokens(path: Path) -> object:
    """The tokens of a text."""
    return list(load_tokenizer(locate(str(path)))(TEXT, add_special_tokens=False)["input_ids"])


def by_tokenizers(path: Path) -> Right:
    """Whether tokens are those that the library tokenizers makes of tokenizer.json alone."""
    return lambda found: found == Tokenizer.from_file(str(path / "tokenizer.json")).encode(TEXT).ids


def tokenizer_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """tokenizer.json and tokenizer_config.json."""
    place = folder / "model"

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DATA / "model" / name, place)

    fresh()
    yield Case("tokenizer", "as it is", lambda: read_tokens(place), by_tokenizers(place), whole=True)
    whole = json.loads((place / "tokenizer.json").read_text())
    vocabulary = whole["model"]["vocab"]
    broken: dict[str, object] = {
        "no vocabulary": whole | {"model": {**whole["model"], "vocab": {}}},
        "no model": {k: v for k, v in whole.items() if k != "model"},
        "an unknown model": whole | {"model": {**whole["model"], "type": "BPX"}},
        "words for numbers": whole | {"model": {**whole["model"], "vocab": dict.fromkeys(vocabulary, "x")}},
        "merges of other tokens": whole | {"model": {**whole["model"], "merges": [["zq\u0fff", "qz"]]}},
        "a list": [],
    }
    for name, content in broken.items():
        fresh()
        (place / "tokenizer.json").write_text(json.dumps(content))
        yield Case("tokenizer", name, lambda: read_tokens(place), None)
    for name, data in {"empty": b"", "cut": json.dumps(whole).encode()[:-99], "binary": bytes(64)}.items():
        fresh()
        (place / "tokenizer.json").write_bytes(data)
        yield Case("tokenizer", name, lambda: read_tokens(place), None)
    fresh()
    (place / "tokenizer.json").unlink()
    yield Case("tokenizer", "missing", lambda: read_tokens(place), None)
    while True:
        fresh()
        fault = damage(place / str(rng.choice(["tokenizer.json", "tokenizer_config.json"])), rng)
        yield Case("tokenizer", fault, lambda: read_tokens(place), by_tokenizers(place))


FIELDS = {
    "llama.context_length": "max_position_embeddings",
    "llama.embedding_length": "hidden_size",
    "llama.block_count": "num_hidden_layers",
    "llama.feed_forward_length": "intermediate_size",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def read_gguf_model(path: Path) -> object:
    """The values of the weights in any order, since the loader reorders rows, and the numbers of the
    configuration.
    """
    model = load(str(path)).model
    values = np.sort(np.concatenate([p.numpy().ravel() for p in model.parameters()]))
    return values, {name: getattr(model.config, name) for name in FIELDS.values()}


def by_gguf(path: Path, wanted: object) -> Right:
    """Whether a result is what gguf's own reader finds; fields that are not there are those of the file as
    written.
    """

    def right(found: object) -> bool:
        from gguf import GGUFReader

        reader = GGUFReader(str(path))
        values = np.sort(np.concatenate([t.data.ravel() for t in reader.tensors]))
        _, fields = wanted  # type: ignore[misc]
        stated = {
            name: reader.fields[key].contents() if key in reader.fields else fields[name]
            for key, name in FIELDS.items()
        }
        return equal((values, stated))(found)

    return right


def gguf_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """A tiny Llama."""
    model, path = build(TINY["llama"]), folder / "m.gguf"
    write_gguf(path, model)
    whole, wanted = path.read_bytes(), read_gguf_model(path)
    yield Case("gguf", "as it is", lambda: read_gguf_model(path), by_gguf(path, wanted), whole=True)
    tensors = (
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.1.ffn_up.weight",
        "output_norm.weight",
    )  # without output.weight the embedding stands for it
    for name in tensors:
        write_gguf(path, model, leave=(name,))
        yield Case("gguf", f"{name} removed", lambda: read_gguf_model(path), None)
    write_gguf(path, model, extra=("blk.0.attn_extra.weight",))
    yield Case("gguf", "a tensor more", lambda: read_gguf_model(path), None)
    for name, data in {
        "empty": b"",
        "header only": whole[:24],
        "half": whole[: len(whole) // 2],
        "last byte lost": whole[:-1],
        "another magic": b"GGML" + whole[4:],
        "version 9": whole[:4] + b"\x09" + whole[5:],
        "big-endian": whole[:4] + b"\0\0\0\x03" + whole[8:],
        **{
            f"{key} renamed": whole.replace(key.encode(), key.encode()[:-1] + b"z")
            for key in FIELDS
            if not key.endswith("_kv")
        },
    }.items():
        path.write_bytes(data)
        yield Case("gguf", name, lambda: read_gguf_model(path), None)
    while True:
        # half of the faults in the header, which is small
        cut = 4096 if rng.random() < 0.5 else len(whole)
        path.write_bytes(whole[:cut])
        fault = damage(path, rng)
        path.write_bytes(path.read_bytes() + whole[cut:])
        yield Case("gguf", fault, lambda: read_gguf_model(path), by_gguf(path, wanted))
