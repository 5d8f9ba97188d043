"""Figures of a decay fit: data with fits and bands, residuals, the specification curve, and a forest plot
beside humans.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from consolidation.decay import humans
from consolidation.decay.analysis import HUMAN_RANGE, Analysis
from consolidation.decay.curve import Curve
from consolidation.decay.equivalence import Exponent
from consolidation.decay.exponents import ExponentRow, exponent_rows
from consolidation.decay.inference import Fit, collapse, units_of
from consolidation.decay.units import of_practice
from consolidation.fit.short import cited, withheld
from labbook import style
from labbook.escape import mathtext
from labbook.estimate import Array, Estimate

# classes of human measures, as the forest heads them
MEASURED = {
    "time": "time",
    "error": "errors",
    "recall": "what is recalled",
    "savings": "savings in relearning",
}
SHOWN = 5
# how far beyond all exponents the axis of the forest goes at most
CUT = 1.0
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))


def _registry() -> pd.DataFrame:
    return humans.list_series().set_index("series")


def quantity(curve: Curve) -> str:
    """What a curve measures, in words: of a series of the registry its measure, else the curve's own name."""
    table = _registry()
    return mathtext(table["measure"][curve.name] if curve.name in table.index else curve.name)


def source(curve: Curve) -> str:
    """Where a curve comes from: of a series of the registry the study, else the curve's own name."""
    table = _registry()
    return mathtext(table["study"][curve.name] if curve.name in table.index else curve.name)


def _name(form: str) -> str:
    return form.replace("_", " ")


def _drawn(fitted: Fit) -> str:
    """The name of a form beside its line, marked where the form leaves what y can be."""
    return f"{_name(fitted.form.name)}{' (impossible limit)' if fitted.impossible else ''}"


def data_and_fits(found: Analysis) -> Figure:
    """The data with the best forms and the power law, on linear and on log-log axes, with residuals of the
    same forms.
    """
    figure = plt.figure(figsize=(style.WIDTH, 6.6))
    grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1))
    linear, logarithmic = (figure.add_subplot(grid[0, i]) for i in (0, 1))
    residuals = figure.add_subplot(grid[1, :])
    curve, comparison = found.curve, found.comparison
    names = list(comparison.table["form"][:SHOWN])
    if "power" in comparison.fits and "power" not in names:
        names[-1] = "power"
    data = collapse(curve, "nls", np.ones((1, len(units_of(curve)))))
    positive = data.x[data.x > 0]
    points = np.geomspace(positive.min(), data.x.max(), 300)
    clock = mathtext(curve.clock)
    for axes in (linear, logarithmic):
        if curve.unit is not None:
            axes.plot(curve.x, curve.y, ".", ms=2, color="0.75", zorder=0)
        if found.apart is not None:
            axes.plot(found.apart.x, found.apart.y, "o", ms=11, mfc="none", mec=style.PALETTE[3], zorder=5)
        axes.plot(data.x, data.y[0], "o", ms=4.5, color="black", zorder=4)
        for name, colour, line in zip(names, style.PALETTE, LINES, strict=False):
            axes.plot(points, comparison.fits[name].predict(points), color=colour, ls=line)
        axes.set(xlabel=clock, ylabel=quantity(curve))
    drawn = drawn_power(found)
    if drawn is not None:
        _band_of_gamma(logarithmic, found, drawn, points)
    positive_y = bool((data.y > 0).all())
    if positive_y:
        logarithmic.set(xscale="log", yscale="log", ylim=(float(data.y.min()) / 3, 2 * float(data.y.max())))
        logarithmic.xaxis.set_minor_formatter(NullFormatter())
    seen = "data" if curve.unit is None else "black: mean of units"
    ends = [
        (
            _drawn(comparison.fits[name]),
            colour,
            points[-1],
            float(comparison.fits[name].predict(points[-1:])[0]),
        )
        for name, colour in zip(names, style.PALETTE, strict=False)
    ]
    style.name_lines(logarithmic, ends, 8)
    linear.set_title(f"linear axes ({seen})", fontsize=8.5)
    band = f"; grey: 95 % of γ of the power law, by {drawn.estimator}" if drawn else ""
    without_zero = "" if (data.x > 0).all() else ", which have no place for x = 0"
    scale = f"log-log axes{without_zero}" if positive_y else "linear axes, because some y are not positive"
    logarithmic.set_title(f"{scale}{band}", fontsize=8.5)
    ends = []
    for name, colour, line in zip(names, style.PALETTE, LINES, strict=False):
        fitted = comparison.fits[name]
        off = fitted.y - fitted.fitted
        residuals.plot(fitted.x, off, "o", ls=line, ms=3, lw=1, color=colour)
        ends.append((_drawn(fitted), colour, float(fitted.x[-1]), float(off[-1])))
    residuals.axhline(0, color="0.6", lw=0.6)
    residuals.set(xlabel=clock, ylabel="residual (data minus fit)")
    if (data.x > 0).all():
        residuals.set_xscale("log")
        residuals.xaxis.set_minor_formatter(NullFormatter())
    style.name_lines(residuals, ends, 8)
    style.title(
        figure, f"{source(curve)}. {mathtext(_readable(comparison.verdict, curve))}\n{_said_cited(found)}"
    )
    return figure


