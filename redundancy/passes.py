"""Two passes over the text for one model: moments on training documents, then errors on held-out documents.

Both passes save their sums now and then, so a killed run loses a minute or two and, resumed, ends with the
same numbers.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labbook import processes
from labbook.console import Interrupted, UserError, progress, stopping
from labbook.run import load_tensors, owner, save_tensors
from redundancy.batches import Batch, cut_batches, token_table
from redundancy.model.capture import Capture, Feature
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.regression.controls import Fitted, fit
from redundancy.regression.moments import LayerMoments, require_finite
from redundancy.regression.scores import LayerScores
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
    feature: Feature
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

    def batches(
        self, split: str, device: torch.device, first: int = 0, stop: int | None = None
    ) -> Iterator[Batch]:
        """Batches of the windows [first, stop) of a split."""
        windows = self.windows[split]
        stop = len(windows.lengths) if stop is None else stop
        return cut_batches(
            windows, self.batch, first, stop, self.types, self.seed, self.start_position, device
        )


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


def each_batch(
    task: Task,
    split: str,
    done: int,
    device: torch.device,
    label: str,
    body: Callable[[Batch], None],
    save: Callable[[int], None],
    saved: Saved,
) -> None:
    """Run `body` over this process' batches of a split from window `done` on, saving now and then and before
    stopping.
    """
    first, stop = processes.share(len(task.windows[split].lengths), task.batch)
    with progress(label, stop - first, max(done - first, 0)) as advance:
        for batch in task.batches(split, device, max(done, first), stop):
            body(batch)
            done = max(done, first) + len(batch.ids)
            advance(len(batch.ids))
            if stopping() or saved.due():
                save(done)
            if stopping():
                raise Interrupted(
                    "The sums so far are saved; the same command with the same --out (or --resume) goes on "
                    "from there."
                )
    save(stop)


class Reader:
    """Runs batches through a decoder and hands each layer its own tensors, on the device of that layer."""

    def __init__(self, decoder: Decoder, task: Task, visit: Visit):
        self.visit, self.devices = visit, {n: decoder.layer_device(n) for n in task.layers}
        self.capture = Capture(decoder, task.layers, task.feature, self._hand_over)
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


def collect(
    decoder: Decoder,
    task: Task,
    controls: bool,
    state: Path | None,
    label: str,
    target: Target | None = None,
    target_width: int = 0,
    reader: "Callable[[Decoder, Task, Visit], Any] | None" = None,
) -> dict[int, LayerMoments]:
    """Pass 1: the moments of every layer over training and validation documents, of all processes together.

    `target` maps (layer, x, z) to what is regressed on x, `target_width` wide; None is z itself. `reader`
    runs the batches, see `Reader`.
    """
    reading = reader or Reader
    k, types, saved = target_width or decoder.d_z, len(task.types), Saved(state)
    positions = max(w.ids.shape[1] for w in task.windows.values())
    layers = {
        n: LayerMoments(
            decoder.d_model,
            k,
            controls,
            positions,
            types,
            decoder.layer_device(n),
            both=task.both_tokens,
            places=target is not None,
        )
        for n in task.layers
    }
    found, done = saved.load(task.counts)
    for number, tensors in found.items():
        layers[number].restore(tensors)

    for split in ("train", "validation"):
        names = task.windows[split].names
        first, _ = processes.share(len(task.windows[split].lengths), task.batch)

        def add(
            layer: int, x: Tensor, z: Tensor, batch: Batch, split: str = split, names: Names = names
        ) -> None:
            y = z if target is None else target(layer, x, z)
            require_finite(layers[layer].add(split, x, y, batch), x, y, batch, names, layer)

        def look(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
            layers[layer].look(x, z if target is None else target(layer, x, z), batch)

        def save(count: int, split: str = split) -> None:
            done[split] = count
            saved.save({n: m.state() for n, m in layers.items()}, done)

        if split not in done:
            for moments in layers.values():
                moments.begin()
            if first:  # what one process would have met on its way here
                with reading(decoder, task, look) as read:
                    for start in (0, first - task.batch):
                        read(next(task.batches(split, decoder.device, start)))
        with reading(decoder, task, add) as read:
            each_batch(
                task,
                split,
                done.get(split, 0),
                decoder.device,
                f"{label}: moments, {split}",
                read,
                save,
                saved,
            )
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
    scores = {
        n: LayerScores(list(f.predictors), len(windows.names), decoder.output_map(n), decoder.n_heads)
        for n, f in fitted.items()
    }
    found, done = saved.load(task.counts)
    for number, tensors in found.items():
        scores[number].restore(tensors)

    def add(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        scores[layer].add(fitted[layer].predictors, x, z, batch)
        finite = torch.isfinite(scores[layer].predictors[task.feature].layer.sum())
        require_finite(bool(finite), x, z, batch, windows.names, layer)

    def save(count: int) -> None:
        saved.save({n: s.state() for n, s in scores.items()}, {"evaluation": count})

    with Reader(decoder, task, add) as read:
        begin = done.get("evaluation", 0)
        each_batch(task, "evaluation", begin, decoder.device, f"{label}: held-out errors", read, save, saved)
    for layer_scores in scores.values():
        processes.add_up(layer_scores.state().values())
    return scores


def measure(
    decoder: Decoder, task: Task, controls: bool, state: Path | None, label: str
) -> tuple[dict[int, LayerScores], dict[int, Fitted]]:
    """Both passes for one model; `state` is a folder for the sums of an unfinished run."""
    pass_1 = state / f"{label}-moments.safetensors" if state else None
    pass_2 = state / f"{label}-scores.safetensors" if state else None
    moments = collect(decoder, task, controls, pass_1, label)
    fitted = solve(decoder, task, moments, label)
    return score(decoder, task, fitted, pass_2, label), fitted


def measure_twins(
    decoder: Decoder, task: Task, seeds: int, state: Path | None
) -> list[dict[int, LayerScores]]:
    """The probe of `seeds` networks of the same architecture with random weights, one after the other: the
    control.
    """
    found = []
    for number in range(1, seeds + 1):
        twin = random_twin(decoder, task.seed + number)
        found.append(measure(twin, task, controls=False, state=state, label=f"random weights {number}")[0])
    return found
