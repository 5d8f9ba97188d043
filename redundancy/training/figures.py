"""Figures of training runs, drawn from their folders and never from live objects."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labbook import style
from redundancy.aggregate import CONTROL_NAMES
from redundancy.probe.figures import LOOK
from redundancy.training.tables import DRIVERS, PAPER_COURSE, Course

DRIVER_COLOURS = dict(zip(DRIVERS, (*(style.PALETTE[i] for i in (1, 3, 0, 4)), "0.85"), strict=True))


def _steps(axes: Axes, steps: pd.Series) -> None:
    """A logarithmic axis of training steps with room for step 0."""
    first = steps[steps > 0].min() if (steps > 0).any() else 1
    axes.set_xscale("symlog", linthresh=first)
    axes.set(xlabel="training step (logarithmic, 0 apart)", xlim=(-first / 4, steps.max() * 1.3))


def training_course(course: Course) -> Figure:
    """R and centred R2 over training, the probe beside every control, with the validation loss and the
    paper's table 7.
    """
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 3.9))
    overall = course.overall[course.overall["against"].fillna("") == ""]
    feature = course.headline.feature
    for axes, metric, label in zip(
        panels,
        ("R", "R2"),
        ("R of Definition 1 (share of the norm)", "centred R² (share of the variance)"),
        strict=False,
    ):
        rows = overall[overall["metric"] == metric]
        style.band(
            axes,
            rows[rows["feature"] == feature],
            f"probe ({feature})",
            (style.PALETTE[0], "o", "-"),
            2.0,
            over="step",
        )
        for name, title in CONTROL_NAMES.items():
            style.band(axes, rows[rows["feature"] == name], title, LOOK[name], over="step")
        _steps(axes, rows["step"])
        axes.axhline(0, color="0.6", lw=0.6)
        axes.set(ylabel=label, ylim=(min(-0.1, max(-0.5, rows["estimate"].min() - 0.05)), 1.02))
    handles, labels = panels[0].get_legend_handles_labels()
    probe = overall[(overall["metric"] == "R") & (overall["feature"] == feature)].sort_values("step")
    _loss_panel(panels[2], course.losses.sort_values("step"), probe)
    figure.legend(handles, labels, frameon=False, fontsize=7, ncol=7, loc="outside lower center")
    n = int(course.losses["n"].iloc[0])
    figure.suptitle(
        f"{course.headline.model}: redundancy over training, means over layers; 95 % intervals over {n} "
        f"held-out {course.headline.unit}s",
        fontsize=9,
    )
    return figure


def _loss_panel(axes: Axes, loss: pd.DataFrame, probe: pd.DataFrame) -> None:
    """R of the probe against the loss, by step, beside the paper's."""
    axes.plot(
        loss["estimate"], probe["estimate"], color=style.PALETTE[0], marker="o", ms=4, label="this model"
    )
    axes.errorbar(
        loss["estimate"],
        probe["estimate"],
        fmt="none",
        color=style.PALETTE[0],
        lw=0.8,
        yerr=[(probe["estimate"] - probe["lower"]).clip(0), (probe["upper"] - probe["estimate"]).clip(0)],
        xerr=[
            (loss["estimate"] - loss["lower"]).clip(0).to_numpy(),
            (loss["upper"] - loss["estimate"]).clip(0).to_numpy(),
        ],
    )
    paper = pd.DataFrame(PAPER_COURSE, columns=["step", "R", "loss"])
    axes.plot(
        paper["loss"],
        paper["R"],
        color="0.3",
        marker="s",
        ms=4,
        ls="-.",
        label="paper, GPT-2 124M (no interval)",
    )
    axes.invert_xaxis()
    axes.set(
        xlabel="loss (nats per token; other tokenizer in the paper)",
        ylabel="R of Definition 1",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, fontsize=7)


def training_layers(course: Course) -> Figure:
    """Centred R2 and R of the probe at every layer over training."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
    feature = course.headline.feature
    chosen = course.layers[course.layers["feature"] == feature]
    depth = sorted(chosen["layer"].unique())
    colours = dict(zip(depth, sns.color_palette("viridis", len(depth)), strict=True))
    for axes, metric, label in zip(panels, ("R", "R2"), ("R of Definition 1", "centred R²"), strict=True):
        for layer in depth:
            rows = chosen[(chosen["layer"] == layer) & (chosen["metric"] == metric)]
            style.band(axes, rows, f"layer {layer}", (colours[layer], "o", "-"), over="step")
        _steps(axes, chosen["step"])
        axes.set(ylabel=label, ylim=(-0.1, 1.02))
    if len(depth) <= 12:
        panels[1].legend(frameon=False, fontsize=7)
    n = int(course.losses["n"].iloc[0])
    figure.suptitle(
        f"{course.headline.model}: the probe by layer (dark to light), 95 % bands over {n} held-out "
        f"{course.headline.unit}s",
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
            range(len(steps)),
            rows["estimate"],
            bottom=bottom,
            yerr=error,
            color=DRIVER_COLOURS[driver],
            label=driver,
            error_kw={"lw": 0.8},
            width=0.8,
        )
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
        style.band(panels[1], spread[spread["metric"] == metric], label, look, over="step")
    _steps(panels[1], spread["step"])
    panels[1].set(ylabel="share", ylim=(0, 1.02))
    panels[1].legend(frameon=False, fontsize=7)
    n = int(course.losses["n"].iloc[0])
    figure.suptitle(
        f"{course.headline.model}: what makes attention predictable, means over layers; 95 % intervals "
        f"over {n} held-out {course.headline.unit}s",
        fontsize=9,
    )
    return figure


COURSE_FIGURES = {
    "training_course": training_course,
    "training_layers": training_layers,
    "training_drivers": training_drivers,
}


def draw_course(folder: Path, destination: Path) -> list[Path]:
    """Draw every figure of the training run in `folder` as PNG and PDF into `destination`. Raises UserError
    if it is not one.
    """
    return style.draw(Course.read(folder), COURSE_FIGURES, destination)
