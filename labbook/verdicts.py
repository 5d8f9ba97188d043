"""The verdict page, from run folders and never by hand: `python -m labbook.verdicts` writes REPLICATION.md and the README's rows.

One row per claim of the examined preprint (arXiv:2602.12204) and run: the paper's number, ours with interval and n, the control that
belongs to it, model and scale, and a verdict by the rules in RULES.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from labbook.console import UserError, console, guarded
from labbook.run import replacing

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "REPLICATION.md", ROOT / "README.md"
MARKS = ("<!-- verdicts: written by python -m labbook.verdicts -->", "<!-- end of verdicts -->")
REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not testable here"
RULES = {
    REPRODUCED: "the paper's number lies in our 95 % interval, widened by the spread that the paper gives; or a claim about a direction holds with an "
    "interval that excludes zero",
    PARTLY: "it holds for a part of what is claimed; the sentence says which",
    NOT: "neither, on the model that was run",
    UNTESTED: "no run of this claim exists, or it is about a model that was not run",
}
# Table 6: R overall of GPT-2 124M and 355M, and the largest spread printed beside their layer groups
PAPER_R, PAPER_SPREAD = (0.84, 0.92), 0.05
# Table 7: validation loss at its first checkpoint; R goes from .52 there to .72 at the last
PAPER_FIRST_LOSS = 4.21
# the kind of a run by a table that only it has
KINDS = {"controls.csv": "probe", "trend.csv": "training", "removable.csv": "removal"}


@dataclass(frozen=True)
class Finished:
    """A finished run folder: its kind, its summary, and where it is relative to the project."""

    kind: str
    folder: Path
    summary: dict[str, Any]

    @property
    def link(self) -> str:
        """The folder as a Markdown link."""
        inside = self.folder.is_relative_to(ROOT)
        place = self.folder.relative_to(ROOT).as_posix() if inside else self.folder.name
        return f"[run]({place})" if inside else f"`{place}`"

    @property
    def scale(self) -> str:
        """Model, tokens and documents."""
        tokens, documents = self.summary["tokens"], self.summary["documents"]
        return f"{self.summary['model']}, {tokens['evaluation']:,} held-out tokens of {documents['evaluation']} {self.summary['unit']}s"


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    claim: str
    paper: str
    ours: str
    control: str
    scale: str
    verdict: str
    sentence: str
    links: str
    headline: bool = False


def read_run(folder: Path) -> Finished:
    """Read a run folder. Raises UserError when it is not a finished run of a known kind."""
    kinds = [kind for table, kind in KINDS.items() if (folder / table).is_file()]
    if len(kinds) != 1 or not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder} is not a finished run (summary.json and one of {', '.join(KINDS)}). Name run folders, or none for those shipped."
        )
    return Finished(kinds[0], folder.resolve(), json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def shipped() -> list[Path]:
    """The run folders that come with the project."""
    return sorted(path.parent for path in ROOT.glob("*/data/runs/*/*/summary.json"))


def show(number: dict[str, Any], digits: int = 2) -> str:
    """Estimate with interval and n."""
    return f"{number['estimate']:.{digits}f} [{number['lower']:.{digits}f}, {number['upper']:.{digits}f}] (n = {number['n']})"


def holds(number: dict[str, Any], stated: float, spread: float = 0.0) -> bool:
    """Whether a stated number lies in an interval widened by the stated spread."""
    return bool(number["lower"] - spread <= stated <= number["upper"] + spread)


def _figure(name: str) -> str:
    return f"[figure](figures/{name}.png)"


def probe_rows(run: Finished) -> Iterator[Row]:
    """R of Definition 1, the reading as a share of operations, and the head groups."""
    s = run.summary
    metrics, controls = s["metrics"], s["controls"]
    r = metrics["R"]
    figure = _figure("redundancy_by_layer" if s["model"] == "embedded" else f"{s['model']}/redundancy_by_layer")
    low, high = PAPER_R
    if "paper" in s:
        stated, paper = s["paper"]["R"], f"R = {s['paper']['R']:.2f} (this model)"
        verdict = REPRODUCED if holds(r, stated, PAPER_SPREAD) else NOT
    else:
        stated, paper = (low + high) / 2, f"R = {stated_range()} (GPT-2 124M and 355M; mean .88)"
        verdict = REPRODUCED if any(holds(r, x, PAPER_SPREAD) for x in (low, stated, high)) else NOT
    yield Row(
        "Most of attention's output is predictable from the hidden state: R of Definition 1",
        paper,
        f"R = {show(r)}",
        f"training mean {show(controls['training_mean']['R'])}; random weights {show(controls['random_weights']['R'])}",
        run.scale,
        verdict,
        f"Of this R a constant earns a part: centred R² is {show(metrics['R2'])}, with random weights {show(controls['random_weights']['R2'])}."
        + (
            ""
            if "paper" in s
            else " This is another model than the preprint's, so its figure for GPT-2 itself is not refuted by it."
        ),
        f"{figure}, {run.link}",
        headline=True,
    )
    share = metrics["share_operations_error_below_0.2"]
    yield Row(
        "88 % of attention operations are redundant (the reading of the title figure as a share of operations)",
        ".88",
        f"{show(share)} of (token × head) operations predicted with an error below 20 %",
        f"training mean {show(controls['training_mean']['share_operations_error_below_0.2'])}",
        run.scale,
        REPRODUCED if holds(share, 0.88) else NOT,
        "The preprint's .88 is a mean of R, not a share of operations.",
        f"{_figure('redundancy_distribution')}, {run.link}" if s["model"] == "embedded" else run.link,
    )
    groups, stated_groups = s["head_groups"][s["feature"]], (0.34, 0.41, 0.25)
    names = ("share_heads_R_above_0.8", "share_heads_R_0.5_to_0.8", "share_heads_R_below_0.5")
    same = [holds(groups[name], value) for name, value in zip(names, stated_groups, strict=True)]
    yield Row(
        "Heads fall into three groups, R > .8, .5 to .8, < .5",
        "34 % / 41 % / 25 % (model not said)",
        " / ".join(show(groups[name]) for name in names),
        "training mean " + " / ".join(show(s["head_groups"]["training_mean"][name]) for name in names),
        run.scale,
        REPRODUCED if all(same) else PARTLY if any(same) else NOT,
        "Most heads are in the lowest group." if groups[names[2]]["estimate"] > 0.5 else "The groups differ in size.",
        f"{_figure('redundancy_by_head')}, {run.link}" if s["model"] == "embedded" else run.link,
    )


def stated_range() -> str:
    """The paper's two values of R."""
    return " and ".join(f"{value:.2f}" for value in PAPER_R)


