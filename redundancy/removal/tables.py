"""From sums to tables for the removal experiments: loss increases, the removal curve, what can be removed at
a given loss.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from labbook.estimate import Array, Estimate, Estimates, Studentised
from labbook.report import TableResult
from labbook.run import Run, read_finished, typed
from redundancy.aggregate import NUMBER, TableRow, part_of, table_row
from redundancy.evaluation import KINDS, TALLIES, Variant
from redundancy.facts import Facts, bits_per_byte
from redundancy.passes import Task
from redundancy.regression.scores import METRICS, LayerScores
from redundancy.removal.config import ORDERS
from redundancy.removal.curve import (
    BUDGETS,
    DEPLOYABLE,
    DISCRETE,
    ByOrder,
    Evaluated,
    differences,
    measures,
    removable,
)
from redundancy.removal.need import Needs
from redundancy.removal.pruning.tables import MethodTables
from redundancy.removal.summary import RemovalSummary

KEYS = ("part", "layer", "head", "replacement")
FRAMES = {
    "predictors": ("layer", "predictor", "metric", *NUMBER),
    "substitution": (*KEYS, "metric", *NUMBER),
    "curve": ("order", "target_share", "metric", *NUMBER),
    "removable": ("order", "budget", *NUMBER, "within", "beyond", "kind"),
}
# tables that runs of an older version lack
NEWER = {
    "paired": ("order", "minus", "budget", *NUMBER),
    "kinds": (*KEYS, "order", "target_share", "tokens_of", "tokens", "metric", *NUMBER),
}


@dataclass(frozen=True)
class Losses(TableResult):
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
    paired : order, minus, budget, estimate, lower, upper, n: by how much `order` can remove more than `minus`
        within the budget, paired by document; NaN where one of them is only known to be less than its
        smallest measured share. Empty in runs of an older version, like the next.
    kinds : part, layer, head, replacement, order, target_share, tokens_of (copied, rare), tokens (how many),
        metric, estimate, lower, upper, n: the loss increase of one kind of tokens, and how much more it is
        than that of all others.
    cost : what a run costs with attention really left out, see `cost`; empty if not measured.
    methods : what whole layers, MLPs and blocks removed by methods of the field cost, see `MethodTables`;
        empty if not measured.
    headline : the numbers that matter most and the verdict; `summary` is the same as a dict, as
        `summary.json` holds it.
    folder : where all of it is stored.
    """

    FILES: ClassVar = (*FRAMES, *NEWER, "cost")

    headline: RemovalSummary
    predictors: pd.DataFrame
    substitution: pd.DataFrame
    curve: pd.DataFrame
    removable: pd.DataFrame
    cost: pd.DataFrame
    paired: pd.DataFrame
    kinds: pd.DataFrame
    folder: Path = Path()
    methods: MethodTables = field(default_factory=MethodTables.none)

    @staticmethod
    def read(folder: Path) -> "Losses":
        """Read a finished run. Raises UserError when `folder` is not one."""
        there = [name for name in NEWER if (folder / f"{name}.csv").is_file()]
        summary, frames = read_finished(folder, (*FRAMES, *there, "cost"), "removal")
        for name, columns in NEWER.items():
            frames.setdefault(name, pd.DataFrame(columns=list(columns)))
        headline = typed(RemovalSummary.read, summary, folder)
        return Losses(headline=headline, folder=folder, methods=MethodTables.read(folder), **frames)

    def write(self, run: Run) -> None:
        """Write all tables into the run folder, `summary.json` last."""
        own = {name: getattr(self, name) for name in self.FILES}
        run.finish(own | self.methods.files(), self.summary)

    def _figures(self) -> Mapping[str, Callable[[Any], Figure]]:
        from redundancy.removal.figures import figures_of  # plotting libraries are slow to import

        return figures_of(self)

    def _shown(self) -> tuple[str, pd.DataFrame]:
        numbers = {name: increase.text() for name, increase in self.headline.all_layers.items()}
        return self.headline.verdict, pd.DataFrame({"loss increase, all layers (nats)": numbers})


@dataclass(frozen=True)
class _Results:
    """What tables and summary are both made of.

    Attributes
    ----------
    scores : layer -> predictor -> scores of the layer and of its heads, under the weights of the bootstrap.
    substitution : rows of that table.
    by_order : what every order can remove within every budget.
    """

    scores: dict[int, dict[str, tuple[dict[str, Array], dict[str, Array]]]]
    substitution: list[TableRow]
    by_order: ByOrder


