"""The experiments of the paper and their controls: `python -m consolidation.replicate [PRESET] [--tables ...]
[--seeds N]`.

table1      which models retrieve, and what does it cost them in attention: CRAM, CRAM without consolidation,
            Transformer, Mamba, Jamba 1:7, SeqBoat
table4      which part of CRAM saves attention: full, no semantic memory (the control of theorem 1), no
            L_cons, no q in the router, semantic learning rate x 10
schedule    does the transition move with the schedules: temperature schedule ending at 1/3, 2/3 and 1 of
            training and constant; pressure setting in earlier and later, and from the start
recurrence  is eq 13 reached: recurrence 0, .25, .5, .7, .9, 1
novel       what if the key does not tell novel from recurring: disjoint, shared
mode        does it matter how q is known, and where a pattern may be stored: q predicted and oracle; key
            codes fixed and learned
transfer    do memory and router transfer to Copy and Associative recall with new heads: trained CRAM frozen,
            random frozen, from scratch at equal steps

Every cell and seed is a run of `consolidation.train` and a folder of its own; finished ones are skipped, so a
killed command goes on, and cells that several tables share are trained once. `cells.csv` holds one row per
cell and metric: mean over seeds with its interval, and the paper's number beside it.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from accelerate import PartialState
from rich import box
from rich.table import Table
from scipy import stats

from consolidation.rivals import VARIANTS
from consolidation.train import trajectory
from consolidation.train.presets import TrainConfig, parse
from consolidation.train.trainer import Settings, Trainer
from labbook.command import run_command
from labbook.console import UserError, console
from labbook.estimate import LEVEL, Estimate
from labbook.run import CHECKSUMS, digest, sealed, write_json, write_table

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
    "pairs": "query-key pairs per position, relative to causal attention",
    "learnt": "share of seeds that learnt retrieval",
    "consolidated": "share of seeds that consolidated",
}

# metrics that count seeds, and metrics that may exceed 1
SEEDS, UNBOUNDED = ("learnt", "consolidated"), ("dynamics_mse", "ratio")


@dataclass(frozen=True)
class Cell:
    """One condition: the table it stands in, its name there, the folder of its run (shared between tables),
    and how it is trained.
    """

    table: str
    name: str
    folder: str
    config: TrainConfig
    needs: str | None = None
    """Folder of the run whose weights it starts from."""


def cells(base: TrainConfig, tables: tuple[str, ...]) -> list[Cell]:
    """All cells of the tables asked for. Raises UserError for an unknown table."""
    unknown = [t for t in tables if t not in TABLES]
    if unknown:
        raise UserError(f"there is no table {unknown[0]!r}; there are {', '.join(TABLES)}. Change --tables.")
    return [cell for table in tables for cell in TABLES[table](base)]


def _models(table: str, *names: str) -> Any:
    return lambda base: [Cell(table, name, name, replace(base, model=name)) for name in names]


def _schedule(base: TrainConfig) -> list[Cell]:
    steps, start = base.steps, base.pressure_start
    changes: dict[str, dict[str, Any]] = {"as the preset": {}}
    for name, end in (("1/3", steps // 3), ("2/3", 2 * steps // 3), ("1", steps)):
        changes[f"temperature 1 to .1, ends at {name}"] = {
            "temperature": (1.0, 0.1),
            "temperature_steps": end,
        }
    changes["temperature constant"] = {"temperature": (1.0, 1.0), "temperature_steps": 0}
    for name, at in (("half as late", start // 2), ("half as late again", start + start // 2)):
        changes[f"pressure sets in {name}"] = {"pressure_start": at}
    changes["pressure from the start"] = {"pressure_start": 0, "pressure_ramp": 0}
    return [_changed("schedule", name, base, change) for name, change in changes.items()]


def _changed(table: str, name: str, base: TrainConfig, change: dict[str, Any]) -> Cell:
    config = replace(base, **change)
    folder = (
        "cram" if config == base else f"{table}-{name.replace(',', '').replace(' ', '-').replace('/', 'of')}"
    )
    return Cell(table, name, folder, config)


def _recurrence(base: TrainConfig) -> list[Cell]:
    shares = (0.0, 0.25, 0.5, 0.7, 0.9, 1.0)
    return [
        _changed("recurrence", f"{s:.0%}", base, {"benchmark": replace(base.benchmark, recurrence=s)})
        for s in shares
    ]


def _novel(base: TrainConfig) -> list[Cell]:
    return [
        _changed("novel", kind, base, {"benchmark": replace(base.benchmark, novel=kind)})
        for kind in ("disjoint", "shared")
    ]


def _mode(base: TrainConfig) -> list[Cell]:
    quality = [
        _changed("mode", f"q {q}", base, {"cram": replace(base.cram, quality=q)})
        for q in ("predicted", "oracle")
    ]
    return quality + [
        _changed("mode", f"keys {k}", base, {"cram": replace(base.cram, keys=k)})
        for k in ("fixed", "learned")
    ]


def _transfer(base: TrainConfig) -> list[Cell]:
    found = []
    for task in ("copy", "associative"):
        short = replace(
            base,
            steps=base.steps // 4,
            pressure_start=base.pressure_start // 4,
            pressure_ramp=base.pressure_ramp // 4,
        )
        short = replace(
            short,
            benchmark=replace(base.benchmark, variant=task),
            temperature_steps=base.temperature_steps // 4,
        )
        conditions: tuple[tuple[str, dict[str, Any], str | None], ...] = (
            ("trained", {"trained": "heads"}, "cram"),
            ("random", {"trained": "heads"}, None),
            ("from scratch", {}, None),
        )
        for name, change, needs in conditions:
            found.append(
                Cell(
                    "transfer",
                    f"{task}, {name}",
                    f"transfer-{task}-{name.replace(' ', '-')}",
                    replace(short, **change),
                    needs,
                )
            )
    return found


TABLES = {
    "table1": _models("table1", "cram", "no-consolidation", "transformer", "mamba", "jamba", "seqboat"),
    "table4": _models("table4", "cram", "control", "no-consolidation", "no-quality", "fast-semantic"),
    "schedule": _schedule,
    "recurrence": _recurrence,
    "novel": _novel,
    "mode": _mode,
    "transfer": _transfer,
}


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers of one seed that are tabulated."""
    accuracy, attention = summary["accuracy"], summary["attention"]
    first = summary["attention_first"]
    values = {
        "retrieval": accuracy["query"],
        "recurring": accuracy["recurring"],
        "novel": accuracy["novel"],
        "dynamics_mse": summary["dynamics_mse"],
        "attention": attention["all"],
        "ratio": attention["all"] / first if first else math.nan,
        "at_recurring": attention["recurring"],
        "at_novel": attention["novel"],
        "pairs": summary["pairs"] / summary["pairs_dense"],
        "learnt": float(summary["learnt"]),
        # without attention there is nothing to consolidate
        "consolidated": float(summary["consolidated"]) if attention["all"] else math.nan,
    }
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


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


