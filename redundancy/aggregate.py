"""From sums per document to estimates: the means over layers and seeds that every command's tables are made
of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from labbook.estimate import Array, Estimate, Studentised, over_seeds
from redundancy.regression.controls import RANDOM
from redundancy.regression.scores import THRESHOLDS, LayerScores, bounds

CONTROL_NAMES = {
    "with_position": "hidden state and position",
    "training_mean": "training mean",
    "position_mean": "mean per position",
    "token_mean": "mean per token id",
    "previous_token": "previous token",
    "shuffled": "shuffled target",
    "aligned_shuffled": "shuffled target, same position",
    RANDOM: "random weights",
}

# rows of a table on the terminal unless every one is asked for
MOST_ROWS = 10
Item = TypeVar("Item")
# what is predicted, by target, as titles name it
UPDATES = {"attention": "attention output", "mlp": "MLP output", "block": "update of the block"}

# columns of an estimate in every table
NUMBER = ("estimate", "lower", "upper", "n")


@dataclass(frozen=True)
class Sampled:
    """A statistic ready for its interval.

    Attributes
    ----------
    values : (1 + documents, ...) under the weights of `Studentised`; of several seeds, their mean.
    seeds : (seed, ...) the statistic of each seed on all documents, or None where there is nothing to
        average.
    bounds : smallest and largest value that the statistic can have.
    """

    values: Array
    seeds: Array | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def __sub__(self, other: "Sampled") -> "Sampled":
        """The paired difference."""
        parts = [s.seeds if s.seeds is not None else s.values[:1] for s in (self, other)]
        none = self.seeds is None and other.seeds is None
        return Sampled(self.values - other.values, None if none else parts[0] - parts[1])

    @staticmethod
    def over_seeds(found: Sequence[Array], bounds: tuple[float, float]) -> "Sampled":
        """From the same statistic of several seeds, each (1 + documents, ...)."""
        stacked = np.stack(found)
        return Sampled(stacked.mean(0), stacked[:, 0] if len(found) > 1 else None, bounds)

    @staticmethod
    def mean(parts: Sequence["Sampled"]) -> "Sampled":
        """The mean of several statistics, over layers for instance."""
        seeds = [p.seeds for p in parts if p.seeds is not None]
        values = np.mean([p.values for p in parts], axis=0)
        return Sampled(values, np.mean(seeds, axis=0) if seeds else None, parts[0].bounds)

    def intervals(self, bootstrap: Studentised) -> tuple[Array, Array, Array]:
        """Estimate, lower and upper."""
        estimate, lower, upper = over_seeds(bootstrap.intervals(self.values), self.seeds)
        return estimate, np.maximum(lower, self.bounds[0]), np.minimum(upper, self.bounds[1])

    def estimate(self, bootstrap: Studentised) -> Estimate:
        """The `Estimate` of a single statistic."""
        estimate, lower, upper = self.intervals(bootstrap)
        return Estimate(float(estimate), float(lower), float(upper), bootstrap.units)


Metrics = dict[str, Sampled]
# a row of a table in the making: keys and numbers by column
TableRow = dict[str, Any]


def table_row(values: Array | Sampled, bootstrap: Studentised, **keys: Any) -> TableRow:
    """The row of one statistic, (1 + documents,) under the weights of `bootstrap`: `keys`, then estimate,
    lower, upper, n.
    """
    sampled = values if isinstance(values, Sampled) else Sampled(values)
    return {**keys, **vars(sampled.estimate(bootstrap))}


def all_metrics(scores: Sequence[LayerScores], name: str, weights: Array) -> tuple[Metrics, Metrics]:
    """Scores of a layer and of its heads under document weights, the shares of its operations among those of
    the layer.

    `scores` are those of one model, or of the same layer of several seeds.
    """
    by_seed = [of_seed.metrics(name, weights) for of_seed in scores]
    for layer, head in by_seed:
        for c in THRESHOLDS:
            layer[f"share_operations_error_below_{round(1 - c, 1)}"] = head[f"share_R_above_{c}"].mean(-1)
    layers, heads = zip(*by_seed, strict=True)
    return mean_over_seeds(layers), mean_over_seeds(heads)


def mean_over_seeds(by_seed: Sequence[dict[str, Array]]) -> Metrics:
    """Means over seeds of every metric, per document weights, of models that were scored alike."""
    return {
        metric: Sampled.over_seeds([scores[metric] for scores in by_seed], bounds(metric))
        for metric in by_seed[0]
    }


def mean_over_layers(parts: Sequence[Metrics]) -> Metrics:
    """Every score as the mean over layers."""
    return {metric: Sampled.mean([part[metric] for part in parts]) for metric in parts[0]}


def part_of(layers: Sequence[int], depth: int) -> str:
    """Which layers a sentence is about where they are not all."""
    if len(layers) == depth:
        return ""
    return f"Layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} of {depth} only: "


def spread(items: Sequence[Item], most: int = MOST_ROWS) -> list[Item]:
    """At most `most` of the items at even distances, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]
