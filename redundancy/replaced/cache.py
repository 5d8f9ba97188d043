"""The key-value cache of a replaced model: what no later token can ask for is not stored.

layer replaced as a whole    nothing but the number of tokens, which the model reads off its first layer
heads replaced as a whole    keys and values that a head with attention left still reads
operations chosen by need    all: a token that is skipped is still read by later ones
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from labbook.console import UserError


class Counted(CacheLayerMixin):  # type: ignore[misc]
    """Stands for the cache of a layer without attention: how many tokens have passed, and no tensor."""

    is_croppable = True
    supports_early_init = False

    def __init__(self, like: Any):
        super().__init__()
        self.is_sliding = like.is_sliding
        self.sliding_window = getattr(like, "sliding_window", None)
        self.cumulative_length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is stored."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Never asked: a layer without attention has no keys."""
        raise AssertionError("a replaced layer has neither keys nor values")

    def get_seq_length(self) -> int:
        """Tokens that have passed."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the layers with attention hold."""
        kind = DynamicSlidingWindowLayer if self.is_sliding else DynamicLayer
        sizes: tuple[int, int] = kind.get_mask_sizes(self, query_length)
        return sizes

    def get_max_length(self) -> int:
        """None, or the sliding window of the layer."""
        return -1 if self.sliding_window is None else int(self.sliding_window)

    def crop(self, tokens_to_remove: int) -> None:
        """Go back by some tokens."""
        self.cumulative_length -= abs(tokens_to_remove)

    def reset(self) -> None:
        """Begin anew."""
        self.cumulative_length = 0

    def offload(self) -> None:
        """Nothing has to move."""

    def prefetch(self) -> None:
        """Nothing has to move."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """All rows are alike."""

    def batch_repeat_interleave(self, repeats: int) -> None:
        """All rows are alike."""

    def batch_select_indices(self, indices: Tensor) -> None:
        """All rows are alike."""


class _Heads:
    """Keeps the keys and values of some heads of a layer, see `with_heads`."""

    kept: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the kept heads so far: (batch, kept head, position, d_head)."""
        index = self.kept = self.kept.to(key_states.device)
        pair: tuple[Tensor, Tensor] = super().update(  # type: ignore[misc]
            key_states.index_select(1, index), value_states.index_select(1, index), *args, **kwargs
        )
        return pair


class _DynamicHeads(_Heads, DynamicLayer):  # type: ignore[misc]
    pass


class _SlidingHeads(_Heads, DynamicSlidingWindowLayer):  # type: ignore[misc]
    pass


def with_heads(like: Any, kept: Sequence[int]) -> Any:
    """An empty cache layer like `like` that keeps the key-value heads `kept` only."""
    layer: Any = _SlidingHeads(like.sliding_window) if like.is_sliding else _DynamicHeads()
    layer.kept = torch.tensor(list(kept))
    return layer


def adapt(cache: Any, depth: int, without: Sequence[int], heads: dict[int, list[int]]) -> None:
    """Give the layers of an empty `cache` the kind that a replaced model needs; one that has it stays.

    Parameters
    ----------
    depth : number of blocks.
    without : layers that have no attention.
    heads : layer -> key-value heads to keep.

    Raises UserError for caches that do not grow token by token, and for one that another model filled.
    """
    if not isinstance(cache, Cache):
        raise UserError(
            f"past_key_values= is a {type(cache).__name__}; a replaced model takes a DynamicCache. Leave it "
            "out."
        )
    while len(cache.layers) < depth:
        cache.layers.append(DynamicLayer())
    for n in (*without, *heads):
        layer = cache.layers[n]
        if isinstance(layer, Counted | _Heads):
            continue
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UserError(
                f"the cache of layer {n} is a {type(layer).__name__}; a replaced model takes a DynamicCache. "
                "Leave cache_implementation= out."
            )
        if layer.get_seq_length() > 0:
            raise UserError(
                "past_key_values= was filled by another model, and holds what this one does not compute. "
                "Leave it out, so that the text is read again."
            )
        cache.layers[n] = Counted(layer) if n in without else with_heads(layer, heads[n])


def advance(cache: Any, tokens: int) -> None:
    """Count the tokens that have passed where nothing else does."""
    for layer in cache.layers:
        if isinstance(layer, Counted):
            layer.cumulative_length += tokens


def size(cache: Any) -> int:
    """Bytes of keys and values in `cache`."""
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    return sum(t.numel() * t.element_size() for t in tensors)
