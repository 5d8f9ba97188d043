"""Needs that take the gradient of the loss to know: on the intact model, one forward pass for all of them.

    known_fisher        mean over DRAWS labels drawn from the model of (g . e)^2
    known_first_order   g . e with the label of the text: the first-order change of its loss itself, with its
                        sign, so that operations whose replacement helps go first

e is the error of the replacement of one (token, head) on the intact stream, as in `need`. The second sees the
label, which no router can: an oracle to first order, and still no bound, because replacements add up to more
than their first orders.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labbook import processes
from redundancy.batches import Batch, places
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Choose, Site
from redundancy.passes import Pass, Task, each_batch
from redundancy.regression.controls import PositionAffine
from redundancy.removal.gradients import GradientReader, change_by_head, drawn, of_the_text
from redundancy.removal.need import CALIBRATION_TOKENS, first_windows

KNOWN = ("fisher", "first_order")
DRAWS = 4


@dataclass(frozen=True)
class KnownNeeds:
    """The needs of every operation of the held-out text, and what they are on the validation documents.

    Attributes
    ----------
    held_out : need -> (window, position, layer, head), layers in the order of `layers`; 4 bytes an operation,
        the only part of a run that grows with the held-out text.
    calibrated : need -> the same of validation operations, (operation,).
    """

    layers: tuple[int, ...]
    held_out: Mapping[str, Tensor]
    calibrated: Mapping[str, np.ndarray]

    def choose(self, need: str, share: float) -> Choose:
        """Choose the held-out operations with the lowest need, about `share` of all."""
        limit = float("inf") if share >= 1 else float(np.quantile(self.calibrated[need], share))
        table = self.held_out[need]

        def choose(site: Site) -> Tensor:
            rows = table[site.batch.number.cpu(), :, self.layers.index(site.layer)]
            return (rows[:, site.start :] <= limit).to(site.x.device)

        return choose


def measure_known(decoder: Decoder, task: Task, maps: Mapping[int, PositionAffine]) -> KnownNeeds:
    """The needs where `maps` stand for attention. Raises Interrupted when asked to stop; it is then made
    again.
    """
    few = first_windows(task, "validation", CALIBRATION_TOKENS)
    keep = _kept(few, "validation")
    calibrated = {
        name: values[keep].flatten().double().numpy()
        for name, values in _measure(decoder, few, maps, "validation").items()
    }
    return KnownNeeds(task.layers, _measure(decoder, task, maps, "evaluation"), calibrated)


def _kept(task: Task, split: str) -> Tensor:
    """Scored tokens of a split, (window, position)."""
    windows = task.windows[split]
    positions = torch.arange(windows.ids.shape[1])
    return (positions < torch.from_numpy(windows.lengths)[:, None]) & (positions >= task.start_position)


def _measure(
    decoder: Decoder, task: Task, maps: Mapping[int, PositionAffine], split: str
) -> dict[str, Tensor]:
    windows = task.windows[split]
    shape = (*windows.ids.shape, len(task.layers), decoder.n_heads)
    found = {name: torch.zeros(shape) for name in KNOWN}
    readers: list[GradientReader] = []

    def visit(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        rows = x.flatten(0, 1)
        position = places(x).flatten()
        error = maps[layer](rows.float(), position) - z.flatten(0, 1).float()

        def change(slope: Tensor) -> Tensor:
            return change_by_head(slope.flatten(0, 1), error, decoder.n_heads).view(*x.shape[:2], -1)

        own, (true, *draws) = task.layers.index(layer), readers[0].gradients
        place = batch.number.cpu()
        found["first_order"][place, :, own] = change(true[layer]).cpu()
        squares = torch.stack([change(slopes[layer]).square() for slopes in draws]).mean(0)
        found["fisher"][place, :, own] = squares.cpu()

    labels = (of_the_text, *(drawn(task.seed, number) for number in range(DRAWS)))
    with GradientReader(decoder, task, visit, labels) as reader:
        readers.append(reader)
        each_batch(task, Pass(split, f"known needs, {split}"), decoder.device, reader)
    processes.add_up(found.values())  # windows of other processes are zeros here
    return found
