"""What the runs of the factorial of `consolidation/design.md` come to: outcomes by cell and seed, courses
over training, contrasts.

`outcomes.csv`, one row per finished cell and seed:

| column | meaning |
|---|---|
| cell, model, patterns, seed | the letter of the design, and what it stands for |
| attends, known, novel | see `contrasts.OUTCOMES`, at the end of training |
| recurring | share of recurring queries answered |
| attention | share of all positions that attend |
| quality | mean q at recurring queries; empty without a semantic memory |
| without_semantic | share of recurring queries answered with the semantic memory knocked out |
| semantic_other | share of positions without a query that take the semantic path; empty without one |
| learnt | whether recurring and novel are at least `contrasts.LEARNT` |
| change | of attends over the last quarter of training |

`courses.csv`: cell, seed, step, attends, known, novel at every evaluation; known where attention was knocked
out, which is at powers of two and at the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from consolidation.config import Keys
from consolidation.replicate.cells import DESIGNED, Cell
from consolidation.replicate.contrasts import (
    CELLS,
    LEARNT,
    Analysis,
    Contrast,
    analyse,
    of_table,
    tabulated,
)
from consolidation.replicate.tabulation import remembers, semantic_elsewhere
from consolidation.train import trajectory
from labbook.run import read_finished

TABLES = ("outcomes", "courses", "contrasts")
# column of the courses: metric and kind of the trajectory
COURSES = {
    "attends": ("attention", "recurring"),
    "known": ("accuracy_without_attention", "recurring"),
    "novel": ("accuracy", "novel"),
}


@dataclass(frozen=True)
class Factorial:
    """Outcomes and courses as in this module's docstring, the contrasts of the outcomes, lambda_E, the
    price of every position that attends, and the embedding of the keys.
    """

    outcomes: pd.DataFrame
    courses: pd.DataFrame
    contrasts: tuple[Contrast, ...]
    price: float
    keys: Keys

    @classmethod
    def measure(cls, out: Path, listed: Sequence[Cell]) -> "Factorial | None":
        """From the finished seeds of the cells of the table `factorial` or `learned`, in the order of the
        design; None where there is none.

        Raises UserError for a seed without a trajectory, and for a damaged one.
        """
        cells = [cell for cell in listed if cell.table in DESIGNED]
        outcomes, courses = list[pd.DataFrame](), list[pd.DataFrame]()
        for letter, cell in zip(CELLS, cells, strict=False):
            run = out / cell.folder
            if list(run.glob("seed-*/summary.json")):
                rows = trajectory.load(run, "trajectory")
                course = _courses(rows)
                outcomes.append(_outcomes(run, cell, rows, course).assign(cell=letter))
                courses.append(course.assign(cell=letter))
        if not outcomes:
            return None
        found = pd.concat(outcomes, ignore_index=True)
        order = ["cell", *(name for name in found if name != "cell")]
        return cls(
            found[order],
            pd.concat(courses, ignore_index=True)[["cell", "seed", "step", *COURSES]],
            analyse(found),
            cells[0].config.objective.attention_penalty,
            cells[0].config.cram.keys,
        )

    @classmethod
    def read(cls, folder: Path) -> "Factorial":
        """Of a finished run folder. Raises UserError where it is none, or damaged."""
        summary, tables = read_finished(folder, TABLES, "consolidation.replicate --tables factorial")
        price = float(summary["config"]["objective"]["attention_penalty"])
        # the config is that of the preset, without what the design changes
        keys: Keys = "learned" if "learned" in summary["tables"] else "fixed"
        return cls(tables["outcomes"], tables["courses"], of_table(tables["contrasts"]), price, keys)

    def tables(self) -> dict[str, pd.DataFrame]:
        """As they are written, by name."""
        return {"outcomes": self.outcomes, "courses": self.courses, "contrasts": tabulated(self.contrasts)}

    def contrast(self, name: str, analysis: Analysis = "paired", outcome: str = "attends") -> Contrast:
        """One contrast; of the analysis `change`, one cell."""
        return next(c for c in self.contrasts if (c.name, c.analysis, c.outcome) == (name, analysis, outcome))

    def seeds(self, cell: str) -> pd.DataFrame:
        """The outcomes of one cell, by its letter."""
        return self.outcomes[self.outcomes["cell"] == cell]

    def not_learnt(self, cell: str) -> int:
        """How many seeds of a cell have not learnt retrieval."""
        return int((~self.seeds(cell)["learnt"].astype(bool)).sum())


def _courses(rows: pd.DataFrame) -> pd.DataFrame:
    """seed, step and the COURSES of all finished seeds of a cell, from its trajectories."""
    rows = rows[rows["layer"] == -1]
    parts = [
        rows[(rows["metric"] == metric) & (rows["kind"] == kind)]
        .set_index(["seed", "step"])["value"]
        .rename(name)
        for name, (metric, kind) in COURSES.items()
    ]
    return pd.concat(parts, axis=1).sort_index().reset_index()


def _outcomes(run: Path, cell: Cell, trajectories: pd.DataFrame, courses: pd.DataFrame) -> pd.DataFrame:
    """One row per finished seed of a cell."""
    elsewhere, rows, memory = semantic_elsewhere(run), [], remembers(cell.config.model)
    # the last evaluation, mean over layers
    q = trajectories.query("metric == 'quality' and kind == 'recurring'")
    quality = q[q["step"] == q["step"].max()].groupby("seed")["value"].mean()
    for summary in trajectory.summaries(run):
        course = courses[courses["seed"] == summary.seed].set_index("step")["attends"]
        before = course[course.index <= 0.75 * summary.steps].iloc[-1]
        recurring, novel = summary.accuracy["recurring"], summary.accuracy["novel"]
        rows.append(
            {
                "model": summary.model,
                "patterns": cell.config.benchmark.patterns,
                "seed": summary.seed,
                "attends": summary.attention["recurring"],
                "known": summary.knock_outs["attention, recurring"],
                "novel": novel,
                "recurring": recurring,
                "attention": summary.attention["all"],
                "quality": quality[summary.seed] if memory else math.nan,
                "without_semantic": summary.knock_outs["semantic, recurring"] if memory else math.nan,
                "semantic_other": elsewhere[summary.seed],
                "learnt": bool(min(recurring, novel) >= LEARNT),
                "change": course.iloc[-1] - before,
            }
        )
    return pd.DataFrame(rows)