def tabulate(found: dict[str, list[dict[str, Any]]], listed: list[Cell]) -> pd.DataFrame:
    """One row per cell and metric: table, cell, metric, estimate, lower, upper, n, paper, optimum."""
    rows = []
    for cell in listed:
        seeds = [metrics(s) for s in found.get(cell.folder, [])]
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


def show(table: pd.DataFrame) -> None:
    """The tables on the terminal: retrieval, attention, and how many seeds succeeded; `cells.csv` has the
    rest.
    """
    shown = ("retrieval", "novel", "attention", "learnt", "consolidated")
    for name, rows in table.groupby("table", sort=False):
        out = Table(
            box=box.SIMPLE,
            title=f"{name}: mean over seeds [95 % interval] (paper)",
            title_justify="left",
            collapse_padding=True,
        )
        out.add_column("cell", no_wrap=True)
        for metric in shown:
            out.add_column(metric, justify="right", no_wrap=True)
        for cell, values in rows.groupby("cell", sort=False):
            by = values.set_index("metric")
            out.add_row(str(cell), *(_entry(by, metric) for metric in shown))
        console.print(out)


def _entry(by: pd.DataFrame, metric: str) -> str:
    if metric not in by.index:
        return "–"
    columns = ("estimate", "lower", "upper", "n", "paper")
    estimate, lower, upper, n, paper = (float(by[column].to_dict()[metric]) for column in columns)
    if metric in SEEDS:
        return f"{round(estimate * n)} of {n:.0f}"
    stated = "" if math.isnan(paper) else f" ({_short(paper)})"
    interval = "" if math.isnan(lower) else f" [{_short(lower)}, {_short(upper)}]"
    return f"{_short(estimate)}{interval}{stated}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


