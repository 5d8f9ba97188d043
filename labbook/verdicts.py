"""The verdict page, from run folders and never by hand: `python -m labbook.verdicts` writes REPLICATION.md and the README's rows.

One row per claim of the examined preprint (arXiv:2602.12204) and run: the paper's number, ours with interval and n, the control that
belongs to it, model and scale, and a verdict by the rules in `labbook/claims.py`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from labbook.claims import ROOT, RULES, UNTESTED, Finished, Row
from labbook.claims_consolidation import experiment_rows, fit_rows
from labbook.claims_redundancy import probe_rows, removal_rows, training_rows
from labbook.console import UserError, console, guarded
from labbook.run import replacing

PAGE, README = ROOT / "REPLICATION.md", ROOT / "README.md"
MARKS = ("<!-- verdicts: written by python -m labbook.verdicts -->", "<!-- end of verdicts -->")
# the kind of a run by a table that only it has
KINDS = {
    "controls.csv": "probe", "trend.csv": "training", "removable.csv": "removal", "cells.csv": "experiments", "forms.csv": "fit",
}  # fmt: skip


def read_run(folder: Path) -> Finished:
    """Read a run folder. Raises UserError when it is not a finished run of a known kind."""
    kinds = [kind for table, kind in KINDS.items() if (folder / table).is_file()]
    summary = folder / ("fit.json" if kinds == ["fit"] else "summary.json")
    if len(kinds) != 1 or not summary.is_file():
        raise UserError(
            f"{folder} is not a finished run (summary.json, or fit.json, and one of {', '.join(KINDS)}). Name run folders, or none for those shipped."
        )
    return Finished(kinds[0], folder.resolve(), json.loads(summary.read_text(encoding="utf-8")))


def shipped() -> list[Path]:
    """The run folders that come with the project."""
    places = ("*/*/summary.json", "*/summary.json", "*/*/fit.json")
    return sorted(path.parent for place in places for path in ROOT.glob(f"*/data/runs/{place}"))


# what no shipped run decides, and what would
UNTESTED_CLAIMS = (
    (
        "GPT-2 124M and 355M themselves: R = .84 and .92 (table 6)",
        ".84 / .92",
        "Its weights were not at hand; `python -m redundancy.probe gpt2` (and gpt2-medium) decides it.",
    ),
    (
        "Tables 1 and 4 at the published size (N = 2048, d = 512, 8 layers)",
        "as above",
        "No GPU was at hand; `python -m consolidation.replicate paper` decides it.",
    ),
    (
        "PhysioNet, MIMIC and Activity (tables 2, 3 and 5)",
        "AUC .900 / .783, accuracy .181",
        "Their data are not in this project.",
    ),
)
BUILDERS: dict[str, Callable[[Finished], Iterator[Row]]] = {
    "probe": probe_rows,
    "training": training_rows,
    "removal": removal_rows,
    "experiments": experiment_rows,
    "fit": fit_rows,
}


def rows_of(runs: Sequence[Finished]) -> list[Row]:
    """Every row: those that runs decide, in the order of KINDS, then the claims without a run."""
    rows = [row for kind, build in BUILDERS.items() for run in runs if run.kind == kind for row in build(run)]
    done = any(run.kind == "probe" and "paper" in run.summary for run in runs)
    for number, (claim, paper, why) in enumerate(UNTESTED_CLAIMS):
        if number > 0 or not done:
            rows.append(Row(claim, paper, "none", "none", "none", UNTESTED, why, ""))
    return rows


def page(rows: Sequence[Row]) -> str:
    """REPLICATION.md."""
    lines = [
        "# What could be reproduced",
        "",
        "Claims of arXiv:2602.12204 (CRAM), each beside what was measured here. Written by `python -m labbook.verdicts` from the linked run "
        "folders; numbers are estimate [95 % interval] (n independent units).",
        "",
        *(f"- **{verdict}**: {rule}" for verdict, rule in RULES.items()),
        "",
        *_table(rows),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    head = ("claim", "paper", "ours", "control", "model and scale", "verdict", "in a sentence", "see")
    cells = [(r.claim, r.paper, r.ours, r.control, r.scale, f"**{r.verdict}**", r.sentence, r.links) for r in rows]
    return _markdown(head, cells)


def _markdown(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(c)} |" for c in (head, ("---",) * len(head), *cells)]


def headline(rows: Sequence[Row]) -> list[str]:
    """The rows that the README shows, without their sentences."""
    head = ("claim", "paper", "ours", "control", "model and scale", "verdict")
    cells = [(r.claim, r.paper, r.ours, r.control, r.scale, f"**{r.verdict}**") for r in rows if r.headline]
    return _markdown(head, cells)


def between(text: str, lines: Sequence[str]) -> str:
    """`text` with `lines` between MARKS. Raises UserError when the marks are missing."""
    start, end = (text.find(mark) for mark in MARKS)
    if not 0 <= start < end:
        raise UserError(
            f"the README has no place for the verdicts. Put the lines {MARKS[0]!r} and {MARKS[1]!r} into it."
        )
    return text[: start + len(MARKS[0])] + "\n\n" + "\n".join(lines) + "\n\n" + text[end:]


@dataclass(frozen=True)
class Command:
    """Write the verdict page from run folders."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished run folders; none means those shipped with the project."""
    out: Path | None = None
    """Write only the page, and there; default: REPLICATION.md and the README's headline rows."""


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m labbook.verdicts")

    def body() -> None:
        rows = rows_of([read_run(folder) for folder in command.runs or shipped()])
        texts = {command.out or PAGE: page(rows)}
        if command.out is None:
            texts[README] = between(README.read_text(encoding="utf-8"), headline(rows))
        for path, text in texts.items():
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")
            console.print(str(path))

    guarded(body)


if __name__ == "__main__":
    main()
