"""Whether weights are those of an architecture: real numbers, all of them there, none besides, all finite."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device
from safetensors import safe_open

from labbook.console import UserError
from redundancy.model.decoder import WAYS_ON
from redundancy.model.gguf_file import GgufFile, unread_tensors

# Types of numbers that a trained weight can be stored in, as safetensors names them.
REAL = ("F64", "F32", "F16", "BF16")


def stored_tensors(paths: Sequence[Path], gguf: GgufFile | None) -> tuple[dict[str, str], int]:
    """Type of every tensor in the headers of the files, and the number of values in all of them."""
    if gguf:
        # its types of quantised values are read and named by `gguf_file`
        return dict.fromkeys(gguf.values, REAL[0]), sum(gguf.values.values())
    types, values = dict[str, str](), 0
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                types[key], values = part.get_dtype(), values + math.prod(part.get_shape())
    return types, values


def require_real(name: str, empty: Any, types: Mapping[str, str]) -> None:
    """Raise UserError where a parameter of the architecture is stored as something else than real numbers."""
    prefix = f"{empty.base_model_prefix}."
    parameters = {key.removeprefix(prefix) for key, _ in empty.named_parameters()}
    unreal = {k: t for k, t in types.items() if t not in REAL and k.removeprefix(prefix) in parameters}
    if unreal:
        tensor, kind = next(iter(unreal.items()))
        raise UserError(
            f"the weights of {name!r} hold {len(unreal)} tensors that are no real numbers "
            f"({tensor} is {kind}). Get the model again. {WAYS_ON}."
        )


# Buffers that older checkpoints store and that are computed from the configuration today.
COMPUTED = re.compile(
    r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias)$|\.inv_freq$|(^|\.)position_ids$"
)


def require_complete(model: Any, name: str, gguf: GgufFile | None, report: Mapping[str, Any]) -> None:
    """Raise UserError, naming the tensors, unless weights and architecture have the same ones in the same
    shapes.

    `report` is what from_pretrained says with output_loading_info: tied tensors that are stored once, and
    what the model's class declares to be ignorable, are not in it.
    """
    missing = sorted(report["missing_keys"])
    declared = set(model.state_dict())
    unexpected = sorted(k for k in report["unexpected_keys"] if k in declared or not COMPUTED.search(k))
    shapes = sorted(
        f"{key} {tuple(found)} for {tuple(wanted)}"
        for key, found, wanted in report.get("mismatched_keys", ())
    )
    if gguf and not missing:
        unexpected += unread_tensors(model, gguf)
    problems = [
        f"{verb} {len(keys)} tensor{'s' * (len(keys) > 1)} "
        f"({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for verb, keys in (("lack", missing), ("hold unknown", unexpected), ("hold mis-shaped", shapes))
        if keys
    ]
    problems += [str(message) for message in report.get("error_msgs", ())][:3]
    if problems:
        raise UserError(
            f"the weights of {name!r} are not those of a complete {type(model).__name__}: they "
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
