"""Rival forms side by side, a verdict in words, and the averaging artefact.

AICc, BIC    of the points, the error variance counted as a parameter (Hurvich & Tsai 1989; Schwarz 1978)
error model  equal variance of y, or of ln y (noise relative to y), or binomial where trials are counted. The
             likelihood of ln y is that of y with the Jacobian 1 / y of the logarithm, so AICc compares forms
             and error models at once; a form stands with the better of its two
held_out     root mean squared error of points predicted by a fit without them, one x at a time (one unit at a
             time where there are at least 5 units); nan where a fit without them is not possible
last_decade  the same for all x within a factor of ten of the largest, predicted from the x before
Vuong        z and two-sided p of the pointwise likelihood ratio of non-nested forms, BIC-corrected (Vuong
             1989, Econometrica 57, 307-333); its normal distribution is that of many points, so it is left
             out below VUONG_LEAST of them
unconverged  a fit that did not converge could still gain, so its AICc is the most that its form can have:
             where it lies below that of every fit that did, its form is ahead, by how much is not known, and
             which form is best is undecided
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from consolidation.decay.curve import Curve, ErrorModel
from consolidation.decay.forms import FORMS, Form, form
from consolidation.decay.inference import (
    ERRORS,
    LEAST_UNITS,
    Estimator,
    Fit,
    aicc,
    fit,
    fit_many,
    labels,
    units_of,
)
from consolidation.decay.solver import MORE_POINTS
from labbook.console import UserError

FOLDS = 72
VUONG_LEAST = 30
# differences in AICc in the sense of Burnham & Anderson 2002, section 2.6
WORDS = (
    (2.0, "cannot be told apart from"),
    (4.0, "is somewhat better than"),
    (10.0, "is clearly better than"),
    (np.inf, "is decisively better than"),
)
# AICc above that of the best form up to which a form survives, and beyond which it does not
SURVIVES, REJECTED = 2, 10
# how a verdict says with which noise a form stands
NOISE: dict[ErrorModel, str] = {
    "gaussian": "noise of equal size",
    "lognormal": "noise relative to y",
    "binomial": "binomial noise",
}


def estimators(curve: Curve) -> tuple[Estimator, ...]:
    """The estimators whose error models a curve allows: binomial where trials are counted; else equal
    variance of y and, where every y is positive, of ln y.
    """
    if curve.count is not None:
        return ("ml",)
    return ("nls", "loglog") if (curve.y > 0).all() else ("nls",)


def _observed(curve: Curve, estimator: Estimator) -> Curve:
    """The curve as an estimator of the comparison sees it: for `loglog` every y is the mean at its x, so that
    both error models are of the same numbers.
    """
    if estimator != "loglog":
        return curve
    _, place = np.unique(curve.x, return_inverse=True)
    return replace(curve, y=(np.bincount(place, curve.y) / np.bincount(place))[place])


def vuong(first: Fit, second: Fit) -> tuple[float, float]:
    """z (positive: the first is better) and its two-sided p, for two non-nested forms on the same points."""
    m = first.pointwise - second.pointwise
    n = len(m)
    correction = (len(first.form.parameters) - len(second.form.parameters)) * np.log(n) / 2
    spread = float(np.std(m)) * np.sqrt(n)
    z = (float(m.sum()) - correction) / spread if spread > 0 else 0.0
    return z, float(2 * stats.norm.sf(abs(z)))


def _fits(
    curve: Curve, keeps: Sequence[npt.NDArray[np.bool_]], form_name: str, estimator: Estimator
) -> list[Fit | UserError]:
    """Fits to the rows inside each `keep`, all solved at once; or why one cannot be."""
    wanted = [(_observed(curve.rows(keep), estimator), estimator) for keep in keeps]
    return fit_many(wanted, form_name)


def _rmse(
    curve: Curve, keeps: Sequence[npt.NDArray[np.bool_]], found: Sequence[Fit | UserError]
) -> list[float]:
    """Error on the rows outside each `keep` of the fit to the rows inside; nan where there is none."""
    errors = []
    for keep, one in zip(keeps, found, strict=True):
        off = np.nan if isinstance(one, UserError) else curve.y[~keep] - one.predict(curve.x[~keep])
        errors.append(float(np.sqrt(np.mean(np.square(off)))))
    return errors


def _left_out(curve: Curve) -> list[npt.NDArray[np.bool_]]:
    """What is kept in each turn of leaving out units (at least 5 of them) or x. More than FOLDS units or x
    are left out in FOLDS turns, each turn every FOLDS-th of them.
    """
    _, groups = np.unique(
        labels(curve) if len(units_of(curve)) >= LEAST_UNITS else curve.x, return_inverse=True
    )
    groups = groups % FOLDS
    return [groups != g for g in np.unique(groups)]


def last_decade(curve: Curve, form_name: str, estimator: Estimator) -> float:
    """Root mean squared error of the last decade of x predicted from what comes before; nan when too little
    does.
    """
    keeps = [curve.x < curve.x.max() / 10]
    return _rmse(curve, keeps, _fits(curve, keeps, form_name, estimator))[0]


def fit_all(
    curve: Curve, forms: Sequence[str], estimator: Estimator
) -> tuple[dict[str, Fit], dict[str, str]]:
    """Fits of several forms, and for each form that cannot be fitted the reason."""
    fits, reasons = {}, {}
    for name in forms:
        try:
            fits[name] = fit(_observed(curve, estimator), name, estimator)
        except UserError as error:
            reasons[name] = str(error)
    return fits, reasons


@dataclass(frozen=True)
class Standing:
    """Whether a form survives the comparison with its rivals, its AICc above that of the best, and the error
    model under which it is smallest.

    `not tested` is a form that none of the rivals beats where none with an asymptote could, as `why` says.
    `undecided` is a form that may have a smaller AICc than its fit, or a rival ahead of all that converged,
    because a fit did not converge; `why` says which.
    """

    state: Literal["survives", "is weakened", "does not survive", "not compared", "not tested", "undecided"]
    gap: float
    why: str = ""
    error: ErrorModel | None = None


@dataclass(frozen=True)
class Comparison:
    """Rival forms of one curve.

    Attributes
    ----------
    table : one row per form, of its better error model (column `error`); `fits` the fits, `reasons` why a
        form has none or takes no part. Its `k` is the number of the form's own parameters; AICc and BIC count
        the error variance besides, except for binomial likelihood, which has none.
    best : the form of the smallest AICc; None when there are too few points to compare forms.
    verdict : it in words.
    untested : why there are too few points for a form with an asymptote to win; empty where there are not.
    under : AICc of every form that has one, by error model.
    unconverged : see `Rivals`.
    without : for every form its fits without one x each, in the order of x, or why there is none; empty where
        other things were left out, which are units or more than FOLDS x.
    """

    table: pd.DataFrame
    fits: dict[str, Fit]
    reasons: dict[str, str]
    best: str | None
    verdict: str
    untested: str = ""
    under: dict[ErrorModel, dict[str, float]] = field(default_factory=dict)
    unconverged: dict[str, float] = field(default_factory=dict)
    without: dict[str, list[Fit | UserError]] = field(default_factory=dict)

    @property
    def unchanging(self) -> str:
        """The form that does not change, where it describes the curve as well as the best; else empty."""
        near = self.table[self.table["delta_aicc"] <= SURVIVES]["form"]
        return next((name for name in near if form(name).null), "")

    @property
    def ahead(self) -> dict[str, float]:
        """By how much at least forms whose fit did not converge are ahead of the best that did."""
        if self.best is None:
            return {}
        return _ahead(self.unconverged, self.fits[self.best].aicc)

    def error(self, name: str | None) -> ErrorModel | None:
        """The error model with which a form stands; None for a form without a fit."""
        return ERRORS[self.fits[name].estimator] if name in self.fits else None

    def noise(self, name: str) -> str:
        """The same in words."""
        return _noise(self.fits[name])

    def alone(self, name: str) -> dict[ErrorModel, dict[str, Any]]:
        """By error model, were it the only one: the best form, its AICc, and how far `name` is above it."""
        return {
            error: {
                "best_form": min(found, key=lambda one: found[one]),
                "aicc": min(found.values()),
                "delta_aicc": found.get(name, float("nan")) - min(found.values()),
            }
            for error, found in self.under.items()
            if found
        }

    def behind(self, name: str, error: ErrorModel) -> float:
        """AICc of a form with this noise above that of the best form; nan where one of them has none."""
        if self.best is None:
            return float("nan")
        return self.under.get(error, {}).get(name, float("nan")) - self.fits[self.best].aicc

    def standing(self, name: str) -> Standing:
        """How a form stands against the best one."""
        known = self.table[np.isfinite(self.table["delta_aicc"])].set_index("form")["delta_aicc"]
        gap = float(known.get(name, float("nan")))
        # a form that does not change is no rival
        rivals = [other for other in known.index if not form(str(other)).null]
        if self.best is None or not np.isfinite(gap) or len(rivals) < 2:
            return Standing("not compared", gap)
        state = state_of(gap, self.untested)
        if why := _doubt(name, state, self.unconverged, self.ahead):
            return Standing("undecided", gap, why, self.error(name))
        return Standing(state, gap, self.untested if state == "not tested" else "", self.error(name))


def state_of(
    gap: float, untested: str = ""
) -> Literal["survives", "is weakened", "does not survive", "not tested"]:
    """How a form stands whose AICc is `gap` above that of the best one. More rivals could only take from it,
    so one that is beaten already needs no more of them.
    """
    if gap <= SURVIVES:
        return "not tested" if untested else "survives"
    return "is weakened" if gap <= REJECTED else "does not survive"


def _ahead(unconverged: Mapping[str, float], lowest: float) -> dict[str, float]:
    return {name: lowest - aicc for name, aicc in unconverged.items() if aicc < lowest}


def _doubt(name: str, state: str, unconverged: Mapping[str, float], ahead: Mapping[str, float]) -> str:
    """Why a form's state is undecided; empty where it is not. A form that is rejected stays so however far
    others could still go.
    """
    if name in unconverged:
        return f"the fit of {name} did not converge"
    return "" if state == "does not survive" else said_ahead(ahead)


def said_ahead(ahead: Mapping[str, float]) -> str:
    """Which forms are ahead though their fit did not converge, in words; empty for none."""
    named = " and ".join(f"{name} (AICc {gap:.1f} lower already)" for name, gap in ahead.items())
    several = len(ahead) > 1
    fits, are = ("fits", "are") if several else ("fit", "is")
    return f"the {fits} of {named} did not converge and {are} ahead of all that did" if ahead else ""


def _untested(curve: Curve, forms: Sequence[str], estimator: Estimator) -> str:
    """Why forms with an asymptote cannot win with so few points, and how many would do: none has an AICc, or
    its correction alone puts all of them behind the smallest form by more than what rejects; empty where one
    could. They are counted whether they were asked for or not, because fewer rivals test no more.
    """
    points = len(np.unique(curve.x)) - len(curve.stray_x)
    asked = [form(name) for name in dict.fromkeys(forms)]
    changing, bent = [one for one in asked if not one.null], [one for one in FORMS.values() if one.asymptote]

    def cost(of: Form, n: int) -> float:
        # the error variance is one of k
        return float(aicc(0.0, len(of.parameters) + (estimator != "ml"), n))

    def behind(n: int) -> float:
        least = min(cost(one, n) for one in changing)
        return min(cost(one, n) for one in bent) - least if np.isfinite(least) else math.inf

    if not changing or behind(points) <= REJECTED:
        return ""
    enough = next(n for n in itertools.count(points) if behind(n) <= REJECTED)
    remedy = f"; {enough} or more would do"
    if not np.isfinite(behind(points)):
        allowed = [one for one in asked if np.isfinite(cost(one, points))]
        return f"{points} points allow {len(allowed)} of {len(asked)} forms, none with an asymptote{remedy}"
    return (
        f"with {points} points every form with an asymptote is {behind(points):.0f} or more of AICc behind "
        f"for its parameters alone{remedy}"
    )


def best_of(found: Sequence[Mapping[str, Fit]]) -> dict[str, Fit]:
    """Every form with the error model under which its AICc is smallest; fits that did not converge last."""
    names = dict.fromkeys(name for fits in found for name in fits)
    several = {name: [fits[name] for fits in found if name in fits] for name in names}
    return {name: min(of, key=lambda one: (not one.converged, one.aicc)) for name, of in several.items()}


@dataclass(frozen=True)
class Rivals:
    """Fits of several forms to one curve.

    Attributes
    ----------
    by_estimator : fits by form, for every estimator whose error model is allowed; the first is the one whose
        exponents are cited.
    reasons : why a form has no fit by the first of them.
    """

    by_estimator: dict[Estimator, dict[str, Fit]]
    reasons: dict[str, str]

    @property
    def fits(self) -> dict[str, Fit]:
        """Every form with the noise that suits it best, see `best_of`."""
        return best_of(list(self.by_estimator.values()))

    @property
    def lowest(self) -> float:
        """The smallest AICc of fits that converged; infinite where none has one."""
        known = [f.aicc for f in self.fits.values() if f.converged and np.isfinite(f.aicc)]
        return min(known, default=float("inf"))

    @property
    def unconverged(self) -> dict[str, float]:
        """AICc of forms with a fit that did not converge and lies below the form's own that did, if any."""
        found = dict[str, float]()
        for name, stands in self.fits.items():
            stopped = [of[name] for of in self.by_estimator.values() if name in of and not of[name].converged]
            least = min((f.aicc for f in stopped if np.isfinite(f.aicc)), default=float("inf"))
            if stopped and (not stands.converged or least < stands.aicc):
                found[name] = least
        return found

    @property
    def ahead(self) -> dict[str, float]:
        """By how much at least forms whose fit did not converge are ahead of all that did."""
        return _ahead(self.unconverged, self.lowest) if np.isfinite(self.lowest) else {}


