"""From sums to tables for redundancy over training: scores by checkpoint, paired differences, trends, and
what drives them.

drivers   shares of the uncentred energy of attn_out, adding up to 1, each step what the next predictor adds:
          training mean | token id | hidden state (the probe) | hidden state of the token before | rest
trend     slope per tenfold of steps (step 0 left out) with its interval, and Page's test over documents (Page
          1963, J. American Statistical Association 58, 216-230): is the order of the checkpoints the order of
          the scores?
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import page_trend_test
from torch import Tensor

from labbook.console import console
from labbook.escape import markup
from labbook.estimate import Array, Estimate, Studentised
from labbook.report import TableResult
from labbook.run import read_finished, typed
from labbook.view import print_table, print_verdict
from redundancy.aggregate import (
    CONTROL_NAMES,
    NUMBER,
    UPDATES,
    Metrics,
    Sampled,
    TableRow,
    all_metrics,
    mean_over_layers,
    spread,
    table_row,
)
from redundancy.evaluation import TALLIES
from redundancy.facts import Facts, bits_per_byte
from redundancy.passes import Task
from redundancy.regression.controls import RANDOM
from redundancy.regression.scores import LayerScores
from redundancy.request import Target
from redundancy.training.attention import PATTERNS
from redundancy.training.summary import CourseSummary, Lowest, PaperCourse, Place, Trend, Weights

# Table 7 of arXiv:2602.12204, GPT-2 124M from scratch: step, R, validation loss
PAPER_COURSE = ((10_000, 0.52, 4.21), (50_000, 0.67, 3.54), (100_000, 0.71, 3.31), (300_000, 0.72, 3.18))
FRAMES = ("layers", "overall", "drivers", "attention", "losses", "trend")
CHAIN = ("training_mean", "token_mean", "resid_pre", "both_tokens")
DRIVERS = ("training mean", "token id", "hidden state", "token before", "rest")
TREND_COLUMNS = (
    "feature",
    "metric",
    "estimate",
    "lower",
    "upper",
    "n",
    "checkpoints",
    "p_rising",
    "p_falling",
)
BITS = ("bits_per_byte", "bits_per_byte_lower", "bits_per_byte_upper")
TRENDS = ("R", "R2", "R2_uncentred", "cosine")


@dataclass(frozen=True)
class Measured:
    """What one checkpoint left: sums per document of scores, losses (document, TALLIES) and attention
    patterns.
    """

    name: str
    step: int
    weight_hash: str
    scores: dict[int, LayerScores]
    losses: Tensor
    patterns: Tensor

    @property
    def place(self) -> TableRow:
        """The columns that say in a table where in training this is."""
        return {"checkpoint": self.name, "step": self.step}


@dataclass(frozen=True)
class Course(TableResult):
    """The results of a training run. Every table has checkpoint, step, estimate, lower, upper, n.

    Attributes
    ----------
    layers : layer, feature, metric: as in a probe run; `feature` is the probe's or a control's name.
    overall : feature, metric, against: means over layers (`against` empty), and their differences to the
        first and the last checkpoint.
    drivers : layer (or mean), driver: shares of the energy, see the module's text.
    attention : layer (or mean), metric: patterns of attention.
    losses : nats per token on the same documents, and BITS, the same in bits per byte, which does not depend
        on the tokenizer.
    trend : feature, metric, slope per tenfold of steps with interval, and Page's one-sided p for rising and
        for falling.
    headline : the course in numbers and the verdict; `summary` is the same as a dict, as `summary.json` holds
        it.
    folder : where all of it is stored.
    """

    FILES: ClassVar = FRAMES

    headline: CourseSummary
    layers: pd.DataFrame
    overall: pd.DataFrame
    drivers: pd.DataFrame
    attention: pd.DataFrame
    losses: pd.DataFrame
    trend: pd.DataFrame
    folder: Path = Path()

    @staticmethod
    def read(folder: Path) -> "Course":
        """Read a finished run. Raises UserError when `folder` is not one."""
        summary, frames = read_finished(folder, FRAMES, "training")
        return Course(headline=typed(CourseSummary.read, summary, folder), folder=folder, **frames)

    def _figures(self) -> Mapping[str, Callable[[Any], Figure]]:
        from redundancy.training.figures import COURSE_FIGURES  # plotting libraries are slow to import

        return COURSE_FIGURES

    def _shown(self) -> tuple[str, pd.DataFrame]:
        means = self.overall[self.overall["against"].isna() | (self.overall["against"] == "")]
        chosen = means[(means["feature"] == self.headline.feature) & means["metric"].isin(["R", "R2"])]
        numbers = [Estimate(*row).text() for row in chosen[list(NUMBER)].itertuples(index=False)]
        shown = chosen.assign(number=numbers).pivot(index="step", columns="metric", values="number")
        return self.headline.verdict, shown


@dataclass(frozen=True)
class _MeanScores:
    """Scores of one predictor at one checkpoint, means over layers: under the weights of the bootstrap, and
    of every document alone.
    """

    resampled: Metrics
    by_document: Metrics


def tabulate_course(
    task: Task,
    measured: Sequence[Measured],
    twins: Sequence[dict[int, LayerScores]],
    bootstrap: Studentised,
    facts: Facts,
    target: Target,
) -> Course:
    """All tables, from the sums of every checkpoint and of the random twins."""
    names = [task.feature, *(n for n in CONTROL_NAMES if n != RANDOM), "both_tokens", RANDOM]
    scores: dict[str, list[_MeanScores]] = {}
    layers = list[TableRow]()
    for name in names:
        for checkpoint in measured:
            key, models = (task.feature, twins) if name == RANDOM else (name, [checkpoint.scores])
            by_layer = {
                layer: all_metrics([model[layer] for model in models], key, bootstrap.weights)[0]
                for layer in checkpoint.scores
            }
            layers += [
                table_row(v, bootstrap, **checkpoint.place, layer=layer, feature=name, metric=metric)
                for layer, metrics in by_layer.items()
                for metric, v in metrics.items()
            ]
            by_document = [
                all_metrics([model[layer] for model in models], key, np.eye(bootstrap.units))[0]
                for layer in checkpoint.scores
            ]
            means = _MeanScores(mean_over_layers([*by_layer.values()]), mean_over_layers(by_document))
            scores.setdefault(name, []).append(means)
    trends = _trends(scores, measured, bootstrap)
    losses = list[TableRow]()
    for checkpoint in measured:
        total = np.tensordot(bootstrap.weights, checkpoint.losses.numpy(), axes=1)
        loss = total[:, TALLIES.index("loss")] / total[:, TALLIES.index("tokens")]
        losses.append(_with_bits(table_row(loss, bootstrap, **checkpoint.place), facts.bytes_per_token))
    return Course(
        headline=_summarise(task.feature, measured, scores, losses, trends, bootstrap, facts, target),
        layers=pd.DataFrame(layers),
        overall=pd.DataFrame(_overall(scores, measured, bootstrap)),
        drivers=pd.DataFrame(_drivers(measured, task.feature, bootstrap)),
        attention=pd.DataFrame(_attention(measured, task, bootstrap)),
        losses=pd.DataFrame(losses),
        trend=pd.DataFrame([trend.json() for trend in trends], columns=list(TREND_COLUMNS)),
    )


def _overall(
    scores: dict[str, list[_MeanScores]], measured: Sequence[Measured], bootstrap: Studentised
) -> Iterator[TableRow]:
    """Means over layers at every checkpoint, and their differences to the first and the last one."""
    for name, course in scores.items():
        for metric in course[0].resampled:
            values = [means.resampled[metric] for means in course]
            for checkpoint, value in zip(measured, values, strict=True):
                keys = {**checkpoint.place, "feature": name, "metric": metric}
                yield table_row(value, bootstrap, **keys, against="")
                for against, other in (("first", values[0]), ("last", values[-1])):
                    yield table_row(value - other, bootstrap, **keys, against=against)


def _with_bits(row: TableRow, bytes_per_token: float) -> TableRow:
    """A loss in nats per token with the same loss in bits per byte beside it."""
    return row | {
        name: bits_per_byte(row[column], bytes_per_token)
        for name, column in zip(BITS, ("estimate", "lower", "upper"), strict=True)
    }


def _trends(
    scores: dict[str, list[_MeanScores]], measured: Sequence[Measured], bootstrap: Studentised
) -> list[Trend]:
    """The trend of TRENDS for every predictor that has one, where enough checkpoints come after step 0."""
    steps = np.array([checkpoint.step for checkpoint in measured])
    if (steps > 0).sum() <= 2:
        return []
    trends = list[Trend]()
    for name, course in scores.items():
        for metric in course[0].resampled:
            if name == RANDOM or metric not in TRENDS:
                continue
            by_step = np.stack([means.resampled[metric].values for means in course])
            per_document = np.stack([means.by_document[metric].values for means in course], axis=1)
            slope = Sampled(slope_per_tenfold(steps, by_step)).estimate(bootstrap)
            rising, falling = page_test(steps, per_document)
            trends.append(Trend(name, metric, slope, int((steps > 0).sum()), rising, falling))
    return trends


def slope_per_tenfold(steps: Array, values: Array) -> Array:
    """Least-squares slope of values (step, ...) per tenfold of steps, step 0 left out: (...)."""
    later = steps > 0
    x = np.log10(steps[later])
    x = x - x.mean()
    slope: Array = (x @ values[later]) / (x @ x)
    return slope


def page_test(steps: Array, per_document: Array) -> tuple[float, float]:
    """One-sided p of Page's test that values (document, step) rise, and that they fall, step 0 left out."""
    later = per_document[:, steps > 0]
    return float(page_trend_test(later).pvalue), float(page_trend_test(later[:, ::-1]).pvalue)


