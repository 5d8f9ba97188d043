"""Savings: a cohort that comes back is learnt again; steps to a criterion against first learning.

    savings = 1 - steps to relearn / steps to learn (Ebbinghaus 1885)

First learning is that of a cohort that comes at the same step as the other comes back: the same model, the
same company. What is matched is the measure; the intervals (seconds for people, steps for the model) are not,
so sizes are shown beside each other and only the sign is judged.
"""

import math
from collections.abc import Mapping

import pandas as pd

from consolidation.experiments.outcome import Claim, Outcome, direction
from consolidation.experiments.readings import courses, crossing, numbers, over_seeds, people

# share of a cohort that is known without attention
CRITERION = 0.75


def to_criterion(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: steps until `CRITERION` is known, of the cohort that comes back (`again`, 0 where it
    is still known that well), of itself at first (`own`), and of the one that comes at the same step (`new`);
    savings against each; NaN where training ended before, or nothing was left to relearn.
    """
    rows = []
    relearnt = table[table["role"] == "relearnt"]
    for seed, of_seed in relearnt.groupby("seed"):
        back = of_seed[of_seed["returned"].notna()]
        new = table[(table["role"] == "new") & (table["seed"] == seed)]
        again = _steps(back, "returned")
        own = _steps(of_seed[of_seed["returned"].isna() & of_seed["pause"].isna()], "age")
        first = _steps(new, "age")
        relearns = again > 0 or math.isnan(again)
        rows.append(
            {
                "seed": seed,
                "before": float(back.loc[back["returned"] == 0, "knowledge"].mean()),
                "again": again,
                "own": own,
                "new": first,
                "against_own": 1 - again / own if own and relearns else math.nan,
                "against_new": 1 - again / first if first and relearns else math.nan,
            }
        )
    return pd.DataFrame(rows)


def _steps(rows: pd.DataFrame, clock: str) -> float:
    """Steps on a clock until the criterion is known; 0 when it is known before the first exposure."""
    mean = rows.groupby("step")[[clock, "knowledge"]].mean()
    steps, known = (numbers(mean[column]) for column in (clock, "knowledge"))
    if len(steps) and steps[0] == 0 and known[0] >= CRITERION:
        return 0.0
    return crossing(steps, known, CRITERION)


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition."""
    series = people("savings")
    said = (
        f"People: {series['least'].min():.2f} to {series['largest'].max():.2f} in {len(series)} series after "
        "minutes to a month (Ebbinghaus 1885; Heller, Mack and Seitz 1991; Murre and Dros 2015)."
    )
    claims, found = [], []
    for condition, table in runs.items():
        steps = to_criterion(table)
        found.append(steps.assign(condition=condition))
        for name, column in (
            ("first learning of new patterns", "against_new"),
            ("its own first", "against_own"),
        ):
            number = over_seeds(steps[column], high=1)
            claims.append(
                Claim(
                    f"relearning is faster than {name}",
                    condition,
                    said,
                    f"Savings in steps to {CRITERION:.0%} known:",
                    number,
                    direction(number, "above"),
                    len(steps) - number.n,
                    _left_out(len(steps) - number.n, int((steps["again"] == 0).sum())),
                )
            )
    tables = {
        "courses": pd.concat([_both(runs), courses(runs, ("new",), "age")], ignore_index=True),
        "steps": pd.concat(found, ignore_index=True),
        "people": series,
    }
    return Outcome("savings", tuple(claims), tables)


def _left_out(seeds: int, known: int) -> str:
    """Why seeds have no savings, in words."""
    if not seeds:
        return ""
    return (
        f"Left out: {known} that still knew {CRITERION:.0%} when the cohort came back, and {seeds - known} "
        "that did not learn that much in time."
    )


def _both(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Courses of the cohort that comes back: its first learning by age, and the second by steps since."""
    parts = []
    for role, chosen, clock in (
        ("relearnt, first", lambda t: t["returned"].isna() & t["pause"].isna(), "age"),
        ("relearnt, again", lambda t: t["returned"].notna(), "returned"),
    ):
        tables = {}
        for condition, table in runs.items():
            rows = table[chosen(table) & (table["role"] == "relearnt")]
            tables[condition] = rows.assign(role=role, age=rows[clock])
        parts.append(courses(tables, (role,), "age"))
    return pd.concat(parts, ignore_index=True)
