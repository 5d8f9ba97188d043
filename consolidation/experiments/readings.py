"""From the tables of training runs to the numbers of experiments: every seed gives one number, and an
estimate is over seeds.

Knowledge is the share of right answers with attention knocked out, and the use of attention is P_episodic (eq
14) of the same held-out queries: what the weights hold, and whether the router still reads.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import isotonic_regression

from consolidation.decay import humans
from consolidation.decay.comparison import NOISE, REJECTED, Rivals, rivals, said_ahead
from consolidation.decay.curve import Curve
from consolidation.decay.inference import ERRORS, fit, profile
from consolidation.experiments.config import ROLES
from consolidation.schedule import Cohort, Schedule, schedule
from consolidation.train import trajectory
from labbook.console import UserError
from labbook.estimate import LEVEL, Array, Estimate

State = Literal["survives", "does not survive", "undecided", "not compared"]
CLOCKS = ("age", "k", "lag", "others")
# right answers without attention and with it, probability of the right answer without attention, P(episodic),
# and the share that the router sends to attention
MEASURES = ("knowledge", "accuracy", "recall", "probability", "routed")


def read(run: Path) -> pd.DataFrame:
    """The table `knowledge` of all finished seeds of a run with the role of every cohort (`ROLES`), knowledge
    and accuracy, steps since a cohort was retired (`pause`, NaN while it is shown), and steps since it came
    back (`returned`, NaN before).

    Raises UserError when there is no finished seed, or a seed has no such table.
    """
    table = trajectory.load(run, "knowledge")
    cohorts = trajectory.read_config(trajectory.seeds(run)[0])["benchmark"]["cohorts"]
    return prepared(table, schedule(tuple(cohorts)))


def prepared(table: pd.DataFrame, plan: Schedule) -> pd.DataFrame:
    """A table `knowledge` with the columns that `read` adds."""
    table["role"] = table["cohort"].map(dict(enumerate(ROLES)))
    table["knowledge"] = table["known"] / table["queries"]
    table["accuracy"] = table["right"] / table["queries"]
    places = {place: _place(plan.cohorts[place[0]], place[1]) for place in _pairs(table)}
    for number, column in enumerate(("pause", "returned")):
        table[column] = [places[pair][number] for pair in zip(table["cohort"], table["step"], strict=True)]
    return table


def _pairs(table: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(table["cohort"], table["step"], strict=True))


def _place(cohort: Cohort, step: int) -> tuple[float, float]:
    """Steps since the retirement and since the return of a cohort when `step` steps are done."""
    began = [span for span in cohort.shown if span[0] < step] or [cohort.shown[0]]
    end = began[-1][1]
    backs = [start for start, _ in cohort.shown[1:] if start <= step]
    pause = float(step - end) if end is not None and step >= end else math.nan
    return pause, float(step - backs[-1]) if backs else math.nan


def course(table: pd.DataFrame, roles: str | Sequence[str]) -> pd.DataFrame:
    """Mean over the patterns of some roles: index seed and step, columns CLOCKS and MEASURES."""
    chosen = [roles] if isinstance(roles, str) else list(roles)
    rows = table[table["role"].isin(chosen)]
    return rows.groupby(["seed", "step"])[[*CLOCKS, *MEASURES]].mean()


def numbers(values: Iterable[Any]) -> Array:
    """A column as floating-point numbers."""
    return np.asarray(list(values), dtype=np.float64)


def over_seeds(values: Iterable[Any], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """Mean over seeds with Student's interval, cut at the ends of what the number can be; seeds without the
    number (NaN) are left out, and for fewer than two there is no interval.
    """
    found = numbers(v for v in values if not math.isnan(v))
    n = len(found)
    if n < 2:
        return Estimate(float(found[0]) if n else math.nan, math.nan, math.nan, n)
    mean = float(found.mean())
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * found.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, max(mean - half, low), min(mean + half, high), n)


def share_over_seeds(values: Iterable[Any], low: float = 0.0) -> Estimate:
    """Mean over seeds of yes (1) and no (0) with the interval of Clopper and Pearson (1934), because
    Student's has no width where all seeds agree.

    Shares between 0 and 1 count as so much of a yes. That is wide and never too narrow: of all distributions
    on [0, 1] with the same mean, yes and no scatter most (Hoeffding 1963). Differences of shares, `low` = -1,
    are mapped to [0, 1] and back.
    """
    found = numbers(v for v in values if not math.isnan(v))
    n = len(found)
    if n < 2:
        return over_seeds(found)
    yes, tail = float((found - low).sum()) / (1 - low), (1 - LEVEL) / 2
    # the quantiles of binomtest(yes, n).proportion_ci(method="exact"), which takes whole numbers only
    lower = float(stats.beta.ppf(tail, yes, n - yes + 1)) if yes > 0 else 0.0
    upper = float(stats.beta.ppf(1 - tail, yes + 1, n - yes)) if yes < n else 1.0
    return Estimate(float(found.mean()), low + (1 - low) * lower, low + (1 - low) * upper, n)


def by_seed(table: pd.DataFrame, number: Callable[[pd.DataFrame], float]) -> "pd.Series[float]":
    """A number of every seed; index seed."""
    return pd.Series({seed: number(rows) for seed, rows in table.groupby("seed")}, dtype=float)


def difference(one: "pd.Series[float]", other: "pd.Series[float]", *, largest: float = 1.0) -> Estimate:
    """one - other over the seeds that both have, which share their patterns and sequences; between -`largest`
    and `largest`, 1 for shares.
    """
    both = one.index.intersection(other.index)
    return over_seeds(one[both] - other[both], -largest, largest)


def estimates(courses: pd.DataFrame, clock: str, measures: Sequence[str] = MEASURES) -> pd.DataFrame:
    """Courses as estimates over seeds: one row per step and measure; x is the mean of the clock."""
    rows = []
    for step, of_step in courses.groupby("step"):
        x = float(of_step[clock].mean())
        for measure in measures:
            number = over_seeds(of_step[measure], 0, 1)
            rows.append({"step": step, "x": x, "measure": measure, **entry(number)})
    return pd.DataFrame(rows)


def entry(number: Estimate) -> dict[str, float]:
    """An estimate as columns of a table."""
    return {"estimate": number.estimate, "lower": number.lower, "upper": number.upper, "n": number.n}


def crossing(x: Array, y: Array, level: float) -> float:
    """The first x > 0 at which y has risen to `level`, for y that only rises but for noise (isotonic
    regression), linear in ln x between points; NaN when it never does.
    """
    keep = x > 0
    x, y = x[keep], np.asarray(isotonic_regression(y[keep]).x) if keep.any() else y[keep]
    above = np.flatnonzero(y >= level)
    if not len(above):
        return math.nan
    place = int(above[0])
    if place == 0:
        return float(x[0])
    low, high = float(y[place - 1]), float(y[place])
    share = (level - low) / (high - low)
    return float(np.exp(np.log(x[place - 1]) + share * np.log(x[place] / x[place - 1])))


def value_at(x: Array, y: Array, where: float) -> float:
    """y at `where`, linear in ln(1 + x) between the points around it; NaN outside of them."""
    if not len(x) or not x.min() <= where <= x.max():
        return math.nan
    order = np.argsort(x, kind="stable")
    return float(np.interp(math.log1p(where), np.log1p(x[order]), y[order]))


def slope(x: Array, y: Array) -> float:
    """Least-squares slope of y on x; NaN for fewer than three points, or one x."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) < 3 or np.ptp(x) == 0:
        return math.nan
    return float(np.polyfit(x, y, 1)[0])


