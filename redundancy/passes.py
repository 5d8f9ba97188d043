"""Two passes over the text for one model: moments on training documents, then errors on held-out documents.

Both passes save their sums now and then, so a killed run loses a minute or two and, resumed, ends with the
same numbers.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labbook import processes
from labbook.console import Interrupted, UserError, choice, progress, stopping
from labbook.run import load_tensors, owner, save_tensors
from redundancy.batches import Batch, Cut, cut_batches, token_table
from redundancy.model.capture import Capture
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.model.updates import UpdateCapture
from redundancy.regression.controls import Fitted, fit
from redundancy.regression.moments import Kept, LayerMoments, require_finite
from redundancy.regression.scores import LayerScores
from redundancy.request import Entering
from redundancy.text import Windows

STATE_SECONDS = 120
# Most frequent token ids with a mean of their own: bounds the one table that would grow with the vocabulary.
TOKEN_TYPES = 2048

State = dict[int, dict[str, Tensor]]
Visit = Callable[[int, Tensor, Tensor, Batch], None]
Target = Callable[[int, Tensor, Tensor], Tensor]
Names = tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What is measured: everything that the two passes need besides the model.

    Attributes
    ----------
    windows : `train`, `validation` and `evaluation` windows in the order in which they are read.
    layers, feature, ridge : which blocks, from what, with which penalty (None: chosen on the validation
        documents).
    start_position : first position that is scored.
    batch : windows per forward pass; changes no number.
    both_tokens : whether the controls include the probe on the hidden states of the token and of the one
        before it.
    """

    windows: dict[str, Windows]
    layers: tuple[int, ...]
    feature: Entering
    ridge: float | None
    start_position: int
    seed: int
    batch: int
    both_tokens: bool = False

    @cached_property
    def types(self) -> "np.ndarray":
        """Token ids that have a mean of their own in the `token_mean` control."""
        return token_table(self.windows["train"], TOKEN_TYPES)

    @property
    def counts(self) -> dict[str, int]:
        """Number of windows of each split."""
        return {split: len(windows.lengths) for split, windows in self.windows.items()}

    def shuffled(self, split: str, seed: int) -> "Task":
        """The same task with the windows of a split in another order."""
        return replace(self, windows={**self.windows, split: self.windows[split].shuffled(seed)})

    def batches(
        self, split: str, device: torch.device, first: int = 0, stop: int | None = None
    ) -> Iterator[Batch]:
        """Batches of the windows [first, stop) of a split."""
        cut = Cut(self.batch, self.types, self.start_position, self.seed)
        return cut_batches(self.windows[split], cut, device, first, stop)


class Saved:
    """The state file of one pass: tensors per layer, and how many windows of each split are done."""

    def __init__(self, path: Path | None):
        if path and processes.count() > 1:
            path = path.with_stem(f"{path.stem}-{processes.rank()}-of-{processes.count()}")
        self.path, self.last, self.pause = path, time.monotonic(), float(STATE_SECONDS)

    def load(self, windows: Mapping[str, int]) -> tuple[State, dict[str, int]]:
        """What was saved, or nothing; `windows` are the numbers of windows of each split.

        Raises UserError when the file is damaged, belongs to another run or part, or counts windows that
        there are not.
        """
        if self.path is None or not self.path.exists():
            return {}, {}
        tensors, metadata = load_tensors(self.path, owner(self.path))
        wrong = {k: v for k, v in metadata.items() if not (v.isdecimal() and int(v) <= windows.get(k, -1))}
        if wrong:
            raise UserError(
                f"{self.path} counts {wrong} windows of {dict(windows)}. Remove it to start again."
            )
        state: State = {}
        for name, tensor in tensors.items():
            layer, _, key = name.partition("/")
            state.setdefault(int(layer), {})[key] = tensor
        return state, {k: int(v) for k, v in metadata.items()}

    def save(self, state: State, done: dict[str, int]) -> None:
        """Write the state, atomically, and let a slow disk make the next pause longer."""
        if self.path is not None:
            began = time.monotonic()
            flat = {f"{layer}/{key}": t for layer, tensors in state.items() for key, t in tensors.items()}
            save_tensors(self.path, flat, {k: str(v) for k, v in done.items()}, owner(self.path))
            self.last = time.monotonic()
            self.pause = max(float(STATE_SECONDS), 20 * (self.last - began))

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self.last > self.pause


