"""How often the comparison of forms rejects the power law, where it is true and where an exponential is.

Curves of independent points at 12 or 20 x from 1 to 100, a x^-gamma with a = .9 and gamma = .4 or a exp(-x /
tau) with tau = 30, with noise of equal size or relative to y; all forms are fitted. Beside the rule of
`decay.comparison` stands the one that knows noise of equal size only. `figures/rejection.csv` is the
committed table, of `rates(40)`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from consolidation.decay.comparison import REJECTED, SURVIVES, best_of, estimators
from consolidation.decay.curve import Clock, Curve, ErrorModel
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import Estimator, Fit, fit_many
from labbook.estimate import LEVEL, Array

TRUTHS = {"power": (0.9, 0.4), "exponential": (0.9, 30.0)}
# standard deviation of y, or of ln y
NOISES: tuple[tuple[ErrorModel, float], ...] = (
    ("gaussian", 0.02),
    ("gaussian", 0.04),
    ("lognormal", 0.1),
    ("lognormal", 0.2),
)
POINTS = (12, 20)


def planted(
    truth: str, error: ErrorModel, size: float, points: int, curves: int, g: np.random.Generator
) -> list[Curve]:
    """Curves of one true form with one kind of noise."""
    x = np.geomspace(1, 100, points)
    clean = FORMS[truth].value(x, np.array(TRUTHS[truth]))
    noise = size * g.standard_normal((curves, points))
    y = clean + noise if error == "gaussian" else clean * np.exp(noise)
    return [Curve(truth, x, one, Clock("repetition", "count")) for one in y]


def gaps(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """How far the AICc of the power law lies above that of the best form: by noise of equal size alone, and
    by every error model that the curve allows; (curves,) each.
    """
    ways: tuple[Estimator, ...] = ("nls", "loglog")
    found: list[dict[Estimator, dict[str, Fit]]] = [{way: {} for way in ways} for _ in curves]
    for way in ways:
        allowed = [place for place, curve in enumerate(curves) if way in estimators(curve)]
        for name in FORMS:
            for place, one in zip(allowed, fit_many([(curves[p], way) for p in allowed], name), strict=True):
                if isinstance(one, Fit):
                    found[place][way][name] = one

    def gap(fits: dict[str, Fit]) -> float:
        return fits["power"].aicc - min(one.aicc for one in fits.values() if one.converged)

    equal = [gap(best_of([of["nls"]])) for of in found]
    return np.array(equal), np.array([gap(best_of(list(of.values()))) for of in found])


def rates(curves: int, seed: int = 0) -> pd.DataFrame:
    """One row for every truth, noise and number of points: the shares of `curves` in which the power law
    survives and does not survive, the latter with Wilson's 95 % limits; and by equal noise alone.
    """
    rows = list[dict[str, Any]]()
    for number, (truth, (error, size), points) in enumerate(itertools.product(TRUTHS, NOISES, POINTS)):
        g = np.random.default_rng([seed, number])
        equal, both = gaps(planted(truth, error, size, points, curves, g))
        rejected = int((both > REJECTED).sum())
        limits = stats.binomtest(rejected, curves).proportion_ci(LEVEL, "wilson")
        rows.append(
            {
                "truth": truth,
                "noise": error,
                "size": size,
                "points": points,
                "survives_equal_noise_alone": float((equal <= SURVIVES).mean()),
                "rejected_equal_noise_alone": float((equal > REJECTED).mean()),
                "survives": float((both <= SURVIVES).mean()),
                "rejected": rejected / curves,
                "lower": limits.low,
                "upper": limits.high,
                "curves": curves,
                "seed": seed,
            }
        )
    return pd.DataFrame(rows)
