"""The verdict page, from run folders and never by hand: `python -m replication` writes REPLICATION.md,
RESULTS.md, the README's findings and the tables of docs/costs.md.

One row per claim of the examined preprint (arXiv:2602.12204) and run: the paper's number, ours with interval
and n, the control that belongs to it, model and scale, and a verdict by the predicates of
`replication/verdict.py`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from labbook.command import run_command
from labbook.console import UserError, console
from labbook.escape import cell, markup
from labbook.run import check_files, opened, replacing, unrepeated
from replication.claims.consolidation import experiment_rows
from replication.claims.decay import fit_rows
from replication.claims.experiments import CLAIMS, people_rows
from replication.claims.prediction import probe_rows, training_rows
from replication.claims.removal import removal_rows
from replication.claims.tables import has, table_rows, varies_recurrence
from replication.costs import costs
from replication.results import findings, results
from replication.rows import (
    ABOUT,
    CONTEXT,
    CONTROLS,
    HERE,
    LEARNED,
    PARTS,
    REPEAT,
    ROOT,
    RUNNING,
    UNFAMILIAR,
    UNREWARDED,
    Finished,
    Row,
    table,
    verdicts,
)
from replication.verdict import Verdict

PAGE, RESULTS, README = ROOT / "REPLICATION.md", ROOT / "RESULTS.md", ROOT / "README.md"
MARKS = ("<!-- findings: written by python -m replication -->", "<!-- end of findings -->")
COSTS = ROOT / "docs" / "costs.md"
COST_MARKS = ("<!-- costs: written by python -m replication -->", "<!-- end of costs -->")
# the kind of a run by a file that only it has
KINDS = {
    "claims.csv": "people",
    "controls.csv": "probe",
    "trend.csv": "training",
    "removable.csv": "removal",
    "cells.csv": "experiments",
    "fit.json": "fit",
}
Builder = Callable[..., Iterator[Row]]
BUILDERS: dict[str, tuple[Builder, ...]] = {
    "probe": (probe_rows,),
    "training": (training_rows,),
    "removal": (removal_rows,),
    "experiments": (experiment_rows, table_rows),
    "people": (people_rows,),
    "fit": (fit_rows,),
}
# what no shipped run decides, what would, and which run is one that does
UNTESTED: tuple[tuple[str, str, str, Callable[[Finished], bool]], ...] = (
    (
        "GPT-2 124M and 355M themselves: R = .84 and .92 (table 6)",
        ".84 / .92",
        "Its weights were not at hand; `python -m redundancy.probe gpt2` (and gpt2-medium) decides it.",
        lambda run: run.kind == "probe" and "paper" in run.summary,
    ),
    (
        "Tables 1 and 4 at the published size (N = 2048, d = 512, 8 layers)",
        "as above",
        "No GPU was at hand; `python -m consolidation.replicate paper` decides it.",
        lambda run: False,
    ),
    (
        "Transfer from SRCD to Copy and Associative recall (tables 2 and 3)",
        ".941 right, attention 51 % below training from scratch",
        "Not run; `python -m consolidation.replicate small --tables transfer` decides it at the small size.",
        lambda run: has(run, "transfer", ", trained"),
    ),
    (
        "Eq 13 is reached at every recurrence",
        "queries times the share that is novel",
        "Run at a recurrence of 70 % only; `python -m consolidation.replicate small --tables recurrence` "
        "decides it at the small size.",
        varies_recurrence,
    ),
    (
        "PhysioNet, MIMIC and Activity (tables 2, 3 and 5)",
        "AUC .900 / .783, accuracy .181",
        "Their data are not in this project.",
        lambda run: False,
    ),
)
RULES = {
    Verdict.HOLDS: (
        "the 95 % interval lies where the claim puts it, give or take the margin that the sentence or the "
        "claim names"
    ),
    Verdict.PARTLY: "some parts of the claim hold and some do not",
    Verdict.FAILS: "the interval lies outside; of several parts, one lies outside and none is known to hold",
    Verdict.UNDECIDED: "the interval lies on both sides, is missing, or rests on fewer than 3 units; or what "
    "it rests on is rejected, not learnt or a choice that turns it, as the row says",
    Verdict.UNTESTED: "no run of the claim exists",
}


def read_run(folder: Path) -> Finished:
    """Read a run folder. Raises UserError when it is not a finished run of a known kind."""
    kinds = [kind for table, kind in KINDS.items() if (folder / table).is_file()]
    summary = folder / ("fit.json" if kinds == ["fit"] else "summary.json")
    if len(kinds) != 1 or not summary.is_file():
        raise UserError(
            f"{folder} is not a finished run (summary.json and one of {', '.join(KINDS)}). "
            "Name run folders, or none for those shipped."
        )
    try:
        found = json.loads(summary.read_text(encoding="utf-8"), object_pairs_hook=unrepeated)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{summary} cannot be read ({error}). Restore it from a copy, or make the run again."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{summary} holds no JSON object. Restore it from a copy, or make the run again.")
    return Finished(kinds[0], folder.resolve(), check_files(folder, opened(found, summary)))


def shipped() -> list[Path]:
    """The run folders that come with the project. Raises UserError outside the repository, which holds the
    pages.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise UserError(
            "the pages belong to the repository, and this is an installed package. Name run folders and "
            "--out."
        )
    places = ("*/*/summary.json", "*/summary.json", "*/*/fit.json")
    runs = {path.parent for place in places for path in ROOT.glob(f"*/data/runs/{place}")}
    # read with the run that they repeat
    beside = (REPEAT, CONTEXT, RUNNING, UNREWARDED, CONTROLS, UNFAMILIAR, LEARNED)
    runs = {run for run in runs if not any(mark in run.name for mark in beside)}
    # people's experiments, whose training runs lie beside them
    people = [path.parent for path in ROOT.glob("*/data/experiments/*/claims.csv")]
    return [*sorted(runs), *sorted(people, key=lambda folder: list(CLAIMS).index(folder.name))]


