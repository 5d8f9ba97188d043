"""From sums to tables for the removal experiments: loss increases, the removal curve, what can be removed at
a given loss.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.table import Table
from torch import Tensor

from labbook.console import console
from labbook.estimate import Array, Estimate, Studentised
from labbook.run import Run, read_finished
from redundancy.aggregate import part_of
from redundancy.evaluation import FIELDS, Variant
from redundancy.passes import Task
from redundancy.regression.scores import METRICS, LayerScores
from redundancy.removal.need import Needs

KEYS = ("part", "layer", "head", "replacement")
NUMBER = ("estimate", "lower", "upper", "n")
FRAMES = {
    "predictors": ("layer", "predictor", "metric", *NUMBER),
    "substitution": (*KEYS, "metric", *NUMBER),
    "curve": ("order", "target_share", "metric", *NUMBER),
    "removable": ("order", "budget", *NUMBER, "within", "beyond", "kind"),
}
# nats per token by which the loss may rise
BUDGETS = (0.01, 0.05, 0.1)
# the removal curve is measured again near a crossing while its neighbours are further apart than this, at
# most ROUNDS times
RESOLUTION, FINEST, ROUNDS = 0.05, 0.01, 3
ORDERS = {
    "known_relative": "relative error, known",
    "known_displacement": "displacement, known",
    "predicted_relative": "relative error, predicted before attention",
    "predicted_displacement": "displacement, predicted before attention",
    "predicted_fisher": "change of the loss, predicted before attention",
    "random": "random",
    "heads_relative": "whole heads by relative error",
    "heads_displacement": "whole heads by displacement",
    "heads_fisher": "whole heads by change of the loss",
    "layers_cosine": "whole layers by cosine, replaced",
    "layers_dropped": "whole layers by cosine, dropped",
}
# orders in which whole heads or layers go: there is nothing between two measured shares
DISCRETE = tuple(order for order in ORDERS if order.startswith(("heads", "layers")))


@dataclass(frozen=True)
class Evaluated:
    """Sums per document (document, FIELDS) of the intact model, and of every variant (variant, document,
    FIELDS).
    """

    variants: Sequence[Variant]
    intact: Tensor
    changed: Tensor

    def joined(self, other: "Evaluated") -> "Evaluated":
        """The variants of both; the intact model is the same."""
        return Evaluated(
            [*self.variants, *other.variants], self.intact, torch.cat([self.changed, other.changed])
        )

    def curves(self) -> dict[str, list[int]]:
        """The variants of every order of the removal curve, by growing target share."""
        found: dict[str, list[int]] = {}
        for place, variant in enumerate(self.variants):
            if variant.keys["part"] == "curve":
                found.setdefault(variant.keys["order"], []).append(place)
        share = [variant.keys.get("target_share", 0.0) for variant in self.variants]
        return {order: sorted(places, key=lambda i: share[i]) for order, places in found.items()}


@dataclass(frozen=True)
class Losses:
    """The results of a removal run.

    Attributes
    ----------
    predictors : layer, predictor, metric, estimate, lower, upper, n: how well each map predicts, on held-out
        documents.
    substitution : part, layer, head, replacement, metric, estimate, lower, upper, n.
    curve : order, target_share, metric, estimate, lower, upper, n; metric `share` is the share really
        replaced.
    removable : order, budget (nats per token), estimate, lower, upper, n: share removable within the budget,
        see `removable`; `within` and `beyond` are the measured shares between which it lies, `kind` says what
        the estimate is.
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


def _first_over(increases: Array, budget: float) -> Array:
    """Index of the first point over the budget, the number of points if none is: (...,) from (..., point)."""
    over = increases > budget
    return np.where(over.any(-1), over.argmax(-1), increases.shape[-1])


def interpolated(shares: Array, increases: Array, budget: float) -> Array:
    """The share at which the loss first rises by more than `budget`, by linear interpolation from (0, 0):
    (replicate,).

    shares, increases : (replicate, point), points in the order of growing target share. Where no point
        exceeds the budget, the largest measured share is returned.
    """
    start = np.zeros((len(shares), 1))
    x, y = np.hstack([start, shares]), np.hstack([start, increases])
    first = _first_over(y, budget)
    none, first = first == y.shape[1], np.minimum(first, y.shape[1] - 1)
    rows = np.arange(len(x))
    x0, x1, y0, y1 = x[rows, first - 1], x[rows, first], y[rows, first - 1], y[rows, first]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = x0 + (x1 - x0) * (budget - y0) / (y1 - y0)
    return np.where(none, x1, crossing)