def _said_cited(found: Analysis) -> str:
    """The exponent that a text may cite, as a title says it."""
    one = cited(found)
    ring = "" if found.apart is None else " Ring: an observation that lies apart."
    if one is None:
        why = withheld(found)
        return f"No γ to cite{why and f': {mathtext(why)}'}.{ring}"
    return f"To cite: γ = {one.number.text()} of {_name(one.form)}.{ring}"


def _readable(verdict: str, curve: Curve) -> str:
    """A verdict without the name of its curve, which the title says in words."""
    text = verdict.removeprefix(f"{curve.name}: ")
    return text[:1].upper() + text[1:]


def drawn_power(found: Analysis) -> ExponentRow | None:
    """The exponent of the power law that is drawn, by the estimator of the noise that suits it best, which
    need not be that of the headline; None where it has no interval, and where the exponent with one is
    another: forms are compared on means of the units, exponents may be those of the units.
    """
    power = found.comparison.fits.get("power")
    if power is None:
        return None
    row = found.exponent("power", power.estimator)
    if row is None or not np.isfinite([row.lower, row.upper]).all():
        return None
    return row if math.isclose(power.exponent, row.gamma, rel_tol=1e-3) else None


def _band_of_gamma(axes: Axes, found: Analysis, drawn: ExponentRow, points: Array) -> None:
    """The power law through the centre of the data with the exponents at both ends of its interval."""
    x = found.curve.x
    centre = float(np.exp(np.mean(np.log(np.unique(x[x > 0])))))
    level = float(found.comparison.fits["power"].predict(np.array([centre]))[0])
    edges = [level * (points / centre) ** -g for g in (drawn.lower, drawn.upper)]
    axes.fill_between(points, np.minimum(*edges), np.maximum(*edges), color="0.6", alpha=0.25, lw=0)


def human_range(curve: Curve) -> tuple[float, float] | None:
    """The preprint's range of human exponents, which are of practice: None on a clock that counts no
    repetitions.
    """
    return HUMAN_RANGE if of_practice(curve.clock.counts) else None


# what varies between specifications, as the rows of the figure say it
CHOICES = ("clock", "form", "offset", "normalisation", "floor", "window", "estimator")


def specification(curve: Curve, row: ExponentRow) -> dict[str, str]:
    """The choices behind an exponent."""
    return {
        "clock": str(curve.clock),
        "form": row.form,
        "offset": "x",
        "normalisation": "as given",
        "floor": "none",
        "window": "all",
        "estimator": row.estimator,
    }


