"""A number travels as `estimate, lower, upper, n`: resampled over independent units, never over tokens or
steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
LEVEL = 0.95
REPLICATES = 2000
# statistics resampled at once: bounds the memory of wide tables
COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and the number of independent units behind it."""

    estimate: float
    lower: float
    upper: float
    n: int

    def text(self, digits: int = 3, *, sign: bool = False, n: bool = False) -> str:
        """`estimate [lower, upper]`, or `estimate, no interval`, with the number of units behind it if asked;
        `sign` shows a plus too.
        """
        form = f"{'+' if sign else ''}.{digits}f"
        units = f" (n = {self.n})" if n else ""
        if not (math.isfinite(self.lower) or math.isfinite(self.upper)):
            return f"{self.estimate:{form}}, no interval{units}"
        return f"{self.estimate:{form}} [{self.lower:{form}}, {self.upper:{form}}]{units}"

    @staticmethod
    def read(values: Mapping[Any, Any]) -> "Estimate":
        """The estimate in a row of a table or an object of a file, NaN where that has null. Raises KeyError
        where a part is missing.
        """
        estimate, lower, upper = (
            math.nan if values[c] is None else float(values[c]) for c in ("estimate", "lower", "upper")
        )
        return Estimate(estimate, lower, upper, int(values["n"]))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; not where it ends there, nor without an interval."""
        return self.lower > 0 or self.upper < 0

    def __neg__(self) -> "Estimate":
        return Estimate(-self.estimate, -self.upper, -self.lower, self.n)

    def __str__(self) -> str:
        return self.text(n=True)


Estimates = dict[str, Estimate]


def read_estimates(values: Mapping[str, Any]) -> Estimates:
    """Named estimates of an object of a file. Raises KeyError where a part of one is missing."""
    return {name: Estimate.read(number) for name, number in values.items()}


class Studentised:
    """Bootstrap-t over independent units, the same draws for every statistic, so that differences are paired.

    A statistic is computed with all units and with each one left out. Its jackknife pseudo-values n T - (n -
    1) T_(-i) behave like n independent observations (Tukey 1958; Shao & Tu 1995, chapter 2); they are
    resampled, and the interval takes its quantiles from (mean* - mean) / (standard error of the mean)* (Efron
    1979; Hall 1988, Annals of Statistics 16, 927-953). Percentile intervals and symmetric t intervals are too
    narrow for few documents whose values are skewed or go with their size; `figures/coverage_documents.csv`
    holds the coverage of all three.

    Only for statistics that change smoothly with the weights. Counts of threshold crossings (how many heads
    lie above .8) do not: take `replicates` of what is counted, and `percentiles` of the counts.

    Parameters
    ----------
    units : number of independent units (documents), at least 2.
    seed : of the draws.
    replicates : number of resamples.

    Attributes
    ----------
    weights : (1 + units, units); row 0 is all ones and gives the estimate, row 1 + i leaves unit i out.

    Raises
    ------
    ValueError : for fewer than 2 units, which have no spread.
    """

    def __init__(self, units: int, seed: int, replicates: int = REPLICATES):
        draws = resamples(units, seed, replicates)
        self.units = units
        self.weights: Array = np.vstack([np.ones(units), 1 - np.eye(units)])
        # a resample of one unit alone has no spread; the tails are those of the others
        self._draws: Array = draws[(draws > 0).sum(1) > 1] / units
        self.tails = _expanded_tails(units)

    def _pseudo(self, values: Array) -> Array:
        """Jackknife pseudo-values (units, ...) of values (1 + units, ...)."""
        return self.units * values[:1] - (self.units - 1) * values[1:]

    def intervals(self, values: Array) -> tuple[Array, Array, Array]:
        """Estimate, lower and upper of statistics computed with every row of `weights`: values (1 + units,
        ...).
        """
        estimate = values[0]
        pseudo = self._pseudo(values).reshape(self.units, -1)
        # shifts cancel in every quantity below; a common one keeps the digits of small spreads
        pseudo = pseudo - pseudo.mean(0)
        error = pseudo.std(0, ddof=1) / np.sqrt(self.units)
        lower, upper = (np.empty(pseudo.shape[1]) for _ in range(2))
        tail = (1 - LEVEL) / 2
        for start in range(0, pseudo.shape[1], COLUMNS_AT_ONCE):
            part = slice(start, start + COLUMNS_AT_ONCE)
            mean = self._draws @ pseudo[:, part]
            square = self._draws @ pseudo[:, part] ** 2
            own = np.sqrt(np.maximum(square - mean**2, 0) / (self.units - 1))
            with np.errstate(divide="ignore", invalid="ignore"):
                t = np.where(own > 1e-9 * error[part], mean / own, 0.0)
            # an undefined leave-one-out value leaves the interval undefined
            t = np.where(np.isnan(error[part]), np.nan, t)
            low, high = np.quantile(t, (tail, 1 - tail), axis=0)
            lower[part], upper[part] = high * error[part], low * error[part]
        shape = np.shape(estimate)
        return estimate, estimate - lower.reshape(shape), estimate - upper.reshape(shape)

    def estimate(self, values: Array) -> Estimate:
        """The `Estimate` of one statistic: values (1 + units,)."""
        estimate, lower, upper = self.intervals(values)
        return Estimate(float(estimate), float(lower), float(upper), self.units)

    def replicates(self, values: Array) -> Array:
        """Linearised bootstrap replicates of a smooth statistic, estimate first: (1 + replicates, ...)."""
        pseudo = self._pseudo(values)
        mean = np.tensordot(self._draws, pseudo - pseudo.mean(0), axes=1)
        return np.concatenate([values[:1], values[0] + mean])

    def percentiles(self, replicates: Array) -> tuple[Array, Array, Array]:
        """Estimate and expanded percentile interval of what was computed from every row of `replicates`."""
        lower, upper = np.quantile(replicates[1:], self.tails, axis=0)
        return replicates[0], lower, upper


def over_seeds(interval: tuple[Array, Array, Array], seeds: Array | None) -> tuple[Array, Array, Array]:
    """Widen intervals over documents of a mean over seeds by the spread between seeds, (seed, ...); None
    widens nothing.

    Half-widths of the two independent sources add up as squares (MOVER, Zou & Donner 2008, Statistics in
    Medicine 27, 1693-1702); that of the seeds is Student's.
    """
    if seeds is None:
        return interval
    from scipy import stats  # takes a second to import: what only names an Estimate does not wait for it

    estimate, lower, upper = interval
    count = len(seeds)
    half = stats.t.ppf(0.5 + LEVEL / 2, count - 1) * np.std(seeds, axis=0, ddof=1) / np.sqrt(count)
    return estimate, estimate - np.hypot(estimate - lower, half), estimate + np.hypot(upper - estimate, half)


def resamples(units: int, seed: int, replicates: int) -> npt.NDArray[np.int64]:
    """How often each unit is drawn: (replicates, units). Raises ValueError for fewer than 2 units, which have
    no spread.
    """
    if units < 2:
        raise ValueError(f"an interval needs at least 2 independent units, got {units}")
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=replicates)


def _expanded_tails(units: int) -> tuple[float, float]:
    """Percentiles Phi(-+ sqrt(n / (n - 1)) t_(n-1)) at which a percentile interval keeps its level for few
    units.
    """
    from scipy import stats

    tail = stats.norm.cdf(-np.sqrt(units / (units - 1)) * stats.t.ppf(1 - (1 - LEVEL) / 2, units - 1))
    return float(tail), float(1 - tail)


class Bootstrap:
    """Percentile bootstrap of independent units, for statistics that do not change smoothly with their
    weights.

    Intervals are expanded percentile intervals (Hesterberg 2015, The American Statistician 69, section
    4.5.3): the percentiles are taken at Phi(-sqrt(n / (n - 1)) t_(n-1)), which corrects the too narrow plain
    percentile interval for few units.

    Parameters
    ----------
    units : number of independent units (documents, seeds, ...), at least 2.
    seed : of the draws.
    replicates : number of resamples.

    Attributes
    ----------
    weights : (1 + replicates, units); row 0 is all ones and gives the estimate, each other row is how often
        each unit was drawn.

    Raises
    ------
    ValueError : for fewer than 2 units, which have no spread.
    """

    def __init__(self, units: int, seed: int, replicates: int = REPLICATES):
        draws = resamples(units, seed, replicates)
        self.weights: Array = np.vstack([np.ones(units), draws]).astype(np.float64)
        self.units = units
        self.tails = _expanded_tails(units)

    def intervals(self, values: Array) -> tuple[Array, Array, Array]:
        """Estimate, lower and upper of statistics computed with every row of `weights`: values (1 +
        replicates, ...).
        """
        lower, upper = np.quantile(values[1:], self.tails, axis=0)
        return values[0], lower, upper

    def estimate(self, values: Array) -> Estimate:
        """The `Estimate` of one statistic: values (1 + replicates,)."""
        estimate, lower, upper = self.intervals(values)
        return Estimate(float(estimate), float(lower), float(upper), self.units)