def removable(
    shares: Array, increases: Array, budget: float, discrete: bool, bootstrap: Studentised
) -> dict[str, Any]:
    """How much can be removed while the loss rises by at most `budget`: one row of `Losses.removable` without
    its keys.

    Parameters
    ----------
    shares, increases : (1 + documents, point) under the weights of `bootstrap`, points in the order of
        growing target share.

    Returns
    -------
    `kind` says what the estimate is:

    measured       discrete orders: the largest share up to which every measured point stays within the
                   budget, 0 if the first does not; the interval is that of percentiles, because the number
                   jumps
    interpolated   between the measured shares `within` and `beyond`
    at least       no measured point exceeds the budget; the largest share stands for the estimate
    less than      even the smallest measured share, `beyond`, exceeds the budget; the estimate is not known
                   (NaN), only its limits
    """
    own = shares[0]
    first = int(_first_over(increases[0], budget))
    within = 0.0 if first == 0 else float(own[first - 1])
    beyond = float(own[first]) if first < len(own) else math.nan
    sides = {"n": bootstrap.units, "within": within, "beyond": beyond}
    if discrete:
        steps = np.append(0.0, own)
        replicates = steps[_first_over(bootstrap.replicates(increases), budget)]
        estimate, lower, upper = (float(v) for v in bootstrap.percentiles(replicates))
        kind = "measured" if first < len(own) else "at least"
    elif first == 0:
        estimate, lower, upper, kind = math.nan, 0.0, beyond, "less than"
    else:
        estimate, lower, upper = (
            float(v) for v in bootstrap.intervals(interpolated(shares, increases, budget))
        )
        lower, upper = max(lower, 0.0), min(upper, 1.0)
        kind = "interpolated" if first < len(own) else "at least"
    return {"estimate": estimate, "lower": lower, "upper": upper, **sides, "kind": kind}


def crossings(evaluated: Evaluated) -> dict[str, list[float]]:
    """Shares at which continuous orders should be measured next, so that little is left to interpolation.

    A crossing is asked for where the measured shares on its two sides are further apart than RESOLUTION, or
    where none lies within the budget yet. Empty once there is nothing to ask.
    """
    found = measures(evaluated.intact, evaluated.changed, np.ones((1, len(evaluated.intact))))
    wanted: dict[str, list[float]] = {}
    for order, places in evaluated.curves().items():
        if order in DISCRETE:
            continue
        targets = np.array([0.0] + [evaluated.variants[i].keys["target_share"] for i in places])
        increases = np.append(0.0, found["loss_increase"][places, 0])
        for budget in BUDGETS:
            first = int(_first_over(increases, budget))
            if first == len(targets):
                continue
            low, high = targets[first - 1], targets[first]
            if high - low <= (FINEST if first == 1 else RESOLUTION):
                continue
            # where nothing is known to lie within the budget the curve may rise steeply at first: at most
            # half way
            crossing = float(interpolated(targets[None, 1:], increases[None, 1:], budget)[0])
            share = min(crossing, (low + high) / 2) if first == 1 else crossing
            # rounded, so that a resumed run asks for the same shares; not on top of a measured one
            share = round(min(max(share, low + 0.1 * (high - low)), high - 0.1 * (high - low)), 4)
            if share not in wanted.setdefault(order, []):
                wanted[order].append(share)
    return {order: shares for order, shares in wanted.items() if shares}


