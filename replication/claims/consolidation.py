"""What the experiments and the fitted curves say to sections 4 to 6, tables 1 and 4 and figure 4A of the
preprint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from consolidation.config import SRCDConfig
from consolidation.replicate.cells import Cell, cells
from consolidation.replicate.tabulation import metrics, tabulated_seeds
from consolidation.train.config import TrainConfig
from labbook.command import restored
from labbook.estimate import LEVEL, Estimate
from labbook.run import read_json
from replication import paper
from replication.claims.decided import Decided, is_factorial
from replication.claims.factorial import (
    OF_ABLATION,
    contrast_rows,
    control_rows,
    load_rows,
    varied_rows,
)
from replication.claims.varied import variations
from replication.rows import Finished, Row, number, show
from replication.verdict import LEAST, Verdict, all_of, at_least, equals

# shares of positions that are alike: a tenth of the positions that are queries
ATTENTION_MARGIN = 0.005
# right answers that are alike, and what counts as complete
RETRIEVAL_MARGIN, COMPLETE = 0.05, 0.99
# models whose training was corrected: from when on, and what was wrong before
CORRECTED = {
    "seqboat": (
        "2026-11-28T19:25:00Z",
        "its shut gates learnt from keys that an open one would not see, later ones among them",
    )
}
ABLATIONS = {
    "control": "Without semantic memory attention stays (the control that decides theorem 1)",
    "no-consolidation": "Without the consolidation loss attention stays",
    "no-quality": "Without q in the router attention stays",
    "fast-semantic": "With a ten times faster semantic memory attention stays",
}


def reaches_optimum(attention: Estimate | None, retrieval: Estimate | None) -> Verdict:
    """Attention ends at the paper's share, and retrieval is complete."""
    return all_of([equals(attention, paper.ATTENTION, ATTENTION_MARGIN), at_least(retrieval, COMPLETE)])


def attention_stays(ablated: Estimate | None, whole: Estimate | None) -> Verdict:
    """The ablated model attends at more positions than the whole one, by more than what counts as alike."""
    return at_least(difference(ablated, whole), ATTENTION_MARGIN)


def theorem_1(attention: Estimate | None, retrieval: Estimate | None, queries: float) -> Verdict:
    """Without consolidation the share of positions that attend is at least the accuracy times the share of
    queries.
    """
    if attention is None or retrieval is None:
        return Verdict.UNTESTED
    lowest = at_least(attention, queries * retrieval.upper)
    return lowest if lowest is Verdict.HOLDS else at_least(attention, queries * retrieval.lower)


def attention_falls(ratio: Estimate | None) -> Verdict:
    """Attention falls by the paper's factor, to a tenth of it; `ratio` is the last share over the first."""
    if ratio is None or not ratio.lower > 0:
        return Verdict.UNDECIDED
    turned = Estimate(1 / ratio.estimate, 1 / ratio.upper, 1 / ratio.lower, ratio.n)
    return equals(turned, paper.FALL, paper.FALL / 10)


def rivals_retrieve(found: Mapping[str, Estimate]) -> Verdict:
    """Every rival of table 1 retrieves what the paper says."""
    stated = {
        name: values["retrieval"] for (table, name), values in paper.EXPERIMENTS.items() if table == "table1"
    }
    return all_of([equals(e, stated[name], RETRIEVAL_MARGIN) for name, e in found.items()])


def difference(first: Estimate | None, second: Estimate | None) -> Estimate | None:
    """First minus second, of means over independent seeds with Student intervals, by Welch."""
    if first is None or second is None:
        return None
    errors = [
        (e.upper - e.lower) / 2 / stats.t.ppf(0.5 + LEVEL / 2, max(e.n - 1, 1)) if e.n > 1 else np.nan
        for e in (first, second)
    ]
    square = sum(e**2 for e in errors)
    freedom = square**2 / sum(
        e**4 / (x.n - 1) for e, x in zip(errors, (first, second), strict=True) if x.n > 1
    )
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(square)) if square > 0 else 0.0
    gap = first.estimate - second.estimate
    return Estimate(gap, gap - half, gap + half, min(first.n, second.n))


def asked(benchmark: Mapping[str, Any]) -> float:
    """Share of positions that are queries, in whole positions: 13 of 256 at .05."""
    of: SRCDConfig = restored(SRCDConfig, dict(benchmark))
    return of.query_count / of.length


