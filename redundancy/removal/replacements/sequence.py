"""Maps refitted one layer after the other, each on the stream in which all earlier ones already stand.

    sequential          towards what attention gives out in that altered stream
    sequential_intact   towards what it gives out in the intact model: what earlier replacements broke may be
                        repaired here

Ridge on the altered hidden state with an intercept at every position.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redundancy.batches import Batch
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Predict, Rule, Substitution
from redundancy.passes import Reader, Targets, Task, Visit, collect
from redundancy.regression.controls import PositionAffine, fit_with_position


def fit_sequential(
    decoder: Decoder, task: Task, state: Path, *, towards_intact: bool
) -> dict[int, PositionAffine]:
    """The maps by layer, towards the intact output or that of the altered stream."""
    found: dict[int, PositionAffine] = {}
    name = "sequential-intact" if towards_intact else "sequential"
    for number, layer in enumerate(task.layers):
        alone, label = replace(task, layers=(layer,)), f"{name.replace('-', ', ')}, layer {layer}"
        reader = _Altered(found, layer, task.start_position, towards_intact=towards_intact)
        targets = Targets(reader.target, decoder.d_z, reader.read)
        sums = collect(
            decoder, alone, state / f"{name}-{number}.safetensors", label, controls=False, targets=targets
        )[layer]
        weight = decoder.output_map(layer)[0].double()
        found[layer] = fit_with_position(sums, weight @ weight.T, task.ridge)[0]
    return found


class _Altered:
    """Reads a layer's input in the altered stream, and its target there or in the intact one."""

    def __init__(self, earlier: Mapping[int, Predict], layer: int, start: int, *, towards_intact: bool):
        self.rules = {n: Rule(predict) for n, predict in earlier.items()}
        self.layer, self.start, self.towards_intact = layer, start, towards_intact
        self.intact: Tensor | None = None

    def target(self, layer: int, x: Tensor, z: Tensor) -> Tensor:
        """What is regressed on the altered x."""
        return z if self.intact is None else self.intact

    def read(self, decoder: Decoder, task: Task, visit: Visit) -> "_Reading":
        """Stands for `passes.Reader`."""
        return _Reading(self, decoder, task, visit)


class _Reading:
    """One batch after the other: intact, if that is the target, then altered."""

    def __init__(self, owner: _Altered, decoder: Decoder, task: Task, visit: Visit):
        self.owner = owner
        self.altered = Reader(decoder, task, visit)
        self.plain = Reader(decoder, task, self._take)
        self.substitution = Substitution(decoder, owner.rules, owner.start)

    def _take(self, layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        self.owner.intact = z.clone()

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(self, *error: Any) -> None:
        self.owner.intact = None

    def __call__(self, batch: Batch) -> None:
        """Run one batch and visit the layer."""
        if self.owner.towards_intact:
            with torch.inference_mode(), self.plain as read:
                read(batch)
        with self.substitution as substitution, self.altered as read:
            substitution.read(batch)
            read(batch)
