"""Figures of training runs, drawn from their folders and never from live objects."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labbook import style
from redundancy.aggregate import CONTROL_NAMES, UPDATES
from redundancy.facts import subject
from redundancy.probe.figures import LOOK
from redundancy.training.tables import DRIVERS, Course

DRIVER_COLOURS = dict(zip(DRIVERS, (*(style.PALETTE[i] for i in (1, 3, 0, 4)), "0.85"), strict=True))


# shuffled targets reach what the means reach, by construction: they are in the tables
CONTROLS = {name: title for name, title in CONTROL_NAMES.items() if "shuffled" not in name}


def _steps(axes: Axes, steps: pd.Series) -> None:
    """A logarithmic axis of training steps with room for step 0; few checkpoints stand side by side."""
    measured = sorted(float(step) for step in steps.unique())
    if len(measured) < 4:
        axes.set_xticks(measured, [f"{step:,.0f}" for step in measured])
        room = 0.25 * (measured[-1] - measured[0]) or 1.0
        axes.set(xlabel="training step", xlim=(measured[0] - room, measured[-1] + room))
        return
    first = min(step for step in measured if step > 0)
    axes.set_xscale("symlog", linthresh=first)
    axes.set(xlabel="training step (logarithmic, 0 apart)", xlim=(-first / 4, measured[-1] * 1.3))


def training_course(course: Course) -> Figure:
    """R and centred R2 over training, the probe beside the controls; R against the loss, beside the paper's
    table 7.
    """
    figure, panels = plt.subplots(3, 1, figsize=(style.WIDTH, 9.0))
    overall = course.overall[course.overall["against"].fillna("") == ""]
    feature = course.headline.feature
    looks = {feature: (f"probe ({feature})", (style.PALETTE[0], "o", "-"), 2.0)}
    looks |= {name: (title, LOOK[name], 1.2) for name, title in CONTROLS.items()}
    for axes, metric, label in zip(
        panels,
        ("R", "R2"),
        ("R of Definition 1 (share of the norm)", "centred R² (share of the variance)"),
        strict=False,
    ):
        rows, ends = overall[overall["metric"] == metric], []
        for name, (text, look, width) in looks.items():
            own = rows[rows["feature"] == name].sort_values("step")
            if len(own):
                style.band(axes, own, text, look, width, over="step")
                last = own.iloc[-1]
                ends.append((text, look[0], float(last["step"]), float(last["estimate"])))
        _steps(axes, rows["step"])
        axes.axhline(0, color="0.6", lw=0.6)
        shown = rows[rows["feature"].isin(looks)]
        axes.set(ylabel=label, ylim=(min(-0.05, max(-0.5, shown["estimate"].min() - 0.05)), 1.02))
        style.name_lines(axes, ends, 8)
    probe = overall[(overall["metric"] == "R") & (overall["feature"] == feature)].sort_values("step")
    _loss_panel(panels[2], course.losses.sort_values("step"), probe, course.headline.paper.rows)
    n = int(course.losses["n"].iloc[0])
    style.title(
        figure,
        f"{subject(course)}: redundancy over training, means over layers; 95 % "
        f"intervals over {n} held-out {course.headline.unit}s",
    )
    return figure


def _loss_panel(
    axes: Axes, loss: pd.DataFrame, probe: pd.DataFrame, stated: Sequence[tuple[int, float, float]]
) -> None:
    """R of the probe against the loss, by step, beside the paper's where it states one."""
    axes.errorbar(
        loss["estimate"],
        probe["estimate"],
        fmt="o-",
        ms=4,
        color=style.PALETTE[0],
        lw=1.2,
        yerr=[(probe["estimate"] - probe["lower"]).clip(0), (probe["upper"] - probe["estimate"]).clip(0)],
        xerr=[
            (loss["estimate"] - loss["lower"]).clip(0).to_numpy(),
            (loss["upper"] - loss["estimate"]).clip(0).to_numpy(),
        ],
    )
    paper = pd.DataFrame(list(stated), columns=["step", "R", "loss"])
    axes.plot(paper["loss"], paper["R"], color="0.3", marker="s", ms=4, ls="-.")
    ours = [
        (float(x), float(y), s)
        for x, y, s in zip(loss["estimate"], probe["estimate"], loss["step"], strict=True)
    ]
    theirs = [
        (float(x), float(y), s) for x, y, s in zip(paper["loss"], paper["R"], paper["step"], strict=True)
    ]
    for points, colour, name, offset in (
        (ours, style.PALETTE[0], "this model", -11),
        (theirs, "0.3", "preprint, GPT-2 124M (no interval)", 6),
    ):
        if not points:
            continue
        # the first and the last checkpoint say which way training goes
        for x, y, step in (points[0], points[-1]):
            axes.annotate(
                f"step {step:,}",
                (x, y),
                (0, offset),
                textcoords="offset points",
                fontsize=7,
                color=colour,
                ha="center",
            )
        x, y, _ = points[-1]
        axes.annotate(
            name, (x, y), (0, 2.6 * offset), textcoords="offset points", fontsize=8, color=colour, ha="center"
        )
    axes.invert_xaxis()
    axes.set(
        xlabel="loss, falling (nats per token; another tokenizer in the preprint)",
        ylabel="R of Definition 1",
        ylim=(0, 1.05),
    )


