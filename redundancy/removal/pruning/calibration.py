"""What the methods know of a model before they remove anything: maps that stand for updates, and criteria.

Of every unit, with x the stream that enters and y what it adds (see `model.updates`):

    maps      mean of y; the least-squares map of x (penalty 0); the ridge map of x with an intercept at every
              position (penalty chosen on the validation documents): from the training documents
    criteria  mean cosine of x and x + y; d - sum_i rho_i^2 with rho the canonical correlations of x and
              x + y; mean cosine of the streams before and after every run of blocks: on the validation
              documents
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from labbook import processes
from redundancy.batches import Batch, places
from redundancy.model.decoder import Decoder
from redundancy.model.updates import Put, Unit, UpdateCapture, Updates, nothing
from redundancy.passes import Pass, Reader, Targets, Task, Visit, collect, each_batch
from redundancy.regression.controls import PositionAffine, affine, fit_with_position
from redundancy.regression.moments import LayerMoments
from redundancy.regression.ridge import Affine, RidgePath
from redundancy.removal.pruning.methods import Replacement
from redundancy.request import Target

# a run of consecutive blocks: its first, and the first behind it
Span = tuple[int, int]


@dataclass(frozen=True)
class Maps:
    """What can stand for the update of one unit.

    Attributes
    ----------
    mean : (d_model,) of y.
    linear : least squares on x: NBL's map; on attention, the probe at penalty 0 with W_O behind it.
    placed : ridge on x with an intercept at every position.
    """

    mean: Tensor
    linear: Affine
    placed: PositionAffine

    def put(self, replacement: Replacement) -> Put:
        """What stands for y under a replacement. Raises KeyError for `span`, which no single unit has."""

        def at_positions(x: Tensor, y: Tensor) -> Tensor:
            return self.placed(wide(x).flatten(0, 1), places(x).flatten()).view_as(y)

        puts: dict[str, Put] = {
            "nothing": nothing,
            "mean": lambda x, y: self.mean.to(y).expand_as(y),
            "linear": lambda x, y: self.linear(wide(x)),
            "placed": at_positions,
        }
        return puts[replacement]


def wide(x: Tensor) -> Tensor:
    """x in at least float32, in which maps compute."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass
class Criteria:
    """What units are ordered by; see the module's text."""

    cosine: dict[Unit, float] = field(default_factory=dict)
    bound: dict[Unit, float] = field(default_factory=dict)
    spans: dict[Span, float] = field(default_factory=dict)


def fit_maps(sums: LayerMoments) -> Maps:
    """The maps of one unit from the moments of x and y."""
    path = RidgePath(sums.moments("train", "current"))
    # updates are compared as they are added to the stream: no output map weighs their columns
    metric = torch.eye(len(path.mean_z), dtype=torch.float64, device=sums.device)
    return Maps(
        mean=path.mean_z + sums.pilot["shift_z"].to(path.mean_z),
        linear=affine(path.solve(0.0), sums.pilot),
        placed=fit_with_position(sums, metric, None)[0],
    )


class _Reader(Reader):
    """A `Reader` of the updates of one target, those of attention as they are added to the stream."""

    def __init__(self, decoder: Decoder, task: Task, visit: Visit, target: Target):
        super().__init__(decoder, task, visit)
        self.capture = UpdateCapture(decoder, task.layers, target, self._hand_over)


def fit_target(decoder: Decoder, task: Task, target: Target, state: Path | None) -> dict[Unit, Maps]:
    """The maps of every layer's unit of a target, from one reading of training and validation documents."""
    targets = Targets(lambda layer, x, y: y, decoder.d_model, partial(_Reader, target=target))
    label = f"methods, {target}"
    moments = collect(decoder, task, state, label, controls=False, targets=targets)
    return {Unit(n, target): fit_maps(sums) for n, sums in moments.items()}


def canonical_bound(xx: Tensor, xy: Tensor, yy: Tensor) -> float:
    """d - sum_i rho_i^2 from covariances (d, d) of x and y, rho the canonical correlations of x and x + y.

    The bound of theorem 3.2 of NBL (arXiv:2505.21077) on the error of the least-squares map relative to the
    variance, (h_out - r) + sum_{i <= r} (1 - rho_i^2), for widths h_in = h_out = d.
    """
    cross, after = xx + xy, xx + xy + xy.T + yy
    scales = [c.diagonal().clamp_min(0).sqrt() for c in (xx, after)]
    one, two = (torch.where(s > 0, s, 1) for s in scales)
    # correlations, which have the same canonical ones: columns of a stream differ in size by thousands
    left = torch.linalg.pinv(xx / torch.outer(one, one), hermitian=True)
    right = torch.linalg.pinv(after / torch.outer(two, two), hermitian=True)
    scaled = cross / torch.outer(one, two)
    return len(xx) - float(((left @ scaled) * (scaled @ right)).sum())