def advantage(curve: Curve) -> float:
    """AICc of the exponential minus that of the power law, each with the noise that suits it best
    (`decay.comparison`): above 0 where the power law is better; NaN where one of them cannot be fitted, and
    where the one that is behind did not converge.
    """
    found = rivals(curve, ("power", "exponential"))
    least = {name: min(f.aicc, found.unconverged.get(name, math.inf)) for name, f in found.fits.items()}
    if len(least) < 2:
        return math.nan
    if max(least, key=lambda name: least[name]) in found.unconverged:
        return math.nan
    return least["exponential"] - least["power"]


def exponent(curve: Curve) -> float:
    """gamma of a x^-gamma by least squares on y, which `consolidation.fit` cites; NaN where it cannot be
    fitted.
    """
    try:
        return fit(curve, "power").exponent
    except UserError:
        return math.nan


def fit_forms(seeds: Sequence[Curve], mean: Curve, forms: Sequence[str]) -> pd.DataFrame:
    """Rival forms of one measure, compared as `consolidation.fit` compares them: each with the noise that
    suits it best, of equal size or relative to y.

    One row per form: `delta_aicc`, AICc above the best form that converged, for the mean over seeds, and
    `error`, the noise with which it stands there; the shares of seeds in which it is the best, in which it is
    rejected (AICc more than REJECTED above), and in which it is not but may be, because a fit did not
    converge (`undecided_in_seeds`); its exponent by least squares on y, over seeds. A fit that did
    not converge has its AICc in `delta_unconverged` unless the form has a better one that did; where that is
    below 0 the form is ahead, by how much is not known.
    """
    single = [rivals(curve, forms) for curve in seeds]
    best = [_best(one) for one in single if math.isfinite(one.lowest)]
    whole = rivals(mean, forms)
    lowest = whole.lowest if math.isfinite(whole.lowest) else math.nan
    rows = []
    for name, found in whole.fits.items():
        here = [one for one in single if name in one.fits and math.isfinite(one.lowest)]
        gaps = [one.fits[name].aicc - one.lowest for one in here]
        open_to = [bool(one.ahead) or name in one.unconverged for one in here]
        rejected = [g > REJECTED and name not in one.unconverged for g, one in zip(gaps, here, strict=True)]
        undecided = [o and not r for o, r in zip(open_to, rejected, strict=True)]
        cited = [next(iter(one.by_estimator.values())) for one in here]
        gamma = over_seeds(of[name].parameters.get("gamma", math.nan) for of in cited if name in of)
        rows.append(
            {
                "form": name,
                "points": found.points,
                "error": ERRORS[found.estimator],
                "delta_aicc": found.aicc - lowest,
                "delta_unconverged": whole.unconverged.get(name, math.nan) - lowest,
                "best_in_seeds": best.count(name) / len(best) if best else math.nan,
                "rejected_in_seeds": float(np.mean(rejected)) if here else math.nan,
                "undecided_in_seeds": float(np.mean(undecided)) if here else math.nan,
                **{f"gamma_{key}": value for key, value in entry(gamma).items()},
                "failures": "; ".join(found.failures),
            }
        )
    return pd.DataFrame(rows)


