"""What the factorial of `consolidation/design.md` says to table 4 and theorem 1 of the preprint: rows,
sentences and tables, each chosen by the contrasts and their states.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consolidation.config import VARIANTS
from consolidation.replicate.cells import PAPERS, over_seeds
from consolidation.replicate.contrasts import (
    CELLS,
    FAMILY,
    LEARNT,
    LEAST_SEEDS,
    MARGIN,
    OUTCOMES,
    Contrast,
    State,
    Tested,
    p_signs,
    paired,
)
from consolidation.replicate.factorial import Factorial
from consolidation.train import trajectory
from labbook.console import UserError
from labbook.escape import cell as escaped
from labbook.estimate import Estimate
from replication import paper
from replication.rows import CONTROLS, UNREWARDED, Finished, Row, show, table
from replication.verdict import Verdict

PREDICTED = {
    "B - A": "Without semantic memory the router goes on reading what the weights know (the control that "
    "decides theorem 1)",
    "C - A": "Without the consolidation loss the router goes on reading what the weights know",
    "F - A": "Without q in the router it goes on reading what the weights know",
}
# the contrast that belongs to an ablation of table 4
OF_ABLATION = {CELLS[name[0]][0]: name for name in FAMILY}
WITHOUT = {
    "control": "without semantic memory",
    "no-consolidation": "without the consolidation loss",
    "no-quality": "without q",
}
TESTS = ("p (Holm)", "p by signs", "p of equivalence")
STATES = {
    "larger": "reads more recurring queries than CRAM's",
    "equivalent": f"reads as many recurring queries as CRAM's, give or take {MARGIN}",
    "smaller": "reads fewer recurring queries than CRAM's",
    "undecided": "is not told from CRAM's by the recurring queries that it reads",
}


# other controls, and what is said of them
CONTROL_WITH = {
    "control-network": "whose router has a network of x as CRAM's has, taught by its own gradient alone",
    "control-narrow": "whose feed-forward part is as wide as CRAM's",
}


def reads_more(state: State) -> Verdict:
    """The ablated model reads more recurring queries than the whole one; no more is shown by a difference
    that lies within the margin, or on the other side.
    """
    return {
        "larger": Verdict.HOLDS,
        "equivalent": Verdict.FAILS,
        "smaller": Verdict.FAILS,
        "undecided": Verdict.UNDECIDED,
    }[state]


@dataclass(frozen=True)
class Control:
    """Another control in the place of B.

    Attributes
    ----------
    attends, novel : P(attend | recurring), and the share of novel queries answered, over its seeds.
    beyond : P(attend | recurring) minus that of a cell, paired by seed, by its letter.
    p_signs : that there is no difference from A, by changes of sign.
    unrewarded : the difference from A without the reward of the semantic path; None where that was not run.
    """

    attends: Estimate
    novel: Estimate
    beyond: dict[str, Tested]
    p_signs: float
    unrewarded: Estimate | None

    @property
    def from_cram(self) -> Tested:
        """The difference from A."""
        return self.beyond["A"]

    @property
    def state(self) -> State:
        """What may be said of its difference from CRAM."""
        return self.from_cram.state


@dataclass(frozen=True)
class Decided:
    """A run of the factorial, with what it says."""

    run: Finished
    of: Factorial

    @staticmethod
    def among(runs: Sequence[Finished]) -> "tuple[Decided, ...]":
        """Those of the runs that are one, the highest price of attention first."""
        return tuple(sorted(map(Decided.read, filter(is_factorial, runs)), key=lambda one: -one.of.price))

    @staticmethod
    def read(run: Finished) -> "Decided":
        """Of a run of the factorial."""
        return Decided(run, Factorial.read(run.folder))

    @cached_property
    def config(self) -> dict[str, Any]:
        """Of a seed: the run's own is that of the preset, without what the design changes."""
        return _config(self.run.folder)

    def setting(self, letters: str) -> str:
        """What was trained, of the cells with these letters."""
        c, cram = self.config, self.config["cram"]
        loads = sorted({self.patterns(cell) for cell in letters if self.ran(cell)})
        shape = c.get("learning_rate_schedule", "cosine")
        start, price = c["pressure_start"], self.of.price
        return (
            f"{cram['keys']} keys, {' and '.join(map(str, loads))} patterns, N = {c['benchmark']['length']}, "
            f"d = {cram['width']}, {cram['layers']} layer, {c['steps']:,} steps ({shape} learning rate, "
            f"attention priced at {price:g} from step {start:,}, fully from "
            f"{start + c['pressure_ramp']:,}); n seeds"
        )

    def named(self, cell: str) -> str:
        """Keys, load and price of a cell."""
        return (
            f"{self.config['cram']['keys']} keys, {self.patterns(cell)} patterns, attention priced at "
            f"{self.of.price:g}"
        )

    def patterns(self, cell: str) -> int:
        """How many patterns a cell has."""
        return int(self.of.seeds(cell)["patterns"].iloc[0])

    def ran(self, cell: str) -> bool:
        """Whether the cell has a finished seed."""
        return len(self.of.seeds(cell)) > 0

    def mean(self, cell: str, outcome: str) -> Estimate | None:
        """Over the seeds of a cell; None without any."""
        values = self.of.seeds(cell)[outcome].to_numpy(float)
        return over_seeds(values, outcome) if len(values) else None

    def known_and_read(self, cell: str) -> Estimate:
        """The least share of recurring queries that the weights answer and the router reads all the same:
        known + attends - 1 (Fréchet's bound), mean over seeds.
        """
        rows = self.of.seeds(cell)
        both = rows["known"].to_numpy(float) + rows["attends"].to_numpy(float) - 1
        return over_seeds(np.maximum(both, 0), "known")

    def said(self, name: str) -> str:
        """What a contrast says, in one sentence that names the choices behind it."""
        one, model = self.of.contrast(name), CELLS[name[0]][0]
        head = f"With {self.named('A')}, and {self.config['steps']:,} steps"
        if one.number.n < 2:
            return f"{head} too few seeds of a model {WITHOUT[model]} are finished."
        return (
            f"{head} a router {WITHOUT[model]} {STATES[one.state]}: P(attend | recurring) "
            f"differs by {one.number.text(2, sign=True)} ({one.number.n} seeds{_failed(one)})."
        )

    def price_of_reading(self, cell: str) -> float:
        """What a recurring query pays for reading instead of the semantic path: lambda_E + lambda_S q, with
        the mean q at the end; lambda_E alone without a semantic memory.
        """
        q = self.mean(cell, "quality")
        reward = self.config["objective"]["semantic_reward"]
        return self.of.price + (0.0 if q is None or math.isnan(q.estimate) else reward * q.estimate)

    def unrewarded_difference(self, name: str) -> Estimate | None:
        """The contrast of a cell with A, of P(attend | recurring), where A was made again without the reward
        of the semantic path; over equal seeds. None where that was not done, or for too few seeds.

        Raises UserError where the run beside differs in more than the reward.
        """
        unrewarded = self._unrewarded
        return None if unrewarded is None else _enough(self.attends(name[0]) - unrewarded)

    @cached_property
    def _unrewarded(self) -> "pd.Series[float] | None":
        """P(attend | recurring) of cell A without the reward of the semantic path; index seed.

        Raises UserError where the run beside differs in more than the reward.
        """
        folder = self.run.beside(UNREWARDED).folder
        if not folder.is_dir():
            return None
        model, weights = CELLS["A"][0], self.config["objective"] | {"semantic_reward": 0.0}
        asked = self.config | {"model": model, "objective": weights}
        seeds = trajectory.seeds(folder / f"factorial-{model}-{self.patterns('A')}")
        if any(trajectory.unlike(seed, asked) for seed in seeds):
            raise UserError(
                f"{folder} is called as {self.run.folder.name} without the reward of the semantic path, and "
                "differs in more. Move it, or name it otherwise."
            )
        return replace(self, of=Factorial.read(folder)).attends("A")

    def attends(self, cell: str) -> "pd.Series[float]":
        """P(attend | recurring) of a cell; index seed."""
        return self.of.seeds(cell).set_index("seed")["attends"]

    def between(self, first: str, second: str) -> Tested:
        """P(attend | recurring) of one cell minus that of another, paired by seed."""
        return _tested(self.attends(first) - self.attends(second))

    def control(self, model: str) -> Control | None:
        """A control that was trained beside, of CONTROL_WITH; None where it was not.

        Raises UserError where a seed of the run beside differs in more than the model.
        """
        folder = self.run.beside(CONTROLS).folder / f"controls-{model}-{self.patterns('A')}"
        if not folder.is_dir():
            return None
        for seed in trajectory.seeds(folder):
            if wrong := trajectory.unlike(seed, self.config | {"model": model}):
                raise UserError(
                    f"{seed} lies where the {model} of {self.run.folder.name} belongs, and differs from "
                    f"it in {'; '.join(wrong)}. Move it, or name its folder otherwise."
                )
        seeds = {one.seed: one for one in trajectory.summaries(folder)}
        attends = pd.Series({seed: one.attention["recurring"] for seed, one in seeds.items()}, dtype=float)
        gaps = {cell: (attends - self.attends(cell)).dropna() for cell in "ABF" if self.ran(cell)}
        return Control(
            over_seeds(np.asarray(attends), "attends"),
            over_seeds(np.array([one.accuracy["novel"] for one in seeds.values()]), "novel"),
            {cell: _tested(gap) for cell, gap in gaps.items()},
            p_signs(np.asarray(gaps["A"])),
            None if self._unrewarded is None else _enough(attends - self._unrewarded),
        )

    def besides(self, name: str) -> str:
        """What else differs between the cells of a contrast, and what the answers do not need."""
        other, whole = name[0], name[-1]
        if "quality" not in self.of.outcomes or not (self.ran(other) and self.ran(whole)):
            return ""
        price, there = self.price_of_reading(whole), self.price_of_reading(other)
        apart = abs(price - there) > 0.01 * self.of.price
        text = (
            f"Reading instead of the semantic path costs λ_E + λ_S q, at the end {price:.3f} in CRAM and "
            f"{there:.3f} in the other"
            + (
                f", so the reward of q, too, may make {'CRAM' if price > there else 'the other'} read less"
                if apart
                else ""
            )
        )
        unrewarded = self.unrewarded_difference(name) if apart else None
        text += "." if unrewarded is None else f"; {said_unrewarded(unrewarded)}."
        if name == "B - A":
            text += self._apart()
        without = self.mean(whole, "without_semantic")
        if without is not None and not math.isnan(without.estimate):
            text += (
                f" With the semantic memory knocked out CRAM answers {show(without)} of recurring queries."
            )
        return text

    def _apart(self) -> str:
        """Whether what the control lacks besides the memory comes to the same."""
        said = ""
        if self.ran("C") and (loss := self.between("B", "C")).n >= LEAST_SEEDS:
            means = {
                "larger": "so a missing memory adds to that missing loss",
                "smaller": "so without the memory less is read",
                "equivalent": f"so a missing memory adds nothing to that missing loss, give or take {MARGIN}",
                "undecided": "so whether a missing memory adds to that missing loss is open",
            }[loss.state]
            said += (
                " The control lacks the consolidation loss too: it minus the model that lacks this alone "
                f"{show(loss.number, sign=True)} ({loss.state}), {means}."
            )
        if self.ran("F") and (sight := self.between("B", "F")).n >= LEAST_SEEDS:
            said += (
                " Minus CRAM without q in its router, which sees as little as the control's, "
                f"{show(sight.number, sign=True)}."
            )
        return said

    def failed(self, one: Contrast) -> str:
        """How many seeds have not learnt, and what is left without them; empty where all have."""
        if not one.not_learnt:
            return ""
        left = self.of.contrast(one.name, "paired, learnt seeds")
        without = (
            f"Without them {left.number.n} seeds give {left.number.text(2, sign=True)} ({left.state})."
            if left.number.n > 1
            else "Without them fewer than two seeds are left."
        )
        return (
            f"In {one.not_learnt} of {one.number.n} seeds a model answers fewer than {LEARNT:.0%} of novel "
            f"or recurring queries (by cell {one.by_cell}): a router that gives up attention altogether "
            f"reads little too. {without}"
        )