def tabulate_losses(
    evaluated: Evaluated,
    scores: dict[int, LayerScores],
    needs: Needs,
    cost: pd.DataFrame,
    bootstrap: Studentised,
    facts: Facts,
    task: Task,
) -> Losses:
    """All tables of a run, from the sums of the intact model and of every variant."""
    changes = measures(evaluated.intact, evaluated.changed, bootstrap.weights)
    changes["bits_per_byte_increase"] = bits_per_byte(changes["loss_increase"], facts.bytes_per_token)
    of_all_tokens = [name for name in changes if name.removeprefix("loss_increase_") not in KINDS]
    curve = [
        table_row(
            values[i],
            bootstrap,
            order=order,
            target_share=evaluated.variants[i].key.target_share,
            metric=metric,
        )
        for order, places in evaluated.curves().items()
        for i in places
        for metric, values in ((name, changes[name]) for name in of_all_tokens)
    ]
    results = _Results(
        scores={
            n: {name: layer.metrics(name, bootstrap.weights) for name in layer.names}
            for n, layer in scores.items()
        },
        substitution=_substitution(evaluated.variants, changes, bootstrap)
        + _floor(evaluated, bootstrap, facts),
        by_order=_by_order(evaluated, changes, bootstrap),
    )
    rows = {
        "predictors": [
            table_row(metrics[metric], bootstrap, layer=layer, predictor=name, metric=metric)
            for layer, by_name in results.scores.items()
            for name, (metrics, _) in by_name.items()
            for metric in METRICS
        ],
        "substitution": results.substitution,
        "curve": curve,
        "removable": [
            {"order": order, "budget": budget, **share.json()}
            for order, shares in results.by_order.items()
            for budget, share in shares.items()
        ],
        "paired": _paired(evaluated, changes, bootstrap),
        "kinds": _kinds(evaluated, changes, bootstrap),
    }
    frames = {
        name: pd.DataFrame(rows[name], columns=list(columns)) for name, columns in (FRAMES | NEWER).items()
    }
    return Losses(
        headline=_summarise(evaluated, results, needs, bootstrap, facts, task),
        predictors=frames["predictors"],
        substitution=frames["substitution"],
        curve=frames["curve"],
        removable=frames["removable"],
        cost=cost,
        paired=frames["paired"],
        kinds=frames["kinds"],
    )


def _substitution(
    variants: Sequence[Variant], changes: dict[str, Array], bootstrap: Studentised
) -> list[TableRow]:
    """What every replacement outside the curve costs, and how much of the loss without attention's details it
    recovers.
    """
    rows = list[TableRow]()
    index = {v.key: i for i, v in enumerate(variants) if v.key.part != "curve"}
    for key, i in index.items():
        columns = {name: getattr(key, name) for name in KEYS}
        for metric in ("loss_increase", "bits_per_byte_increase", "kl", "top1_agreement"):
            rows.append(table_row(changes[metric][i], bootstrap, **columns, metric=metric))
        for name, metric in (("training_mean", "loss_recovered"), ("zero", "loss_recovered_zero")):
            against = index.get(replace(key, replacement=name))
            if against is None or key.replacement == name:
                continue
            worst = changes["loss_increase"][against]
            # where removing attention costs nothing that can be told from zero, there is nothing to recover
            if bootstrap.estimate(worst).lower > 0:
                recovered = (worst - changes["loss_increase"][i]) / worst
                rows.append(table_row(recovered, bootstrap, **columns, metric=metric))
    return rows


def _floor(evaluated: Evaluated, bootstrap: Studentised, facts: Facts) -> list[TableRow]:
    """By how much the models that see one token lose more than the intact one, as rows of `substitution`."""
    base = np.tensordot(bootstrap.weights, evaluated.intact.numpy(), axes=1)
    intact = base[:, TALLIES.index("loss")] / base[:, TALLIES.index("tokens")]
    rows = list[TableRow]()
    for name, sums in evaluated.floor.sums.items():
        tokens, loss = (bootstrap.weights @ sums.numpy()).T
        columns = {"part": "floor", "layer": None, "head": None, "replacement": name}
        rise = loss / tokens - intact
        bits = bits_per_byte(rise, facts.bytes_per_token)
        rows.append(table_row(rise, bootstrap, **columns, metric="loss_increase"))
        rows.append(table_row(bits, bootstrap, **columns, metric="bits_per_byte_increase"))
    return rows


def _paired(evaluated: Evaluated, changes: dict[str, Array], bootstrap: Studentised) -> list[TableRow]:
    """Every two orders of the curve, at every budget."""
    curves = {
        order: (changes["share"][places].T, changes["loss_increase"][places].T)
        for order, places in evaluated.curves().items()
    }
    return [
        {"order": found.first, "minus": found.second, "budget": budget, **vars(found.share)}
        for budget in BUDGETS
        for found in differences(curves, budget, bootstrap)
    ]