def rows_of(runs: Sequence[Finished]) -> list[Row]:
    """Every row: those that runs decide, in the order of KINDS, then the claims without a run.

    Raises UserError for a run whose summary lacks what its rows need.
    """
    rows = []
    for kind, builders in BUILDERS.items():
        for run in runs:
            if run.kind == kind:
                try:
                    # what an experiment depends on, those beside it say
                    given = (run, runs) if kind == "experiments" else (run,)
                    rows += [row for build in builders for row in build(*given)]
                except (KeyError, TypeError, AttributeError, IndexError, StopIteration, OSError) as error:
                    raise UserError(
                        f"{run.folder}: its summary or tables lack what the page needs "
                        f"({type(error).__name__}: {error}). Make the run again with this version."
                    ) from error
    for claim, paper, why, decides in UNTESTED:
        if not any(map(decides, runs)):
            rows.append(
                Row(claim, paper, "none", "none", "none", Verdict.UNTESTED, own=False, sentence=why, links="")
            )
    return rows


def page(rows: Sequence[Row]) -> str:
    """REPLICATION.md: every verdict in one table, and each claim with what it rests on."""
    lines = [
        "# What could be reproduced",
        "",
        "Claims of arXiv:2602.12204 (CRAM), each beside what was measured here. Written by `python -m "
        "replication` from the linked run folders; numbers are estimate [95 % interval] (n independent "
        f"units). There are two verdicts: *{HERE}* is what the run says about the claim at the model and "
        f"scale of its row; *{ABOUT}* is what is known of the preprint's own model and scale. Claims about "
        "people are this project's own tests; where the preprint makes one, *paper* says so.",
        "",
        *(f"- **{verdict.value}**: {rule}" for verdict, rule in RULES.items()),
        "",
        *table(
            ("", "claim", "model and scale", HERE, ABOUT),
            [
                (
                    f"[{n}](#claim-{n})",
                    cell(r.claim),
                    cell(r.scale.partition(" (")[0]),
                    f"**{r.here.value}**",
                    r.verdict,
                )
                for n, r in enumerate(rows, 1)
            ],
        ),
    ]
    for n, row in enumerate(rows, 1):
        lines += ["", f"## Claim {n}", "", *_described(row)]
    return "\n".join(lines) + "\n"


def _described(row: Row) -> list[str]:
    """A claim with its verdicts, what they rest on, and where it lies."""
    shown = zip(PARTS, (row.paper, row.ours, row.control, row.scale), strict=True)
    return [
        f"**{cell(row.claim)}**",
        "",
        " ".join(filter(None, (verdicts(row.here.value, row.verdict), cell(row.sentence)))),
        "",
        *(f"- *{part}*: {cell(text)}" for part, text in shown),
        *([f"- *see*: {row.links}"] if row.links else []),
    ]


def headline(rows: Sequence[Row]) -> list[str]:
    """The rows that the results page shows, without their sentences."""
    head = ("claim", "paper", "ours", "control", "model and scale", HERE, ABOUT)
    return table(head, [(*_cells(r), f"**{r.verdict}**") for r in rows if r.headline])


def _cells(row: Row) -> tuple[str, ...]:
    texts = (row.claim, row.paper, row.ours, row.control, row.scale)
    return (*map(cell, texts), f"**{row.here.value}**")


def between(text: str, paragraphs: Sequence[str], marks: tuple[str, str] = MARKS) -> str:
    """`text` with `paragraphs` between two marks. Raises UserError when the marks are missing."""
    start, end = (text.find(mark) for mark in marks)
    if not 0 <= start < end:
        raise UserError(
            f"the page has no place for what is written. Put the lines {marks[0]!r} and {marks[1]!r} into it."
        )
    return text[: start + len(marks[0])] + "\n\n" + "\n\n".join(paragraphs) + "\n\n" + text[end:]


@dataclass(frozen=True)
class Command:
    """Write the pages of verdicts and results from run folders."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished run folders; none means those shipped with the project."""
    out: Path | None = None
    """Write only the verdicts, and there; default: REPLICATION.md, RESULTS.md, the README's findings and the
    tables of docs/costs.md."""


def work(command: Command) -> None:
    """Read the runs and write the pages."""
    if command.runs and command.out is None:
        raise UserError(
            "run folders were named, but REPLICATION.md is about those shipped. Say with --out where to "
            "write."
        )
    runs = [read_run(folder) for folder in command.runs or shipped()]
    rows = rows_of(runs)
    texts = {command.out or PAGE: page(rows)}
    if command.out is None:
        texts[RESULTS] = results(runs, headline(rows))
        texts[README] = between(README.read_text(encoding="utf-8"), findings(runs))
        texts[COSTS] = between(COSTS.read_text(encoding="utf-8"), costs(), COST_MARKS)
    for path, text in texts.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
        console.print(markup(path))


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("replication", Command, work, args)


if __name__ == "__main__":
    main()
