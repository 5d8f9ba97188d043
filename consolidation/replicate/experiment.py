"""The experiments of the paper and their controls: `python -m consolidation.replicate [PRESET] [--tables ...]
[--seeds N] [--minutes M]`.

keys        is it consolidation that saves attention: CRAM and the control without semantic memory, key codes
            learned and fixed
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
            random frozen, from scratch at equal steps and at as many as CRAM's own training had
factorial   is it CRAM's mechanism: models and memory loads with fixed key codes, 8 seeds, as written down
            before in `consolidation/design.md`
controls    is it the control's fault: the factorial's with a router that sees x through a network as CRAM's
            does, and with CRAM's feed-forward width
learned     is it the keys or the price: cells A and B of the factorial with learned keys
published   which of the settings that the preset changes makes it work: from the paper's objective and rank
            to ours, one step at a time

Every cell and seed is a run of `consolidation.train` and a folder of its own; finished ones are skipped, so a
killed command goes on, and cells that several tables share are trained once. `cells.csv` holds one row per
cell and metric: mean over seeds with its interval, and the paper's number beside it; `factorial` and
`learned` add `outcomes.csv`, `courses.csv` and `contrasts.csv` (see `factorial` and `contrasts`). `runs.csv`
says which of the planned runs are finished, begun and not run. With --minutes the runs are taken in the order
of `budget`.
"""

import time
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path

import pandas as pd

from consolidation.replicate import budget
from consolidation.replicate.cells import DESIGNED, Cell, cells
from consolidation.replicate.config import Command
from consolidation.replicate.contrasts import primary
from consolidation.replicate.factorial import Factorial
from consolidation.replicate.tabulation import finished, tabulate
from consolidation.train.trainer import Trainer
from labbook import processes
from labbook.console import Interrupted, UserError, console
from labbook.report import Report
from labbook.run import CHECKSUMS, Run, digest, provenance, read_json, write_json
from labbook.training import default_folder, joined


def execute(command: Command) -> tuple[Path, pd.DataFrame]:
    """Train what is missing, seed by seed so that every cell has some soon; tabulate all that is finished
    after each, and draw at the end; with --minutes in the order of `budget`, until they are over. Returns the
    run folder and the table.

    Raises UserError for tables, seeds and minutes that cannot be, for a folder of another run, and see
    `Trainer`.
    """
    began = time.monotonic()
    out = command.out or default_folder("replicate")
    listed = cells(command.config, command.tables)
    if set(DESIGNED) <= set(command.tables):
        raise UserError(
            f"--tables {' and '.join(DESIGNED)} have the same cells of consolidation/design.md with other "
            "keys, and need two folders. Leave one of them out here."
        )
    if command.seeds < 0:
        raise UserError(f"--seeds {command.seeds}: give the number of seeds, or 0 to tabulate what is there.")
    if command.minutes is not None and not (isfinite(command.minutes) and command.minutes > 0):
        raise UserError(f"--minutes {command.minutes}: give how long to train, or leave it out.")
    run = _opened(command, out, listed)
    # of cells that share a run the most important one stands for it
    runs = {cell.folder: cell for cell in sorted(listed, key=budget.priority, reverse=True)}
    missing = sorted({c.needs for c in runs.values() if c.needs} - set(runs))
    runs = {name: Cell("table1", name, name, replace(command.config, model=name)) for name in missing} | runs
    deadline = inf if command.minutes is None else began + 60 * command.minutes
    planned = budget.plan(list(runs.values()), command.seeds)
    if command.minutes is None:
        # seed by seed, so that every cell has some soon
        planned.sort(key=lambda one: one.seed)
    for one in planned:
        if processes.agree(time.monotonic() > deadline):
            break
        start = None if one.cell.needs is None else out / one.cell.needs / f"seed-{one.seed}"
        trainer = Trainer(one.cell.config, one.seed, one.folder(out), command.settings, start)
        try:
            trainer.train(deadline)
        except Interrupted:
            if processes.agree(time.monotonic() < deadline):
                raise  # Ctrl-C or SIGTERM
            break
        if joined().is_main_process:
            _write(run, _tables(out, listed, Factorial.measure(out, listed)))
    decided = Factorial.measure(out, listed)
    tables = _tables(out, listed, decided)
    table = tables["cells"]
    course = budget.progress(planned, out)
    if joined().is_main_process and command.seeds:
        run.table("runs.csv", course)
    if bool((course["state"] != "finished").any()):
        if joined().is_main_process:
            _write(run, tables)
            console.print(f"{budget.said(course)} The same command goes on.")
            if command.settings.report:
                report(command, table, course, decided).write(out)
        return out, table
    if joined().is_main_process and not _is_that_of(out, tables):
        # plotting libraries are slow to import, and only this process draws
        from consolidation.replicate import cell_figures
        from consolidation.replicate.figures import draw

        cell_figures.draw(table, decided, out)
        if not set(command.tables) <= {*DESIGNED, "controls"}:  # whose cells are not those that it compares
            draw(out, out)
        if command.settings.report:
            report(command, table, course, decided).write(out)
        count = len(table["cell"].unique())
        summary = {"config": command.config.recorded(), "tables": command.tables, "cells": count}
        run.finish(tables, summary)
    return out, table


