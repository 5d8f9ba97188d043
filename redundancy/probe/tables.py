"""From sums to tables: every score with its interval, its controls beside it, and the verdict in one
sentence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from labbook.console import UserError
from labbook.estimate import Array, Estimate, Estimates, Studentised
from labbook.report import TableResult
from labbook.run import read_finished, typed
from redundancy.aggregate import (
    NUMBER,
    UPDATES,
    Metrics,
    Sampled,
    TableRow,
    all_metrics,
    mean_over_layers,
    mean_over_seeds,
    part_of,
)
from redundancy.facts import Facts
from redundancy.model.decoder import Decoder
from redundancy.passes import Task
from redundancy.probe.kept import Probes
from redundancy.probe.learning import converged
from redundancy.probe.summary import Paper, ProbeSummary
from redundancy.regression.controls import RANDOM
from redundancy.regression.scores import EDGES, METRICS, LayerScores

# Table 6 of arXiv:2602.12204, by (layers, d_model) of GPT-2: R overall. Section 2 gives the head groups,
# model not said.
PAPER_R = {(12, 768): 0.84, (24, 1024): 0.92}
PAPER_VOCABULARY = 50257
PAPER_HEADS = {
    "share_heads_R_above_0.8": 0.34,
    "share_heads_R_0.5_to_0.8": 0.41,
    "share_heads_R_below_0.5": 0.25,
}
FRAMES = ("layers", "heads", "controls", "histogram", "distribution", "learning")


@dataclass(frozen=True)
class Tables(TableResult):
    """The results of a probe run.

    Attributes
    ----------
    layers : layer, feature, metric, estimate, lower, upper, n, seeds; `feature` is the probe's feature or the
        name of a control. `n` counts documents; `seeds` the networks that the number is a mean over and whose
        spread the interval holds too, 1 but for random weights. Runs of an earlier version lack it.
    heads : the same with head.
    controls : per layer and control its scores, and `difference` (probe minus control, paired over documents)
        with its interval.
    histogram : layer, feature, left, right, share of tokens with R_t in [left, right) as estimate, lower,
        upper, n.
    distribution : the same shares as means over layers.
    learning : tokens, model (trained or random), metric, against, estimate, lower, upper, n: scores of the
        probe fitted to a part of the training text, and (`against` all) the same minus those with all of it;
        empty unless asked for.
    headline : the means over layers, head groups, text, penalties, and the verdict; `summary` is the same
        as a dict, as `summary.json` holds it.
    folder : where all of it is stored.
    """

    FILES: ClassVar = FRAMES

    headline: ProbeSummary
    layers: pd.DataFrame
    heads: pd.DataFrame
    controls: pd.DataFrame
    histogram: pd.DataFrame
    distribution: pd.DataFrame
    learning: pd.DataFrame
    folder: Path = Path()

    @staticmethod
    def read(folder: Path) -> "Tables":
        """Read a finished run. Raises UserError when `folder` is not one."""
        summary, frames = read_finished(folder, FRAMES, "probe")
        return Tables(headline=typed(ProbeSummary.read, summary, folder), folder=folder, **frames)

    @property
    def probes(self) -> Probes:
        """The fitted probes. Raises UserError when the run did not keep them."""
        if self.headline.target != "attention":
            raise UserError(
                f"probes of the {UPDATES[self.headline.target]} are not kept: those that are stand for "
                'attention. Use target="attention".'
            )
        return Probes.load(self.folder)

    def _figures(self) -> Mapping[str, Callable[[Any], Figure]]:
        from redundancy.probe.figures import FIGURES  # plotting libraries are slow to import

        return FIGURES

    def _shown(self) -> tuple[str, pd.DataFrame]:
        means = {self.headline.feature: self.headline.metrics, **self.headline.controls}
        rows = {name: {m: numbers[m].text() for m in ("R", "R2")} for name, numbers in means.items()}
        return self.headline.verdict, pd.DataFrame.from_dict(rows, orient="index")


class _Rows:
    """Tidy rows in the making."""

    def __init__(self, bootstrap: Studentised):
        self.bootstrap, self.parts = bootstrap, list[pd.DataFrame]()

    def add(self, sampled: Sampled, keys: TableRow) -> None:
        """One row per element of the statistic, with the given key columns."""
        numbers = dict(zip(NUMBER, map(np.atleast_1d, sampled.intervals(self.bootstrap)), strict=False))
        seeds = 1 if sampled.seeds is None else len(sampled.seeds)
        self.parts.append(pd.DataFrame({**keys, **numbers, "n": self.bootstrap.units, "seeds": seeds}))

    def frame(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True)


@dataclass(frozen=True)
class Scored:
    """What the passes over the text left.

    Attributes
    ----------
    trained : layer -> sums of the model.
    twins : the same of every network with random weights.
    penalties : layer -> regression -> ridge penalty of the model.
    """

    trained: dict[int, LayerScores]
    twins: Sequence[dict[int, LayerScores]]
    penalties: dict[int, dict[str, float]]


@dataclass(frozen=True)
class _ByLayer:
    """By predictor, a list with one entry per layer: its scores, those at position 0, R of its heads, and the
    shares of its tokens by R.
    """

    scores: dict[str, list[Metrics]] = field(default_factory=dict)
    starts: dict[str, list[Metrics]] = field(default_factory=dict)
    heads: dict[str, list[Sampled]] = field(default_factory=dict)
    shares: dict[str, list[Sampled]] = field(default_factory=dict)


def tabulate(
    decoder: Decoder,
    task: Task,
    scored: Scored,
    learning: pd.DataFrame,
    bootstrap: Studentised,
    facts: Facts,
) -> Tables:
    """All tables of a run, from the sums of the model and of its random twins."""
    layers, heads, controls, histogram, distribution = (_Rows(bootstrap) for _ in range(5))
    weights, feature, by_layer = bootstrap.weights, task.feature, _ByLayer()
    bins = {"left": np.append(-np.inf, EDGES), "right": np.append(EDGES, np.inf)}
    for number, scores in scored.trained.items():
        probe: Metrics = {}
        for name in [*_probe_first(scores, feature), RANDOM]:
            sources, key = (
                ([twin[number] for twin in scored.twins], feature) if name == RANDOM else ([scores], name)
            )
            layer, head = all_metrics(sources, key, weights)
            probe = probe or layer
            by_layer.scores.setdefault(name, []).append(layer)
            for metric, sampled in layer.items():
                layers.add(sampled, {"layer": number, "feature": name, "metric": metric})
                if name != feature:
                    difference = _difference(bootstrap, probe[metric] - sampled)
                    controls.parts.append(layers.parts[-1].assign(**difference))
            start = mean_over_seeds([source.start_metrics(key, weights) for source in sources])
            for metric, sampled in start.items():
                layers.add(sampled, {"layer": number, "feature": name, "metric": metric})
            if start:
                by_layer.starts.setdefault(name, []).append(start)
            of_heads = {"layer": number, "head": np.arange(decoder.n_heads), "feature": name}
            for metric in METRICS:
                heads.add(head[metric], {**of_heads, "metric": metric})
            by_layer.heads.setdefault(name, []).append(head["R"])
            by_layer.shares.setdefault(name, []).append(
                Sampled.over_seeds([source.histogram(key, weights) for source in sources], (0, 1))
            )
            histogram.add(by_layer.shares[name][-1], {"layer": number, "feature": name, **bins})
    for name, parts in by_layer.shares.items():
        distribution.add(Sampled.mean(parts), {"feature": name, **bins})
    return Tables(
        headline=_summarise(decoder, task, scored, by_layer, learning, bootstrap, facts),
        layers=layers.frame(),
        heads=heads.frame(),
        controls=controls.frame(),
        histogram=histogram.frame(),
        distribution=distribution.frame(),
        learning=learning,
    )


def _probe_first(scores: LayerScores, feature: str) -> list[str]:
    """Names of the predictors, the probe first."""
    return [feature, *(name for name in scores.names if name != feature)]


def _difference(bootstrap: Studentised, sampled: Sampled) -> dict[str, float]:
    difference = sampled.estimate(bootstrap)
    return {
        "difference": difference.estimate,
        "difference_lower": difference.lower,
        "difference_upper": difference.upper,
    }


HEAD_GROUPS: dict[str, Callable[[Array], npt.NDArray[np.bool_]]] = {
    "share_heads_R_above_0.8": lambda r: r > 0.8,
    "share_heads_R_0.5_to_0.8": lambda r: (r <= 0.8) & (r >= 0.5),
    "share_heads_R_below_0.5": lambda r: r < 0.5,
}


def _head_groups(by_layer: Sequence[Sampled], bootstrap: Studentised) -> Estimates:
    """Shares of all heads in the paper's three groups; of several seeds, of the mean R of each head over the
    seeds.

    A share of heads jumps when one crosses a threshold, so its interval is that of percentiles.
    """
    r = np.concatenate([bootstrap.replicates(sampled.values) for sampled in by_layer], axis=1)
    groups = {}
    for name, member in HEAD_GROUPS.items():
        estimate, lower, upper = bootstrap.percentiles(member(r).mean(-1))
        groups[name] = Estimate(float(estimate), float(lower), float(upper), bootstrap.units)
    return groups


def _summarise(
    decoder: Decoder,
    task: Task,
    scored: Scored,
    by_layer: _ByLayer,
    learning: pd.DataFrame,
    bootstrap: Studentised,
    facts: Facts,
) -> ProbeSummary:
    """The machine-readable headline."""

    def numbers(values: Metrics) -> Estimates:
        return {metric: v.estimate(bootstrap) for metric, v in values.items()}

    feature = task.feature
    means = {name: mean_over_layers(parts) for name, parts in by_layer.scores.items()}
    names = [name for name in means if name != feature]
    metrics, controls = numbers(means[feature]), {name: numbers(means[name]) for name in names}
    paper = _paper(decoder, task, means[feature]["R"], bootstrap, facts)
    over = f"held-out {facts.unit}s; of random weights over {len(scored.twins)} seeds too"
    return ProbeSummary(
        model=facts.model,
        feature=feature,
        layers=tuple(task.layers),
        depth=facts.depth,
        random_seeds=len(scored.twins),
        heads_per_layer=decoder.n_heads,
        aggregation="mean over layers; intervals over held-out documents, "
        "of random weights over their seeds too",
        tokens=facts.tokens,
        documents=facts.document_counts,
        unit=facts.unit,
        position_0="kept" if task.start_position == 0 else "excluded",
        metrics=metrics,
        controls=controls,
        differences={
            name: numbers({m: means[feature][m] - v for m, v in means[name].items()}) for name in names
        },
        head_groups={name: _head_groups(parts, bootstrap) for name, parts in by_layer.heads.items()},
        penalties={str(n): p for n, p in scored.penalties.items()},
        paper=paper,
        verdict=part_of(task.layers, facts.depth)
        + (f"Of the {UPDATES[decoder.target]}, " if decoder.target != "attention" else "")
        + _verdict(metrics, controls, over, paper),
        learning=converged(learning),
        at_position_0={name: numbers(mean_over_layers(parts)) for name, parts in by_layer.starts.items()},
        target=decoder.target,
    )


def _paper(decoder: Decoder, task: Task, r: Sampled, bootstrap: Studentised, facts: Facts) -> Paper | None:
    """The preprint's numbers beside R, the mean over layers, for the models that it examined."""
    depth, width = len(decoder.layers), decoder.d_model
    is_paper = (
        decoder.target == "attention"
        and decoder.model.config.model_type == "gpt2"
        and (depth, width) in PAPER_R
        and decoder.vocabulary == PAPER_VOCABULARY
    )
    if not is_paper or facts.model.startswith("random:") or len(task.layers) != depth:
        return None
    stated = PAPER_R[depth, width]
    gap = bootstrap.estimate(r.values - stated)
    return Paper(R=stated, source="arXiv:2602.12204, table 6", gap=gap, head_groups=PAPER_HEADS)


