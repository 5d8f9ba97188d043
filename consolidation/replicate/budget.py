"""Which runs come first when there is time for some only, and which of them were run.

1  CRAM and its control, with learned and with fixed key codes: what theorem 1 turns on; seed by seed, so that
   the differences are paired
2  the ablations of table 4
3  the rivals of table 1
4  everything else: how q is known, the kind of novel keys, recurrence, schedules, transfer
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from safetensors import SafetensorError, safe_open

from consolidation.replicate.cells import Cell
from consolidation.train.trainer import STATE

PRIORITY = (("keys",), ("table4",), ("table1",))
LAST = len(PRIORITY) + 1
COLUMNS = ("order", "priority", "run", "model", "seed", "state", "done", "steps")
State = Literal["finished", "begun", "not run"]


@dataclass(frozen=True)
class Planned:
    """A cell and a seed, and how early it comes: 1 is first."""

    priority: int
    cell: Cell
    seed: int

    def folder(self, out: Path) -> Path:
        """Of its run."""
        return out / self.cell.folder / f"seed-{self.seed}"


def priority(cell: Cell) -> int:
    """1 is first."""
    return next((place for place, tables in enumerate(PRIORITY, 1) if cell.table in tables), LAST)


def plan(runs: Sequence[Cell], seeds: int) -> list[Planned]:
    """Every cell and seed once, in the order of priority; within one, seed by seed, and within a seed in the
    order of the cells, what others start from first.
    """
    ordered = sorted(runs, key=lambda cell: cell.needs is not None)
    found = [Planned(priority(cell), cell, seed) for seed in range(seeds) for cell in ordered]
    return sorted(found, key=lambda planned: planned.priority)


def progress(planned: Sequence[Planned], out: Path) -> pd.DataFrame:
    """What was run and what was not: order, priority, run, model, seed, state, done and steps."""
    rows = []
    for place, one in enumerate(planned, 1):
        done = _done(one.folder(out), one.cell.config.steps)
        state: State = "finished" if done == one.cell.config.steps else "begun" if done else "not run"
        cell, steps = one.cell, one.cell.config.steps
        rows.append((place, one.priority, cell.folder, cell.config.model, one.seed, state, done, steps))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _done(folder: Path, steps: int) -> int:
    """Steps that are done, by the summary or the state in the folder; 0 for a state that cannot be read."""
    if (folder / "summary.json").exists():
        return steps
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            step = (file.metadata() or {}).get("step", "")
    except (OSError, SafetensorError):
        return 0
    return int(step) if step.isdecimal() else 0


def said(table: pd.DataFrame) -> str:
    """One sentence: how many of the planned runs are finished, begun and not run, and which not."""
    count = table["state"].value_counts()
    finished, begun, missing = (int(count.get(state, 0)) for state in ("finished", "begun", "not run"))
    text = f"{finished} of {len(table)} runs are finished, {begun} begun, {missing} not run"
    absent = table[table["state"] == "not run"].groupby("run", sort=False)["seed"].count()
    if absent.empty:
        return f"{text}."
    shown = ", ".join(f"{run} ({seeds})" for run, seeds in list(absent.items())[:8])
    more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
    return f"{text} (seeds in brackets): {shown}{more}."
