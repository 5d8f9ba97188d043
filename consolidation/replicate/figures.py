"""Figures of training runs, drawn from run folders: attention over training, where memory lives, quality and
phase plane, P_episodic(k), tables beside the paper.

A folder of runs holds one folder per model (`cram`, `control`, ...), each with `seed-*`, as `python -m
consolidation.replicate` and `python -m consolidation.train --out DIR/MODEL` leave them.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from consolidation.config import VARIANTS
from consolidation.decay import humans
from consolidation.replicate.cells import METRICS, PAPER, metrics, over_seeds
from consolidation.srcd import EXPOSURE_CLOCKS
from consolidation.theory import fit_phase_planes
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from consolidation.train.figures import KNOCKED, band, draw_what_is_possible
from labbook import style
from labbook.console import UserError, warn

PAPER_STEPS = 10_000


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


def attention(runs: Runs) -> Figure:
    """Share of positions routed to attention over training, ours and the paper's, and ours by kind of
    position.
    """
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.0), width_ratios=(1.2, 1, 1))
    first = next(iter(runs.summaries["cram"]))
    for (name, folder), colour in zip(runs.folders.items(), style.PALETTE, strict=False):
        if VARIANTS[name].layer in ("cram", "seqboat"):
            band(panels[0], trajectory.course(folder, "attention"), colour, VARIANTS[name].label)
    for bound, line, said in (
        (first.static, "--", "best static routing (theorem 1)"),
        (first.optimum, ":", "optimum (eq 13)"),
    ):
        panels[0].axhline(bound, color="0.4", lw=0.9, ls=line, label=said)
    for name, step in first.events.items():
        panels[0].axvline(step, color="0.8", lw=0.8)
        panels[0].text(
            step,
            1.3,
            name.removeprefix("routing "),
            rotation=90,
            fontsize=6,
            color="0.5",
            va="bottom",
            ha="right",
        )
    panels[0].set(
        yscale="log", xlabel="training step", ylabel="share of positions that attend", ylim=(0.008, 9)
    )
    panels[0].legend(frameon=False, fontsize=6.5, loc="upper right")
    band(
        panels[1],
        _relative(trajectory.course(runs.folders["cram"], "attention"), first.steps),
        style.PALETTE[0],
        "CRAM, here",
    )
    for series, colour, label in (
        ("fig2_cram_attention_percent", style.PALETTE[1], "CRAM, the paper's figure 2"),
        ("fig3a_cram_attention_percent", style.PALETTE[3], "CRAM, the paper's figure 3A"),
    ):
        points = _paper(series)
        panels[1].plot(
            points["x"] / PAPER_STEPS, points["y"] / 100, "o-", ms=2.5, lw=1, color=colour, label=label
        )
    panels[1].set(yscale="log", xlabel="share of training", ylabel="share of positions that attend")
    panels[1].legend(frameon=False, fontsize=7)
    for number, (name, line) in enumerate((("cram", "-"), ("control", "--"))):
        for kind, colour in (
            ("recurring", style.PALETTE[0]),
            ("novel", style.PALETTE[3]),
            ("other", style.PALETTE[7]),
        ):
            if name in runs.folders:
                said = (
                    f"{VARIANTS[name].label}: "
                    + {"recurring": "recurring queries", "novel": "novel queries", "other": "no queries"}[
                        kind
                    ]
                )
                course = trajectory.course(runs.folders[name], "attention", kind).mean(axis=1)
                panels[2].plot(course.index, course, line, color=colour, lw=1.5 - 0.4 * number, label=said)
    panels[2].set(xlabel="training step", ylabel="share that attends, mean over seeds")
    panels[2].legend(frameon=False, fontsize=6.5)
    return figure


def _relative(course: pd.DataFrame, steps: int) -> pd.DataFrame:
    return course.set_axis(course.index / steps)


def memory(runs: Runs) -> Figure:
    """Right answers to recurring queries with one part knocked out: where the memory of patterns lives."""
    shown = [name for name in ("cram", "control", "no-consolidation") if name in runs.folders]
    figure, panels = plt.subplots(1, len(shown) + 1, figsize=(4.0 * (len(shown) + 1), 3.9), squeeze=False)
    for axes, name in zip(panels[0], shown, strict=False):
        folder = runs.folders[name]
        band(axes, trajectory.course(folder, "accuracy", "recurring"), "black", "whole model")
        for (part, said), colour in zip(KNOCKED.items(), style.PALETTE, strict=False):
            if part == "semantic" and name == "control":
                continue
            band(axes, trajectory.course(folder, f"accuracy_without_{part}", "recurring"), colour, said)
        axes.set(
            xlabel="training step",
            ylabel="right answers, recurring queries",
            title=VARIANTS[name].label,
            ylim=(0, 1.03),
        )
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=6, loc="upper left")
    axes = panels[0][-1]
    for name, colour in zip(shown, style.PALETTE, strict=False):
        band(
            axes,
            trajectory.course(runs.folders[name], "accuracy", "novel"),
            colour,
            f"{VARIANTS[name].label}, novel",
        )
    axes.axhline(_chance(runs), color="0.6", lw=0.8, ls=":", label="blind guess")
    axes.set(
        xlabel="training step", ylabel="right answers, novel queries", title="whole models", ylim=(0, 1.03)
    )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=6.5)
    return figure


def _chance(runs: Runs) -> float:
    _, facts = trajectory.read(trajectory.seeds(runs.folders["cram"])[0] / "trajectory.parquet")
    return 1 / int(facts["config"]["benchmark"]["values"])


def phase_plane(runs: Runs) -> Figure:
    """Mean quality and semantic share at queries, over training and against each other, with the fitted model
    of appendix C and its separatrix.
    """
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 3.9))
    folder = runs.folders["cram"]
    quality = trajectory.course(folder, "quality", "recurring", 0)
    predicted = trajectory.course(folder, "quality_predicted", "recurring")
    share = trajectory.course(folder, "semantic", "recurring")
    band(panels[0], quality, style.PALETTE[0], "mean q at recurring queries")
    band(panels[0], predicted, style.PALETTE[1], "predicted q, which the router sees", "--")
    band(panels[0], share, style.PALETTE[2], "share routed to semantic memory")
    points = _paper("fig3b_mean_quality")
    steps = runs.summaries["cram"][0].steps
    panels[0].plot(
        points["x"] / PAPER_STEPS * steps,
        points["y"],
        "o",
        ms=3,
        color=style.PALETTE[3],
        label="mean q, the paper's figure 3B (share of training)",
    )
    panels[0].set(xlabel="training step", ylabel="q, share", ylim=(0, 1.03))
    panels[0].legend(frameon=False, fontsize=6.5)
    share = share.reindex(quality.index)
    # the model is about consolidation, so it starts where routing begins to cost
    begun = quality.index >= runs.summaries["cram"][0].events.get("routing pressure sets in", 0)
    at = quality.index[begun].to_numpy(float)
    model = fit_phase_planes(at, quality[begun].to_numpy(float).T, share[begun].to_numpy(float).T)
    star, explained, fixed = (
        model.numbers[name] for name in ("q_star", "explained", "explained_from_observed")
    )
    for seed, (fitted, (name, q)) in enumerate(zip(model.fits, quality.items(), strict=True)):
        p, path, edge = share[name], fitted.path(at), fitted.separatrix()

        def said(text: str, first: bool = seed == 0) -> str | None:
            return text if first else None

        panels[1].plot(
            q[~begun],
            p[~begun],
            ".-",
            ms=2,
            lw=0.4,
            color=style.PALETTE[7],
            label=said("before routing pressure"),
        )
        panels[1].plot(
            q[begun],
            p[begun],
            "o-",
            ms=2,
            lw=0.7,
            color=style.PALETTE[0],
            label=said(f"after, {len(model.fits)} seeds"),
        )
        fit_label = (
            f"appendix C, start fitted: R² {explained.estimate:.2f} [{explained.lower:.2f}, "
            f"{explained.upper:.2f}]"
        )
        panels[1].plot(path[0], path[1], "--", lw=0.9, color=style.PALETTE[3], label=said(fit_label))
        panels[1].plot(
            *fitted.start, "o", ms=4, mfc="none", color=style.PALETTE[3], label=said("its fitted start")
        )
        start_label = f"observed start: R² {fixed.estimate:.2f} [{fixed.lower:.2f}, {fixed.upper:.2f}]"
        panels[1].plot(*fitted.observed, "X", ms=5, color="black", label=said(start_label))
        edge_label = f"separatrix, q* = {star.estimate:.2f} [{star.lower:.2f}, {star.upper:.2f}]"
        panels[1].plot(edge[:, 0], edge[:, 1], ":", lw=0.8, color="0.4", label=said(edge_label))
        panels[2].plot(q.index, q, lw=0.8, color=style.PALETTE[0], label=said("q"))
        panels[2].plot(at, path[0], "--", lw=0.8, color=style.PALETTE[0], label=said("q, appendix C"))
        panels[2].plot(p.index, p, lw=0.8, color=style.PALETTE[2], label=said("p"))
        panels[2].plot(at, path[1], "--", lw=0.8, color=style.PALETTE[2], label=said("p, appendix C"))
    panels[1].set(
        xlabel="mean q at recurring queries",
        ylabel="share routed to semantic memory",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    # above the axes, because the trajectories fill them
    panels[1].legend(frameon=False, fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    panels[2].set(xlabel="training step", ylabel="q and p (semantic share), each seed", ylim=(-0.03, 1.03))
    panels[2].legend(frameon=False, fontsize=6.5)
    return figure


def exposure(runs: Runs) -> Figure:
    """P_episodic(k) on the three clocks, with the points of the paper's figure 4A, whose clock is not
    defined.
    """
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 3.9), sharey=True)
    points = _paper("fig4a_p_episodic")
    for axes, clock in zip(panels, EXPOSURE_CLOCKS, strict=True):
        for (name, folder), colour in zip(runs.folders.items(), style.PALETTE, strict=False):
            if name not in ("cram", "control", "no-consolidation"):
                continue
            curve = episodic_curve(folder, clock)
            band(
                axes,
                pd.DataFrame({"k": curve.x, "seed": curve.unit, "p": curve.y}).pivot(
                    index="k", columns="seed", values="p"
                ),
                colour,
                VARIANTS[name].label,
            )
        axes.plot(points["x"], points["y"], "o", ms=3.5, color="black", label="the paper's figure 4A")
        axes.set(xscale="log", yscale="log", xlabel=f"{clock}, k", ylim=(1e-3, 1.4))
    panels[0].set_ylabel("P(episodic) at recurring queries")
    panels[2].legend(frameon=False, fontsize=7)
    return figure


def beside_the_paper(runs: Runs) -> Figure:
    """Retrieval, attention share and dynamics error of every model, beside tables 1 and 4."""
    shown = ("retrieval", "novel", "attention", "dynamics_mse")
    figure, panels = plt.subplots(1, len(shown), figsize=(13, 1.2 + 0.36 * len(runs.folders)), sharey=True)
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
                label="here: mean, 95 % interval, seeds" if place == 0 else None,
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
                        label=f"paper, {table}",
                    )
        axes.set(xlabel=METRICS[metric])
    panels[2].axvline(runs.summaries["cram"][0].optimum, color="0.5", ls=":", lw=0.9)
    panels[2].set_xscale("symlog", linthresh=0.01)
    panels[2].set_xlim(-0.002, 1.6)
    names = [f"{VARIANTS[n].label} (n = {len(s)})" for n, s in runs.summaries.items()]
    panels[0].set_yticks([-i for i in range(len(names))], names, fontsize=7.5)
    handles = dict(zip(*reversed(panels[2].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=8
    )
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
