"""What a variant of a model computes as the intact model does is taken from the intact run.

    intact   block 0 --> block 1 --> block 2 --> ... --> logits      outputs kept
    variant  ---------- kept ------> block 2'--> ... --> logits      only this part runs

Three things are not computed again: blocks below the first changed layer; attention in that layer, which
still sees the intact stream; and sublayers whose output the change does not look at (`blind`). Of the latter
only the positions that stay as they are matter, and there a causal model computes what the intact one does.
The same tensors go into the same operations, so no number changes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redundancy.model.decoder import Decoder
from redundancy.request import Target

# the attention, the MLP, or the block of a layer
Sublayer = tuple[int, Target]


@dataclass(frozen=True)
class Window:
    """What later runs on the same window need of the intact model.

    Attributes
    ----------
    last : (position, d_model) what the last block gives out.
    z : by layer, (start, d_z) outputs of the heads at the positions that stay as they are.
    """

    last: Tensor
    z: Mapping[int, Tensor]


class Prefix:
    """What the intact model computes for one batch.

    Parameters
    ----------
    blind : sublayers that some variant does not look at.
    """

    def __init__(self, decoder: Decoder, blind: Collection[Sublayer] = ()):
        self.decoder = decoder
        self._outputs: list[Any] = [None] * len(decoder.layers)
        self._z: dict[int, Tensor] = {}
        self._besides = _projected(decoder)
        self._mlps = {n: decoder.mlp(n).path for n, target in blind if target == "mlp"}
        self._added: dict[int, Any] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep what the model computes while it runs inside."""
        hooks = []
        for n, block in enumerate(self.decoder.layers):
            hooks.append(block.register_forward_hook(_keep(self._outputs, n)))
            hooks.append(self.decoder.projection(n).register_forward_pre_hook(self._enter(n)))
            if n in self._mlps:
                module = block.get_submodule(self._mlps[n])
                hooks.append(module.register_forward_hook(_keep(self._added, n)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def given(self, first: int, blind: Collection[Sublayer] = ()) -> Iterator[None]:
        """Let what was recorded for the same batch stand for the modules that need not run again.

        Parameters
        ----------
        first : the lowest layer that is changed, whose attention sees the intact stream; -1 where nothing but
            what is blind may be taken from there.
        blind : sublayers whose output is replaced from the first changed position on, whatever it is.

        Raises ValueError where nothing was recorded.
        """
        stand_ins = list[tuple[Any, Any]]()
        for n, block in enumerate(self.decoder.layers):
            if n < first or (n, "block") in blind:
                if self._outputs[n] is None:
                    raise ValueError("nothing was recorded: run the intact model inside `recorded` first")
                stand_ins.append((block, _constant(self._outputs[n])))
                continue
            if n in self._besides and n in self._z and (n == first or (n, "attention") in blind):
                stand_ins.append((self.decoder.attention(n), self._attention(n)))
            if (n, "mlp") in blind and n in self._added:
                stand_ins.append((block.get_submodule(self._mlps[n]), _constant(self._added[n])))
        own = [vars(module).get("forward") for module, _ in stand_ins]
        try:
            for module, forward in stand_ins:
                module.forward = forward
            yield
        finally:
            for (module, _), forward in zip(stand_ins, own, strict=True):
                if forward is None:  # that of its class, which stands behind ours
                    del module.forward
                else:
                    module.forward = forward

    def windows(self, start: int) -> list[Window]:
        """What was recorded, by window; empty where blocks give out more than one tensor. Positions before
        `start` stay as they are.
        """
        last, *rest = self._outputs[-1] if isinstance(self._outputs[-1], tuple) else (self._outputs[-1],)
        if any(other is not None for other in rest):
            return []
        return [
            Window(states.clone(), {n: z[row, :start].clone() for n, z in self._z.items()})
            for row, states in enumerate(last)
        ]

    def restore(self, windows: Sequence[Window]) -> None:
        """Take over what `windows` gave, as one batch: `given` then knows the last block, as what is below
        layer len(layers), and what is blind with `first` -1.
        """
        last, before = torch.stack([window.last for window in windows]), self._outputs[-1]
        output = (last, *before[1:]) if isinstance(before, tuple) else last
        self._outputs = [output] * len(self._outputs)
        for n in self._z:
            own = torch.stack([window.z[n] for window in windows])
            self._z[n] = own.new_zeros(*last.shape[:2], own.shape[-1])
            self._z[n][:, : own.shape[1]] = own

    def _enter(self, n: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._z[n] = args[0]

        return hook

    def _attention(self, n: int) -> Any:
        """The attention of layer `n` from its output projection on."""
        z, besides, projection = self._z[n], self._besides[n], self.decoder.projection(n)

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = projection(z)
            return out if besides is None else (out, *besides)

        return forward


def _keep(found: Any, n: int) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found[n] = output

    return hook


def _constant(output: Any) -> Any:
    return lambda *args, **kwargs: output


@torch.inference_mode()
def _projected(decoder: Decoder) -> dict[int, tuple[None, ...] | None]:
    """The layers whose attention returns what its output projection returns and nothing else, and what stands
    beside it: some None, or None where it is no tuple. Others are always computed.
    """
    returned, projected = dict[int, Any](), dict[int, Tensor]()
    hooks = []
    for n in range(len(decoder.layers)):
        hooks.append(decoder.attention(n).register_forward_hook(_keep(returned, n)))
        hooks.append(decoder.projection(n).register_forward_hook(_keep(projected, n)))
    ids = torch.arange(8, device=decoder.device).unsqueeze(0) % decoder.vocabulary
    try:
        decoder.backbone(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    found = dict[int, tuple[None, ...] | None]()
    for n, output in returned.items():
        first, *rest = output if isinstance(output, tuple) else (output,)
        if torch.equal(first, projected[n]) and not any(other is not None for other in rest):
            found[n] = (None,) * len(rest) if isinstance(output, tuple) else None
    return found