def rivals(curve: Curve, forms: Sequence[str], estimator: Estimator | None = None) -> Rivals:
    """Fit every form under each error model that the curve allows (`estimators`), or under that of one
    estimator. A form that cannot be fitted is left out.
    """
    ways = estimators(curve) if estimator is None else (estimator,)
    found, reasons = zip(*(fit_all(curve, forms, way) for way in ways), strict=True)
    return Rivals(dict(zip(ways, found, strict=True)), reasons[0])


def compare(curve: Curve, forms: Sequence[str], estimator: Estimator | None = None) -> Comparison:
    """Fit every form and rank them.

    Parameters
    ----------
    estimator : whose error model alone is used; None is each that the curve allows (`estimators`).

    Raises UserError when no form can be fitted.
    """
    for name in forms:
        form(name)  # an unknown name is an error, a form that does not fit this curve a reason
    found = rivals(curve, forms, estimator)
    fits, reasons, unconverged = found.fits, found.reasons, found.unconverged
    converged = {name: f for name, f in fits.items() if f.converged}
    if not converged:
        raise UserError(f"{curve.name}: no form could be fitted. {_why_none(curve, forms, reasons)}")
    sound = {name: f for name, f in converged.items() if np.isfinite(f.aicc)}
    under = {
        ERRORS[way]: {name: f.aicc for name, f in of.items() if f.converged and np.isfinite(f.aicc)}
        for way, of in found.by_estimator.items()
    }
    undefined = [name for name in converged if name not in sound]
    for name in undefined:
        f = fits[name]
        reasons[name] = (
            f"{curve.name}: {f.points} points leave the AICc of {name} undefined (it needs more than its "
            f"{len(f.form.parameters)} parameters, the error variance and one), so it is not compared."
        )
    if undefined and all(f.form.null for f in sound.values()):
        sound = {}
    lowest = min((f.aicc for f in sound.values()), default=float("nan"))
    weight = {name: np.exp(-(f.aicc - lowest) / 2) for name, f in sound.items()}
    total = sum(weight.values()) if weight else float("nan")
    best = min(sound, key=lambda name: sound[name].aicc) if sound else None
    keeps = _left_out(curve)
    left_out = {name: _fits(curve, keeps, name, f.estimator) for name, f in fits.items()}
    rows = []
    for name, f in sorted(fits.items(), key=lambda item: item[1].aicc):
        z = p = float("nan")
        if (
            best is not None
            and name != best
            and not (f.estimator == sound[best].estimator and f.form.nested(sound[best].form))
            and f.points >= VUONG_LEAST
        ):
            z, p = vuong(f, sound[best])
        rows.append(
            {
                "form": name,
                "k": len(f.form.parameters),
                "points": f.points,
                **{key: f.parameters.get(key, float("nan")) for key in ("gamma", "tau", "c")},
                "log_likelihood": f.log_likelihood,
                "aicc": f.aicc,
                "delta_aicc": f.aicc - lowest,
                "weight": weight.get(name, 0.0) / total,
                "bic": f.bic,
                "held_out_rmse": float(np.sqrt(np.mean(np.square(_rmse(curve, keeps, left_out[name]))))),
                "last_decade_rmse": last_decade(curve, name, f.estimator),
                "vuong_z_against_best": z,
                "vuong_p": p,
                "failures": "; ".join(f.failures),
                "impossible": f.impossible,
                "error": ERRORS[f.estimator],
            }
        )
    table = pd.DataFrame(rows)
    if best is None:
        points = max(f.points for f in fits.values())
        verdict = (
            f"{curve.name}: the forms cannot be compared: {points} points leave AICc undefined for every "
            "form that changes."
        )
        return Comparison(table, fits, reasons, None, verdict)
    untested = _untested(curve, forms, next(iter(found.by_estimator)))
    verdict = _verdict(curve, sound, best, untested, unconverged)
    one_each = len(units_of(curve)) < LEAST_UNITS and len(np.unique(curve.x)) == len(keeps)
    without = left_out if one_each else {}
    return Comparison(table, fits, reasons, best, verdict, untested, under, unconverged, without)


