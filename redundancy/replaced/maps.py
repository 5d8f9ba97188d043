"""The maps that a replaced model computes in the place of attention, made of those that were fitted.

folded          z-map and output projection in one, for layers that go as a whole
first_values    what attention gives at position 0, where it can only go to the token itself
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labbook.console import UserError
from redundancy.model.blocks import copy_of, in_dtype, record
from redundancy.model.decoder import Decoder
from redundancy.regression.controls import PositionAffine

# relative error up to which a function is taken to be affine; float64 stays far below, float32 below
LINEAR = 1e-3


def folded(probe: PositionAffine, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> PositionAffine:
    """A map to z and the output projection W_O (d_z, d_model), b_O (d_model,), in one."""
    weight, bias = weight.double(), bias.double()
    return PositionAffine(
        (probe.weight.double() @ weight).to(dtype),
        (probe.bias.double() @ weight + bias).to(dtype),
        probe.shift.to(dtype),
    )


@torch.no_grad()
def first_values(decoder: Decoder, layers: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """z at the first position of a text as an affine function of what enters attention there: u B + c.

    Returns B (d_model, d_z) and c (d_z,) by layer, in float64: what a copy of the sublayer makes of the unit
    vectors, each of them a text of one token. Compared with what it makes of hidden states.

    Raises UserError where it is not affine (a norm of the values, a sink in the softmax).
    """
    width = decoder.d_model
    ids = ((torch.arange(width + 1, device=decoder.device) * 7 + 5) % decoder.vocabulary).unsqueeze(-1)
    modules = [decoder.attention(n) for n in layers]
    calls = record(modules, lambda: decoder.backbone(input_ids=ids, use_cache=False))
    found = {}
    for n, call in zip(layers, calls, strict=True):
        assert call.entered is not None
        original = decoder.projection(n)
        path = next(p for p, m in call.module.named_modules() if m is original)
        for dtype in (torch.float64, torch.float32, decoder.dtype):
            twin = copy_of(call.module, lambda path: False, dtype)
            basis = torch.eye(width + 1, width, dtype=dtype, device=call.entered.device).roll(1, 0)
            try:
                unit, seen = (
                    _z(twin, path, call.args, call.kwargs, call.entered, states)
                    for states in (basis.unsqueeze(1), call.entered.to(dtype))
                )
                break
            except RuntimeError:  # some kernels know some types only
                continue
        else:
            raise UserError(f"{decoder.name!r}: the attention of layer {n} cannot be run on its own.")
        unit, seen = unit.double(), seen.double()
        weight, constant = unit[1:] - unit[0], unit[0]
        error = float((call.entered[:, 0].double() @ weight + constant - seen).norm() / seen.norm())
        if not error < max(LINEAR, 4 * torch.finfo(dtype).eps):
            raise UserError(
                f"{decoder.name!r}: what the attention of layer {n} gives at position 0, where it stays, is "
                f"not affine in what enters it (relative error {error:.1e}), so whole layers and heads "
                "cannot be left out of this architecture. Use a router of single operations, or fit with "
                "keep_position_0=True."
            )
        found[n] = (weight, constant)
    return found


def _z(
    twin: nn.Module,
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    entered: Tensor,
    states: Tensor,
) -> Tensor:
    """(row, d_z) that enters the output projection at `path` when `states` stand for `entered` in a call."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0][:, 0])

    def swap(value: Any) -> Any:
        return states if value is entered else in_dtype(value, states.dtype)

    hook = twin.get_submodule(path).register_forward_pre_hook(keep)
    try:
        twin(*map(swap, args), **{name: swap(value) for name, value in kwargs.items()})
    finally:
        hook.remove()
    return found[0]
