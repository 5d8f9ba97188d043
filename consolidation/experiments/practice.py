"""Practice: error and the use of attention against repetitions of a cohort that came when attention worked.

What is matched: error proportion against the number of repetitions, as in people's series of error by
repetition. For people a repetition is a trial of an item; for the model it is a position that shows the
pattern, over training, and the error is that of the weights, attention knocked out.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from consolidation.decay.curve import Clock, Curve
from consolidation.experiments.identification import identified
from consolidation.experiments.outcome import Claim, Outcome, direction, inside
from consolidation.experiments.readings import (
    advantage,
    course,
    courses,
    crossing,
    difference,
    entry,
    exponent,
    fit_forms,
    numbers,
    objection,
    of_studies,
    over_seeds,
    people,
    share_over_seeds,
)
from labbook.estimate import Array

ROLE = "practised"
FORMS = (
    "general_power",
    "apex",
    "power",
    "power_asymptote",
    "exponential",
    "exponential_asymptote",
    "constant",
)
CLOCK = Clock("repetition", "count")
HALF = 0.5
ESTIMATE = ("estimate", "lower", "upper", "n")
# all seeds, and without those whose router has given up attention, see `attending`
ALL, ATTENDING = "all", "that attend"


def error_curve(k: Array, error: Array, name: str) -> Curve:
    """Error against repetitions, from the first on."""
    order = np.argsort(k, kind="stable")
    keep = order[k[order] >= 1]
    return Curve(name, k[keep], error[keep], CLOCK, normalisation="as measured", measure="error")


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


def forms(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every form fitted to error, and to P(episodic), against repetitions: of each seed, mean over patterns,
    and of the mean over seeds.
    """
    parts = []
    for condition, table in runs.items():
        by = course(table, ROLE)
        whole = by.groupby("step").mean()
        for measure in ("error", "P(episodic)"):
            seeds = [_curve(rows, measure) for _, rows in by.groupby("seed")]
            found = fit_forms(seeds, _curve(whole, measure), FORMS)
            parts.append(found.assign(condition=condition, measure=measure))
    return pd.concat(parts, ignore_index=True)


def _curve(rows: pd.DataFrame, measure: str) -> Curve:
    y = 1 - numbers(rows["recall"]) if measure == "error" else numbers(rows["probability"])
    return error_curve(numbers(rows["k"]), y, measure)


def against_first(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every condition minus the first at the last probe, paired by seed, by role and measure: does a router
    stop reading sooner where the weights know as much?
    """
    first, *others = runs
    rows = []
    for condition in others:
        for role in ("first", ROLE, "frequency", "later", "new"):
            courses_of = [course(runs[name], role) for name in (condition, first)]
            for measure in ("knowledge", "probability"):
                last = [by[measure].groupby("seed").last() for by in courses_of]
                number = difference(*last)
                rows.append(
                    {
                        "condition": condition,
                        "against": first,
                        "role": role,
                        "measure": measure,
                        **entry(number),
                    }
                )
    return pd.DataFrame(rows, columns=["condition", "against", "role", "measure", *ESTIMATE])


def attending(runs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The runs without the seeds that attend at no query of the cohort `new` when it comes: nobody has seen
    its patterns, so such a router has given up attention whatever it is asked.
    """
    found = {}
    for condition, table in runs.items():
        unseen = table[(table["role"] == "new") & (table["age"] == 0)].groupby("seed")["routed"].mean()
        found[condition] = table[~table["seed"].isin(unseen[unseen == 0].index)]
    return found


def with_and_without(
    table: Callable[[Mapping[str, pd.DataFrame]], pd.DataFrame], runs: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """A table of all seeds, and of those that attend; the column `seeds` says which."""
    parts = [table(some).assign(seeds=name) for name, some in ((ALL, runs), (ATTENDING, attending(runs)))]
    return pd.concat(parts, ignore_index=True)


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition."""
    series = people("error", CLOCK.counts)
    exponential = int((series["advantage"] < 0).sum())
    low, high = float(series["gamma_estimate"].min()), float(series["gamma_estimate"].max())
    claims, shares, half, fitted = [], [], [], forms(runs)
    for condition, table in runs.items():
        share = averaging(table).assign(condition=condition)
        found = halves(table).assign(condition=condition)
        shares.append(share)
        half.append(found)
        single = share_over_seeds(share["power_better"])
        artefact = share_over_seeds(share["power_better_for_mean"] - share["power_better"], low=-1)
        lead = over_seeds(found["lead"])
        by = course(table, ROLE).groupby("seed")
        speed = over_seeds(exponent(_curve(rows, "error")) for _, rows in by)
        own = (fitted["condition"] == condition) & (fitted["measure"] == "error")
        why_not = objection(fitted[own])
        unreached = len(found) - lead.n
        claims += [
            Claim(
                "error falls with people's exponent",
                condition,
                f"People: {low:.2f} to {high:.2f} in {of_studies(series)} of error by repetition.",
                "gamma of error = a k^-gamma, mean over patterns:",
                speed,
                "undecided" if why_not else inside(speed, low, high),
                by.ngroups - speed.n,
                why_not,
            ),
            Claim(
                "single items follow an exponential rather than a power law",
                condition,
                f"People: the exponential describes most single curves better (Heathcote, Brown and Mewhort "
                f"2000). Of {of_studies(series)} of error by repetition here, means over subjects, it "
                f"describes {exponential} better.",
                "Share of single patterns that the power law describes better, each form with the "
                "noise that suits it best:",
                single,
                direction(single, "below", HALF),
                len(share) - single.n,
            ),
            Claim(
                "averaging makes a power law",
                condition,
                "People: means over items and subjects look like a power law more often than single curves "
                "do (Heathcote, Brown and Mewhort 2000; Murre and Chessa 2011).",
                "Share of seeds whose mean the power law describes better, minus that of single patterns:",
                artefact,
                direction(artefact, "above"),
                len(share) - artefact.n,
            ),
            Claim(
                "knowing comes before relying on it",
                condition,
                "People: retrieval replaces the algorithm gradually, by about the 60th exposure (Rickard "
                "1997, abstract).",
                "log10 of (k at which attention is used half the time / k at which half is known):",
                lead,
                direction(lead, "above"),
                unreached,
                f"Left out: seeds that do not come to {HALF:.0%} within the run." if unreached else "",
            ),
        ]
    tables = {
        "courses": courses(runs, (ROLE, "later", "new"), "k"),
        "averaging": pd.concat(shares, ignore_index=True),
        "halves": pd.concat(half, ignore_index=True),
        "forms": fitted,
        "against_first": with_and_without(against_first, runs),
        "identification": with_and_without(identified, runs),
        "people": series,
    }
    return Outcome("practice", tuple(claims), tables)
