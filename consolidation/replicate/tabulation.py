"""The numbers of every cell over its seeds, and the paper's own beside them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from consolidation.config import CRAMConfig, variant
from consolidation.replicate.cells import Cell
from consolidation.train import trajectory
from labbook.console import UserError
from labbook.estimate import LEVEL, Estimate

# table 1 and table 4 of the paper: dynamics MSE, retrieval, attention share, attention against its start
PAPER: dict[tuple[str, str], dict[str, float]] = {
    ("table1", "transformer"): {"dynamics_mse": 0.589, "retrieval": 0.680, "attention": 1.00, "ratio": 1.00},
    ("table1", "mamba"): {"dynamics_mse": 0.620, "retrieval": 0.680, "attention": 0.0},
    ("table1", "jamba"): {"dynamics_mse": 0.461, "retrieval": 0.0, "attention": 0.125, "ratio": 1.00},
    ("table1", "seqboat"): {"dynamics_mse": 0.649, "retrieval": 0.680, "attention": 0.23, "ratio": 0.98},
    ("table1", "cram"): {"dynamics_mse": 1.211, "retrieval": 1.0, "attention": 0.016, "ratio": 0.019},
    ("table1", "no-consolidation"): {
        "dynamics_mse": 1.198,
        "retrieval": 1.0,
        "attention": 0.167,
        "ratio": 0.95,
    },
    ("table4", "cram"): {"retrieval": 1.0, "attention": 0.016},
    ("table4", "control"): {"retrieval": 1.0, "attention": 0.167},
    ("table4", "no-consolidation"): {"retrieval": 1.0, "attention": 0.167},
    ("table4", "no-quality"): {"retrieval": 1.0, "attention": 0.167},
    ("table4", "fast-semantic"): {"retrieval": 1.0, "attention": 0.167},
    ("transfer", "copy, trained"): {"retrieval": 0.941, "attention": 0.171},
}
METRICS = {
    "retrieval": "right answers",
    "recurring": "right answers to recurring queries",
    "novel": "right answers to novel queries",
    "dynamics_mse": "dynamics MSE",
    "attention": "share of positions that read",
    "ratio": "final / first attention share in training",
    "at_recurring": "share of recurring queries that read",
    "at_novel": "share of novel queries that read",
    "semantic": "share of positions that take the semantic path",
    "semantic_other": "share of positions without a query that take the semantic path",
    "pairs": "query-key pairs per position, relative to causal attention",
    "learnt": "share of seeds that learnt retrieval",
    "consolidated": "share of seeds that consolidated",
}

# metrics that count seeds, and metrics that may exceed 1
SEEDS, UNBOUNDED = ("learnt", "consolidated"), ("dynamics_mse", "ratio")


def metrics(summary: trajectory.SeedSummary) -> dict[str, float]:
    """The numbers of one seed that are tabulated."""
    accuracy, attention = summary.accuracy, summary.attention
    first = summary.attention_first
    values = {
        "retrieval": accuracy["query"],
        "recurring": accuracy["recurring"],
        "novel": accuracy["novel"],
        "dynamics_mse": summary.dynamics_mse,
        "attention": attention["all"],
        "ratio": attention["all"] / first if first else math.nan,
        "at_recurring": attention["recurring"],
        "at_novel": attention["novel"],
        "semantic": summary.semantic if remembers(summary.model) else math.nan,
        "pairs": summary.pairs / summary.pairs_dense,
        "learnt": float(summary.learnt),
        # without attention there is nothing to consolidate
        "consolidated": float(summary.consolidated) if attention["all"] else math.nan,
    }
    return {name: float(value) for name, value in values.items()}


def remembers(model: str) -> bool:
    """Whether a model has a semantic path."""
    chosen = variant(model)
    return chosen.layer == "cram" and chosen.model(CRAMConfig()).semantic


def semantic_elsewhere(run: Path) -> dict[int, float]:
    """Share of the positions without a query that take the semantic path at the end, by seed; NaN in models
    without one.

    lambda_S pays for q_t there too, and nothing is lost, so it says nothing about queries.
    """
    if not remembers(trajectory.read_config(trajectory.seeds(run)[0])["model"]):
        return dict.fromkeys((s.seed for s in trajectory.summaries(run)), math.nan)
    return dict(trajectory.course(run, "semantic", "other").iloc[-1])


def over_seeds(values: np.ndarray[Any, np.dtype[np.float64]], metric: str) -> Estimate:
    """Mean over seeds: Student's interval, cut at 0 and 1 for shares; Wilson's for a share of seeds; NaN
    limits for a single seed.
    """
    n, mean = len(values), float(np.mean(values))
    if metric in SEEDS:
        limits = stats.binomtest(round(float(np.sum(values))), n).proportion_ci(LEVEL, "wilson")
        return Estimate(mean, float(limits.low), float(limits.high), n)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    low, high = (-math.inf, math.inf) if metric in UNBOUNDED else (0.0, 1.0)
    return Estimate(mean, max(mean - half, low), min(mean + half, high), n)


def tabulated_seeds(out: Path, cell: str, folder: str) -> list[trajectory.SeedSummary]:
    """Summaries of the seeds of a cell in the folder of its runs, below `out`, whose `cells.csv` is of as
    many.

    Raises UserError where the table is of more or fewer: seeds were taken away or added since.
    """
    found = trajectory.summaries(out / folder)
    table = pd.read_csv(out / "cells.csv")
    stated = table[(table["cell"] == cell) & (table["metric"] == "retrieval")]["n"]
    if any(int(n) != len(found) for n in stated):
        raise UserError(
            f"{out / folder} has {len(found)} seeds and the table beside it is of {stated.iloc[0]}. Restore "
            "them, or repeat the command that made the table."
        )
    return found


def tabulate(out: Path, found: dict[str, list[trajectory.SeedSummary]], listed: list[Cell]) -> pd.DataFrame:
    """One row per cell and metric: table, cell, metric, estimate, lower, upper, n, paper, optimum; `found` by
    the folders in `out`.
    """
    elsewhere = {folder: semantic_elsewhere(out / folder) for folder in found}
    rows = []
    for cell in listed:
        seeds = [
            metrics(s) | {"semantic_other": elsewhere[cell.folder][s.seed]}
            for s in found.get(cell.folder, [])
        ]
        for metric in METRICS:
            values = np.array([s[metric] for s in seeds if not math.isnan(s[metric])])
            if len(values):
                number = over_seeds(values, metric)
                paper = PAPER.get((cell.table, cell.name), {}).get(metric, math.nan)
                optimum = cell.config.benchmark.optimum() if metric == "attention" else math.nan
                rows.append(
                    (
                        cell.table,
                        cell.name,
                        metric,
                        number.estimate,
                        number.lower,
                        number.upper,
                        number.n,
                        paper,
                        optimum,
                    )
                )
    return pd.DataFrame(
        rows, columns=["table", "cell", "metric", "estimate", "lower", "upper", "n", "paper", "optimum"]
    )


def finished(out: Path, listed: list[Cell]) -> dict[str, list[trajectory.SeedSummary]]:
    """Summaries of every finished seed of the listed cells that is in the folder, whichever command trained
    it.

    Raises UserError when a seed was trained with another configuration than its cell has, naming the fields.
    """
    found = {}
    for folder, cell in {cell.folder: cell for cell in listed}.items():
        if list((out / folder).glob("seed-*/summary.json")):
            for seed in trajectory.seeds(out / folder):
                _check_cell(seed, cell)
            found[folder] = trajectory.summaries(out / folder)
    return found


def _check_cell(seed: Path, cell: Cell) -> None:
    """Raise UserError unless a finished seed is one of its cell."""
    wrong = trajectory.unlike(seed, cell.config.recorded())
    start = trajectory.read_config(seed).get("start")
    if (start is None) != (cell.needs is None):
        wrong.append(
            f"start: there {start!r}, asked "
            f"{'none' if cell.needs is None else f'the weights of {cell.needs}'}"
        )
    if wrong:
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise UserError(
            f"{seed} was trained with another configuration than {cell.table}, {cell.name} has ({shown}). "
            "Choose another --out, or repeat the command "
            "with the preset and the flags that it was made with."
        )
