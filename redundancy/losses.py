"""From sums to tables for the removal experiments: loss increases, the removal curve, what can be removed at a given loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from torch import Tensor

from labbook.console import console
from labbook.estimate import Array, Bootstrap, Estimate
from labbook.run import Run, read_finished
from redundancy.measure import Task
from redundancy.need import Needs
from redundancy.scores import METRICS, LayerScores
from redundancy.substitution import FIELDS, Variant

KEYS = ("part", "layer", "head", "replacement")
NUMBER = ("estimate", "lower", "upper", "n")
FRAMES = {
    "predictors": ("layer", "predictor", "metric", *NUMBER),
    "substitution": (*KEYS, "metric", *NUMBER),
    "curve": ("order", "target_share", "metric", *NUMBER),
    "removable": ("order", "budget", *NUMBER),
}
# nats per token by which the loss may rise
BUDGETS = (0.01, 0.05, 0.1)
ORDERS = {
    "known_relative": "R, known after the fact",
    "known_displacement": "displacement, known after the fact",
    "predicted_relative": "R, predicted from the hidden state",
    "predicted_displacement": "displacement, predicted from the hidden state",
    "random": "random",
    "heads_relative": "whole heads by R",
    "heads_displacement": "whole heads by displacement",
    "layers_cosine": "whole layers by cosine, probe in their place",
    "layers_dropped": "whole layers by cosine, dropped",
}


@dataclass(frozen=True)
class Losses:
    """The results of a removal run.

    Attributes
    ----------
    predictors : layer, predictor, metric, estimate, lower, upper, n: how well each map predicts, on held-out documents.
    substitution : part, layer, head, replacement, metric, estimate, lower, upper, n.
    curve : order, target_share, metric, estimate, lower, upper, n; metric `share` is the share really replaced.
    removable : order, budget (nats per token), estimate, lower, upper, n: share removable within the budget.
    cost : what a run costs with attention really left out, see `skipping`; empty if not measured.
    summary : the headline numbers and the verdict.
    folder : where all of it is stored.
    """

    summary: dict[str, Any]
    predictors: pd.DataFrame
    substitution: pd.DataFrame
    curve: pd.DataFrame
    removable: pd.DataFrame
    cost: pd.DataFrame
    folder: Path = Path()

    def write(self, run: Run) -> None:
        """Write all tables into the run folder, `summary.json` last."""
        run.finish({name: getattr(self, name) for name in (*FRAMES, "cost")}, self.summary)

    @staticmethod
    def read(folder: Path) -> "Losses":
        """Read a finished run. Raises UserError when `folder` is not one."""
        summary, frames = read_finished(folder, (*FRAMES, "cost"), "removal")
        return Losses(summary=summary, folder=folder, **frames)


def removable(shares: Array, increases: Array, budget: float) -> Array:
    """The share at which the loss first rises by more than `budget`, by linear interpolation from (0, 0): (replicate,).

    Parameters
    ----------
    shares, increases : (replicate, point), points in the order of growing target share. Where no point exceeds the budget, the
        largest measured share is returned.
    """
    start = np.zeros((len(shares), 1))
    x, y = np.hstack([start, shares]), np.hstack([start, increases])
    over = y > budget
    first = np.where(over.any(1), over.argmax(1), y.shape[1] - 1)
    rows = np.arange(len(x))
    x0, x1, y0, y1 = x[rows, first - 1], x[rows, first], y[rows, first - 1], y[rows, first]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = x0 + (x1 - x0) * (budget - y0) / (y1 - y0)
    return np.where(over.any(1), crossing, x1)


def measures(intact: Tensor, changed: Tensor, weights: Array) -> dict[str, Array]:
    """Loss increase (nats per token), KL, top-1 agreement, and share of operations replaced: each (variant, replicate)."""
    base = np.tensordot(weights, intact.numpy(), axes=1)
    total = np.einsum("rd,vdf->vrf", weights, changed.numpy())
    tokens, loss, kl, agreement, skipped, operations = (total[..., i] for i in range(len(FIELDS)))
    return {
        "loss_increase": loss / tokens - base[:, FIELDS.index("loss")] / base[:, 0],
        "kl": kl / tokens,
        "top1_agreement": agreement / tokens,
        "share": skipped / operations,
    }


def tabulate_losses(
    variants: Sequence[Variant],
    intact: Tensor,
    changed: Tensor,
    scores: dict[int, LayerScores],
    needs: Needs,
    cost: pd.DataFrame,
    bootstrap: Bootstrap,
    facts: dict[str, Any],
    task: Task,
) -> Losses:
    """All tables of a run, from the sums of the intact model and of every variant."""
    weights, n = bootstrap.weights, bootstrap.units
    found = measures(intact, changed, weights)

    def row(values: Array, **keys: Any) -> dict[str, Any]:
        return {**keys, **vars(bootstrap.estimate(values))}

    index = {tuple(v.keys.get(k) for k in KEYS): i for i, v in enumerate(variants) if v.keys["part"] != "curve"}
    substitution, curve, shares = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for key, i in index.items():
        keys = dict(zip(KEYS, key, strict=True))
        for metric in ("loss_increase", "kl", "top1_agreement"):
            substitution.append(row(found[metric][i], **keys, metric=metric))
        worst = found["loss_increase"][index[(*key[:3], "training_mean")]]
        # where removing attention costs nothing that can be told from zero, there is nothing to recover
        if bootstrap.estimate(worst).lower > 0 and keys["replacement"] != "training_mean":
            recovered = (worst - found["loss_increase"][i]) / worst
            substitution.append(row(recovered, **keys, metric="loss_recovered"))
    points: dict[str, list[int]] = {}
    for i, v in enumerate(variants):
        if v.keys["part"] == "curve":
            points.setdefault(v.keys["order"], []).append(i)
            for metric, values in found.items():
                keys = {"order": v.keys["order"], "target_share": v.keys["target_share"], "metric": metric}
                curve.append(row(values[i], **keys))
    for order, places in points.items():
        for budget in BUDGETS:
            share = removable(found["share"][places].T, found["loss_increase"][places].T, budget)
            shares.append(row(share, order=order, budget=budget))

    predictors, means = list[dict[str, Any]](), dict[str, dict[str, list[Array]]]()
    operations: list[Array] = []
    for layer, layer_scores in scores.items():
        for name in (key.removeprefix("layer/") for key in layer_scores.sums if key.startswith("layer/")):
            scored, heads = layer_scores.metrics(name, weights)
            for metric in METRICS:
                predictors.append(row(scored[metric], layer=layer, predictor=name, metric=metric))
                means.setdefault(name, {}).setdefault(metric, []).append(scored[metric])
            if name == task.feature:
                operations.append(heads["R"])
    loss = np.tensordot(weights, intact.numpy(), axes=1)
    summary: dict[str, Any] = {
        "model": facts["model"],
        "tokens": facts["tokens"],
        "documents": {split: len(names) for split, names in facts["documents"].items()},
        "unit": facts["unit"],
        "layers": list(task.layers),
        "position_0": "substituted" if task.start_position == 0 else "left intact and not counted",
        "loss_intact": row(loss[:, FIELDS.index("loss")] / loss[:, 0]),
        "predictors": {m: {k: row(np.mean(v, axis=0)) for k, v in values.items()} for m, values in means.items()},
        "R_of_operations": row(np.concatenate(operations, 1).mean(1)),
        "all_layers": {
            r["replacement"]: {c: r[c] for c in NUMBER}
            for r in substitution
            if r["part"] == "all" and r["metric"] == "loss_increase"
        },
        "all_layers_recovered": {
            r["replacement"]: {c: r[c] for c in NUMBER}
            for r in substitution
            if r["part"] == "all" and r["metric"] == "loss_recovered"
        },
        "removable": {
            order: {f"{r['budget']:g}": {c: r[c] for c in NUMBER} for r in shares if r["order"] == order}
            for order in points
        },
        "variance_of_log_need_predicted": needs.fit,
        "cosine": {str(k): v for k, v in needs.cosine.items()},
    }
    summary["verdict"] = _verdict(summary, n)
    rows = {"predictors": predictors, "substitution": substitution, "curve": curve, "removable": shares}
    frames = {name: pd.DataFrame(rows[name], columns=list(columns)) for name, columns in FRAMES.items()}
    return Losses(
        summary=summary,
        predictors=frames["predictors"],
        substitution=frames["substitution"],
        curve=frames["curve"],
        removable=frames["removable"],
        cost=cost,
    )


def _verdict(summary: dict[str, Any], n: int) -> str:
    """One sentence: what the score says, and what can be removed."""

    def show(number: dict[str, Any]) -> str:
        e = Estimate(**number)
        return f"{e.estimate:.2f} [{e.lower:.2f}, {e.upper:.2f}]"

    feature = "resid_pre"
    text = f"The probe reaches R = {show(summary['predictors'][feature]['R'])}."
    if summary["all_layers"]:
        lost = summary["all_layers"]
        text += (
            f" In place of attention in every layer it costs {show(lost['probe'])} nats per token; the training mean costs {show(lost['training_mean'])}, "
            f"nothing at all {show(lost['zero'])}."
        )
    if summary["removable"]:
        at = {name: summary["removable"][name][f"{BUDGETS[1]:g}"] for name in ORDERS if name in summary["removable"]}
        best = max((k for k in at if k.startswith("predicted")), key=lambda k: at[k]["estimate"])
        known = max((k for k in at if k.startswith("known")), key=lambda k: at[k]["estimate"])
        text += (
            f" At +{BUDGETS[1]} nats a router that sees the hidden state alone can replace {show(at[best])} of the attention operations ({ORDERS[best]}), "
            f"one that knows the outcome {show(at[known])} ({ORDERS[known]}), chance {show(at['random'])}."
        )
    return text + f" 95 % intervals over {n} held-out {summary['unit']}s."


def print_losses(losses: Losses) -> None:
    """The tables on the terminal, and the verdict."""

    def cell(row: pd.Series) -> str:
        return f"{row['estimate']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}]"

    summary = losses.summary
    title = f"{summary['model']}: every layer replaced, {summary['loss_intact']['estimate']:.3f} nats per token intact, position 0 {summary['position_0']}"
    every = losses.substitution[losses.substitution["part"] == "all"]
    if len(every):
        _print(title, "replacement", every, every["replacement"].unique(), "replacement", cell)
    alone = losses.substitution[
        (losses.substitution["part"] == "layers") & (losses.substitution["metric"] == "loss_increase")
    ]
    if len(alone):
        table = Table(box=box.SIMPLE, title="loss increase, one layer replaced, nats per token", title_justify="left")
        names = list(alone["replacement"].unique())
        for column in ("layer", *names):
            table.add_column(column, justify="right")
        for layer, rows in alone.groupby("layer"):
            by_name = rows.set_index("replacement")
            table.add_row(f"{layer:.0f}", *(cell(by_name.loc[name]) for name in names))
        console.print(table)
    if len(losses.removable):
        table = Table(box=box.SIMPLE, title="share of attention operations removable", title_justify="left")
        for column in ("order", *(f"at +{b} nats" for b in BUDGETS)):
            table.add_column(column, justify="left" if column == "order" else "right")
        for order, rows in losses.removable.groupby("order", sort=False):
            table.add_row(ORDERS[str(order)], *(cell(r) for _, r in rows.iterrows()))
        console.print(table)
    if len(losses.cost):
        table = Table(box=box.SIMPLE, title="cost against the intact model", title_justify="left")
        for column in losses.cost.columns:
            table.add_column(column, justify="right")
        for _, r in losses.cost.iterrows():
            table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in r))
        console.print(table)
    console.print(summary["verdict"])


def _print(title: str, head: str, rows: pd.DataFrame, names: Any, column: str, cell: Any) -> None:
    """One line per name, one column per metric."""
    metrics = list(rows["metric"].unique())
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for name in (head, *metrics):
        table.add_column(name, justify="left" if name == head else "right")
    for name in names:
        found = rows[rows[column] == name].set_index("metric")
        table.add_row(str(name), *(cell(found.loc[m]) if m in found.index else "" for m in metrics))
    console.print(table)