def _config(folder: Path) -> dict[str, Any]:
    """Of the first seed of a factorial."""
    return trajectory.read_config(min(folder.glob("factorial-*/seed-*/config.json")).parent)


def _tested(differences: "pd.Series[float]") -> Tested:
    """Over the seeds that have one."""
    return paired(np.asarray(differences.dropna(), dtype=np.float64))


def _enough(differences: "pd.Series[float]") -> Estimate | None:
    """Their mean with Student's interval; None for too few seeds."""
    found = _tested(differences).number
    return None if found.n < LEAST_SEEDS else found


def said_unrewarded(number: Estimate) -> str:
    """Whether a difference is there without the reward, too."""
    shown = f"beside CRAM without that reward (λ_S = 0) the difference is {show(number, sign=True)}"
    if number.lower > 0:
        return f"{shown}, so by Student's t the reward alone does not make it"
    if number.upper < 0:
        return f"{shown}, the other way"
    return f"{shown}, so whether the reward alone makes it is open"


def is_factorial(run: Finished) -> bool:
    """Whether a run of experiments holds the factorial."""
    return run.kind == "experiments" and (run.folder / "contrasts.csv").is_file()


def contrast_rows(decided: Decided) -> Iterator[Row]:
    """Table 4 with fixed keys: does what an ablation takes away make the router read less."""
    for name, claim in PREDICTED.items():
        ablated, whole = name[0], name[-1]
        if not (decided.ran(ablated) and decided.ran(whole)):
            continue
        one = decided.of.contrast(name)
        mixed, pairs = decided.of.contrast(name, "mixed model"), one.number.n > 1
        changes = ", ".join(
            f"{cell} {show(decided.of.contrast(cell, 'change').number, sign=True)}"
            for cell in (whole, ablated)
        )
        beside = [
            f"mixed model {show(mixed.number, sign=True)}" if mixed.number.n > 1 else "",
            f"change over the last quarter of training, while the learning rate goes to 0: {changes}",
            f"with attention knocked out right {show(decided.mean(whole, 'known'))} in CRAM, "
            f"{show(decided.mean(ablated, 'known'))} in the other",
            _load(decided) if name == "B - A" else "",
        ]
        yield Row(
            f"{claim} (table 4; {decided.named(whole)})",
            f"{paper.ABLATED_ATTENTION} of positions read, CRAM {paper.ATTENTION}",
            f"P(attend | recurring) {show(decided.mean(ablated, 'attends'))}, CRAM "
            f"{show(decided.mean(whole, 'attends'))}; paired difference {show(one.number, sign=True)}"
            + (f", p = {one.p_holm:.2g} (Holm), p of equivalence {one.p_equivalence:.2g}" if pairs else ""),
            "; ".join(text for text in beside if text),
            decided.setting(f"{whole}{ablated}"),
            reads_more(one.state),
            own=False,
            sentence=" ".join(
                text
                for text in (
                    decided.said(name),
                    decided.failed(one),
                    decided.besides(name),
                    "The design was written before the runs: consolidation/design.md.",
                )
                if text
            ),
            links=f"{decided.run.figure('factorial_memory_and_use')}{decided.run.link}",
            headline=name == "B - A",
        )


