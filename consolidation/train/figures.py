"""Figures of one training run, drawn from its folder: attention and answers over training, knock-outs, and
P_episodic(k).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consolidation.srcd import EXPOSURE_CLOCKS
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from labbook import style
from labbook.console import UserError, warn

KINDS = {"recurring": "recurring queries", "novel": "novel queries", "other": "no queries"}
KNOCKED = {
    "attention": "without attention",
    "semantic": "without semantic memory",
    "working": "without working memory",
    "feed_forward": "without feed-forward",
    "all": "without all four",
}


def band(axes: Axes, course: pd.DataFrame, colour: Any, label: str, line: str = "-") -> None:
    """Mean over seeds with the range of the seeds; `course` has one column per seed."""
    course = course.dropna()
    axes.plot(
        course.index,
        course.mean(axis=1),
        line,
        color=colour,
        lw=1.6,
        label=f"{label} (n = {course.shape[1]})",
    )
    axes.fill_between(course.index, course.min(axis=1), course.max(axis=1), color=colour, alpha=0.2, lw=0)


def progress(run: Path) -> Figure:
    """Share of positions that attend, right answers, and right answers to recurring queries with one part
    knocked out.
    """
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 3.9))
    first = trajectory.summaries(run)[0]
    for (kind, label), colour in zip(KINDS.items(), style.PALETTE, strict=False):
        band(panels[0], trajectory.course(run, "attention", kind), colour, label)
        if kind != "other":
            band(panels[1], trajectory.course(run, "accuracy", kind), colour, label)
    panels[0].axhline(first.optimum, color="0.4", lw=0.9, ls=":", label="optimum of all (eq 13)")
    for part, colour in zip(KNOCKED, style.PALETTE, strict=False):
        course = trajectory.course(run, f"accuracy_without_{part}", "recurring")
        band(panels[2], course, colour, KNOCKED[part])
    for axes, label in zip(
        panels,
        ("share of positions that attend", "right answers", "right answers, recurring queries"),
        strict=True,
    ):
        for step in first.events.values():
            axes.axvline(step, color="0.85", lw=0.8, zorder=0)
        axes.set(xlabel="training step", ylabel=label, ylim=(0, 1.03))
        axes.legend(frameon=False, fontsize=6.5)
    figure.suptitle(first.label)
    return figure


def exposure(run: Path) -> Figure:
    """P_episodic(k) at recurring queries on the three clocks."""
    figure, panels = plt.subplots(1, len(EXPOSURE_CLOCKS), figsize=(12.5, 3.9), sharey=True)
    for axes, clock in zip(panels, EXPOSURE_CLOCKS, strict=True):
        curve = episodic_curve(run, clock)
        points = pd.DataFrame({"k": curve.x, "seed": curve.unit, "p": curve.y})
        band(
            axes,
            points.pivot(index="k", columns="seed", values="p"),
            style.PALETTE[0],
            curve.name,
        )
        axes.set(xscale="log", xlabel=f"{clock}, k", ylim=(0, 1.03))
    panels[0].set_ylabel("P(episodic) at recurring queries")
    panels[-1].legend(frameon=False, fontsize=7)
    return figure


FIGURES = {"train_progress": progress, "train_exposure": exposure}


def draw_what_is_possible(
    results: Any, figures: Mapping[str, Callable[[Any], Figure]], destination: Path
) -> list[Path]:
    """Draw figures as PNG and PDF, and warn of those that the runs are too short or too few for."""
    paths = list[Path]()
    for name, make in figures.items():
        try:
            paths += style.draw(results, {name: make}, destination)
        except UserError as error:
            plt.close("all")
            warn(f"{name} is not drawn: {error}")
    return paths


def draw(run: Path) -> list[Path]:
    """Draw every figure of a training run as PNG and PDF into its folder."""
    return draw_what_is_possible(run, FIGURES, run)
