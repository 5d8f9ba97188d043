"""From sums to tables for redundancy over training: scores by checkpoint, paired differences, trends, and
what drives them.

drivers   shares of the uncentred energy of attn_out, adding up to 1, each step what the next predictor adds:
          training mean | token id | hidden state (the probe) | hidden state of the token before | rest
trend     slope per tenfold of steps (step 0 left out) with its interval, and Page's test over documents (Page
          1963, J. American Statistical Association 58, 216-230): is the order of the checkpoints the order of
          the scores?
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from scipy.stats import page_trend_test
from torch import Tensor

from labbook.console import console
from labbook.estimate import Array, Estimate, Studentised
from labbook.run import Run, read_finished
from redundancy.aggregate import CONTROL_NAMES, Metrics, Sampled, all_metrics, mean_over_layers
from redundancy.evaluation import FIELDS
from redundancy.passes import Task
from redundancy.regression.controls import RANDOM
from redundancy.regression.scores import LayerScores
from redundancy.training.attention import PATTERNS

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
    """What one checkpoint left: sums per document of scores, losses (document, FIELDS) and attention
    patterns.
    """

    name: str
    step: int
    weight_hash: str
    scores: dict[int, LayerScores]
    losses: Tensor
    patterns: Tensor


@dataclass(frozen=True)
class Course:
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
    summary : headline and verdict.
    folder : where all of it is stored.
    """

    summary: dict[str, Any]
    layers: pd.DataFrame
    overall: pd.DataFrame
    drivers: pd.DataFrame
    attention: pd.DataFrame
    losses: pd.DataFrame
    trend: pd.DataFrame
    folder: Path = Path()

    def write(self, run: Run) -> None:
        """Write all tables into the run folder, `summary.json` last."""
        run.finish({name: getattr(self, name) for name in FRAMES}, self.summary)

    @staticmethod
    def read(folder: Path) -> "Course":
        """Read a finished run. Raises UserError when `folder` is not one."""
        summary, frames = read_finished(folder, FRAMES, "training")
        return Course(summary=summary, folder=folder, **frames)


def tabulate_course(
    task: Task,
    measured: Sequence[Measured],
    twins: Sequence[dict[int, LayerScores]],
    bootstrap: Studentised,
    facts: dict[str, Any],
) -> Course:
    """All tables, from the sums of every checkpoint and of the random twins."""
    weights, units = bootstrap.weights, np.eye(bootstrap.units)
    names = [task.feature, *(n for n in CONTROL_NAMES if n != RANDOM), "both_tokens", RANDOM]

    def row(values: Array | Sampled, one: Measured | None = None, **keys: Any) -> dict[str, Any]:
        place = {} if one is None else {"checkpoint": one.name, "step": one.step}
        sampled = values if isinstance(values, Sampled) else Sampled(values)
        return {**place, **keys, **vars(sampled.estimate(bootstrap))}

    layers = list[dict[str, Any]]()
    course: dict[str, list[Metrics]] = {}
    documents: dict[str, list[Metrics]] = {}
    for name in names:
        for one in measured:
            by_layer, by_document = list[Metrics](), list[Metrics]()
            key, models = (task.feature, twins) if name == RANDOM else (name, [one.scores])
            for layer in one.scores:
                scores = [model[layer] for model in models]
                by_layer.append(all_metrics(scores, key, weights)[0])
                by_document.append(all_metrics(scores, key, units)[0])
                layers += [row(v, one, layer=layer, feature=name, metric=m) for m, v in by_layer[-1].items()]
            course.setdefault(name, []).append(mean_over_layers(by_layer))
            documents.setdefault(name, []).append(mean_over_layers(by_document))
    overall, trend = list[dict[str, Any]](), list[dict[str, Any]]()
    steps = np.array([one.step for one in measured])
    for name in names:
        for metric in course[name][0]:
            values = [c[metric] for c in course[name]]
            for place, one in enumerate(measured):
                overall.append(row(values[place], one, feature=name, metric=metric, against=""))
                for against, other in (("first", 0), ("last", -1)):
                    difference = values[place] - values[other]
                    overall.append(row(difference, one, feature=name, metric=metric, against=against))
            if name != RANDOM and metric in TRENDS and (steps > 0).sum() > 2:
                per_document = np.stack([d[metric].values for d in documents[name]], axis=1)
                by_step = np.stack([v.values for v in values])
                trend.append(_trend(row, steps, by_step, per_document, name, metric))
    drivers = _drivers(row, measured, weights)
    attention = _attention(row, measured, task, weights)
    losses, loss_values = [], []
    for one in measured:
        total = np.tensordot(weights, one.losses.numpy(), axes=1)
        loss_values.append(total[:, FIELDS.index("loss")] / total[:, FIELDS.index("tokens")])
        losses.append(_with_bits(row(loss_values[-1], one), facts["bytes_per_token"]))
    summary = _summarise(measured, course, losses, trend, drivers, task, bootstrap, facts)
    return Course(
        summary=summary,
        layers=pd.DataFrame(layers),
        overall=pd.DataFrame(overall),
        drivers=pd.DataFrame(drivers),
        attention=pd.DataFrame(attention),
        losses=pd.DataFrame(losses),
        trend=pd.DataFrame(trend, columns=list(TREND_COLUMNS)),
    )