def _drivers(measured: Sequence[Measured], feature: str, bootstrap: Studentised) -> Iterator[TableRow]:
    """What each predictor of CHAIN adds to the explained share of the energy, by layer and as the mean over
    layers.
    """
    chain = [feature if name == "resid_pre" else name for name in CHAIN]
    for checkpoint in measured:
        by_layer: dict[int | str, Sequence[Array]] = {}
        for layer, scores in checkpoint.scores.items():
            reached = [scores.metrics(name, bootstrap.weights)[0]["R2_uncentred"] for name in chain]
            by_layer[layer] = [reached[0], *(b - a for a, b in itertools.pairwise(reached)), 1 - reached[-1]]
        by_layer["mean"] = np.mean(list(by_layer.values()), axis=0)
        for place, shares in by_layer.items():
            for driver, share in zip(DRIVERS, shares, strict=True):
                yield table_row(share, bootstrap, **checkpoint.place, layer=place, driver=driver)


def _attention(measured: Sequence[Measured], task: Task, bootstrap: Studentised) -> Iterator[TableRow]:
    """Patterns of attention by layer and as the mean over layers; entropy also as a share of that of an even
    spread.
    """
    for checkpoint in measured:
        total = np.tensordot(bootstrap.weights, checkpoint.patterns.numpy(), axes=1)
        values = {name: total[..., 1 + i] / total[..., 0] for i, name in enumerate(PATTERNS)}
        values["entropy_share"] = values["entropy"] / values["entropy_of_uniform"]
        for name, by_layer in values.items():
            for i, layer in enumerate(task.layers):
                yield table_row(by_layer[:, i], bootstrap, **checkpoint.place, layer=layer, metric=name)
            yield table_row(by_layer.mean(1), bootstrap, **checkpoint.place, layer="mean", metric=name)


