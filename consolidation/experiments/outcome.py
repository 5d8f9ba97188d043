"""What an experiment comes to: claims about people, the model's number on a matched measure, and a verdict
that follows from the number and its interval alone.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from labbook.estimate import Estimate
from labbook.run import Run, read_finished, read_json

Verdict = Literal["as people", "unlike people", "undecided"]
# fewer seeds decide nothing
LEAST_SEEDS = 3
QUICK = "--quick: tests only that it runs; a model of a hundred steps says nothing about memory."


@dataclass(frozen=True)
class Claim:
    """One thing that people show, and whether the model shows it.

    Attributes
    ----------
    name : of the claim.
    condition : whose runs the number is of, by their folder.
    people : what people show, with its source.
    measured : what the number is, with its unit.
    number : of the model, over seeds.
    verdict : by `direction` or `inside`; undecided where the number may not be judged, and `note` says why.
    left_out : seeds that come to no number and are not in the mean.
    note : what the number lacks, in words; empty where nothing.
    """

    name: str
    condition: str
    people: str
    measured: str
    number: Estimate
    verdict: Verdict
    left_out: int = 0
    note: str = ""

    def sentence(self) -> str:
        """The claim in words."""
        note = f" {self.note}" if self.note else ""
        head = f"{self.condition}, {self.name}: {self.verdict}."
        return f"{head} {self.measured} {self.said()}.{note} {self.people}"

    def said(self) -> str:
        """The number with its interval and seeds, as far as there are any, and how many are left out."""
        n = self.number.n
        out = f", {self.left_out} left out" if self.left_out else ""
        if n < 2:
            return f"no interval (1 seed{out})" if n else f"no seed comes to a number{out}"
        return f"{self.number.text(2)} ({n} seeds{out})"


@dataclass(frozen=True)
class Outcome:
    """An experiment's claims, and its tables by name; `quick` of a toy run, whose verdicts say nothing."""

    name: str
    claims: tuple[Claim, ...]
    tables: dict[str, pd.DataFrame] = field(repr=False)
    quick: bool = False

    def sentences(self) -> list[str]:
        """The claims in words; of a toy run, that there is nothing to read in them."""
        return [QUICK] if self.quick else [claim.sentence() for claim in self.claims]

    def claims_table(self) -> pd.DataFrame:
        """One row per claim."""
        rows: list[dict[str, Any]] = [
            {
                "name": c.name,
                "condition": c.condition,
                "measured": c.measured,
                "estimate": c.number.estimate,
                "lower": c.number.lower,
                "upper": c.number.upper,
                "n": c.number.n,
                "left_out": c.left_out,
                "verdict": c.verdict,
                "note": c.note,
                "people": c.people,
            }
            for c in self.claims
        ]
        return pd.DataFrame(rows)

    def write(self, run: Run) -> None:
        """Leave the tables, the claims among them, and a summary, which comes last."""
        summary = {
            "experiment": self.name,
            "tables": list(self.tables),
            "verdicts": self.sentences(),
        }
        run.finish({"claims": self.claims_table(), **self.tables}, summary)

    @staticmethod
    def read(folder: Path) -> "Outcome":
        """What `write` left. Raises UserError when there is no finished experiment, or a damaged one."""
        names = ["claims"]
        if (folder / "summary.json").is_file():
            names += read_json(folder / "summary.json").get("tables", [])
        summary, tables = read_finished(folder, names, "consolidation.experiments")
        claims = tuple(_claim(row) for row in tables.pop("claims").to_dict("records"))
        quick = bool(read_json(folder / "config.json").get("quick", False))
        return Outcome(str(summary["experiment"]), claims, tables, quick)


def _claim(row: Mapping[Hashable, Any]) -> Claim:
    """The claim in a row of the table of claims."""
    name, condition, people, measured = (str(row[key]) for key in ("name", "condition", "people", "measured"))
    verdict: Verdict = row["verdict"]
    note = "" if pd.isna(row["note"]) else str(row["note"])
    return Claim(name, condition, people, measured, Estimate.read(row), verdict, int(row["left_out"]), note)


def direction(number: Estimate, expected: Literal["above", "below"], zero: float = 0.0) -> Verdict:
    """Whether a number lies on the side of `zero` on which people's lies: its whole interval there, or on the
    other side; undecided where the interval holds `zero`, is missing, or is of fewer than LEAST_SEEDS seeds.
    """
    if number.n < LEAST_SEEDS or math.isnan(number.lower) or math.isnan(number.upper):
        return "undecided"
    if number.lower > zero:
        return "as people" if expected == "above" else "unlike people"
    if number.upper < zero:
        return "as people" if expected == "below" else "unlike people"
    return "undecided"


def inside(number: Estimate, low: float, high: float) -> Verdict:
    """Whether a number lies within the range of people's: its whole interval inside, or outside; undecided
    where it crosses an end, is missing, or is of fewer than LEAST_SEEDS seeds.
    """
    if number.n < LEAST_SEEDS or math.isnan(number.lower) or math.isnan(number.upper):
        return "undecided"
    if low <= number.lower and number.upper <= high:
        return "as people"
    return "unlike people" if number.upper < low or number.lower > high else "undecided"