def _with_bits(row: dict[str, Any], bytes_per_token: float) -> dict[str, Any]:
    """A loss in nats per token with the same loss in bits per byte beside it."""
    return row | {
        name: row[column] / np.log(2) / bytes_per_token
        for name, column in zip(BITS, ("estimate", "lower", "upper"), strict=True)
    }


def _trend(
    row: Any, steps: Array, values: Array, per_document: Array, name: str, metric: str
) -> dict[str, Any]:
    """Slope per tenfold of steps over the checkpoints after step 0, and Page's test on the same ones."""
    later = steps > 0
    x = np.log10(steps[later])
    x = x - x.mean()
    slope = (x @ values[later]) / (x @ x)
    rising = page_trend_test(per_document[:, later]).pvalue
    falling = page_trend_test(per_document[:, later][:, ::-1]).pvalue
    found: dict[str, Any] = row(slope, feature=name, metric=metric)
    return found | {"checkpoints": int(later.sum()), "p_rising": float(rising), "p_falling": float(falling)}


def _drivers(row: Any, measured: Sequence[Measured], weights: Array) -> list[dict[str, Any]]:
    """What each predictor of CHAIN adds to the explained share of the energy, by layer and as the mean over
    layers.
    """
    rows = []
    for one in measured:
        every = []
        for layer, scores in one.scores.items():
            reached = [scores.metrics(name, weights)[0]["R2_uncentred"] for name in CHAIN]
            shares = [reached[0], *(b - a for a, b in itertools.pairwise(reached)), 1 - reached[-1]]
            every.append(shares)
            rows += [row(s, one, layer=layer, driver=d) for d, s in zip(DRIVERS, shares, strict=True)]
        means = np.mean(every, axis=0)
        rows += [row(s, one, layer="mean", driver=d) for d, s in zip(DRIVERS, means, strict=True)]
    return rows


def _attention(row: Any, measured: Sequence[Measured], task: Task, weights: Array) -> list[dict[str, Any]]:
    """Patterns of attention by layer and as the mean over layers; entropy also as a share of that of an even
    spread.
    """
    rows = []
    for one in measured:
        total = np.tensordot(weights, one.patterns.numpy(), axes=1)
        values = {name: total[..., 1 + i] / total[..., 0] for i, name in enumerate(PATTERNS)}
        values["entropy_share"] = values["entropy"] / values["entropy_of_uniform"]
        for name, by_layer in values.items():
            rows += [
                row(by_layer[:, i], one, layer=layer, metric=name) for i, layer in enumerate(task.layers)
            ]
            rows.append(row(by_layer.mean(1), one, layer="mean", metric=name))
    return rows


