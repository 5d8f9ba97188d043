"""Table 4's control and theorem 1 setting by setting: what either verdict turns on, in one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consolidation.replicate.contrasts import CELLS, LEARNT, MARGIN
from consolidation.replicate.tabulation import over_seeds
from consolidation.train import trajectory
from labbook.estimate import Estimate
from replication.claims.consolidation import theorem_1
from replication.claims.decided import Decided, is_factorial, tested
from replication.claims.factorial import CONTROL_WITH
from replication.rows import CONTROLS, UNREWARDED, Finished, interval, show, table

HEAD = (
    "keys",
    "patterns",
    "novel keys",
    "price",
    "steps",
    "control and CRAM are the design's, but",
    "CRAM reads",
    "control reads",
    "difference",
    "state",
    "positions, control",
    "theorem 1",
    "right with attention knocked out, control",
    "not learnt, CRAM and control",
)


@dataclass(frozen=True)
class Setting:
    """A control and CRAM that were trained alike: the folders of their seeds, and what is changed in one of
    them against the design.
    """

    cram: Path
    control: Path
    but: str = "–"


def settings(runs: Sequence[Finished], decided: Sequence[Decided]) -> Iterator[Setting]:
    """Those of the runs of the preprint's tables, and of the factorials."""
    for run in runs:
        if all(list((run.folder / name).glob("seed-*/summary.json")) for name in ("cram", "control")):
            yield Setting(run.folder / "cram", run.folder / "control")
    for one in decided:
        yield from _designed(one)
        yield from _changed(one)
        if one.unfamiliar:
            yield from _designed(one.unfamiliar)


def _designed(decided: Decided) -> Iterator[Setting]:
    """Those of the design, by memory load."""
    for cram, control in ("AB", "DE"):
        if decided.ran(cram) and decided.ran(control):
            yield Setting(_cell(decided, cram), _cell(decided, control))


def _changed(decided: Decided) -> Iterator[Setting]:
    """Those in which CRAM or the control is another than the design's."""
    cram, control = _cell(decided, "A"), _cell(decided, "B")
    for model, which in CONTROL_WITH.items():
        folder = decided.run.beside(CONTROLS).folder / f"controls-{model}-{decided.patterns('A')}"
        if folder.is_dir():
            yield Setting(cram, folder, f"a control {which}")
    unrewarded = decided.run.beside(UNREWARDED).folder / cram.name
    if unrewarded.is_dir():
        yield Setting(unrewarded, control, "CRAM without the reward of the semantic path (λ_S = 0)")


def section(runs: Sequence[Finished]) -> Iterator[str]:
    """RESULTS.md: one row for each setting of the runs of a page; nothing where there is none."""
    decided = Decided.among(runs)
    others = [run for run in runs if run.kind == "experiments" and not is_factorial(run)]
    rows = [_row(one) for one in settings(others, decided)]
    if not rows:
        return
    yield "### Table 4's control and theorem 1 by setting"
    yield ""
    yield (
        "Does a router without a semantic memory read more recurring queries than CRAM's, and does it attend "
        "at no fewer positions than there are queries? Differences are paired over the seeds that both have, "
        "which need not be all that the mean beside them is over; no p is corrected, and rows share seeds "
        f"and models. Equivalent: the 90 % interval lies within ±{MARGIN}. Not learnt: fewer than "
        f"{LEARNT:.0%} of novel or recurring queries answered. A router that gives up attention reads little "
        "too, so rows in which many seeds have not learnt say nothing of a memory; nor do those in which the "
        "control answers few recurring queries with attention knocked out, which it therefore has to read."
    )
    yield ""
    yield from table(HEAD, rows)
    yield ""


def _row(setting: Setting) -> tuple[str, ...]:
    config = trajectory.read_config(trajectory.seeds(setting.control)[0])
    benchmark, (cram, control) = config["benchmark"], map(_seeds, (setting.cram, setting.control))
    apart = tested(control["attends"] - cram["attends"])
    attends, positions, right = (_over(control, of) for of in ("attends", "positions", "right"))
    queries = round(benchmark["length"] * benchmark["queries"]) / benchmark["length"]
    return (
        str(config["cram"]["keys"]),
        f"{benchmark['patterns']}",
        f"{benchmark['novel_keys']:,}",
        f"{config['objective']['attention_penalty']:g}",
        f"{config['steps']:,}",
        setting.but,
        show(_over(cram, "attends")),
        show(attends),
        show(apart.number, sign=True),
        apart.state,
        f"{interval(positions, 4).removesuffix(', no interval')} of {queries:.4f}",
        theorem_1(positions, right, queries).value,
        interval(_over(control, "known")).removesuffix(", no interval"),
        f"{_missed(cram)}, {_missed(control)}",
    )


def _cell(decided: Decided, letter: str) -> Path:
    """The folder of a cell's seeds."""
    return decided.run.folder / f"factorial-{CELLS[letter][0]}-{decided.patterns(letter)}"


def _seeds(folder: Path) -> pd.DataFrame:
    """What every finished seed comes to; index seed."""
    rows: list[dict[str, Any]] = [
        {
            "seed": one.seed,
            "attends": one.attention["recurring"],
            "positions": one.attention["all"],
            "right": one.accuracy["query"],
            "known": one.knock_outs["attention, recurring"],
            "learnt": min(one.accuracy["novel"], one.accuracy["recurring"]) >= LEARNT,
        }
        for one in trajectory.summaries(folder)
    ]
    return pd.DataFrame(rows).set_index("seed")


def _over(seeds: pd.DataFrame, of: str) -> Estimate:
    return over_seeds(seeds[of].to_numpy(np.float64), of)


def _missed(seeds: pd.DataFrame) -> str:
    return f"{int((~seeds['learnt'].astype(bool)).sum())} of {len(seeds)}"
