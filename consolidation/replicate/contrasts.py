"""The contrasts of `consolidation/design.md`: differences between cells of the factorial over seeds, and what
may be said of each.

paired                 Student's interval over the differences of equal seeds, which saw the same sequences
paired, learnt seeds   the same without the seeds in which a cell of the contrast has not learnt
mixed model            y = cell + seed + error, cells (model x load) fixed, seeds a random intercept, by REML
change                 of a cell itself over the last quarter of training, from the last evaluation before it
                       to the end: is its end the end

p-values of the first three contrasts, and those of the change of all cells, are corrected by Holm (1979)
within each analysis and outcome. A
difference is equivalent to none when both one-sided tests at +-MARGIN reject (Schuirmann 1987), which is when
its 90 % interval lies within; larger or smaller when the corrected p is below .05; else undecided. Both may
hold at once: a difference that is real and too small to matter counts as equivalent. Outcomes pile up at 0
and 1, so beside Student's p stands that of all changes of sign, which assumes no distribution.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from consolidation.replicate.cells import FACTORIAL
from labbook.estimate import LEVEL, Array, Estimate

MARGIN = 0.05
ALPHA = 1 - LEVEL
# fewer seeds decide nothing
LEAST_SEEDS = 3
# retrieval counts as learnt from here on, for recurring and for novel queries
LEARNT = 0.9
# changes of sign: all of them for up to 16 seeds, else as many at random
FLIPS = 2**16
CELLS = dict(zip("ABCDEF", FACTORIAL, strict=True))
OUTCOMES = {
    "attends": "P(attend | recurring)",
    "known": "share of recurring queries answered with attention knocked out",
    "novel": "share of novel queries answered",
}
# columns of a contrast that are numbers, besides those of its estimate
NUMBERS = ("lower_90", "upper_90", "p", "p_holm", "p_signs", "p_equivalence")
# weights of the cells; the first three are one family
FAMILY = ("B - A", "C - A", "F - A")
CONTRASTS: dict[str, dict[str, int]] = {
    "B - A": {"B": 1, "A": -1},
    "C - A": {"C": 1, "A": -1},
    "F - A": {"F": 1, "A": -1},
    "E - D": {"E": 1, "D": -1},
    "(E - D) - (B - A)": {"E": 1, "D": -1, "B": -1, "A": 1},
}
FAMILY_CELLS = {cell for name in FAMILY for cell in CONTRASTS[name]}
State = Literal["larger", "equivalent", "smaller", "undecided"]
Analysis = Literal["paired", "paired, learnt seeds", "mixed model", "change"]


@dataclass(frozen=True)
class Contrast:
    """A difference in one outcome, and what may be said of it; its fields are the columns of `contrasts.csv`,
    the number as four of them.

    Attributes
    ----------
    analysis : see the module.
    name : the contrast, in letters of the design; of `change` the cell.
    outcome : one of OUTCOMES.
    number : the difference with its 95 % interval; n counts seeds.
    lower_90, upper_90 : its 90 % interval, that of the two one-sided tests.
    p, p_holm : that there is no difference; corrected over the family where the contrast is one of it.
    p_signs : the same by changes of sign; NaN for the mixed model.
    p_equivalence : that the difference is MARGIN or more: the larger of the two one-sided tests.
    not_learnt, by_cell : of the n seeds, those in which a cell of the contrast has not learnt; and by cell.
    state : by `judge`.
    """

    analysis: Analysis
    name: str
    outcome: str
    number: Estimate
    lower_90: float
    upper_90: float
    p: float
    p_holm: float
    p_signs: float
    p_equivalence: float
    not_learnt: int
    by_cell: str
    state: State

    def sentence(self) -> str:
        """The contrast in words."""
        failed = f"{self.not_learnt} with a cell that has not learnt: {self.by_cell}"
        if self.number.n < 2:
            return f"{self.name}: {self.state}, {self.number.n} seeds."
        return (
            f"{self.name}: {self.state}. {OUTCOMES[self.outcome]} {self.number.text(2, sign=True)} "
            f"({self.number.n} seeds, {failed})."
        )


@dataclass(frozen=True)
class Tested:
    """An estimated difference whose error is Student's."""

    estimate: float
    error: float
    freedom: float
    n: int

    def interval(self, level: float) -> tuple[float, float]:
        """NaN limits where one seed has no spread."""
        if not self.freedom > 0:
            return math.nan, math.nan
        half = float(stats.t.ppf(0.5 + level / 2, self.freedom)) * self.error
        return self.estimate - half, self.estimate + half

    @property
    def number(self) -> Estimate:
        """The estimate with its 95 % interval."""
        return Estimate(self.estimate, *self.interval(LEVEL), self.n)

    @property
    def p(self) -> float:
        """Two-sided, that there is no difference."""
        return (
            float(2 * stats.t.sf(abs(self.estimate) / self._scale, self.freedom))
            if self.freedom
            else math.nan
        )

    @property
    def p_equivalence(self) -> float:
        """The larger one of the two one-sided tests at +-MARGIN."""
        if not self.freedom:
            return math.nan
        nearest = MARGIN - abs(self.estimate)
        return float(stats.t.sf(nearest / self._scale, self.freedom))

    @property
    def state(self) -> State:
        """What may be said of it alone, without a correction for others."""
        return judge(self.number, self.p, self.p_equivalence)

    @property
    def _scale(self) -> float:
        """Seeds that are all equal have no error, and their difference is known."""
        return max(self.error, 1e-12)