def specification_curve(found: Analysis) -> Figure:
    """gamma of every specification, sorted, with the choices behind each below; the default is marked, and
    the exponent that may be cited where it is another.
    """
    table = found.multiverse.table.dropna(subset=["gamma"]).reset_index(drop=True)
    share = (np.arange(len(table)) + 0.5) / len(table)
    shown = [c for c in CHOICES if c != "clock" or table[c].nunique() > 1]
    rows = [(c, v) for c in shown for v in sorted(dict.fromkeys(table[c]))]
    figure, (top, choices) = plt.subplots(
        2, 1, figsize=(style.WIDTH, 2.9 + 0.2 * len(rows)), height_ratios=(2.3, 0.2 * len(rows)), sharex=True
    )
    low, high = table["gamma"].quantile([0.01, 0.99])
    band = human_range(found.curve)
    low, high = min((low, *(band or ()))) - 0.1, max((high, *(band or ()))) + 0.1
    top.set(ylabel="γ", ylim=(low, high), xlim=(0, 1))
    top.axhline(found.multiverse.summary["median"], color="0.3", lw=0.8, ls="--")
    inside = table["gamma"].between(low, high)
    top.plot(share[inside], table["gamma"][inside], ".", ms=3, color=style.PALETTE[0])
    names: list[tuple[str, Any, float, float]] = [
        (f"median {found.multiverse.summary['median']:.2f}", "0.3", 1.0, found.multiverse.summary["median"])
    ]
    if band:
        top.axhspan(*band, color=style.PALETTE[1], alpha=0.3, lw=0)
        shade = tuple(0.75 * c for c in style.PALETTE[1])
        names.insert(0, ("human range\nof the preprint", shade, 1.0, float(np.mean(band))))
    other, default = cited(found), specification(found.curve, found.headline)
    marks = [("default", default, "D", style.PALETTE[3], 16)]
    if other is not None and other.fit != found.headline.fit:
        marks.append(("cited", specification(found.curve, other), "o", style.PALETTE[0], -22))
    for what, ways, marker, colour, beside in marks:
        for place in np.flatnonzero((table[list(ways)] == pd.Series(ways)).all(axis=1))[:1]:
            at, value = share[place], float(table["gamma"][place])
            top.plot(at, value, marker, ms=7, color=colour, mec="white", zorder=4)
            top.annotate(
                f"{what}: γ = {value:.2f}",
                (at, value),
                (0, beside),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                color=colour,
                bbox={"fc": "white", "ec": "none", "pad": 1},
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6},
            )
            for axes in (top, choices):
                axes.axvline(at, color=colour, lw=0.8, zorder=0)
    style.name_lines(top, names, 8)
    for place, (choice, value) in enumerate(rows):
        own = default[choice] == value
        choices.plot(
            share[(table[choice] == value).to_numpy()],
            np.full(int((table[choice] == value).sum()), -place),
            "|",
            ms=5,
            mew=0.7,
            color=style.PALETTE[3] if own else "0.35",
        )
    for place in range(1, len(rows)):
        if rows[place][0] != rows[place - 1][0]:
            choices.axhline(0.5 - place, color="0.85", lw=0.6)
    choices.set_yticks(
        [-i for i in range(len(rows))],
        [mathtext(f"{_name(choice)}: {_name(value)}") for choice, value in rows],
        fontsize=7.5,
    )
    for label, (choice, value) in zip(choices.get_yticklabels(), rows, strict=True):
        if default[choice] == value:
            label.set_color(style.PALETTE[3])
    choices.set(
        xlabel="specifications, sorted by γ (share of all; red: the default's choices)",
        ylim=(-len(rows) + 0.4, 0.6),
    )
    choices.xaxis.set_major_formatter(PercentFormatter(1, 0))
    outside = int((~inside).sum())
    beyond = f" {outside} lie outside the axes." if outside else ""
    style.title(figure, f"{source(found.curve)}: {mathtext(found.multiverse.verdict)}{beyond}")
    return figure


@dataclass(frozen=True)
class _Row:
    """One line of the forest: its name, gamma with its interval or the reason why there is none, and whether
    its form tends to what y can be.
    """

    name: str
    number: Estimate | None
    colour: Any
    reason: str = ""
    possible: bool = True


def _own_rows(found: Analysis) -> list[_Row]:
    rows = []
    for r in exponent_rows(found.exponents):
        sound = not r.failures and np.isfinite([r.gamma, r.lower, r.upper]).all()
        reason = "" if sound else r.failures.split(";")[0] or "no interval"
        rows.append(
            _Row(
                f"{_name(r.form)}, {r.estimator}",
                r.number if sound else None,
                style.PALETTE[0],
                reason,
                possible=not r.impossible,
            )
        )
    return rows


