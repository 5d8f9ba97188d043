"""Blocks below the first changed layer compute what they computed before: take it from the intact run.

    intact   block 0 --> block 1 --> block 2 --> ... --> logits      outputs kept
    variant  ---------- kept ------> block 2'--> ... --> logits      only this part runs

The same tensors go into the same operations, so no number changes; on average half of the work is saved when
layers are changed one at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from redundancy.model.decoder import Decoder


class Prefix:
    """The outputs of every block for one batch of the intact model."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self._outputs: list[Any] = [None] * len(decoder.layers)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep what the blocks give out while the intact model runs inside."""

        def keep(number: int) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                self._outputs[number] = output

            return hook

        hooks = [block.register_forward_hook(keep(n)) for n, block in enumerate(self.decoder.layers)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def below(self, first: int) -> Iterator[None]:
        """Let blocks 0 to `first` - 1 give out what was recorded for the same batch, without computing it."""
        blocks = list(self.decoder.layers[:first])
        own = [block.forward for block in blocks]
        try:
            for number, block in enumerate(blocks):
                block.forward = self._given(number)
            yield
        finally:
            for block, forward in zip(blocks, own, strict=True):
                block.forward = forward

    def _given(self, number: int) -> Any:
        output = self._outputs[number]
        if output is None:
            raise ValueError("nothing was recorded: run the intact model inside `recorded` first")
        return lambda *args, **kwargs: output
