"""Run a decoder on token windows and hand over what the probe needs, layer by layer, storing nothing.

    block l:  resid_pre --ln1--> attention: q, k, v, heads --z--> W_O --attn_out--> ...
                  |        |                               |          |
               feature  feature                          target    z W_O + b_O

The forward pass ends at the output projection of the last layer asked for, and keeps the model's own attention kernel.
"""

import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from labbook.console import UserError
from redundancy.models import Decoder

Feature = Literal["resid_pre", "ln1", "embedding"]
Visit = Callable[[int, Tensor, Tensor], None]


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states a block or attention module is called with, as a forward pre-hook sees them."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


class _Stop(Exception):
    """Ends a forward pass after the last probed layer."""


class Capture:
    """Hooks on a decoder, for the time of a `with` block.

    Parameters
    ----------
    layers : which blocks to visit.
    feature : `resid_pre` (what enters the block), `ln1` (what enters its attention), or `embedding` (what enters block 0).
    visit : called as visit(layer, x, z) with x (batch, position, d_model) and z (batch, position, n_heads * d_head).
    """

    def __init__(self, decoder: Decoder, layers: Iterable[int], feature: Feature, visit: Visit):
        self.decoder, self.layers, self.feature, self.visit = decoder, sorted(layers), feature, visit
        self._x: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "Capture":
        if self.feature == "embedding":
            self._hooks.append(self.decoder.layers[0].register_forward_pre_hook(self._keep, with_kwargs=True))
        for number in self.layers:
            if self.feature != "embedding":
                source = self.decoder.attention(number) if self.feature == "ln1" else self.decoder.layers[number]
                self._hooks.append(source.register_forward_pre_hook(self._keep, with_kwargs=True))
            self._hooks.append(self.decoder.projection(number).register_forward_pre_hook(self._target(number)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._x = [], None

    def _keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._x = entering(args, kwargs)

    def _target(self, number: int) -> Any:
        def visit(module: Any, args: tuple[Tensor, ...]) -> None:
            assert self._x is not None
            self.visit(number, self._x, args[0])
            if number == self.layers[-1]:
                raise _Stop

        return visit

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> None:
        """Visit every layer for the token ids (batch, position)."""
        with contextlib.suppress(_Stop):
            self.decoder.backbone(input_ids=ids.to(self.decoder.device), use_cache=False)


@torch.inference_mode()
def activations(decoder: Decoder, ids: Tensor, layer: int) -> dict[str, Tensor]:
    """`resid_pre`, `ln1`, `z` and `attn_out` of one layer, each (batch, position, width), under TransformerLens' names.

    `attn_out` is what the attention module itself returns, which `check_identity` holds against z W_O + b_O.
    """
    found: dict[str, Tensor] = {}

    def keep_as(name: str) -> Any:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[name] = entering(args, kwargs)

        return keep

    def returned(module: Any, args: Any, output: Any) -> None:
        found["attn_out"] = output[0] if isinstance(output, tuple) else output

    places = {"resid_pre": decoder.layers[layer], "ln1": decoder.attention(layer), "z": decoder.projection(layer)}
    hooks = [m.register_forward_pre_hook(keep_as(name), with_kwargs=True) for name, m in places.items()]
    hooks.append(decoder.attention(layer).register_forward_hook(returned))
    try:
        decoder.backbone(input_ids=ids.to(decoder.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def check_identity(decoder: Decoder, ids: Tensor) -> float:
    """Check sum_h z_h W_O[h] + b_O = attn_out in the first and last layer on `ids`; returns the largest relative error.

    Raises UserError when it fails: the located tensors are then not what the probe takes them for.
    """
    worst = 0.0
    for layer in {0, len(decoder.layers) - 1}:
        found = activations(decoder, ids, layer)
        weight, bias = (t.double() for t in decoder.output_map(layer))
        heads = found["z"].double().unflatten(-1, (decoder.n_heads, decoder.d_head))
        rebuilt = torch.einsum("bthk,hkd->btd", heads, weight.unflatten(0, (decoder.n_heads, decoder.d_head))) + bias
        truth, scale = found["attn_out"].double(), rebuilt.norm()
        # BLOOM's attention module adds the residual stream to its output before it returns
        candidates = (truth, truth - found["resid_pre"].double())
        error = min(float((rebuilt - candidate).norm() / scale) for candidate in candidates)
        if not error < 100 * torch.finfo(decoder.dtype).eps:
            raise UserError(
                f"{decoder.name!r}, layer {layer}: sum_h z_h W_O[h] + b_O differs from the attention output by {error:.1e} (relative); "
                "this architecture is not supported. Choose another MODEL."
            )
        worst = max(worst, error)
    return worst
