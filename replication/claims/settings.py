"""Tables of RESULTS.md: table 4's control and theorem 1 setting by setting, which shows what either verdict
turns on, and the cells and contrasts of a factorial of `consolidation/design.md`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from consolidation.config import VARIANTS
from consolidation.replicate.contrasts import (
    CELLS,
    LEARNT,
    MARGIN,
    OUTCOMES,
    Contrast,
)
from consolidation.replicate.tabulation import metrics, over_seeds
from consolidation.train import trajectory
from labbook.escape import cell as escaped
from labbook.estimate import Estimate
from replication.claims.consolidation import asked, theorem_1
from replication.claims.decided import Decided, is_factorial, stated, tested
from replication.claims.factorial import CONTROL_WITH
from replication.claims.varied import variations
from replication.rows import UNREWARDED, Finished, show, table

TESTS = ("p (Holm)", "p by signs", "p of equivalence")
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
    them against the design. `tested` is whether the control knows what it could leave unread.
    """

    cram: Path
    control: Path
    but: str = "–"
    tested: bool = True


def settings(runs: Sequence[Finished], decided: Sequence[Decided]) -> Iterator[Setting]:
    """Those of the runs of the preprint's tables, and of the factorials."""
    for run in runs:
        if all(list((run.folder / name).glob("seed-*/summary.json")) for name in ("cram", "control")):
            yield Setting(run.folder / "cram", run.folder / "control")
    for one in decided:
        yield from _designed(one)
        yield from _changed(one)
        for varied in variations(one):
            yield from _designed(varied.there)


def _designed(decided: Decided) -> Iterator[Setting]:
    """Those of the design, by memory load."""
    for cram, control in ("AB", "DE"):
        if decided.ran(cram) and decided.ran(control):
            tested = cram == "A" or not decided.load_unlearnt()
            yield Setting(decided.folder(cram), decided.folder(control), tested=tested)


def _changed(decided: Decided) -> Iterator[Setting]:
    """Those in which CRAM or the control is another than the design's."""
    cram, control = decided.folder("A"), decided.folder("B")
    for model, which in CONTROL_WITH.items():
        if folder := decided.control_folder(model):
            yield Setting(cram, folder, f"a control {which}")
    unrewarded = decided.run.beside(UNREWARDED).folder / cram.name
    if unrewarded.is_dir():
        yield Setting(unrewarded, control, "CRAM without the reward of the semantic path (λ_S = 0)")


def by_setting(runs: Sequence[Finished]) -> Iterator[str]:
    """One row for each setting of the runs of a page; nothing where there is none."""
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
        "too, so rows in which many seeds have not learnt say nothing of a memory. Not tested: with "
        "attention knocked out the control answers fewer recurring queries than with fewer patterns, and "
        "what it does not know it has to read; theorem 1's premise, that every other path fails, is "
        "nearer there. Table 4 of the preprint counts positions and not recurring queries, so its claims "
        "about positions may have other verdicts."
    )
    yield ""
    yield from table(HEAD, rows)
    yield ""


def _row(setting: Setting) -> tuple[str, ...]:
    config = trajectory.read_config(trajectory.seeds(setting.control)[0])
    benchmark, (cram, control) = config["benchmark"], map(_seeds, (setting.cram, setting.control))
    apart = tested(control["at_recurring"] - cram["at_recurring"])
    positions, right, queries = _over(control, "attention"), _over(control, "retrieval"), asked(benchmark)
    return (
        str(config["cram"]["keys"]),
        f"{benchmark['patterns']}",
        f"{benchmark['novel_keys']:,}",
        f"{config['objective']['attention_penalty']:g}",
        f"{config['steps']:,}",
        setting.but,
        show(_over(cram, "at_recurring")),
        show(_over(control, "at_recurring")),
        show(apart.number, sign=True),
        stated(apart.state, apart.n) if setting.tested else "not tested",
        f"{_text(positions, 4)} of {queries:.4f}",
        theorem_1(positions, right, queries).value,
        _text(_over(control, "known")),
        f"{_missed(cram)}, {_missed(control)}",
    )