def _why_none(curve: Curve, forms: Sequence[str], reasons: dict[str, str]) -> str:
    """Why no form could be fitted, each thing once."""
    different, counts = len(np.unique(curve.x)), [len(form(name).parameters) for name in forms]
    if different < min(counts) + MORE_POINTS:
        least, most = min(counts), max(counts)
        have = f"{least} to {most} parameters" if least < most else f"{least} parameters"
        need = f"{least + MORE_POINTS} to {most + MORE_POINTS}" if least < most else f"{least + MORE_POINTS}"
        return f"It has {different} different x; the forms have {have} and need {need}. Give more points."
    said = dict.fromkeys(reason.removeprefix(f"{curve.name}: ") for reason in reasons.values())
    return " ".join(said) or "None of the fits converged."


def _noise(of: Fit) -> str:
    return NOISE[ERRORS[of.estimator]]


def _verdict(
    curve: Curve, sound: dict[str, Fit], best: str, untested: str, unconverged: Mapping[str, float]
) -> str:
    """Which form is best, how decisively, and whether the power law survives."""
    ahead = _ahead(unconverged, sound[best].aicc)
    ranked = sorted(sound, key=lambda name: sound[name].aicc)
    text = f"{curve.name}: the best form is {best} ({sound[best].form.formula}) with {_noise(sound[best])}"
    if sound[best].impossible:
        text += f", though it {sound[best].impossible}"
    if len(ranked) > 1:
        gap = sound[ranked[1]].aicc - sound[best].aicc
        words = next(word for limit, word in WORDS if gap <= limit)
        text += f", which {words} {ranked[1]} (AICc difference {gap:.1f})"
    if ahead:
        text += f"; but {said_ahead(ahead)}, so which form is best is undecided"
    if "power" in sound:
        gap = sound["power"].aicc - sound[best].aicc
        said = _said_state("power", gap, untested, unconverged, ahead)
        text += (
            f"; the pure power law {said} (AICc {gap:+.1f} against the best, with {_noise(sound['power'])})"
        )
        powers = [name for name in ranked if sound[name].form.power_law]
        next_gap = sound[powers[0]].aicc - sound[best].aicc
        if gap > SURVIVES and powers[0] != "power" and next_gap <= SURVIVES:
            other = _said_state(powers[0], next_gap, untested, unconverged, ahead)
            text += f", but a power law with more parameters, {powers[0]}, {other}"
    return text + "."


def _said_state(
    name: str, gap: float, untested: str, unconverged: Mapping[str, float], ahead: Mapping[str, float]
) -> str:
    """What becomes of a form beside its rivals, as a verb with what belongs to it."""
    state = state_of(gap, untested)
    if _doubt(name, state, unconverged, ahead):
        return "is undecided"
    return f"is not tested: {untested}" if state == "not tested" else state