def _kinds(evaluated: Evaluated, changes: dict[str, Array], bootstrap: Studentised) -> list[TableRow]:
    """The loss increase of copied and of rare tokens, and how it differs from that of all others."""
    base = np.tensordot(bootstrap.weights, evaluated.intact.numpy(), axes=1)
    all_tokens, rows = base[:, TALLIES.index("tokens")], list[TableRow]()
    for i, variant in enumerate(evaluated.variants):
        key = variant.key
        if key.part == "heads":
            continue
        for kind in KINDS:
            tokens = base[:, TALLIES.index(f"tokens_{kind}")]
            own = changes[f"loss_increase_{kind}"][i]
            with np.errstate(divide="ignore", invalid="ignore"):
                rest = (changes["loss_increase"][i] * all_tokens - own * tokens) / (all_tokens - tokens)
            columns = {name: getattr(key, name) for name in (*KEYS, "order", "target_share")}
            columns |= {"tokens_of": kind, "tokens": int(tokens[0])}
            for metric, values in (("loss_increase", own), ("more_than_others", own - rest)):
                rows.append(table_row(values, bootstrap, **columns, metric=metric))
    return rows


def _by_order(evaluated: Evaluated, changes: dict[str, Array], bootstrap: Studentised) -> ByOrder:
    """What every order can remove within every budget."""
    found: ByOrder = {}
    for order, places in evaluated.curves().items():
        share, increase = (changes[name][places].T for name in ("share", "loss_increase"))
        discrete = order in DISCRETE
        found[order] = {b: removable(share, increase, b, bootstrap, discrete=discrete) for b in BUDGETS}
    return found


def _summarise(
    evaluated: Evaluated,
    results: _Results,
    needs: Needs,
    bootstrap: Studentised,
    facts: Facts,
    task: Task,
) -> RemovalSummary:
    """The machine-readable headline."""
    by_layer = list(results.scores.values())
    predictors = {
        name: {
            metric: bootstrap.estimate(np.mean([found[name][0][metric] for found in by_layer], axis=0))
            for metric in METRICS
        }
        for name in by_layer[0]
    }
    operations = np.concatenate([found[task.feature][1]["R"] for found in by_layer], 1).mean(1)
    loss = np.tensordot(bootstrap.weights, evaluated.intact.numpy(), axes=1)

    def everywhere(metric: str) -> Estimates:
        chosen = [r for r in results.substitution if r["part"] == "all" and r["metric"] == metric]
        return {row["replacement"]: Estimate.read(row) for row in chosen}

    def is_floor(row: TableRow) -> bool:
        return bool(row["part"] == "floor" and row["metric"] == "loss_increase")

    lost, where = everywhere("loss_increase"), part_of(task.layers, facts.depth)
    floor = {r["replacement"]: Estimate.read(r) for r in results.substitution if is_floor(r)}
    reached = predictors[task.feature]["R"]
    return RemovalSummary(
        model=facts.model,
        tokens=facts.tokens,
        documents=facts.document_counts,
        unit=facts.unit,
        layers=tuple(task.layers),
        depth=facts.depth,
        position_0="substituted" if task.start_position == 0 else "left intact and not counted",
        loss_intact=bootstrap.estimate(loss[:, TALLIES.index("loss")] / loss[:, TALLIES.index("tokens")]),
        predictors=predictors,
        R_of_operations=bootstrap.estimate(operations),
        all_layers=lost,
        all_layers_recovered=everywhere("loss_recovered"),
        removable=results.by_order,
        chosen=dict(evaluated.chosen),
        floor=floor,
        floor_tokens=evaluated.floor.tokens,
        variance_of_log_need_predicted=needs.fit,
        cosine={str(layer): cosine for layer, cosine in needs.cosine.items()},
        bytes_per_token=facts.bytes_per_token,
        verdict=_verdict(where, reached, lost, floor, results.by_order, evaluated.chosen)
        + f" 95 % intervals over {bootstrap.units} held-out {facts.unit}s.",
    )


def _verdict(
    where: str,
    r: Estimate,
    lost: Estimates,
    floor: Estimates,
    by_order: ByOrder,
    chosen: Mapping[float, str],
) -> str:
    """What the score says, and what can be removed; `where` names the layers if they are not all."""
    text = f"{where}The probe reaches R = {r.text(2)}."
    if lost:
        text += (
            f" In place of attention in {'these layers' if where else 'every layer'} it costs "
            f"{lost['probe'].text(2)} nats per token, with the position {lost['with_position'].text(2)}; the "
            f"mean per position costs {lost['position_mean'].text(2)}, the training mean "
            f"{lost['training_mean'].text(2)}, nothing at all, the bias gone too, {lost['zero'].text(2)}."
        )
    if "in_place" in lost:
        text += f" Maps trained together, in place, cost {lost['in_place'].text(2)}."
    for name, estimate in list(floor.items())[:1]:  # the first was the best on the validation documents
        text += (
            f" The best model of one token and its position that was trained here ({name}) costs "
            f"{estimate.text(2)}; the floor of maps that see one token lies there or below."
        )
    if chosen:
        budget = BUDGETS[1]
        text += (
            f" At +{budget} nats per token, the order that spared most on the validation documents, of "
            f"{sum(order in DEPLOYABLE for order in by_order)} that a model could follow, replaces "
            f"{by_order[chosen[budget]][budget].text()} of the attention "
            f"operations ({ORDERS[chosen[budget]]}), a random one {by_order['random'][budget].text()}; other "
            "criteria may spare more."
        )
    return text