@dataclass(frozen=True)
class Experiments:
    """The cells of `python -m consolidation.replicate`, and what every row about them says.

    Attributes
    ----------
    cells : (table, cell, metric) -> estimate over seeds.
    scale : the setting.
    decided : the factorials with other keys, by price; empty where none was run.
    queries, recurrence : share of positions that are queries, and share of those that recur.
    """

    run: Finished
    cells: Mapping[tuple[str, str, str], Estimate | None]
    scale: str
    decided: tuple[Decided, ...]
    queries: float
    recurrence: float

    @staticmethod
    def of(run: Finished, decided: tuple[Decided, ...] = ()) -> "Experiments":
        """Those of a run folder, beside the factorials that there are."""
        rows = pd.read_csv(run.folder / "cells.csv").to_dict("records")
        config = run.summary["config"]
        benchmark, keys = config["benchmark"], f"{config['cram']['keys']} keys"
        return Experiments(
            run,
            {(str(r["table"]), str(r["cell"]), str(r["metric"])): number(r) for r in rows},
            scale=f"CRAM with {keys}, {benchmark['patterns']} patterns, N = {benchmark['length']}, d = "
            f"{config['cram']['width']}, {config['cram']['layers']} layer, {config['steps']:,} steps; "
            "n seeds",
            decided=decided,
            queries=asked(benchmark),
            recurrence=benchmark["recurrence"],
        )

    @property
    def depends(self) -> str:
        """What the result depends on, by the control."""
        return self.depends_for("control")

    def depends_for(self, ablation: str) -> str:
        """What the result depends on: whether the variants can be told apart here, and what other keys say to
        this ablation.
        """
        keys = self.run.summary["config"]["cram"]["keys"]
        whole = self.cell("table4", "cram", "attention")
        others = [self.cell("table4", name, "attention") for name in ABLATIONS]
        gaps = [difference(other, whole) for other in others if other and whole]
        apart = any(gap and gap.excludes_zero for gap in gaps)
        alike = ", where no variant is told from CRAM" if gaps and not apart else ""
        price = self.run.summary["config"]["objective"]["attention_penalty"]
        head = f"Only with {keys} keys and attention priced at {price:g}{alike}"
        if not self.decided:
            return f"{head}; no run here has others, so this decides nothing about the mechanism."
        if ablation not in OF_ABLATION:
            return f"{head}; no run of it has others."
        runs = [run for one in self.decided for run in (one, *(varied.there for varied in variations(one)))]
        said = [run.said(OF_ABLATION[ablation]) for run in runs if run.ran(OF_ABLATION[ablation][0])]
        return f"{head}. {' '.join(said)}"

    @property
    def optimum(self) -> float:
        """Share of positions that attends by eq 13."""
        return self.queries * (1 - self.recurrence)

    def cell(self, table: str, name: str, metric: str) -> Estimate | None:
        """One estimate, None where it was not run."""
        return self.cells.get((table, name, metric))

    def figure(self, name: str) -> str:
        """A figure, and the run."""
        return f"{self.run.figure(name)}{self.run.link}"


def experiment_rows(run: Finished, runs: Sequence[Finished] = ()) -> Iterator[Row]:
    """Tables 1 and 4 and theorem 1, from the cells of `python -m consolidation.replicate`; `runs` are those
    beside it, of which the factorials say what the result depends on.
    """
    if is_factorial(run):
        yield from _fixed(Experiments.of(run), Decided.read(run))
        return
    of = Experiments.of(run, Decided.among(runs))
    attention, retrieval = of.cell("table4", "cram", "attention"), of.cell("table4", "cram", "retrieval")
    control, kept = of.cell("table4", "control", "attention"), of.cell("table4", "control", "retrieval")
    if attention and retrieval and control and kept:
        beside = f"no semantic memory: {show(control, 4)}, {show(kept, 3)} right"
        alike = equals(difference(control, attention), 0.0, ATTENTION_MARGIN) is Verdict.HOLDS
        as_low = "the control without semantic memory ends as low. " if alike else ""
        yield _optimum(
            of,
            (attention, retrieval),
            beside,
            of.scale,
            "With four published settings changed (price of attention, its ramp, temperature, semantic "
            f"rank){'; ' if as_low else '. '}{as_low}{of.depends}",
        )
        yield from _ablations(of, attention)
        yield _theorem(of, (control, kept), of.scale, of.depends)
        yield from _fall(of)
    yield from _rivals(of)


