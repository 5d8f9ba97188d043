"""Attention sublayers of a replaced model: what is replaced is not computed.

    Whole     the sublayer is gone: one map of resid_pre and position to attn_out stands in its place
    Partial   scores and weighted sums only for the (token, head) that keep attention; the map fills the other
              columns of z before the output projection

Before `start` (position 0, unless the probes were fitted there too) attention stays. It can only go to the
token itself there, so z is its value: an affine function of what enters the sublayer, see `first_values`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from labbook.console import UserError
from redundancy.model.blocks import copy_of, in_dtype, record
from redundancy.model.capture import entering
from redundancy.model.decoder import Decoder
from redundancy.regression.controls import PositionAffine

INTERFACE = "redundancy_replaced"
SITE = "_replaced_site"
# what changes attention beyond softmax(scale q k' + mask) v, as transformers hands it over
BEYOND = ("softcap", "s_aux", "sinks", "position_bias")
# relative; float64 stays far below, float32 below
LINEAR = 1e-3


@dataclass
class Reading:
    """What a forward pass reads, for all sublayers.

    Attributes
    ----------
    position : (batch, token) place of every token in its text; `valid` says which are no padding.
    everything : compute all attention and replace nothing, which shows whether it is that of the model.
    skipped : operations replaced so far, and `tokens` from the first replaced position on that were read.
    """

    start: int
    position: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    valid: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    everything: bool = False
    skipped: float = 0.0
    tokens: float = 0.0

    def first(self, device: torch.device) -> Tensor:
        """(batch, token) where attention stays because of the position."""
        return (self.position < self.start).to(device)

    def count(self, replaced: Tensor) -> None:
        """Add up replaced operations, (batch, token, head) or (batch, token)."""
        valid = self.valid.to(replaced.device)
        valid = valid.unsqueeze(-1) if replaced.dim() == 3 else valid
        self.skipped += float((replaced * valid).sum())


class Whole(nn.Module):
    """Stands for an attention module: attn_out = (x - shift) W + b[position] of resid_pre x.

    Parameters
    ----------
    fold : (weight (d_model, d_model), bias (position, d_model), shift (d_model,)); None gives 0.
    first : (weight (d_model, d_model), bias (d_model,)) of what enters the sublayer, where attention stays.
    length : number of things that the module returns as a tuple; 0 when it returns the tensor itself.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    first_weight: Tensor | None
    first_bias: Tensor

    def __init__(
        self,
        reading: Reading,
        fold: PositionAffine | None,
        first: tuple[Tensor, Tensor] | None,
        n_heads: int,
        length: int,
    ):
        super().__init__()
        self.reading, self.n_heads, self.length = reading, n_heads, length
        self.dropped, self.x = fold is None, torch.zeros(0)
        for name in ("weight", "bias", "shift"):
            self.register_buffer(name, None if fold is None else getattr(fold, name))
        for number, name in enumerate(("first_weight", "first_bias")):
            self.register_buffer(name, None if first is None else first[number])

    def enter(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the block runs: resid_pre."""
        self.x = entering(args, kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """attn_out in the form in which the original module returns it."""
        x, first = self.x, self.reading.first(self.x.device)
        if self.dropped:
            out = torch.zeros_like(x)
        else:
            position = self.reading.position.to(x.device)
            out = PositionAffine(self.weight, self.bias, self.shift)(x, position)
        if self.first_weight is not None and bool(first.any()):
            entered = entering(args, kwargs)[first]
            out[first] = entered @ self.first_weight + self.first_bias
        self.reading.count((~first) * self.n_heads)
        return out if self.length == 0 else (out, *[None] * (self.length - 1))


class Partial(nn.Module):
    """What is left of a layer of which some heads, or some (token, head), are replaced.

    Parameters
    ----------
    layer : its number.
    probe : resid_pre and position -> z, (rows, n_heads * d_head).
    heads : replaced at all positions.
    need, limit : log need of every head, and up to which an operation is replaced; None where `heads` says.
    first : (weight (d_model, d_z), bias (d_z,)), see `first_values`; used where heads go.

    Attributes
    ----------
    skips : whether attention runs through `attend`; otherwise the model computes all of it, and what is
        replaced is overwritten.
    kv_heads : key-value heads of the model, once `attend` has seen them.
    """

    columns: Tensor
    weight: Tensor
    bias: Tensor
    shift: Tensor
    need_weight: Tensor
    need_bias: Tensor
    need_shift: Tensor
    first_weight: Tensor | None
    first_bias: Tensor

    def __init__(
        self,
        reading: Reading,
        probe: PositionAffine,
        n_heads: int,
        heads: Sequence[int] = (),
        need: PositionAffine | None = None,
        limit: float = float("-inf"),
        first: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.reading, self.n_heads, self.limit = reading, n_heads, limit
        self.heads, self.kept = tuple(heads), [h for h in range(n_heads) if h not in heads]
        self.skips, self.kv_heads, self.routed = True, n_heads, need is not None
        width = probe.weight.shape[1] // n_heads
        columns = torch.arange(n_heads * width).view(n_heads, width)[list(heads)].flatten()
        if need is not None:
            columns = torch.arange(n_heads * width)
        self.register_buffer("columns", columns.to(probe.weight.device))
        self.register_buffer("weight", probe.weight[:, columns])
        self.register_buffer("bias", probe.bias[:, columns])
        self.register_buffer("shift", probe.shift)
        for name in ("weight", "bias", "shift"):
            self.register_buffer(f"need_{name}", None if need is None else getattr(need, name))
        for number, name in enumerate(("first_weight", "first_bias")):
            self.register_buffer(name, None if first is None else first[number][..., columns])
        self.x = self.entered = torch.zeros(0)
        # (batch, token, head) that keep attention; of the heads that are replaced everywhere, none
        self.wanted = torch.zeros(0, 0, 0, dtype=torch.bool)

    def kept_kv_heads(self) -> list[int]:
        """The key-value heads that a head with attention reads."""
        group = self.n_heads // self.kv_heads
        return sorted({h // group for h in self.kept})

    def enter(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the block runs: resid_pre, and what the router makes of it."""
        self.x = entering(args, kwargs)
        if self.routed:
            position = self.reading.position.to(self.x.device)
            need = PositionAffine(self.need_weight, self.need_bias, self.need_shift)
            logs = need(_rows(self.x), position.flatten()).view(*self.x.shape[:2], self.n_heads)
            self.wanted = (logs > self.limit) | self.reading.first(self.x.device).unsqueeze(-1)

    def enter_attention(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the attention module runs: what its value is computed from."""
        self.entered = entering(args, kwargs)

    def fill(self, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        """Before the output projection: the map's prediction where attention is replaced."""
        if self.reading.everything:
            return None
        z, x = args[0], self.x
        first, position = self.reading.first(z.device), self.reading.position.to(z.device)
        if self.routed and bool(self.wanted.all()):
            return None
        probe = PositionAffine(self.weight, self.bias, self.shift)
        predicted = probe(_rows(x), position.flatten()).to(z.dtype).view(*z.shape[:2], -1)
        if self.routed:
            width = z.shape[-1] // self.n_heads
            filled = torch.where(self.wanted.repeat_interleave(width, -1), z, predicted)
            self.reading.count(~self.wanted)
            return (filled,)
        if bool(first.any()):
            own = z[..., self.columns]
            if self.skips and self.first_weight is not None:
                own = (self.entered @ self.first_weight + self.first_bias).to(z.dtype)
            predicted = torch.where(first.unsqueeze(-1), own, predicted)
        self.reading.count((~first) * len(self.heads))
        return (z.index_copy(-1, self.columns, predicted),)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
        dropout: float,
    ) -> Tensor:
        """z of what keeps attention, 0 elsewhere: (batch, token, head, d_head).

        query : (batch, head, token, d_head); key, value : (batch, key-value head, position, d_head), of the
        kept ones only where they come from a cache.
        """
        group = self.n_heads // self.kv_heads
        out = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        run = partial(F.scaled_dot_product_attention, scale=scale, dropout_p=dropout)
        if not self.routed:
            held = self.kept_kv_heads() if key.shape[1] < self.kv_heads else list(range(self.kv_heads))
            places = [held.index(h // group) for h in self.kept]
            if places != list(range(key.shape[1])):
                key, value = key[:, places], value[:, places]
            mask = mask if mask is None or mask.shape[1] == 1 else mask[:, self.kept]
            causal = mask is None and query.shape[2] > 1
            some = run(query[:, self.kept], key, value, attn_mask=mask, is_causal=causal)
            out[:, :, self.kept] = some.transpose(1, 2)
            return out
        if mask is None:
            # queries are the last tokens of what the keys hold
            tokens, length = query.shape[2], key.shape[2]
            mask = torch.ones(tokens, length, dtype=torch.bool, device=key.device).tril(length - tokens)
            mask = mask[None, None]
        mask = mask.expand(query.shape[0], query.shape[1], -1, -1)
        for b in range(query.shape[0]):
            if query.shape[2] == 1:
                some_heads = self.wanted[b, 0].nonzero().squeeze(-1)
                if len(some_heads):
                    read = some_heads // group
                    out[b, 0, some_heads] = run(
                        query[b, some_heads], key[b, read], value[b, read], attn_mask=mask[b, some_heads]
                    ).squeeze(-2)
                continue
            for h in range(query.shape[1]):
                rows = self.wanted[b, :, h].nonzero().squeeze(-1)
                if len(rows):
                    out[b, rows, h] = run(
                        query[b, h, rows][None],
                        key[b, h // group][None],
                        value[b, h // group][None],
                        attn_mask=mask[b, h, rows][None],
                    )[0]
        return out


def _rows(x: Tensor) -> Tensor:
    """(batch, token, width) as rows in float32, or in float64."""
    rows = x.flatten(0, 1)
    return rows if rows.dtype == torch.float64 else rows.float()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: of a `Partial` only what it keeps, else all with torch's kernel.

    Raises NotImplementedError for attention that is more than softmax(scale q k' + mask) v.
    """
    more = [name for name in BEYOND if kwargs.get(name) is not None]
    if more:
        raise NotImplementedError(f"attention with {', '.join(more)}")
    site: Partial | None = getattr(module, SITE, None)
    if site is not None and site.reading.everything:
        site.kv_heads = key.shape[1]
    if site is None or site.reading.everything:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    return site.attend(query, key, value, attention_mask, scaling, dropout), None


def register() -> None:
    """Make `attend` known to transformers under INTERFACE, with the masks of torch's kernel."""
    AttentionInterface.register(INTERFACE, attend)
    AttentionMaskInterface.register(INTERFACE, sdpa_mask)


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
