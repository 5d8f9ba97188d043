"""Run a decoder on token windows and hand over what the probe needs, layer by layer, storing nothing.

    block l:  resid_pre --ln1--> attention: q, k, v, heads --z--> W_O --attn_out--> ...
                  |        |                               |          |
               feature  feature                          target    z W_O + b_O

The forward pass ends at the output projection of the last layer asked for, and keeps the model's own
attention kernel.
"""

import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from labbook.console import UserError
from redundancy.model.blocks import copy_of
from redundancy.model.decoder import Decoder
from redundancy.request import Entering

Visit = Callable[[int, Tensor, Tensor], None]


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states a block or attention module is called with, as a forward pre-hook sees them."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def as_rows(x: Tensor) -> Tensor:
    """(batch, position, width) as rows, (batch * position, width), in the precision in which maps compute:
    float32, and float64 for float64.
    """
    rows = x.flatten(0, 1)
    return rows if rows.dtype == torch.float64 else rows.float()


class Hooks:
    """Hooks on a model that are gone after a `with` block, and what entered the block that ran last."""

    def __init__(self) -> None:
        self._x: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._x = [], None

    def _keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._x = entering(args, kwargs)


class _Stop(Exception):
    """Ends a forward pass after the last probed layer."""


class Capture(Hooks):
    """Hooks on a decoder, for the time of a `with` block.

    Parameters
    ----------
    layers : which blocks to visit.
    feature : `resid_pre` (what enters the block), `ln1` (what enters its attention), or `embedding` (what
        enters block 0).
    visit : called as visit(layer, x, z) with x (batch, position, d_model) and z (batch, position, n_heads *
        d_head).
    """

    def __init__(self, decoder: Decoder, layers: Iterable[int], feature: Entering, visit: Visit):
        super().__init__()
        self.decoder, self.layers, self.feature, self.visit = decoder, sorted(layers), feature, visit

    def __enter__(self) -> "Capture":
        if self.feature == "embedding":
            self._hooks.append(self.decoder.layers[0].register_forward_pre_hook(self._keep, with_kwargs=True))
        for number in self.layers:
            if self.feature != "embedding":
                source = (
                    self.decoder.attention(number) if self.feature == "ln1" else self.decoder.layers[number]
                )
                self._hooks.append(source.register_forward_pre_hook(self._keep, with_kwargs=True))
            self._hooks.append(
                self.decoder.projection(number).register_forward_pre_hook(self._target(number))
            )
        return self

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
    """`resid_pre`, `ln1`, `z`, `projected` and `attn_out` of one layer, each (batch, position, width), mostly
    TransformerLens' names.

    `projected` is what the output projection returns and `attn_out` what the attention module itself returns;
    `check_identity` holds both against z W_O + b_O.

    Raises UserError for an attention module that returns neither a tensor nor a tuple that begins with one.
    """
    found: dict[str, Tensor] = {}

    def keep_as(name: str) -> Any:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[name] = entering(args, kwargs)

        return keep

    def returned(name: str) -> Any:
        def keep(module: Any, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor):
                raise UserError(
                    f"{decoder.name!r}: the attention module returns a {type(output).__name__} and no "
                    "tensor; this architecture is not supported. Choose another MODEL."
                )
            found[name] = first

        return keep

    places = {
        "resid_pre": decoder.layers[layer],
        "ln1": decoder.attention(layer),
        "z": decoder.projection(layer),
    }
    hooks = [m.register_forward_pre_hook(keep_as(name), with_kwargs=True) for name, m in places.items()]
    hooks.append(decoder.projection(layer).register_forward_hook(returned("projected")))
    hooks.append(decoder.attention(layer).register_forward_hook(returned("attn_out")))
    try:
        decoder.backbone(input_ids=ids.to(decoder.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


# Relative error of z W_O + b_O in float64 against the projection itself in float64: rounding only.
IDENTITY = 1e-4
# Tokens that the identity is checked on.
IDENTITY_TOKENS = 32


def check_identity(decoder: Decoder, ids: Tensor) -> float:
    """Check sum_h z_h W_O[h] + b_O = attn_out in every layer, on the first tokens of `ids`.

    Returns the largest relative error of what was seen in the forward pass, in the run's own dtype.

    In three steps, so that a wrong map fails whatever the precision of the run:
    1. the projection as the model has it, copied to float64, maps the z seen in the forward pass to sum_h z_h
       W_O[h] + b_O (1e-4);
    2. what it returned in the forward pass is that, up to the rounding of the run's dtype;
    3. what the attention module returned is what the projection returned.

    Raises UserError when one of them fails: the located tensors are then not what the probe takes them for.
    """
    worst, few = 0.0, ids[:2, :IDENTITY_TOKENS]
    rounding = max(IDENTITY, 4 * torch.finfo(decoder.dtype).eps)
    for layer in range(len(decoder.layers)):
        found = activations(decoder, few, layer)
        weight, bias = (t.double() for t in decoder.output_map(layer))
        z = found["z"].double()
        heads = z.unflatten(-1, (decoder.n_heads, decoder.d_head))
        rebuilt = (
            torch.einsum("bthk,hkd->btd", heads, weight.unflatten(0, (decoder.n_heads, decoder.d_head)))
            + bias
        )
        size = rebuilt.norm()

        def differs(other: Tensor, truth: Tensor = rebuilt, size: Tensor = size) -> float:
            return float((truth - other.double()).norm() / size)

        with torch.inference_mode():
            exact = differs(copy_of(decoder.projection(layer), lambda path: False, torch.float64)(z))
        seen = differs(found["projected"])
        truth, projected = found["attn_out"].double(), found["projected"].double()
        # BLOOM's attention module adds the residual stream to its output before it returns, and rounds the
        # sum
        residual = found["resid_pre"].double()
        added = float(residual.norm() / size) * torch.finfo(decoder.dtype).eps
        returned, with_residual = (
            float((truth - p).norm() / size) for p in (projected, projected + residual)
        )
        for error, tolerance, what in (
            (exact, IDENTITY, "the projection's own output"),
            (seen, rounding, "what the projection returned"),
            (min(returned, max(0.0, with_residual - added)), rounding, "what the attention module returned"),
        ):
            if not error < tolerance:
                raise UserError(
                    f"{decoder.name!r}, layer {layer}: sum_h z_h W_O[h] + b_O differs from the attention "
                    f"output, here {what}, by {error:.1e} (relative; at most {tolerance:.0e}); this "
                    "architecture is not supported. Choose another MODEL."
                )
        worst = max(worst, seen)
    return worst
