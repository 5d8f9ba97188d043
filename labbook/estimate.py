"""A number travels as `estimate, lower, upper, n`: resampled over independent units, never over tokens or steps."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
LEVEL = 0.95
REPLICATES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and the number of independent units behind it."""

    estimate: float
    lower: float
    upper: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.lower:.3f}, {self.upper:.3f}] (n = {self.n})"


class Bootstrap:
    """Resampling of independent units, the same draws for every statistic, so that differences are paired.

    Intervals are expanded percentile intervals (Hesterberg 2015, The American Statistician 69, section 4.5.3): the
    percentiles are taken at Phi(-sqrt(n / (n - 1)) t_(n-1)), which corrects the too narrow plain percentile interval for
    few units.

    Parameters
    ----------
    units : number of independent units (documents, seeds, ...), at least 2.
    seed : of the draws.
    replicates : number of resamples.

    Attributes
    ----------
    weights : (1 + replicates, units); row 0 is all ones and gives the estimate, each other row is how often each unit was drawn.

    Raises
    ------
    ValueError : for fewer than 2 units, which have no spread.
    """

    def __init__(self, units: int, seed: int, replicates: int = REPLICATES):
        if units < 2:
            raise ValueError(f"an interval needs at least 2 independent units, got {units}")
        draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=replicates)
        self.weights: Array = np.vstack([np.ones(units), draws]).astype(np.float64)
        self.units = units
        tail = stats.norm.cdf(-np.sqrt(units / (units - 1)) * stats.t.ppf(1 - (1 - LEVEL) / 2, units - 1))
        self.tails = (float(tail), float(1 - tail))

    def intervals(self, values: Array) -> tuple[Array, Array, Array]:
        """Estimate, lower and upper of statistics computed with every row of `weights`: values (1 + replicates, ...)."""
        lower, upper = np.quantile(values[1:], self.tails, axis=0)
        return values[0], lower, upper

    def estimate(self, values: Array) -> Estimate:
        """The `Estimate` of one statistic: values (1 + replicates,)."""
        estimate, lower, upper = self.intervals(values)
        return Estimate(float(estimate), float(lower), float(upper), self.units)
