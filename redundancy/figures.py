"""Figures of probe, removal and training runs, drawn from their folders and never from live objects."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labbook import style
from redundancy.controls import RANDOM
from redundancy.courses import DRIVERS, PAPER_COURSE, Course
from redundancy.losses import BUDGETS, ORDERS, Losses
from redundancy.tables import CONTROL_NAMES, Tables

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


def _line(
    axes: Axes, rows: pd.DataFrame, label: str, look: tuple[Any, str, str], width: float = 1.2, over: str = "layer"
) -> None:
    """Estimates over a column (layers or steps) with their intervals as a band."""
    rows, (colour, marker, line) = rows.sort_values(over), look
    axes.plot(rows[over], rows["estimate"], marker=marker, ls=line, ms=4, lw=width, color=colour, label=label)
    axes.fill_between(rows[over], rows["lower"], rows["upper"], color=colour, alpha=0.18, lw=0)


def by_layer(tables: Tables) -> Figure:
    """R and centred R2 by layer, the probe beside every control, the paper's mean where it has one."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8), sharex=True)
    feature = tables.summary["feature"]
    for axes, metric, label in zip(
        panels,
        ("R", "R2"),
        ("R of Definition 1 (share of the norm)", "centred R² (share of the variance)"),
        strict=True,
    ):
        chosen = tables.layers[tables.layers["metric"] == metric]
        _line(axes, chosen[chosen["feature"] == feature], f"probe ({feature})", (style.PALETTE[0], "o", "-"), 2.0)
        for name, title in CONTROL_NAMES.items():
            _line(axes, chosen[chosen["feature"] == name], title, LOOK[name])
        if metric == "R" and "paper" in tables.summary:
            axes.axhline(tables.summary["paper"]["R"], ls="-.", color="0.3", lw=1, label="paper, mean over layers")
        axes.axhline(0, color="0.6", lw=0.6)
        axes.set(xlabel="layer", ylabel=label, ylim=(min(-0.1, max(-0.5, chosen["estimate"].min() - 0.05)), 1.02))
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(
        f"{tables.summary['model']}: attention output predicted from {feature}\nbands are 95 % intervals over {tables.summary['metrics']['R']['n']} {tables.summary['unit']}s "
        f"(random weights: and {tables.summary['random_seeds']} seeds)",
        fontsize=9,
    )
    return figure


def by_head(tables: Tables) -> Figure:
    """R of every head, of the probe, of the training mean, and of the probe on random weights."""
    feature = tables.summary["feature"]
    chosen = tables.heads[tables.heads["metric"] == "R"]
    depth = chosen["layer"].nunique()
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 1.6 + 0.17 * max(depth, 8)), sharey=True)
    for axes, name, title in zip(
        panels,
        (feature, "training_mean", RANDOM),
        (f"probe ({feature})", "training mean", "random weights"),
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
        axes.set(title=title, xlabel="head", ylabel="layer" if axes is panels[0] else "")
    half = (chosen["upper"] - chosen["lower"])[chosen["feature"] == feature] / 2
    figure.suptitle(
        f"{tables.summary['model']}: R per head; median half-width of the probe's 95 % intervals {half.median():.3f}",
        fontsize=9,
    )
    return figure


def distribution(tables: Tables) -> Figure:
    """Distribution of R over tokens, mean over layers, of the probe, the training mean and random weights."""
    figure, axes = plt.subplots(figsize=(5.6, 3.6))
    probe = tables.summary["feature"]
    for name, title in ((probe, "probe"), ("training_mean", "training mean"), (RANDOM, "random weights")):
        rows = tables.distribution[tables.distribution["feature"] == name]
        part, below = rows[(rows["left"] >= -1) & (rows["right"] <= 1)], rows[rows["left"] < -1]["estimate"].sum()
        colour, _, line = LOOK.get(name, (style.PALETTE[0], "o", "-"))
        centre = (part["left"] + part["right"]) / 2
        label = f"{title} ({below:.1%} below −1)"
        axes.plot(centre, part["estimate"], drawstyle="steps-mid", color=colour, ls=line, label=label)
        axes.fill_between(centre, part["lower"], part["upper"], step="mid", color=colour, alpha=0.2, lw=0)
    axes.set(
        xlabel="R of a token (share of the norm)",
        ylabel="share of tokens per bin of 0.02",
        xlim=(-1, 1),
        ylim=(0, None),
    )
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"{tables.summary['model']}: R over tokens, mean over layers, 95 % bands", fontsize=9)
    return figure


