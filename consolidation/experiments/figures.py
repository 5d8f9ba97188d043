"""A figure of every experiment, drawn from its tables: the model's courses with their intervals over seeds,
and people's numbers where there are any on a matched measure.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consolidation.decay import humans
from consolidation.experiments.config import times_of
from consolidation.experiments.outcome import Outcome
from consolidation.experiments.practice import ALL
from consolidation.experiments.retention import CLOCK as ITEMS
from labbook import style

LABELS = {
    "cram": "CRAM",
    "control": "control without\nsemantic memory",
    "cram-rate": "CRAM, half the\nlearning rate",
    "cram-load": "CRAM, 64 new\npatterns, not 8",
}
SHORT = {"cram": "CRAM", "control": "control", "cram-rate": "half rate", "cram-load": "more load"}
KNOWN = "known without attention"
USED = "P(episodic)"
LINES = ("-", "--", ":", "-.")


def _seeds(table: pd.DataFrame) -> str:
    least, most = int(table["n"].min()), int(table["n"].max())
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"


def _course(
    axes: Axes, table: pd.DataFrame, measure: str, ends: list[Any], name: str, colour: Any, line: str = "-"
) -> None:
    """One course with its interval; its end is noted for the names of the lines."""
    rows = table[(table["measure"] == measure) & (table["x"] >= 0)].dropna(subset=["estimate"])
    if len(rows):
        style.band(axes, rows, name, (colour, "", line), over="x")
        last = rows.sort_values("x").iloc[-1]
        ends.append((name, colour, float(last["x"]), float(last["estimate"])))


def _axes(axes: Axes, x: str, y: str, title: str = "", *, log: bool = True) -> None:
    axes.set(xlabel=x, ylabel=y, ylim=(-0.03, 1.03))
    if log:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
    axes.set_title(title, fontsize=9)


def _dots(axes: Axes, rows: pd.DataFrame, names: list[str], colours: list[Any]) -> None:
    """Estimates with intervals, one below the other, and a line at 0."""
    for place, (row, colour) in enumerate(zip(rows.to_dict("records"), colours, strict=True)):
        axes.plot([row["lower"], row["upper"]], [-place, -place], color=colour, lw=1.4)
        axes.plot(row["estimate"], -place, "o", ms=5, color=colour)
    axes.axvline(0, color="0.6", lw=0.8, ls=":")
    axes.set_yticks([-i for i in range(len(names))], names, fontsize=7.5)


def practice(outcome: Outcome) -> Figure:
    """Knowledge and use of attention by repetitions, for cohorts that came at different steps; and the
    effects of exposures and of steps apart.
    """
    figure, panels = plt.subplots(3, 1, figsize=(style.WIDTH, 9.6))
    table, effects = outcome.tables["courses"], outcome.tables["identification"]
    effects = effects[effects["seeds"] == ALL]
    for axes, measure, label in ((panels[0], "knowledge", KNOWN), (panels[1], "probability", USED)):
        ends: list[Any] = []
        for condition, line in zip(table["condition"].unique(), LINES, strict=False):
            for role, colour in zip(("practised", "later", "new"), style.PALETTE, strict=False):
                rows = table[(table["condition"] == condition) & (table["role"] == role)]
                _course(axes, rows, measure, ends, f"{role}, {SHORT[condition]}", colour, line)
        _axes(axes, "exposures k", label)
        style.name_lines(axes, ends, 7)
    said = {"knowledge": KNOWN, "probability": USED}
    names = [
        f"{said[row['measure']]}: {row['effect']}, {SHORT[row['condition']]}"
        for row in effects.to_dict("records")
    ]
    colours = [style.PALETTE[0 if effect == "k given step" else 1] for effect in effects["effect"]]
    _dots(panels[2], effects, names, colours)
    panels[2].set_xlabel("change per factor of ten")
    at = times_of(outcome.quick)
    style.title(
        figure,
        f"Practice: cohorts that came at step {at.come:,} (practised), {at.retired:,} (later) and "
        f"{at.back:,} (new); mean of {_seeds(table)}, bands and bars are 95 % intervals",
    )
    return figure


def retention(outcome: Outcome) -> Figure:
    """The model's recall since a cohort was retired, and people's by intervening items."""
    figure, panels = plt.subplots(2, 1, figsize=(style.WIDTH, 6.6))
    table, ends = outcome.tables["courses"], list[Any]()
    for condition, colour in zip(table["condition"].unique(), style.PALETTE, strict=False):
        rows = table[table["condition"] == condition]
        _course(panels[0], rows, "knowledge", ends, LABELS[condition], colour)
    _axes(panels[0], "exposures to other patterns since", KNOWN)
    style.name_lines(panels[0], ends)
    ends = []
    for name, colour in zip(outcome.tables["people"]["series"], style.PALETTE, strict=False):
        curve = humans.load(name)
        panels[1].plot(curve.x, curve.y, "o-", ms=3, lw=1, color=colour)
        ends.append((humans.title(name), colour, float(curve.x[-1]), float(curve.y[-1])))
    _axes(panels[1], f"{ITEMS.counts} ({ITEMS.unit})", "share recalled", "people")
    style.name_lines(panels[1], ends)
    style.title(
        figure,
        f"Retention: cohorts retired at step {times_of(outcome.quick).retired:,}; mean of {_seeds(table)}, "
        "bands are 95 % intervals",
    )
    return figure


def savings(outcome: Outcome) -> Figure:
    """First learning and relearning by steps, and savings beside people's."""
    table, claims = outcome.tables["courses"], outcome.claims_table()
    conditions = list(table["condition"].unique())
    figure, panels = plt.subplots(len(conditions) + 1, 1, figsize=(style.WIDTH, 2.9 * (len(conditions) + 1)))
    for axes, condition in zip(panels, conditions, strict=False):
        ends: list[Any] = []
        names = {
            "relearnt, again": "relearnt",
            "new": "new patterns at\nthe same step",
            "relearnt, first": "its own first",
        }
        for (role, said), colour in zip(names.items(), style.PALETTE, strict=False):
            rows = table[(table["condition"] == condition) & (table["role"] == role)]
            _course(axes, rows, "knowledge", ends, said, colour)
        _axes(axes, "steps since the cohort is shown (again)", KNOWN, LABELS[condition])
        style.name_lines(axes, ends)
    people = outcome.tables["people"]
    told = [
        f"{SHORT[row['condition']]}: {str(row['name']).removeprefix('relearning is faster than ')}"
        for row in claims.to_dict("records")
    ]
    _dots(panels[-1], claims, told, [style.PALETTE[0]] * len(claims))
    panels[-1].axvspan(people["least"].min(), people["largest"].max(), color="0.9", zorder=0)
    panels[-1].set_xlabel("savings (shaded: people's, other retention intervals)")
    at = times_of(outcome.quick)
    style.title(
        figure,
        f"Savings: a cohort that comes back after {at.back - at.retired:,} steps; mean of {_seeds(table)}, "
        "bands and bars are 95 % intervals",
    )
    return figure


