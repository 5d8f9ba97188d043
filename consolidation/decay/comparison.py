"""Rival forms side by side, a verdict in words, and the averaging artefact.

AICc, BIC    of the points, the error variance counted as a parameter (Hurvich & Tsai 1989; Schwarz 1978)
error model  equal variance of y, or of ln y (noise relative to y), or binomial where trials are counted. The
             likelihood of ln y is that of y with the Jacobian 1 / y of the logarithm, so AICc compares forms
             and error models at once; a form stands with the better of its two
held_out     root mean squared error of points predicted by a fit without them, one x at a time (one unit at a
             time where there are at least 5 units)
last_decade  the same for all x within a factor of ten of the largest, predicted from the x before
Vuong        z and two-sided p of the pointwise likelihood ratio of non-nested forms, BIC-corrected (Vuong
             1989, Econometrica 57, 307-333); its normal distribution is that of many points, so it is left
             out below VUONG_LEAST of them
averaging    the mean of exponentials can look like a power law (Anderson & Tweney 1997; Heathcote, Brown &
             Mewhort 2000)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.stats import binomtest

from consolidation.decay.curve import Curve, ErrorModel
from consolidation.decay.forms import form
from consolidation.decay.inference import ERRORS, Estimator, Fit, fit, fit_many, labels, units_of
from consolidation.decay.solver import MORE_POINTS, Data, fit_best, solve
from labbook.console import UserError
from labbook.estimate import Array

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


def _rmse(
    curve: Curve, keeps: Sequence[npt.NDArray[np.bool_]], form_name: str, estimator: Estimator
) -> list[float]:
    """Error on the rows outside each `keep` of a fit to the rows inside, all fits solved at once; nan where
    there is none.
    """
    errors = []
    wanted = [(_observed(curve.rows(keep), estimator), estimator) for keep in keeps]
    for keep, one in zip(keeps, fit_many(wanted, form_name), strict=True):
        off = np.nan if isinstance(one, UserError) else curve.y[~keep] - one.predict(curve.x[~keep])
        errors.append(float(np.sqrt(np.mean(np.square(off)))))
    return errors


def held_out(curve: Curve, form_name: str, estimator: Estimator) -> float:
    """Root mean squared error of left-out units (at least 5 of them) or left-out x; nan when a fit without
    them is not possible.

    More than FOLDS units or x are left out in FOLDS turns, each turn every FOLDS-th of them.
    """
    _, groups = np.unique(labels(curve) if len(units_of(curve)) >= 5 else curve.x, return_inverse=True)
    groups = groups % FOLDS
    errors = _rmse(curve, [groups != g for g in np.unique(groups)], form_name, estimator)
    return float(np.sqrt(np.mean(np.square(errors))))


def last_decade(curve: Curve, form_name: str, estimator: Estimator) -> float:
    """Root mean squared error of the last decade of x predicted from what comes before; nan when too little
    does.
    """
    return _rmse(curve, [curve.x < curve.x.max() / 10], form_name, estimator)[0]


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

    `not tested` is a form that none of the rivals beats where no rival with an asymptote could be among them;
    `why` says for how many forms there are points enough.
    """

    state: Literal["survives", "is weakened", "does not survive", "not compared", "not tested"]
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
    untested : "5 points allow 5 of 13 forms" where that leaves no form with an asymptote; else empty.
    under : AICc of every form that has one, by error model.
    """

    table: pd.DataFrame
    fits: dict[str, Fit]
    reasons: dict[str, str]
    best: str | None
    verdict: str
    untested: str = ""
    under: dict[ErrorModel, dict[str, float]] = field(default_factory=dict)

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

    def standing(self, name: str) -> Standing:
        """How a form stands against the best one."""
        rows = self.table.loc[self.table["form"] == name, "delta_aicc"].to_list()
        gap = float(rows[0]) if rows else float("nan")
        if self.best is None or not np.isfinite(gap):
            return Standing("not compared", gap)
        state = _state(gap, self.untested)
        return Standing(state, gap, self.untested if state == "not tested" else "", self.error(name))


def _state(gap: float, untested: str) -> Literal["survives", "is weakened", "does not survive", "not tested"]:
    """How a form stands whose AICc is `gap` above that of the best one. More rivals could only take from it,
    so one that is beaten already needs no more of them.
    """
    if gap <= SURVIVES:
        return "not tested" if untested else "survives"
    return "is weakened" if gap <= REJECTED else "does not survive"


def _untested(curve: Curve, forms: Sequence[str], estimator: Estimator) -> str:
    """How many of the forms asked for have an AICc with so few points, if no form with an asymptote has one;
    empty where one has, or none was asked for.
    """
    points, asked = len(np.unique(curve.x)), [form(name) for name in dict.fromkeys(forms)]
    # the correction of AICc divides by points - k - 1, the error variance being one of k
    allowed = [f for f in asked if points > len(f.parameters) + (estimator != "ml") + 1]
    if any(f.asymptote for f in allowed) or not any(f.asymptote for f in asked):
        return ""
    return f"{points} points allow {len(allowed)} of {len(asked)} forms"


def best_of(found: Sequence[Mapping[str, Fit]]) -> dict[str, Fit]:
    """Every form with the error model under which its AICc is smallest; fits that did not converge last."""
    names = dict.fromkeys(name for fits in found for name in fits)
    several = {name: [fits[name] for fits in found if name in fits] for name in names}
    return {name: min(of, key=lambda one: (not one.converged, one.aicc)) for name, of in several.items()}


def compare(curve: Curve, forms: Sequence[str], estimator: Estimator | None = None) -> Comparison:
    """Fit every form and rank them.

    Parameters
    ----------
    estimator : whose error model alone is used; None is each that the curve allows (`estimators`).

    Raises UserError when no form can be fitted.
    """
    for name in forms:
        form(name)  # an unknown name is an error, a form that does not fit this curve a reason
    ways = estimators(curve) if estimator is None else (estimator,)
    found, all_reasons = zip(*(fit_all(curve, forms, way) for way in ways), strict=True)
    fits, reasons = best_of(found), all_reasons[0]
    converged = {name: f for name, f in fits.items() if f.converged}
    if not converged:
        raise UserError(f"{curve.name}: no form could be fitted. {_why_none(curve, forms, reasons)}")
    sound = {name: f for name, f in converged.items() if np.isfinite(f.aicc)}
    under = {
        ERRORS[way]: {name: f.aicc for name, f in of.items() if f.converged and np.isfinite(f.aicc)}
        for way, of in zip(ways, found, strict=True)
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
                "held_out_rmse": held_out(curve, name, f.estimator),
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
    untested = _untested(curve, forms, ways[0])
    verdict = _verdict(curve, sound, best, untested)
    return Comparison(table, fits, reasons, best, verdict, untested, under)


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


def _verdict(curve: Curve, sound: dict[str, Fit], best: str, untested: str) -> str:
    """Which form is best, how decisively, and whether the power law survives."""
    ranked = sorted(sound, key=lambda name: sound[name].aicc)
    text = f"{curve.name}: the best form is {best} ({sound[best].form.formula}) with {_noise(sound[best])}"
    if sound[best].impossible:
        text += f", though it {sound[best].impossible}"
    if len(ranked) > 1:
        gap = sound[ranked[1]].aicc - sound[best].aicc
        words = next(word for limit, word in WORDS if gap <= limit)
        text += f", which {words} {ranked[1]} (AICc difference {gap:.1f})"
    powers = [name for name in ranked if sound[name].form.power_law]
    if "power" in sound:
        gap = sound["power"].aicc - sound[best].aicc
        state = _state(gap, untested)
        said = f"is not tested: {untested}, none with an asymptote" if state == "not tested" else state
        text += (
            f"; the pure power law {said} (AICc {gap:+.1f} against the best, with {_noise(sound['power'])})"
        )
        if gap > 2 and powers and powers[0] != "power" and sound[powers[0]].aicc - sound[best].aicc <= 2:
            text += f", but one with more parameters ({powers[0]}) does"
    return text + "."


@dataclass(frozen=True)
class Averaging:
    """Fits of single units against the fit of their mean, and how often averaged exponentials would look like
    a power law.

    Attributes
    ----------
    units : one row per unit: gamma of its power law, tau of its exponential, and the AICc difference (power
        minus exponential).
    power_wins : share of units better described by the power law; mean_power_wins : whether their mean is.
    simulated : share of simulated means of exponentials that the power law describes better, with its 95 %
        interval (Wilson) and n.
    """

    units: pd.DataFrame
    power_wins: float
    mean_power_wins: bool
    simulated: tuple[float, float, float, int]
    verdict: str


def averaging(curve: Curve, estimator: Estimator = "nls", simulations: int = 500, seed: int = 0) -> Averaging:
    """The averaging test. Raises UserError for fewer than 3 units that can be fitted one by one."""
    rows, logs, noise = [], [], []
    for unit in units_of(curve):
        one = replace(curve.rows(labels(curve) == unit), unit=None)
        fits, _ = fit_all(one, ("power", "exponential"), estimator)
        if len(fits) < 2:
            continue
        power, exponential = fits["power"], fits["exponential"]
        rows.append(
            {
                "unit": unit,
                "points": power.points,
                "gamma": power.exponent,
                "tau": exponential.parameters["tau"],
                "delta_aicc_power_minus_exponential": power.aicc - exponential.aicc,
            }
        )
        a, tau = exponential.parameters["a"], exponential.parameters["tau"]
        if a > 0 and not exponential.failures:
            logs.append((np.log(a), np.log(tau)))
            free = max(exponential.points - 2, 1)
            noise.append(np.sum((exponential.y - exponential.fitted) ** 2) / free)
    if len(logs) < 3:
        raise UserError(
            f"{curve.name}: {len(logs)} units can be fitted one by one; the averaging test needs at least "
            "3. Give --unit with more units."
        )
    table = pd.DataFrame(rows)
    whole, lacking = fit_all(replace(curve, unit=None), ("power", "exponential"), estimator)
    if lacking:
        raise UserError(next(iter(lacking.values())))
    x = whole["power"].x
    parameters: Array = np.array(logs)
    g = np.random.default_rng(seed)
    draws = g.multivariate_normal(parameters.mean(0), np.cov(parameters.T), size=(simulations, len(table)))
    y = np.exp(draws[..., :1]) * np.exp(-x / np.exp(draws[..., 1:]))
    mean = y.mean(1) + np.sqrt(np.mean(noise) / len(table)) * g.standard_normal((simulations, len(x)))
    losses = {}
    for name in ("power", "exponential"):
        f = form(name)
        best, _ = fit_best(f, Data(x, mean.mean(0)[None], np.ones((1, len(x)))))
        start = np.tile(best.parameters, (simulations, 1))
        losses[name] = solve(f, Data(x, mean, np.ones_like(mean)), start).objective
    wins = int((losses["power"] < losses["exponential"]).sum())
    limits = binomtest(wins, simulations).proportion_ci(method="wilson")
    share = float((table["delta_aicc_power_minus_exponential"] < 0).mean())
    mean_wins = whole["power"].aicc < whole["exponential"].aicc
    verdict = (
        f"{curve.name}: the power law describes {share:.0%} of {len(table)} single units better than "
        f"the exponential, and {'also' if mean_wins else 'not'} their mean; means of as many "
        f"exponentials with the observed spread look like a power law in {wins / simulations:.0%} "
        f"[{limits.low:.0%}, {limits.high:.0%}] of {simulations} simulations, so a mean alone "
    ) + ("decides nothing." if limits.high > 0.05 else "is evidence here.")
    return Averaging(
        table, share, bool(mean_wins), (wins / simulations, limits.low, limits.high, simulations), verdict
    )