FIGURES = {"redundancy_by_layer": by_layer, "redundancy_by_head": by_head, "redundancy_distribution": distribution}


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
    """Loss increase against the share of attention operations replaced, for every order; what each budget allows."""
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.8), width_ratios=(1.35, 1))
    axes = panels[0]
    for order, (colour, marker, line) in ORDER_LOOK.items():
        rows = losses.curve[losses.curve["order"] == order]
        wide = rows.pivot(index="target_share", columns="metric", values=["estimate", "lower", "upper"])
        if not len(wide):
            continue
        x = wide["estimate", "share"]
        axes.plot(x, wide["estimate", "loss_increase"], color=colour, marker=marker, ls=line, ms=4, label=ORDERS[order])
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
    for place, order in enumerate(ORDERS):
        for budget, shade in zip(BUDGETS, (0.35, 0.65, 1.0), strict=True):
            row = losses.removable[(losses.removable["order"] == order) & (losses.removable["budget"] == budget)]
            if len(row):
                e, below, above = (float(row[c].iloc[0]) for c in ("estimate", "lower", "upper"))
                if row["kind"].iloc[0] == "less than":
                    panels[1].annotate(
                        "", (0, -place), (above, -place), arrowprops={"arrowstyle": "<-", "color": ORDER_LOOK[order][0]}
                    )
                    continue
                panels[1].errorbar(
                    e, -place, xerr=[[max(e - below, 0)], [max(above - e, 0)]], fmt="o", ms=5, alpha=shade,
                    color=ORDER_LOOK[order][0], capsize=2,
                )  # fmt: skip
    panels[1].set(xlim=(0, None))
    panels[1].set_xlabel("share removable at\n+0.01 (pale), +0.05, +0.1 (dark) nats per token", fontsize=8)
    panels[1].set_yticks([-i for i in range(len(ORDERS))], list(ORDERS.values()), fontsize=7)
    n = losses.summary["loss_intact"]["n"]
    figure.suptitle(
        f"{losses.summary['model']}: attention replaced by what hidden state and position predict, 95 % intervals over {n} held-out {losses.summary['unit']}s",
        fontsize=9,
    )
    return figure


def removal_by_layer(losses: Losses) -> Figure:
    """One layer replaced, and all layers up to one: the loss that each replacement costs."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
    table = losses.substitution[losses.substitution["metric"] == "loss_increase"]
    titles = {"layers": "one layer replaced", "cumulative": "layers 0 to l replaced"}
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        for name, (label, look) in REPLACEMENTS.items():
            rows = table[(table["part"] == part) & (table["replacement"] == name)]
            if len(rows):
                _line(axes, rows, label, look)
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
    n = losses.summary["loss_intact"]["n"]
    figure.suptitle(f"{losses.summary['model']}: 95 % bands over {n} held-out {losses.summary['unit']}s", fontsize=9)
    return figure


def removal_recovered(losses: Losses) -> Figure:
    """Centred R² of the probe beside the share of the loss that it recovers, by layer; loss increase by head."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
    predictors, table = losses.predictors, losses.substitution
    for metric, label, look in (
        ("R", "R", (style.PALETTE[4], "D", "-")),
        ("R2", "centred R²", (style.PALETTE[0], "o", "-")),
    ):
        rows = predictors[(predictors["predictor"] == "resid_pre") & (predictors["metric"] == metric)]
        _line(panels[0], rows, label, look)
    one = table[(table["part"] == "layers") & (table["replacement"] == "probe")]
    _line(panels[0], one[one["metric"] == "loss_recovered"], "loss recovered", (style.PALETTE[3], "s", "--"))
    panels[0].set(xlabel="layer", ylabel="share", ylim=(-0.1, 1.05))
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend(frameon=False, fontsize=8)
    heads = table[(table["part"] == "heads") & (table["metric"] == "loss_increase")]
    wide = heads.pivot(index=["layer", "head"], columns="replacement", values=["estimate", "lower", "upper"])
    if len(wide):
        x, y = wide["estimate", "training_mean"], wide["estimate", "probe"]
        points = panels[1].scatter(x, y, c=wide.index.get_level_values("layer"), cmap="viridis", s=18, zorder=3)
        for value, other, vertical in ((y, x, True), (x, y, False)):
            name = "probe" if vertical else "training_mean"
            error = [(value - wide["lower", name]).clip(0), (wide["upper", name] - value).clip(0)]
            place = {"x": other, "y": value, "yerr": error} if vertical else {"x": value, "y": other, "xerr": error}
            panels[1].errorbar(**place, fmt="none", color="0.7", lw=0.7)
        edge = max(float(x.max()), float(y.max()))
        panels[1].plot([0, edge], [0, edge], color="0.6", lw=0.8, ls=":")
        figure.colorbar(points, ax=panels[1], label="layer")
    panels[1].set(
        xlabel="head replaced by its mean: loss increase (nats per token)", ylabel="by the probe: loss increase"
    )
    n = losses.summary["loss_intact"]["n"]
    figure.suptitle(
        f"{losses.summary['model']}: what is predicted and what it is worth; 95 % intervals over {n} held-out {losses.summary['unit']}s",
        fontsize=9,
    )
    return figure