def _tables(out: Path, listed: list[Cell], decided: Factorial | None) -> dict[str, pd.DataFrame]:
    """Of all that is finished, by name: the cells, and what the factorial comes to where it is among them."""
    return {"cells": tabulate(out, finished(out, listed), listed)} | (decided.tables() if decided else {})


def _write(run: Run, tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        run.table(f"{name}.csv", table)


def report(
    command: Command, table: pd.DataFrame, course: pd.DataFrame, decided: Factorial | None = None
) -> Report:
    """What the page of the run folder holds."""
    cells = table.set_index(["metric", "cell"])["estimate"]
    cram = {name: found.iloc[0] for name in ("retrieval", "attention") if len(found := _of_cram(cells, name))}
    said = [f"{name} {value:.3f}" for name, value in cram.items()]
    return Report(
        command="consolidation.replicate",
        title=f"The experiments of the paper and their controls: {', '.join(command.tables)}",
        verdict=[
            *([f"CRAM here, mean over seeds: {', '.join(said)}."] if said else []),
            *(contrast.sentence() for contrast in (primary(decided.contrasts) if decided else ())),
            *([budget.said(course)] if len(course) else []),
        ],
        tables={
            f"{name}: mean over seeds, 95 % interval, the paper's number": rows.drop(columns="table")
            for name, rows in table.groupby("table", sort=False)
        }
        | (decided.tables() if decided else {})
        | ({"what was run": course} if len(course) else {}),
    )


def _of_cram(cells: "pd.Series[float]", metric: str) -> "pd.Series[float]":
    return cells[[key == (metric, "cram") for key in cells.index]]


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
    main = joined().is_main_process
    if main and there and not (out / "config.json").exists():
        write_json(out / "config.json", command.config.recorded())
    with joined().main_process_first():
        run = Run(out, command.config.recorded())
    if not (out / "provenance.json").exists():  # of the first start; every seed has its own
        run.json("provenance.json", provenance(tables=command.tables, seeds=command.seeds))
    return run


def _is_that_of(out: Path, tables: dict[str, pd.DataFrame]) -> bool:
    """Whether the run is finished with these very tables, so that nothing is left to draw or to write."""
    path = out / "summary.json"
    sums = read_json(path).get(CHECKSUMS, {}) if path.is_file() else {}
    # older runs drew no figures and had no config.json
    return "config.json" in sums and all(
        sums.get(f"{name}.csv") == digest([table.to_csv(index=False).encode()])
        for name, table in tables.items()
    )
