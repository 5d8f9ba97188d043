"""What lies beside a run of `consolidation/design.md`: other controls, and its cells made again with one more
choice changed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from consolidation.replicate.contrasts import CELLS, FAMILY, LEAST_SEEDS, MARGIN, State, Tested, p_signs
from consolidation.replicate.tabulation import over_seeds, tabulated_seeds
from labbook.estimate import Estimate
from replication.claims.decided import WITHOUT, Decided, enough, stated, tested
from replication.rows import CONTROLS, show

# what the change of a contrast says
CHANGED: Mapping[State, str] = {
    "larger": "it is larger there",
    "smaller": "it is smaller there",
    "equivalent": f"it does not turn on that, give or take {MARGIN}",
    "undecided": "whether it turns on that is open",
}
# and beside what the design expected of it, by its state
MORE_WITH_KEYS: Mapping[State, str] = {
    "larger": "The design expected that if the mechanism needs q.",
    "smaller": "The design expected a larger difference if the mechanism needs q.",
    "equivalent": "The design expected a larger difference if the mechanism needs q.",
    "undecided": "",
}
# when the runs were decided, by contrast
UNFAMILIAR_PLANNED = {
    "B - A": "Added to the design after the results with fewer keys, and before this run; the difference "
    "was looked at after three seeds.",
    "F - A": "Added to the design with the other two, put off after their first seed, and written down "
    "again, before its own runs, when their five seeds were known.",
}
# by the price and the seeds of which it is true
LEARNED_PLANNED = {
    (0.1, 6): "Added to the design after the results with fixed keys, and before any of these runs had been "
    "looked at; five seeds were planned, and when four pairs were known, all above 0, a sixth was added, "
    "without which signs could tell nothing."
}


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


def control(decided: Decided, model: str) -> Control | None:
    """A control that was trained beside, of CONTROL_WITH; None where it was not.

    Raises UserError where a seed of the run beside differs in more than the model.
    """
    folder = decided.control_folder(model)
    if folder is None:
        return None
    decided.require(folder, f"with the {model}", model=model)
    name = f"{model}, {decided.patterns('A')} patterns"
    seeds = {one.seed: one for one in tabulated_seeds(folder.parent, name, folder.name)}
    attends = pd.Series({seed: one.attention["recurring"] for seed, one in seeds.items()}, dtype=float)
    gaps = {cell: (attends - decided.attends(cell)).dropna() for cell in "ABF" if decided.ran(cell)}
    return Control(
        over_seeds(np.asarray(attends), "attends"),
        over_seeds(np.array([one.accuracy["novel"] for one in seeds.values()]), "novel"),
        {cell: tested(gap) for cell, gap in gaps.items()},
        p_signs(np.asarray(gaps["A"])),
        None if decided.unrewarded is None else enough(attends - decided.unrewarded),
    )


@dataclass(frozen=True)
class Varied:
    """Cells made again with another choice.

    Attributes
    ----------
    here, there : the cells that are varied, and those with the other choice.
    choice, instead : that choice and the one in its place, in words.
    more : what else is to be said of the choice.
    expected : what the design expected of the change of a contrast, by its state.
    planned : when the runs were decided, by contrast.
    pairs : what equal seeds share.
    """

    here: Decided
    there: Decided
    choice: str
    instead: str
    more: str
    expected: Mapping[State, str]
    planned: Mapping[str, str]
    pairs: str

    def change(self, name: str) -> Tested | None:
        """By how much the choice makes a contrast larger, over the seeds that both runs have; None where too
        few tell.
        """
        if not self.there.ran(name[0]):
            return None
        found = tested(self._moved(name[0]))
        return None if found.n < LEAST_SEEDS else found

    def _moved(self, other: str) -> "pd.Series[float]":
        """By how much a cell's P(attend | recurring) minus CRAM's changes; index shared seed."""
        return (self.there.gap(other) - self.here.gap(other)).dropna()

    def said(self, name: str) -> str:
        """The same in words; empty where too few seeds tell."""
        change, other = self.change(name), name[0]
        if change is None:
            return ""
        both = self._moved(other).index
        start, end = (float(one.gap(other)[both].mean()) for one in (self.here, self.there))
        return (
            f"With {self.choice}{self.more}, the difference {WITHOUT[CELLS[other][0]]} goes on shared seeds "
            f"from {start:+.2f} to {end:+.2f}, by {show(change.number, sign=True)}: {CHANGED[change.state]}, "
            f"where CRAM reads {float(self.there.attends('A').mean()):.2f}{self._failed()}."
        )

    def brief(self) -> str:
        """What CRAM reads there, by how much others read more, and how the first difference changes; empty
        where too few seeds tell.
        """
        change = self.change("B - A")
        if change is None:
            return ""
        others = [name for name in FAMILY if self.change(name)]
        more = [(self.there.of.contrast(name), WITHOUT[CELLS[name[0]][0]]) for name in others]
        return (
            f"With {self.choice}, {self.there.config['steps']:,} steps, priced at {self.there.of.price:g}, "
            f"CRAM reads {show(self.there.mean('A', 'attends'))}, beyond that "
            + ", ".join(
                f"{without} {show(one.number, sign=True)} ({stated(one.state, one.number.n)})"
                for one, without in more
            )
            + f"; the first changes by {show(change.number, sign=True)}: {CHANGED[change.state]}"
            f"{self._failed()}."
        )

    def missing(self) -> str:
        """What tells parts of CRAM apart and was not made again; empty where all was."""
        here, there = self.here, self.there
        left = [WITHOUT[CELLS[x][0]] for x in "CF" if here.ran(x) and not there.ran(x)]
        models = [f"CRAM {' and '.join(left)}"] if left else []
        if not there.run.beside(CONTROLS).folder.is_dir():
            models.append("other controls")
        if there.unrewarded is None:
            models.append("λ_S = 0")
        *most, last = models or [""]
        said = f"{', '.join(most)} and {last}" if most else last
        return f"With {self.choice} {said} were not run." if models else ""

    def floor(self) -> str:
        """How many seeds of CRAM read nothing, where shares cannot fall further; empty where none."""
        reads = self.there.attends("A")
        none = int((reads == 0).sum())
        return (
            f"CRAM reads nothing in {none} of {len(reads)} seeds, where the difference can be no more than "
            "what the other reads; differences are compared as shares, between a floor and a ceiling."
            if none
            else ""
        )

    def _failed(self) -> str:
        """How many seeds of CRAM have not learnt retrieval there; empty where all have."""
        failed, seeds = self.there.of.not_learnt("A"), len(self.there.of.seeds("A"))
        return f"; {failed} of CRAM's {seeds} seeds have not learnt retrieval there" if failed else ""

    def own_reads(self, name: str) -> str:
        """By how much the reads of each model change; empty where too few seeds tell."""
        if self.change(name) is None:
            return ""
        own, others = (self.changed(cell, "attends") for cell in ("A", name[0]))
        return f"CRAM's own reads change by {own}, the other's by {others}."

    def changed(self, cell: str, outcome: str) -> str:
        """By how much an outcome of a cell changes."""
        return show(
            tested(self.there.by_seed(cell, outcome) - self.here.by_seed(cell, outcome)).number, sign=True
        )


def variations(decided: Decided) -> Iterator[Varied]:
    """Those that were run beside: with so many novel keys that no router can know them by heart, and has to
    tell what is not familiar by its not being familiar; and with learned keys.
    """
    if there := decided.unfamiliar:
        yield Varied(
            decided,
            there,
            choice=f"{there.novel_keys:,} novel keys",
            instead=f"{decided.novel_keys:,} novel keys",
            more=f", each bound {there.met():.1f} times instead of {decided.met():,.0f}",
            expected=MORE_WITH_KEYS,
            planned=UNFAMILIAR_PLANNED,
            pairs="Seeds are paired by number, their sequences differ between the two.",
        )
    if there := decided.learned:
        yield Varied(
            decided,
            there,
            choice=f"{there.of.keys} keys",
            instead=f"{decided.of.keys} keys",
            more=f" instead of {decided.of.keys} ones",
            expected={},
            planned={"B - A": LEARNED_PLANNED.get((there.of.price, len(there.of.seeds("B"))), "")},
            pairs="Seeds are paired by number: their sequences are equal, and first weights are not; learned "
            "keys are parameters that are trained, too.",
        )