def training_rows(run: Finished) -> Iterator[Row]:
    """Whether redundancy falls in training; only courses of more than two checkpoints say anything."""
    s = run.summary
    if len(s["checkpoints"]) < 3:
        return
    course = s["course"]
    late = [c for c in course if c["loss"]["estimate"] <= PAPER_FIRST_LOSS]
    overall = pd.read_csv(run.folder / "overall.csv").fillna({"against": ""})
    probe = overall[(overall["feature"] == s["feature"]) & (overall["metric"] == "R")]
    to_last = probe[probe["against"] == "last"].set_index("step")

    def rise(step: int) -> dict[str, Any]:
        row = to_last.loc[step]
        return {"estimate": -row["estimate"], "lower": -row["upper"], "upper": -row["lower"], "n": int(row["n"])}

    higher = [c for c in course if rise(c["step"])["upper"] < 0]
    last = course[-1]
    if len(late) < 2:
        verdict, change, ours = UNTESTED, None, f"R = {show(last[s['feature']]['R'])} at the last checkpoint"
    else:
        change = rise(late[0]["step"])
        ours = f"R {change['estimate']:+.3f} [{change['lower']:+.3f}, {change['upper']:+.3f}] (n = {change['n']}) from step {late[0]['step']:,} to {last['step']:,}"
        falls = change["upper"] < 0
        verdict = NOT if falls else PARTLY if higher else REPRODUCED
    top = max(course, key=lambda c: c[s["feature"]]["R"]["estimate"])
    yield Row(
        "Redundancy does not fall in training (table 7)",
        "R .52 to .72 from step 10K to 300K (loss 4.21 to 3.18)",
        ours,
        f"training mean at step {top['step']:,}: {show(top['training_mean']['R'])}",
        run.scale,
        verdict,
        f"From the paper's first loss on it {'rises' if change and change['lower'] > 0 else 'does not fall'}; but R is highest, {show(top[s['feature']]['R'])}, at step "
        f"{top['step']:,} (loss {top['loss']['estimate']:.2f}), where the training mean alone has {show(top['training_mean']['R'])}."
        if higher
        else "It rises from checkpoint to checkpoint.",
        f"{_figure('training_course')}, {run.link}",
        headline=True,
    )


