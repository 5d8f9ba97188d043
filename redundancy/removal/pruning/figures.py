"""The figure of the methods: loss against the share removed, a panel for each kind of unit."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labbook import style
from redundancy.removal.curve import BUDGETS
from redundancy.removal.pruning.methods import METHODS, Removes
from redundancy.removal.pruning.tables import MethodTables

TITLES: dict[Removes, str] = {
    "attention": "attention layers removed",
    "mlp": "MLPs removed",
    "block": "whole blocks removed",
    "sublayers": "attention and MLP sublayers removed",
}
COLOURS: dict[str, Any] = {
    "random": "0.45",
    "llm_drop": style.PALETTE[1],
    "block_influence": style.PALETTE[1],
    "sleb": style.PALETTE[3],
    "finercut": style.PALETTE[4],
    "blockpruner": style.PALETTE[2],
    "mean_update": style.PALETTE[2],
    "nbl": style.PALETTE[9],
    "replaceme": style.PALETTE[4],
    "linear_greedy": style.PALETTE[0],
}
FLOOR = 1e-3


def methods_curve(tables: MethodTables, about: str) -> Figure:
    """Loss increase against the share of units removed, by method; `about` is the title."""
    rows = tables.methods[tables.methods["metric"] == "loss_increase"]
    shown = [removes for removes in TITLES if (rows["target"] == removes).any()]
    height = (len(shown) + 1) // 2
    figure, grid = plt.subplots(
        height, min(2, len(shown)), figsize=(style.WIDTH, 0.8 + 3 * height), squeeze=False, sharey=True
    )
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    named = list[tuple[Axes, list[tuple[str, Any, float, float]]]]()
    for axes, removes in zip(grid.flat, shown, strict=False):
        named.append((axes, _panel(axes, rows[rows["target"] == removes])))
        axes.set_title(TITLES[removes], fontsize=9)
        axes.set_xlabel("share removed")
    low = rows["estimate"][rows["estimate"] > FLOOR].min() if len(rows) else FLOOR
    for axes, _ in named:
        # the smallest budget is on the page even where no method stays within it
        bottom = max(FLOOR, 0.6 * min(low, BUDGETS[0]))
        axes.set(yscale="log", ylim=(bottom, 1.6 * rows["estimate"].max()), xlim=(0, 1))
    for axes in grid[:, 0]:
        axes.set_ylabel("loss increase (nats per token)")
    for axes, ends in named:
        style.name_lines(axes, ends)
    style.title(figure, about)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> list[tuple[str, Any, float, float]]:
    """Every method as steps with its interval; returns the ends of the lines. Nothing lies between two
    numbers of units: the line there is at the larger.
    """
    ends = []
    for method, found in rows.groupby("method", sort=False):
        found, colour = found.sort_values("share"), COLOURS[str(method)]
        x, y = found["share"], found["estimate"].clip(FLOOR / 2)
        axes.plot(x, y, color=colour, marker="o", ms=3, lw=1.3, drawstyle="steps-pre")
        low, high = (found[edge].clip(FLOOR / 2) for edge in ("lower", "upper"))
        axes.vlines(x, low, high, color=colour, lw=2, alpha=0.35)
        ends.append((METHODS[str(method)].label, colour, float(x.iloc[-1]), float(y.iloc[-1])))
    mark_budgets(axes, 0.01)
    return ends


def mark_budgets(axes: Axes, at: float | None = None) -> None:
    """A line at every budget, named where x is `at`; without a name where the axis has it as a tick."""
    for budget in BUDGETS:
        axes.axhline(budget, color="0.8", lw=0.7, zorder=0)
        if at is not None:
            axes.text(at, budget, f"+{budget:g}", fontsize=7, color="0.45", va="bottom")