def _seeds(folder: Path) -> pd.DataFrame:
    """What every finished seed comes to; index seed."""
    found = trajectory.summaries(folder)
    rows = [{**metrics(one), "known": one.knock_outs["attention, recurring"]} for one in found]
    return pd.DataFrame(rows, index=[one.seed for one in found])


def _over(seeds: pd.DataFrame, metric: str) -> Estimate:
    return over_seeds(seeds[metric].to_numpy(np.float64), metric)


def _missed(seeds: pd.DataFrame) -> str:
    return f"{int((seeds[['recurring', 'novel']].min(axis=1) < LEARNT).sum())} of {len(seeds)}"


def section(decided: Decided) -> Iterator[str]:
    """Outcomes by cell, and every contrast."""
    yield f"### Memory apart from its use, attention priced at {decided.of.price:g}"
    yield ""
    yield (
        f"{decided.setting('ABCDEF')}; {decided.run.link}. The cells, the outcomes and the paired contrasts "
        "were written down before the runs, in [the design](consolidation/design.md); what was added or cut "
        "afterwards, the number of seeds and the other analyses among it, is dated there."
    )
    yield ""
    yield from _table(
        ("cell", "model", "patterns", *OUTCOMES.values(), "semantic path elsewhere", "not learnt", "n"),
        [_cell(decided, letter) for letter in CELLS if decided.ran(letter)],
    )
    # the outcomes of the design in its own analysis, the others of the primary one
    rows = [
        _contrast(one)
        for one in decided.of.contrasts
        if one.number.n > 1 and (one.outcome == "attends" or one.analysis == "paired")
    ]
    yield from _table(
        ("analysis", "contrast", "outcome", "difference", *TESTS, "not learnt", "state"),
        rows,
    )
    yield (
        f"Equivalent: the 90 % interval lies within ±{MARGIN}. Not learnt: fewer than {LEARNT:.0%} of novel "
        "or recurring queries answered (cells.csv counts by .95). p is corrected over the first three "
        "contrasts, and over the cells for their change. The semantic path elsewhere, at positions without a "
        "query, is rewarded by λ_S q and costs nothing there. A state is of the first cell against the "
        "second, or of the end against what was before. With attention knocked out the router's choices "
        "stay, so a query that it reads is answered by the working and feed-forward parts alone: the share "
        "mixes what is known with what is read; a small p of equivalence says that the difference "
        "lies within the margin; p by signs is that of all changes of sign."
        + " The load is not tested, whatever the states of its contrasts: the control knows less there."
        * (decided.ran("E") and decided.load_unlearnt())
    )


def _cell(decided: Decided, letter: str) -> tuple[str, ...]:
    rows = decided.of.seeds(letter)
    numbers = [decided.mean(letter, outcome) for outcome in (*OUTCOMES, "semantic_other")]
    label = VARIANTS[str(rows["model"].iloc[0])].label
    shown = ("–" if e is None or pd.isna(e.estimate) else _text(e) for e in numbers)
    counts = (decided.of.not_learnt(letter), len(rows))
    return letter, label, str(rows["patterns"].iloc[0]), *shown, *map(str, counts)


def _contrast(one: Contrast) -> tuple[str, ...]:
    numbers = (one.p_holm, one.p_signs, one.p_equivalence)
    shown = ("–" if pd.isna(p) else f"{p:.2g}" for p in numbers)
    number = f"{_text(one.number, sign=True)} (n = {one.number.n})"
    head = (one.analysis, one.name, OUTCOMES[one.outcome], number)
    return *head, *shown, one.by_cell, one.state


def _text(number: Estimate, digits: int = 2, *, sign: bool = False) -> str:
    return number.text(digits, sign=sign).replace(", no interval", "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*table([*map(escaped, head)], [[*map(escaped, row)] for row in rows]), ""]
