"""Whether exposures or training time change a measure: the effect of k at equal step, and of the step at
equal k.

Where all patterns are shown alike from the start, k is the step times a constant and nothing can be told
apart. Cohorts that come at different steps, and frequencies that differ within a cohort, give patterns of
unlike k at one step and of like k at unlike steps. Within every step, a measure is regressed on log10 (1 +
k); within every narrow bin of k, on log10 of the step, with what is left of log10 (1 + k) in the bin beside
it. Differences between steps, or between bins, enter neither slope, whatever their form, so a measure that is
any function of k alone has no slope on the step, and the other way round. Every seed gives one slope; the
interval is over seeds.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from consolidation.experiments.readings import entry, over_seeds
from labbook.estimate import Estimate

# bins of k per factor of ten: a slope within a bin is what is left of the effect of k
PER_DECADE = 16
# shown all the time once they have come, so that k, and not a pause, is what differs
SHOWN = ("frequency", "practised", "later", "new")


def within(x: "pd.Series[float]", y: "pd.Series[float]", group: "pd.Series[int]") -> float:
    """Slope of y on x within groups (fixed effects): sum of (x - its group's mean) y / sum of (x - ...)^2;
    NaN where no group has two x.
    """
    centred = x - x.groupby(group).transform("mean")
    square = float((centred**2).sum())
    return float((centred * y).sum()) / square if square > 1e-12 else float("nan")


def effects(table: pd.DataFrame, measure: str) -> dict[str, Estimate]:
    """Change of a measure per factor of ten in k at equal step, and in the step at equal k, over seeds.

    `table` has seed, step, k, role and the measure, one row per probe and pattern; rows of SHOWN that were
    shown at least once count.
    """
    rows = table[table["role"].isin(SHOWN) & (table["k"] > 0) & (table["step"] > 0)]
    k, step = np.log10(1 + rows["k"]), np.log10(rows["step"])
    bins = (k * PER_DECADE).round().astype(int)
    found: dict[str, list[float]] = {"k given step": [], "step given k": []}
    for seed in sorted(set(rows["seed"])):
        own = rows["seed"] == seed
        y = rows.loc[own, measure]
        found["k given step"].append(within(k[own], y, rows.loc[own, "step"]))
        # what is left of k within a bin is taken out as well
        found["step given k"].append(_partial(step[own], k[own], y, bins[own]))
    return {name: over_seeds(values) for name, values in found.items()}


def _partial(
    x: "pd.Series[float]", other: "pd.Series[float]", y: "pd.Series[float]", group: "pd.Series[int]"
) -> float:
    """Slope of y on x within groups, with a slope on `other` beside it."""
    parts = pd.DataFrame({"x": x, "other": other, "y": y})
    centred = (parts - parts.groupby(group).transform("mean")).to_numpy(dtype=float)
    design = centred[:, :2]
    if np.linalg.matrix_rank(design) < 2:
        return within(x, y, group)
    return float(np.linalg.lstsq(design, centred[:, 2], rcond=None)[0][0])


def identified(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per condition, measure and effect."""
    return pd.DataFrame(
        [
            {"condition": condition, "measure": measure, "effect": effect, **entry(number)}
            for condition, table in runs.items()
            for measure in ("knowledge", "probability")
            for effect, number in effects(table, measure).items()
        ]
    )
