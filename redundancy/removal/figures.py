"""Figures of removal runs, drawn from their folders and never from live objects."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labbook import style
from redundancy.facts import subject
from redundancy.removal.config import ORDERS
from redundancy.removal.curve import BUDGETS, DISCRETE, Removable, best_order
from redundancy.removal.pruning.figures import mark_budgets, methods_curve
from redundancy.removal.tables import Losses

_ROUTED = (style.PALETTE[0], "single operations, by a router")
# colour and name of each family of orders, by how the names of its orders begin
FAMILIES: dict[str, tuple[Any, str]] = {
    "known": (style.PALETTE[2], "by the label or by what attention gives (not deployable)"),
    "predicted": _ROUTED,
    "hidden": _ROUTED,
    "network": _ROUTED,
    "trained": _ROUTED,
    "past": (style.PALETTE[6], "maps of several tokens (not deployable)"),
    "random": ("0.35", "random"),
    "heads": (style.PALETTE[4], "whole heads"),
    "layers": (style.PALETTE[3], "whole layers"),
}


REPLACEMENTS: dict[str, tuple[str, tuple[Any, str, str]]] = {
    "probe": ("probe", (style.PALETTE[0], "o", "-")),
    "with_position": ("hidden state and position", (style.PALETTE[9], "o", "--")),
    "position_mean": ("mean per position", (style.PALETTE[2], "v", "-")),
    "sequential": ("refitted in sequence", (style.PALETTE[4], "^", "-")),
    "sequential_intact": ("refitted in sequence,\ntowards the intact output", (style.PALETTE[3], "D", "-")),
    "training_mean": ("training mean", (style.PALETTE[1], "s", "-")),
    "zero": ("zero", ("black", "P", "--")),
    "shuffled": ("prediction for another token", (style.PALETTE[7], "x", ":")),
}
# what the others are called in the list of all layers
MORE_REPLACEMENTS = {
    "weighted": "hidden state and position, weighted by the loss",
    "token_mean": "mean per token id",
    "resampled": "output of another token",
    "mlp": "small network",
    "in_place": "trained in place, all layers together",
    "in_place_rank_16": "trained in place, rank 16",
    "in_place_mlp": "trained in place, small network",
    "sequential_intact": "refitted in sequence, towards the intact output",
}


# what the curve shows one line of: the name of a kind of order with its colour, and the orders of that kind
KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "known, true label seen": (style.PALETTE[2], ("known_first_order",)),
    "best router": (
        style.PALETTE[0],
        tuple(o for o in ORDERS if o.startswith(("predicted", "hidden", "network", "trained"))),
    ),
    "maps that see the\ntokens before": (style.PALETTE[6], ("past_fisher",)),
    "router by displacement": (style.PALETTE[9], ("predicted_displacement",)),
    "whole heads": (style.PALETTE[4], tuple(o for o in ORDERS if o.startswith("heads"))),
    "whole layers, replaced": (style.PALETTE[3], ("layers_cosine", "layers_exact")),
    "whole layers, dropped": (style.PALETTE[1], ("layers_dropped",)),
    "random": ("0.35", ("random",)),
}
# the root of a loss and its inverse
ROOT = (lambda v: np.sign(v) * np.abs(v) ** 0.5, lambda v: np.sign(v) * v**2)
# beyond this share every order costs far more than any budget, and all end at the same point
LARGEST_SHARE = 0.7


def best_of_each_kind(losses: Losses) -> dict[str, tuple[str, Any]]:
    """Order -> its name and colour: of every kind the order that spares most at the middle budget, or the one
    that was chosen on the validation documents, if it is of that kind.
    """
    found = dict[str, tuple[str, Any]]()
    chosen = losses.headline.chosen.get(BUDGETS[1])
    for kind, (colour, orders) in KINDS.items():
        there = {o: losses.headline.removable[o] for o in orders if o in losses.headline.removable}
        if not there:
            continue
        best = chosen if chosen in there else best_order(there, BUDGETS[1])
        if best not in found:
            criterion = ORDERS[best].removeprefix("whole heads ").removeprefix("whole layers ")
            criterion = textwrap.fill(criterion, 30)
            found[best] = (kind if len(orders) == 1 else f"{kind}:\n{criterion}", colour)
    return found


def removal_curve(losses: Losses) -> Figure:
    """Loss increase against the share of attention operations replaced, one line for each kind of order,
    between the intact model and the floor of replacements that see one token.
    """
    figure, axes = plt.subplots(figsize=(style.WIDTH, 5.2))
    ends = list[tuple[str, Any, float, float]]()
    lines = losses.curve[losses.curve["metric"].isin(["share", "loss_increase"])]
    floor = losses.headline.lowest_floor()
    if floor and floor[1].estimate <= 0:  # an intact model that is no better than a bigram
        floor = None
    top = max(1.0, 1.15 * floor[1].estimate) if floor else 1.0
    axes.set(
        xlabel="share of attention operations (token × head) replaced",
        ylabel="loss increase (nats per token; square-root axis)",
        xlim=(0, LARGEST_SHARE),
    )
    drawn = best_of_each_kind(losses)
    shown = lines[lines["order"].isin(list(drawn)) & (lines["metric"] == "loss_increase")]
    # an order that sees the label makes the loss smaller
    _root_scale(axes, min(0.0, 1.3 * float(shown["estimate"].min())), top)
    for order, (name, colour) in drawn.items():
        line = ":" if order.startswith("known") else "-"
        x, y = draw_order(axes, lines, order, 0.15, color=colour, marker="o", ms=3.5, lw=1.5, ls=line)
        # between two points the line is straight on the axis of the root
        on = y[min(int(np.searchsorted(x, LARGEST_SHARE)), len(y) - 1)]
        end = on if order in DISCRETE else ROOT[1](np.interp(LARGEST_SHARE, x, ROOT[0](y)))
        ends.append((name, colour, LARGEST_SHARE, float(end)))
    mark_budgets(axes)
    axes.axhline(0, color="black", lw=1)
    ends.append(("intact model", "black", LARGEST_SHARE, 0.0))
    if floor:
        axes.axhline(floor[1].estimate, color="0.5", lw=1, ls="--")
        axes.text(
            0.004,
            floor[1].estimate,
            f"floor of all maps of one token, at share 1: {floor[1].text(2)} at most",
            fontsize=7.5,
            color="0.4",
            va="top",
        )
    style.name_lines(axes, ends, 8)
    n = losses.headline.loss_intact.n
    style.title(
        figure,
        f"{subject(losses)}: attention replaced by what hidden state and position predict\n"
        f"95 % intervals over {n} held-out {losses.headline.unit}s",
    )
    return figure


def draw_order(
    axes: Axes, lines: pd.DataFrame, order: str, alpha: float, **look: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Loss increase against the share replaced in one order, with its interval as a band, from the intact
    model on; returns both. Whole heads and layers go one by one, and not every number was measured: up to the
    next that was, its loss is drawn.
    """
    rows = lines[lines["order"] == order]
    wide = rows.pivot(index="target_share", columns="metric", values=["estimate", "lower", "upper"])
    x, y = (np.append(0.0, wide["estimate", metric]) for metric in ("share", "loss_increase"))
    low, high = (np.append(0.0, wide[edge, "loss_increase"]) for edge in ("lower", "upper"))
    stepped = order in DISCRETE
    axes.plot(x, y, drawstyle="steps-pre" if stepped else "default", **look)
    step: Literal["pre"] | None = "pre" if stepped else None
    axes.fill_between(x, low, high, color=look["color"], alpha=alpha, lw=0, step=step)
    return x, y


