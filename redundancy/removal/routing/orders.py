"""The orders of the removal curve as rules: which operations go at which share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from redundancy.evaluation import Key, Variant
from redundancy.model.substitution import Choose, Predict, Rule, Site, zero
from redundancy.passes import Task
from redundancy.removal.curve import counts
from redundancy.removal.need import NEEDS, Needs
from redundancy.removal.routing.known import KnownNeeds
from redundancy.removal.routing.routers import Router
from redundancy.removal.routing.whole import ExactNeeds


def ranked_heads(
    order: str, layers: tuple[int, ...], needs: Needs, exact: ExactNeeds
) -> list[tuple[int, int]]:
    """Every (layer, head) of an order of whole heads, what goes first first."""
    if order == "heads_exact":
        return sorted(exact.heads, key=lambda place: exact.heads[place])
    return needs.heads(NEEDS.index(order.removeprefix("heads_")), layers)


def ranked_layers(order: str, layers: tuple[int, ...], needs: Needs, exact: ExactNeeds) -> list[int]:
    """The layers of an order of whole layers, what goes first first."""
    if order == "layers_exact":
        return sorted(layers, key=lambda n: exact.layers[n])
    return sorted(layers, key=lambda n: -needs.cosine[n])


@dataclass(frozen=True)
class Routing:
    """Everything that orders are made of.

    Attributes
    ----------
    orders : those that are followed; what they need is there.
    maps : layer -> what stands for attention in all orders but those of `own`.
    routers : by order.
    own : order -> rules of maps of its own, trained with its router or with other features.
    """

    orders: tuple[str, ...]
    task: Task
    n_heads: int
    maps: Mapping[int, Predict]
    needs: Needs
    known: KnownNeeds
    exact: ExactNeeds
    routers: Mapping[str, Router] = field(default_factory=dict)
    own: Mapping[str, Mapping[int, Rule]] = field(default_factory=dict)

    def points(self, order: str, shares: Sequence[float]) -> Iterator[Variant]:
        """The ways of running the model that skip each share of the operations in one order."""
        name = order if order in self.own else "with_position"
        for share, rules in self._rules(order, shares):
            yield Variant(Key("curve", name, order=order, target_share=share), rules)

    @cached_property
    def _everything(self) -> dict[int, Rule]:
        """Where most orders end: one object, so that it is evaluated once."""
        return {n: Rule(self.maps[n]) for n in self.task.layers}

    def _rules(self, order: str, shares: Sequence[float]) -> Iterator[tuple[float, dict[int, Rule]]]:
        layers = self.task.layers
        if order.startswith("heads"):
            ranked = ranked_heads(order, layers, self.needs, self.exact)
            for count in counts(len(ranked), shares):
                gone = {n: tuple(h for m, h in ranked[:count] if m == n) for n in layers}
                rules = {n: Rule(self.maps[n], heads=heads) for n, heads in gone.items() if heads}
                yield count / len(ranked), self._everything if count == len(ranked) else rules
        elif order.startswith("layers"):
            in_order = ranked_layers(order, layers, self.needs, self.exact)
            for count in counts(len(layers), shares):
                first = in_order[:count]
                if order == "layers_dropped":
                    yield count / len(layers), {n: Rule(zero, dropped=True) for n in first}
                else:
                    yield count / len(layers), {n: self._everything[n] for n in first}
        else:
            whole = self.own.get(order, self._everything)
            for share in shares:
                if share >= 1:
                    yield share, dict(whole) if order in self.own else self._everything
                else:
                    choose = self._chooser(order, share)
                    yield share, {n: replace(whole[n], choose=choose) for n in layers}

    def _chooser(self, order: str, share: float) -> Choose:
        """Which operations a continuous order replaces at a share."""
        if order in self.routers:
            return self.routers[order].choose(share)
        if order == "random":
            return self._random(share)
        by, _, need = order.partition("_")
        if by == "known" and need in self.known.held_out:
            return self.known.choose(need, share)
        kind, known, needs = NEEDS.index(need), by == "known", self.needs
        limit = needs.threshold(kind, share, known=known)
        return lambda site: needs.at(site, kind, known=known) <= limit

    def _random(self, share: float) -> Choose:
        def choose(site: Site) -> torch.Tensor:
            size = (site.x.shape[1], self.n_heads)
            draws = [
                np.random.default_rng([self.task.seed, int(w), site.layer]).random(size)
                for w in site.batch.number
            ]
            return torch.from_numpy(np.stack(draws) < share).to(site.x.device)

        return choose