def paired(differences: Array) -> Tested:
    """Of differences (seed,): their mean, and Student's standard error with n - 1 degrees of freedom."""
    n = len(differences)
    if n < 2:
        return Tested(float(differences.mean()) if n else math.nan, math.nan, 0, n)
    return Tested(float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(n)), n - 1, n)


def p_signs(differences: Array) -> float:
    """Share of the changes of sign of differences (seed,) whose mean lies as far from 0 as theirs (Fisher
    1935).
    """
    n = len(differences)
    if n < 2:
        return math.nan
    if 2**n <= FLIPS:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        drawn = np.random.default_rng(0).choice((1, -1), size=(FLIPS - 1, n))
        signs = np.vstack([np.ones(n), drawn])
    means = np.abs(signs @ differences)
    return float(np.mean(means >= abs(differences.sum()) - 1e-12))


def least_p_signs(n: int) -> float:
    """The least p by signs that n differences can have: all of one sign."""
    return 2 / 2**n


def signs_can_tell(n: int) -> bool:
    """Whether the p by signs of n differences can be below ALPHA."""
    return least_p_signs(n) < ALPHA


def variances(values: Array) -> tuple[float, float, float]:
    """REML variances of the error and of the seeds, and the degrees of freedom of the error, in y = cell +
    seed + error; values (seed, cell), complete.

    Balanced data have closed forms (Searle, Casella and McCulloch 1992, Variance Components): the mean
    squares of the analysis of variance with repeated measures, error = MS_e and seeds = (MS_s - MS_e) / k on
    (n - 1)(k - 1) degrees of freedom; where MS_s < MS_e the maximum lies at seeds = 0, and the error is that
    within cells on k (n - 1).
    """
    n, k = values.shape
    centred = values - values.mean(0)
    of_seeds = centred.mean(1)
    between = float(k * np.sum(of_seeds**2))
    within = float(np.sum((centred - of_seeds[:, None]) ** 2))
    freedom = (n - 1) * (k - 1)
    if between / (n - 1) >= within / freedom:
        return within / freedom, (between / (n - 1) - within / freedom) / k, freedom
    return (between + within) / (k * (n - 1)), 0.0, k * (n - 1)


