"""Figures of a decay fit: data with fits and bands, residuals, the specification curve, and a forest plot
beside humans.
"""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from consolidation.decay.analysis import HUMAN_RANGE, Analysis, exponent_rows
from consolidation.decay.inference import collapse, units_of
from labbook import style
from labbook.escape import mathtext

SHOWN = 5
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))


def data_and_fits(found: Analysis) -> Figure:
    """The data with the best forms and the power law, on linear and on log-log axes, with residuals of the
    same forms.
    """
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 3.9))
    curve, comparison = found.curve, found.comparison
    names = list(comparison.table["form"][:SHOWN])
    if "power" in comparison.fits and "power" not in names:
        names[-1] = "power"
    data = collapse(curve, "nls", np.ones((1, len(units_of(curve)))))
    positive = data.x[data.x > 0]
    grid = np.geomspace(positive.min(), data.x.max(), 300)
    head = found.headline
    for axes in panels[:2]:
        if curve.unit is not None:
            axes.plot(curve.x, curve.y, ".", ms=2, color="0.8", zorder=0)
        axes.plot(
            data.x,
            data.y[0],
            "o",
            ms=5,
            color="black",
            label="data" if curve.unit is None else "mean of units",
            zorder=4,
        )
        for name, colour, line in zip(names, style.PALETTE, LINES, strict=False):
            axes.plot(grid, comparison.fits[name].predict(grid), color=colour, ls=line, label=name)
        if np.isfinite([head.lower, head.upper]).all():
            power = comparison.fits.get("power")
            if power is not None:
                # the power law through the same centre of the data with the exponents at both ends of the
                # interval
                centre = float(np.exp(np.mean(np.log(positive))))
                level = float(power.predict(np.array([centre]))[0])
                edges = [level * (grid / centre) ** -g for g in (head.lower, head.upper)]
                axes.fill_between(
                    grid,
                    np.minimum(*edges),
                    np.maximum(*edges),
                    color=style.PALETTE[7],
                    alpha=0.25,
                    lw=0,
                    label="95 % of gamma",
                )
        axes.set(xlabel=mathtext(curve.clock), ylabel=mathtext(curve.name))
    if (data.y > 0).all():
        panels[1].set(xscale="log", yscale="log", ylim=(float(data.y.min()) / 3, 2 * float(data.y.max())))
        panels[1].xaxis.set_minor_formatter(NullFormatter())
    panels[0].legend(frameon=False, fontsize=7)
    for name, colour in zip(names, style.PALETTE, strict=False):
        fitted = comparison.fits[name]
        panels[2].plot(fitted.x, fitted.y - fitted.fitted, "o-", ms=3, lw=0.8, color=colour, label=name)
    panels[2].axhline(0, color="0.6", lw=0.6)
    panels[2].set(xlabel=mathtext(curve.clock), ylabel="residual (data minus fit)")
    if (data.x > 0).all():
        panels[2].set_xscale("log")
        panels[2].xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(textwrap.fill(mathtext(comparison.verdict), 150), fontsize=8)
    return figure


def specification_curve(found: Analysis) -> Figure:
    """gamma of every specification, sorted, with the choices behind each below."""
    table = found.multiverse.table.dropna(subset=["gamma"])
    figure, panels = plt.subplots(2, 1, figsize=(9.5, 6.2), height_ratios=(1, 1.4), sharex=True)
    panels[0].axhspan(
        *HUMAN_RANGE, color=style.PALETTE[1], alpha=0.25, lw=0, label="human range of the preprint"
    )
    panels[0].plot(np.arange(len(table)), table["gamma"], ".", ms=3, color=style.PALETTE[0])
    panels[0].axhline(found.multiverse.summary["median"], color="black", lw=0.8, ls="--", label="median")
    low, high = table["gamma"].quantile([0.01, 0.99])
    panels[0].set(ylabel="gamma", ylim=(low - 0.1, high + 0.1))
    panels[0].legend(frameon=False, fontsize=8)
    rows: list[str] = []
    for column in ("form", "offset", "normalisation", "floor", "window", "estimator"):
        for value in dict.fromkeys(table[column]):
            panels[1].plot(
                np.flatnonzero(table[column] == value),
                np.full((table[column] == value).sum(), -len(rows)),
                "|",
                ms=4,
                color="0.3",
            )
            rows.append(f"{column}: {value}")
    panels[1].set_yticks([-i for i in range(len(rows))], rows, fontsize=6)
    panels[1].set(xlabel="specification, sorted by gamma")
    figure.suptitle(
        textwrap.fill(mathtext(f"{found.curve.name}: {found.multiverse.verdict}"), 150), fontsize=8
    )
    return figure


def forest(found: Analysis) -> Figure:
    """Exponents of this curve under every estimator, and of the human series on the same clock."""
    rows: list[tuple[str, float, float, float, Any]] = [
        (
            f"{found.curve.name}: {r.form}, {r.estimator}",
            r.gamma,
            r.lower,
            r.upper,
            style.PALETTE[0],
        )
        for r in exponent_rows(found.exponents)
    ]
    rows += [
        (h.name, h.number.estimate, h.number.lower, h.number.upper, style.PALETTE[3])
        for h in sorted(found.humans, key=lambda h: h.number.estimate)
    ]
    rows += [
        (f"{h.name} (other clock)", h.number.estimate, h.number.lower, h.number.upper, style.PALETTE[7])
        for h in sorted(found.shown, key=lambda h: h.number.estimate)
    ]
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.2 * len(rows)))
    axes.axvspan(*HUMAN_RANGE, color=style.PALETTE[1], alpha=0.25, lw=0, label="human range of the preprint")
    finite = [v for row in rows for v in row[1:4] if np.isfinite(v)]
    left, right = min(finite) - 0.05, max(finite) + 0.05
    for place, (_, estimate, lower, upper, colour) in enumerate(rows):
        axes.plot([max(lower, left), min(upper, right)], [-place, -place], color=colour, lw=1.2)
        axes.plot(estimate, -place, "o", ms=4, color=colour)
    axes.set_yticks([-i for i in range(len(rows))], [mathtext(row[0]) for row in rows], fontsize=7)
    axes.set(xlabel=mathtext(f"gamma, 95 % intervals; clock {found.curve.clock}"), xlim=(left, right))
    axes.legend(frameon=False, fontsize=7)
    return figure


FIGURES = {"decay_fits": data_and_fits, "decay_specifications": specification_curve, "decay_forest": forest}


def draw(found: Analysis, destination: Path) -> list[Path]:
    """Draw every figure as PNG and PDF into `destination`."""
    return style.draw(found, FIGURES, destination)
