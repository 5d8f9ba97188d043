"""Figures of one training run, drawn from its folder: attention and answers over training, knock-outs, and
P_episodic(k).
"""

from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consolidation.config import EXPOSURE_CLOCKS
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


def band(axes: Axes, course: pd.DataFrame, colour: Any, label: str, line: Any = "-") -> None:
    """Mean over seeds with the range of the seeds; `course` has one column per seed, `line` is its style."""
    course = course.dropna()
    axes.plot(
        course.index,
        course.mean(axis=1),
        ls=line,
        color=colour,
        lw=1.6,
        label=f"{label} (n = {course.shape[1]})",
    )
    axes.fill_between(course.index, course.min(axis=1), course.max(axis=1), color=colour, alpha=0.2, lw=0)


def _end(course: pd.DataFrame, name: str, colour: Any) -> tuple[str, Any, float, float]:
    """What `style.name_lines` takes: a name at the last mean of a line."""
    last = course.dropna().mean(axis=1)
    return (
        (name, colour, float(last.index[-1]), float(last.iloc[-1])) if len(last) else (name, colour, 0, nan)
    )


def progress(run: Path) -> Figure:
    """Share of positions that attend, right answers, and right answers to recurring queries with one part
    knocked out.
    """
    figure, panels = plt.subplots(3, 1, figsize=(style.WIDTH, 8.4), sharex=True)
    first = trajectory.summaries(run)[0]
    lines: list[list[tuple[str, str, str]]] = [
        [("attention", kind, label) for kind, label in KINDS.items()],
        [("accuracy", kind, label) for kind, label in KINDS.items() if kind != "other"],
        [(f"accuracy_without_{part}", "recurring", label) for part, label in KNOCKED.items()],
    ]
    labels = ("share of positions that attend", "right answers", "right answers,\nrecurring queries")
    ends = list[list[tuple[str, Any, float, float]]]()
    for axes, shown, label in zip(panels, lines, labels, strict=True):
        named = [
            (trajectory.course(run, metric, kind), name, colour)
            for (metric, kind, name), colour in zip(shown, style.PALETTE, strict=False)
        ]
        for course, name, colour in named:
            band(axes, course, colour, name)
        ends.append([_end(course, name, colour) for course, name, colour in named])
        for step in first.events.values():
            axes.axvline(step, color="0.85", lw=0.8, zorder=0)
        axes.set(ylabel=label, ylim=(-0.02, 1.03))
    panels[0].axhline(first.optimum, color="0.4", lw=0.9, ls=":")
    ends[0].append(("optimum of all (eq 13)", "0.4", panels[0].get_xlim()[1], first.optimum))
    panels[-1].set_xlabel("training step")
    style.title(
        figure, f"{first.label}: mean and range of n = {_seeds(run)} seeds; grey lines: the schedule's steps"
    )
    for axes, names in zip(panels, ends, strict=True):
        style.name_lines(axes, names, 8)
    return figure


def _seeds(run: Path) -> int:
    return len(trajectory.summaries(run))


def exposure(run: Path) -> Figure:
    """P_episodic(k) at recurring queries on the three clocks."""
    figure, panels = plt.subplots(1, len(EXPOSURE_CLOCKS), figsize=(style.WIDTH, 3.2), sharey=True)
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
    label = trajectory.summaries(run)[0].label
    style.title(figure, f"{label}: mean and range of n = {_seeds(run)} seeds")
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
