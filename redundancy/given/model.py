"""A model that is an object: a transformers model, or the one inside a TransformerLens bridge."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labbook.console import UserError
from redundancy.model.decoder import first_line
from redundancy.model.loading import Source, load_tokenizer, locate, quiet_loading

# what a TransformerLens bridge puts into the name of every module that it wraps
WRAPPED = "_original_component."
KINDS = (
    "a name, a path, a transformers model with a language-model head (AutoModelForCausalLM), or a "
    "TransformerLens TransformerBridge"
)


def source_of(
    model: Any, tokenizer: Any = None, revision: str | None = None, *, trust_remote_code: bool = False
) -> Source:
    """Where `model` comes from: named as on the command line, or the object itself; `tokenizer` stands for
    its own.

    Raises UserError for an object that is no causal language model of transformers, and for a bridge whose
    weights TransformerLens has processed.
    """
    if isinstance(model, str | Path):
        source = locate(str(model), revision, trust_remote_code=trust_remote_code)
        return source if tokenizer is None else replace(source, tokenizer=_tokenizer(tokenizer))
    if revision is not None:
        raise UserError(
            f"revision={revision!r} is for models that are named; model= is loaded. Leave it out."
        )
    if type(model).__module__.startswith("transformer_lens"):
        tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        model = _inside(model)
    if not (isinstance(model, torch.nn.Module) and hasattr(model, "base_model") and hasattr(model, "config")):
        raise UserError(f"model= is a {type(model).__name__}; {KINDS} can be measured.")
    found: Any = model
    if found.get_output_embeddings() is None:
        raise UserError(
            f"model= is a {type(model).__name__}, which predicts no next token: an encoder, or a model "
            f"without its language-model head. {KINDS[0].upper()}{KINDS[1:]} can be measured."
        )
    # a model that was loaded from a folder is called like the folder, as it is when it is named by its path
    path = str(getattr(model, "name_or_path", "") or "")
    name = Path(path).resolve().name if Path(path).is_dir() and path else path or type(model).__name__
    return Source(
        name, path or name, {}, model=model, tokenizer=None if tokenizer is None else _tokenizer(tokenizer)
    )


def _tokenizer(tokenizer: Any) -> Any:
    """The tokenizer, loaded where it is named."""
    if isinstance(tokenizer, str | Path):
        return load_tokenizer(locate(str(tokenizer)))
    if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
        raise UserError(
            f"tokenizer= is a {type(tokenizer).__name__}; a transformers tokenizer, or its name or folder, "
            "is needed."
        )
    return tokenizer


def _inside(bridge: Any) -> Any:
    """The transformers model inside a TransformerLens bridge, rebuilt: the bridge puts its own modules in the
    place of those that attention is found by, and keeps the weights beside them.

    Raises UserError where the model cannot be reached or its weights are not its own any more.
    """
    original = getattr(bridge, "original_model", None)
    if original is None:
        raise UserError(
            f"model= is a {type(bridge).__name__} that does not hold the transformers model it was made of. "
            "Give that model, or a TransformerBridge (TransformerBridge.boot_transformers)."
        )
    if getattr(bridge, "compatibility_mode", False) or getattr(bridge, "_weights_processed", False):
        raise UserError(
            "model= is a TransformerBridge whose weights were processed (folded or centred), which changes "
            "what an attention output is. Give the bridge before enable_compatibility_mode()."
        )
    try:
        with quiet_loading():
            plain: Any = type(original)(copy.deepcopy(original.config)).to(original.dtype)
        stored = {name.replace(WRAPPED, ""): tensor for name, tensor in original.state_dict().items()}
        plain.load_state_dict({name: stored[name] for name in plain.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"the weights of the {type(original).__name__} inside the bridge cannot be read "
            f"({first_line(error)}). Give the transformers model itself."
        ) from error
    return plain.to(next(original.parameters()).device).eval().requires_grad_(False)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Inside, a model object is in evaluation mode (no dropout) and asks for no gradients; afterwards every
    part is as it was.
    """
    if not isinstance(model, torch.nn.Module):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    gradients = {p: p.requires_grad for p in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for p, wanted in gradients.items():
            p.requires_grad_(wanted)
