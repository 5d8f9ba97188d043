"""What `consolidation.fit` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from consolidation.decay.forms import FORMS
from labbook.command import conform
from labbook.console import UserError
from labbook.estimate import REPLICATES

REFERENCE = "reference"
LEAST_REPLICATES = 100
Measure: TypeAlias = Literal["time", "error", "recall", "savings"]


@dataclass(frozen=True)
class FitConfig:
    """What is fitted, and how."""

    source: Annotated[str, tyro.conf.Positional] = REFERENCE
    """The folder of a training run, a table (.csv, .tsv, .txt, .xlsx, .parquet), or a series of `python -m
    consolidation.humans` (cram2026_fig4a is the paper's own figure 4A);
    default: the shipped reference run."""
    x: str = "x"
    """Column of the table that is counted."""
    y: str = "value"
    """Column of the table that decays."""
    series: str | None = None
    """Which series of the table, where its column `series` holds several."""
    clock: str | None = None
    """What x counts: one of the clocks of the registry, or your own words; needed for a table without a
    column `clock`.
    """
    clock_unit: str | None = None
    """Unit of x, for instance days or count; needed for a clock that is no count (retention interval, your
    own words) unless the table has a column
    `clock_unit`."""
    on_clock: str | None = None
    """Read x on this clock of the registry, in the unit that it has there, so that exponents on it may be
    compared; the result says so.
    """
    on_clock_factor: float | None = None
    """How many units of --on-clock one unit of x is (1: each counts as one); needed because no clock says how
    much of another it holds.
    """
    measure: Measure | None = None
    """What y is, so that it is held against human measures of that class only; default: against every class,
    one at a time.
    """
    margin: float | None = None
    """Difference of exponents that is too small to matter; default: the standard deviation between human
    studies.
    """
    unit: str | None = None
    """Column of independent units (seed, pattern, list, subject); resampled as wholes."""
    count: str | None = None
    """Column of trials behind each proportion, for binomial likelihood."""
    window: tuple[float, float] | None = None
    """First and last x that are used; default: all, and of a training run the part from the largest value on.
    """
    forms: tuple[str, ...] = field(default_factory=lambda: tuple(FORMS))
    """Rival forms."""
    bootstrap: int = REPLICATES
    """Replicates."""
    human: tuple[str, ...] = ("all",)
    """Human series to compare with, or all on the same clock."""
    hierarchical: bool = False
    """Fit all units by one hierarchical model too, power laws against exponentials; needs --unit and the
    extra `hierarchical`.
    """
    seed: int = 0
    """Of the bootstrap and of the simulations."""

    def __post_init__(self) -> None:
        conform(self)
        named = {"--x": self.x, "--y": self.y, "--unit": self.unit, "--count": self.count}
        given = {flag: column for flag, column in named.items() if column is not None}
        for (flag, column), (other, same) in combinations(given.items(), 2):
            if column == same:
                raise UserError(f"{flag} and {other} both name the column {column!r}. Change one of them.")
        if self.bootstrap < LEAST_REPLICATES:
            raise UserError(
                f"--bootstrap {self.bootstrap}: at least {LEAST_REPLICATES} replicates are needed for the "
                "limits of 95 % intervals."
            )
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} has to be 0 or more.")
        if self.margin is not None:
            # scipy takes a second to import: --help does not wait for it
            from consolidation.decay.equivalence import Margin

            Margin(self.margin, "given")
        if self.on_clock is None and self.on_clock_factor is not None:
            raise UserError(
                "--on-clock-factor says how to read x on another clock. Name that clock with --on-clock, or "
                "leave it out."
            )
        if not self.forms:
            raise UserError(f"--forms names no form; there are {', '.join(FORMS)}.")


@dataclass(frozen=True)
class Settings:
    """What changes no number."""

    out: Path | None = None
    """Run folder; default: runs/fit-<source>-<time>."""
    report: bool = True
    """Write report.html, the run on one page, into the folder."""
    full: bool = False
    """Print everything that was found, not only the lines that a reader needs first."""


@dataclass(frozen=True)
class Command:
    """Fit a decay curve in every way that applies, compare the forms, and hold the exponent against
    humans.
    """

    config: tyro.conf.OmitArgPrefixes[FitConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]