def spacing(outcome: Outcome) -> Figure:
    """Knowledge after massed and spread study at equal lags."""
    table, contrasts = outcome.tables["courses"], outcome.tables["contrasts"]
    conditions = list(table["condition"].unique())
    figure, panels = plt.subplots(len(conditions) + 1, 1, figsize=(style.WIDTH, 2.9 * (len(conditions) + 1)))
    for axes, condition in zip(panels, conditions, strict=False):
        ends: list[Any] = []
        names = {"spread": "spread", "massed": "massed", "massed 4": "massed, tested at\nthe same step"}
        for (role, said), colour in zip(names.items(), style.PALETTE, strict=False):
            rows = table[(table["condition"] == condition) & (table["role"] == role)]
            _course(axes, rows[rows["n"] > 1], "knowledge", ends, said, colour)
        _axes(axes, "steps since the last exposure", KNOWN, LABELS[condition])
        style.name_lines(axes, ends)
    shown = contrasts[contrasts["measure"] == "knowledge"]
    told = [
        f"{SHORT[row['condition']]}: against {row['against']}, lag {row['lag']}"
        for row in shown.to_dict("records")
    ]
    colours = [style.PALETTE[0 if str(one).startswith("all") else 1] for one in shown["against"]]
    _dots(panels[-1], shown, told, colours)
    panels[-1].tick_params(axis="y", labelsize=5.5)
    panels[-1].set(xlabel=f"{KNOWN}: spread - massed", xlim=(-1, 1))
    at = times_of(outcome.quick)
    shown_for = at.retired - at.come
    style.title(
        figure,
        f"Spacing: {shown_for // 4} steps of exposure in a row or over {shown_for} steps; mean of "
        f"{_seeds(table)}, bands and bars are 95 % intervals",
    )
    return figure


def frequency(outcome: Outcome) -> Figure:
    """Knowledge and use of attention by frequency, at one step and at equal exposures."""
    table = outcome.tables["ranks"]
    figure, grid = plt.subplots(2, 2, figsize=(style.WIDTH, 6.2), sharex=True, sharey=True)
    for row, (measure, said) in enumerate((("knowledge", KNOWN), ("probability", USED))):
        for axes, where in zip(grid[row], ("one step", "100 exposures"), strict=True):
            for condition, colour in zip(table["condition"].unique(), style.PALETTE, strict=False):
                chosen = (table["condition"] == condition) & (table["measure"] == f"{measure} at {where}")
                label = LABELS[condition].replace("\n", " ")
                style.band(axes, table[chosen], label, (colour, "o", "-"), over="frequency")
            axes.set(xscale="log", ylim=(-0.03, 1.03), ylabel=said)
            axes.set_title(f"at {where}", fontsize=9)
    for axes in grid[1]:
        axes.set_xlabel("frequency relative to the most frequent")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    style.title(
        figure, f"Frequency: Zipf's law within a cohort; mean of {_seeds(table)}, bands are 95 % intervals"
    )
    return figure


FIGURES: dict[str, Callable[[Outcome], Figure]] = {
    "practice": practice,
    "retention": retention,
    "savings": savings,
    "spacing": spacing,
    "frequency": frequency,
}


def draw(outcome: Outcome, folder: Path) -> list[Path]:
    """The figure of an experiment as PNG and PDF, experiments_NAME, into `folder`."""
    return style.draw(outcome, {f"experiments_{outcome.name}": FIGURES[outcome.name]}, folder)
