"""The headline of a probe run: what `summary.json` holds, typed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from labbook.estimate import Estimate, Estimates, read_estimates


@dataclass(frozen=True)
class Paper:
    """What the preprint states for a model of this shape, and how far this run is from it.

    Attributes
    ----------
    R, source : the stated mean over layers, and where it stands.
    gap : R of this run minus the stated one.
    head_groups : the stated shares of heads.
    """

    R: float
    source: str
    gap: Estimate
    head_groups: dict[str, float]


@dataclass(frozen=True)
class Convergence:
    """Whether more training text would change the probe.

    Attributes
    ----------
    from_tokens : training tokens of the fit before the last.
    R2_gain : by how much centred R2 rose from there to all of the text.
    converged : whether that is less than the tolerance, whole interval included.
    """

    from_tokens: int
    R2_gain: Estimate
    converged: bool


@dataclass(frozen=True)
class ProbeSummary:
    """Means over layers, each with its interval, and what they are of.

    Attributes
    ----------
    layers, depth : blocks that were probed, and how many the model has.
    random_seeds : networks with random weights behind the control.
    tokens, documents : of each split.
    metrics : metric -> estimate of the probe.
    controls, differences : control -> metric -> estimate, and the probe minus it.
    head_groups : predictor -> group -> share of heads.
    penalties : layer -> regression -> ridge penalty.
    paper : where the preprint has a number for this model.
    learning : model -> whether it has converged; empty unless asked for.
    at_position_0 : predictor -> metric -> estimate, where position 0 is reported apart.
    target : whose update was predicted: attention, mlp or block.
    """

    model: str
    feature: str
    layers: tuple[int, ...]
    depth: int
    random_seeds: int
    heads_per_layer: int
    aggregation: str
    tokens: dict[str, int]
    documents: dict[str, int]
    unit: str
    position_0: str
    metrics: Estimates
    controls: dict[str, Estimates]
    differences: dict[str, Estimates]
    head_groups: dict[str, Estimates]
    penalties: dict[str, dict[str, float]]
    paper: Paper | None
    verdict: str
    learning: dict[str, Convergence]
    at_position_0: dict[str, Estimates]
    target: str = "attention"

    def json(self) -> dict[str, Any]:
        """As `summary.json` holds it."""
        values = asdict(self)
        absent = [name for name in ("paper", "at_position_0") if not values[name]]
        absent += ["target"] if self.target == "attention" else []
        return {name: value for name, value in values.items() if name not in absent}

    @staticmethod
    def read(values: Mapping[str, Any]) -> "ProbeSummary":
        """The summary that a file holds. Raises KeyError where a part is missing."""
        paper = values.get("paper")

        def by_name(key: str) -> dict[str, Estimates]:
            return {name: read_estimates(found) for name, found in values[key].items()}

        return ProbeSummary(
            target=values.get("target", "attention"),
            **{
                name: values[name]
                for name in (
                    "model",
                    "feature",
                    "random_seeds",
                    "heads_per_layer",
                    "aggregation",
                    "tokens",
                    "documents",
                    "unit",
                    "position_0",
                    "penalties",
                    "verdict",
                )
            },
            layers=tuple(values["layers"]),
            # runs of an older version had all layers and do not say
            depth=values.get("depth", len(values["layers"])),
            metrics=read_estimates(values["metrics"]),
            controls=by_name("controls"),
            differences=by_name("differences"),
            head_groups=by_name("head_groups"),
            paper=None if paper is None else Paper(**{**paper, "gap": Estimate.read(paper["gap"])}),
            learning={
                model: Convergence(**{**found, "R2_gain": Estimate.read(found["R2_gain"])})
                for model, found in values["learning"].items()
            },
            at_position_0=by_name("at_position_0") if "at_position_0" in values else {},
        )