def control_rows(decided: Decided) -> Iterator[Row]:
    """The claim that decides theorem 1 with other controls: is it the control's fault."""
    for model, which in CONTROL_WITH.items():
        found = decided.control(model)
        if found is None:
            continue
        one = found.from_cram
        shown = (
            f", p = {one.p:.2g}, by signs {found.p_signs:.2g}, of equivalence {one.p_equivalence:.2g}"
            if one.n > 1
            else ""
        )
        others = {"B": "the design's control", "F": "CRAM without q in its router"}
        yield Row(
            f"{PREDICTED['B - A']}, with a control {which} (table 4; {decided.named('A')})",
            f"{paper.ABLATED_ATTENTION} of positions read, CRAM {paper.ATTENTION}",
            f"P(attend | recurring) {show(found.attends)}, CRAM {show(decided.mean('A', 'attends'))}; paired "
            f"difference {show(one.number, sign=True)}{shown}",
            "; ".join(
                f"minus {said} {show(found.beyond[cell].number, sign=True)}"
                for cell, said in others.items()
                if cell in found.beyond
            )
            + f"; novel queries right {show(found.novel)}, in CRAM {show(decided.mean('A', 'novel'))}",
            decided.setting("A"),
            reads_more(found.state),
            own=False,
            sentence=f"A control {which} {STATES[found.state]}"
            + ("" if found.unrewarded is None else f"; {said_unrewarded(found.unrewarded)}")
            + ". p is not corrected. Added to the design after A and B were known, and before its own runs.",
            links=decided.run.beside(CONTROLS).link,
        )