@dataclass(frozen=True)
class Command:
    """Run the experiments of the paper and their controls."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    tables: tuple[str, ...] = ("table1", "table4", "schedule", "recurrence", "novel", "mode", "transfer")
    """Which tables."""
    seeds: int = 5
    """Seeds of every cell that have to be finished; 0 only tabulates what is there."""
    out: Path | None = None
    """Folder; default: runs/replicate-<time>. Finished cells in it are skipped."""


def finished(out: Path, listed: list[Cell]) -> dict[str, list[dict[str, Any]]]:
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
    there = trajectory.read_config(seed)
    asked = {
        **json.loads(json.dumps(asdict(cell.config), default=str)),
        "seed": there["seed"],
        "start": there.get("start"),
    }
    wrong = trajectory.differences(there, asked)
    if (there.get("start") is None) != (cell.needs is None):
        wrong.append(
            f"start: there {there.get('start')!r}, asked "
            f"{'none' if cell.needs is None else f'the weights of {cell.needs}'}"
        )
    if wrong:
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise UserError(
            f"{seed} was trained with another configuration than {cell.table}, {cell.name} has ({shown}). "
            "Choose another --out, or repeat the command "
            "with the preset and the flags that it was made with."
        )


def execute(command: Command, out: Path) -> pd.DataFrame:
    """Train what is missing, seed by seed so that every cell has some soon, and tabulate all that is finished
    after each.
    """
    listed = cells(command.config, command.tables)
    if command.seeds < 0:
        raise UserError(f"--seeds {command.seeds}: give the number of seeds, or 0 to tabulate what is there.")
    finished(out, listed)  # a folder of another preset is refused before anything is trained into it
    # what others start from comes first
    runs = {cell.folder: cell for cell in sorted(listed, key=lambda c: c.needs is not None)}
    missing = sorted({c.needs for c in runs.values() if c.needs} - set(runs))
    runs = {name: Cell("table1", name, name, replace(command.config, model=name)) for name in missing} | runs
    for seed in range(command.seeds):
        for folder, cell in runs.items():
            start = None if cell.needs is None else out / cell.needs / f"seed-{seed}"
            Trainer(cell.config, seed, out / folder / f"seed-{seed}", command.settings, start).train()
            if PartialState().is_main_process:
                write_table(out / "cells.csv", tabulate(finished(out, listed), listed))
    table = tabulate(finished(out, listed), listed)
    if table.empty:
        raise UserError(
            f"{out} holds no finished run of the tables {', '.join(command.tables)}. Increase --seeds."
        )
    if PartialState().is_main_process:
        write_table(out / "cells.csv", table)
        sums = {"cells.csv": digest([(out / "cells.csv").read_bytes()])}
        summary = {
            "config": asdict(command.config),
            "tables": command.tables,
            "cells": len(table["cell"].unique()),
        }
        write_json(out / "summary.json", sealed({**summary, CHECKSUMS: sums}))
    return table


def work(command: Command) -> Path | None:
    """Train what is missing, tabulate and print."""
    if command.config.model != "cram":
        raise UserError(
            f"--model {command.config.model}: the experiments choose the models themselves "
            f"({', '.join(VARIANTS)}). Leave it out."
        )
    out = command.out or Path("runs") / f"replicate-{time.strftime('%Y%m%d-%H%M%S')}"
    table = execute(command, out)
    if not PartialState().is_main_process:
        return None
    show(table)
    return out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.replicate", Command, work, args, parse)


if __name__ == "__main__":
    main()
