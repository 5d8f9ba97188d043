"""Does a 95 % interval hold the truth in 95 of 100 cases: `python -m consolidation.coverage` simulates and
counts.

points   one curve of independent points with Gaussian, log-normal or binomial noise; profile likelihood
units    curves of several units whose parameters differ (a and the rate by 15 %, log-normal) with Gaussian
         noise; BCa or jackknife-t over units. The truth is the fit to the mean curve of 200,000 units

Finished rows are skipped, so a killed command goes on. `figures/coverage.csv` is the committed result; the
README claims no interval outside it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from consolidation.coverage.config import Config
from consolidation.decay.curve import Clock, Curve, ErrorModel
from consolidation.decay.forms import FORMS
from consolidation.decay.forms import form as form_named
from consolidation.decay.inference import Estimator, bootstrap, fit, profile
from consolidation.decay.solver import Data, fit_best
from labbook.console import Interrupted, UserError, progress, stopping
from labbook.estimate import LEVEL, Array, Estimate
from labbook.run import write_table

# standard deviation, standard deviation of ln y, trials per point: all near .02 at y = .4
NOISE: dict[ErrorModel, float] = {"gaussian": 0.02, "lognormal": 0.05, "binomial": 600}
FITTED_BY: dict[ErrorModel, Estimator] = {"gaussian": "nls", "lognormal": "loglog", "binomial": "ml"}
POINTS = (6, 13, 30)
UNITS = (5, 6, 10, 15, 30)
UNIT_FORMS = ("power", "shifted_power", "exponential", "logistic")
SPREAD = 0.15
LARGE = 200_000


def _x(points: int) -> Array:
    return np.geomspace(1, 100, points)


def noisy(truth: Array, error: ErrorModel, g: np.random.Generator) -> Array:
    """One observation of every point."""
    if error == "gaussian":
        return np.asarray(truth + NOISE[error] * g.standard_normal(truth.shape))
    if error == "lognormal":
        return np.asarray(truth * np.exp(NOISE[error] * g.standard_normal(truth.shape)))
    return np.asarray(g.binomial(int(NOISE[error]), truth) / NOISE[error])


def point_interval(name: str, error: ErrorModel, points: int, g: np.random.Generator) -> Estimate:
    """The interval from one simulated curve."""
    form, x = FORMS[name], _x(points)
    y = noisy(form.value(x, form.planted), error, g)
    count = np.full(points, NOISE[error]) if error == "binomial" else None
    curve = Curve(name, x, y, Clock("repetition", "count"), count=count)
    return profile(fit(curve, name, FITTED_BY[error]), form.checked).number


def _unit_parameters(name: str, units: int, g: np.random.Generator) -> Array:
    """(units, k): the planted parameters with their scale and rate drawn for every unit."""
    form = FORMS[name]
    base = np.tile(form.planted, (units, 1))
    varied = [0, form.parameters.index(form.checked)]
    base[:, varied] *= np.exp(SPREAD * g.standard_normal((units, 2)))
    return base


def unit_truth(name: str, points: int = 13) -> float:
    """The parameter of the fit to the mean curve of very many units: what the fit to the mean of few units
    estimates.
    """
    form, x = FORMS[name], _x(points)
    mean = form.value(x, _unit_parameters(name, LARGE, np.random.default_rng(1))).mean(0)
    found, _ = fit_best(form, Data(x, mean[None], np.ones((1, points))))
    return float(found.parameters[0][form.parameters.index(form.checked)])


def unit_interval(name: str, units: int, replicates: int, g: np.random.Generator) -> Estimate:
    """The interval over units from one simulated experiment of 13 points."""
    x = _x(13)
    y = noisy(FORMS[name].value(x, _unit_parameters(name, units, g)), "gaussian", g)
    curve = Curve(
        name,
        np.tile(x, units),
        y.ravel(),
        Clock("repetition", "count"),
        unit=np.repeat([f"{i:02d}" for i in range(units)], 13),
    )
    return bootstrap(fit(curve, name), int(g.integers(2**31)), replicates)[FORMS[name].checked].number


def count(
    interval: Callable[[np.random.Generator], Estimate], truth: float, simulations: int, seed: list[int]
) -> dict[str, float]:
    """Coverage with Wilson's limits, and the shares of intervals that are open on a side and of curves
    without a fit.
    """
    g = np.random.default_rng(seed)
    hits = opened = failed = 0
    for _ in range(simulations):
        try:
            number = interval(g)
        except UserError:
            failed += 1
            continue
        if np.isnan(number.lower):
            failed += 1
            continue
        hits += number.lower <= truth <= number.upper
        opened += not np.isfinite([number.lower, number.upper]).all()
        if stopping():
            raise Interrupted("Finished rows are kept; repeat the same command to go on.")
    made = simulations - failed
    limits = stats.binomtest(hits, made).proportion_ci(LEVEL, "wilson") if made else None
    return {
        "coverage": hits / made if made else float("nan"),
        "lower": limits.low if limits else float("nan"),
        "upper": limits.high if limits else float("nan"),
        "open": opened / simulations,
        "failed": failed / simulations,
        "simulations": simulations,
    }


COLUMNS = (
    "design",
    "form",
    "parameter",
    "error",
    "n",
    "method",
    "coverage",
    "lower",
    "upper",
    "open",
    "failed",
    "simulations",
    "replicates",
    "seed",
)


def _rows(config: Config) -> list[dict[str, Any]]:
    """The finished rows of the table. Raises UserError when it is damaged, or of other settings."""
    path = config.out
    try:
        if not path.exists():
            return []
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} cannot be read as a table of finished rows ({error}). Choose another --out."
        ) from error
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise UserError(
            f"{path} is no table of this command, or of an older version: it lacks {', '.join(missing)}. "
            "Choose another --out."
        )
    for name in ("simulations", "replicates", "seed"):
        other = sorted(set(table[name]) - {getattr(config, name)})
        if other:
            raise UserError(
                f"{path} holds rows made with --{name} {other[0]}, asked was {getattr(config, name)}. Choose "
                "another --out, or repeat the "
                "command with the settings that are there."
            )
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return rows


def simulate(config: Config) -> pd.DataFrame:
    """All rows; those in the table already, which has to be of the same settings, are kept."""
    for name, least in (("simulations", 1), ("replicates", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise UserError(f"--{name} {getattr(config, name)} has to be at least {least}.")
    for name in config.forms:
        form_named(name)
    rows = _rows(config)
    done = {(r["design"], r["form"], r["error"], int(r["n"])) for r in rows}
    tasks = [
        ("points", name, error, n)
        for n in POINTS
        for error in NOISE
        for name in config.forms
        if n >= len(FORMS[name].parameters) + 2
    ]
    tasks += [("units", name, "gaussian", n) for n in UNITS for name in UNIT_FORMS if name in config.forms]
    with progress("coverage", len(tasks), len(done)) as advance:
        for number, (design, name, error, n) in enumerate(tasks):
            if (design, name, error, n) in done:
                continue
            draw: Callable[[np.random.Generator], Estimate]
            if design == "points":
                form = FORMS[name]
                truth = form.planted[form.parameters.index(form.checked)]
                draw = partial(point_interval, name, error, n)
            else:
                truth, draw = unit_truth(name), partial(unit_interval, name, n, config.replicates)
            found = count(draw, truth, config.simulations, [config.seed, number])
            method = "profile" if design == "points" else "BCa" if n >= 15 else "jackknife-t"
            rows.append(
                {
                    "design": design,
                    "form": name,
                    "parameter": FORMS[name].checked,
                    "error": error,
                    "n": n,
                    "method": method,
                    **found,
                    "replicates": config.replicates,
                    "seed": config.seed,
                }
            )
            write_table(config.out, pd.DataFrame(rows))
            advance()
    return pd.DataFrame(rows)
