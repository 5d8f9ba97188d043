"""Windows of token ids cut into batches on the device, with what every layer needs to know about them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from redundancy.text import Windows


@dataclass(frozen=True)
class Batch:
    """Token windows on the device, with what every layer needs to know about them.

    Attributes
    ----------
    ids, keep, previous : (batch, position); keep marks scored tokens, previous those of them that have a
        token before.
    document : (batch,) index of the document.
    slot : (batch, position) row of the token id in the token table; the last row collects ids without an
        entry.
    donor : (batch, position) position in the window before this one whose target stands in for the shuffled
        control.
    aligned : the same for the shuffle that keeps positions: this position, or `donor` where the window before
        is shorter.
    number : (batch,) number of the window in its split.
    """

    ids: Tensor
    keep: Tensor
    previous: Tensor
    document: Tensor
    slot: Tensor
    donor: Tensor
    aligned: Tensor
    number: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        if self.ids.device == device:
            return self
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def places(x: Tensor, start: int = 0) -> Tensor:
    """Place in its window of every token of x (batch, position, ...), the first of which stands at `start`:
    (batch, position).
    """
    return start + torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])


def token_table(train: Windows, limit: int) -> np.ndarray:
    """The `limit` most frequent token ids of the training windows, ascending: those that get a mean of their
    own.
    """
    real = np.arange(train.ids.shape[1]) < train.lengths[:, None]
    counts = np.bincount(train.ids[real])
    ids = np.flatnonzero(counts)
    return np.sort(ids[np.argsort(-counts[ids], kind="stable")[:limit]])


@dataclass(frozen=True)
class Cut:
    """How windows become batches.

    Attributes
    ----------
    size : windows per batch.
    types : token ids with a row of their own in the token table.
    start_position : first kept position.
    seed : of the donor positions, which are a pure function of (seed, window number): `size` changes no
        number.
    """

    size: int
    types: np.ndarray
    start_position: int
    seed: int


def cut_batches(
    windows: Windows, cut: Cut, device: torch.device, first: int = 0, stop: int | None = None
) -> Iterator[Batch]:
    """Batches of the windows [first, stop), all of them unless said otherwise."""
    stop = len(windows.lengths) if stop is None else stop
    types, seed, start_position = cut.types, cut.seed, cut.start_position
    width = windows.ids.shape[1]
    positions = np.arange(width)
    for start in range(first, stop, cut.size):
        part = windows.slice(start, min(start + cut.size, stop))
        keep = (positions < part.lengths[:, None]) & (positions >= start_position)
        place = np.minimum(np.searchsorted(types, part.ids), len(types) - 1)
        slot = np.where((types[place] == part.ids) & keep, place, len(types))
        numbers = range(start, start + len(part.lengths))
        donors, aligned = [], []
        for number in numbers:
            length = int(windows.lengths[max(number - 1, 0)])
            donors.append(
                np.random.default_rng([seed, number]).integers(min(start_position, length - 1), length, width)
            )
            aligned.append(
                np.where((positions >= start_position) & (positions < length), positions, donors[-1])
            )
        before = keep & (positions > 0)
        move = [
            part.ids,
            keep,
            before,
            part.document,
            slot,
            np.stack(donors),
            np.stack(aligned),
            np.array(numbers),
        ]
        yield Batch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in move))
