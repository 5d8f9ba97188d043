"""Practice: error and the use of attention against repetitions of a cohort that came when attention worked.

What is matched: error proportion against the number of repetitions, as in people's series of error by
repetition. For people a repetition is a trial of an item; for the model it is a position that shows the
pattern, over training, and the error is that of the weights, attention knocked out.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from consolidation.decay import humans
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import Fit, fit
from consolidation.experiments.identification import identified
from consolidation.experiments.outcome import Claim, Outcome, direction
from consolidation.experiments.readings import (
    course,
    courses,
    crossing,
    numbers,
    over_seeds,
)
from labbook.console import UserError
from labbook.estimate import Array

ROLE = "practised"
FORMS = ("power", "power_asymptote", "exponential", "exponential_asymptote", "constant")
CLOCK = Clock("repetition", "count")
HALF = 0.5


def error_curve(k: Array, error: Array, name: str) -> Curve:
    """Error against repetitions, from the first on."""
    order = np.argsort(k, kind="stable")
    keep = order[k[order] >= 1]
    return Curve(name, k[keep], error[keep], CLOCK, normalisation="as measured", measure="error")


def advantage(curve: Curve) -> float:
    """AICc of the exponential minus that of the power law: above 0 where the power law is better; NaN where
    one of them cannot be fitted.
    """
    try:
        power, exponential = (fit(curve, name) for name in ("power", "exponential"))
    except UserError:
        return math.nan
    return exponential.aicc - power.aicc


def averaging(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: the share of single patterns that the power law describes better than the
    exponential, and whether it describes their mean better.
    """
    rows = []
    for seed, of_seed in table[table["role"] == ROLE].groupby("seed"):
        single = [
            advantage(error_curve(*_points(rows_of), f"pattern {pattern}"))
            for pattern, rows_of in of_seed.groupby("pattern")
        ]
        mean = of_seed.groupby("step")[["k", "recall"]].mean()
        of_mean = advantage(error_curve(*_points(mean), "mean"))
        found = np.array([a for a in single if not math.isnan(a)])
        rows.append(
            {
                "seed": seed,
                "patterns": len(found),
                "power_better": float((found > 0).mean()) if len(found) else math.nan,
                "power_better_for_mean": math.nan if math.isnan(of_mean) else float(of_mean > 0),
            }
        )
    return pd.DataFrame(rows)


def _points(rows: pd.DataFrame) -> tuple[Array, Array]:
    return numbers(rows["k"]), 1 - numbers(rows["recall"])


def halves(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: k at which half of the answers are known, k at which attention is used half the time,
    and log10 of their ratio; NaN where it does not come to that.
    """
    rows = []
    for seed, of_seed in course(table, ROLE).groupby("seed"):
        k = numbers(of_seed["k"])
        known = crossing(k, numbers(of_seed["knowledge"]), HALF)
        unused = crossing(k, 1 - numbers(of_seed["probability"]), HALF)
        rows.append({"seed": seed, "known": known, "unused": unused, "lead": math.log10(unused / known)})
    return pd.DataFrame(rows)


def people() -> pd.DataFrame:
    """People's series of error by repetition: exponent of the power law, and its advantage."""
    rows = []
    for name in humans.names():
        curve = humans.load(name)
        if curve.measure == "error" and curve.clock.counts == CLOCK.counts:
            power = fit(curve, "power")
            rows.append({"series": name, "gamma": power.exponent, "advantage": advantage(curve)})
    return pd.DataFrame(rows)


def forms(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every form fitted to the mean over patterns and seeds: error, and P(episodic), against repetitions."""
    rows = []
    for condition, table in runs.items():
        mean = table[table["role"] == ROLE].groupby("step")[["k", "recall", "probability"]].mean()
        k = numbers(mean["k"])
        for measure, y in (("error", 1 - mean["recall"]), ("P(episodic)", mean["probability"])):
            curve = error_curve(k, y.to_numpy(dtype=float), f"{condition}, {measure}")
            fits = {name: found for name in FORMS if (found := _fitted(curve, name)) is not None}
            best = min((f.aicc for f in fits.values()), default=math.nan)
            for name, found in fits.items():
                values = {key: found.parameters.get(key, math.nan) for key in ("gamma", "tau", "c")}
                rows.append(
                    {
                        "condition": condition,
                        "measure": measure,
                        "form": name,
                        "points": found.points,
                        **values,
                        "delta_aicc": found.aicc - best,
                        "failures": "; ".join(found.failures),
                    }
                )
    return pd.DataFrame(rows)


def _fitted(curve: Curve, name: str) -> Fit | None:
    try:
        return fit(curve, name)
    except UserError:
        return None


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition."""
    series = people()
    exponential = int((series["advantage"] < 0).sum())
    claims, shares, half = [], [], []
    for condition, table in runs.items():
        share = averaging(table).assign(condition=condition)
        found = halves(table).assign(condition=condition)
        shares.append(share)
        half.append(found)
        single = over_seeds(share["power_better"])
        artefact = over_seeds(share["power_better_for_mean"] - share["power_better"])
        lead = over_seeds(found["lead"])
        claims += [
            Claim(
                "single items follow an exponential rather than a power law",
                condition,
                f"People: the exponential describes most single curves better (Heathcote, Brown and Mewhort "
                f"2000), and {exponential} of {len(series)} series of error by repetition here.",
                "Share of single patterns that the power law describes better:",
                single,
                direction(single, "below", HALF),
            ),
            Claim(
                "averaging makes a power law",
                condition,
                "People: means over items and subjects look like a power law more often than single curves "
                "do (Heathcote, Brown and Mewhort 2000; Murre and Chessa 2011).",
                "Share of seeds whose mean the power law describes better, minus that of single patterns:",
                artefact,
                direction(artefact, "above"),
            ),
            Claim(
                "knowing comes before relying on it",
                condition,
                "People: retrieval replaces the algorithm gradually, by about the 60th exposure (Rickard "
                "1997, abstract).",
                "log10 of (k at which attention is used half the time / k at which half is known):",
                lead,
                direction(lead, "above"),
            ),
        ]
    tables = {
        "courses": courses(runs, (ROLE, "later", "new"), "k"),
        "averaging": pd.concat(shares, ignore_index=True),
        "halves": pd.concat(half, ignore_index=True),
        "forms": forms(runs),
        "identification": identified(dict(runs)),
        "people": series,
    }
    return Outcome("practice", tuple(claims), tables)
