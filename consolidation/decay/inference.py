"""From a curve to an exponent with an honest interval: estimators, cluster bootstrap, profile likelihood.

Estimators
    loglog     least squares on ln y (log-normal errors); for the power law the straight line in log-log axes
    nls        least squares on y
    weighted   least squares on y, weights 1 / variance of the mean at each x (over units) or trials at each x
    ml         maximum likelihood of binomial proportions with the number of trials at each x

Intervals (95 %)
    bootstrap  whole units (seeds, patterns, lists, subjects) are drawn; BCa (Efron 1987, J. American
               Statistical Association 82, 171-185) at the quantiles of Student's t expanded for few units
               (Hesterberg 2015, section 4.5.3)
    profile    values of the parameter at which the best objective of all others rises by less than the F
               (binomial: chi-square) limit
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from consolidation.decay.curve import Curve, ErrorModel
from consolidation.decay.forms import Form, form, with_exponent
from consolidation.decay.solver import Data, Solutions, check, fit_stack, solve
from labbook.console import UserError
from labbook.estimate import LEVEL, REPLICATES, Array, Estimate, resamples

Estimator = Literal["loglog", "nls", "weighted", "ml"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
UNCONVERGED = "did not converge"
ERRORS: dict[Estimator, ErrorModel] = {
    "loglog": "lognormal",
    "nls": "gaussian",
    "weighted": "gaussian",
    "ml": "binomial",
}
# share of bootstrap replicates that may fail before the interval is called unstable
FAILURES = 0.05


# an asymptote that lies this part of the spread of y beyond what y can be is there by rounding and noise
BESIDE = 0.01

# relative rounding of data as they are stored and read
ROUNDING = 1e-9


def collapse(curve: Curve, estimator: Estimator, draws: Array) -> Data:
    """The curve as one point per x: mean of y (of ln y for `loglog`) and total weight at every x.

    Parameters
    ----------
    draws : (batch, unit) how often each unit counts; the objective over all rows differs from that over these
        means by a constant only.
    """
    x, place = np.unique(curve.x, return_inverse=True)
    units = units_of(curve)
    cell = np.searchsorted(units, labels(curve)) * len(x) + place
    trials = curve.count if estimator == "ml" and curve.count is not None else np.ones(len(curve.x))
    values = np.log(curve.y) if estimator == "loglog" else curve.y
    # rows of one unit at one x always count together, so draws act on their sums: a million rows cost no more
    # than their cells
    weights, sums = (
        np.bincount(cell, w, len(units) * len(x)).reshape(len(units), len(x))
        for w in (trials, trials * values)
    )
    total = draws @ weights
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = draws @ sums / total
    mean = np.where(total > 0, mean, 0.0)
    weight = total
    if estimator == "weighted":
        weight = np.where(total > 0, _precision(curve, x, place), 0.0)
    y = np.exp(mean) if estimator == "loglog" else mean
    return Data(x, y, weight, ERRORS[estimator])


def _precision(curve: Curve, x: Array, place: npt.NDArray[np.intp]) -> Array:
    """1 / variance of the mean at each x: (m,). Raises UserError when nothing says how sure a point is."""
    if curve.count is not None:
        trials = np.bincount(place, curve.count, len(x))
        mean = np.bincount(place, curve.count * curve.y, len(x)) / trials
        if ((curve.y >= 0) & (curve.y <= 1)).all():
            # Agresti's rule keeps proportions of 0 and 1 from infinite weight
            p = (mean * trials + 2) / (trials + 4)
            return np.asarray(trials / (p * (1 - p)))
        return np.asarray(trials)
    n = np.bincount(place, minlength=len(x))
    if (n < 2).any():
        raise UserError(
            f"{curve.name}: the weighted estimator needs at least two observations at every x, or the number "
            "of trials (--count)."
        )
    mean = np.bincount(place, curve.y, len(x)) / n
    variance = np.bincount(place, (curve.y - mean[place]) ** 2, len(x)) / (n - 1)
    if (variance <= 0).any():
        raise UserError(
            f"{curve.name}: the observations at some x are all equal, so their weight is not defined. Give "
            "the number of trials (--count)."
        )
    return np.asarray(n / variance)


def labels(curve: Curve) -> np.ndarray:
    """The independent unit of every row; without units all rows belong to one."""
    return np.zeros(len(curve.x), dtype="U1") if curve.unit is None else curve.unit


def units_of(curve: Curve) -> np.ndarray:
    """The distinct units, sorted."""
    return np.unique(labels(curve))


@dataclass(frozen=True)
class Fit:
    """One form fitted to one curve by one estimator.

    Attributes
    ----------
    parameters : by name, in the form's units.
    points, units : number of distinct x, and of independent units.
    objective : the minimised objective; `log_likelihood`, `aicc`, `bic` are of the points (error variance
        counts as a parameter).
    fitted, residuals : at the points `x`.
    failures : what is wrong with the fit, in words; empty when nothing is.
    """

    curve: Curve
    form: Form
    estimator: Estimator
    parameters: dict[str, float]
    x: Array
    y: Array
    weight: Array
    fitted: Array
    objective: float
    log_likelihood: float
    aicc: float
    bic: float
    units: int
    failures: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether the solver reached an optimum."""
        return UNCONVERGED not in self.failures

    @property
    def points(self) -> int:
        """Number of distinct x."""
        return len(self.x)

    @property
    def exponent(self) -> float:
        """The exponent. Raises UserError for a form that has none."""
        if self.form.exponent is None:
            raise UserError(
                f"the form {self.form.name} has no exponent; forms that have one: "
                f"{', '.join(with_exponent())}."
            )
        return self.parameters[self.form.exponent]

    @property
    def rounding(self) -> float:
        """Of y, or of ln y: below it one fit is as good as another."""
        return ROUNDING * (1.0 if self.estimator == "loglog" else float(np.abs(self.y).max()))

    @property
    def pointwise(self) -> Array:
        """Log-likelihood of every point, the error variance at its maximum: (points,)."""
        if self.estimator == "ml":
            p = np.clip(self.fitted, 1e-12, 1 - 1e-12)
            return np.asarray(self.weight * (self.y * np.log(p) + (1 - self.y) * np.log1p(-p)))
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # a fit that left the domain of the logarithm did not converge, and says so
            y, f = (
                (np.log(self.y), np.log(self.fitted)) if self.estimator == "loglog" else (self.y, self.fitted)
            )
        scale = self.weight / self.weight.mean()
        # no form wins by the last digits
        floor = float(np.mean(scale)) * self.rounding**2
        variance = max(float(np.mean(scale * (y - f) ** 2)), floor, 1e-300)
        jacobian = -np.log(self.y) if self.estimator == "loglog" else 0.0
        return np.asarray(
            0.5 * np.log(scale / (2 * np.pi * variance)) - 0.5 * scale * (y - f) ** 2 / variance + jacobian
        )

    @property
    def impossible(self) -> str:
        """What the fitted curve promises for large x that its measure cannot be, in words; empty when nothing
        is.
        """
        limit = self.form.tends_to(np.array(list(self.parameters.values())))
        low, high = self.curve.possible
        slack = BESIDE * float(np.ptp(self.y))
        if not (limit < low - slack or limit > high + slack):
            return ""
        place, bound = ("below", low) if limit < low else ("above", high)
        infinity = "infinity" if limit > 0 else "minus infinity"
        goes = f"{self.form.asymptote} = {limit:.2g}" if np.isfinite(limit) else infinity
        what = self.curve.measure or ("proportion" if self.curve.count is not None else "")
        return f"tends to {goes}, {place} {bound:g}, " + (
            f"which no {what} can be" if what else "where no y lies"
        )

    def predict(self, x: Array) -> Array:
        """The fitted curve at x."""
        return self.form.value(np.asarray(x, dtype=float), np.array(list(self.parameters.values())))