def measures(intact: Tensor, changed: Tensor, weights: Array) -> dict[str, Array]:
    """Loss increase (nats per token), KL, top-1 agreement, and share of operations replaced: each (variant,
    replicate).
    """
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
    evaluated: Evaluated,
    scores: dict[int, LayerScores],
    needs: Needs,
    cost: pd.DataFrame,
    bootstrap: Studentised,
    facts: dict[str, Any],
    task: Task,
) -> Losses:
    """All tables of a run, from the sums of the intact model and of every variant."""
    weights, n = bootstrap.weights, bootstrap.units
    variants, intact = evaluated.variants, evaluated.intact
    found = measures(intact, evaluated.changed, weights)
    found["bits_per_byte_increase"] = found["loss_increase"] / math.log(2) / facts["bytes_per_token"]

    def row(values: Array, **keys: Any) -> dict[str, Any]:
        return {**keys, **vars(bootstrap.estimate(values))}

    index = {
        tuple(v.keys.get(k) for k in KEYS): i for i, v in enumerate(variants) if v.keys["part"] != "curve"
    }
    substitution, curve, shares = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for key, i in index.items():
        keys = dict(zip(KEYS, key, strict=True))
        for metric in ("loss_increase", "bits_per_byte_increase", "kl", "top1_agreement"):
            substitution.append(row(found[metric][i], **keys, metric=metric))
        worst = found["loss_increase"][index[(*key[:3], "training_mean")]]
        # where removing attention costs nothing that can be told from zero, there is nothing to recover
        if bootstrap.estimate(worst).lower > 0 and keys["replacement"] != "training_mean":
            recovered = (worst - found["loss_increase"][i]) / worst
            substitution.append(row(recovered, **keys, metric="loss_recovered"))
    points = evaluated.curves()
    for order, places in points.items():
        for i in places:
            for metric, values in found.items():
                keys = {"order": order, "target_share": variants[i].keys["target_share"], "metric": metric}
                curve.append(row(values[i], **keys))
        for budget in BUDGETS:
            share, increase = (found[name][places].T for name in ("share", "loss_increase"))
            shares.append(
                {"order": order, "budget": budget}
                | removable(share, increase, budget, order in DISCRETE, bootstrap)
            )

    predictors, means = list[dict[str, Any]](), dict[str, dict[str, list[Array]]]()
    operations: list[Array] = []
    for layer, layer_scores in scores.items():
        for name in layer_scores.names:
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
        "depth": facts["depth"],
        "position_0": "substituted" if task.start_position == 0 else "left intact and not counted",
        "loss_intact": row(loss[:, FIELDS.index("loss")] / loss[:, 0]),
        "predictors": {
            m: {k: row(np.mean(v, axis=0)) for k, v in values.items()} for m, values in means.items()
        },
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
            order: {
                f"{r['budget']:g}": {c: r[c] for c in FRAMES["removable"][2:]}
                for r in shares
                if r["order"] == order
            }
            for order in points
        },
        "variance_of_log_need_predicted": needs.fit,
        "cosine": {str(k): v for k, v in needs.cosine.items()},
        "bytes_per_token": facts["bytes_per_token"],
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
    text = f"{part_of(summary)}The probe reaches R = {show(summary['predictors'][feature]['R'])}."
    if summary["all_layers"]:
        lost = summary["all_layers"]
        text += (
            f" In place of attention in {'every layer' if not part_of(summary) else 'these layers'} it costs "
            f"{show(lost['probe'])} nats per token, with the position {show(lost['with_position'])}; the "
            f"mean per position costs {show(lost['position_mean'])}, the training mean "
            f"{show(lost['training_mean'])}, nothing at all {show(lost['zero'])}."
        )
    if summary["removable"]:
        best = best_order(summary["removable"], BUDGETS[1])
        at = summary["removable"][best][f"{BUDGETS[1]:g}"]
        chance = summary["removable"]["random"][f"{BUDGETS[1]:g}"]
        text += (
            f" At +{BUDGETS[1]} nats per token, of {len(summary['removable'])} orders the one that spares "
            f"most replaces {show_share(at)} of the attention operations ({ORDERS[best]}), a random one "
            f"{show_share(chance)}; other criteria may spare more."
        )
    return text + f" 95 % intervals over {n} held-out {summary['unit']}s."


def best_order(by_order: Mapping[str, Any], budget: float) -> str:
    """The order that can replace the largest share within a budget; what is only known to be less counts as
    nothing.
    """
    at = {order: by_order[order][f"{budget:g}"]["estimate"] for order in ORDERS if order in by_order}
    return max(at, key=lambda order: 0.0 if at[order] is None or math.isnan(at[order]) else at[order])


def show_share(number: Mapping[str, Any], digits: int = 2) -> str:
    """A removable share as text: an estimate with its interval, or what is known instead."""
    if number["kind"] == "less than":
        return f"less than {number['beyond']:.{digits}f}"
    text = f"{number['estimate']:.{digits}f} [{number['lower']:.{digits}f}, {number['upper']:.{digits}f}]"
    if number["kind"] == "at least":
        return f"at least {text}"
    if number["kind"] == "measured":
        return f"{text}, next {number['beyond']:.{digits}f}"
    return text


def print_losses(losses: Losses) -> None:
    """The tables on the terminal, and the verdict."""

    def cell(row: pd.Series) -> str:
        return f"{row['estimate']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}]"

    summary = losses.summary
    title = (
        f"{summary['model']}: "
        f"{'every layer' if not part_of(summary) else 'layers ' + ', '.join(map(str, summary['layers']))} "
        f"replaced, {summary['loss_intact']['estimate']:.3f} nats per token intact, position 0 "
        f"{summary['position_0']}"
    )
    every = losses.substitution[losses.substitution["part"] == "all"]
    if len(every):
        _print(title, "replacement", every, every["replacement"].unique(), "replacement", cell)
    alone = losses.substitution[
        (losses.substitution["part"] == "layers") & (losses.substitution["metric"] == "loss_increase")
    ]
    if len(alone):
        table = Table(
            box=box.SIMPLE, title="loss increase, one layer replaced, nats per token", title_justify="left"
        )
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
            table.add_row(
                ORDERS[str(order)],
                *(show_share({str(k): v for k, v in r.items()}, 3) for _, r in rows.iterrows()),
            )
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