def _root_scale(axes: Axes, low: float, high: float) -> None:
    """The square root of the loss: what is near zero and what is large both stay readable, and zero is
    there.
    """
    axes.set_yscale("function", functions=ROOT)
    sizes = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
    ticks = [t for t in (*(-s for s in sizes), 0, *sizes) if low <= t <= high]
    axes.set(ylim=(low, high))
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])


def removal_ranked(losses: Losses) -> Figure:
    """What every order can replace within the middle budget, the most first; an arrow where only a limit is
    known.
    """
    budget = BUDGETS[1]
    table = losses.removable[losses.removable["budget"] == budget].copy()
    table["height"] = table["estimate"].fillna(table["beyond"] / 2)
    table = table.sort_values("height", ascending=False, kind="stable")
    figure, axes = plt.subplots(figsize=(style.WIDTH, 1.6 + 0.3 * len(table)))
    chosen = losses.headline.chosen.get(budget)
    names, families = list[str](), dict[str, Any]()
    for place, row in enumerate(table.to_dict("records")):
        order, found = str(row["order"]), Removable.read(row)
        colour, family = FAMILIES[order.partition("_")[0]]
        families[family] = colour
        names.append(ORDERS[order] + (" *" if order == chosen else ""))
        if found.kind == "less than":
            arrow = {"arrowstyle": "->", "color": colour}
            axes.annotate("", (0, -place), (found.beyond, -place), arrowprops=arrow)
            axes.text(found.beyond, -place, f"  less than {found.beyond:.2f}", fontsize=7, va="center")
            continue
        e = found.share
        axes.plot([e.lower, e.upper], [-place, -place], color=colour, lw=1.6)
        axes.plot(e.estimate, -place, "D" if order in DISCRETE else "o", color=colour, ms=5)
        said = ("at least " if found.kind == "at least" else "") + f"{e.estimate:.2f}"
        axes.text(e.upper, -place, f"  {said}", fontsize=7, va="center", color="0.3")
    axes.set(xlim=(0, None), ylim=(0.6 - len(table), 0.6))
    dots = [Line2D([], [], color=colour, marker="o", ls="", ms=5) for colour in families.values()]
    figure.legend(dots, families, loc="outside lower center", ncols=3, frameon=False, fontsize=7.5)
    axes.set_yticks([-i for i in range(len(table))], names, fontsize=7.5)
    axes.set_xlabel(
        f"share of attention operations that can be replaced for +{budget:g} nats per token\n"
        "(diamonds: whole heads or layers; *: chosen on the validation documents)",
        fontsize=8,
    )
    _title(figure, losses, "what removes how much")
    return figure