def fit(curve: Curve, form_name: str, estimator: Estimator = "nls") -> Fit:
    """Fit one form to a curve.

    Raises UserError when the form or the estimator cannot be applied to this curve (too few points, values
    out of the domain of a logarithm, no trials for `ml`).
    """
    found = fit_many([(curve, estimator)], form_name)[0]
    if isinstance(found, UserError):
        raise found
    return found


def fit_many(wanted: Sequence[tuple[Curve, Estimator]], form_name: str) -> list[Fit | UserError]:
    """One form fitted to many curves, each by its own estimator and as `fit` does it, solved at once; or why
    one cannot be.
    """
    chosen, data = form(form_name), list[Data | UserError]()
    for curve, estimator in wanted:
        try:
            data.append(checked(chosen, curve, estimator))
        except UserError as error:
            data.append(error)
    out: list[Fit | UserError | None] = [one if isinstance(one, UserError) else None for one in data]
    batches: dict[ErrorModel, dict[tuple[bytes, bytes], list[int]]] = {}
    for place, one in enumerate(data):
        if isinstance(one, Data):
            same = batches.setdefault(one.error, {})
            same.setdefault((one.x.tobytes(), one.w.tobytes()), []).append(place)
    for same in batches.values():
        order = [place for places in same.values() for place in places]
        parts = [_together([data[place] for place in places]) for places in same.values()]
        found, first = fit_stack(chosen, parts)
        for row, place in enumerate(order):
            one = data[place]
            assert isinstance(one, Data)
            out[place] = _assembled(*wanted[place], chosen, one, found.rows(np.array([row])), first[row])
    return [one for one in out if one is not None]


