"""The look of every figure: one theme, a palette that the colour-blind can tell apart, a PNG and a PDF."""

import io
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from labbook.console import UserError

if TYPE_CHECKING:
    from IPython import display

# Okabe & Ito's palette as seaborn ships it: blue, orange, green, vermilion, purple, brown, pink, grey,
# yellow, sky
PALETTE = sns.color_palette("colorblind")
# inches; shown 830 pixels wide, as on a project page, a point is 1.4 pixels, so nothing is set below 7 points
WIDTH = 8.3


def apply() -> None:
    """Set the theme; call once before drawing."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=1.1)
    mpl.rcParams.update(
        {
            "figure.dpi": 90,
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


def title(figure: Figure, text: str) -> None:
    """The title of a figure, folded to its width."""
    figure.suptitle("\n".join(textwrap.fill(line, 100) for line in text.split("\n")), fontsize=9)


def name_lines(axes: Axes, names: Sequence[tuple[str, Any, float, float]], size: float = 7.5) -> None:
    """Write the names of lines to the right of the axes, each in its colour and joined to its end.

    Parameters
    ----------
    names : name, colour, and x and y of the line's end, in the units of the data. Call it last: limits and
        scales have to be final.
    size : of the text, in points.
    """
    names = [one for one in names if np.isfinite(one[3])]
    points = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted()).height * 72
    heights = np.array([1.35 * size * (1 + name.count("\n")) / points for name, *_ in names])
    wanted = [float(axes.transAxes.inverted().transform(axes.transData.transform(n[2:]))[1]) for n in names]
    order = np.argsort(np.clip(wanted, 0, 1), kind="stable")
    places, tall = np.clip(wanted, 0, 1)[order], heights[order]
    gaps = (tall[:-1] + tall[1:]) / 2
    for _ in range(500):
        close = np.maximum(gaps - np.diff(places), 0) / 2
        places[:-1] -= close
        places[1:] += close
    # a stack that leaves the axes is moved back as a whole
    if len(places):
        places += max(-float(places[0]), 0) - max(float(places[-1]) - 1, 0)
    for place, which in zip(places, order, strict=True):
        text, colour, x, y = names[which]
        y = min(max(y, min(axes.get_ylim())), max(axes.get_ylim()))
        axes.annotate(
            text,
            (x, y),
            (1.06, place),
            textcoords="axes fraction",
            color=colour,
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.5,
                "shrinkA": 1,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def folder(run: str) -> Path:
    """The run folder that a notebook names. Raises UserError when there is none."""
    path = Path(run).expanduser()
    if not path.is_dir():
        raise UserError(f"RUN names {run}, and there is no such folder (seen from {Path.cwd()}). Change RUN.")
    return path


def destination(run: str, shipped: str, figures: str) -> Path:
    """Where a notebook writes the figures of `run`: those of the `shipped` run into the folder `figures` of
    the project, of another run folder into that folder, of a table or series into runs/figures-NAME.

    The environment variable FIGURES names another place.
    """
    if "FIGURES" in os.environ:
        return Path(os.environ["FIGURES"])
    path = Path(run).expanduser()
    if run == shipped or (path.is_dir() and path.resolve() == Path(shipped).resolve()):
        return Path(figures)
    return path if path.is_dir() else Path(figures).parent / "runs" / f"figures-{path.stem}"


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
    files. The PNG has a palette of 256 colours, which makes it a quarter of the size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    with_palette(drawn, paths[0])
    figure.savefig(paths[1], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paths


def show(figure: Figure, folder: Path, name: str) -> "display.Image":
    """Save a figure as `save` does and return it for the last line of a notebook's cell, at the resolution of
    the screen. What a notebook draws by itself has no palette and is twice to three times the size.
    """
    from IPython import display  # there where notebooks run

    save(figure, folder, name)
    drawn, shown = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi, bbox_inches="tight")
    with_palette(drawn, shown)
    plt.close(figure)
    return display.Image(shown.getvalue())


def with_palette(drawn: IO[bytes], to: Path | IO[bytes]) -> None:
    """Write an image as a PNG with 256 colours. Maximum coverage is the choice of colours that moved no pixel
    of our figures by more than 20 of 255 levels (median cut moved some by 79); one step of k-means from there
    brings large areas back to their own colour, without which light grey turned green.
    """
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, 1, dither=Image.Dither.NONE)
        few.save(to, format="PNG", optimize=True, dpi=image.info["dpi"])