def removal_all(losses: Losses) -> Figure:
    """Every layer replaced at once: what each replacement costs, between the intact model and the floor, for
    all tokens and for copied ones.
    """
    table = losses.substitution
    every = table[(table["part"] == "all") & (table["metric"] == "loss_increase")].sort_values(
        "estimate", kind="stable"
    )
    kinds = losses.kinds
    copied = kinds[
        (kinds["part"] == "all") & (kinds["tokens_of"] == "copied") & (kinds["metric"] == "loss_increase")
    ].set_index("replacement")
    figure, axes = plt.subplots(figsize=(style.WIDTH, 1.4 + 0.27 * len(every)))
    for place, row in enumerate(every.to_dict("records")):
        colour = style.PALETTE[4] if str(row["replacement"]).startswith("previous") else style.PALETTE[0]
        if row["replacement"] in copied.index:
            other = copied.loc[row["replacement"]]
            axes.plot([other["lower"], other["upper"]], [-place - 0.22] * 2, color="0.7", lw=1)
            axes.plot(other["estimate"], -place - 0.22, "^", color="0.6", mfc="white", ms=4.5)
        axes.plot([row["lower"], row["upper"]], [-place, -place], color=colour, lw=1.6)
        axes.plot(row["estimate"], -place, "o", color=colour, ms=5)
    axes.axvline(0, color="black", lw=1)
    axes.text(0, 0.8, " intact", fontsize=7.5, va="bottom", ha="left")
    floor = losses.headline.lowest_floor()
    if floor:
        name, number = floor
        axes.axvline(number.estimate, color="0.5", lw=1, ls="--")
        axes.axvspan(number.lower, number.upper, color="0.5", alpha=0.15, lw=0)
        axes.text(
            number.estimate,
            0.8,
            f" floor of maps of one token, at most ({name})",
            fontsize=7.5,
            color="0.4",
            va="bottom",
            ha="left",
        )
    axes.set(ylim=(0.3 - len(every), 0.8))
    axes.set_yticks(
        [-i for i in range(len(every))],
        [replacement_name(str(n)) for n in every["replacement"]],
        fontsize=7.5,
    )
    axes.set_xlabel(
        "loss increase with every layer replaced (nats per token)\n"
        "purple: sees tokens before, so the floor does not hold for it\n"
        "triangles: tokens that copy an earlier trigram",
        fontsize=8,
    )
    _title(figure, losses, "attention gone from every layer")
    return figure


