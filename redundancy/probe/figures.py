"""Figures of probe runs, drawn from their folders and never from live objects."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from labbook import style
from redundancy.aggregate import CONTROL_NAMES, UPDATES
from redundancy.facts import subject
from redundancy.probe.tables import Tables
from redundancy.regression.controls import RANDOM

# colour, marker and line of each control, the same in every figure
LOOK: dict[str, tuple[Any, str, str]] = {
    "with_position": (style.PALETTE[9], "o", "--"),
    "training_mean": (style.PALETTE[1], "s", "-"),
    "position_mean": (style.PALETTE[2], "v", "-"),
    "token_mean": (style.PALETTE[3], "^", "-"),
    "previous_token": (style.PALETTE[4], "D", "-"),
    "shuffled": (style.PALETTE[7], "x", ":"),
    "aligned_shuffled": (style.PALETTE[7], "+", ":"),
    RANDOM: ("black", "P", "--"),
}


def by_layer(tables: Tables) -> Figure:
    """R and centred R2 by layer, the probe beside every control, the paper's mean where it has one."""
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDTH, 3.8), sharex=True)
    feature = tables.headline.feature
    for axes, metric, label in zip(
        panels,
        ("R", "R2"),
        ("R of Definition 1 (share of the norm)", "centred R² (share of the variance)"),
        strict=True,
    ):
        chosen = tables.layers[tables.layers["metric"] == metric]
        style.band(
            axes,
            chosen[chosen["feature"] == feature],
            f"probe ({feature})",
            (style.PALETTE[0], "o", "-"),
            2.0,
        )
        for name, title in CONTROL_NAMES.items():
            style.band(axes, chosen[chosen["feature"] == name], title, LOOK[name])
        if metric == "R" and tables.headline.paper:
            axes.axhline(tables.headline.paper.R, ls="-.", color="0.3", lw=1)
        axes.axhline(0, color="0.6", lw=0.6)
        axes.set(
            xlabel="layer", ylabel=label, ylim=(min(-0.1, max(-0.5, chosen["estimate"].min() - 0.05)), 1.02)
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
    ends = []
    for name, text, colour in (
        (feature, f"probe ({feature})", style.PALETTE[0]),
        *((name, text, LOOK[name][0]) for name, text in CONTROL_NAMES.items()),
    ):
        rows = tables.layers[(tables.layers["metric"] == "R2") & (tables.layers["feature"] == name)]
        if len(rows):
            last = rows.sort_values("layer").iloc[-1]
            ends.append((text, colour, float(last["layer"]), float(last["estimate"])))
    style.name_lines(panels[1], ends)
    if tables.headline.paper:
        panels[0].text(
            0, tables.headline.paper.R + 0.01, "preprint, mean over layers", fontsize=7, va="bottom"
        )
    style.title(
        figure,
        f"{subject(tables)}: {UPDATES[tables.headline.target]} predicted from {feature}\n95 % bands "
        f"over {tables.headline.metrics['R'].n} held-out {tables.headline.unit}s (random weights: and "
        f"{tables.headline.random_seeds} seeds)",
    )
    return figure


def by_head(tables: Tables) -> Figure:
    """R of every head, of the probe, of the previous token, of the training mean, and of the probe on random
    weights.
    """
    feature = tables.headline.feature
    chosen = tables.heads[tables.heads["metric"] == "R"]
    depth = chosen["layer"].nunique()
    figure, panels = plt.subplots(1, 4, figsize=(style.WIDTH, 1.6 + 0.17 * max(depth, 8)), sharey=True)
    for axes, name, title in zip(
        panels,
        (feature, "previous_token", "training_mean", RANDOM),
        (f"probe ({feature})", "previous token", "training mean", "random weights"),
        strict=True,
    ):
        grid = chosen[chosen["feature"] == name].pivot(index="layer", columns="head", values="estimate")
        sns.heatmap(
            grid,
            ax=axes,
            vmin=0,
            vmax=1,
            cmap="viridis",
            cbar=axes is panels[-1],
            cbar_kws={"label": "R (share of the norm)"},
            annot=grid.size <= 64,
            fmt=".2f",
            annot_kws={"size": 7},
        )
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="head", ylabel="layer" if axes is panels[0] else "")
        axes.tick_params(labelsize=7, labelrotation=0)
    half = (chosen["upper"] - chosen["lower"])[chosen["feature"] == feature] / 2
    style.title(
        figure,
        f"{subject(tables)}: R per head; median half-width of the probe's 95 % intervals {half.median():.3f}",
    )
    return figure


def distribution(tables: Tables) -> Figure:
    """Distribution of R over tokens, mean over layers, of the probe, the training mean and random weights."""
    figure, axes = plt.subplots(figsize=(style.WIDTH, 3.6))
    probe, peaks = tables.headline.feature, list[tuple[str, Any, float, float]]()
    for name, title in ((probe, "probe"), ("training_mean", "training mean"), (RANDOM, "random weights")):
        rows = tables.distribution[tables.distribution["feature"] == name]
        part, below = (
            rows[(rows["left"] >= -1) & (rows["right"] <= 1)],
            rows[rows["left"] < -1]["estimate"].sum(),
        )
        colour, _, line = LOOK.get(name, (style.PALETTE[0], "o", "-"))
        centre = (part["left"] + part["right"]) / 2
        label = f"{title} ({below:.1%} below −1)"
        axes.plot(centre, part["estimate"], drawstyle="steps-mid", color=colour, ls=line)
        top = int(part["estimate"].to_numpy().argmax())
        peaks.append((label, colour, float(centre.iloc[top]), float(part["estimate"].iloc[top])))
        axes.fill_between(centre, part["lower"], part["upper"], step="mid", color=colour, alpha=0.2, lw=0)
    axes.set(
        xlabel="R of a token (share of the norm)",
        ylabel="share of tokens per bin of 0.02",
        xlim=(-1, 1),
        ylim=(0, None),
    )
    style.name_lines(axes, peaks, 8)
    axes.set_title(
        f"{subject(tables)}: R over tokens, mean over layers, 95 % bands",
        fontsize=9,
    )
    return figure


FIGURES = {
    "redundancy_by_layer": by_layer,
    "redundancy_by_head": by_head,
    "redundancy_distribution": distribution,
}


def draw(folder: Path, destination: Path) -> list[Path]:
    """Draw every figure of the probe run in `folder` as PNG and PDF into `destination`. Raises UserError if
    it is not one.
    """
    return style.draw(Tables.read(folder), FIGURES, destination)