def _best(found: Rivals) -> str:
    """The form with the smallest AICc of fits that converged."""
    return next(name for name, f in found.fits.items() if f.converged and f.aicc == found.lowest)


def unconverged_ahead(fitted: pd.DataFrame) -> str:
    """Of a table of `fit_forms`, which forms are ahead of the best for the mean over seeds though their fit
    did not converge, in words; empty for none.
    """
    # in tables of older runs only a form without a fit that converged is below 0
    gaps = fitted["delta_unconverged" if "delta_unconverged" in fitted else "delta_aicc"]
    ahead = fitted[gaps < 0]
    return said_ahead(dict(zip(ahead["form"].str.replace("_", " "), -gaps[gaps < 0], strict=True)))


def standing(fitted: pd.DataFrame) -> tuple[State, str]:
    """Whether the power law survives, from a table of `fit_forms`, and if it does not, why.

    It is rejected for the mean over seeds, as `consolidation.fit` rejects a form, or for more than half of
    the seeds; undecided where that hangs on fits that did not converge.
    """
    rows = fitted[fitted["form"] == "power"].to_dict("records")
    if not rows or math.isnan(rows[0]["delta_aicc"]) or math.isnan(rows[0]["rejected_in_seeds"]):
        return "not compared", "The power law could not be compared with other forms"
    gap, share = rows[0]["delta_aicc"], rows[0]["rejected_in_seeds"]
    # tables of older runs do not have the column
    undecided = rows[0].get("undecided_in_seeds", 0.0)
    own = not math.isnan(rows[0].get("delta_unconverged", math.nan))
    if share > 0.5 or (gap > REJECTED and not own):
        named = f"; {noises(fitted)}" if "error" in fitted else ""
        return "does not survive", (
            f"The power law is rejected (AICc {gap:.1f} above the best form for the mean over seeds, more "
            f"than {REJECTED} above it in {share:.0%} of seeds{named})"
        )
    if why := "its fit did not converge" if own else unconverged_ahead(fitted):
        return "undecided", f"Whether the power law survives is undecided, because {why}"
    if share + undecided > 0.5:
        return "undecided", (
            f"Whether the power law survives is undecided: it is rejected in {share:.0%} of seeds, and in "
            f"{undecided:.0%} fits did not converge that may reject it"
        )
    return "survives", ""


