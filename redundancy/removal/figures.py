"""Figures of removal runs, drawn from their folders and never from live objects."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labbook import style
from redundancy.facts import subject
from redundancy.removal.curve import BUDGETS, DISCRETE, ORDERS, best_order
from redundancy.removal.pruning.figures import methods_curve
from redundancy.removal.tables import Losses

# colour, marker and line of each order of the removal curve and of each replacement
ORDER_LOOK: dict[str, tuple[Any, str, str]] = {
    "with_position": (style.PALETTE[9], "o", "--"),
    "known_relative": (style.PALETTE[0], "o", ":"),
    "known_displacement": (style.PALETTE[2], "o", ":"),
    "predicted_relative": (style.PALETTE[0], "s", "-"),
    "predicted_displacement": (style.PALETTE[2], "s", "-"),
    "predicted_fisher": (style.PALETTE[4], "s", "-"),
    "random": ("0.4", "x", "-"),
    "heads_relative": (style.PALETTE[0], "^", "--"),
    "heads_displacement": (style.PALETTE[2], "^", "--"),
    "heads_fisher": (style.PALETTE[4], "^", "--"),
    "layers_cosine": (style.PALETTE[3], "D", "-"),
    "layers_dropped": (style.PALETTE[1], "v", "--"),
}


REPLACEMENTS: dict[str, tuple[str, tuple[Any, str, str]]] = {
    "probe": ("probe", (style.PALETTE[0], "o", "-")),
    "with_position": ("hidden state and position", (style.PALETTE[9], "o", "--")),
    "position_mean": ("mean per position", (style.PALETTE[2], "v", "-")),
    "sequential": ("probe, refitted in sequence", (style.PALETTE[4], "^", "-")),
    "training_mean": ("training mean", (style.PALETTE[1], "s", "-")),
    "zero": ("zero", ("black", "P", "--")),
    "shuffled": ("prediction for another token", (style.PALETTE[7], "x", ":")),
}


# what the curve shows one line of: the name of a kind of order with its colour, and the orders of that kind
KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "known from attention": (style.PALETTE[2], ("known_relative", "known_displacement")),
    "best router": (style.PALETTE[0], ("predicted_relative", "predicted_displacement", "predicted_fisher")),
    "whole heads": (style.PALETTE[4], ("heads_relative", "heads_displacement", "heads_fisher")),
    "whole layers, replaced": (style.PALETTE[3], ("layers_cosine",)),
    "whole layers, dropped": (style.PALETTE[1], ("layers_dropped",)),
    "random": ("0.35", ("random",)),
}
# beyond this share every order costs far more than any budget, and all end at the same point
LARGEST_SHARE = 0.6


def best_of_each_kind(losses: Losses) -> dict[str, tuple[str, Any]]:
    """Order -> its name and colour: of every kind the order that spares most at the middle budget."""
    found = {}
    for kind, (colour, orders) in KINDS.items():
        there = {o: losses.headline.removable[o] for o in orders if o in losses.headline.removable}
        if there:
            best = best_order(there, BUDGETS[1])
            criterion = ORDERS[best].split(", ")[0].removeprefix("whole heads ").removeprefix("whole layers ")
            found[best] = (kind if kind == criterion else f"{kind}:\n{criterion}", colour)
    return found


def removal_curve(losses: Losses) -> Figure:
    """Loss increase against the share of attention operations replaced, one line for each kind of order; what
    each budget allows in every order.
    """
    figure, panels = plt.subplots(2, 1, figsize=(style.WIDTH, 7.4), height_ratios=(1.15, 1))
    axes, ends = panels[0], list[tuple[str, Any, float, float]]()
    lines = losses.curve[losses.curve["metric"].isin(["share", "loss_increase"])]
    axes.set(
        xlabel="share of attention operations (token × head) replaced",
        ylabel="loss increase (nats per token)",
        yscale="log",
        xlim=(0, LARGEST_SHARE),
        ylim=(3e-3, 3),
    )
    for order, (name, colour) in best_of_each_kind(losses).items():
        rows = lines[lines["order"] == order]
        wide = rows.pivot(index="target_share", columns="metric", values=["estimate", "lower", "upper"])
        x, y = wide["estimate", "share"], wide["estimate", "loss_increase"]
        low, high = (wide[edge, "loss_increase"].clip(1e-4) for edge in ("lower", "upper"))
        # whole heads and layers go one by one: nothing lies between two measured shares
        stepped = order in DISCRETE
        axes.plot(
            x, y, color=colour, marker="o", ms=4, lw=1.5, drawstyle="steps-post" if stepped else "default"
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, step="post" if stepped else None)
        before = y[x <= LARGEST_SHARE]
        end = before.iloc[-1] if stepped and len(before) else np.interp(LARGEST_SHARE, x, y)
        ends.append((name, colour, LARGEST_SHARE, float(end)))
    for budget in BUDGETS:
        axes.axhline(budget, color="0.75", lw=0.7, zorder=0)
        axes.text(0.005, budget, f"+{budget:g}", fontsize=7, color="0.45", va="bottom")
    style.name_lines(axes, ends, 8)
    _removable_panel(panels[1], losses)
    n = losses.headline.loss_intact.n
    style.title(
        figure,
        f"{subject(losses)}: attention replaced by what hidden state and "
        f"position predict, 95 % intervals over {n} held-out {losses.headline.unit}s",
    )
    return figure


def _removable_panel(axes: Axes, losses: Losses) -> None:
    """The share that every order can remove within every budget; an arrow where only a limit is known."""
    shown = [order for order in ORDERS if (losses.removable["order"] == order).any()]
    for place, order in enumerate(shown):
        for i, (budget, shade) in enumerate(zip(BUDGETS, (0.4, 0.7, 1.0), strict=True)):
            row = losses.removable[
                (losses.removable["order"] == order) & (losses.removable["budget"] == budget)
            ]
            if len(row):
                height = -place + 0.24 * (1 - i)
                e, below, above = (float(row[c].iloc[0]) for c in ("estimate", "lower", "upper"))
                if row["kind"].iloc[0] == "less than":
                    limit = float(row["beyond"].iloc[0]) if np.isfinite(row["beyond"].iloc[0]) else above
                    axes.annotate(
                        "",
                        (0, height),
                        (limit, height),
                        arrowprops={"arrowstyle": "->", "color": ORDER_LOOK[order][0], "alpha": shade},
                    )
                    continue
                axes.errorbar(
                    e,
                    height,
                    xerr=[[max(e - below, 0)], [max(above - e, 0)]],
                    fmt="o",
                    ms=4,
                    alpha=shade,
                    color=ORDER_LOOK[order][0],
                    capsize=2,
                )
    axes.set(xlim=(0, None), ylim=(-len(shown) + 0.4, 0.7))
    axes.set_xlabel(
        f"share that can be replaced for {', '.join(f'+{b:g}' for b in BUDGETS)} nats per token, top to "
        "bottom\n(arrow: less than)",
        fontsize=8,
    )
    axes.set_yticks(
        [-i for i in range(len(shown))], [textwrap.fill(ORDERS[order], 27) for order in shown], fontsize=7.5
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
    n = losses.headline.loss_intact.n
    style.title(
        figure,
        f"{subject(losses)}: what is predicted and what it is worth; 95 % "
        f"intervals over {n} held-out {losses.headline.unit}s",
    )
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
        set_scale(
            "function", functions=(lambda v: np.sign(v) * np.abs(v) ** 0.5, lambda v: np.sign(v) * v**2)
        )
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