def _human_rows(series: Sequence[Exponent], colour: Any) -> list[_Row]:
    return [
        _Row(humans.title(h.name), h.number, colour) for h in sorted(series, key=lambda h: h.number.estimate)
    ]


def forest(found: Analysis) -> Figure:
    """Exponents of this curve under every form and estimator, and of the human series on the same clock, by
    what they measure. A fit that failed has its reason in the place of a point, and one that tends to what y
    cannot be an open point.
    """
    groups = [(source(found.curve), _own_rows(found))]
    for measure, said in MEASURED.items():
        part = [h for h in found.humans if h.measure == measure]
        if part:
            groups.append((f"people: {said}", _human_rows(part, style.PALETTE[3])))
    if found.shown:
        groups.append(("people, on another clock (not compared)", _human_rows(found.shown, style.PALETTE[7])))
    count = sum(len(rows) + 1 for _, rows in groups)
    figure, axes = plt.subplots(figsize=(style.WIDTH, 1.4 + 0.185 * count))
    numbers = [row.number for _, rows in groups for row in rows if row.number]
    estimates = [one.estimate for one in numbers]
    # an interval that says nothing is cut, or the others could not be read
    least, most = min(estimates, default=0.0) - CUT, max(estimates, default=0.0) + CUT
    finite = [min(max(v, least), most) for one in numbers for v in (one.estimate, one.lower, one.upper)]
    band = human_range(found.curve)
    # where no fit has an interval nothing is finite, and the axis still has to go from somewhere to somewhere
    within = (*finite, *(band or ())) or (0.0, 1.0)
    left, right = min(within) - 0.05, max(within) + 0.05
    place, ticks, names = 0, list[int](), list[str]()
    for head, rows in groups:
        ticks.append(place)
        names.append(textwrap.shorten(head, 62, placeholder="…"))
        place -= 1
        for row in rows:
            ticks.append(place)
            names.append(mathtext(row.name))
            if row.number is None:
                axes.text(
                    left + 0.02,
                    place,
                    mathtext(f"not drawn: {row.reason}"),
                    fontsize=7,
                    color="0.4",
                    va="center",
                )
            else:
                edges = [max(row.number.lower, left), min(row.number.upper, right)]
                axes.plot(edges, [place, place], color=row.colour, lw=1.2)
                for edge, limit, mark in zip(edges, (row.number.lower, row.number.upper), "<>", strict=True):
                    if edge != limit:
                        axes.plot(edge, place, mark, ms=5, color=row.colour, clip_on=False)
                inside = row.colour if row.possible else "white"
                axes.plot(row.number.estimate, place, "o", ms=4, color=row.colour, mfc=inside)
            place -= 1
    axes.set_yticks(ticks, names, fontsize=7.5)
    heads = {0, *np.cumsum([len(rows) + 1 for _, rows in groups])[:-1].tolist()}
    for which, label in enumerate(axes.get_yticklabels()):
        if which in heads:
            label.set_fontweight("bold")
    axes.set(
        xlabel=mathtext(f"γ with 95 % intervals; clock: {found.curve.clock}"),
        xlim=(left, right),
        ylim=(place + 0.4, 1.6),
    )
    if band:
        axes.axvspan(*band, color=style.PALETTE[1], alpha=0.3, lw=0)
        axes.text(
            float(np.mean(band)),
            1.0,
            "human range of the preprint",
            fontsize=7.5,
            ha="center",
            color=tuple(0.75 * c for c in style.PALETTE[1]),
        )
    unlike = any(row.number and not row.possible for _, rows in groups for row in rows)
    style.title(
        figure,
        f"{source(found.curve)}: its exponent under every form and estimator, beside people's"
        + "\nopen: tends to what y cannot be" * unlike,
    )
    return figure


FIGURES = {"decay_fits": data_and_fits, "decay_specifications": specification_curve, "decay_forest": forest}


def draw(found: Analysis, destination: Path) -> list[Path]:
    """Draw every figure as PNG and PDF into `destination`."""
    return style.draw(found, FIGURES, destination)