def objection(fitted: pd.DataFrame) -> str:
    """Why the power law's exponent is not judged, from a table of `fit_forms`; empty where it may be."""
    _, why = standing(fitted)
    return f"{why}, so its exponent is not judged." if why else ""


def noises(fitted: pd.DataFrame) -> str:
    """With which noise the power law and the best form stand for the mean over seeds, in words."""
    rows = fitted[(fitted["form"] == "power") | (fitted["delta_aicc"] == 0)]
    said = (f"{row['form'].replace('_', ' ')} with {NOISE[row['error']]}" for row in rows.to_dict("records"))
    return ", ".join(said)


def people(measure: str = "", clock: str = "") -> pd.DataFrame:
    """People's series of a class of measure, on a clock, whose source is fully known: study, smallest and
    largest value, the exponent of the power law with its interval over points, and the power law's advantage.
    """
    rows = []
    for name in humans.names():
        curve = humans.load(name)
        if humans.lacks(name) or measure not in ("", curve.measure) or clock not in ("", curve.clock.counts):
            continue
        least, largest = float(curve.y.min()), float(curve.y.max())
        curve = curve.rows(curve.x > 0)  # where a power law is not defined
        try:
            gamma = profile(fit(curve, "power"), "gamma").number
        except UserError:
            gamma = Estimate(math.nan, math.nan, math.nan, len(curve.x))
        rows.append(
            {
                "series": name,
                "title": humans.title(name),
                "study": curve.study,
                "least": least,
                "largest": largest,
                **{f"gamma_{key}": value for key, value in entry(gamma).items()},
                "advantage": advantage(curve),
            }
        )
    return pd.DataFrame(rows)


def of_studies(series: pd.DataFrame) -> str:
    """How many series of `people` there are; those of one study are dependent."""
    studies = series["study"].nunique()
    return f"{len(series)} series of {studies} {'study' if studies == 1 else 'studies'}"


def courses(runs: Mapping[str, pd.DataFrame], roles: Sequence[str], clock: str) -> pd.DataFrame:
    """`estimates` of every condition and role that is there."""
    parts = []
    for condition, table in runs.items():
        for role in roles:
            if (table["role"] == role).any():
                found = estimates(course(table, role), clock)
                parts.append(found.assign(condition=condition, role=role))
    whole = pd.concat(parts, ignore_index=True)
    return whole[["condition", "role", "measure", "step", "x", "estimate", "lower", "upper", "n"]]
