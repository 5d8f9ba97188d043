"""Every reasonable way to get an exponent from the same numbers, all at once: the specification curve of
gamma.

form           every form that has an exponent
offset         x as counted | 1 + x (counting starts one earlier; of clocks that count: 1 is one repetition,
               step or item in the unit of x, and of a physical clock 1 + x would be another curve in every
               unit, so there the free offset tau of the shifted power law stands alone)
normalisation  as given | divided by the first point | odds y / (1 - y), for proportions below 1
floor          none | half of the smallest y subtracted
window         all | without the first x | without the last x | first half | second half of ln x
estimator      loglog | nls | weighted or ml where the data allow
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import with_exponent
from consolidation.decay.inference import ESTIMATORS, Estimator, Fit, fit_many
from consolidation.decay.units import of_practice, one_count
from labbook.console import UserError

NORMALISATIONS = ("as given", "first point = 1", "odds")
FLOORS = ("none", "half of the smallest subtracted")
WINDOWS = ("all", "without the first", "without the last", "first half", "second half")
OFFSETS = ("x", "1 + x")


@dataclass(frozen=True)
class Multiverse:
    """All specifications: `table` has one row each (gamma or the reason why there is none), `summary` and
    `by_clock` median, range and shares, `fits` the sound fits by clock.
    """

    table: pd.DataFrame
    summary: dict[str, Any]
    by_clock: dict[str, dict[str, float]]
    verdict: str
    fits: dict[str, list[Fit]]


def offsets(clock: Clock) -> tuple[str, ...]:
    """The offsets of x that mean something on a clock."""
    return OFFSETS if one_count(clock.counts, clock.unit) else OFFSETS[:1]


def _shape(curve: Curve, offset: str, normalisation: str, floor: str, window: str) -> Curve:
    """The curve under one specification. Raises UserError when it does not apply."""
    x, y = curve.x, curve.y
    if floor != "none":
        y = y - y.min() / 2
    if normalisation == "first point = 1":
        first = y[x == x.min()].mean()
        if first <= 0:
            raise UserError("the first point is not positive")
        y = y / first
    elif normalisation == "odds":
        if (y <= 0).any() or (y >= 1).any():
            raise UserError("odds need proportions strictly between 0 and 1")
        y = y / (1 - y)
    first_count = one_count(curve.clock.counts, curve.clock.unit) or 0.0
    shaped = replace(
        curve,
        x=x + (first_count if offset == "1 + x" else 0.0),
        y=y,
        error="gaussian",
        normalisation=normalisation,
    )
    values = np.unique(shaped.x)
    if window == "all":
        return shaped
    if window in ("first half", "second half"):
        if values[0] <= 0:
            raise UserError("halves of ln x need positive x")
        middle = np.sqrt(values[0] * values[-1])
        return (
            shaped.within(values[0], middle) if window == "first half" else shaped.within(middle, values[-1])
        )
    return (
        shaped.within(values[1], values[-1])
        if window == "without the first"
        else shaped.within(values[0], values[-2])
    )


def multiverse(curves: Mapping[str, Curve], human: tuple[float, float]) -> Multiverse:
    """Run every specification on the same data read by one or several clocks.

    Parameters
    ----------
    curves : the data by clock.
    human : the range of exponents to which each gamma is held.
    """
    rows, fits = list[dict[str, object]](), dict[str, list[Fit]]()
    for clock, curve in curves.items():
        found = fitted(curve)
        rows += [{"clock": clock, **row} for row, _ in found]
        fits[clock] = [one for _, one in found if isinstance(one, Fit) and not one.failures]
    table = pd.DataFrame(rows)
    good = table["gamma"].dropna()
    if good.empty:
        raise UserError(
            "no specification of the multiverse could be fitted: the curve has too few points for every form."
        )
    summary = {
        "specifications": len(table),
        **_spread(good, human),
        "human_low": human[0],
        "human_high": human[1],
        "human_source": "arXiv:2602.12204, section 6",
    }
    parts = {str(clock): part["gamma"].dropna() for clock, part in table.groupby("clock", sort=False)}
    by_clock = {clock: _spread(part, human) for clock, part in parts.items() if len(part)}
    verdict = (
        f"over {len(good)} specifications gamma has the median {summary['median']:.2f} (quartiles "
        f"{summary['lower_quartile']:.2f} to {summary['upper_quartile']:.2f}, range "
        f"{summary['smallest']:.2f} to {summary['largest']:.2f})"
    )
    # the range is one of practice, and says nothing of a delay
    if all(of_practice(curve.clock.counts) for curve in curves.values()):
        share = f"{summary['share_in_human_range']:.0%}"
        verdict += f"; {share} lie within {human[0]:g} to {human[1]:g}, the preprint's human range"
    verdict += (
        ". They show how far choices move gamma and estimate nothing together: odds, a subtracted floor and "
        "1 + x change what gamma means."
    )
    physical = [clock for clock, curve in curves.items() if len(offsets(curve.clock)) == 1]
    if physical:
        verdict += (
            f" 1 + x is left out on {', '.join(physical)}, where it would depend on the unit; the shifted "
            "power law has the offset tau, "
            "free and in the unit of x."
        )
    return Multiverse(table.sort_values("gamma", ignore_index=True), summary, by_clock, verdict, fits)


def _spread(gamma: "pd.Series[float]", human: tuple[float, float]) -> dict[str, float]:
    """How the exponents of a set of specifications are spread, and the share of them in the human range."""
    return {
        "fitted": len(gamma),
        "median": float(gamma.median()),
        "lower_quartile": float(gamma.quantile(0.25)),
        "upper_quartile": float(gamma.quantile(0.75)),
        "smallest": float(gamma.min()),
        "largest": float(gamma.max()),
        "share_in_human_range": float(gamma.between(*human).mean()),
    }


def shapes(
    curve: Curve, windows: Sequence[str] = WINDOWS
) -> dict[tuple[str, str, str, str], Curve | UserError]:
    """The curve by offset, normalisation, floor and window, or why one does not apply."""
    shaped = dict[tuple[str, str, str, str], Curve | UserError]()
    for way in itertools.product(offsets(curve.clock), NORMALISATIONS, FLOORS, windows):
        try:
            shaped[way] = _shape(curve, *way)
        except UserError as error:
            shaped[way] = error
    return shaped


def fitted(curve: Curve) -> list[tuple[dict[str, object], Fit | UserError]]:
    """Every specification of one curve, and its fit or why there is none.

    What differs by offset, normalisation, floor, window and estimator only is solved at once.
    """
    shaped = shapes(curve)
    out = list[tuple[dict[str, object], Fit | UserError]]()
    for form in with_exponent():
        wanted, places = list[tuple[Curve, Estimator]](), list[int]()
        for way, estimator in itertools.product(shaped, ESTIMATORS):
            names = ("offset", "normalisation", "floor", "window")
            row: dict[str, object] = {
                "form": form,
                **dict(zip(names, way, strict=True)),
                "estimator": estimator,
            }
            one = shaped[way]
            why = UserError("binomial likelihood needs the proportions themselves")
            if isinstance(one, UserError):
                out.append((row, one))
            elif estimator == "ml" and way[1:3] != (NORMALISATIONS[0], FLOORS[0]):
                out.append((row, why))
            else:
                places.append(len(out))
                wanted.append((one, estimator))
                out.append((row, why))
        for place, found in zip(places, fit_many(wanted, form), strict=True):
            out[place] = out[place][0], found
    return [(_row(row, found), found) for row, found in out]


def _row(keys: dict[str, object], found: Fit | UserError) -> dict[str, object]:
    """A specification with what came of it."""
    said = str(found) if isinstance(found, UserError) else "; ".join(found.failures)
    gamma = float("nan") if said or isinstance(found, UserError) else found.exponent
    return {**keys, "gamma": gamma, "failures": said}
