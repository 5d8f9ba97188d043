"""Figures of removal runs, drawn from their folders and never from live objects."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labbook import style
from redundancy.removal.curve import BUDGETS, ORDERS
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


def removal_curve(losses: Losses) -> Figure:
    """Loss increase against the share of attention operations replaced, for every order; what each budget
    allows.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.8), width_ratios=(1.35, 1))
    axes = panels[0]
    for order, (colour, marker, line) in ORDER_LOOK.items():
        rows = losses.curve[losses.curve["order"] == order]
        wide = rows.pivot(index="target_share", columns="metric", values=["estimate", "lower", "upper"])
        if not len(wide):
            continue
        x = wide["estimate", "share"]
        axes.plot(
            x,
            wide["estimate", "loss_increase"],
            color=colour,
            marker=marker,
            ls=line,
            ms=4,
            label=ORDERS[order],
        )
        low, high = wide["lower", "loss_increase"], wide["upper", "loss_increase"]
        axes.fill_between(x, low.clip(1e-4), high.clip(1e-4), color=colour, alpha=0.15, lw=0)
    for budget in BUDGETS:
        axes.axhline(budget, color="0.75", lw=0.7)
    axes.set(
        xlabel="share of attention operations (token × head) replaced",
        ylabel="loss increase (nats per token)",
        yscale="log",
        xlim=(0, 1.02),
        ylim=(1e-3, None),
    )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=7, ncol=3, loc="outside lower center")
    _removable_panel(panels[1], losses)
    n = losses.headline.loss_intact.n
    figure.suptitle(
        f"{losses.headline.model}: attention replaced by what hidden state and position predict, 95 % "
        f"intervals over {n} held-out {losses.headline.unit}s",
        fontsize=9,
    )
    return figure


def _removable_panel(axes: Axes, losses: Losses) -> None:
    """The share that every order can remove within every budget; an arrow where only a limit is known."""
    for place, order in enumerate(ORDERS):
        for budget, shade in zip(BUDGETS, (0.35, 0.65, 1.0), strict=True):
            row = losses.removable[
                (losses.removable["order"] == order) & (losses.removable["budget"] == budget)
            ]
            if len(row):
                e, below, above = (float(row[c].iloc[0]) for c in ("estimate", "lower", "upper"))
                if row["kind"].iloc[0] == "less than":
                    axes.annotate(
                        "",
                        (0, -place),
                        (above, -place),
                        arrowprops={"arrowstyle": "<-", "color": ORDER_LOOK[order][0]},
                    )
                    continue
                axes.errorbar(
                    e,
                    -place,
                    xerr=[[max(e - below, 0)], [max(above - e, 0)]],
                    fmt="o",
                    ms=5,
                    alpha=shade,
                    color=ORDER_LOOK[order][0],
                    capsize=2,
                )
    axes.set(xlim=(0, None))
    axes.set_xlabel("share removable at\n+0.01 (pale), +0.05, +0.1 (dark) nats per token", fontsize=8)
    axes.set_yticks([-i for i in range(len(ORDERS))], list(ORDERS.values()), fontsize=7)


def removal_by_layer(losses: Losses) -> Figure:
    """One layer replaced, and all layers up to one: the loss that each replacement costs."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
    table = losses.substitution[losses.substitution["metric"] == "loss_increase"]
    titles = {"layers": "one layer replaced", "cumulative": "layers 0 to l replaced"}
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        for name, (label, look) in REPLACEMENTS.items():
            rows = table[(table["part"] == part) & (table["replacement"] == name)]
            if len(rows):
                style.band(axes, rows, label, look)
        shown = table[(table["part"] == part) & table["replacement"].isin(list(REPLACEMENTS))]
        lowest = shown["lower"].min()
        axes.set(xlabel="layer", ylabel="loss increase (nats per token)", title=title)
        if lowest > 0.001:
            axes.set(yscale="log", ylim=(lowest * 0.7, None))
        else:
            axes.axhline(0, color="0.6", lw=0.6)
            axes.set_yscale("symlog", linthresh=0.01)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=7)
    n = losses.headline.loss_intact.n
    figure.suptitle(
        f"{losses.headline.model}: 95 % bands over {n} held-out {losses.headline.unit}s", fontsize=9
    )
    return figure


def removal_recovered(losses: Losses) -> Figure:
    """Centred R² of the probe beside the share of the loss it recovers, by layer; loss increase by head."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
    predictors, table = losses.predictors, losses.substitution
    for metric, label, look in (
        ("R", "R", (style.PALETTE[4], "D", "-")),
        ("R2", "centred R²", (style.PALETTE[0], "o", "-")),
    ):
        rows = predictors[(predictors["predictor"] == "resid_pre") & (predictors["metric"] == metric)]
        style.band(panels[0], rows, label, look)
    alone = table[(table["part"] == "layers") & (table["replacement"] == "probe")]
    style.band(
        panels[0], alone[alone["metric"] == "loss_recovered"], "loss recovered", (style.PALETTE[3], "s", "--")
    )
    panels[0].set(xlabel="layer", ylabel="share", ylim=(-0.1, 1.05))
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend(frameon=False, fontsize=8)
    heads = table[(table["part"] == "heads") & (table["metric"] == "loss_increase")]
    wide = heads.pivot(index=["layer", "head"], columns="replacement", values=["estimate", "lower", "upper"])
    if len(wide):
        x, y = wide["estimate", "training_mean"], wide["estimate", "probe"]
        points = panels[1].scatter(
            x, y, c=wide.index.get_level_values("layer"), cmap="viridis", s=18, zorder=3
        )
        for value, other, vertical in ((y, x, True), (x, y, False)):
            name = "probe" if vertical else "training_mean"
            error = [(value - wide["lower", name]).clip(0), (wide["upper", name] - value).clip(0)]
            place = (
                {"x": other, "y": value, "yerr": error}
                if vertical
                else {"x": value, "y": other, "xerr": error}
            )
            panels[1].errorbar(**place, fmt="none", color="0.7", lw=0.7)
        edge = max(float(x.max()), float(y.max()))
        panels[1].plot([0, edge], [0, edge], color="0.6", lw=0.8, ls=":")
        figure.colorbar(points, ax=panels[1], label="layer")
    panels[1].set(
        xlabel="head replaced by its mean: loss increase (nats per token)",
        ylabel="by the probe: loss increase",
    )
    n = losses.headline.loss_intact.n
    figure.suptitle(
        f"{losses.headline.model}: what is predicted and what it is worth; 95 % intervals over {n} "
        f"held-out {losses.headline.unit}s",
        fontsize=9,
    )
    return figure


# figure and the parts of a removal run that it shows
REMOVAL_FIGURES = {
    "removal_curve": (removal_curve, {"curve"}),
    "removal_by_layer": (removal_by_layer, {"layers", "cumulative"}),
    "removal_recovered": (removal_recovered, {"layers", "heads"}),
}


def figures_of(losses: Losses) -> dict[str, Callable[[Losses], Figure]]:
    """The figures of those parts that were run."""
    parts = {*losses.substitution["part"], *(["curve"] if len(losses.curve) else [])}
    return {name: figure for name, (figure, needed) in REMOVAL_FIGURES.items() if needed <= parts}


def draw_removal(folder: Path, destination: Path) -> list[Path]:
    """Draw the figures of the removal run in `folder` whose parts were run, as PNG and PDF. Raises UserError
    if it is not one.
    """
    losses = Losses.read(folder)
    return style.draw(losses, figures_of(losses), destination)