def removal_rows(run: Finished) -> Iterator[Row]:
    """What can be removed, against what can be predicted."""
    s = run.summary
    if s["removable"]:
        at = {order: values["0.05"] for order, values in s["removable"].items()}
        known = max((o for o in at if o.startswith("known")), key=lambda o: at[o]["estimate"])
        router = max((o for o in at if o.startswith("predicted")), key=lambda o: at[o]["estimate"])
        name = "removal_curve" if s["model"] == "embedded" else f"{s['model']}/removal_curve"
        yield Row(
            "What is redundant can be removed: 88 % of attention at no cost",
            ".88 (as R)",
            f"{show(at[known])} of operations at +.05 nats per token, knowing the outcome; {show(at[router])} for a router that sees the hidden state alone",
            f"random order {show(at['random'])}; order by R known after the fact {show(at['known_relative'])}",
            run.scale,
            REPRODUCED if holds(at[known], 0.88) or at[known]["lower"] > 0.88 else NOT,
            _guide(at),
            f"{_figure(name)}, {run.link}",
            headline=True,
        )
    if s["all_layers"]:
        recovered = s["all_layers_recovered"].get("probe")
        yield Row(
            "The probe can stand for attention (implied by R)",
            "not measured",
            f"+{show(s['all_layers']['probe'])} nats per token with the probe in every layer"
            + (f"; {show(recovered)} of the loss between mean ablation and intact recovered" if recovered else ""),
            f"training mean +{show(s['all_layers']['training_mean'])}; nothing +{show(s['all_layers']['zero'])}",
            run.scale,
            NOT,
            f"The probe's R is {show(s['predictors']['resid_pre']['R'])}, but what it misses is what the model needs.",
            f"{_figure('removal_by_layer')}, {run.link}" if s["model"] == "embedded" else run.link,
            headline=True,
        )


def _guide(at: dict[str, dict[str, Any]]) -> str:
    """Whether R says which operations can be spared, against chance and against displacement."""
    by_r, chance, moved = at["known_relative"], at["random"], at["known_displacement"]
    if by_r["upper"] < chance["lower"]:
        return "Replacing operations in the order of their R does worse than chance: what is predicted best is not what can be spared."
    better = "better than chance" if by_r["lower"] > chance["upper"] else "no better than chance"
    more = (
        "; ordering by how far the error moves the residual stream spares more"
        if moved["lower"] > by_r["upper"]
        else ""
    )
    return f"Replacing operations in the order of their R does {better}{more}."


UNTESTED_CLAIMS = (
    (
        "GPT-2 124M and 355M themselves: R = .84 and .92 (table 6)",
        ".84 / .92",
        "python -m redundancy.probe gpt2 (and gpt2-medium)",
    ),
    ("CRAM needs 37.8 times less attention after consolidation", "37.8×", ""),
    ("Attention can fall to the optimum of eq 13", "1.5 % of positions", ""),
    ("A sharp transition near step 3100, caused by quality crossing .83", "step 3100", ""),
    ("The memory lives in the semantic path", "ablations of table 4", ""),
    ("Theorem 1: static routing needs attention at every query", "5 % of positions", ""),
    ("Consolidation transfers to other tasks", "48 to 52 % less attention", ""),
    ("P_episodic(k) falls as k^-γ", "γ = .43 ± .04", ""),
    ("The exponent matches human memory", "γ .4 to .5", ""),
)
BUILDERS: dict[str, Callable[[Finished], Iterator[Row]]] = {
    "probe": probe_rows,
    "training": training_rows,
    "removal": removal_rows,
}


def rows_of(runs: Sequence[Finished]) -> list[Row]:
    """Every row: those that runs decide, in the order of KINDS, then the claims without a run."""
    rows = [row for kind, build in BUILDERS.items() for run in runs if run.kind == kind for row in build(run)]
    done = any(run.kind == "probe" and "paper" in run.summary for run in runs)
    for number, (claim, paper, command) in enumerate(UNTESTED_CLAIMS):
        if number == 0 and done:
            continue
        why = (
            f"Its weights were not at hand; `{command}` decides it."
            if command
            else "No run of the reference model exists yet."
        )
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
