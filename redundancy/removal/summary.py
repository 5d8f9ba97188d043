"""The headline of a removal run: what `summary.json` holds, typed."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from labbook.estimate import Estimate, Estimates, read_estimates
from redundancy.removal.curve import ByOrder, Removable, best_order


@dataclass(frozen=True)
class RemovalSummary:
    """What was predicted, what removal costs and what it spares, and what the numbers are of.

    Attributes
    ----------
    tokens, documents : of each split.
    layers, depth : blocks that were replaced, and how many the model has.
    loss_intact : nats per token of the intact model.
    predictors : predictor -> metric -> estimate, means over layers.
    R_of_operations : R of the probe, mean over (layer, head).
    all_layers, all_layers_recovered : replacement -> nats per token more with all layers replaced, and the
        share of what the training mean loses that it recovers.
    removable : what every order can remove within every budget.
    chosen : the order to use by budget, chosen on the validation documents; empty in runs of an older
        version.
    variance_of_log_need_predicted, cosine : see `need.Needs`.
    floor, floor_tokens : nats per token that models of one token and its position lose more than the intact
        one, and from how many training tokens they were estimated (`replacements.floor`); empty where it was
        not measured.
    """

    model: str
    tokens: dict[str, int]
    documents: dict[str, int]
    unit: str
    layers: tuple[int, ...]
    depth: int
    position_0: str
    loss_intact: Estimate
    predictors: dict[str, Estimates]
    R_of_operations: Estimate
    all_layers: Estimates
    all_layers_recovered: Estimates
    removable: ByOrder
    chosen: dict[float, str]
    variance_of_log_need_predicted: dict[str, float]
    cosine: dict[str, float]
    bytes_per_token: float
    verdict: str
    floor: Estimates = field(default_factory=dict)
    floor_tokens: int = 0

    def json(self) -> dict[str, Any]:
        """As `summary.json` holds it."""
        removable = {
            order: {f"{budget:g}": share.json() for budget, share in shares.items()}
            for order, shares in self.removable.items()
        }
        chosen = {f"{budget:g}": order for budget, order in self.chosen.items()}
        values = asdict(self) | {"removable": removable, "chosen": chosen}
        if not self.floor:  # as runs that have none hold it
            del values["floor"], values["floor_tokens"]
        return values

    def order_for(self, budget: float) -> str:
        """The order chosen on the validation documents; where none was, the best on the scored ones."""
        return self.chosen.get(budget) or best_order(self.removable, budget)

    def lowest_floor(self) -> tuple[str, Estimate] | None:
        """The floor of replacements that see one token, and the model that gives it: an upper estimate.

        The first that is there: it was the best on the validation documents.
        """
        return next(iter(self.floor.items()), None)

    @staticmethod
    def read(values: Mapping[str, Any]) -> "RemovalSummary":
        """The summary that a file holds. Raises KeyError where a part is missing."""
        as_they_are = (
            "model",
            "tokens",
            "documents",
            "unit",
            "position_0",
            "variance_of_log_need_predicted",
            "cosine",
            "verdict",
        )
        return RemovalSummary(
            **{name: values[name] for name in as_they_are},
            # not known where token ids were given and no tokenizer
            bytes_per_token=math.nan if values["bytes_per_token"] is None else values["bytes_per_token"],
            layers=tuple(values["layers"]),
            # runs of an older version had all layers and do not say
            depth=values.get("depth", len(values["layers"])),
            loss_intact=Estimate.read(values["loss_intact"]),
            predictors={name: read_estimates(found) for name, found in values["predictors"].items()},
            R_of_operations=Estimate.read(values["R_of_operations"]),
            all_layers=read_estimates(values["all_layers"]),
            all_layers_recovered=read_estimates(values["all_layers_recovered"]),
            floor=read_estimates(values.get("floor", {})),
            floor_tokens=values.get("floor_tokens", 0),
            chosen={float(budget): order for budget, order in values.get("chosen", {}).items()},
            removable={
                order: {float(budget): Removable.read(share) for budget, share in shares.items()}
                for order, shares in values["removable"].items()
            },
        )
