"""Spacing: as many exposures massed or spread, tested when the same time has passed since the last.

Four massed groups are shown one after another, each 150 steps in a row; four spread groups take turns over
the same 600 steps, so that at every step one group of each kind is shown. Tested at equal lags, the massed
groups have on average been shown at the same steps as the spread ones, but are tested earlier; the last
massed group is tested at the same step as the spread ones, but was shown later. Both contrasts are made.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from consolidation.experiments.outcome import Claim, Outcome, direction
from consolidation.experiments.readings import (
    MEASURES,
    by_seed,
    courses,
    difference,
    entry,
    numbers,
    over_seeds,
    value_at,
)

MASSED = tuple(f"massed {i}" for i in range(1, 5))
SPREAD = tuple(f"spread {i}" for i in range(1, 5))
# steps since the last block of exposures at which the verdict is made, of those at which all were tested
LAG = 100
LAGS = (0, 10, 32, 100, 316)
PEOPLE = (
    "People: spread study is recalled better (Cepeda, Pashler, Vul, Wixted and Rohrer 2006, a review of 317 "
    "experiments; g = .74 over 39 effects in Latimier, Peyre and Ramus 2021)."
)


def by_group(table: pd.DataFrame) -> pd.DataFrame:
    """Means of all groups by seed, role and steps since they were retired."""
    rows = table[table["role"].isin((*MASSED, *SPREAD)) & table["pause"].notna()]
    return rows.groupby(["seed", "role", "pause"], as_index=False)[["k", *MEASURES]].mean()


def at_lag(groups: pd.DataFrame, roles: tuple[str, ...], lag: float, column: str) -> "pd.Series[float]":
    """A column of `by_group` for every seed, mean over the groups of some roles, so many steps after they
    were retired; NaN where one of them was not tested then.
    """

    def mean(rows: pd.DataFrame) -> float:
        values = [
            value_at(numbers(group["pause"]), numbers(group[column]), lag)
            for _, group in rows[rows["role"].isin(roles)].groupby("role")
        ]
        return float(np.mean(values)) if values else math.nan

    return by_seed(groups, mean)


def contrasts(groups: pd.DataFrame) -> pd.DataFrame:
    """Spread minus massed at every lag that was tested: knowledge, P(episodic), and the ratio of exposures
    as a check.
    """
    rows = []
    for lag in LAGS:
        for name, massed in (("all massed groups", MASSED), ("the last massed group", MASSED[-1:])):
            for measure in ("knowledge", "probability"):
                number = difference(*(at_lag(groups, r, lag, measure) for r in (SPREAD, massed)))
                rows.append({"lag": lag, "against": name, "measure": measure, **entry(number)})
            spread, other = (at_lag(groups, r, lag, "k") for r in (SPREAD, massed))
            rows.append(
                {
                    "lag": lag,
                    "against": name,
                    "measure": "exposures, ratio",
                    **entry(over_seeds(spread / other)),
                }
            )
    found = pd.DataFrame(rows)
    return found[found["n"] > 0]


def _advantage(groups: pd.DataFrame, lag: float) -> "pd.Series[float]":
    """Knowledge of the spread minus that of all massed groups, by seed."""
    return at_lag(groups, SPREAD, lag, "knowledge") - at_lag(groups, MASSED, lag, "knowledge")


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition."""
    claims, found = [], []
    for condition, table in runs.items():
        groups = by_group(table)
        found.append(contrasts(groups).assign(condition=condition))
        seeds = groups["seed"].nunique()
        growth = difference(_advantage(groups, LAGS[-1]), _advantage(groups, LAGS[1]), largest=2)
        claims.append(
            Claim(
                "the longer the delay, the more spread study helps",
                condition,
                "People: the spacing that is best grows with the delay (Cepeda et al. 2006).",
                f"Spread minus all massed groups {LAGS[-1]} steps after the last exposure, minus the same "
                f"after {LAGS[1]}:",
                growth,
                direction(growth, "above"),
                seeds - growth.n,
            )
        )
        for name, massed in (("shown at the same steps", MASSED), ("tested at the same step", MASSED[-1:])):
            number = difference(*(at_lag(groups, r, LAG, "knowledge") for r in (SPREAD, massed)))
            claims.append(
                Claim(
                    f"spread study is remembered better ({name})",
                    condition,
                    PEOPLE,
                    f"Share known without attention {LAG} steps after the last exposure, spread - massed:",
                    number,
                    direction(number, "above"),
                    seeds - number.n,
                )
            )
    kinds = {condition: _grouped(table) for condition, table in runs.items()}
    tables = {
        "courses": courses(kinds, ("massed", "massed 4", "spread"), "age"),
        "contrasts": pd.concat(found, ignore_index=True),
    }
    return Outcome("spacing", tuple(claims), tables)


def _grouped(table: pd.DataFrame) -> pd.DataFrame:
    """The groups under one role each, and the last massed one beside them, on steps since retirement."""
    kinds = {"massed": MASSED, "massed 4": MASSED[-1:], "spread": SPREAD}
    paused = table[table["pause"].notna()]
    parts = [paused[paused["role"].isin(roles)].assign(role=name) for name, roles in kinds.items()]
    whole = pd.concat(parts, ignore_index=True)
    # groups that were retired at different steps are averaged at equal lags; `age` counts these here
    return whole.assign(step=whole["pause"].astype(int), age=whole["pause"])
