"""Figures of training runs, drawn from run folders: attention over training, where memory lives, quality and
phase plane, P_episodic(k), tables beside the paper.

A folder of runs holds one folder per model (`cram`, `control`, ...), each with `seed-*`, as `python -m
consolidation.replicate` and `python -m consolidation.train --out DIR/MODEL` leave them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consolidation.config import EXPOSURE_CLOCKS, VARIANTS
from consolidation.decay import humans
from consolidation.replicate.tabulation import METRICS, PAPER, metrics, over_seeds
from consolidation.theory import fit_phase_planes
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from consolidation.train.figures import KINDS, KNOCKED, band, draw_what_is_possible
from labbook import style
from labbook.console import UserError, warn

PAPER_STEPS = 10_000
CRAM = ("cram",)
# a dashed line whose gaps are as long as its dashes
GAPS = (0, (4, 4))


@dataclass(frozen=True)
class Runs:
    """Finished runs by model, in the order of `rivals.VARIANTS`."""

    folders: dict[str, Path]

    @property
    def summaries(self) -> dict[str, list[trajectory.SeedSummary]]:
        """Summaries of all seeds by model."""
        return {name: trajectory.summaries(folder) for name, folder in self.folders.items()}


def read_runs(folder: Path) -> Runs:
    """Every finished run in a folder. Raises UserError when there is none of CRAM."""
    found = {name: folder / name for name in VARIANTS if list((folder / name).glob("seed-*/summary.json"))}
    if "cram" not in found:
        raise UserError(
            f"{folder} holds no finished run of cram (cram/seed-*/summary.json). Make one with `python -m "
            "consolidation.replicate`."
        )
    return Runs(found)


def _paper(series: str) -> pd.DataFrame:
    return pd.read_csv(humans.DATA / "paper_figures.csv").query("series == @series")


def setting(runs: Runs) -> str:
    """What was trained on what, as titles say it."""
    _, facts = trajectory.read(trajectory.seeds(runs.folders["cram"])[0] / "trajectory.parquet")
    cram, benchmark = facts["config"]["cram"], facts["config"]["benchmark"]
    return (
        f"CRAM with {cram['keys']} keys on the synthetic benchmark SRCD, {benchmark['patterns']} patterns, "
        f"N = {benchmark['length']}"
    )


def _end(course: pd.DataFrame) -> tuple[float, float]:
    """Last step, and the mean over seeds there."""
    mean = course.dropna().mean(axis=1)
    return float(mean.index[-1]), float(mean.iloc[-1])


def _seeds(runs: Runs, *names: str) -> str:
    """How many seeds each of these models has."""
    counts = sorted({len(found) for name, found in runs.summaries.items() if name in names})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def attention(runs: Runs) -> Figure:
    """Share of positions routed to attention over training, ours and the paper's, and ours by kind of
    position.
    """
    figure = plt.figure(figsize=(style.WIDTH, 8.2))
    grid = figure.add_gridspec(3, 1, height_ratios=(1.35, 1, 1))
    panels = [figure.add_subplot(grid[row]) for row in range(3)]
    first = next(iter(runs.summaries["cram"]))
    pressure = first.events.get("routing pressure sets in", 0)
    axes, ends = panels[0], []
    axes.set(yscale="log", xlabel="training step", ylabel="share of positions that attend", ylim=(0.008, 1.5))
    for (name, folder), colour in zip(runs.folders.items(), style.PALETTE, strict=False):
        if VARIANTS[name].layer in ("cram", "seqboat"):
            course = trajectory.course(folder, "attention")
            band(axes, course[course.index >= pressure], colour, VARIANTS[name].label)
            ends.append((f"{VARIANTS[name].label} (n = {course.shape[1]})", colour, *_end(course)))
    axes.set_xlim(0, first.steps)
    # until attention has a price, held-out routing is anything from nothing to everything, by seed: the range
    # is said and not drawn
    axes.axvspan(0, pressure, color="0.94", lw=0)
    if pressure:
        axes.text(
            pressure / 2,
            0.1,
            "attention is free:\nnone to all, by seed",
            rotation=90,
            fontsize=7,
            color="0.4",
            ha="center",
            va="center",
        )
    for bound, said in (
        (first.static, "best static routing (theorem 1)"),
        (first.optimum, "optimum (eq 13)"),
    ):
        axes.axhline(bound, color="0.4", lw=0.9, ls=":")
        ends.append((f"{said}: {bound:.3g}", "0.4", first.steps, bound))
    for height, (name, step) in zip((0.97, 0.87), first.events.items(), strict=False):
        axes.axvline(step, color="0.8", lw=0.8, zorder=0)
        axes.annotate(
            name,
            (step, height),
            (3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=7,
            color="0.4",
            va="top",
        )
    style.name_lines(axes, ends)
    axes, ends = panels[1], []
    axes.set(
        yscale="log", xlabel="share of training", ylabel="share that attends", xlim=(0, 1), ylim=(0.008, 1.2)
    )
    ours = _relative(trajectory.course(runs.folders["cram"], "attention"), first.steps)
    band(axes, ours[ours.index >= pressure / first.steps], style.PALETTE[0], "CRAM, here")
    ends.append(("CRAM, here", style.PALETTE[0], *_end(ours)))
    for series, colour, label in (
        ("fig2_cram_attention_percent", style.PALETTE[1], "preprint, figure 2"),
        ("fig3a_cram_attention_percent", style.PALETTE[3], "preprint, figure 3A"),
    ):
        points = _paper(series)
        x, y = points["x"] / PAPER_STEPS, points["y"] / 100
        axes.plot(x, y, "o-", ms=2.5, lw=1, color=colour)
        ends.append((label, colour, float(x.iloc[-1]), float(y.iloc[-1])))
    style.name_lines(axes, ends)
    axes, ends = panels[2], []
    axes.set(xlabel="training step", ylabel="share that attends", xlim=(0, first.steps), ylim=(-0.02, 1.05))
    for name, line in (("cram", "-"), ("control", "--")):
        for kind, colour in (
            ("recurring", style.PALETTE[0]),
            ("novel", style.PALETTE[3]),
            ("other", style.PALETTE[7]),
        ):
            if name in runs.folders:
                course = trajectory.course(runs.folders[name], "attention", kind)
                axes.plot(course.mean(axis=1), line, color=colour, lw=1.3)
                if name == "cram":
                    ends.append((KINDS[kind], colour, *_end(course)))
    style.name_lines(axes, ends)
    axes.text(
        1.06,
        0.5,
        "solid: CRAM\ndashed: no semantic memory\n(means over seeds)",
        transform=axes.transAxes,
        fontsize=7.5,
        color="0.3",
        va="center",
    )
    style.title(figure, f"{setting(runs)}: where attention is spent; bands are the range of the seeds")
    return figure


def _relative(course: pd.DataFrame, steps: int) -> pd.DataFrame:
    return course.set_axis(course.index / steps)


def memory(runs: Runs) -> Figure:
    """Right answers to recurring queries with one part knocked out: where the memory of patterns lives."""
    shown = [name for name in ("cram", "control", "no-consolidation") if name in runs.folders]
    figure, grid = plt.subplots(2, 2, figsize=(style.WIDTH, 6.6), sharey=True)
    panels = list(grid.flat)
    for axes in panels:
        axes.set(xlabel="training step", ylabel="share of right answers", ylim=(0, 1.03))
        axes.set_xscale("symlog", linthresh=1)
    for axes, name in zip(panels, shown, strict=False):
        folder, ends = runs.folders[name], []
        parts = {"": "whole model"} | KNOCKED
        for (part, said), colour in zip(parts.items(), ("black", *style.PALETTE), strict=False):
            if part == "semantic" and name == "control":
                continue
            metric = f"accuracy_without_{part}" if part else "accuracy"
            course = trajectory.course(folder, metric, "recurring")
            band(axes, course, colour, said)
            ends.append((said.replace("without ", "− "), colour, *_end(course)))
        axes.set_title(f"{VARIANTS[name].label}: recurring queries", fontsize=9)
        axes.set_xlim(0, ends[0][2])
        style.name_lines(axes, ends, 7)
    axes, ends = panels[len(shown)], []
    for name, colour in zip(shown, style.PALETTE, strict=False):
        course = trajectory.course(runs.folders[name], "accuracy", "novel")
        band(axes, course, colour, VARIANTS[name].label)
        ends.append((VARIANTS[name].label, colour, *_end(course)))
    axes.axhline(_chance(runs), color="0.6", lw=0.8, ls=":")
    axes.set_title("whole models: novel queries", fontsize=9)
    axes.set_xlim(0, ends[0][2])
    style.name_lines(axes, [*ends, ("blind guess", "0.5", ends[0][2], _chance(runs))], 7)
    for axes in panels[len(shown) + 1 :]:
        axes.remove()
    style.title(
        figure,
        f"{setting(runs)}: a part knocked out (−) at evaluation; bands are the range of "
        f"{_seeds(runs, *shown)}",
    )
    return figure


def _chance(runs: Runs) -> float:
    _, facts = trajectory.read(trajectory.seeds(runs.folders["cram"])[0] / "trajectory.parquet")
    return 1 / int(facts["config"]["benchmark"]["values"])


def phase_plane(runs: Runs) -> Figure:
    """Mean quality and semantic share at queries, over training and against each other, with the fitted model
    of appendix C and its separatrix.
    """
    figure, panels = plt.subplots(3, 1, figsize=(style.WIDTH, 9.4), height_ratios=(1, 1.25, 1))
    folder = runs.folders["cram"]
    quality = trajectory.course(folder, "quality", "recurring", 0)
    predicted = trajectory.course(folder, "quality_predicted", "recurring")
    share = trajectory.course(folder, "semantic", "recurring")
    steps = runs.summaries["cram"][0].steps
    points, ends = _paper("fig3b_mean_quality"), []
    panels[0].set(xlabel="training step", ylabel="q or share", xlim=(0, steps), ylim=(0, 1.03))
    for course, colour, text, line in (
        (quality, style.PALETTE[0], "mean quality q", "-"),
        (predicted, style.PALETTE[1], "predicted q (router sees it)", "--"),
        (share, style.PALETTE[2], "share p to semantic memory", "-"),
    ):
        band(panels[0], course, colour, text, line)
        ends.append((text, colour, *_end(course)))
    at = points["x"] / PAPER_STEPS * steps
    panels[0].plot(at, points["y"], "o", ms=3, color=style.PALETTE[3])
    ends.append(
        (
            "mean q, preprint's figure 3B\n(by share of training)",
            style.PALETTE[3],
            float(at.iloc[-1]),
            float(points["y"].iloc[-1]),
        )
    )
    style.name_lines(panels[0], ends)
    share = share.reindex(quality.index)
    # the model is about consolidation, so it starts where routing begins to cost
    begun = quality.index >= runs.summaries["cram"][0].events.get("routing pressure sets in", 0)
    _phase_panels(panels[1], panels[2], quality, share, begun)
    seeds = _seeds(runs, "cram")
    style.title(
        figure,
        f"{setting(runs)}: quality and semantic routing at recurring queries; bands are the range of {seeds}",
    )
    return figure


def _phase_panels(plane: Axes, course: Axes, quality: pd.DataFrame, share: pd.DataFrame, begun: Any) -> None:
    """Every seed in the plane of q and p and over training, with the fitted model of appendix C."""
    at = quality.index[begun].to_numpy(float)
    model = fit_phase_planes(at, quality[begun].to_numpy(float).T, share[begun].to_numpy(float).T)
    star, explained, fixed = (
        model.numbers[name] for name in ("q_star", "explained", "explained_from_observed")
    )
    plane.set(
        xlabel="mean quality q at recurring queries",
        ylabel="share p routed to\nsemantic memory",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    course.set(
        xlabel="training step", ylabel="q and p, each seed", ylim=(-0.03, 1.03), xlim=(0, quality.index[-1])
    )
    blue, green, red = (style.PALETTE[i] for i in (0, 2, 3))
    for fitted, (name, q) in zip(model.fits, quality.items(), strict=True):
        p, path, edge = share[name], fitted.path(at), fitted.separatrix()
        plane.plot(q[~begun], p[~begun], ".-", ms=2, lw=0.4, color=style.PALETTE[7])
        plane.plot(q[begun], p[begun], "o-", ms=2, lw=0.7, color=blue)
        plane.plot(path[0], path[1], "--", lw=0.9, color=red)
        plane.plot(*fitted.start, "o", ms=4, mfc="none", color=red, clip_on=False)
        plane.plot(*fitted.observed, "X", ms=5, color="black", clip_on=False)
        plane.plot(edge[:, 0], edge[:, 1], ":", lw=0.8, color="0.4")
        for values, found, colour in ((q, path[0], blue), (p, path[1], green)):
            course.plot(values, lw=0.8, color=colour)
            course.plot(at, found, "--", lw=0.8, color=colour)
    said = (
        ("·–  before routing pressure", style.PALETTE[7]),
        (f"•–  after it, {len(model.fits)} seeds", blue),
        (f"- -  appendix C, its start (○) fitted:\n       R² {explained.text(2)}", red),
        (f"✕  observed start: R² {fixed.text(2)}", "black"),
        (f"· ·  separatrix, q* = {star.text(2)}", "0.4"),
    )
    for place, (text, colour) in zip((0.92, 0.78, 0.58, 0.38, 0.24), said, strict=True):
        plane.text(1.06, place, text, transform=plane.transAxes, fontsize=7.5, color=colour, va="center")
    style.name_lines(
        course,
        [
            (text, colour, float(values.index[-1]), float(values.iloc[-1].mean()))
            for text, colour, values in (
                ("q (dashed: appendix C)", blue, quality),
                ("p (dashed: appendix C)", green, share),
            )
        ],
    )


def exposure(runs: Runs) -> Figure:
    """P_episodic(k) on the three clocks, with the points of the paper's figure 4A, whose clock is not
    defined.
    """
    figure, panels = plt.subplots(3, 1, figsize=(style.WIDTH, 8.0), sharey=True)
    points = _paper("fig4a_p_episodic")
    shown = [name for name in ("cram", "control", "no-consolidation") if name in runs.folders]
    for axes, clock in zip(panels, EXPOSURE_CLOCKS, strict=True):
        axes.set(xscale="log", yscale="log", xlabel=f"k: {clock}", ylabel="P(episodic)", ylim=(1e-3, 1.4))
        ends = []
        for (name, folder), colour in zip(runs.folders.items(), style.PALETTE, strict=False):
            if name not in shown:
                continue
            curve = episodic_curve(folder, clock)
            course = pd.DataFrame({"k": curve.x, "seed": curve.unit, "p": curve.y}).pivot(
                index="k", columns="seed", values="p"
            )
            # CRAM's line shows in the gaps of what runs along it
            line = GAPS if name == "no-consolidation" else "-"
            band(axes, course, colour, VARIANTS[name].label, line)
            ends.append((VARIANTS[name].label, colour, *_end(course)))
        axes.plot(points["x"], points["y"], "o", ms=3.5, color="black")
        axes.annotate(
            "preprint's figure 4A\n(its clock is not defined)",
            (points["x"].iloc[-4], points["y"].iloc[-4]),
            (-8, -26),
            textcoords="offset points",
            fontsize=7.5,
            ha="center",
        )
        axes.autoscale(axis="x")
        style.name_lines(axes, ends)
    style.title(
        figure,
        f"{setting(runs)}: P(episodic) at recurring queries by earlier exposures; bands are the "
        f"range of {_seeds(runs, *shown)}",
    )
    return figure


def beside_the_paper(runs: Runs) -> Figure:
    """Retrieval, attention share and dynamics error of every model, beside tables 1 and 4."""
    shown = ("retrieval", "novel", "attention", "dynamics_mse")
    figure, grid = plt.subplots(2, 2, figsize=(style.WIDTH, 2.4 + 0.55 * len(runs.folders)), sharey=True)
    panels = list(grid.flat)
    for axes, metric in zip(panels, shown, strict=True):
        for place, (name, found) in enumerate(runs.summaries.items()):
            values = np.array([metrics(s)[metric] for s in found])
            number = over_seeds(values[np.isfinite(values)], metric)
            axes.plot(values, np.full(len(values), -place), "|", ms=8, color="0.6")
            if number.n > 1:
                axes.plot([number.lower, number.upper], [-place, -place], color=style.PALETTE[0], lw=1.4)
            axes.plot(
                number.estimate,
                -place,
                "o",
                ms=5,
                color=style.PALETTE[0],
                label="here: mean, 95 % interval, seeds (grey)" if place == 0 else None,
            )
            for table in ("table1", "table4"):
                stated = PAPER.get((table, name), {}).get(metric)
                if stated is not None:
                    axes.plot(
                        stated,
                        -place + 0.22,
                        "D" if table == "table1" else "s",
                        ms=4.5,
                        mfc="none",
                        color=style.PALETTE[3],
                        label=f"preprint, table {table[-1]}",
                    )
        axes.set(xlabel=METRICS[metric])
        axes.margins(y=0.08)
    panels[2].axvline(runs.summaries["cram"][0].optimum, color="0.5", ls=":", lw=0.9)
    panels[2].set_xscale("symlog", linthresh=0.01)
    panels[2].set_xlim(-0.002, 1.6)
    names = [f"{VARIANTS[n].label} (n = {len(s)})" for n, s in runs.summaries.items()]
    panels[0].set_yticks([-i for i in range(len(names))], names)
    for axes in (panels[0], panels[2]):
        axes.tick_params(axis="y", labelsize=8)
    panels[2].annotate(
        "optimum (eq 13)",
        (runs.summaries["cram"][0].optimum, -len(names) + 0.6),
        (4, 0),
        textcoords="offset points",
        fontsize=7,
        color="0.4",
    )
    handles = dict(zip(*reversed(panels[2].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    style.title(figure, f"{setting(runs)}, beside the preprint's own tables")
    return figure


FIGURES = {
    "consolidation_attention": attention,
    "consolidation_memory": memory,
    "consolidation_phase_plane": phase_plane,
    "consolidation_exposure": exposure,
    "consolidation_tables": beside_the_paper,
}


def draw(folder: Path, destination: Path) -> list[Path]:
    """Draw every figure of the runs in `folder` as PNG and PDF into `destination`, and warn of those that the
    runs are not enough for.
    """
    try:
        runs = read_runs(folder)
    except UserError as error:
        warn(f"no figure is drawn: {error}")
        return []
    return draw_what_is_possible(runs, FIGURES, destination)