def _keep_nothing(done: int) -> None:
    """For sums that are made again when a run was killed."""


@dataclass(frozen=True)
class Pass:
    """One reading of a split.

    Attributes
    ----------
    label : what the progress bar calls it.
    done : first window that is still to be read.
    saved, save : where the sums are kept, and what keeps them, given the number of windows that are done.
    """

    split: str
    label: str
    done: int = 0
    saved: Saved = field(default_factory=lambda: Saved(None))
    save: Callable[[int], None] = _keep_nothing


def each_batch(task: Task, reading: Pass, device: torch.device, body: Callable[[Batch], None]) -> None:
    """Run `body` over this process' batches of a split, saving now and then and before stopping.

    Raises Interrupted when asked to stop.
    """
    first, stop = processes.share(len(task.windows[reading.split].lengths), task.batch)
    done = max(reading.done, first)
    if first < done < stop:
        choice("resume", f"{reading.label}, {done:,} of {stop:,} windows", "the sums of these are there")
    with progress(reading.label, stop - first, done - first) as advance:
        for batch in task.batches(reading.split, device, done, stop):
            body(batch)
            done += len(batch.ids)
            advance(len(batch.ids))
            if stopping() or reading.saved.due():
                reading.save(done)
            if stopping():
                raise Interrupted(
                    "The sums so far are saved; the same command with the same --out (or --resume) goes on "
                    "from there."
                )
    reading.save(stop)


class Reader:
    """Runs batches through a decoder and hands each layer its own tensors, on the device of that layer."""

    def __init__(self, decoder: Decoder, task: Task, visit: Visit):
        self.visit, self.devices = visit, {n: decoder.layer_device(n) for n in task.layers}
        self.capture = (
            Capture(decoder, task.layers, task.feature, self._hand_over)
            if decoder.target == "attention"
            else UpdateCapture(decoder, task.layers, decoder.target, self._hand_over)
        )
        self.placed: dict[torch.device, Batch] = {}

    def __enter__(self) -> "Reader":
        self.capture.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.capture.__exit__(*error)

    def __call__(self, batch: Batch) -> None:
        """Run one batch."""
        self.placed = {device: batch.to(device) for device in set(self.devices.values())}
        self.capture(batch.ids)

    def _hand_over(self, layer: int, x: Tensor, z: Tensor) -> None:
        device = self.devices[layer]
        self.visit(layer, x.to(device), z.to(device), self.placed[device])


@dataclass(frozen=True)
class Targets:
    """What is regressed on x where it is not z.

    Attributes
    ----------
    of : (layer, x, z) -> targets, `width` wide.
    read : what runs the batches, in the place of `Reader`.
    """

    of: Target
    width: int
    read: Callable[[Decoder, Task, Visit], AbstractContextManager[Callable[[Batch], None]]]


def _z(layer: int, x: Tensor, z: Tensor) -> Tensor:
    """The target of the probe: z itself."""
    return z


def _empty(
    decoder: Decoder, task: Task, targets: Targets | None, *, controls: bool
) -> dict[int, LayerMoments]:
    """The moments of every layer over no token."""
    kept = Kept(
        d=decoder.d_model,
        k=decoder.d_z if targets is None else targets.width,
        positions=max(w.ids.shape[1] for w in task.windows.values()),
        types=len(task.types),
        controls=controls,
        places=targets is not None,
        both=task.both_tokens,
    )
    return {n: LayerMoments(kept, decoder.layer_device(n)) for n in task.layers}


