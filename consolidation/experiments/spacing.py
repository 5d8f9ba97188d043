"""Spacing: as many exposures massed or spread, tested when the same time has passed since the last.

Four massed groups are shown one after another, each 150 steps in a row; four spread groups take turns over
the same 600 steps, so that at every step one group of each kind is shown. Tested at equal lags, the massed
groups have on average been shown at the same steps as the spread ones, but are tested earlier; the last
massed group is tested at the same step as the spread ones, but was shown later. Both contrasts are made.
"""

from collections.abc import Mapping

import pandas as pd

from consolidation.experiments.outcome import Claim, Outcome, direction
from consolidation.experiments.readings import (
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


def at_lag(table: pd.DataFrame, roles: tuple[str, ...], lag: float, measure: str) -> "pd.Series[float]":
    """A measure of every seed, mean over the groups, so many steps after they were retired."""

    def mean(rows: pd.DataFrame) -> float:
        values = []
        for _, group in rows[rows["role"].isin(roles) & rows["pause"].notna()].groupby("role"):
            by = group.groupby("step")[["pause", measure]].mean()
            values.append(value_at(numbers(by["pause"]), numbers(by[measure]), lag))
        return float(pd.Series(values, dtype=float).mean(skipna=False)) if values else float("nan")

    return by_seed(table, mean)


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """Spread minus massed at every lag: knowledge, P(episodic), and the ratio of exposures as a check."""
    rows = []
    for lag in LAGS:
        for name, massed in (("all massed groups", MASSED), ("the last massed group", MASSED[-1:])):
            for measure in ("knowledge", "probability"):
                number = difference(*(at_lag(table, r, lag, measure) for r in (SPREAD, massed)))
                rows.append({"lag": lag, "against": name, "measure": measure, **entry(number)})
            exposures = [at_lag(table, r, lag, "k") for r in (SPREAD, massed)]
            ratio = over_seeds(exposures[0] / exposures[1])
            rows.append({"lag": lag, "against": name, "measure": "exposures, ratio", **entry(ratio)})
    return pd.DataFrame(rows)


def _advantage(table: pd.DataFrame, lag: float) -> "pd.Series[float]":
    """Knowledge of the spread minus that of all massed groups, by seed."""
    return at_lag(table, SPREAD, lag, "knowledge") - at_lag(table, MASSED, lag, "knowledge")


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition."""
    claims, found = [], []
    for condition, table in runs.items():
        found.append(contrasts(table).assign(condition=condition))
        growth = over_seeds(_advantage(table, LAGS[-1]) - _advantage(table, LAGS[1]))
        claims.append(
            Claim(
                "the longer the delay, the more spread study helps",
                condition,
                "People: the spacing that is best grows with the delay (Cepeda et al. 2006).",
                f"Spread minus all massed groups {LAGS[-1]} steps after the last exposure, minus the same "
                f"after {LAGS[1]}:",
                growth,
                direction(growth, "above"),
            )
        )
        for name, massed in (("shown at the same steps", MASSED), ("tested at the same step", MASSED[-1:])):
            number = difference(*(at_lag(table, r, LAG, "knowledge") for r in (SPREAD, massed)))
            claims.append(
                Claim(
                    f"spread study is remembered better ({name})",
                    condition,
                    PEOPLE,
                    f"Share known without attention {LAG} steps after the last exposure, spread - massed:",
                    number,
                    direction(number, "above"),
                )
            )
    groups = {condition: _grouped(table) for condition, table in runs.items()}
    tables = {
        "courses": courses(groups, ("massed", "massed 4", "spread"), "age"),
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