def _together(data: Sequence[Data | UserError]) -> Data:
    """Data of one x and the same weights as one batch."""
    several = [one for one in data if isinstance(one, Data)]
    y, w = (np.concatenate(parts) for parts in zip(*((one.y, one.w) for one in several), strict=True))
    return replace(several[0], y=y, w=w)


def checked(chosen: Form, curve: Curve, estimator: Estimator) -> Data:
    """What is fitted. Raises UserError when the form or the estimator cannot be applied to the curve."""
    if estimator == "ml" and curve.count is None:
        raise UserError(
            f"{curve.name}: the estimator ml needs the number of trials behind every point. Give them with "
            "--count."
        )
    check(chosen, replace(curve, error=ERRORS[estimator]))
    return collapse(curve, estimator, np.ones((1, len(units_of(curve)))))


def _assembled(
    curve: Curve, estimator: Estimator, chosen: Form, data: Data, found: Solutions, first: Array
) -> Fit:
    """What the best of the fits from all starts says, with everything that is wrong with it."""
    p = found.parameters[0]
    failures = []
    if not found.converged[0]:
        failures.append(UNCONVERGED)
    if found.at_bound[0]:
        failures.append("a parameter is at its bound")
    if (
        len(chosen.parameters) > len(chosen.linear)
        and len(first) > 1
        and np.any(np.all(np.isclose(first, p, rtol=1e-9, atol=0), axis=1))
    ):
        failures.append("a fit ended where it started")
    result = Fit(
        curve=curve,
        form=chosen,
        estimator=estimator,
        parameters=dict(zip(chosen.parameters, map(float, p), strict=True)),
        x=data.x,
        y=data.y[0],
        weight=data.w[0],
        fitted=chosen.value(data.x, p),
        objective=float(found.objective[0]),
        log_likelihood=float("nan"),
        aicc=float("nan"),
        bic=float("nan"),
        units=len(units_of(curve)),
        failures=tuple(failures),
    )
    total = float(result.pointwise.sum())
    k, n = len(chosen.parameters) + (estimator != "ml"), len(data.x)
    return replace(
        result, log_likelihood=total, aicc=aicc(total, k, n), bic=-2 * total + k * float(np.log(n))
    )


def aicc(log_likelihood: float, k: int, n: int) -> float:
    """AIC of k parameters corrected for n points (Hurvich & Tsai 1989), infinite where n is at most k + 1."""
    small = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else float("inf")
    return -2 * log_likelihood + 2 * k + small


@dataclass(frozen=True)
class Interval:
    """A parameter with its interval, how it was made, and over what.

    `method` is bootstrap, jackknife or profile; `unit` names what is resampled (or `point`); `failed` is the
    share of replicates without a fit.
    """

    parameter: str
    number: Estimate
    method: str
    unit: str
    failed: float = 0.0
    failures: tuple[str, ...] = ()