def _verdict(metrics: Estimates, controls: dict[str, Estimates], over: str, paper: Paper | None) -> str:
    """One sentence: the score, and how much of it the controls reach; `over` says what intervals are over."""
    r = {name: values["R"].text(2) for name, values in controls.items()}
    text = (
        f"R = {metrics['R'].text(2)}; the previous token alone reaches {r['previous_token']}, the training "
        f"mean {r['training_mean']}, the mean per position {r['position_mean']}, the token id "
        f"{r['token_mean']}, the same architecture with random weights {r[RANDOM]}. Centred R2 = "
        f"{metrics['R2'].text(2)}, with the position {controls['with_position']['R2'].text(2)}, with random "
        f"weights {controls[RANDOM]['R2'].text(2)} (95 % intervals over {metrics['R'].n} {over})."
    )
    if "linearity" in metrics:
        score = {name: values["linearity"].text(3) for name, values in controls.items()}
        text += (
            f" Linearity of the stream (arXiv:2405.12250, on held-out text) is "
            f"{metrics['linearity'].text(3)}, with random weights {score[RANDOM]}; leaving the update a "
            f"constant reaches {score['training_mean']}."
        )
    if paper is not None:
        text += (
            f" The paper gives R = {paper.R:.2f} for this model: the difference is "
            f"{paper.gap.text(2, sign=True)}."
        )
    return text
