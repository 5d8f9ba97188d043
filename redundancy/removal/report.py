"""What a removal run says: its headline, tables on a terminal, and the report."""

from collections.abc import Iterable

import pandas as pd

from labbook.console import console
from labbook.estimate import Estimate
from labbook.report import Report
from labbook.view import print_table, print_verdict, print_words
from redundancy.aggregate import part_of
from redundancy.removal.config import NOT_DEPLOYABLE, ORDERS
from redundancy.removal.curve import BUDGETS, Removable, ranked_orders
from redundancy.removal.pruning.tables import print_methods
from redundancy.removal.summary import RemovalSummary
from redundancy.removal.tables import Losses

# what the loss is measured against
BLIND = ("position_mean", "training_mean", "zero")
# replacements and orders on the terminal unless every one is asked for
CHEAPEST, MOST_SHOWN = 3, 5
RECOVERED = (
    "loss_recovered: the share of what the training mean loses that a replacement wins back; 1 is the intact "
    "model, below 0 is worse than the mean"
)
BARRED = "not deployable: needs the label, attention's own output, or the tokens before"
RECOVERED_ZERO = "loss_recovered_zero: the same of what nothing at all in its place loses"


def headline(summary: RemovalSummary) -> list[str]:
    """The verdict for a terminal: what attention's replacements cost, and what can go."""
    where = "these layers" if len(summary.layers) < summary.depth else "every layer"
    lost, said = summary.all_layers, list[str]()
    n = f"n = {summary.loss_intact.n} held-out {summary.unit}s"
    if lost:
        said.append(
            f"In place of attention in {where} ({n}) the probe costs {lost['probe'].text(2)} nats per "
            f"token, the mean per position {lost['position_mean'].text(2)}, nothing at all "
            f"{lost['zero'].text(2)}."
        )
    if summary.removable:
        budget = BUDGETS[1]
        best = summary.order_for(budget)
        said.append(
            f"At +{budget} nats{'' if lost else f' ({n})'} {summary.removable[best][budget].text()} of the "
            f"attention operations can go ({ORDERS[best]}), in random order "
            f"{summary.removable['random'][budget].text()}."
        )
    floor = summary.lowest_floor()
    if floor and not lost:  # five lines hold no more sentences than two
        said.append(
            f"The best model of one token trained here costs {floor[1].text(2)}: the floor of all maps of "
            "one token lies there or below."
        )
    reached = summary.predictors["resid_pre"]["R"]
    return said or [f"{part_of(summary.layers, summary.depth)}The probe reaches R = {reached.text(2)} ({n})."]


def print_losses(losses: Losses, *, full: bool = False) -> None:
    """The verdict on the terminal, what every layer replaced costs, and the orders that spare most; with
    `full` every table.
    """
    print_verdict(headline(losses.headline))
    if full:
        _print_every(losses)
        return
    _print_all_layers(losses)
    _print_best(losses)
    console.print("every layer, order, method and the cost: report.html, the CSV files, or --full")


def _title(summary: RemovalSummary) -> str:
    some = len(summary.layers) < summary.depth
    return (
        f"{summary.model}: {'layers ' + ', '.join(map(str, summary.layers)) if some else 'every layer'} "
        f"replaced, {summary.loss_intact.estimate:.3f} nats per token intact, position 0 "
        f"{summary.position_0}"
    )


def _print_all_layers(losses: Losses) -> None:
    """The cheapest replacements of every layer, of equals the first, beside the controls."""
    summary = losses.headline
    lost = summary.all_layers
    if not lost:
        return
    cheapest = sorted((name for name in lost if name not in BLIND), key=lambda name: lost[name].estimate)
    shown = dict.fromkeys(("probe", *cheapest[:CHEAPEST], *BLIND))
    recovered = summary.all_layers_recovered
    rows = [
        [name.replace("_", " "), lost[name].text(), recovered[name].text() if name in recovered else ""]
        for name in sorted((n for n in shown if n in lost), key=lambda n: lost[n].estimate)
    ]
    heads = ["replacement", "loss increase (nats)", "loss_recovered"]
    print_table(_title(summary), heads, rows)
    print_words(RECOVERED)