def _load(decided: Decided) -> str:
    """Whether memory load changes the first contrast."""
    if not decided.ran("D"):
        return ""
    more, change = decided.of.contrast("E - D"), decided.of.contrast("(E - D) - (B - A)")
    return (
        f"with {decided.patterns('D')} patterns {show(more.number, sign=True)} ({more.state}), which differs "
        f"by {show(change.number, sign=True)} ({change.state})"
    )


def finding(decided: Sequence[Decided]) -> tuple[str, str, str]:
    """The README's: by how much routers read more than CRAM's, at every price of attention, and whether
    prices differ; a sentence, a table, and what follows it.
    """
    setting = f"{decided[0].config['cram']['keys']} keys and {decided[0].config['steps']:,} steps"
    lowest_first = sorted(decided, key=lambda one: one.of.price)
    head = ["P(attend \\| recurring) minus CRAM's", *map(_priced, lowest_first)]
    columns = [_column(one) for one in lowest_first]
    rows = [[name, *(column[name] or "–" for column in columns)] for name in columns[0]]
    text = (
        f"With {setting}, models that lack parts of CRAM differ from it in recurring queries read, "
        "paired by seed (without the memory there is no consolidation loss either):"
    )
    after = [*filter(None, map(_not_learnt, lowest_first)), *_between(decided)]
    shown = [row for row in rows if set(row[1:]) != {"–"}]
    return text, "\n".join(table(head, shown)), " ".join(after)


