"""Figures of cells beside one another, drawn from the tables of a run folder alone: memory and its use with
the contrasts of the factorial, and the way from the paper's settings to ours.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consolidation.config import VARIANTS
from consolidation.replicate.contrasts import (
    CELLS,
    CONTRASTS,
    LEAST_SEEDS,
    MARGIN,
    OUTCOMES,
    Analysis,
    Contrast,
)
from consolidation.replicate.factorial import Factorial
from consolidation.train.figures import draw_what_is_possible
from labbook import style
from labbook.run import read_finished

COLOURS = dict(zip(dict.fromkeys(model for model, _ in CELLS.values()), style.PALETTE, strict=False))
ANALYSES: dict[Analysis, str] = {
    "paired": "paired by seed",
    "mixed model": "mixed model",
    "paired, learnt seeds": "paired, without seeds that have not learnt",
}
SHOWN = {
    "at_recurring": "P(attend | recurring)",
    "novel": "novel queries right",
    "attention": "positions that attend",
}


def memory_and_use(of: Factorial) -> Figure:
    """Every cell's way over training in the plane of what the weights know and what the router reads; below,
    the contrasts with their intervals and the zone of no difference.
    """
    figure = plt.figure(figsize=(style.WIDTH, 9.0))
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    upper, lower = parts
    panels = upper.subplots(2, 3, sharex=True, sharey=True)
    for axes, letter in zip(panels.flat, CELLS, strict=True):
        _course(axes, of, letter)
    upper.supxlabel("share of recurring queries answered with attention knocked out", fontsize=9)
    upper.supylabel("P(attend | recurring)", fontsize=9)
    _contrasts(lower.subplots(), of)
    steps = int(of.courses["step"].max())
    style.title(
        figure,
        f"Memory and its use, {of.keys} key codes, attention priced at {of.price:g}, {steps:,} steps. Each "
        "cell's way from the first step (○) to the last (●), mean over seeds; thin: single seeds. "
        "Points: steps at which attention was knocked out, powers of two and the last",
    )
    return figure


def _course(axes: Axes, of: Factorial, letter: str) -> None:
    """One cell: single seeds, and their mean with the steps on it."""
    rows = of.courses.query("cell == @letter").dropna(subset=["known"])
    seeds = of.seeds(letter)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    if rows.empty:
        axes.set_title(f"{letter}: not run", fontsize=8.5)
        return
    model, patterns = seeds[["model", "patterns"]].iloc[0]
    colour = COLOURS[model]
    for _, one in rows.groupby("seed"):
        axes.plot(one["known"], one["attends"], color=colour, lw=0.5, alpha=0.5)
        axes.plot(one["known"].iloc[-1], one["attends"].iloc[-1], ".", ms=4, color=colour, alpha=0.6)
    mean = rows.groupby("step")[["known", "attends"]].mean()
    axes.plot(mean["known"], mean["attends"], ".-", ms=4, color=colour, lw=1.8)
    axes.plot(*mean.iloc[0], "o", ms=6, mfc="white", color=colour, zorder=3)
    axes.plot(*mean.iloc[-1], "o", ms=7, color=colour, mec="black", mew=0.8, zorder=4, clip_on=False)
    axes.set_title(
        f"{letter}: {VARIANTS[model].label}, {patterns} patterns\nn = {len(seeds)}, "
        f"{of.not_learnt(letter)} not learnt",
        fontsize=8,
    )


def _contrasts(axes: Axes, of: Factorial) -> None:
    """One row per contrast, and within it one mark per analysis."""
    axes.axvspan(-MARGIN, MARGIN, color="0.9", lw=0)
    axes.axvline(0, color="0.6", lw=0.8)
    colours = dict(zip(ANALYSES, (style.PALETTE[0], style.PALETTE[1], style.PALETTE[7]), strict=True))
    drawn = set[str]()
    for place, name in enumerate(CONTRASTS):
        for below, (analysis, said) in enumerate(ANALYSES.items()):
            one, colour = of.contrast(name, analysis), colours[analysis]
            height = -place + 0.24 - 0.22 * below
            if one.number.n < LEAST_SEEDS:  # which decide nothing
                continue
            axes.plot([one.number.lower, one.number.upper], [height, height], color=colour, lw=1)
            axes.plot([one.lower_90, one.upper_90], [height, height], color=colour, lw=3)
            label = None if said in drawn else said
            axes.plot(one.number.estimate, height, "o", ms=5, color=colour, label=label)
            drawn.add(said)
        main = of.contrast(name)
        if main.number.n < LEAST_SEEDS:
            axes.text(
                0.02, -place, too_few(main), transform=axes.get_yaxis_transform(), fontsize=8, va="center"
            )
        text = f"{main.state} (n = {main.number.n})\nnot learnt:\n{main.by_cell}"
        axes.text(1.01, -place, text, transform=axes.get_yaxis_transform(), fontsize=7, va="center")
    named = [f"{name}\n{_said(name)}" for name in CONTRASTS]
    axes.set_yticks([-place for place in range(len(named))], named, fontsize=8)
    axes.set(ylim=(-len(named) + 0.45, 0.6))
    axes.set_xlabel(
        f"difference in {OUTCOMES['attends']}; thin: 95 %, thick: 90 % interval; grey: within ±{MARGIN:.2f}",
        fontsize=9,
    )
    axes.legend(frameon=False, fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def too_few(one: Contrast) -> str:
    """What stands in the place of an interval that decides nothing."""
    if not one.number.n:
        return "n = 0: no seed has all cells"
    return f"{one.number.text(2, sign=True, n=True)}: fewer than {LEAST_SEEDS} seeds decide nothing"


def _said(name: str) -> str:
    """What a contrast asks, in words."""
    if name not in ("B - A", "C - A", "F - A", "E - D"):
        return "does load change it?"
    model, load = CELLS[name[0]]
    return VARIANTS[model].label + (f", load × {load}" if load > 1 else "")


def published(cells: pd.DataFrame) -> Figure:
    """From the paper's settings to ours, one step at a time: use of attention, novel answers and attention in
    all, from the rows of the table `published` of `cells.csv`.
    """
    rows = cells[cells["table"] == "published"]
    names = sorted(dict.fromkeys(rows["cell"]), key=_step)
    figure, panels = plt.subplots(1, 3, figsize=(style.WIDTH, 1.6 + 0.34 * len(names)), sharey=True)
    for axes, (metric, said) in zip(panels, SHOWN.items(), strict=True):
        by = rows[rows["metric"] == metric].set_index("cell")
        for place, name in enumerate(names):
            if name in by.index:
                estimate, lower, upper = by.loc[name, ["estimate", "lower", "upper"]].astype(float)
                colour = style.PALETTE[3 if name.startswith(("all published", "published")) else 0]
                axes.plot([lower, upper], [-place, -place], color=colour, lw=1.4)
                axes.plot(estimate, -place, "o", ms=5, color=colour)
        axes.set(xlim=(-0.02, 1.02))
        axes.set_xlabel(said, fontsize=9)
        axes.grid(axis="y", color="0.93")
    optimum = rows.loc[rows["metric"] == "attention", "optimum"].iloc[0]
    panels[2].axvline(optimum, color="0.5", ls=":", lw=0.9)
    panels[2].set_xscale("symlog", linthresh=0.01)
    panels[2].set_xlim(-0.002, 1.3)
    counts = rows[rows["metric"] == "novel"].set_index("cell")["n"]
    panels[0].set_yticks(
        [-place for place in range(len(names))],
        [f"{name} (n = {counts.get(name, 0)})" for name in names],
        fontsize=8,
    )
    style.title(
        figure,
        "From the paper's settings (vermilion) to ours (blue), one step at a time; mean and 95 % interval "
        "over seeds; dotted, the optimum of eq 13",
    )
    return figure


def _step(name: str) -> int:
    """Where a cell stands on the way from the paper's settings to ours."""
    order = ("all published", "published, ", "ours, ", "all ours")
    return next(place for place, head in enumerate(order) if name.startswith(head))


def draw(cells: pd.DataFrame, decided: Factorial | None, destination: Path) -> list[Path]:
    """Draw what the tables of a run hold as PNG and PDF."""
    paths = list[Path]()
    if decided is not None:
        paths += draw_what_is_possible(decided, {"factorial_memory_and_use": memory_and_use}, destination)
    if (cells["table"] == "published").any():
        paths += draw_what_is_possible(cells, {"published_settings": published}, destination)
    return paths


def draw_again(folder: Path, destination: Path) -> list[Path]:
    """Draw them from the tables of a finished run folder. Raises UserError where it is none, or damaged."""
    _, tables = read_finished(folder, ("cells",), "consolidation.replicate")
    decided = Factorial.read(folder) if (folder / "contrasts.csv").is_file() else None
    return draw(tables["cells"], decided, destination)