def _summarise(
    feature: str,
    measured: Sequence[Measured],
    scores: dict[str, list[_MeanScores]],
    losses: Sequence[TableRow],
    trends: Sequence[Trend],
    bootstrap: Studentised,
    facts: Facts,
    target: Target,
) -> CourseSummary:
    """The machine-readable headline."""
    own = [means.resampled for means in scores[feature]]
    change = {m: (own[-1][m] - own[0][m]).estimate(bootstrap) for m in ("R", "R2")}
    lowest = int(np.argmin([metrics["R"].values[0] for metrics in own]))
    after = (own[-1]["R"] - own[lowest]["R"]).estimate(bootstrap)
    return CourseSummary(
        model=facts.model,
        feature=feature,
        tokens=facts.tokens,
        documents=facts.document_counts,
        unit=facts.unit,
        checkpoints=tuple(Weights(c.name, c.step, c.weight_hash) for c in measured),
        course=tuple(
            Place(
                step=checkpoint.step,
                loss=Estimate.read(losses[i]),
                bits_per_byte=losses[i][BITS[0]],
                scores={
                    name: {m: course[i].resampled[m].estimate(bootstrap) for m in ("R", "R2")}
                    for name, course in scores.items()
                },
            )
            for i, checkpoint in enumerate(measured)
        ),
        change=change,
        trend=tuple(trend for trend in trends if trend.feature == feature),
        paper=PaperCourse(
            "arXiv:2602.12204, table 7 (GPT-2 124M)", PAPER_COURSE if target == "attention" else ()
        ),
        lowest_R=Lowest(measured[lowest].step, own[lowest]["R"].estimate(bootstrap)),
        verdict=("" if target == "attention" else f"Of the {UPDATES[target]}: ")
        + f"From step {measured[0].step:,} to {measured[-1].step:,} R changes by "
        f"{change['R'].text(2, sign=True)} and centred R2 by {change['R2'].text(2, sign=True)}; R is lowest "
        f"at step {measured[lowest].step:,} and {after.text(2, sign=True)} higher at the end (95 % intervals "
        f"over {bootstrap.units} held-out {facts.unit}s, paired).",
        target=target,
    )