def _fixed(of: Experiments, decided: Decided) -> Iterator[Row]:
    """Tables 1 and 4 and theorem 1 with the factorial's keys."""

    def cell(letter: str, metric: str) -> Estimate | None:
        if not decided.ran(letter):
            return None
        model, patterns = decided.of.seeds(letter)[["model", "patterns"]].iloc[0]
        return of.cell("factorial", f"{model}, {patterns} patterns", metric)

    found = {x: (cell(x, "attention"), cell(x, "retrieval")) for x in "ABDE"}
    if all(found["A"]):
        beside = "; ".join(
            f"{said}: {show(found[x][0], 4)}, {show(found[x][1], 3)} right"
            for x, said in (("B", "no semantic memory"), ("D", "four times the patterns"))
            if found[x][0]
        )
        novel = f"Novel queries right: {show(cell('A', 'novel'))}."
        yield _optimum(of, found["A"], beside, decided.setting("A"), novel, decided.named("A"))
    yield from contrast_rows(decided)
    yield from control_rows(decided)
    yield from varied_rows(decided)
    yield from load_rows(decided)
    for letter in "BE":
        if all(found[letter]):
            novel = (
                "The bound is the share of queries times the accuracy, so it speaks of weak seeds too: "
                f"{decided.of.not_learnt(letter)} of {len(decided.of.seeds(letter))} have not learnt "
                f"retrieval; novel queries right: {show(cell(letter, 'novel'))}."
            )
            if letter == "E" and len(decided.of.seeds("E")) > 1 and decided.load_unlearnt():
                novel += (
                    f" With attention knocked out it answers {show(decided.mean('E', 'known'))} of recurring "
                    "queries, so the premise is nearer there."
                )
            yield _theorem(of, found[letter], decided.setting(letter), novel, decided.named(letter))


def _optimum(
    of: Experiments,
    found: tuple[Estimate | None, Estimate | None],
    beside: str,
    scale: str,
    sentence: str,
    which: str = "tables 1 and 4",
) -> Row:
    """Attention and retrieval of CRAM against eq 13 and the paper's share; `which` cells."""
    return Row(
        f"Attention falls to the optimum of eq 13 while retrieval stays complete ({which})",
        f"{paper.ATTENTION} of positions, {paper.RETRIEVAL:.0%} right",
        _share_and_right(found),
        f"{beside}; optimum {of.optimum:.3f}",
        scale,
        reaches_optimum(*found),
        own=False,
        sentence=sentence,
        links=_links(of, "consolidation_attention"),
        headline=True,
    )


def _theorem(
    of: Experiments,
    found: tuple[Estimate | None, Estimate | None],
    scale: str,
    sentence: str,
    which: str = "",
) -> Row:
    """Attention of the control against the share of queries; `which` cells."""
    return Row(
        "Theorem 1 as it is used: without consolidation a router attends at no fewer positions than "
        "there are queries" + (f" ({which})" if which else ""),
        f"at least {of.queries:.4f} of positions, times the share that is right",
        _share_and_right(found),
        f"queries {of.queries:.4f}, optimum {of.optimum:.3f}",
        scale,
        theorem_1(*found, of.queries),
        own=False,
        sentence="The proof assumes that every path but attention always fails; weights that "
        f"remember patterns are outside it. {sentence}",
        links=_links(of, "consolidation_attention"),
        headline=True,
    )


def _share_and_right(found: tuple[Estimate | None, Estimate | None]) -> str:
    """Positions that attend, and right answers, in words."""
    attention, retrieval = found
    return f"{show(attention, 4)} of positions, {show(retrieval, 3)} right"


def _links(of: Experiments, name: str) -> str:
    """The figure of a run's attention; of the factorial its own."""
    return of.figure("factorial_memory_and_use" if is_factorial(of.run) else name)


def _ablations(of: Experiments, attention: Estimate) -> Iterator[Row]:
    """Attention without one part of the model."""
    for name, claim in ABLATIONS.items():
        ablated, right = of.cell("table4", name, "attention"), of.cell("table4", name, "retrieval")
        if ablated and right:
            yield Row(
                f"{claim} (table 4)",
                f"{paper.ABLATED_ATTENTION} of positions, {paper.RETRIEVAL:.0%} right",
                _share_and_right((ablated, right)),
                f"full CRAM {show(attention, 4)}; difference "
                f"{show(difference(ablated, attention), 4, sign=True)}",
                of.scale,
                attention_stays(ablated, attention),
                own=False,
                sentence=of.depends_for(name),
                links=of.figure("consolidation_tables"),
                headline=name == "control",
            )


