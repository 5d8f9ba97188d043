"""Exponents as rows of a table: of every power form under every estimator, of single units, and of the human
series on the same clock; `headline` is the one to cite.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import pandas as pd

from consolidation.decay import humans
from consolidation.decay.comparison import REJECTED, Comparison
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.equivalence import Exponent
from consolidation.decay.forms import with_exponent
from consolidation.decay.inference import (
    ERRORS,
    ESTIMATORS,
    Estimator,
    fit,
    interval,
    labels,
    profile,
    units_of,
)
from labbook.console import UserError
from labbook.estimate import Estimate


@dataclass(frozen=True)
class ExponentRow:
    """An exponent with everything that it depends on: one row of the table of exponents."""

    form: str
    estimator: Estimator
    gamma: float
    lower: float
    upper: float
    n: int
    method: str
    unit: str
    clock: str
    window: str
    normalisation: str
    failures: str
    impossible: str = ""

    @property
    def number(self) -> Estimate:
        """The exponent with its interval."""
        return Estimate(self.gamma, self.lower, self.upper, self.n)

    @property
    def fit(self) -> tuple[str, Estimator]:
        """Form and estimator: which row of its table it is."""
        return self.form, self.estimator


def headline(curve: Curve, exponents: pd.DataFrame) -> ExponentRow:
    """The exponent to cite: of the pure power law, or where it is not defined (x = 0) of the first form with
    an exponent that is; by least squares, or maximum likelihood where trials are counted.
    """
    wanted = "ml" if curve.count is not None else "nls"
    known = exponents[exponents["gamma"].notna()]
    form = next(name for name in with_exponent() if (known["form"] == name).any())
    rows = known[known["form"] == form]
    chosen = rows[rows["estimator"] == wanted]
    return exponent_rows(chosen if len(chosen) else rows)[0]


def to_cite(comparison: Comparison, exponents: pd.DataFrame, head: ExponentRow) -> ExponentRow | None:
    """The exponent that a text may cite, as far as the forms say: of the headline where its form survives, by
    the noise that suits it best where its own fit is rejected; of the best other form that has one, survives
    and tends to what y can be, where the headline's is rejected. None where y rises, where a form that does
    not change describes it as well, and else.
    """
    if head.gamma < 0 or comparison.unchanging:
        return None
    state, rows = comparison.standing(head.form).state, exponent_rows(exponents)
    if state == "survives":
        if comparison.behind(head.form, ERRORS[head.estimator]) <= REJECTED:
            return head
        return _surviving(rows, comparison, head.form)
    if state != "does not survive":
        return None
    sound = (_surviving(rows, comparison, name) for name in comparison.table["form"])
    return next((one for one in sound if one is not None), None)


def _surviving(rows: Sequence[ExponentRow], comparison: Comparison, name: str) -> ExponentRow | None:
    """The exponent of a form that survives, by the estimator of the noise that suits it best; None where it
    is not sound.
    """
    if name not in comparison.fits or comparison.standing(name).state != "survives":
        return None
    wanted = (name, comparison.fits[name].estimator)
    for one in rows:
        if (one.form, one.estimator) == wanted and np.isfinite([one.gamma, one.lower, one.upper]).all():
            return None if one.gamma < 0 or one.failures or one.impossible else one
    return None


def exponent_rows(table: pd.DataFrame) -> list[ExponentRow]:
    """The rows of a table of exponents."""
    return [ExponentRow(**{str(k): v for k, v in row.items()}) for row in table.to_dict("records")]


def every_exponent(
    curve: Curve, unit: str | None, seed: int, replicates: int
) -> tuple[pd.DataFrame, dict[str, str]]:
    """gamma of every power form under every estimator, and why some have none.

    Raises
    ------
    UserError : when no power law could be fitted.
    """
    rows, missing = list[ExponentRow](), dict[str, str]()
    for form in with_exponent():
        for estimator in ESTIMATORS:
            try:
                fitted = fit(curve, form, estimator)
                found = interval(fitted, str(fitted.form.exponent), unit, seed, replicates)
            except UserError as error:
                missing[f"{form}, {estimator}"] = str(error)
                continue
            number = found.number
            rows.append(
                ExponentRow(
                    form=form,
                    estimator=estimator,
                    gamma=number.estimate,
                    lower=number.lower,
                    upper=number.upper,
                    n=number.n,
                    method=found.method,
                    unit=found.unit,
                    clock=str(curve.clock),
                    window=curve.window,
                    normalisation=curve.normalisation,
                    failures="; ".join((*fitted.failures, *found.failures)),
                    impossible=fitted.impossible,
                )
            )
    if not any(np.isfinite(row.gamma) for row in rows):
        raise UserError(f"{curve.name}: no power law could be fitted. " + next(iter(missing.values()), ""))
    return pd.DataFrame([asdict(row) for row in rows]), missing


@cache
def _human_number(name: str, unit: str, form: str) -> Estimate | str:
    """The exponent of a shipped series with x in `unit`, or why there is none."""
    try:
        number = profile(fit(humans.load(name).in_unit(unit), form), "gamma").number
    except UserError as error:
        return str(error)
    if not np.isfinite([number.lower, number.upper]).all():
        return f"{name}: the interval of its exponent is open on one side."
    return number


def human_exponents(
    clock: Clock,
    form: str = "power",
    series: Sequence[str] | None = None,
    without: str = "",
    *,
    incomplete: bool = False,
) -> tuple[list[Exponent], dict[str, str]]:
    """Exponents of the shipped human series on one clock, x converted to its unit, and why series on it have
    none.

    Parameters
    ----------
    series : names; they have to be on the clock and take the form. None is every series that is on it and of
        which everything is known (`humans.lacks`).
    without : subjects whose series are left out, those of the curve itself.
    incomplete : series of which not everything is known (`humans.lacks`) are taken, too.
    """
    registry = humans.list_series()
    names = list(series) if series else [n for n in registry["series"] if n != humans.PAPER_SERIES]
    out, left = list[Exponent](), dict[str, str]()
    for name in names:
        curve = humans.load(name)
        if curve.clock.counts != clock.counts:
            if series:
                clock.require_same(curve.clock)
            continue
        if not series and not incomplete and humans.lacks(name):
            left[name] = (
                f"{humans.title(name)} is not compared, because its {' and '.join(humans.lacks(name))} "
                f"{'is' if len(humans.lacks(name)) == 1 else 'are'} not known; --human {name} compares it."
            )
            continue
        if without and curve.study == without:
            left[name] = f"{name} is of the same subjects as the curve itself."
            continue
        number = _human_number(name, clock.unit, form)
        if isinstance(number, Estimate):
            out.append(Exponent(name, number, form, clock, curve.window, curve.study, curve.measure))
        elif series:
            raise UserError(f"{number} Change --human.")
        else:
            left[name] = number
    return out, left


def units_table(curve: Curve) -> pd.DataFrame:
    """gamma of the power law of every unit, or of the one curve."""
    rows = []
    for unit in units_of(curve):
        keep = labels(curve) == unit
        count = None if curve.count is None else curve.count[keep]
        one = Curve(
            f"{curve.name}/{unit}" if unit else curve.name,
            curve.x[keep],
            curve.y[keep],
            curve.clock,
            count=count,
        )
        try:
            number, failures = profile(fit(one, "power"), "gamma").number, ""
        except UserError as error:
            number, failures = Estimate(np.nan, np.nan, np.nan, int(keep.sum())), str(error)
        values = {"gamma": number.estimate, "lower": number.lower, "upper": number.upper, "n": number.n}
        rows.append({"unit": unit, **values, "failures": failures})
    return pd.DataFrame(rows)
