"""A run of the factorial of `consolidation/design.md`, and what lies beside it: what the cells come to, each
sentence chosen by the contrasts and their states.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consolidation.replicate.contrasts import (
    CELLS,
    LEARNT,
    LEAST_SEEDS,
    MARGIN,
    Contrast,
    State,
    Tested,
    least_p_signs,
    paired,
    signs_can_tell,
)
from consolidation.replicate.factorial import Factorial
from consolidation.replicate.tabulation import over_seeds
from consolidation.train import trajectory
from labbook.console import UserError
from labbook.estimate import Estimate
from replication.rows import CONTROLS, LEARNED, UNFAMILIAR, UNREWARDED, Finished, minutes, show

WITHOUT = {
    "control": "without semantic memory",
    "no-consolidation": "without the consolidation loss",
    "no-quality": "without q",
}
STATES = {
    "larger": "reads more recurring queries than CRAM's",
    "equivalent": f"reads as many recurring queries as CRAM's, give or take {MARGIN}",
    "smaller": "reads fewer recurring queries than CRAM's",
    "undecided": "is not told from CRAM's by the recurring queries that it reads",
}
# novel keys that are bound so often at most cannot be known by heart
FEW_TIMES = 5


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
        """Of a run of the factorial. Raises UserError for one with learned keys, which varies another."""
        of = Factorial.read(run.folder)
        if of.keys == "learned":
            raise UserError(
                f"{run.folder} has the factorial's cells with learned keys, and is read with the run whose "
                f"name it has without {LEARNED}. Name that one."
            )
        return Decided(run, of)

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
            f"{self.of.keys} keys, {' and '.join(map(str, loads))} patterns, N = {c['benchmark']['length']}, "
            f"d = {cram['width']}, {cram['layers']} layer, {c['steps']:,} steps ({shape} learning rate, "
            f"attention priced at {price:g} from step {start:,}, fully from "
            f"{start + c['pressure_ramp']:,}); n seeds"
        )

    def named(self, cell: str, *, load: bool = True) -> str:
        """Keys, load and price of a cell, and novel keys where they are more than the patterns."""
        patterns = f"{self.patterns(cell)} patterns, " * load
        novel = f"{self.novel_keys:,} novel keys, " * (self.novel_keys > self.patterns("A"))
        return f"{self.of.keys} keys, {patterns}{novel}attention priced at {self.of.price:g}"

    def patterns(self, cell: str) -> int:
        """How many patterns a cell has."""
        return int(self.of.seeds(cell)["patterns"].iloc[0])

    def folder(self, cell: str) -> Path:
        """Where the seeds of a cell are."""
        return self.run.folder / f"{self.table}-{CELLS[cell][0]}-{self.patterns(cell)}"

    @property
    def table(self) -> str:
        """The table of `consolidation.replicate` that trains these cells."""
        return "learned" if self.of.keys == "learned" else "factorial"

    def control_folder(self, model: str) -> Path | None:
        """Where the seeds of another control are; None where it was not trained."""
        folder = self.run.beside(CONTROLS).folder / f"controls-{model}-{self.patterns('A')}"
        return folder if folder.is_dir() else None

    def ran(self, cell: str) -> bool:
        """Whether the cell has a finished seed."""
        return len(self.of.seeds(cell)) > 0

    def mean(self, cell: str, outcome: str) -> Estimate | None:
        """Over the seeds of a cell; None without any."""
        values = self.of.seeds(cell)[outcome].to_numpy(float)
        return over_seeds(values, outcome) if len(values) else None

    def known_and_read(self, cell: str) -> Estimate:
        """The least share of recurring queries that the weights answer and the router reads all the same:
        known + attends - 1 (Fréchet's bound), mean over seeds. A query that is not known is answered by
        chance c = 1 / values, so known is (answered - c) / (1 - c).
        """
        rows, chance = self.of.seeds(cell), 1 / self.config["benchmark"]["values"]
        known = (rows["known"].to_numpy(float) - chance) / (1 - chance)
        return over_seeds(np.maximum(known + rows["attends"].to_numpy(float) - 1, 0), "known")

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
        unrewarded = self.unrewarded
        return None if unrewarded is None else enough(self.attends(name[0]) - unrewarded)

    @cached_property
    def unrewarded(self) -> "pd.Series[float] | None":
        """P(attend | recurring) of cell A without the reward of the semantic path; index seed.

        Raises UserError where the run beside differs in more than the reward.
        """
        folder = self.run.beside(UNREWARDED).folder
        if not folder.is_dir():
            return None
        model, weights = CELLS["A"][0], self.config["objective"] | {"semantic_reward": 0.0}
        of_cell = folder / self.folder("A").name
        self.require(of_cell, "without the reward of the semantic path", model=model, objective=weights)
        return replace(self, of=Factorial.read(folder)).attends("A")

    def require(self, folder: Path, what: str, **asked: Any) -> None:
        """Raise UserError where a seed in a folder beside differs from this run in more than is asked."""
        for seed in trajectory.seeds(folder):
            if wrong := trajectory.unlike(seed, self.config | asked):
                raise UserError(
                    f"{seed} lies where {self.run.folder.name} {what} belongs, and differs from it in "
                    f"{'; '.join(wrong)}. Move it, or name its folder otherwise."
                )

    def by_seed(self, cell: str, outcome: str) -> "pd.Series[float]":
        """An outcome of a cell; index seed."""
        return self.of.seeds(cell).set_index("seed")[outcome]

    def attends(self, cell: str) -> "pd.Series[float]":
        """P(attend | recurring) of a cell; index seed."""
        return self.by_seed(cell, "attends")

    def gap(self, cell: str) -> "pd.Series[float]":
        """P(attend | recurring) of a cell minus that of A; index seed."""
        return self.attends(cell) - self.attends("A")

    def load_known(self) -> Estimate:
        """By how much less the control answers with attention knocked out at the larger memory load."""
        return tested(self.by_seed("E", "known") - self.by_seed("B", "known")).number

    def load_unlearnt(self) -> bool:
        """Whether it knows less there, by more than the margin: what it does not know it has to read, so that
        its reading says nothing of a semantic memory.
        """
        return self.load_known().upper < -MARGIN

    def ceiling(self, whole: str) -> Tested:
        """P(attend | recurring) of a model that reads every recurring query minus that of a cell."""
        return tested(1 - self.attends(whole))

    def between(self, first: str, second: str) -> Tested:
        """P(attend | recurring) of one cell minus that of another, paired by seed."""
        return tested(self.attends(first) - self.attends(second))

    @cached_property
    def unfamiliar(self) -> "Decided | None":
        """The same with so many novel keys that each is bound FEW_TIMES at most; None where that was not run.

        Raises UserError where they are fewer, and where a seed of the run beside differs in more.
        """
        run = self.run.beside(UNFAMILIAR)
        if not run.folder.is_dir():
            return None
        found = replace(self, run=run, of=Factorial.read(run.folder))
        if not found.met() <= min(FEW_TIMES, self.met() / FEW_TIMES):
            raise UserError(
                f"{run.folder} is called as {self.run.folder.name} with many more novel keys, and has "
                f"{found.novel_keys}, each bound {found.met():.0f} times. Move it, or name it otherwise."
            )
        benchmark = self.config["benchmark"] | {"novel_keys": found.novel_keys}
        return self._again(found, "with more novel keys", benchmark=benchmark)

    @cached_property
    def learned(self) -> "Decided | None":
        """The same with learned keys; None where that was not run.

        Raises UserError where a seed of the run beside differs in more than that.
        """
        run = self.run.beside(LEARNED)
        if not run.folder.is_dir():
            return None
        found = replace(self, run=run, of=Factorial.read(run.folder))
        return self._again(found, "with learned keys", cram=self.config["cram"] | {"keys": "learned"})

    def _again(self, found: "Decided", what: str, **changed: Any) -> "Decided":
        """Cells that were made again, whose seeds have to differ from these in the model, the patterns and in
        what is changed alone.
        """
        for letter in filter(found.ran, CELLS):
            patterns = (self if self.ran(letter) else found).patterns(letter)
            benchmark = changed.get("benchmark", self.config["benchmark"]) | {"patterns": patterns}
            asked = changed | {"model": CELLS[letter][0], "benchmark": benchmark}
            there = {int(seed.name.removeprefix("seed-")) for seed in trajectory.seeds(found.folder(letter))}
            if there != set(found.of.seeds(letter)["seed"]):
                raise UserError(
                    f"{found.folder(letter)} has the seeds {', '.join(map(str, sorted(there)))}, and its "
                    "tables are of others. Tabulate it again: consolidation.replicate --tables "
                    f"{found.table} --seeds 0."
                )
            self.require(found.folder(letter), what, **asked)
        return found

    def minutes(self) -> list[float]:
        """What each of its runs and of those beside it took."""
        beside = (self.run.beside(mark) for mark in (UNREWARDED, CONTROLS, UNFAMILIAR, LEARNED))
        return [each for run in (self.run, *beside) for took in minutes(run.folder).values() for each in took]

    @property
    def novel_keys(self) -> int:
        """How many novel keys there are."""
        return int(self.config["benchmark"]["novel_keys"])

    def met(self) -> float:
        """How often a novel key is bound in all of training, on average."""
        config, b = self.config, self.config["benchmark"]
        bound = config["steps"] * config["batch"] * round(b["length"] * b["bindings"])
        return float(bound * (1 - b["recurrence"]) / self.novel_keys)

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
    return trajectory.read_config(min(folder.glob("*/seed-*/config.json")).parent)


def tested(differences: "pd.Series[float]") -> Tested:
    """Over the seeds that have one."""
    return paired(np.asarray(differences.dropna(), dtype=np.float64))


def enough(differences: "pd.Series[float]") -> Estimate | None:
    """Their mean with Student's interval; None for too few seeds."""
    found = tested(differences).number
    return None if found.n < LEAST_SEEDS else found


def by_t_alone(state: State, n: int) -> bool:
    """Whether a difference is told by Student's t, and its seeds are so few that signs cannot."""
    return state in ("larger", "smaller") and not signs_can_tell(n)


def stated(state: State, n: int) -> str:
    """A state, and whether it is one by t alone."""
    return f"{state} by t alone" if by_t_alone(state, n) else state


def unconfirmed(n: int) -> str:
    """How such a difference is told."""
    return f"by Student's t alone, which {n} seeds cannot confirm by signs (p {least_p_signs(n):.2g} at best)"


def said_unrewarded(number: Estimate) -> str:
    """Whether a difference is there without the reward, too."""
    shown = f"beside CRAM without that reward (λ_S = 0) the difference is {show(number, sign=True)}"
    if number.lower > 0 and signs_can_tell(number.n):
        return f"{shown}, so the reward alone does not make it"
    if number.lower > 0:
        return f"{shown}, above 0 {unconfirmed(number.n)}, so whether the reward alone makes it is open"
    if number.upper < 0:
        return f"{shown}, the other way"
    return f"{shown}, so whether the reward alone makes it is open"


def is_factorial(run: Finished) -> bool:
    """Whether a run of experiments holds the factorial."""
    return run.kind == "experiments" and (run.folder / "contrasts.csv").is_file()


def _failed(one: Contrast) -> str:
    """In how many of a contrast's seeds a model has not learnt; empty where all have."""
    if not one.not_learnt:
        return ""
    return f"; in {one.not_learnt} of them one of the two, or both, have not learnt retrieval"
