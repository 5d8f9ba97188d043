"""One curve, everything that can honestly be said about its exponent: `analyse`.

Steps: rival forms and their verdict; the exponent of each power form under every estimator with its interval;
the multiverse; single units and the averaging test where there are units; human series of the same clock and
form in the same unit, and the equivalence test for each class of measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from consolidation.decay.comparison import NOISE, Comparison, compare
from consolidation.decay.curve import MEASURES, Clock, Curve
from consolidation.decay.equivalence import Equivalence, Exponent, Margin, equivalence
from consolidation.decay.exponents import (
    ExponentRow,
    every_exponent,
    exponent_rows,
    headline,
    human_exponents,
)
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import ERRORS, LEAST_UNITS, Estimator, fit, labels, units_of
from consolidation.decay.transitions import Transition
from consolidation.decay.units import of_practice
from consolidation.decay.variation.averaging import Averaging, averaging
from consolidation.decay.variation.hierarchical import Population, population
from consolidation.decay.variation.influence import Apart, apart, untested
from consolidation.decay.variation.multiverse import Multiverse, multiverse
from consolidation.decay.variation.overdispersion import Overdispersion, overdispersion
from consolidation.decay.variation.specifications import Together, together
from labbook.console import UserError, counted
from labbook.estimate import REPLICATES, Array

# Section 6 of arXiv:2602.12204: "gamma about .4-.5 across studies"
HUMAN_RANGE = (0.4, 0.5)
PRACTICE = Clock("repetition", "count")
# beyond these a fit in every way takes hours, and says no more than one of the means per x and unit
MOST_ROWS, MOST_X, MOST_UNITS = 100_000, 500, 500


@dataclass(frozen=True)
class Analysis:
    """Everything that `analyse` found.

    Attributes
    ----------
    curve, comparison : the data, and the rival forms.
    exponents : one row per power form and estimator: gamma with interval, method, unit, failures.
    multiverse : the specification curve; `together` what its specifications on the curve's own clock say
        together.
    averaging : or the reason why there is none, in `missing`.
    equivalences : one for each class of measure of which there are human series; empty with the reason in
        `missing`.
    humans : exponents of the human series on the same clock and form, in the unit of the curve.
    shown : exponents of human practice when the curve counts repetitions on another clock: shown, never
        compared.
    apart : the point that lies apart from all others, if one does.
    cautions : what a reader has to know before citing the exponent.
    change : where the trajectory of a trained model changes, if the curve came with one.
    missing : what could not be done, by name, and why.
    overdispersion : the form of the exponent by beta-binomial likelihood, where trials are counted.
    population : all units by one hierarchical model, where it was asked for.
    seed, replicates : of the bootstrap.
    """

    curve: Curve
    comparison: Comparison
    exponents: pd.DataFrame
    multiverse: Multiverse
    together: Together | None
    averaging: Averaging | None
    equivalences: tuple[Equivalence, ...]
    humans: list[Exponent]
    shown: list[Exponent]
    change: Transition | None
    missing: dict[str, str]
    apart: Apart | None
    cautions: tuple[str, ...]
    overdispersion: Overdispersion | None
    population: Population | None
    seed: int
    replicates: int

    @property
    def headline(self) -> ExponentRow:
        """The row of `exponents` to cite, see `headline`."""
        return headline(self.curve, self.exponents)

    @property
    def of_best(self) -> ExponentRow | None:
        """The exponent of the best form, by the estimator of the noise with which it is best; None where no
        form is best, or the best has no exponent.
        """
        best = self.comparison.best
        return None if best is None else self.exponent(best, self.comparison.fits[best].estimator)

    def compared(self, one: ExponentRow) -> float | None:
        """The exponent of the fit whose AICc stands beside `one`, where it is another: forms are compared on
        the mean at each x, and an exponent by `loglog` is that of geometric means of the units.
        """
        fitted = self.comparison.fits.get(one.form)
        if fitted is None or one.estimator != "loglog" or fitted.estimator != one.estimator:
            return None
        return None if np.isclose(fitted.exponent, one.gamma, rtol=1e-3) else fitted.exponent

    @property
    def of_other_noise(self) -> ExponentRow | None:
        """The exponent of the form of the headline with the noise that suits it best, where that is not the
        noise that the estimator of the headline takes; else None.
        """
        head, stands = self.headline, self.comparison.fits.get(self.headline.form)
        if stands is None or ERRORS[stands.estimator] == ERRORS[head.estimator]:
            return None
        return self.exponent(head.form, stands.estimator)

    def exponent(self, form: str, estimator: Estimator) -> ExponentRow | None:
        """The row of `exponents` of a form and an estimator; None where there is none."""
        rows = exponent_rows(self.exponents)
        return next((one for one in rows if one.fit == (form, estimator)), None)

    def to_frame(self) -> pd.DataFrame:
        """The exponents of every power form and estimator."""
        return self.exponents


def _overdispersion(curve: Curve, form: str) -> tuple[Overdispersion | None, dict[str, str]]:
    """The beta-binomial fit where trials are counted, or why there is none."""
    if curve.count is None:
        return None, {}
    try:
        return overdispersion(fit(curve, form, "ml")), {}
    except UserError as error:
        return None, {"overdispersion": str(error)}


def _of_rows(curve: Curve) -> list[str]:
    """What has to be said of the observations themselves: of few or equal units, and of rows without any."""
    said = list[str]()
    units = len(units_of(curve))
    if curve.unit is not None and units < LEAST_UNITS:
        said.append(
            f"the interval is over points, because {counted(units, 'unit')} are too few for one over units, "
            "so it says nothing of other units"
        )
    observed, different = len(curve.x), len(np.unique(curve.x))
    if curve.unit is None and observed > different:
        pooled = "averaged to a point" if curve.count is None else "pooled, with their trials,"
        said.append(
            f"the {observed} rows are {pooled} at each of the {different} x, because nothing says which are "
            "of one unit: if a column does (seed, pattern, list, subject), name it with --unit"
        )
        times = np.unique(_rows(curve), axis=0, return_counts=True)[1]
        # outcomes of single trials repeat by nature
        if curve.count is not None and times.min() > 1 and len(np.unique(curve.y)) > 2:
            said.append(
                "every row is there more than once: if these are copies, their trials are counted too often "
                "and the interval is too narrow"
            )
    of_units = np.unique(labels(curve), return_inverse=True)[1]
    if (
        curve.unit is not None
        and len(np.unique(np.column_stack([_rows(curve), of_units]), axis=0)) < observed
    ):
        said.append(
            "a row with the same unit, x and y is there more than once: if these are copies, remove them"
        )
    if stray := _stray(curve):
        said.append(stray)
    if curve.unit is not None and _at_different_x(curve):
        fewest = min(units_of(curve), key=lambda unit: (curve.unit == unit).sum())
        own = int((curve.unit == fewest).sum())
        said.append(
            f"units were observed at different x (fewest by {fewest}, {own} of {different}), so the mean at "
            "one x is of other units than at another, and where they differ it falls or rises without any of "
            "them doing so: compare the exponents of single units (units.csv)"
        )
    if alike := _copies(curve):
        said.append(
            f"the units {alike[0]} and {alike[1]} have the same y at every x: if they are copies, there are "
            "fewer independent units than the interval counts"
        )
    return said


def _stray(curve: Curve) -> str:
    """Which x one unit alone has in the place of one that all others have; empty for none."""
    if not len(stray := curve.stray_x):
        return ""
    assert curve.unit is not None
    said = [f"{x:g} ({curve.unit[curve.x == x][0]})" for x in stray]
    return (
        f"only one unit has x = {_first(said)}, and lacks an x that all others have: correct it if it "
        "slipped; where forms are told apart it counts as no point"
    )


def _first(names: Sequence[str]) -> str:
    """The first three names."""
    return f"{', '.join(names[:3])}{' and others' * (len(names) > 3)}"


def _at_different_x(curve: Curve) -> bool:
    """Whether units were not all observed at the same x."""
    own = {np.unique(curve.x[curve.unit == unit]).tobytes() for unit in units_of(curve)}
    return len(own) > 1


def _cautions(
    curve: Curve,
    comparison: Comparison,
    exponents: pd.DataFrame,
    head: ExponentRow,
    scatter: Overdispersion | None,
) -> tuple[str, ...]:
    """What has to stand beside the exponent `head`, one of `exponents`."""
    said = _of_rows(curve)
    if head.gamma < 0:
        sure = np.isfinite(head.upper) and head.upper < 0
        said.append(
            f"y rises with x (gamma is negative{'' if sure else ', though its interval reaches 0'}): this is "
            "growth and no decay, "
            "and gamma is no exponent of forgetting or learning"
        )
    elif head.lower <= 0:
        said.append("the interval of gamma reaches 0: that y falls at all is not certain")
    if head.form != "power":
        said.append(
            "x = 0 is among the data, where a x^-gamma is not defined, so the exponent is that of "
            f"{head.form}"
        )
    standing = comparison.standing(head.form)
    # the deviations of a rejected form are no noise
    follows = standing.state != "does not survive"
    if scatter is not None and scatter.p < 0.05 and head.method == "profile" and follows:
        said.append(
            "the proportions scatter more than their trials alone would make them (rho = "
            f"{scatter.rho:.2g}, p = {scatter.p:.2g}), so the interval over points is too narrow; by "
            f"beta-binomial likelihood gamma = {scatter.profile('gamma').text()}"
        )
    best = comparison.best
    if best is not None and comparison.fits[best].impossible:
        said.append(
            f"the best form, {best}, {comparison.fits[best].impossible}: it describes the observed window "
            "and not what follows"
        )
    gain = _relative(comparison, head.form)
    by_points = head.estimator == "nls" and head.method == "profile"
    if by_points and gain > 2 and follows:
        rows = exponent_rows(exponents[exponents["form"] == head.form])
        other = next((f"gamma = {r.number.text()}" for r in rows if r.estimator == "loglog"), "not known")
        text = (
            f"noise relative to y fits {head.form} better than noise of equal size (AICc {gain:.1f} lower), "
            f"which its interval by nls over points assumes; by loglog {other}"
        )
        if best is not None and comparison.error(best) == "gaussian":
            lower = -_relative(comparison, best)
            by = f" (AICc {lower:.1f} lower)" if np.isfinite(lower) else ""
            text += (
                f"; the best form, {best}, fits better with noise of equal size{by}, so the noise may only "
                f"seem relative because of what {head.form} misses"
            )
        said.append(text)
    if standing.state == "not compared":
        said.append("the form is compared with no other")
    elif standing.state == "undecided":
        said.append(f"whether the form survives is undecided: {standing.why}")
    elif standing.state == "not tested":
        said.append(
            f"the form is not tested: {standing.why}, so whether it survives beside its rivals is not known"
        )
    elif standing.state != "survives":
        rejected = "rejected" if standing.state == "does not survive" else "weakened"
        said.append(
            f"the form is {rejected}: its AICc is {_gap(comparison, head)}, so gamma describes a curve that "
            f"the data {'do not follow' if rejected == 'rejected' else 'may not follow'}"
        )
    return tuple(said)


def _rows(curve: Curve) -> Array:
    """What was observed, a row for each observation: x, y and the trials where they are counted."""
    return np.column_stack([curve.x, curve.y, *([] if curve.count is None else [curve.count])])


def _copies(curve: Curve) -> tuple[str, str] | None:
    """Two units with the same three or more values that are not all one; None where there are none."""
    if curve.unit is None:
        return None
    points, seen = np.column_stack([curve.x, curve.y]), dict[bytes, str]()
    for unit in units_of(curve):
        own = points[curve.unit == unit]
        first = seen.setdefault(own.tobytes(), str(unit))
        if first != unit and len(np.unique(own[:, 1])) >= 3:
            return first, str(unit)
    return None


def _relative(comparison: Comparison, form: str) -> float:
    """By how much the AICc of a form is lower with noise relative to y than with noise of equal size."""
    equal, relative = (
        comparison.under.get(error, {}).get(form, np.nan) for error in ("gaussian", "lognormal")
    )
    return float(equal - relative)


def _gap(comparison: Comparison, head: ExponentRow) -> str:
    """How far the fit behind an exponent is above the best form, and with which other noise its form is
    nearer.
    """
    standing, taken = comparison.standing(head.form), ERRORS[head.estimator]
    own, above = comparison.behind(head.form, taken), f"above that of {comparison.best}"
    if standing.error is None or standing.error == taken:
        return f"{standing.gap:.1f} {above}"
    nearer = f"{standing.gap:.1f} with {NOISE[standing.error]}"
    return f"{own:.1f} {above} ({nearer})" if np.isfinite(own) else f"{nearer} {above}"


def require_size(curve: Curve) -> None:
    """Raise UserError for data of which nothing can decay, and for more than can be fitted in every way in
    reasonable time.
    """
    if len(curve.y) and curve.y.max() <= 0:
        raise UserError(
            f"{curve.name}: no value lies above 0, so nothing decays towards it. Change the sign or choose "
            "another --y."
        )
    rows, x, units = len(curve.x), len(np.unique(curve.x)), len(units_of(curve))
    if rows > MOST_ROWS or x > MOST_X or units > MOST_UNITS:
        raise UserError(
            f"{curve.name}: {rows:,} rows at {x:,} different x of {units:,} units; at most {MOST_ROWS:,} "
            f"rows, {MOST_X} x and {MOST_UNITS} units are "
            "fitted. Average y per x and unit first, put x into bins (of equal width in ln x), or choose a "
            "part with --window."
        )


@dataclass(frozen=True)
class Choices:
    """How a curve is analysed, and what is analysed with it.

    Attributes
    ----------
    forms : rival forms; names of `decay.FORMS`, None is all of them.
    unit : what the curve's units are (seed, pattern, list, subject), for the bootstrap; None uses profile
        likelihood.
    human : series to compare with; None is all on the same clock.
    estimator : whose error model alone is used to compare forms; None is each that the data allow
        (`comparison.estimators`).
    clocks : the same data read by other clocks; they join the multiverse.
    change : carried along into the report.
    margin : of the equivalence tests; None is the standard deviation between the human studies.
    hierarchical : fit all units by one hierarchical model too (the extra `hierarchical`).
    """

    forms: Sequence[str] | None = None
    unit: str | None = None
    replicates: int = REPLICATES
    human: Sequence[str] | None = None
    estimator: Estimator | None = None
    seed: int = 0
    clocks: Sequence[Curve] = ()
    change: Transition | None = None
    margin: Margin | None = None
    hierarchical: bool = False


def analyse(curve: Curve, choices: Choices | None = None) -> Analysis:
    """Fit a curve in every way that applies to it.

    Raises
    ------
    UserError : when y does not change, when no form, or no power law, can be fitted, and when there is more
        data than can be fitted in reasonable time.
    """
    choices = choices or Choices()
    require_size(curve)
    if np.ptp(curve.y) == 0:
        raise UserError(
            f"{curve.name}: all y are {curve.y[0]:g}; what does not change has no exponent. Check --y."
        )
    forms = tuple(FORMS) if choices.forms is None else choices.forms
    comparison = compare(curve, forms, choices.estimator)
    exponents, missing = every_exponent(curve, choices.unit, choices.seed, choices.replicates)
    missing |= {f"form {name}": reason for name, reason in comparison.reasons.items()}
    found_averaging = None
    if len(units_of(curve)) > 1:
        try:
            found_averaging = averaging(curve, "nls", seed=choices.seed)
        except UserError as error:
            missing["averaging"] = str(error)
    else:
        missing["averaging"] = f"{curve.name} has no units to fit one by one (--unit names their column)."
    head = headline(curve, exponents)
    beside = _beside_humans(curve, head, choices)
    scatter, none = _overdispersion(curve, head.form)
    alone = apart(curve, comparison, exponents, head, choices.estimator)
    if many := untested(curve):
        missing["apart"] = f"{curve.name}: {many}, so none is left out to see whether it lies apart."
    ways = multiverse({str(c.clock): c for c in (curve, *choices.clocks)}, HUMAN_RANGE)
    own = ways.fits[str(curve.clock)]
    return Analysis(
        curve=curve,
        comparison=comparison,
        exponents=exponents,
        multiverse=ways,
        together=together(curve, own, HUMAN_RANGE, choices.seed) if own else None,
        averaging=found_averaging,
        equivalences=beside.equivalences,
        humans=beside.compared,
        shown=beside.shown,
        change=choices.change,
        missing=missing | beside.missing | none,
        apart=alone,
        cautions=(
            *([] if alone is None else [alone.verdict]),
            *_cautions(curve, comparison, exponents, head, scatter),
        ),
        seed=choices.seed,
        replicates=choices.replicates,
        overdispersion=scatter,
        population=population(curve, choices.seed) if choices.hierarchical else None,
    )


@dataclass(frozen=True)
class _Beside:
    """What stands beside a curve: human exponents that it is compared with, those only shown, the tests, and
    what is missing.
    """

    compared: list[Exponent]
    shown: list[Exponent]
    equivalences: tuple[Equivalence, ...]
    missing: dict[str, str]


def _tested(
    own: Exponent, known: Sequence[Exponent], every: Sequence[Exponent], margin: Margin | None
) -> Equivalence:
    """The test against the series of which all is known, with that against every one where there are more."""
    test = equivalence(own, known, margin)
    return replace(test, whole=equivalence(own, every, margin)) if len(every) > len(known) else test


def _beside_humans(curve: Curve, head: ExponentRow, choices: Choices) -> _Beside:
    """The exponent of a curve beside those of people, class of measure by class of measure."""
    compared, left = human_exponents(curve.clock, head.form, choices.human, curve.study)
    missing = {f"human {name}": reason for name, reason in left.items()}
    repetitions = of_practice(curve.clock.counts)
    shown = list[Exponent]()
    if repetitions and not compared and not choices.human:
        shown = human_exponents(PRACTICE, head.form)[0]
    if shown:
        missing["humans"] = (
            f"{curve.name} is on the clock {curve.clock}, human practice on the clock {PRACTICE}: shown side "
            "by side, not compared. Compare them on purpose with --on-clock."
        )
    elif not compared:
        missing["humans"] = f"no human series on the clock {curve.clock} takes the form {head.form}."
    own = Exponent(curve.name, head.number, head.form, curve.clock, curve.window, curve.study, curve.measure)
    if compared and not curve.measure:
        named = f"--measure {curve.name}" if curve.name in MEASURES else "--measure"
        missing["measure"] = (
            f"what kind of measure {curve.name} is, is not said ({named}): it is held against every class "
            "of human measures, one at a time."
        )
    by_measure = {m: [h for h in compared if h.measure == m] for m in MEASURES}
    every = (
        compared
        if choices.human
        else human_exponents(curve.clock, head.form, None, curve.study, incomplete=True)[0]
    )
    tests = tuple(
        _tested(own, part, [h for h in every if h.measure == m], choices.margin)
        for m, part in by_measure.items()
        if part and curve.measure in ("", m)
    )
    return _Beside(compared, shown, tests, missing)
