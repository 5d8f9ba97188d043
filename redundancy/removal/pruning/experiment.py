"""The part `methods` of a removal run: calibrate, order, remove, and count what it costs (see `methods`)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from labbook import processes
from labbook.console import UserError
from labbook.run import read_json, write_json
from redundancy.evaluation import evaluate
from redundancy.model.decoder import Decoder
from redundancy.model.updates import Put, Unit, Updates, require_target
from redundancy.passes import Task
from redundancy.removal.pruning.calibration import (
    Criteria,
    Maps,
    best_spans,
    fit_spans,
    fit_target,
    measure_criteria,
    span_puts,
)
from redundancy.removal.pruning.greedy import greedy_order
from redundancy.removal.pruning.methods import (
    DRAWS,
    METHODS,
    Method,
    Removes,
    Replacement,
    counts,
    removes_of,
)
from redundancy.request import TARGETS, Target

# keeps the random orders apart from other draws of the same seed
STREAM = 5


@dataclass(frozen=True)
class Removed:
    """A way to run the model: units that are gone, and what stands in their place.

    Attributes
    ----------
    puts : by unit.
    blind : the units in whose place something stands that does not depend on what they add.
    """

    puts: Mapping[Unit, Put]
    blind: frozenset[Unit]

    def change(self, decoder: Decoder, start: int) -> Updates:
        """The hooks that change the model from position `start` on."""
        return Updates(decoder, self.puts, start, self.blind)


@dataclass(frozen=True)
class Point:
    """A number of units removed by a method.

    Attributes
    ----------
    method, removes : what, of which kind.
    count, total : how many went, and how many there are of that kind.
    units : which, in their order; empty where several draws differ.
    places : rows of `Measured.changed`, one by draw of a random order, else one.
    nothing, mean : rows with nothing, and with mean updates, in the place of the same units; None where that
        is what the method does, or where it puts nothing there.
    """

    method: str
    removes: Removes
    count: int
    units: tuple[Unit, ...]
    total: int
    places: tuple[int, ...]
    nothing: int | None
    mean: int | None


@dataclass(frozen=True)
class Measured:
    """What the methods cost.

    Attributes
    ----------
    points : by method, kind of unit and number removed.
    intact, changed : (document, TALLIES) and (variant, document, TALLIES), see `evaluate`.
    seconds : wall time: method, removes (empty for what methods share), step, runs over the calibration or
        held-out text, seconds.
    """

    points: Sequence[Point]
    intact: Tensor
    changed: Tensor
    seconds: Sequence[dict[str, Any]]


class _Variants:
    """Every distinct way to run the model once, whichever methods ask for it."""

    def __init__(self, maps: Mapping[Unit, Maps]):
        self.maps, self.ways = maps, list[Removed]()
        self._places: dict[Any, int] = {}

    def place(self, units: Sequence[Unit], replacement: Replacement) -> int:
        """The row of a set of units with the same replacement."""
        puts = {unit: self.maps[unit].put(replacement) for unit in sorted(units)}
        return self.own((replacement, tuple(puts)), puts, units)

    def own(self, key: Any, puts: Mapping[Unit, Put], blind: Sequence[Unit]) -> int:
        """The row of a way that is known by `key`."""
        if key not in self._places:
            self._places[key] = len(self.ways)
            self.ways.append(Removed(puts, frozenset(blind)))
        return self._places[key]

    def point(
        self,
        name: str,
        removes: Removes,
        sets: Sequence[Sequence[Unit]],
        total: int,
        places: tuple[int, ...],
    ) -> Point:
        """A point whose sets of units, one by draw, are in the rows `places`, and its references."""
        replacement = METHODS[name].replacement
        return Point(
            method=name,
            removes=removes,
            count=len(sets[0]),
            units=tuple(sets[0]) if len(sets) == 1 else (),
            total=total,
            places=places,
            nothing=None if replacement == "nothing" else self.place(sets[0], "nothing"),
            mean=None if replacement in ("nothing", "mean") else self.place(sets[0], "mean"),
        )


class _Orders:
    """Orders of units, found once and kept in a file, so that a killed run does not search again."""

    def __init__(
        self, decoder: Decoder, task: Task, maps: Mapping[Unit, Maps], criteria: Criteria, path: Path
    ):
        self.decoder, self.task, self.maps, self.criteria, self.path = decoder, task, maps, criteria, path
        self.seconds = list[dict[str, Any]]()
        self._kept: dict[str, Any] = read_json(path) if path.exists() else {}

    def of(
        self, name: str, method: Method, removes: Removes, units: Sequence[Unit], count: int
    ) -> list[list[Unit]]:
        """The orders of a method, one by draw; of greedy ones the first `count` units."""
        if method.order == "random":
            draws = [np.random.default_rng([self.task.seed, STREAM, n]) for n in range(DRAWS)]
            return [[units[i] for i in draw.permutation(len(units))] for draw in draws]
        if method.order == "cosine":
            return [sorted(units, key=lambda unit: -self.criteria.cosine[unit])]
        if method.order == "canonical":
            return [sorted(units, key=lambda unit: self.criteria.bound[unit])]
        assert method.order != "span"
        # methods that differ in nothing but the name share their search
        key = f"{removes}, {method.order}, {method.replacement}"
        if key not in self._kept:
            began = time.monotonic()
            label = f"methods, {name}: {removes}"

            def put(unit: Unit) -> Put:
                return self.maps[unit].put(method.replacement)

            order = greedy_order(self.decoder, self.task, units, put, count, method.order, label)
            runs = sum(len(units) - i for i in range(count))
            took = _took(name, removes, "greedy order", runs, began)
            self._kept[key] = {"order": [[unit.layer, unit.target] for unit in order], "took": took}
            if processes.rank() == 0:
                write_json(self.path, self._kept)
        kept = self._kept[key]
        self.seconds.append(kept["took"])
        return [[Unit(layer, target) for layer, target in kept["order"]]]


def _took(method: str, removes: str, step: str, runs: int, began: float) -> dict[str, Any]:
    """A row of `Measured.seconds`."""
    return {
        "method": method,
        "removes": removes,
        "step": step,
        "runs": runs,
        "seconds": time.monotonic() - began,
    }


def stages_of(targets: Sequence[Target]) -> int:
    """How many progress bars `measure_methods` shows: three readings for every target, a search for every
    greedy order, the runs of blocks, the held-out text.
    """
    searches = sum(
        removes in method.removes and method.order in ("loss", "divergence", "span")
        for removes in removes_of(targets)
        for method in METHODS.values()
    )
    return 3 * len(set(targets)) + searches + 1


def measure_methods(
    decoder: Decoder, task: Task, targets: Sequence[Target], shares: Sequence[float], state: Path
) -> Measured:
    """Run every method on every kind of unit that `targets` name.

    Parameters
    ----------
    targets : of attention, mlp, block; methods that take attention and mlp sublayers together run where both
        are named.
    shares : of the units, at which deep models are measured.
    state : folder for what is finished, so that a killed run goes on.

    Raises
    ------
    UserError : where a target cannot be told in the model, and `Interrupted` when asked to stop.
    """
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise UserError(f"--targets {' '.join(unknown)} was asked for; there are {', '.join(TARGETS)}.")
    require_target(decoder, targets, task.layers)
    maps, criteria, seconds = dict[Unit, Maps](), Criteria(), list[dict[str, Any]]()
    for target in (t for t in TARGETS if t in targets):
        began = time.monotonic()
        maps |= fit_target(decoder, task, target, state / f"methods-{target}.safetensors")
        measure_criteria(decoder, task, target, maps, criteria)
        seconds.append(_took("", target, "maps and criteria", 2, began))

    orders = _Orders(decoder, task, maps, criteria, state / "methods-orders.json")
    variants, points = _Variants(maps), list[Point]()
    for removes in removes_of(targets):
        kinds: tuple[Target, ...] = ("attention", "mlp") if removes == "sublayers" else (removes,)
        units = [Unit(n, kind) for n in task.layers for kind in kinds]
        wanted = counts(len(units), shares)
        for name, method in METHODS.items():
            if removes not in method.removes:
                continue
            if method.order == "span":
                began = time.monotonic()
                chosen = {n: span for n, span in best_spans(criteria).items() if n in wanted}
                transforms = fit_spans(decoder, task, chosen) if chosen else {}
                seconds.append(_took(name, removes, "maps and criteria", 1, began))
                for n, span in chosen.items():
                    gone = tuple(Unit(m, "block") for m in range(*span))
                    place = variants.own(("span", span), span_puts(span, transforms[n]), gone)
                    points.append(variants.point(name, removes, [gone], len(units), (place,)))
                continue
            found = orders.of(name, method, removes, units, max(wanted))
            for count in wanted:
                sets = [order[:count] for order in found]
                places = tuple(variants.place(gone, method.replacement) for gone in sets)
                points.append(variants.point(name, removes, sets, len(units), places))
    began = time.monotonic()
    label = "methods, held-out text"
    intact, changed = evaluate(decoder, task, variants.ways, state / "methods.safetensors", label)
    seconds += orders.seconds
    seconds.append(_took("", "", "held-out loss", len(variants.ways), began))
    return Measured(points, intact, changed, seconds)