# figure and the parts of a removal run that it shows
REMOVAL_FIGURES = {
    "removal_curve": (removal_curve, {"curve"}),
    "removal_by_layer": (removal_by_layer, {"layers", "cumulative"}),
    "removal_recovered": (removal_recovered, {"layers", "heads"}),
}


DRIVER_COLOURS = dict(zip(DRIVERS, (*(style.PALETTE[i] for i in (1, 3, 0, 4)), "0.85"), strict=True))


def _steps(axes: Axes, steps: pd.Series) -> None:
    """A logarithmic axis of training steps with room for step 0."""
    first = steps[steps > 0].min() if (steps > 0).any() else 1
    axes.set_xscale("symlog", linthresh=first)
    axes.set(xlabel="training step (logarithmic, 0 apart)", xlim=(-first / 4, steps.max() * 1.3))


def training_course(course: Course) -> Figure:
    """R and centred R2 over training, the probe beside every control, with the validation loss and the paper's table 7."""
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 3.9))
    overall = course.overall[course.overall["against"].fillna("") == ""]
    feature = course.summary["feature"]
    for axes, metric, label in zip(
        panels,
        ("R", "R2"),
        ("R of Definition 1 (share of the norm)", "centred R² (share of the variance)"),
        strict=False,
    ):
        rows = overall[overall["metric"] == metric]
        _line(
            axes, rows[rows["feature"] == feature], f"probe ({feature})", (style.PALETTE[0], "o", "-"), 2.0, over="step"
        )
        for name, title in CONTROL_NAMES.items():
            _line(axes, rows[rows["feature"] == name], title, LOOK[name], over="step")
        _steps(axes, rows["step"])
        axes.axhline(0, color="0.6", lw=0.6)
        axes.set(ylabel=label, ylim=(min(-0.1, max(-0.5, rows["estimate"].min() - 0.05)), 1.02))
    handles, labels = panels[0].get_legend_handles_labels()
    loss = course.losses.sort_values("step")
    probe = overall[(overall["metric"] == "R") & (overall["feature"] == feature)].sort_values("step")
    panels[2].plot(loss["estimate"], probe["estimate"], color=style.PALETTE[0], marker="o", ms=4, label="this model")
    panels[2].errorbar(
        loss["estimate"], probe["estimate"], fmt="none", color=style.PALETTE[0], lw=0.8,
        yerr=[(probe["estimate"] - probe["lower"]).clip(0), (probe["upper"] - probe["estimate"]).clip(0)],
        xerr=[(loss["estimate"] - loss["lower"]).clip(0).to_numpy(), (loss["upper"] - loss["estimate"]).clip(0).to_numpy()],
    )  # fmt: skip
    paper = pd.DataFrame(PAPER_COURSE, columns=["step", "R", "loss"])
    panels[2].plot(
        paper["loss"], paper["R"], color="0.3", marker="s", ms=4, ls="-.", label="paper, GPT-2 124M (no interval)"
    )
    panels[2].invert_xaxis()
    panels[2].set(
        xlabel="loss (nats per token; other tokenizer in the paper)", ylabel="R of Definition 1", ylim=(0, 1.02)
    )
    panels[2].legend(frameon=False, fontsize=7)
    figure.legend(handles, labels, frameon=False, fontsize=7, ncol=7, loc="outside lower center")
    n = int(course.losses["n"].iloc[0])
    figure.suptitle(
        f"{course.summary['model']}: redundancy over training, means over layers; 95 % intervals over {n} held-out {course.summary['unit']}s",
        fontsize=9,
    )
    return figure