def _refit(fitted: Fit, draws: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Parameters of refits under unit weights, (batch, k), and which of them failed."""
    data = collapse(fitted.curve, fitted.estimator, draws)
    start = np.tile(np.array(list(fitted.parameters.values())), (len(draws), 1))
    found = solve(fitted.form, data, start)
    distinct = (data.w > 0).sum(1) >= len(fitted.form.parameters)
    return found.parameters, ~(found.converged & ~found.at_bound & distinct)


# below this many units BCa limits, which are quantiles of few distinct resamples, are too narrow (`python -m
# consolidation.coverage`)
FEW_UNITS = 15
# units from which on an interval is over them
LEAST_UNITS = 5


def bootstrap(
    fitted: Fit, seed: int = 0, replicates: int = REPLICATES, unit: str = "unit"
) -> dict[str, Interval]:
    """Intervals of every parameter over independent units: BCa (Efron 1987) from 15 units on, jackknife-t
    below.

    The jackknife leaves out one unit at a time; estimate +- t_(n-1) SE, with SE^2 = (n - 1) / n sum
    (theta_(i) - mean)^2 (Efron & Tibshirani 1993, eq 11.5), is the t interval itself for a statistic that is
    linear in the units.

    Raises UserError for fewer than LEAST_UNITS: then the profile likelihood is the interval to use.
    """
    n = fitted.units
    if n < LEAST_UNITS:
        raise UserError(
            f"{fitted.curve.name}: {n} independent {unit}{'s' if n != 1 else ''}; a bootstrap needs at "
            f"least {LEAST_UNITS}. Use the profile interval, or give --unit."
        )
    left_out, lost = _refit(fitted, np.ones((n, n)) - np.eye(n))
    if n < FEW_UNITS:
        return _jackknife(fitted, left_out, lost, unit)
    values, failed = _refit(fitted, resamples(n, seed, replicates).astype(float))
    edge = stats.t.ppf(1 - (1 - LEVEL) / 2, n - 1) * np.sqrt(n / (n - 1))
    out = {}
    for i, (name, estimate) in enumerate(fitted.parameters.items()):
        good = values[~failed, i]
        if len(good) < 100:
            lower = upper = float("nan")
        else:
            below = (np.sum(good < estimate) + 0.5 * np.sum(good == estimate)) / len(good)
            z0 = float(stats.norm.ppf(np.clip(below, 1 / len(good), 1 - 1 / len(good))))
            d = left_out[:, i].mean() - left_out[:, i]
            spread = np.sum(d**2) ** 1.5
            a = float(np.sum(d**3) / (6 * spread)) if spread > 0 else 0.0
            z = z0 + np.array([-edge, edge])
            lower, upper = np.quantile(good, stats.norm.cdf(z0 + z / (1 - a * z)))
        share = float(failed.mean())
        said = (f"{share:.0%} of the replicates have no fit",) if share > FAILURES else ()
        out[name] = Interval(
            name, Estimate(estimate, float(lower), float(upper), n), "bootstrap", unit, share, said
        )
    return out


def _jackknife(fitted: Fit, left_out: Array, lost: npt.NDArray[np.bool_], unit: str) -> dict[str, Interval]:
    """Jackknife-t intervals from the refits without one unit each; without limits when one of them failed."""
    n = fitted.units
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean(0)) ** 2).sum(0))
    half = float(stats.t.ppf(1 - (1 - LEVEL) / 2, n - 1)) * error
    said = (f"{int(lost.sum())} of {n} refits without one {unit} have no fit",) if lost.any() else ()
    out = {}
    for i, (name, estimate) in enumerate(fitted.parameters.items()):
        reach = float("nan") if lost.any() else float(half[i])
        number = Estimate(estimate, estimate - reach, estimate + reach, n)
        out[name] = Interval(name, number, "jackknife", unit, float(lost.mean()), said)
    return out


def profile(fitted: Fit, parameter: str, points: int = 41) -> Interval:
    """Profile-likelihood interval of one parameter.

    The limit is RSS (1 + F / (n - k)) with F the 95 % point of F(1, n - k) for least squares, and
    chi-square(1) / 2 for binomial likelihood. A side that never reaches it is infinite; a profile that is not
    monotone on a side says so.
    """
    error, index = ERRORS[fitted.estimator], fitted.form.parameters.index(parameter)
    best = np.array(list(fitted.parameters.values()))
    n, k = fitted.points, len(best)
    if error == "binomial":
        limit = fitted.objective + float(stats.chi2.ppf(LEVEL, 1)) / 2
    else:
        limit = fitted.objective * (1 + float(stats.f.ppf(LEVEL, 1, n - k)) / (n - k))
    low, high = (float(side[index]) for side in fitted.form.limits(fitted.x))
    data = Data(fitted.x, fitted.y[None], fitted.weight[None], error)
    positive = parameter in fitted.form.positive
    said: list[str] = []

    def losses(values: Array) -> Array:
        start = np.tile(best, (len(values), 1))
        start[:, index] = values
        return solve(fitted.form, data.repeated(len(values)), start, fixed=index).objective

    def side(sign: float) -> float:
        reach = 0.25
        for _ in range(14):
            if positive:
                values = best[index] * np.exp(sign * np.linspace(0, reach, points))
            else:
                values = best[index] + sign * np.linspace(0, reach, points) * max(abs(best[index]), 0.1)
            values = np.clip(values, low, high)
            found = losses(values)
            over = found > limit
            if over.any():
                first = int(over.argmax())
                if (np.diff(found[: first + 1]) < -1e-9 * abs(fitted.objective)).any():
                    said.append(f"the profile of {parameter} is not monotone")
                a, b = values[first - 1], values[first]
                for _ in range(3):
                    finer = np.linspace(a, b, points)
                    step = losses(finer) > limit
                    place = max(int(step.argmax()), 1) if step.any() else points - 1
                    a, b = finer[place - 1], finer[place]
                return float((a + b) / 2)
            if values[-1] in (low, high):
                break
            reach *= 2.5
        said.append(f"the interval of {parameter} is open on one side")
        return sign * float("inf")

    lower, upper = side(-1.0), side(1.0)
    return Interval(
        parameter,
        Estimate(fitted.parameters[parameter], lower, upper, n),
        "profile",
        "point",
        0.0,
        tuple(dict.fromkeys(said)),
    )


def interval(
    fitted: Fit, parameter: str, unit: str | None, seed: int = 0, replicates: int = REPLICATES
) -> Interval:
    """The interval to report: bootstrap over units where there are LEAST_UNITS of them, else profile
    likelihood.
    """
    if unit is not None and fitted.units >= LEAST_UNITS:
        return bootstrap(fitted, seed, replicates, unit)[parameter]
    return profile(fitted, parameter)