def training_layers(course: Course) -> Figure:
    """Centred R2 and R of the probe at every layer over training."""
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDTH, 3.8))
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
    # every layer of a shallow model is named, of a deep one the first, the middle and the last
    named = depth if len(depth) <= 12 else [depth[0], depth[len(depth) // 2], depth[-1]]
    last = chosen[(chosen["metric"] == "R2") & (chosen["step"] == chosen["step"].max())].set_index("layer")
    style.name_lines(
        panels[1],
        [(f"layer {n}", colours[n], float(chosen["step"].max()), float(last["estimate"][n])) for n in named],
    )
    n = int(course.losses["n"].iloc[0])
    style.title(
        figure,
        f"{subject(course)}: the probe by layer (dark to light), 95 % bands over {n} held-out "
        f"{course.headline.unit}s",
    )
    return figure


def training_drivers(course: Course) -> Figure:
    """What explains the energy of the attention output at each checkpoint, and how attention spreads."""
    figure, panels = plt.subplots(2, 1, figsize=(style.WIDTH, 6.6))
    means = course.drivers[course.drivers["layer"] == "mean"]
    steps = sorted(means["step"].unique())
    bottom, parts = pd.Series(0.0, index=range(len(steps))), []
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
        share = float(rows["estimate"].iloc[-1])
        shade = "0.45" if driver == DRIVERS[-1] else DRIVER_COLOURS[driver]
        parts.append((driver, shade, len(steps) - 0.6, float(bottom.iloc[-1]) + share / 2))
        bottom = bottom + rows["estimate"]
    panels[0].set_xticks(range(len(steps)), [f"{s:,}" for s in steps])
    panels[0].set(
        xlabel="training step",
        ylabel="share of the energy\nΣ‖a‖² explained",
        xlim=(-0.6, len(steps) - 0.4),
    )
    style.name_lines(panels[0], parts, 8)
    spread = course.attention[course.attention["layer"] == "mean"]
    looks = {
        "entropy_share": ("entropy, as a share of\nthat of an even spread", (style.PALETTE[0], "o", "-")),
        "on_position_0": ("weight on position 0", (style.PALETTE[3], "s", "-")),
        "on_self": ("weight on the token itself", (style.PALETTE[2], "^", "-")),
        "on_previous": ("weight on the token before", (style.PALETTE[4], "D", "-")),
    }
    ends = []
    for metric, (label, look) in looks.items():
        rows = spread[spread["metric"] == metric].sort_values("step")
        style.band(panels[1], rows, label, look, over="step")
        ends.append((label, look[0], float(rows["step"].iloc[-1]), float(rows["estimate"].iloc[-1])))
    _steps(panels[1], spread["step"])
    panels[1].set(ylabel="share of attention", ylim=(0, 1.02))
    style.name_lines(panels[1], ends, 8)
    n = int(course.losses["n"].iloc[0])
    style.title(
        figure,
        f"{subject(course)}: what makes the {UPDATES[course.headline.target]} predictable, means over "
        f"layers; 95 % intervals over {n} held-out {course.headline.unit}s",
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