def training_layers(course: Course) -> Figure:
    """Centred R2 and R of the probe at every layer over training."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
    feature = course.summary["feature"]
    chosen = course.layers[course.layers["feature"] == feature]
    depth = sorted(chosen["layer"].unique())
    colours = dict(zip(depth, sns.color_palette("viridis", len(depth)), strict=True))
    for axes, metric, label in zip(panels, ("R", "R2"), ("R of Definition 1", "centred R²"), strict=True):
        for layer in depth:
            rows = chosen[(chosen["layer"] == layer) & (chosen["metric"] == metric)]
            _line(axes, rows, f"layer {layer}", (colours[layer], "o", "-"), over="step")
        _steps(axes, chosen["step"])
        axes.set(ylabel=label, ylim=(-0.1, 1.02))
    if len(depth) <= 12:
        panels[1].legend(frameon=False, fontsize=7)
    n = int(course.losses["n"].iloc[0])
    figure.suptitle(
        f"{course.summary['model']}: the probe by layer (dark to light), 95 % bands over {n} held-out {course.summary['unit']}s",
        fontsize=9,
    )
    return figure


def training_drivers(course: Course) -> Figure:
    """What explains the energy of the attention output at each checkpoint, and how attention spreads."""
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 3.9))
    means = course.drivers[course.drivers["layer"] == "mean"]
    steps = sorted(means["step"].unique())
    bottom = pd.Series(0.0, index=range(len(steps)))
    for driver in DRIVERS:
        rows = means[means["driver"] == driver].set_index("step").loc[steps].reset_index()
        error = [(rows["estimate"] - rows["lower"]).clip(0), (rows["upper"] - rows["estimate"]).clip(0)]
        panels[0].bar(
            range(len(steps)), rows["estimate"], bottom=bottom, yerr=error, color=DRIVER_COLOURS[driver], label=driver,
            error_kw={"lw": 0.8}, width=0.8,
        )  # fmt: skip
        bottom = bottom + rows["estimate"]
    panels[0].set_xticks(range(len(steps)), [f"{s:,}" for s in steps], rotation=45, ha="right", fontsize=7)
    panels[0].set(xlabel="training step", ylabel="share of the energy Σ‖a‖² explained")
    panels[0].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    spread = course.attention[course.attention["layer"] == "mean"]
    looks = {
        "entropy_share": ("entropy / entropy of an even spread", (style.PALETTE[0], "o", "-")),
        "on_position_0": ("weight on position 0", (style.PALETTE[3], "s", "-")),
        "on_self": ("weight on the token itself", (style.PALETTE[2], "^", "-")),
        "on_previous": ("weight on the token before", (style.PALETTE[4], "D", "-")),
    }
    for metric, (label, look) in looks.items():
        _line(panels[1], spread[spread["metric"] == metric], label, look, over="step")
    _steps(panels[1], spread["step"])
    panels[1].set(ylabel="share", ylim=(0, 1.02))
    panels[1].legend(frameon=False, fontsize=7)
    n = int(course.losses["n"].iloc[0])
    figure.suptitle(
        f"{course.summary['model']}: what makes attention predictable, means over layers; 95 % intervals over {n} held-out {course.summary['unit']}s",
        fontsize=9,
    )
    return figure


COURSE_FIGURES = {
    "training_course": training_course,
    "training_layers": training_layers,
    "training_drivers": training_drivers,
}


def draw(folder: Path, destination: Path) -> list[Path]:
    """Draw every figure of the probe run in `folder` as PNG and PDF into `destination`. Raises UserError if it is not one."""
    return style.draw(Tables.read(folder), FIGURES, destination)


def draw_removal(folder: Path, destination: Path) -> list[Path]:
    """Draw the figures of the removal run in `folder` whose parts were run, as PNG and PDF. Raises UserError if it is not one."""
    losses = Losses.read(folder)
    parts = {*losses.substitution["part"], *(["curve"] if len(losses.curve) else [])}
    figures = {name: figure for name, (figure, needed) in REMOVAL_FIGURES.items() if needed <= parts}
    return style.draw(losses, figures, destination)


def draw_course(folder: Path, destination: Path) -> list[Path]:
    """Draw every figure of the training run in `folder` as PNG and PDF into `destination`. Raises UserError if it is not one."""
    return style.draw(Course.read(folder), COURSE_FIGURES, destination)