def _fall(of: Experiments) -> Iterator[Row]:
    """By how much attention falls in training."""
    ratio, other = of.cell("table4", "cram", "ratio"), of.cell("table4", "control", "ratio")
    if ratio and other and min(ratio.lower, other.lower) > 0:
        yield Row(
            "Attention falls 37.8 times",
            f"{paper.FALL}× (from no single table or figure of the paper)",
            f"{1 / ratio.estimate:.1f}× [{1 / ratio.upper:.1f}, {1 / ratio.lower:.1f}] (n = {ratio.n}) "
            "against the first steps of training",
            f"no semantic memory {1 / other.estimate:.1f}× [{1 / other.upper:.1f}, "
            f"{1 / other.lower:.1f}] (n = {other.n})",
            of.scale,
            attention_falls(ratio),
            own=False,
            sentence="The factor depends on what counts as the start: here the share in the first training "
            "step, with routing noise, over the share at the end without it. On held-out sequences an "
            "untrained router attends anywhere from nowhere to everywhere, by seed.",
            links=of.figure("consolidation_attention"),
        )


def of_seeds(run: Finished, table: str, cell: str, metric: str) -> "pd.Series[float]":
    """A metric of every seed of a cell; index seed.

    Raises UserError when the cell has no finished seed in the run folder, and when it has not those that its
    table was made of.
    """
    folder = next(one.folder for one in listed(run, table) if one.name == cell)
    seeds = tabulated_seeds(run.folder, cell, folder)
    return pd.Series({seed.seed: metrics(seed)[metric] for seed in seeds}, dtype=float)


def listed(run: Finished, table: str) -> list[Cell]:
    """The cells that a table has by the configuration of the run."""
    return cells(TrainConfig.restored(run.summary["config"]), (table,))


def _uncorrected(run: Finished, model: str) -> str:
    """What was wrong when the seeds of a model were trained; empty where nothing was."""
    since, wrong = CORRECTED.get(model, ("", ""))
    started = [read_json(path)["started"] for path in run.folder.glob(f"{model}/seed-*/provenance.json")]
    old = sum(start < since for start in started)
    return f" {old} of {len(started)} runs of {model} are older than a correction: {wrong}." if old else ""


def _sizes(of: Experiments, rivals: Sequence[str]) -> str:
    """Parameters of the rivals, beside CRAM's where it was trained."""

    def size(name: str) -> int:
        return tabulated_seeds(of.run.folder, name, name)[0].parameters

    own = f", CRAM {size('cram'):,}" if of.cell("table1", "cram", "retrieval") else ""
    sizes = [size(name) for name in rivals]
    return f"They have {min(sizes):,} to {max(sizes):,} parameters{own}."


def _rivals(of: Experiments) -> Iterator[Row]:
    """What other models retrieve."""
    names = ("transformer", "mamba", "seqboat", "jamba")
    rivals = {name: e for name in names if (e := of.cell("table1", name, "retrieval"))}
    if rivals:
        missing, verdict = sorted(set(names) - set(rivals)), rivals_retrieve(rivals)
        few = [name for name, e in rivals.items() if e.n <= LEAST]
        # a mean may hide that some seeds learnt what memory alone cannot answer, and some did not
        novel = {name: of_seeds(of.run, "table1", name, "novel") for name in rivals}
        gated = of.cell("table1", "seqboat", "attention")
        alone = of.recurrence + (1 - of.recurrence) / of.run.summary["config"]["benchmark"]["values"]
        yield Row(
            "Transformer, Mamba and SeqBoat retrieve 68 %, Jamba 0 % (table 1)",
            ".68 / .68 / .68 / 0",
            "; ".join(f"{name} {show(e, 3)}" for name, e in rivals.items()),
            f"recurring share {of.recurrence:.2f}",
            of.scale,
            Verdict.UNDECIDED if missing and verdict is Verdict.HOLDS else verdict,
            own=False,
            sentence=f"Alike means within {RETRIEVAL_MARGIN}. The recurring share is {of.recurrence:.2f}, "
            f"what memory alone answers, {alone:.2f} with chance. {_sizes(of, list(rivals))} Attention "
            f"is priced at {of.run.summary['config']['objective']['attention_penalty']:g}"
            + (f", and SeqBoat's ends at {show(gated, 4)} of positions" if gated else "")
            + ". Novel queries right, by seed: "
            + "; ".join(f"{name} {' '.join(map('{:.2f}'.format, each))}" for name, each in novel.items())
            + "."
            + (f" Intervals over {LEAST} seeds or fewer decide little: {', '.join(few)}." if few else "")
            + (f" Not run: {', '.join(missing)}." if missing else "")
            + "".join(_uncorrected(of.run, name) for name in rivals),
            links=of.figure("consolidation_tables"),
            headline=True,
        )
