"""Frequency: patterns of one cohort, shown by Zipf's law; what is known of them, and whether attention is
used, by frequency, at one step and at equal numbers of exposures.

At one step frequent patterns have been seen more often. At equal exposures only their spacing differs: rare
patterns come later and further apart.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from consolidation.experiments.outcome import Claim, Outcome, direction
from consolidation.experiments.readings import by_seed, crossing, entry, numbers, over_seeds, slope, value_at
from labbook.estimate import Estimate

ROLE = "frequency"
# exposures at which patterns of all frequencies are compared
EXPOSURES = (30, 100, 300)
WHERE = 100
MEASURES = ("knowledge", "probability")


def by_rank(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and pattern: log10 of the rank's frequency relative to the first, and every measure at
    the step that is halfway (in ln k) through the cohort's time, and at equal exposures.
    """
    rows = table[table["role"] == ROLE]
    first, ages = int(rows["pattern"].min()), rows["age"]
    middle = float(np.exp(np.log(ages[ages > 0]).max() * 0.75))
    found = []
    for _, own in rows.groupby(["seed", "pattern"]):
        rank = int(own["pattern"].iloc[0]) - first + 1
        row = {"seed": own["seed"].iloc[0], "frequency": -math.log10(rank)}
        for measure in MEASURES:
            y = numbers(own[measure])
            row[f"{measure} at one step"] = value_at(numbers(own["age"]), y, middle)
            for k in EXPOSURES:
                row[f"{measure} at {k} exposures"] = value_at(numbers(own["k"]), y, k)
        row["k at one step"] = value_at(numbers(own["age"]), numbers(own["k"]), middle)
        row["k at half known"] = crossing(numbers(own["k"]), numbers(own["knowledge"]), 0.5)
        found.append(row)
    return pd.DataFrame(found)


def slopes(ranked: pd.DataFrame, column: str) -> Estimate:
    """Change per factor of ten in frequency, over seeds."""
    return over_seeds(
        by_seed(ranked, lambda rows: slope(numbers(rows["frequency"]), numbers(rows[column]))).to_numpy(
            dtype=float
        )
    )


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition."""
    claims, effects, ranks = [], [], []
    for condition, table in runs.items():
        ranked = by_rank(table)
        names = [c for c in ranked.columns if " at " in c]
        effects += [
            {"condition": condition, "measure": name, **entry(slopes(ranked, name))} for name in names
        ]
        for frequency, of_rank in ranked.groupby("frequency"):
            for name in names:
                ends = (-math.inf, math.inf) if name.startswith("k ") else (0, 1)
                number = over_seeds(of_rank[name], *ends)
                ranks.append(
                    {
                        "condition": condition,
                        "frequency": 10 ** float(str(frequency)),
                        "measure": name,
                        **entry(number),
                    }
                )
        at_step, at_k = (
            slopes(ranked, f"knowledge at {where}") for where in ("one step", f"{WHERE} exposures")
        )
        seeds = ranked["seed"].nunique()
        claims += [
            Claim(
                "the frequent is known better",
                condition,
                "People: frequent words are named faster (Oldfield and Wingfield 1965).",
                "Share known without attention per factor of ten in frequency, at one step:",
                at_step,
                direction(at_step, "above"),
                seeds - at_step.n,
            ),
            Claim(
                "at equal exposures the rare is known better",
                condition,
                "People: exposures further apart count for more (Cepeda et al. 2006).",
                f"The same at {WHERE} exposures:",
                at_k,
                direction(at_k, "below"),
                seeds - at_k.n,
            ),
        ]
    tables = {"ranks": pd.DataFrame(ranks), "effects": pd.DataFrame(effects)}
    return Outcome("frequency", tuple(claims), tables)