def _summarise(
    measured: Sequence[Measured],
    course: dict[str, list[Metrics]],
    losses: list[dict[str, Any]],
    trend: list[dict[str, Any]],
    drivers: list[dict[str, Any]],
    task: Task,
    bootstrap: Studentised,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The machine-readable headline."""

    def number(values: Sampled) -> dict[str, Any]:
        return vars(values.estimate(bootstrap))

    feature = task.feature
    changes = {m: number(course[feature][-1][m] - course[feature][0][m]) for m in ("R", "R2")}
    summary: dict[str, Any] = {
        "model": facts["model"],
        "feature": feature,
        "tokens": facts["tokens"],
        "documents": {split: len(names) for split, names in facts["documents"].items()},
        "unit": facts["unit"],
        "checkpoints": [
            {"name": one.name, "step": one.step, "weight_hash": one.weight_hash} for one in measured
        ],
        "course": [
            {
                "step": one.step,
                "loss": {k: losses[i][k] for k in ("estimate", "lower", "upper", "n")},
                "bits_per_byte": losses[i][BITS[0]],
                **{name: {m: number(course[name][i][m]) for m in ("R", "R2")} for name in course},
            }
            for i, one in enumerate(measured)
        ],
        "change": changes,
        "trend": [t for t in trend if t["feature"] == feature],
        "paper": {
            "source": "arXiv:2602.12204, table 7 (GPT-2 124M)",
            "rows": [dict(zip(("step", "R", "loss"), r, strict=True)) for r in PAPER_COURSE],
        },
    }
    r = [c["R"] for c in course[feature]]
    lowest = int(np.argmin([sampled.values[0] for sampled in r]))
    rise = Estimate(**changes["R"])
    square = Estimate(**changes["R2"])
    after = (r[-1] - r[lowest]).estimate(bootstrap)
    summary["lowest_R"] = {"step": measured[lowest].step, **number(r[lowest])}
    summary["verdict"] = (
        f"From step {measured[0].step:,} to {measured[-1].step:,} R changes by {rise.estimate:+.2f} "
        f"[{rise.lower:+.2f}, {rise.upper:+.2f}] and centred R2 by {square.estimate:+.2f} "
        f"[{square.lower:+.2f}, {square.upper:+.2f}]; R is lowest at step {measured[lowest].step:,} and "
        f"{after.estimate:+.2f} [{after.lower:+.2f}, {after.upper:+.2f}] higher at the end (95 % intervals "
        f"over {bootstrap.units} held-out {facts['unit']}s, paired)."
    )
    return summary


def print_course(course: Course) -> None:
    """The course over training on the terminal, the paper's beside it, and the verdict."""
    summary = course.summary

    def cell(number: dict[str, Any], digits: int = 3) -> str:
        return f"{number['estimate']:.{digits}f} [{number['lower']:.{digits}f}, {number['upper']:.{digits}f}]"

    columns = [
        summary["feature"],
        "training_mean",
        "position_mean",
        "token_mean",
        "previous_token",
        "shuffled",
        RANDOM,
    ]
    for metric in ("R", "R2"):
        table = Table(
            box=box.SIMPLE, title=f"{metric}, mean over layers, by training step", title_justify="left"
        )
        for column in ("step", "loss", *columns):
            table.add_column(CONTROL_NAMES.get(column, column), justify="right")
        for place in summary["course"]:
            cells = [
                cell(place[columns[0]][metric]),
                *(f"{place[c][metric]['estimate']:.3f}" for c in columns[1:]),
            ]
            table.add_row(f"{place['step']:,}", cell(place["loss"]), *cells)
        console.print(table)
    table = Table(
        box=box.SIMPLE, title="what explains the energy of attn_out, mean over layers", title_justify="left"
    )
    for column in ("step", *DRIVERS, "entropy / even", "on position 0", "on self"):
        table.add_column(column, justify="right")
    means = course.drivers[course.drivers["layer"] == "mean"].pivot(
        index="step", columns="driver", values="estimate"
    )
    spread = course.attention[course.attention["layer"] == "mean"].pivot(
        index="step", columns="metric", values="estimate"
    )
    shown = means.join(spread)[[*DRIVERS, "entropy_share", "on_position_0", "on_self"]]
    for step, values in shown.iterrows():
        table.add_row(f"{step:,}", *(f"{v:.3f}" for v in values))
    console.print(table)
    for t in summary["trend"]:
        console.print(
            f"[dim]trend of {t['metric']}[/dim] {t['estimate']:+.3f} \\[{t['lower']:+.3f}, "
            f"{t['upper']:+.3f}] per tenfold of steps after step 0; Page's test: rising p = "
            f"{t['p_rising']:.2g}, falling p = {t['p_falling']:.2g} (n = {t['n']} documents, "
            f"{t['checkpoints']} checkpoints)"
        )
    paper = ", ".join(f"{r['step']:,}: R {r['R']} (loss {r['loss']})" for r in summary["paper"]["rows"])
    console.print(f"[dim]the preprint, {summary['paper']['source']}:[/dim] {paper}")
    console.print(summary["verdict"])
