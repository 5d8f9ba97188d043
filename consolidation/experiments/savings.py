"""Savings: a cohort that comes back is learnt again; steps to a criterion against first learning.

    savings = 1 - steps to relearn / steps to learn (Ebbinghaus 1885)

First learning is that of a cohort that comes at the same step as the other comes back: the same model, the
same company. What is matched is the measure; the intervals (seconds for people, steps for the model) are not,
so sizes are shown beside each other and only the sign is judged.

A seed that does not come to the criterion is no missing one: that it had not by the last observation is
known (it is censored there), and seeds that learn slowly are the likeliest. Its steps stand at the last
observation, which makes its savings a bound, so their mean is called one, and the verdict has to hold for the
ranks too: in how many seeds relearning was faster, where every pair of which the order is not known counts
once as faster and once as slower. A cohort that is still known when it comes back has nothing to relearn and
is left out, which can only lower savings.
"""

import math
from collections.abc import Mapping

import pandas as pd

from consolidation.experiments.outcome import Claim, Outcome, Verdict, direction
from consolidation.experiments.readings import (
    courses,
    crossing,
    numbers,
    of_studies,
    over_seeds,
    people,
    share_over_seeds,
)
from labbook.estimate import Estimate

# share of a cohort that is known without attention
CRITERION = 0.75


def to_criterion(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: steps until `CRITERION` is known, of the cohort that comes back (`again`, 0 where it
    is still known that well), of itself at first (`own`), and of the one that comes at the same step (`new`);
    NaN where that is not so by the last observation, whose step is `again_until`, `own_until`, `new_until`.

    For each of `own` and `new`: `against_*` savings where both came to it; `bounded_*` savings with the last
    observation where one did not; `faster_*` 1 where relearning was faster, 0 where slower, 1/2 where equal,
    NaN where the order is not known. All three are NaN where nothing was left to relearn.
    """
    rows = []
    relearnt = table[table["role"] == "relearnt"]
    for seed, of_seed in relearnt.groupby("seed"):
        back = of_seed[of_seed["returned"].notna()]
        new = table[(table["role"] == "new") & (table["seed"] == seed)]
        again, again_until = _steps(back, "returned"), _last(back, "returned")
        row = {
            "seed": seed,
            "before": float(back.loc[back["returned"] == 0, "knowledge"].mean()),
            "again": again,
            "again_until": again_until,
        }
        first_of_all = {
            "own": (of_seed[of_seed["returned"].isna() & of_seed["pause"].isna()], "age"),
            "new": (new, "age"),
        }
        for name, (rows_of, clock) in first_of_all.items():
            first, until = _steps(rows_of, clock), _last(rows_of, clock)
            row |= {name: first, f"{name}_until": until}
            relearns = again > 0 or math.isnan(again)
            known = first > 0 and relearns
            row[f"against_{name}"] = 1 - again / first if known else math.nan
            least, most = (
                (until if math.isnan(first) else first),
                (again_until if math.isnan(again) else again),
            )
            row[f"bounded_{name}"] = 1 - most / least if relearns and least else math.nan
            row[f"faster_{name}"] = _faster(again, again_until, first, until) if relearns else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _faster(again: float, again_until: float, first: float, first_until: float) -> float:
    """Whether relearning took fewer steps, as far as is observed: 1, 0, 1/2 for equal, NaN for unknown."""
    if math.isnan(again) and math.isnan(first):
        return math.nan
    if math.isnan(first):
        return 1.0 if again <= first_until else math.nan
    if math.isnan(again):
        return 0.0 if first <= again_until else math.nan
    return 0.5 if again == first else float(again < first)


def _last(rows: pd.DataFrame, clock: str) -> float:
    """The last observation on a clock."""
    return float(rows[clock].max())


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
        f"People: {series['least'].min():.2f} to {series['largest'].max():.2f} in {of_studies(series)} after "
        "minutes to a month (Ebbinghaus 1885; Heller, Mack and Seitz 1991; Murre and Dros 2015)."
    )
    claims, found = [], []
    for condition, table in runs.items():
        steps = to_criterion(table)
        found.append(steps.assign(condition=condition))
        for name, column in (
            ("first learning of new patterns", "new"),
            ("its own first", "own"),
        ):
            relearns = steps[~(steps["again"] == 0)]
            number, left = over_seeds(relearns[f"bounded_{column}"], high=1), len(steps) - len(relearns)
            claims.append(
                Claim(
                    f"relearning is faster than {name}",
                    condition,
                    said,
                    f"Savings in steps to {CRITERION:.0%} known{_bound(relearns, column, left)}:",
                    number,
                    verdict(relearns, column),
                    len(steps) - number.n,
                    _note(relearns, column, left),
                )
            )
    tables = {
        "courses": pd.concat([_both(runs), courses(runs, ("new",), "age")], ignore_index=True),
        "steps": pd.concat(found, ignore_index=True),
        "people": series,
    }
    return Outcome("savings", tuple(claims), tables)


def verdict(steps: pd.DataFrame, column: str) -> Verdict:
    """Whether relearning is faster, from a table of `to_criterion` without cohorts that are still known:
    by the mean of the savings, and where a seed is censored by the share of seeds in which it was, whichever
    way the order goes that is not known. Undecided where these do not agree.
    """
    found = {direction(over_seeds(steps[f"bounded_{column}"], high=1), "above")}
    if _censored(steps, column).any():
        found |= {direction(share, "above", 0.5) for share in faster(steps, column)}
    return found.pop() if len(found) == 1 else "undecided"


def faster(steps: pd.DataFrame, column: str) -> tuple[Estimate, Estimate]:
    """Share of seeds in which relearning was faster, of which unknown orders are slower, and faster."""
    known = steps[f"faster_{column}"]
    return share_over_seeds(known.fillna(0.0)), share_over_seeds(known.fillna(1.0))


def _censored(steps: pd.DataFrame, column: str) -> "pd.Series[bool]":
    return steps["again"].isna() | steps[column].isna()


def _bound(steps: pd.DataFrame, column: str, known: int) -> str:
    """What the mean of the savings is where seeds are censored, as of a table without the `known` cohorts
    that are still known, which can only lower it: a lower bound where only first learning is, which then took
    longer than was observed, an upper one where only relearning is.
    """
    first, again = bool(steps[column].isna().any()) or known > 0, bool(steps["again"].isna().any())
    if first and again:
        return ", neither bound nor estimate"
    return ", at least" if first else ", at most" if again else ""


def _note(steps: pd.DataFrame, column: str, known: int) -> str:
    """What became of the seeds that are no plain number, in words."""
    said, censored = [], _censored(steps, column)
    if known:
        said.append(
            f"Left out: {known} that still knew {CRITERION:.0%} when the cohort came back, which can only "
            "lower savings."
        )
    if censored.any():
        low, high = faster(steps, column)
        without = over_seeds(steps.loc[~censored, f"against_{column}"], high=1)
        less, more = (round(share.estimate * share.n, 1) for share in (low, high))
        count = f"{less:g}" if less == more else f"{less:g} to {more:g}"
        limits = f", a share of [{low.lower:.2f}, {high.upper:.2f}]" if low.n > 1 else ""
        alone = f"{without.text(2)} ({without.n} seeds)" if without.n > 1 else "no interval"
        said.append(
            f"Counted at the last step observed: {int(censored.sum())} that did not learn that much in time; "
            f"without {alone}. Relearning was faster in {count} of {low.n} seeds{limits}."
        )
    return " ".join(said)


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
