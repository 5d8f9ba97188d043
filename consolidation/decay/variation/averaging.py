"""Single units against their mean: the averaging artefact.

The mean of exponentials can look like a power law (Anderson & Tweney 1997; Heathcote, Brown & Mewhort 2000),
so a mean says nothing about single units before they are fitted one by one.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from consolidation.decay.comparison import fit_all
from consolidation.decay.curve import Curve
from consolidation.decay.forms import form
from consolidation.decay.inference import Estimator, labels, units_of
from consolidation.decay.solver import Data, fit_best, solve
from labbook.console import UserError
from labbook.estimate import Array


@dataclass(frozen=True)
class Averaging:
    """Fits of single units against the fit of their mean, and how often averaged exponentials would look like
    a power law.

    Attributes
    ----------
    units : one row per unit: gamma of its power law, tau of its exponential, and the AICc difference (power
        minus exponential).
    power_wins : share of units better described by the power law; mean_power_wins : whether their mean is.
    simulated : share of simulated means of exponentials that the power law describes better, with its 95 %
        interval (Wilson) and n.
    """

    units: pd.DataFrame
    power_wins: float
    mean_power_wins: bool
    simulated: tuple[float, float, float, int]
    verdict: str


def averaging(curve: Curve, estimator: Estimator = "nls", simulations: int = 500, seed: int = 0) -> Averaging:
    """The averaging test. Raises UserError for fewer than 3 units that can be fitted one by one."""
    rows, logs, noise = [], [], []
    for unit in units_of(curve):
        one = replace(curve.rows(labels(curve) == unit), unit=None)
        fits, _ = fit_all(one, ("power", "exponential"), estimator)
        if len(fits) < 2:
            continue
        power, exponential = fits["power"], fits["exponential"]
        rows.append(
            {
                "unit": unit,
                "points": power.points,
                "gamma": power.exponent,
                "tau": exponential.parameters["tau"],
                "delta_aicc_power_minus_exponential": power.aicc - exponential.aicc,
            }
        )
        a, tau = exponential.parameters["a"], exponential.parameters["tau"]
        if a > 0 and not exponential.failures:
            logs.append((np.log(a), np.log(tau)))
            free = max(exponential.points - 2, 1)
            noise.append(np.sum((exponential.y - exponential.fitted) ** 2) / free)
    if len(logs) < 3:
        raise UserError(
            f"{curve.name}: {len(logs)} units can be fitted one by one; the averaging test needs at least "
            "3. Give --unit with more units."
        )
    table = pd.DataFrame(rows)
    whole, lacking = fit_all(replace(curve, unit=None), ("power", "exponential"), estimator)
    if lacking:
        raise UserError(next(iter(lacking.values())))
    x = whole["power"].x
    parameters: Array = np.array(logs)
    g = np.random.default_rng(seed)
    draws = g.multivariate_normal(parameters.mean(0), np.cov(parameters.T), size=(simulations, len(table)))
    y = np.exp(draws[..., :1]) * np.exp(-x / np.exp(draws[..., 1:]))
    mean = y.mean(1) + np.sqrt(np.mean(noise) / len(table)) * g.standard_normal((simulations, len(x)))
    losses = {}
    for name in ("power", "exponential"):
        f = form(name)
        best, _ = fit_best(f, Data(x, mean.mean(0)[None], np.ones((1, len(x)))))
        start = np.tile(best.parameters, (simulations, 1))
        losses[name] = solve(f, Data(x, mean, np.ones_like(mean)), start).objective
    wins = int((losses["power"] < losses["exponential"]).sum())
    limits = binomtest(wins, simulations).proportion_ci(method="wilson")
    share = float((table["delta_aicc_power_minus_exponential"] < 0).mean())
    mean_wins = whole["power"].aicc < whole["exponential"].aicc
    verdict = (
        f"{curve.name}: the power law describes {share:.0%} of {len(table)} single units better than "
        f"the exponential, and {'also' if mean_wins else 'not'} their mean; means of as many "
        f"exponentials with the observed spread look like a power law in {wins / simulations:.0%} "
        f"[{limits.low:.0%}, {limits.high:.0%}] of {simulations} simulations, so a mean alone "
    ) + ("decides nothing." if limits.high > 0.05 else "is evidence here.")
    return Averaging(
        table, share, bool(mean_wins), (wins / simulations, limits.low, limits.high, simulations), verdict
    )
