"""The headline of a training run: what `summary.json` holds, typed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from labbook.estimate import Estimate, Estimates, read_estimates


@dataclass(frozen=True)
class Weights:
    """A checkpoint that was measured."""

    name: str
    step: int
    weight_hash: str


@dataclass(frozen=True)
class Place:
    """One step of the course.

    Attributes
    ----------
    loss, bits_per_byte : nats per token on the held-out text, and the same in bits per byte.
    scores : predictor -> metric (R, R2) -> estimate, means over layers.
    """

    step: int
    loss: Estimate
    bits_per_byte: float
    scores: dict[str, Estimates]

    def json(self) -> dict[str, Any]:
        """As `summary.json` holds it: the predictors stand beside the loss."""
        values = asdict(self)
        return {name: values[name] for name in ("step", "loss", "bits_per_byte")} | values["scores"]

    @staticmethod
    def read(values: Mapping[str, Any]) -> "Place":
        """The place that a file holds."""
        others = {k: v for k, v in values.items() if k not in ("step", "loss", "bits_per_byte")}
        scores = {predictor: read_estimates(v) for predictor, v in others.items()}
        return Place(values["step"], Estimate.read(values["loss"]), values["bits_per_byte"], scores)


@dataclass(frozen=True)
class Trend:
    """The trend of one score over the checkpoints after step 0.

    Attributes
    ----------
    slope : per tenfold of steps.
    p_rising, p_falling : of Page's test over documents, one-sided.
    """

    feature: str
    metric: str
    slope: Estimate
    checkpoints: int
    p_rising: float
    p_falling: float

    def json(self) -> dict[str, Any]:
        """As `summary.json` and a row of `trend.csv` hold it: the numbers of the slope stand beside the
        rest.
        """
        values = asdict(self)
        slope = values.pop("slope")
        return {"feature": values.pop("feature"), "metric": values.pop("metric"), **slope, **values}

    @staticmethod
    def read(values: Mapping[str, Any]) -> "Trend":
        """The trend that a file holds."""
        rest = {k: values[k] for k in ("feature", "metric", "checkpoints", "p_rising", "p_falling")}
        return Trend(slope=Estimate.read(values), **rest)


@dataclass(frozen=True)
class Lowest:
    """The step at which R is lowest, and R there."""

    step: int
    R: Estimate


@dataclass(frozen=True)
class PaperCourse:
    """What the preprint states: (step, R, validation loss), without intervals."""

    source: str
    rows: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class CourseSummary:
    """The course over training, and what it is of.

    Attributes
    ----------
    tokens, documents : of each split.
    checkpoints, course : what was measured, and its numbers, by step.
    change : R and R2 of the probe at the last checkpoint minus the first, paired over documents.
    trend : of the probe's scores.
    paper : of the attention output; without rows for other targets.
    target : whose update was predicted: attention, mlp or block.
    """

    model: str
    feature: str
    tokens: dict[str, int]
    documents: dict[str, int]
    unit: str
    checkpoints: tuple[Weights, ...]
    course: tuple[Place, ...]
    change: Estimates
    trend: tuple[Trend, ...]
    paper: PaperCourse
    lowest_R: Lowest
    verdict: str
    target: str = "attention"

    def json(self) -> dict[str, Any]:
        """As `summary.json` holds it."""
        rows = [dict(zip(("step", "R", "loss"), row, strict=True)) for row in self.paper.rows]
        values = {k: v for k, v in asdict(self).items() if (k, v) != ("target", "attention")}
        return values | {
            "course": [place.json() for place in self.course],
            "trend": [trend.json() for trend in self.trend],
            "paper": {"source": self.paper.source, "rows": rows},
            "lowest_R": {"step": self.lowest_R.step, **vars(self.lowest_R.R)},
        }

    @staticmethod
    def read(values: Mapping[str, Any]) -> "CourseSummary":
        """The summary that a file holds. Raises KeyError where a part is missing."""
        paper, lowest = values["paper"], values["lowest_R"]
        return CourseSummary(
            **{k: values[k] for k in ("model", "feature", "tokens", "documents", "unit", "verdict")},
            target=values.get("target", "attention"),
            checkpoints=tuple(Weights(**checkpoint) for checkpoint in values["checkpoints"]),
            course=tuple(Place.read(place) for place in values["course"]),
            change=read_estimates(values["change"]),
            trend=tuple(Trend.read(trend) for trend in values["trend"]),
            paper=PaperCourse(
                paper["source"], tuple((row["step"], row["R"], row["loss"]) for row in paper["rows"])
            ),
            lowest_R=Lowest(lowest["step"], Estimate.read(lowest)),
        )
