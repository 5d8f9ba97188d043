"""What fitting costs, as a ratio against a loop over scipy: `python -m consolidation.benchmark`.

fits   1,000 bootstrap replicates x 8 forms x 30 curves by the batched solver; the loop of scipy.optimize.curve_fit is timed on a sample
       of the same replicates and scaled up; both have to reach the same optimum
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from scipy.optimize import OptimizeWarning, curve_fit

from consolidation.decay import FORMS, Array
from consolidation.fitting import fit_best, solve
from labbook.console import console, guarded, progress
from labbook.run import write_table

CHOSEN = (
    "power", "power_asymptote", "shifted_power", "exponential", "exponential_asymptote", "stretched_exponential", "hyperbolic",
    "logistic",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """How much is fitted."""

    curves: int = 30
    """Number of curves."""
    replicates: int = 1000
    """Bootstrap replicates of each."""
    points: int = 13
    """Points of each curve."""
    sample: int = 40
    """Replicates of one curve and form that scipy fits."""
    out: Path = Path("runs/benchmark-fits.csv")
    """Table of all figures."""


def _data(config: Config, number: int) -> tuple[Array, Array, Array]:
    """x, y and bootstrap weights of one curve: noise around a shifted power law of its own."""
    g = np.random.default_rng(number)
    x = np.geomspace(1, 100, config.points)
    y = 0.9 * (1 + x / g.uniform(0.5, 3)) ** -g.uniform(0.3, 0.8) + 0.01 * g.standard_normal(config.points)
    # Bayesian bootstrap weights: every replicate keeps all points, so every form can be fitted to it
    return x, y, g.exponential(size=(config.replicates, config.points))


def fits(config: Config) -> dict[str, float]:
    """Seconds of both ways, their ratio, and the largest relative excess of our objective over scipy's."""
    ours = theirs = 0.0
    worst, sampled = 0.0, 0
    with progress("curves", config.curves) as advance:
        for number in range(config.curves):
            x, y, w = _data(config, number)
            for name in CHOSEN:
                form = FORMS[name]
                began = time.perf_counter()
                first, _ = fit_best(form, x, y, np.ones_like(y), "gaussian")
                start = np.tile(first.parameters, (config.replicates, 1))
                found = solve(form, x, np.tile(y, (config.replicates, 1)), w, start)
                ours += time.perf_counter() - began
                if number == 0:
                    seconds, excess = _scipy(config, name, x, y, w, first.parameters[0], found.objective)
                    theirs += seconds * config.replicates / config.sample * config.curves
                    worst, sampled = max(worst, excess), sampled + config.sample
            advance()
    return {
        "ours_seconds": ours,
        "scipy_seconds": theirs,
        "ratio": theirs / ours,
        "worst_excess": worst,
        "sampled_fits": sampled,
    }


def _scipy(
    config: Config, name: str, x: Array, y: Array, w: Array, start: Array, objective: Array
) -> tuple[float, float]:
    """Seconds of curve_fit, from the same start with the same gradient, on the first replicates, and the excess of our objective over its."""
    form = FORMS[name]
    low, high = form.limits(x)
    seconds, excess = 0.0, 0.0
    for i in range(config.sample):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            p, _ = curve_fit(
                lambda x, *p: form.value(x, np.array(p)), x, y, p0=np.clip(start, low, high), sigma=w[i] ** -0.5, bounds=(low, high),
                jac=lambda x, *p: form.gradient(x, np.array(p)), maxfev=5000,
            )  # fmt: skip
        seconds += time.perf_counter() - began
        theirs = 0.5 * np.sum(w[i] * (y - form.value(x, p)) ** 2)
        excess = max(excess, float(objective[i] / theirs - 1))
    return seconds, excess


def main(args: list[str] | None = None) -> None:
    """The command line."""
    config = tyro.cli(Config, args=args, prog="python -m consolidation.benchmark", description=__doc__)

    def body() -> None:
        row = fits(config)
        console.print(
            f"{config.curves * config.replicates * len(CHOSEN):,} fits: {row['ours_seconds']:.1f} s; a loop of curve_fit {row['scipy_seconds']:.0f} s (scaled from {row['sampled_fits']} fits); "
            f"ratio {row['ratio']:.0f}; worst excess of our objective over scipy's {row['worst_excess']:.1e}"
        )
        write_table(config.out, pd.DataFrame([row]))
        console.print(str(config.out))

    guarded(body)


if __name__ == "__main__":
    main()
