"""One curve, everything that can honestly be said about its exponent: `analyse`.

Steps: rival forms and their verdict; the exponent of each power form under every estimator with its interval; the multiverse; single units
and the averaging test where there are units; human series of the same clock and form, and the equivalence test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from consolidation import humans
from consolidation.comparison import Averaging, Comparison, averaging, compare
from consolidation.decay import FORMS, Clock, Curve
from consolidation.equivalence import Equivalence, Exponent, equivalence
from consolidation.inference import ESTIMATORS, Estimator, Interval, fit, interval, labels, profile, units_of
from consolidation.multiverse import Multiverse, multiverse
from consolidation.transitions import Transition
from labbook.console import UserError
from labbook.estimate import REPLICATES, Estimate

# Section 6 of arXiv:2602.12204: "gamma about .4-.5 across studies"
HUMAN_RANGE = (0.4, 0.5)
PRACTICE = Clock("repetition", "count")
POWERS = ("power", "power_asymptote", "shifted_power")


@dataclass(frozen=True)
class DecayFit:
    """Everything that `analyse` found.

    Attributes
    ----------
    curve, comparison : the data, and the rival forms.
    exponents : one row per power form and estimator: gamma with interval, method, unit, failures.
    multiverse : the specification curve.
    averaging, equivalence : or the reason why there is none, in `missing`.
    humans : exponents of the human series on the same clock and form.
    shown : exponents of human series on the clock of practice when that is another one: shown, never compared.
    change : where the trajectory of a trained model changes, if the curve came with one.
    missing : what could not be done, by name, and why.
    seed, replicates : of the bootstrap.
    """

    curve: Curve
    comparison: Comparison
    exponents: pd.DataFrame
    multiverse: Multiverse
    averaging: Averaging | None
    equivalence: Equivalence | None
    humans: list[Exponent]
    shown: list[Exponent]
    change: Transition | None
    missing: dict[str, str]
    seed: int
    replicates: int

    @property
    def headline(self) -> dict[str, Any]:
        """The row of `exponents` to cite: the pure power law by least squares, or maximum likelihood where trials are counted."""
        wanted = "ml" if self.curve.count is not None else "nls"
        rows = self.exponents[(self.exponents["form"] == "power") & self.exponents["gamma"].notna()]
        chosen = rows[rows["estimator"] == wanted]
        found = (chosen if len(chosen) else rows).iloc[0]
        return {str(k): v for k, v in found.to_dict().items()}

    def to_frame(self) -> pd.DataFrame:
        """The exponents of every power form and estimator."""
        return self.exponents


def _exponents(curve: Curve, unit: str | None, seed: int, replicates: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """gamma of every power form under every estimator."""
    rows, missing = list[dict[str, Any]](), dict[str, str]()
    for form in POWERS:
        for estimator in ESTIMATORS:
            try:
                fitted = fit(curve, form, estimator)
                found: Interval = interval(fitted, "gamma", unit, seed, replicates)
            except UserError as error:
                missing[f"{form}, {estimator}"] = str(error)
                continue
            number = found.number
            rows.append(
                {
                    "form": form,
                    "estimator": estimator,
                    "gamma": number.estimate,
                    "lower": number.lower,
                    "upper": number.upper,
                    "n": number.n,
                    "method": found.method,
                    "unit": found.unit,
                    "clock": str(curve.clock),
                    "window": curve.window,
                    "normalisation": curve.normalisation,
                    "failures": "; ".join((*fitted.failures, *found.failures)),
                }
            )
    if not rows:
        raise UserError(f"{curve.name}: no power law could be fitted. " + next(iter(missing.values())))
    return pd.DataFrame(rows), missing


def human_exponents(clock: Clock, form: str = "power", series: Sequence[str] | None = None) -> list[Exponent]:
    """Exponents of the shipped human series on one clock (or of the named ones, which have to be on it); those that do not take the form are left out."""
    registry = humans.list_series()
    names = list(series) if series else [n for n in registry["series"] if n != humans.PAPER_SERIES]
    out = []
    for name in names:
        curve = humans.load(name)
        if curve.clock != clock:
            if series:
                clock.require_same(curve.clock)
            continue
        try:
            number = profile(fit(curve, form), "gamma").number
        except UserError:
            if series:
                raise
            continue
        if np.isfinite([number.lower, number.upper]).all():
            out.append(Exponent(name, number, form, curve.clock, curve.window))
    return out


def analyse(
    curve: Curve,
    forms: Sequence[str] = tuple(FORMS),
    unit: str | None = None,
    replicates: int = REPLICATES,
    human: Sequence[str] | None = None,
    estimator: Estimator | None = None,
    seed: int = 0,
    clocks: Sequence[Curve] = (),
    change: Transition | None = None,
) -> DecayFit:
    """Fit a curve in every way that applies to it.

    Parameters
    ----------
    forms : rival forms; names of `decay.FORMS`.
    unit : what the curve's units are (seed, pattern, list, subject), for the bootstrap; None uses profile likelihood.
    human : series to compare with; None is all on the same clock.
    estimator : of the comparison of forms; None is `ml` where trials are counted, else `nls`.
    clocks : the same data read by other clocks; they join the multiverse.
    change : carried along into the report.

    Raises
    ------
    UserError : when no form, or no power law, can be fitted.
    """
    estimator = estimator or ("ml" if curve.count is not None else "nls")
    comparison = compare(curve, forms, estimator)
    exponents, missing = _exponents(curve, unit, seed, replicates)
    missing |= {f"form {name}": reason for name, reason in comparison.reasons.items()}
    found_averaging = found_equivalence = None
    if len(units_of(curve)) > 1:
        try:
            found_averaging = averaging(curve, "nls", seed=seed)
        except UserError as error:
            missing["averaging"] = str(error)
    else:
        missing["averaging"] = f"{curve.name} has no units to fit one by one (--unit names their column)."
    others = human_exponents(curve.clock, "power", human)
    shown = [] if others or human else human_exponents(PRACTICE, "power")
    if shown:
        missing["humans"] = (
            f"{curve.name} is on the clock {curve.clock}, human practice on the clock {PRACTICE}: shown side by side, not compared. Compare them on purpose with --on-clock."
        )
    found = DecayFit(
        curve=curve,
        comparison=comparison,
        exponents=exponents,
        multiverse=multiverse({str(c.clock): c for c in (curve, *clocks)}, HUMAN_RANGE),
        averaging=found_averaging,
        equivalence=None,
        humans=others,
        shown=shown,
        change=change,
        missing=missing,
        seed=seed,
        replicates=replicates,
    )
    if others and (exponents["form"] == "power").any():
        head = found.headline
        number = Estimate(head["gamma"], head["lower"], head["upper"], int(head["n"]))
        try:
            found_equivalence = equivalence(Exponent(curve.name, number, "power", curve.clock, curve.window), others)
        except UserError as error:
            missing["equivalence"] = str(error)
    return replace(found, equivalence=found_equivalence)


def units_table(curve: Curve) -> pd.DataFrame:
    """gamma of the power law of every unit, or of the one curve."""
    rows = []
    for unit in units_of(curve):
        keep = labels(curve) == unit
        count = None if curve.count is None else curve.count[keep]
        one = Curve(
            f"{curve.name}/{unit}" if unit else curve.name, curve.x[keep], curve.y[keep], curve.clock, count=count
        )
        try:
            number = profile(fit(one, "power"), "gamma").number
            rows.append(
                {
                    "unit": unit,
                    "gamma": number.estimate,
                    "lower": number.lower,
                    "upper": number.upper,
                    "n": number.n,
                    "failures": "",
                }
            )
        except UserError as error:
            rows.append(
                {
                    "unit": unit,
                    "gamma": np.nan,
                    "lower": np.nan,
                    "upper": np.nan,
                    "n": int(keep.sum()),
                    "failures": str(error),
                }
            )
    return pd.DataFrame(rows)
