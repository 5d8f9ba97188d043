"""Attention sublayers of a replaced model: what is replaced is not computed.

    Whole     the sublayer is gone: one map of resid_pre and position to attn_out stands in its place
    Partial   scores and weighted sums only for the (token, head) that keep attention; the map fills the other
              columns of z before the output projection

Before `start` (position 0, unless the probes were fitted there too) attention stays. It can only go to the
token itself there, so z is its value: an affine function of what enters the sublayer, see
`maps.first_values`.
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

from redundancy.model.capture import as_rows, entering
from redundancy.regression.controls import PositionAffine
from redundancy.regression.network import PositionNetwork

INTERFACE = "redundancy_replaced"
SITE = "_replaced_site"
# queries that are computed together, and keys up to which those of several heads are gathered for one query:
# beyond, copying them costs more than one call for each head
BLOCK, GATHERED = 128, 512
# what changes attention beyond softmax(scale q k' + mask) v, as transformers hands it over
BEYOND = ("softcap", "s_aux", "sinks", "position_bias")


@dataclass
class Reading:
    """What a forward pass reads, for all sublayers.

    Attributes
    ----------
    start : first position at which attention is replaced.
    position : (batch, token) place of every token in its text; `valid` says which are no padding.
    first : (batch, token) where attention stays because of the position; `begins` says whether anywhere.
    scored : tokens at which attention is replaced, padding left out.
    everything : compute all attention and replace nothing, which shows whether it is that of the model.
    skipped, tokens : operations replaced, and tokens at which they could be, since the counting began.
    """

    start: int
    position: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    valid: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    first: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    begins: bool = False
    scored: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.long))
    everything: bool = False
    skipped: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.long))
    tokens: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.long))

    def read(self, position: Tensor, valid: Tensor, *, begins: bool) -> None:
        """Name the tokens that come next. They lie where the blocks compute."""
        self.position, self.valid, self.begins = position, valid, begins
        self.first = position < self.start
        self.scored = (valid & ~self.first).sum()
        # stays where it is computed: nothing waits for a device
        self.tokens = self.tokens.to(position.device) + self.scored
        self.skipped = self.skipped.to(position.device)

    def count_anew(self) -> None:
        """Forget what was counted."""
        self.skipped, self.tokens = torch.zeros_like(self.skipped), torch.zeros_like(self.tokens)


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
        x, reading = self.x, self.reading
        if self.dropped:
            out = torch.zeros_like(x)
        else:
            out = PositionAffine(self.weight, self.bias, self.shift)(x, reading.position)
        if self.first_weight is not None and reading.begins:
            entered = entering(args, kwargs)[reading.first]
            out[reading.first] = entered @ self.first_weight + self.first_bias
        reading.skipped = reading.skipped + reading.scored * self.n_heads
        return out if self.length == 0 else (out, *[None] * (self.length - 1))


class Partial(nn.Module):
    """What is left of a layer of which some heads, or some (token, head), are replaced.

    Parameters
    ----------
    layer : its number.
    probe : resid_pre and position -> z, (rows, n_heads * d_head).
    heads : replaced at all positions.
    need, limit : log need of every head, and up to which an operation is replaced; None where `heads` says.
    first : (weight (d_model, d_z), bias (d_z,)), see `maps.first_values`; used where heads go.

    Attributes
    ----------
    skips : whether attention runs through `attend`; otherwise the model computes all of it, and what is
        replaced is overwritten.
    kv_heads : key-value heads of the model, once `attend` has seen them.
    """

    kept: Tensor
    columns: Tensor
    weight: Tensor
    bias: Tensor
    shift: Tensor
    first_weight: Tensor | None
    first_bias: Tensor

    def __init__(
        self,
        reading: Reading,
        probe: PositionAffine,
        n_heads: int,
        heads: Sequence[int] = (),
        need: PositionNetwork | None = None,
        limit: float = float("-inf"),
        first: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.reading, self.n_heads, self.limit = reading, n_heads, limit
        self.heads, self._reads = tuple(heads), dict[int, Tensor | None]()
        kept = torch.tensor([h for h in range(n_heads) if h not in heads], device=probe.weight.device)
        self.register_buffer("kept", kept)
        self.skips, self.kv_heads, self.routed = True, n_heads, need is not None
        width = probe.weight.shape[1] // n_heads
        columns = torch.arange(n_heads * width).view(n_heads, width)[list(heads)].flatten()
        if need is not None:
            columns = torch.arange(n_heads * width)
        self.register_buffer("columns", columns.to(probe.weight.device))
        self.register_buffer("weight", probe.weight[:, columns])
        self.register_buffer("bias", probe.bias[:, columns])
        self.register_buffer("shift", probe.shift)
        # buffers, so that they move with the block
        self.need_parts = {} if need is None else {name: f"need_{name}" for name in need.tensors()}
        for name, buffer in self.need_parts.items():
            assert need is not None
            self.register_buffer(buffer, need.tensors()[name])
        for number, name in enumerate(("first_weight", "first_bias")):
            self.register_buffer(name, None if first is None else first[number][..., columns])
        self.x = self.entered = torch.zeros(0)
        # (batch, token, head) that keep attention; of the heads that are replaced everywhere, none
        self.wanted = torch.zeros(0, 0, 0, dtype=torch.bool)

    def kept_kv_heads(self) -> list[int]:
        """The key-value heads that a head with attention reads."""
        group = self.n_heads // self.kv_heads
        return sorted({h // group for h in self.kept.tolist()})

    def enter(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the block runs: resid_pre, and what the router makes of it."""
        self.x = entering(args, kwargs)
        if self.routed:
            need = PositionNetwork.of({name: getattr(self, at) for name, at in self.need_parts.items()})
            logs = need(as_rows(self.x), self.reading.position.flatten())
            logs = logs.view(*self.x.shape[:2], self.n_heads)
            self.wanted = (logs > self.limit) | self.reading.first.unsqueeze(-1)

    def enter_attention(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the attention module runs: what its value is computed from."""
        self.entered = entering(args, kwargs)

    def fill(self, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        """Before the output projection: the map's prediction where attention is replaced."""
        reading, z = self.reading, args[0]
        if reading.everything:
            return None
        probe = PositionAffine(self.weight, self.bias, self.shift)
        predicted = probe(as_rows(self.x), reading.position.flatten()).to(z.dtype).view(*z.shape[:2], -1)
        if self.routed:
            skipped = ~self.wanted & reading.valid.unsqueeze(-1)
            reading.skipped = reading.skipped + skipped.sum()
            width = z.shape[-1] // self.n_heads
            return (torch.where(self.wanted.repeat_interleave(width, -1), z, predicted),)
        if reading.begins:
            own = z[..., self.columns]
            if self.skips and self.first_weight is not None:
                own = (self.entered @ self.first_weight + self.first_bias).to(z.dtype)
            predicted = torch.where(reading.first.unsqueeze(-1), own, predicted)
        reading.skipped = reading.skipped + reading.scored * len(self.heads)
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
        out = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        run = partial(F.scaled_dot_product_attention, scale=scale, dropout_p=dropout)
        if not self.routed:
            read = self._read(key)
            if read is not None:
                key, value = key.index_select(1, read), value.index_select(1, read)
            mask = mask if mask is None or mask.shape[1] == 1 else mask[:, self.kept]
            causal = mask is None and query.shape[2] > 1
            some = run(query.index_select(1, self.kept), key, value, attn_mask=mask, is_causal=causal)
            return out.index_copy_(2, self.kept, some.transpose(1, 2))
        group, tokens, length = self.n_heads // self.kv_heads, query.shape[2], key.shape[2]
        if mask is None and tokens > 1:
            # queries are the last tokens of what the keys hold
            mask = torch.ones(tokens, length, dtype=torch.bool, device=key.device).tril(length - tokens)
            mask = mask[None, None]
        if mask is not None:
            mask = mask.expand(query.shape[0], query.shape[1], -1, -1)
        for b in range(query.shape[0]):
            if tokens == 1 and length <= GATHERED:
                chosen = self.wanted[b, 0].nonzero().squeeze(-1)
                if len(chosen):
                    heads = chosen // group
                    seen = None if mask is None else mask[b, chosen]
                    some = run(query[b, chosen], key[b, heads], value[b, heads], attn_mask=seen)
                    out[b, 0, chosen] = some.squeeze(-2)
                continue
            for h, wanted in enumerate(self.wanted[b].unbind(-1)):
                rows = wanted.nonzero().squeeze(-1)
                # no key behind the last query of a block is read
                for block in rows.split(BLOCK) if len(rows) else ():
                    end = int(block[-1]) + 1 + length - tokens
                    out[b, block, h] = run(
                        query[b, h, block][None],
                        key[b, h // group, :end][None],
                        value[b, h // group, :end][None],
                        attn_mask=None if mask is None else mask[b, h, block, :end][None],
                    )[0]
        return out

    def _read(self, key: Tensor) -> Tensor | None:
        """Which of the key-value heads in `key` the kept heads read, one for each; None where it is as it
        stands.
        """
        count = key.shape[1]
        if count not in self._reads:
            held = self.kept_kv_heads() if count < self.kv_heads else list(range(self.kv_heads))
            places = [held.index(h // (self.n_heads // self.kv_heads)) for h in self.kept.tolist()]
            self._reads[count] = None if places == list(range(count)) else torch.tensor(places)
        read = self._reads[count]
        if read is not None and read.device != key.device:
            read = self._reads[count] = read.to(key.device)
        return read


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
