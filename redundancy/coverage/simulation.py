"""How often the intervals over documents hold the truth.

`python -m redundancy.coverage` plants documents and counts. A score is a ratio of sums over documents,
sum(tokens * value) / sum(tokens). Documents are planted as

    equal            equally long, values normal
    skewed           equally long, values lognormal with a standard deviation of the logarithm of .7
    very skewed      the same with 1
    by size          lengths lognormal (.5), values rise with the logarithm of the length, so that no two
                     documents are comparable
    skewed by size   the same, and the values lognormal

and the truth is the ratio of a million of them. Three intervals are compared: the one that every table uses
(`Studentised`), the expanded percentile interval, and Student's on the jackknife.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from labbook.console import UserError, progress
from labbook.estimate import LEVEL, Array, Bootstrap, Studentised
from labbook.run import write_table
from redundancy.coverage.config import Command

Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]


def _lengths(g: np.random.Generator, n: int) -> Array:
    return g.lognormal(0, 0.5, n)


def _by_size(g: np.random.Generator, n: int) -> tuple[Array, Array]:
    tokens = _lengths(g, n)
    return tokens, np.log(tokens) + g.normal(0, 0.3, n)


def _skewed_by_size(g: np.random.Generator, n: int) -> tuple[Array, Array]:
    tokens = _lengths(g, n)
    return tokens, tokens * g.lognormal(0, 0.5, n)


DESIGNS: dict[str, Draw] = {
    "equal": lambda g, n: (np.ones(n), g.normal(0, 1, n)),
    "skewed": lambda g, n: (np.ones(n), g.lognormal(0, 0.7, n)),
    "very skewed": lambda g, n: (np.ones(n), g.lognormal(0, 1, n)),
    "by size": _by_size,
    "skewed by size": _skewed_by_size,
}
METHODS = ("bootstrap-t", "percentile", "jackknife-t")


def intervals(tokens: Array, values: Array, seed: int) -> dict[str, tuple[float, float]]:
    """Lower and upper limit of the ratio by each of METHODS."""
    n = len(tokens)

    def ratio(weights: Array) -> Array:
        return np.asarray((weights @ (tokens * values)) / (weights @ tokens))

    studentised, percentile = Studentised(n, seed), Bootstrap(n, seed)
    ours = studentised.estimate(ratio(studentised.weights))
    theirs = percentile.estimate(ratio(percentile.weights))
    left_out = ratio(studentised.weights)[1:]
    half = stats.t.ppf(0.5 + LEVEL / 2, n - 1) * np.sqrt(
        (n - 1) / n * np.square(left_out - left_out.mean()).sum()
    )
    return {
        "bootstrap-t": (ours.lower, ours.upper),
        "percentile": (theirs.lower, theirs.upper),
        "jackknife-t": (ours.estimate - half, ours.estimate + half),
    }


def simulate(design: str, documents: int, simulations: int, seed: int) -> list[dict[str, object]]:
    """One row per method: share of the simulations whose interval holds the truth, with Wilson's interval,
    and the median width.
    """
    draw, g = DESIGNS[design], np.random.default_rng([seed, documents, list(DESIGNS).index(design)])
    tokens, values = draw(np.random.default_rng(seed), 1_000_000)
    truth = float((tokens * values).sum() / tokens.sum())
    hits, widths = dict.fromkeys(METHODS, 0), {method: list[float]() for method in METHODS}
    for _ in range(simulations):
        for method, (low, high) in intervals(*draw(g, documents), int(g.integers(2**31))).items():
            hits[method] += int(low <= truth <= high)
            widths[method].append(high - low)
    rows = list[dict[str, object]]()
    for method in METHODS:
        limits = stats.binomtest(hits[method], simulations).proportion_ci(LEVEL, "wilson")
        rows.append(
            {
                "design": design,
                "documents": documents,
                "method": method,
                "coverage": hits[method] / simulations,
                "lower": float(limits.low),
                "upper": float(limits.high),
                "n": simulations,
                "median_width": float(np.median(widths[method])),
            }
        )
    return rows


def execute(command: Command) -> pd.DataFrame:
    """Simulate all rows and write the table. Raises UserError for numbers that cannot be simulated."""
    if min(command.documents, default=0) < 2 or command.simulations < 1 or command.seed < 0:
        raise UserError(
            f"--documents {command.documents}, --simulations {command.simulations}, --seed "
            f"{command.seed} were asked for; an interval needs at least 2 documents, a share at least 1 "
            "simulation, and seeds are not negative. Change them."
        )
    rows = list[dict[str, object]]()
    with progress("simulated tables", len(DESIGNS) * len(command.documents)) as advance:
        for design in DESIGNS:
            for documents in command.documents:
                rows += simulate(design, documents, command.simulations, command.seed)
                advance()
    table = pd.DataFrame(rows)
    write_table(command.out, table)
    return table
