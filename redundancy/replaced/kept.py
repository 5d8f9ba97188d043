"""What a removal run keeps, so that what it measured can be built: its probes, and its routers.

probes.safetensors    hidden state and position -> z, see `probe.kept`
routers.safetensors   hidden state and position -> log need, thresholds of the needs on the validation
                      documents, and the orders in which whole heads and layers go
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labbook.console import UserError
from redundancy.model.pair import Pair
from redundancy.probe.kept import PARTS, About, Probes
from redundancy.regression.controls import Fitted, PositionAffine
from redundancy.removal.need import NEEDS, Needs

if TYPE_CHECKING:
    from redundancy.facts import Facts
    from redundancy.model.decoder import Decoder
    from redundancy.passes import Task

FILES = Pair(
    "routers.safetensors",
    "routers.json",
    schema=1,
    kind="routers",
    instead="Name the folder of a run of redundancy.removal, or the layers or heads themselves.",
)
# shares at which thresholds are kept: all with four decimals, as those of the removal curve are
GRID = np.arange(10_001) / 10_000


@dataclass(frozen=True)
class Router:
    """What decides which attention is replaced: one order of the removal curve.

    Attributes
    ----------
    order : its name, as in `curve.csv` of a removal run.
    about : what its run was fitted to.
    need : layer -> map from resid_pre and position to the log need of every head, (rows, n_heads); empty for
        orders of whole heads or layers.
    thresholds : (10001,) log need below which 0, .0001, ..., 1 of the operations of the validation documents
        lie; empty likewise.
    ranked : (layer, head), or (layer,), what is spared first first; empty for orders of single operations.
    """

    order: str
    about: About
    need: Mapping[int, PositionAffine]
    thresholds: np.ndarray
    ranked: tuple[tuple[int, ...], ...]

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
    def load(cls, folder: str | Path, order: str) -> "Router":
        """The router `order` of the removal run in `folder`.

        Raises UserError when the folder holds no routers, when a file is damaged, and when there is no such
        order.
        """
        tensors, found = FILES.load(folder)
        orders = [*(f"predicted_{need}" for need in found["needs"]), *found["ranked"]]
        if order not in orders:
            raise UserError(
                f"router={order!r} was asked for; the run in {folder} knows {', '.join(orders)}. Change "
                "router=."
            )
        about = About.read(found["about"])
        if order in found["ranked"]:
            ranked = tuple(tuple(map(int, place)) for place in found["ranked"][order])
            return cls(order, about, {}, np.empty(0), ranked)
        row = found["needs"].index(order.removeprefix("predicted_"))
        predictors = {n: PositionAffine(*(tensors[f"{n}/{part}"] for part in PARTS)) for n in about.layers}
        need = {n: one_need(predictor, row, about.n_heads) for n, predictor in predictors.items()}
        return cls(order, about, need, tensors["thresholds"][row].numpy(), ())


def one_need(predictor: PositionAffine, need: int, n_heads: int) -> PositionAffine:
    """The columns of one need, by its number, of a map to all log needs: (rows, n_heads)."""
    columns = slice(need * n_heads, (need + 1) * n_heads)
    return PositionAffine(predictor.weight[:, columns], predictor.bias[:, columns], predictor.shift)


def keep(
    folder: Path,
    fitted: dict[int, Fitted],
    needs: Needs,
    decoder: "Decoder",
    task: "Task",
    facts: "Facts",
) -> None:
    """Write the probes and the routers of a removal run into its folder."""
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
    ranked: dict[str, Any] = {
        f"heads_{need}": needs.heads(number, task.layers) for number, need in enumerate(NEEDS)
    }
    ranked["layers_cosine"] = [(n,) for n in sorted(task.layers, key=lambda n: -needs.cosine[n])]
    ranked["layers_dropped"] = ranked["layers_cosine"]
    about = {
        "about": asdict(probes.about),
        "needs": list(NEEDS),
        "ranked": {name: [list(place) for place in places] for name, places in ranked.items()},
    }
    FILES.save(folder, tensors, about)
