"""What a removal run keeps, so that what it measured can be built: its probes, and its routers.

probes.safetensors    hidden state and position -> z, see `probe.kept`
routers.safetensors   of every order that a model can follow, what it goes by: hidden state and position ->
                      log need, with a network where the order has one; thresholds of the needs on the
                      validation documents; the orders in which whole heads and layers go; maps to z of the
                      order that trains its own
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labbook.console import UserError
from redundancy.model.pair import Pair
from redundancy.probe.kept import PARTS, About, Probes
from redundancy.regression.controls import Fitted, PositionAffine
from redundancy.regression.network import PositionNetwork
from redundancy.removal.config import MAKERS, ORDERS
from redundancy.removal.curve import BUDGETS, DEPLOYABLE
from redundancy.removal.need import NEEDS, Needs
from redundancy.removal.routing.orders import Routing, ranked_heads, ranked_layers
from redundancy.removal.routing.routers import of_need
from redundancy.removal.routing.whole import ExactNeeds

if TYPE_CHECKING:
    from torch import Tensor

    from redundancy.facts import Facts
    from redundancy.model.decoder import Decoder
    from redundancy.passes import Task

FILES = Pair(
    "routers.safetensors",
    "routers.json",
    schema=2,
    kind="routers",
    instead="Name the folder of a run of redundancy.removal, or the layers or heads themselves.",
    older=(1,),
)
# shares at which thresholds are kept: all with four decimals, as those of the removal curve are
GRID = np.arange(10_001) / 10_000
# nats per token by which the loss may rise, where the order is chosen that is followed unless one is named
BUDGET = BUDGETS[1]


@dataclass(frozen=True)
class Router:
    """What decides which attention is replaced: one order of the removal curve.

    Attributes
    ----------
    order : its name, as in `curve.csv` of a removal run.
    about : what its run was fitted to.
    need : layer -> log need of every head from resid_pre and position, (rows, n_heads); empty for orders of
        whole heads or layers.
    thresholds : (10001,) log need below which 0, .0001, ..., 1 of the operations of the validation documents
        lie; empty likewise.
    ranked : (layer, head), or (layer,), what is spared first first; empty for orders of single operations.
    maps : layer -> z from resid_pre and position, of an order that trained its own; empty where the maps of
        all other orders stand for attention.
    """

    order: str
    about: About
    need: Mapping[int, PositionNetwork]
    thresholds: np.ndarray
    ranked: tuple[tuple[int, ...], ...]
    maps: Mapping[int, PositionAffine] = field(default_factory=dict)

    def threshold(self, share: float) -> float:
        """The log need up to which an operation is replaced, so that `share` of them are: infinite at 1."""
        return float("inf") if share >= 1 else float(np.interp(share, GRID, self.thresholds))

    def first(self, share: float) -> tuple[tuple[int, ...], ...]:
        """The whole heads or layers that make up `share` of all, rounded down. Raises UserError where not one
        does.
        """
        count = int(share * len(self.ranked) + 1e-9)
        if count == 0:
            kind = "layers" if len(self.ranked[0]) == 1 else "heads"
            raise UserError(
                f"share={share} was asked for; with {self.order} whole {kind} go, and one of "
                f"{len(self.ranked)} is a share of {1 / len(self.ranked):.3f}. Ask for that at least."
            )
        return self.ranked[:count]

    @classmethod
    def load(cls, folder: str | Path, order: str | None = None) -> "Router":
        """The router `order` of the removal run in `folder`; without a name, the order that this run chose on
        its validation documents for a loss that rises by BUDGET.

        Raises UserError when the folder holds no routers, when a file is damaged, when there is no such
        order or none was chosen, and for what the run of an earlier version did not keep.
        """
        tensors, found = FILES.load(folder)
        learnt, ranked = found.get("learnt", []), found["ranked"]
        there = [*(f"predicted_{need}" for need in found["needs"]), *learnt, *ranked]
        if order is None:
            order = _chosen(found, folder, there)
        if order not in there:
            raise UserError(_missing(order, folder, there, earlier="learnt" not in found))
        about = About.read(found["about"])
        if order in ranked:
            places = tuple(tuple(map(int, place)) for place in ranked[order])
            return cls(order, about, {}, np.empty(0), places)
        if order in learnt:
            own = _tensors_of(tensors, order)
            need = {n: PositionNetwork.of(own[n, "need"]) for n in about.layers}
            maps = {
                n: PositionAffine(*(t[part] for part in PARTS))
                for (n, kind), t in own.items()
                if kind == "map"
            }
            return cls(order, about, need, tensors[f"{order}/thresholds"].numpy(), (), maps)
        row = found["needs"].index(order.removeprefix("predicted_"))
        predictors = {n: PositionAffine(*(tensors[f"{n}/{part}"] for part in PARTS)) for n in about.layers}
        need = {n: one_need(predictor, row) for n, predictor in predictors.items()}
        return cls(order, about, need, tensors["thresholds"][row].numpy(), ())


def _tensors_of(tensors: "Mapping[str, Tensor]", order: str) -> "dict[tuple[int, str], dict[str, Tensor]]":
    """What is kept of an order, by layer and by what it is for, as `LAYER/need/NAME` or `LAYER/map/NAME`."""
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, *place = name.split("/")
        if first == order and len(place) == 3:
            found.setdefault((int(place[0]), place[1]), {})[place[2]] = tensor
    return found


def _chosen(found: Mapping[str, Any], folder: str | Path, there: Iterable[str]) -> str:
    """The order that a run chose. Raises UserError where it chose none, or did not keep which."""
    order = found.get("chosen", {}).get(str(BUDGET))
    if order is None:
        why = "chose no order, which the part curve does"
        if "chosen" not in found:
            why = "was made by an earlier version, which did not keep what its chosen order goes by"
        raise UserError(
            f"no router= was named, and the run in {folder} {why}. Name one of {', '.join(there)}, or make "
            "the run again."
        )
    return str(order)


def _missing(order: str, folder: str | Path, there: Iterable[str], *, earlier: bool) -> str:
    """Why the run in `folder` has no router `order`."""
    text = f"router={order!r} was asked for; the run in {folder} knows {', '.join(there)}. "
    if order not in ORDERS:
        return f"{text}Change router=."
    if order not in DEPLOYABLE:
        return f"{text}No replaced model can go by {order} ({ORDERS[order]}). Change router=."
    if earlier:
        return (
            f"{text}It was made by an earlier version, which kept no other orders. Change router=, or make "
            "the run again."
        )
    maker = MAKERS.get(order, "curve")
    return (
        f"{text}It did not measure {order}, an order of the part {maker}. Change router=, or make the run "
        "again with that part, and with this order among orders=."
    )


def one_need(predictor: PositionAffine, need: int) -> PositionNetwork:
    """One need, by its number, of a map to all log needs: (rows, n_heads)."""
    return PositionNetwork(of_need(predictor, NEEDS[need]))


def keep(
    folder: Path,
    fitted: dict[int, Fitted],
    needs: Needs,
    decoder: "Decoder",
    task: "Task",
    facts: "Facts",
    routing: Routing | None = None,
    chosen: Mapping[float, str] | None = None,
) -> None:
    """Write the probes and the routers of a removal run into its folder.

    Parameters
    ----------
    routing : the orders of its curve; None where it has none. What follows from `needs` alone is kept anyway.
    chosen : by budget, the order that was chosen on the validation documents.
    """
    import torch

    probes = Probes.of(fitted, decoder, task, facts)
    probes.save(folder)
    # a router computes in float32, whatever it was fitted in
    tensors = {
        f"{n}/{part}": getattr(predictor, part).float()
        for n, predictor in needs.predictors.items()
        for part in PARTS
    }
    quantiles = np.stack([np.quantile(values, GRID) for values in needs.predicted])
    tensors["thresholds"] = torch.from_numpy(quantiles)
    learnt = [order for order in DEPLOYABLE if routing is not None and order in routing.routers]
    for order in learnt:
        assert routing is not None
        tensors |= _learnt(routing, order)
    about = {
        "about": asdict(probes.about),
        "needs": list(NEEDS),
        "learnt": learnt,
        "ranked": _ranked(task.layers, needs, ExactNeeds({}, {}) if routing is None else routing.exact),
        "chosen": {str(budget): order for budget, order in (chosen or {}).items()},
    }
    FILES.save(folder, tensors, about)


def _learnt(routing: Routing, order: str) -> "dict[str, Tensor]":
    """What an order with a router of its own goes by: scores, thresholds, and maps where it has them."""
    import torch

    router = routing.routers[order]
    tensors = {f"{order}/thresholds": torch.from_numpy(np.quantile(router.calibrated, GRID))}
    scores = {(n, "need"): score for n, score in router.scores.items()}
    maps = {
        (n, "map"): PositionNetwork(rule.predict)
        for n, rule in routing.own.get(order, {}).items()
        if isinstance(rule.predict, PositionAffine)
    }
    for (n, kind), found in (scores | maps).items():
        tensors |= {f"{order}/{n}/{kind}/{name}": t for name, t in found.kept().tensors().items()}
    return tensors


def _ranked(layers: tuple[int, ...], needs: Needs, exact: ExactNeeds) -> dict[str, list[list[int]]]:
    """By order, (layer, head) or (layer,) of everything that goes whole, what goes first first."""
    found = {}
    for order in (f"heads_{need}" for need in (*NEEDS, "exact")):
        if order != "heads_exact" or exact.heads:
            found[order] = [list(place) for place in ranked_heads(order, layers, needs, exact)]
    for order in ("layers_cosine", "layers_dropped", "layers_exact"):
        if order != "layers_exact" or exact.layers:
            found[order] = [[n] for n in ranked_layers(order, layers, needs, exact)]
    return found