def _priced(decided: Decided) -> str:
    """The head of a column."""
    published = " (the preprint's number)" * (decided.of.price == PAPERS.objective.attention_penalty)
    return f"attention priced at {decided.of.price:g}{published}"


def _column(decided: Decided) -> dict[str, str]:
    """What a factorial comes to, by the names of the README's rows; empty where too few seeds are there."""

    def shown(number: Estimate | None, state: str = "", *, sign: bool = True) -> str:
        if number is None or number.n < LEAST_SEEDS:
            return ""
        return f"{show(number, sign=sign)}{state and f', {state}'}"

    def both(of: Callable[[str], Estimate | None]) -> str:
        """Of CRAM and of the control."""
        found = [shown(of(cell), sign=False) for cell in "AB" if decided.ran(cell)]
        return " / ".join(found) if len(found) == 2 and all(found) else ""

    found = {"CRAM's own": shown(decided.mean("A", "attends"), sign=False)}
    for name in FAMILY:
        one, label = decided.of.contrast(name), WITHOUT[CELLS[name[0]][0]]
        found[label] = shown(one.number, one.state)
        if name == "B - A":
            found["without it, CRAM with λ_S = 0"] = shown(decided.unrewarded_difference(name))
            other = decided.control("control-network")
            named = "without it, router with a network of x"
            found[named] = shown(other.from_cram.number, other.state) if other else ""
            found["both of these"] = shown(other.unrewarded if other else None)
    found[f"novel queries answered: CRAM / {WITHOUT['control']}"] = both(
        lambda cell: decided.mean(cell, "novel")
    )
    found["read although known, at least: the same two"] = both(decided.known_and_read)
    return found


def _not_learnt(decided: Decided) -> str:
    """What stands in the way of the first contrast; empty where all seeds have learnt."""
    one = decided.of.contrast("B - A")
    if not one.not_learnt:
        return ""
    return (
        f"Priced at {decided.of.price:g}, fewer than {LEARNT:.0%} of novel or recurring queries are answered "
        f"by CRAM in {decided.of.not_learnt('A')} and by the control in {decided.of.not_learnt('B')} of "
        f"{one.number.n} seeds: a router that gives up attention reads little too."
    )


def _between(decided: Sequence[Decided]) -> Iterator[str]:
    """Whether the first contrast depends on the price."""
    for higher, lower in itertools.pairwise(decided):
        change = between_prices(higher, lower)
        if change.n < LEAST_SEEDS:
            continue
        said = "depends on" if change.lower > 0 or change.upper < 0 else "is not shown to depend on"
        yield (
            f"From {higher.of.price:g} to {lower.of.price:g} the difference {WITHOUT['control']} changes by "
            f"{show(change, 2, sign=True)}: it {said} the price."
        )


def between_prices(higher: Decided, lower: Decided) -> Estimate:
    """By how much B - A in P(attend | recurring) is larger at the lower price of attention, over seeds that
    both runs have: equal seeds see the same sequences.
    """
    at_lower, at_higher = (one.attends("B") - one.attends("A") for one in (lower, higher))
    return _tested(at_lower - at_higher).number


def _failed(one: Contrast) -> str:
    """In how many of a contrast's seeds a model has not learnt; empty where all have."""
    if not one.not_learnt:
        return ""
    return f"; in {one.not_learnt} of them one of the two, or both, have not learnt retrieval"


def section(decided: Decided) -> Iterator[str]:
    """RESULTS.md: outcomes by cell, and every contrast."""
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


def _text(number: Estimate, *, sign: bool = False) -> str:
    return number.text(2, sign=sign).replace(", no interval", "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*table([*map(escaped, head)], [[*map(escaped, row)] for row in rows]), ""]