def mixed(values: Array, weights: Array) -> Tested:
    """A contrast of cells in the mixed model: values (seed, cell) complete, weights (cell,) that sum to 0, so
    that the intercept of the seeds cancels; its variance is error * sum(weights^2) / n.
    """
    n = len(values)
    if n < 2:
        return paired(values @ weights)
    error, _, freedom = variances(values)
    return Tested(
        float(values.mean(0) @ weights), math.sqrt(error * float(np.sum(weights**2)) / n), freedom, n
    )


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction over all of `p`; one that is not known counts as the largest."""
    corrected, highest = dict(p), 0.0
    known = sorted((name for name in p if not math.isnan(p[name])), key=lambda name: p[name])
    for place, name in enumerate(known):
        highest = max(highest, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = highest
    return corrected


def judge(number: Estimate, p: float, p_equivalence: float) -> State:
    """What may be said of a difference; `p` is corrected."""
    if number.n < LEAST_SEEDS or math.isnan(p) or math.isnan(p_equivalence):
        return "undecided"
    if p_equivalence < ALPHA:
        return "equivalent"
    if p < ALPHA:
        return "larger" if number.estimate > 0 else "smaller"
    return "undecided"


def analyse(outcomes: pd.DataFrame) -> tuple[Contrast, ...]:
    """Every contrast in every outcome, and the change of every cell over the last quarter of training.

    Parameters
    ----------
    outcomes : one row per finished cell and seed: cell (a letter), seed, the OUTCOMES, learnt, change. A seed
        that lacks a cell is left out of the contrasts that need it, and of the mixed model, which needs all
        cells of the family, or of the design for the contrasts of the load.
    """
    learnt = _wide(outcomes, "learnt").fillna(0).astype(bool)
    found = list[Contrast]()
    for outcome in OUTCOMES:
        values = _wide(outcomes, outcome)
        for analysis in ("paired", "paired, learnt seeds"):
            tested, seeds = dict[str, Tested](), dict[str, pd.DataFrame]()
            signs = dict[str, float]()
            for name, weights in CONTRASTS.items():
                kept = values[list(weights)].dropna()
                if analysis == "paired, learnt seeds":
                    kept = kept[learnt.loc[kept.index, list(weights)].all(axis=1)]
                differences = kept.to_numpy(float) @ np.array(list(weights.values()), float)
                tested[name], signs[name] = paired(differences), p_signs(differences)
                seeds[name] = learnt.loc[kept.index, list(weights)]
            found += _judged(analysis, outcome, tested, signs, seeds)
        tested, seeds = {}, {}
        for name, weights in CONTRASTS.items():
            # one model of the cells of the family, one of all: seeds without the other load stay in the first
            cells = [c for c in CELLS if c in FAMILY_CELLS or name not in FAMILY]
            whole = values[cells].dropna()
            placed = np.array([weights.get(cell, 0) for cell in cells], dtype=np.float64)
            tested[name] = mixed(whole.to_numpy(np.float64), placed)
            seeds[name] = learnt.loc[whole.index, list(weights)]
        found += _judged("mixed model", outcome, tested, dict.fromkeys(tested, math.nan), seeds)
    wide = _wide(outcomes, "change")
    change = {cell: wide[cell].dropna() for cell in CELLS}
    ends = {cell: paired(values.to_numpy(float)) for cell, values in change.items()}
    signs = {cell: p_signs(values.to_numpy(float)) for cell, values in change.items()}
    seeds = {cell: learnt.loc[values.index, [cell]] for cell, values in change.items()}
    return (*found, *_judged("change", "attends", ends, signs, seeds))


def _wide(outcomes: pd.DataFrame, column: str) -> pd.DataFrame:
    """(seed, cell), NaN where a cell has not that seed."""
    return outcomes.pivot(index="seed", columns="cell", values=column).reindex(columns=list(CELLS))


def _judged(
    analysis: Analysis,
    outcome: str,
    tested: Mapping[str, Tested],
    signs: Mapping[str, float],
    learnt: Mapping[str, pd.DataFrame],
) -> list[Contrast]:
    """Contrasts of one analysis with their corrected p; `learnt` (seed, cell) by contrast."""
    p = {name: one.p for name, one in tested.items()}
    # of a change every cell with a p is one of the family
    family = FAMILY if analysis != "change" else [name for name in p if not math.isnan(p[name])]
    corrected = p | holm({name: p[name] for name in family})
    found = []
    for name, one in tested.items():
        failed = ~learnt[name]
        found.append(
            Contrast(
                analysis,
                name,
                outcome,
                one.number,
                *one.interval(1 - 2 * ALPHA),
                p[name],
                corrected[name],
                signs[name],
                one.p_equivalence,
                int(failed.any(axis=1).sum()),
                ", ".join(f"{cell} {int(failed[cell].sum())}" for cell in failed),
                judge(one.number, corrected[name], one.p_equivalence),
            )
        )
    return found


def tabulated(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """One row per contrast, as `contrasts.csv` holds it."""
    rows = [
        {
            "analysis": c.analysis,
            "contrast": c.name,
            "outcome": c.outcome,
            **vars(c.number),
            **{name: getattr(c, name) for name in NUMBERS},
            "not_learnt": c.not_learnt,
            "by_cell": c.by_cell,
            "state": c.state,
        }
        for c in contrasts
    ]
    return pd.DataFrame(rows)


def primary(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """Those that decide: of the primary outcome, paired by seed."""
    return tuple(c for c in contrasts if (c.analysis, c.outcome) == ("paired", "attends"))


def of_table(table: pd.DataFrame) -> tuple[Contrast, ...]:
    """The contrasts of a table that `tabulated` made."""
    return tuple(_of_row(row) for row in table.to_dict("records"))


def _of_row(row: Mapping[Any, Any]) -> Contrast:
    return Contrast(
        analysis=row["analysis"],
        name=str(row["contrast"]),
        outcome=str(row["outcome"]),
        number=Estimate.read(row),
        **{name: float(row[name]) for name in NUMBERS},
        not_learnt=int(row["not_learnt"]),
        by_cell=str(row["by_cell"]),
        state=row["state"],
    )
