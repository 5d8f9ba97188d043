"""The episodic memory of CRAM (eq 3 of arXiv:2602.12204): attention over a bounded buffer, in chunks, and
folded for a few rows.
"""

import torch
from torch import nn
from torch.nn.functional import (
    scaled_dot_product_attention,
)


class EpisodicMemory(nn.Module):
    """Eq 3: attention over a bounded buffer of the most novel tokens before t, strictly causal.

    Write and eviction rule, which the paper does not give. The novelty c_t = ||x_t - m_t||^2 / d of a token
    is its squared distance from the mean m_t of all tokens before it. Every token is written after position t
    has read; when the buffer holds more than M entries, the least novel one leaves (between equals, the
    newer). Position t therefore reads the M most novel tokens before it. c is not trained.
    """

    def __init__(self, width: int, heads: int, buffer: int, chunk: int):
        super().__init__()
        self.heads, self.buffer, self.chunk = heads, buffer, chunk
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    @staticmethod
    def novelty(x: torch.Tensor) -> torch.Tensor:
        """c_t of every token: (batch, position)."""
        # in bf16 a sum over more than 256 tokens stands still
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        count = torch.arange(x.shape[1], device=x.device, dtype=x.dtype).clamp(min=1)
        return (x - _sum_before(x) / count[:, None]).square().mean(-1)

    def forward(self, x: torch.Tensor, read: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """r_E at the positions marked in `read` (batch, position), 0 elsewhere, and how many query-key pairs
        that took; all positions for None.
        """
        (batch, length, width), m = x.shape, self.buffer
        novelty = self.novelty(x)
        folded = read is not None and not torch.is_grad_enabled()
        keys, values = (None, None) if folded else (self._split(self.key(x)), self._split(self.value(x)))
        held = torch.empty(batch, 0, dtype=torch.int64, device=x.device)
        pieces, pairs = [], torch.zeros((), dtype=torch.int64, device=x.device)
        for first in range(0, length, self.chunk):
            last = min(length, first + self.chunk)
            rows = torch.arange(first, last, device=x.device).expand(batch, -1)
            candidates = torch.cat([held.sort(1).values, rows], 1)
            # most novel first; a stable order keeps the older of two equals ahead
            order = novelty.gather(1, candidates).argsort(dim=1, descending=True, stable=True)
            candidates = candidates.gather(1, order)
            held = candidates[:, :m]
            if read is not None:
                rows, real = _gathered(read[:, first:last], first)
            if rows.shape[1]:
                before = candidates[:, None] < rows[..., None]
                if candidates.shape[1] > m:
                    before = before & (before.cumsum(2) <= m)
                if read is not None:
                    before = before & real[..., None]
                pairs = pairs + before.sum()
                query = self._split(self.query(_rows(x, rows)))
                if keys is None or values is None:
                    pieces.append((rows, self._attend_folded(query, _rows(x, candidates), before)))
                else:
                    pieces.append((rows, self._attend(query, keys, values, candidates, before)))
        if read is None:
            return torch.cat([piece for _, piece in pieces], 1), pairs
        out = torch.zeros_like(x)
        if pieces:
            rows, recalled = (torch.cat(parts, 1) for parts in zip(*pieces, strict=True))
            # padded rows carry zeros, so adding them changes nothing
            out = out.scatter_add(1, rows[..., None].expand(-1, -1, width), recalled.to(out.dtype))
        return out, pairs

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def _attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        candidates: torch.Tensor,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """Softmax attention of the rows over the candidates they may see; 0 for rows that see none."""
        if candidates.shape[1] < keys.shape[1]:
            keys, values = _rows(keys, candidates), _rows(values, candidates)
        # the only chunk holds every position: sort the small mask back instead of copying keys and values
        else:
            seen = seen.gather(2, candidates.argsort(1)[:, None].expand_as(seen))
        empty = ~seen.any(-1)
        mask = (seen | empty[..., None])[:, None]
        q, k, v = (t.transpose(1, 2) for t in (query, keys, values))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2)) * ~empty[..., None]

    def _attend_folded(self, query: torch.Tensor, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """The same for a few rows, without a key or value of any token: q . (W_K x + b) = (W_K^T q) . x + a
        constant, and sum w (W_V x + b) = W_V (sum w x) + b.
        """
        key, value = (m.weight.unflatten(0, (self.heads, -1)) for m in (self.key, self.value))
        rows = query.shape[1]
        back = torch.einsum("brhe,hed->bhrd", query, key).flatten(1, 2) / query.shape[-1] ** 0.5
        scores = (back @ tokens.transpose(1, 2)).unflatten(1, (self.heads, rows))
        weight = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min).softmax(-1)
        tokens_mixed = (weight.flatten(1, 2) @ tokens).unflatten(1, (self.heads, rows))
        mixed = torch.einsum("bhrd,hed->brhe", tokens_mixed, value)
        return self.out(mixed.flatten(2) + self.value.bias) * seen.any(-1)[..., None]


def _rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """x[b, index[b, i]] for x (batch, position, ...) and index (batch, i)."""
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def _sum_before(x: torch.Tensor, block: int = 128) -> torch.Tensor:
    """Sum of all tokens before each one: (batch, position, width). In blocks, by a triangular matrix, which
    is faster than `cumsum` over positions.
    """
    length = x.shape[1]
    blocks = nn.functional.pad(x, (0, 0, 0, -length % block)).unflatten(1, (-1, block))
    with torch.autocast(x.device.type, enabled=False):
        inside = torch.ones(block, block, dtype=x.dtype, device=x.device).tril(-1) @ blocks
    whole = blocks.sum(2)
    return (inside + (whole.cumsum(1) - whole)[:, :, None]).flatten(1, 2)[:, :length]


def _gathered(read: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the marked ones, padded to the longest row, and which are no padding: (batch, r) each."""
    most = int(read.sum(1).max())
    order = read.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return order + first, read.gather(1, order)
