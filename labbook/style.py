"""The look of every figure: one theme, a palette that the colour-blind can tell apart, a PNG and a PDF."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's palette as seaborn ships it: blue, orange, green, vermilion, purple, brown, pink, grey,
# yellow, sky
PALETTE = sns.color_palette("colorblind")


def apply() -> None:
    """Set the theme; call once before drawing."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=1.1)
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 160,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "pdf.fonttype": 42,
        }
    )


def band(
    axes: Axes,
    rows: pd.DataFrame,
    label: str,
    look: tuple[Any, str, str],
    width: float = 1.2,
    over: str = "layer",
) -> None:
    """Estimates over a column (layers or steps) with their intervals as a band."""
    rows, (colour, marker, line) = rows.sort_values(over), look
    axes.plot(rows[over], rows["estimate"], marker=marker, ls=line, ms=4, lw=width, color=colour, label=label)
    axes.fill_between(rows[over], rows["lower"], rows["upper"], color=colour, alpha=0.18, lw=0)


def draw(results: Any, figures: Mapping[str, Callable[[Any], Figure]], folder: Path) -> list[Path]:
    """Draw every figure of `results` into `folder` as PNG and PDF, each under its name."""
    paths = list[Path]()
    apply()
    for name, make in figures.items():
        drawn = make(results)
        paths += save(drawn, folder, name)
        plt.close(drawn)
    return paths


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png and `name`.pdf into `folder` without a date in them, so that equal figures are equal
    files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(paths[0], metadata={"Software": None})
    figure.savefig(paths[1], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paths