def _print_best(losses: Losses) -> None:
    """The orders that spare most at one budget, and random order."""
    found = losses.headline.removable
    if not found:
        return
    budget = BUDGETS[1]
    best = [order for order in ranked_orders(found, budget) if order != "random"][:MOST_SHOWN]
    chosen = losses.headline.chosen.get(budget)
    shown = dict.fromkeys((*best, *([chosen] if chosen else []), "random"))
    rows = [
        [
            _marked(order) + (" (chosen on other documents)" if order == chosen else ""),
            found[order][budget].text(3),
        ]
        for order in shown
    ]
    title = f"share of operations removable: the best {len(best)} of {len(found)} orders here, and random"
    print_table(title, ["order", f"at +{budget} nats"], rows)
    _explain(shown)


def _marked(order: str) -> str:
    """What an order is, and that no model can follow it where that is so."""
    return ORDERS[order] + (" (not deployable)" if order in NOT_DEPLOYABLE else "")


def _explain(orders: Iterable[str]) -> None:
    """What the mark means, under a table that has it."""
    if any(order in NOT_DEPLOYABLE for order in orders):
        print_words(BARRED)


def _print_every(losses: Losses) -> None:
    """Every table of the run."""

    def cell(row: pd.Series) -> str:
        return Estimate.read(row.to_dict()).text()

    every = losses.substitution[losses.substitution["part"] == "all"]
    if len(every):
        metrics = list(every["metric"].unique())
        rows = []
        for name, found in every.groupby("replacement", sort=False):
            by_metric = found.set_index("metric")
            rows.append(
                [str(name), *(cell(by_metric.loc[m]) if m in by_metric.index else "" for m in metrics)]
            )
        print_table(_title(losses.headline), ["replacement", *metrics], rows)
        print_words(f"{RECOVERED}. {RECOVERED_ZERO}.")
    alone = losses.substitution[
        (losses.substitution["part"] == "layers") & (losses.substitution["metric"] == "loss_increase")
    ]
    if len(alone):
        names, rows = list(alone["replacement"].unique()), []
        for layer, found in alone.groupby("layer"):
            by_name = found.set_index("replacement")
            rows.append([f"{layer:.0f}", *(cell(by_name.loc[name]) for name in names)])
        about = "loss increase, one layer replaced, nats per token"
        print_table(about, ["layer", *names], rows, left=0)
    if len(losses.removable):
        rows = [
            [_marked(str(order)), *(Removable.read(row).text(3) for row in found.to_dict("records"))]
            for order, found in losses.removable.groupby("order", sort=False)
        ]
        heads = ["order", *(f"at +{b} nats" for b in BUDGETS)]
        print_table("share of attention operations removable", heads, rows)
        _explain(losses.removable["order"])
    print_methods(losses.methods)
    if len(losses.cost):
        rows = [
            [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
            for row in losses.cost.itertuples(index=False, name=None)
        ]
        print_table("cost against the intact model", list(losses.cost.columns), rows)


def report(losses: Losses) -> Report:
    """What the run folder's page holds."""
    every = losses.substitution[losses.substitution["part"] == "all"]
    tables = {
        "every layer replaced": every.drop(columns=["part", "layer", "head"]),
        "one layer replaced": losses.substitution[losses.substitution["part"] == "layers"],
        "share of attention operations removable": losses.removable,
        **losses.methods.headed(),
        "orders compared, paired by document": losses.paired,
        "copied and rare tokens": losses.kinds[losses.kinds["part"] == "all"],
        "cost against the intact model": losses.cost,
        "how well each map predicts": losses.predictors,
    }
    return Report(
        command="redundancy.removal",
        title=f"{losses.headline.model}: attention replaced by what the hidden state predicts",
        verdict=[losses.headline.verdict],
        tables={name: table for name, table in tables.items() if len(table)},
    )
