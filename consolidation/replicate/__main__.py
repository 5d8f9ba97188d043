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

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import tyro
from accelerate import PartialState

from consolidation.replicate.cells import SEEDS, Cell, cells, finished, tabulate
from consolidation.rivals import VARIANTS
from consolidation.train.presets import TrainConfig, begin
from consolidation.train.trainer import Settings, Trainer
from labbook.command import Repeat, run_command
from labbook.console import UserError
from labbook.report import Report
from labbook.run import CHECKSUMS, Run, digest, provenance, read_json, write_json
from labbook.view import print_table, print_verdict


def show(table: pd.DataFrame) -> None:
    """The tables on the terminal: retrieval, attention, and how many seeds succeeded; `cells.csv` has the
    rest.
    """
    print_verdict(verdict(table))
    shown = ("retrieval", "novel", "attention", "learnt", "consolidated")
    for name, cells_of in table.groupby("table", sort=False):
        rows = []
        for cell, values in cells_of.groupby("cell", sort=False):
            by = values.set_index("metric")
            rows.append([str(cell), *(_entry(by, metric) for metric in shown)])
        print_table(f"{name}: mean over seeds [95 % interval] (paper)", ["cell", *shown], rows)


def verdict(table: pd.DataFrame) -> list[str]:
    """What CRAM reaches here, where it is among the cells."""
    said = []
    for metric in ("retrieval", "attention"):
        found = table[(table["cell"] == "cram") & (table["metric"] == metric)]
        if len(found):
            said.append(f"{metric} {_entry(found.head(1).set_index('metric'), metric)}")
    return [f"CRAM, mean over seeds: {', '.join(said)}."] if said else []


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


def execute(command: Command, out: Path) -> pd.DataFrame:
    """Train what is missing, seed by seed so that every cell has some soon; tabulate all that is finished
    after each, and draw at the end.
    """
    listed = cells(command.config, command.tables)
    if command.seeds < 0:
        raise UserError(f"--seeds {command.seeds}: give the number of seeds, or 0 to tabulate what is there.")
    run = _opened(command, out, listed)
    # what others start from comes first
    runs = {cell.folder: cell for cell in sorted(listed, key=lambda c: c.needs is not None)}
    missing = sorted({c.needs for c in runs.values() if c.needs} - set(runs))
    runs = {name: Cell("table1", name, name, replace(command.config, model=name)) for name in missing} | runs
    for seed in range(command.seeds):
        for folder, cell in runs.items():
            start = None if cell.needs is None else out / cell.needs / f"seed-{seed}"
            Trainer(cell.config, seed, out / folder / f"seed-{seed}", command.settings, start).train()
            if PartialState().is_main_process:
                run.table("cells.csv", tabulate(finished(out, listed), listed))
    table = tabulate(finished(out, listed), listed)
    if PartialState().is_main_process and not _is_that_of(out, table):
        # plotting libraries are slow to import, and only this process draws
        from consolidation.replicate.figures import draw

        draw(out, out)
        if command.settings.report:
            report(command, table).write(out)
        count = len(table["cell"].unique())
        summary = {"config": asdict(command.config), "tables": command.tables, "cells": count}
        run.finish({"cells": table}, summary)
    return table


def report(command: Command, table: pd.DataFrame) -> Report:
    """What the page of the run folder holds."""
    return Report(
        command="consolidation.replicate",
        title=f"The experiments of the paper and their controls: {', '.join(command.tables)}",
        verdict=verdict(table),
        tables={
            f"{name}: mean over seeds, 95 % interval, the paper's number": rows.drop(columns="table")
            for name, rows in table.groupby("table", sort=False)
        },
    )


def _opened(command: Command, out: Path, listed: list[Cell]) -> Run:
    """The run folder. A folder of finished seeds without a `config.json`, which older commands and
    `consolidation.train` leave, becomes one.

    Raises UserError for a folder of another preset, and when nothing is there and nothing is to be trained.
    """
    there = finished(out, listed)
    if not there and not command.seeds:
        raise UserError(
            f"{out} holds no finished run of the tables {', '.join(command.tables)}. Increase --seeds."
        )
    main = PartialState().is_main_process
    if main and there and not (out / "config.json").exists():
        write_json(out / "config.json", asdict(command.config))
    with PartialState().main_process_first():
        run = Run(out, command.config)
    if not (out / "provenance.json").exists():  # of the first start; every seed has its own
        run.json("provenance.json", provenance(tables=command.tables, seeds=command.seeds))
    return run


def _is_that_of(out: Path, table: pd.DataFrame) -> bool:
    """Whether the run is finished with this very table, so that nothing is left to draw or to write."""
    path = out / "summary.json"
    sums = read_json(path).get(CHECKSUMS, {}) if path.is_file() else {}
    # older runs drew no figures and had no config.json
    return "config.json" in sums and sums.get("cells.csv") == digest([table.to_csv(index=False).encode()])


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
    run_command("consolidation.replicate", Command, work, args, start=begin, repeat=Repeat())


if __name__ == "__main__":
    main()