def collect(
    decoder: Decoder,
    task: Task,
    state: Path | None,
    label: str,
    *,
    controls: bool,
    targets: Targets | None = None,
) -> dict[int, LayerMoments]:
    """Pass 1: the moments of every layer over training and validation documents, of all processes together.

    The target is z unless `targets` says otherwise.
    """
    target, reader = (_z, Reader) if targets is None else (targets.of, targets.read)
    saved, layers = Saved(state), _empty(decoder, task, targets, controls=controls)
    sums, done = saved.load(task.counts)
    for number, tensors in sums.items():
        layers[number].restore(tensors)

    for split in ("train", "validation"):
        names = task.windows[split].names
        first, _ = processes.share(len(task.windows[split].lengths), task.batch)

        def add(
            layer: int, x: Tensor, z: Tensor, batch: Batch, split: str = split, names: Names = names
        ) -> None:
            y = target(layer, x, z)
            require_finite(x, y, batch, names, layer, ok=layers[layer].add(split, x, y, batch))

        def look(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
            layers[layer].look(x, target(layer, x, z), batch)

        def save(count: int, split: str = split) -> None:
            done[split] = count
            saved.save({n: m.state() for n, m in layers.items()}, done)

        if split not in done:
            for moments in layers.values():
                moments.begin()
            if first:  # what one process would have met on its way here
                with reader(decoder, task, look) as read:
                    for start in (0, first - task.batch):
                        read(next(task.batches(split, decoder.device, start)))
        reading = Pass(split, f"{label}: moments, {split}", done.get(split, 0), saved, save)
        with reader(decoder, task, add) as read:
            each_batch(task, reading, decoder.device, read)
    for moments in layers.values():
        processes.add_up(moments.sums.values())
    return layers


def solve(decoder: Decoder, task: Task, moments: dict[int, LayerMoments], label: str) -> dict[int, Fitted]:
    """Fit probe and controls of every layer."""
    fitted = {}
    with progress(f"{label}: ridge", len(moments)) as advance:
        for number, sums in moments.items():
            weight = decoder.output_map(number)[0].double()
            fitted[number] = fit(sums, weight @ weight.T, task.feature, task.ridge)
            advance()
    return fitted


def score(
    decoder: Decoder, task: Task, fitted: dict[int, Fitted], state: Path | None, label: str
) -> dict[int, LayerScores]:
    """Pass 2: errors of all predictors on the held-out documents."""
    windows, saved = task.windows["evaluation"], Saved(state)
    whole = decoder.target == "block"
    scores = {
        n: LayerScores(
            list(f.predictors), len(windows.names), decoder.output_map(n), decoder.n_heads, whole=whole
        )
        for n, f in fitted.items()
    }
    sums, done = saved.load(task.counts)
    for number, tensors in sums.items():
        scores[number].restore(tensors)

    def add(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        scores[layer].add(fitted[layer].predictors, x, z, batch)
        finite = torch.isfinite(scores[layer].predictors[task.feature].layer.sum())
        require_finite(x, z, batch, windows.names, layer, ok=bool(finite))

    def save(count: int) -> None:
        saved.save({n: s.state() for n, s in scores.items()}, {"evaluation": count})

    reading = Pass("evaluation", f"{label}: held-out errors", done.get("evaluation", 0), saved, save)
    with Reader(decoder, task, add) as read:
        each_batch(task, reading, decoder.device, read)
    for layer_scores in scores.values():
        processes.add_up(layer_scores.state().values())
    return scores


# progress bars of `measure`: two of the moments, the ridge, the held-out errors
STAGES = 4


def measure(
    decoder: Decoder, task: Task, state: Path | None, label: str, *, controls: bool
) -> tuple[dict[int, LayerScores], dict[int, Fitted]]:
    """Both passes for one model; `state` is a folder for the sums of an unfinished run."""
    pass_1 = state / f"{label}-moments.safetensors" if state else None
    pass_2 = state / f"{label}-scores.safetensors" if state else None
    moments = collect(decoder, task, pass_1, label, controls=controls)
    fitted = solve(decoder, task, moments, label)
    return score(decoder, task, fitted, pass_2, label), fitted


def measure_twins(
    decoder: Decoder, task: Task, seeds: int, state: Path | None
) -> list[dict[int, LayerScores]]:
    """The probe of `seeds` networks of the same architecture with random weights, one after the other: the
    control.
    """
    twins = []
    for number in range(1, seeds + 1):
        twin = random_twin(decoder, task.seed + number)
        scores, _ = measure(twin, task, controls=False, state=state, label=f"random weights {number}")
        twins.append(scores)
    return twins