def print_course(course: Course, *, full: bool = False) -> None:
    """The verdict on the terminal, then the course over training and the paper's beside it; with `full` every
    control, what explains the energy, and every trend.
    """
    summary = course.headline
    print_verdict([summary.verdict])
    if full:
        _print_everything(course)
    else:
        _print_short(summary)
    for trend in summary.trend:
        if not full and trend.metric not in ("R", "R2"):
            continue
        console.print(
            f"[dim]trend of {trend.metric}[/dim] {markup(trend.slope.text(sign=True))} per tenfold of steps "
            f"after step 0; Page's test: rising p = {trend.p_rising:.2g}, falling p = {trend.p_falling:.2g} "
            f"(n = {trend.slope.n} documents, {trend.checkpoints} checkpoints)",
            soft_wrap=False,
        )
    if not summary.paper.rows:
        return
    paper = ", ".join(f"{step:,}: R {r} (loss {loss})" for step, r, loss in summary.paper.rows)
    console.print(f"[dim]the preprint, {summary.paper.source}:[/dim] {paper}", soft_wrap=False)
    if not full:
        console.print("every control, layer and driver: report.html, the CSV files, or --full")


def _print_short(summary: CourseSummary) -> None:
    """The loss, R and centred R2 by checkpoint (of many, some), beside the strongest simple controls."""
    shown = spread(summary.course)
    rows = [
        [
            f"{place.step:,}",
            f"{place.loss.estimate:.3f}",
            *(place.scores[summary.feature][metric].text() for metric in ("R", "R2")),
            f"{place.scores['previous_token']['R'].estimate:.3f}",
        ]
        for place in shown
    ]
    every = len(summary.course)
    some = "" if len(shown) == every else f"{len(shown)} of {every} checkpoints, "
    random = shown[-1].scores[RANDOM]["R"]
    about = f"{some}means over layers, n = {random.n} {summary.unit}s. R with random weights: {random.text()}"
    print_table(about, ["step", "loss", "R, probe", "centred R2, probe", "R, previous token"], rows, left=0)


def _print_everything(course: Course) -> None:
    """R and centred R2 with all controls, the energy and the patterns of attention, at every checkpoint."""
    summary = course.headline
    controls = ["training_mean", "position_mean", "token_mean", "previous_token", "shuffled", RANDOM]
    columns = [summary.feature, *controls]
    for metric in ("R", "R2"):
        heads = ["step", "loss", *(CONTROL_NAMES.get(column, column) for column in columns)]
        rows = [
            [
                f"{place.step:,}",
                place.loss.text(),
                place.scores[columns[0]][metric].text(),
                *(f"{place.scores[c][metric].estimate:.3f}" for c in columns[1:]),
            ]
            for place in summary.course
        ]
        print_table(f"{metric}, mean over layers, by training step", heads, rows, left=0)
    means = course.drivers[course.drivers["layer"] == "mean"].pivot(
        index="step", columns="driver", values="estimate"
    )
    patterns = course.attention[course.attention["layer"] == "mean"].pivot(
        index="step", columns="metric", values="estimate"
    )
    shown = means.join(patterns)[[*DRIVERS, "entropy_share", "on_position_0", "on_self"]]
    print_table(
        f"what explains the energy of the {UPDATES[summary.target]}, mean over layers",
        ["step", *DRIVERS, "entropy / even", "on position 0", "on self"],
        [[f"{step:,}", *(f"{v:.3f}" for v in values)] for step, values in shown.iterrows()],
        left=0,
    )