def replacement_name(name: str) -> str:
    """What a replacement is called in a list and in a table."""
    if name.startswith("previous_"):
        return f"with {name.removeprefix('previous_')} token{'s' * (name != 'previous_1')} before"
    if name.startswith("rank_"):
        return f"probe of rank {name.removeprefix('rank_')}"
    if name in MORE_REPLACEMENTS:
        return MORE_REPLACEMENTS[name]
    return REPLACEMENTS[name][0] if name in REPLACEMENTS else name.replace("_", " ")


def _title(figure: Figure, losses: Losses, about: str) -> None:
    head = losses.headline
    style.title(
        figure, f"{subject(losses)}: {about}; 95 % intervals over {head.loss_intact.n} held-out {head.unit}s"
    )


def removal_by_layer(losses: Losses) -> Figure:
    """One layer replaced, and all layers up to one: the loss that each replacement costs."""
    figure, panels = plt.subplots(2, 1, figsize=(style.WIDTH, 6.2), sharex=True)
    table = losses.substitution[losses.substitution["metric"] == "loss_increase"]
    titles = {"layers": "one layer replaced", "cumulative": "layers 0 to l replaced"}
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        ends = []
        for name, (label, look) in REPLACEMENTS.items():
            rows = table[(table["part"] == part) & (table["replacement"] == name)].sort_values("layer")
            if len(rows):
                style.band(axes, rows, label, look)
                last = rows.iloc[-1]
                ends.append((label, look[0], float(last["layer"]), float(last["estimate"])))
        shown = table[(table["part"] == part) & table["replacement"].isin(list(REPLACEMENTS))]
        lowest = shown["lower"].min()
        axes.set(ylabel="loss increase (nats per token)")
        axes.set_title(title, fontsize=9)
        if lowest > 0.001:
            axes.set(yscale="log", ylim=(lowest * 0.7, None))
        else:
            axes.axhline(0, color="0.6", lw=0.6)
            axes.set_yscale("symlog", linthresh=0.01)
        axes.xaxis.get_major_locator().set_params(integer=True)
        style.name_lines(axes, ends)
    panels[1].set_xlabel("layer")
    n = losses.headline.loss_intact.n
    style.title(
        figure,
        f"{subject(losses)}: attention replaced, 95 % bands over {n} held-out {losses.headline.unit}s",
    )
    return figure


def removal_recovered(losses: Losses) -> Figure:
    """R and centred R² of the probe beside the share of the loss it recovers, by layer; every head, replaced
    by its mean and by the probe.
    """
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDTH, 3.9))
    predictors, table = losses.predictors, losses.substitution
    alone = table[(table["part"] == "layers") & (table["replacement"] == "probe")]
    own = predictors[predictors["predictor"] == "resid_pre"]
    ends = []
    for rows, label, look in (
        (own[own["metric"] == "R"], "R", (style.PALETTE[4], "D", "-")),
        (own[own["metric"] == "R2"], "centred\nR²", (style.PALETTE[0], "o", "-")),
        (alone[alone["metric"] == "loss_recovered"], "loss\nrecovered", (style.PALETTE[3], "s", "--")),
    ):
        style.band(panels[0], rows, label, look)
        if len(rows):
            last = rows.sort_values("layer").iloc[-1]
            ends.append((label, look[0], float(last["layer"]), float(last["estimate"])))
    panels[0].set(xlabel="layer", ylabel="share", ylim=(-0.1, 1.05))
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    style.name_lines(panels[0], ends, 8)
    _heads_panel(panels[1], table[(table["part"] == "heads") & (table["metric"] == "loss_increase")])
    _title(figure, losses, "what is predicted and what it is worth")
    return figure