class _Sums:
    """Sums over kept tokens of one unit, products around a shift so that large constants keep the digits."""

    def __init__(self, shift_x: Tensor, shift_y: Tensor):
        d, device = len(shift_x), shift_x.device
        self.shift_x, self.shift_y = shift_x, shift_y
        shapes = {"n": (), "cosine": (), "x": (d,), "y": (d,), "xx": (d, d), "xy": (d, d), "yy": (d, d)}
        self.of = {
            name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()
        }

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add tokens, (rows, d) each."""
        x, y = wide(x), wide(y)
        self.of["n"] += len(x)
        self.of["cosine"] += torch.cosine_similarity(x, x + y, dim=-1).sum()
        x, y = x - self.shift_x.to(x), y - self.shift_y.to(y)
        for name, value in (
            ("x", x.sum(0)),
            ("y", y.sum(0)),
            ("xx", x.T @ x),
            ("xy", x.T @ y),
            ("yy", y.T @ y),
        ):
            self.of[name] += value

    def bound(self) -> float:
        """`canonical_bound` of these tokens."""
        n, x, y = (self.of[name] for name in ("n", "x", "y"))
        centred = [
            self.of[name] / n - torch.outer(one / n, two / n)
            for name, one, two in (("xx", x, x), ("xy", x, y), ("yy", y, y))
        ]
        return canonical_bound(*centred)


def measure_criteria(
    decoder: Decoder, task: Task, target: Target, maps: Mapping[Unit, Maps], criteria: Criteria
) -> None:
    """Add the criteria of one target to `criteria`, from one reading of the validation documents."""
    sums = {n: _Sums(maps[Unit(n, target)].linear.shift, maps[Unit(n, target)].mean) for n in task.layers}
    depth = len(decoder.layers)
    cosines = torch.zeros(depth + 1, depth + 1, dtype=torch.float64)
    streams: dict[int, Tensor] = {}

    def add(layer: int, x: Tensor, y: Tensor, batch: Batch) -> None:
        sums[layer].add(x[batch.keep], y[batch.keep])
        if target == "block":
            for place, state in ((layer, x), (layer + 1, x + y)):
                streams[place] = torch.nn.functional.normalize(wide(state[batch.keep]), dim=-1).cpu()
            if layer == task.layers[-1]:
                at = torch.tensor(list(streams))
                stacked = torch.stack(list(streams.values()))
                cosines[at.unsqueeze(1), at] += torch.einsum("atd,btd->ab", stacked, stacked).double()

    with _Reader(decoder, task, add, target) as read:
        reading = Pass("validation", f"methods, {target}: criteria")
        each_batch(task, reading, decoder.device, read)
    processes.add_up([*(tensor for one in sums.values() for tensor in one.of.values()), cosines])
    for n, one in sums.items():
        unit, tokens = Unit(n, target), float(one.of["n"])
        criteria.cosine[unit] = float(one.of["cosine"]) / tokens
        criteria.bound[unit] = one.bound()
    if target == "block":
        tokens = float(next(iter(sums.values())).of["n"])
        for first, stop in spans(task.layers):
            criteria.spans[first, stop] = float(cosines[first, stop]) / tokens


def spans(layers: tuple[int, ...]) -> list[Span]:
    """Every run of consecutive blocks among `layers` that has a block before it, which carries its map."""
    return [
        (first, stop)
        for first in layers
        for stop in range(first + 1, max(layers) + 2)
        if first > 0 and all(n in layers for n in range(first, stop))
    ]


def best_spans(criteria: Criteria) -> dict[int, Span]:
    """The run with the highest cosine by number of blocks."""
    best: dict[int, Span] = {}
    for span in sorted(criteria.spans):
        length = span[1] - span[0]
        if length not in best or criteria.spans[span] > criteria.spans[best[length]]:
            best[length] = span
    return best


def fit_spans(decoder: Decoder, task: Task, chosen: Mapping[int, Span]) -> dict[int, Tensor]:
    """T (d_model, d_model) of every run, by number of blocks: see `methods`, from the training documents.

    With M the update of the MLP before the run and s_a, s_b the streams before and after it, T minimises
    |s_b - (s_a - M) - M T|^2.
    """
    seen: dict[Unit, tuple[Tensor, Tensor]] = {}

    def see(unit: Unit) -> Put:
        def put(x: Tensor, y: Tensor) -> None:
            seen[unit] = wide(x), wide(y)

        return put

    units = {Unit(first - 1, "mlp") for first, _ in chosen.values()}
    units |= {Unit(n - 1, "block") for span in chosen.values() for n in span}
    d = decoder.d_model
    sums = {n: torch.zeros(2, d, d, dtype=torch.float64) for n in chosen}
    updates = Updates(decoder, {unit: see(unit) for unit in sorted(units)}, 0)

    @torch.inference_mode()
    def body(batch: Batch) -> None:
        decoder.backbone(input_ids=batch.ids.to(decoder.device), use_cache=False)
        for number, (first, stop) in chosen.items():
            m = seen[Unit(first - 1, "mlp")][1]
            before, after = (torch.add(*seen[Unit(n - 1, "block")]).to(m.device) for n in (first, stop))
            keep = batch.keep.to(m.device)
            rows, target = m[keep].double(), (after - before + m)[keep].double()
            sums[number] += torch.stack([rows.T @ rows, rows.T @ target]).cpu()

    with updates:
        each_batch(task, Pass("train", "methods, runs of blocks"), decoder.device, body)
    processes.add_up(sums.values())
    return {n: torch.linalg.pinv(gram, hermitian=True) @ cross for n, (gram, cross) in sums.items()}


def span_puts(span: Span, transform: Tensor) -> dict[Unit, Put]:
    """What stands for the units of a run, and for the MLP before it."""
    first, stop = span
    carrier: Put = lambda x, y: wide(y) @ transform.to(wide(y))  # noqa: E731
    return {Unit(first - 1, "mlp"): carrier} | {Unit(n, "block"): nothing for n in range(first, stop)}
