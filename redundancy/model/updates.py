"""What attention, the MLP and whole blocks add to the residual stream: see it, or put something else there.

    attention   x = resid_pre    y = attn_out as it is added    x + y = resid_mid
    mlp         x = resid_mid    y = mlp_out as it is added     x + y = resid_post
    block       x = resid_pre    y = resid_post - resid_pre     x + y = resid_post

(x of the MLP is resid_pre in parallel blocks, where x + y is no state of the model.) Every update y is
d_model wide, so the three targets are replaced, fitted and compared in the same way. Positions before the
first scored one stay as they are.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from labbook.console import UserError
from redundancy.batches import Batch
from redundancy.model.capture import Hooks
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Sublayer
from redundancy.request import Target


@dataclass(frozen=True, order=True)
class Unit:
    """What is removed whole: the attention, the MLP, or the block of a layer."""

    layer: int
    target: Target

    def __str__(self) -> str:
        return f"{self.target} {self.layer}"


# x and y (batch, position, d_model) -> what stands for y, or None to leave it
Put = Callable[[Tensor, Tensor], Tensor | None]


def nothing(x: Tensor, y: Tensor) -> Tensor:
    """The update that is left out."""
    return torch.zeros_like(y)


class Updates(Hooks):
    """Hooks that hand every unit's x and y to its `Put`, for the time of a `with` block.

    Parameters
    ----------
    puts : what is called for each unit; of a layer several may be named, and each sees what those before it
        left.
    start : first position that is changed.
    blind : those of the units whose `Put` asks for nothing of y but its shape, so y need not be computed.

    Attributes
    ----------
    first : the lowest layer among them.
    blind : as layer and target, see `prefix`.
    skipped : (batch,) zeros: no share of attention operations is counted here.

    Raises
    ------
    UserError : where a sublayer cannot be told from what it adds (see `Decoder.stream`, `Decoder.mlp`).
    """

    def __init__(self, decoder: Decoder, puts: Mapping[Unit, Put], start: int, blind: Iterable[Unit] = ()):
        super().__init__()
        self.blind: frozenset[Sublayer] = frozenset((unit.layer, unit.target) for unit in blind)
        self.decoder, self.puts, self.start = decoder, dict(puts), start
        self.first = min(unit.layer for unit in puts)
        self.skipped = torch.zeros(0)
        self._attended: Tensor | None = None
        # found when first asked for, which is not the time of the first forward pass
        for unit in self.puts:
            if unit.target == "attention":
                decoder.stream(unit.layer)
            elif unit.target == "mlp":
                decoder.mlp(unit.layer)

    def __enter__(self) -> "Updates":
        for layer in sorted({unit.layer for unit in self.puts}):
            block = self.decoder.layers[layer]
            self._hooks.append(block.register_forward_pre_hook(self._keep, with_kwargs=True))
            attention, mlp, whole = (
                self.puts.get(Unit(layer, target)) for target in ("attention", "mlp", "block")
            )
            if attention or (mlp and self.decoder.mlp(layer).behind):
                stream = self.decoder.stream(layer)
                module = block.get_submodule(stream.path)
                self._hooks.append(
                    module.register_forward_hook(self._after_attention(stream.scale, attention))
                )
            if mlp:
                added = self.decoder.mlp(layer)
                module = block.get_submodule(added.path)
                hook = self._after_mlp(added.scale, mlp, behind=added.behind)
                self._hooks.append(module.register_forward_hook(hook))
            if whole:
                self._hooks.append(block.register_forward_hook(self._after_block(whole)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._attended = None

    def read(self, batch: Batch) -> None:
        """Name the windows that the model is run on next."""
        self.skipped = torch.zeros(len(batch.ids), dtype=torch.float64)

    def _changed(self, x: Tensor, y: Tensor, put: Put) -> Tensor:
        """y with what `put` says from the first changed position on; y itself where it says nothing."""
        found = put(x, y)
        if found is None:
            return y
        return torch.cat([y[:, : self.start], found[:, self.start :].to(y.dtype)], 1)

    def _after_attention(self, scale: float, put: Put | None) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor | None:
            assert self._x is not None
            y = scale * output
            changed = y if put is None else self._changed(self._x, y, put)
            self._attended = changed
            return None if changed is y else changed / scale

        return hook

    def _after_mlp(self, scale: float, put: Put, *, behind: bool) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor | None:
            assert self._x is not None
            x = self._x
            if behind:
                assert self._attended is not None
                x = x + self._attended.reshape(x.shape)
            # some blocks (OPT) lay batch and position side by side
            y = scale * output.reshape(x.shape)
            changed = self._changed(x, y, put)
            return None if changed is y else (changed / scale).reshape(output.shape)

        return hook

    def _after_block(self, put: Put) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            assert self._x is not None
            left = output[0] if isinstance(output, tuple) else output
            y = left - self._x
            changed = self._changed(self._x, y, put)
            if changed is y:
                return None
            states = torch.cat([left[:, : self.start], (self._x + changed)[:, self.start :]], 1)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook


class UpdateCapture:
    """`capture.Capture` for the updates of one target: visits every layer with x and y, for the time of a
    `with` block.

    Parameters
    ----------
    visit : called as visit(layer, x, y), both (batch, position, d_model).
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Iterable[int],
        target: Target,
        visit: Callable[[int, Tensor, Tensor], None],
    ):
        self.decoder = decoder

        def see(layer: int) -> Put:
            return lambda x, y: visit(layer, x, y)

        self.updates = Updates(decoder, {Unit(n, target): see(n) for n in layers}, 0)

    def __enter__(self) -> "UpdateCapture":
        self.updates.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.updates.__exit__(*error)

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> None:
        """Visit every layer for the token ids (batch, position)."""
        self.decoder.backbone(input_ids=ids.to(self.decoder.device), use_cache=False)


def require_target(decoder: Decoder, targets: Iterable[Target], layers: Iterable[int]) -> None:
    """Raise UserError where a target cannot be told in one of the layers, before anything is computed."""
    chosen = tuple(targets)
    if not chosen:
        raise UserError(
            "--targets names nothing to remove; there are attention, mlp, block. Change --targets."
        )
    for layer in layers:
        if "attention" in chosen:
            decoder.stream(layer)
        if "mlp" in chosen:
            decoder.mlp(layer)