def _heads_panel(axes: Axes, heads: pd.DataFrame) -> None:
    """Every head: loss increase with the probe in its place against that with its mean."""
    wide = heads.pivot(index=["layer", "head"], columns="replacement", values=["estimate", "lower", "upper"])
    axes.set(
        xlabel="head replaced by its mean:\nloss increase (nats per token)",
        ylabel="head replaced by the probe:\nloss increase (nats per token)",
    )
    if not len(wide):
        return
    x, y = wide["estimate", "training_mean"], wide["estimate", "probe"]
    points = axes.scatter(x, y, c=wide.index.get_level_values("layer"), cmap="viridis", s=18, zorder=3)
    errors = [
        [(value - wide["lower", name]).clip(0), (wide["upper", name] - value).clip(0)]
        for value, name in ((x, "training_mean"), (y, "probe"))
    ]
    axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt="none", color="0.7", lw=0.7)
    # heads cost little, and a few very much: the root of the loss keeps both readable
    edge = float(max(wide["upper"].max().max(), x.max(), y.max()))
    low = min(0.0, float(min(x.min(), y.min())))
    for set_scale in (axes.set_xscale, axes.set_yscale):
        set_scale("function", functions=ROOT)
    ticks = [t for t in (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if t <= edge]
    axes.set(xlim=(low, edge), ylim=(low, edge), xticks=ticks, yticks=ticks)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.plot([0, edge], [0, edge], color="0.6", lw=0.8, ls=":")
    axes.text(0.03, 0.97, "probe costs more", transform=axes.transAxes, fontsize=7.5, color="0.4", va="top")
    axes.text(0.97, 0.03, "probe costs less", transform=axes.transAxes, fontsize=7.5, color="0.4", ha="right")
    plt.colorbar(points, ax=axes, label="layer")


def removal_methods(losses: Losses) -> Figure:
    """Loss against the share of attention layers, MLPs and blocks that methods of the field remove whole."""
    n = losses.headline.loss_intact.n
    return methods_curve(
        losses.methods,
        f"{subject(losses)}: layers removed whole by methods of the field, ordered on validation text; 95 % "
        f"intervals over {n} held-out {losses.headline.unit}s",
    )


# figure and the parts of a removal run that it shows
REMOVAL_FIGURES = {
    "removal_curve": (removal_curve, {"curve"}),
    "removal_ranked": (removal_ranked, {"curve"}),
    "removal_all": (removal_all, {"all"}),
    "removal_by_layer": (removal_by_layer, {"layers", "cumulative"}),
    "removal_recovered": (removal_recovered, {"layers", "heads"}),
    "removal_methods": (removal_methods, {"methods"}),
}


def figures_of(losses: Losses) -> dict[str, Callable[[Losses], Figure]]:
    """The figures of those parts that were run."""
    parts = {*losses.substitution["part"], *(["curve"] if len(losses.curve) else [])}
    parts |= {"methods"} if len(losses.methods.methods) else set()
    return {name: figure for name, (figure, needed) in REMOVAL_FIGURES.items() if needed <= parts}


def draw_removal(folder: Path, destination: Path) -> list[Path]:
    """Draw the figures of the removal run in `folder` whose parts were run, as PNG and PDF. Raises UserError
    if it is not one.
    """
    losses = Losses.read(folder)
    return style.draw(losses, figures_of(losses), destination)
