"""What the tables `transfer`, `published`, `recurrence` and `mode` of `consolidation.replicate` say: tables 2
and 3 and eq 13 of the preprint, whether its own settings work, and whether two choices that it leaves open
matter. Differences are paired by seed, whose patterns and sequences are the same.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from consolidation.experiments.readings import difference
from consolidation.replicate.cells import PAIR, PAPERS, Cell, put_back
from consolidation.replicate.contrasts import LEARNT
from consolidation.train import trajectory
from labbook.estimate import LEVEL, Estimate
from replication import paper
from replication.claims.consolidation import (
    ATTENTION_MARGIN,
    COMPLETE,
    RETRIEVAL_MARGIN,
    Experiments,
    listed,
    of_seeds,
)
from replication.claims.decided import Decided
from replication.rows import Finished, Row, number, show
from replication.verdict import LEAST, Verdict, all_of, at_least, equals

TASKS = {"copy": "Copy", "associative": "Associative recall"}
# reductions of attention that are alike
REDUCTION_MARGIN = 0.05
# the cell of `published` with every setting of the preprint, and the heads of those with settings changed
ALL, BACK, ALONE = "all published", "published, ", "ours, "
# (what is chosen, the two cells, what the preprint says of it)
CHOICES = (
    (
        "how q is known: predicted where attention is skipped, or by an oracle, which attends everywhere",
        ("q predicted", "q oracle"),
        "not said (eq 6 needs what attention returns)",
    ),
    (
        "whether codes of keys are learned or fixed, and so where a pattern may be stored",
        ("keys learned", "keys fixed"),
        "not said",
    ),
)


def transfers(
    right: Estimate | None,
    stated: float | None,
    gain: Estimate | None,
    reduction: Estimate | None,
    stated_reduction: float,
) -> Verdict:
    """The trained model with new heads answers as often as stated (where that is printed), more often than a
    random frozen one, and attends less than one trained from scratch by the stated share.
    """
    parts = [] if stated is None else [at_least(right, stated - RETRIEVAL_MARGIN)]
    return all_of(
        [
            *parts,
            at_least(gain, RETRIEVAL_MARGIN),
            equals(reduction, stated_reduction, REDUCTION_MARGIN),
        ]
    )


def reduced(less: "pd.Series[float]", more: "pd.Series[float]") -> Estimate | None:
    """By which share the mean of `less` lies below that of `more`, over the seeds of both: 1 less their
    ratio, with the 95 % interval of Fieller (1954) for means of pairs; None where the mean of `more` is not
    told from 0, or a seed is missing on one side.
    """
    if set(less.index) != set(more.index) or len(less) < 2:
        return None
    x, y = less.sort_index().to_numpy(), more.sort_index().to_numpy()
    n = len(x)
    (s_xx, s_xy), (_, s_yy) = np.cov(x, y) / n * stats.t.ppf(0.5 + LEVEL / 2, n - 1) ** 2
    mean_x, mean_y = x.mean(), y.mean()
    # the ratios r with (mean_x - r mean_y)^2 <= s_xx - 2 r s_xy + r^2 s_yy
    a, b, c = mean_y**2 - s_yy, mean_x * mean_y - s_xy, mean_x**2 - s_xx
    if not a > 0:
        return None
    half = math.sqrt(max(b * b - a * c, 0.0)) / a
    return Estimate(1 - mean_x / mean_y, 1 - b / a - half, 1 - b / a + half, n)


def at_optimum(cells: Sequence[tuple[Estimate | None, Estimate | None, float]]) -> Verdict:
    """In every cell (attention, right answers, optimum) attention ends at the optimum of eq 13 and retrieval
    is complete.
    """
    return all_of(
        [
            part
            for attention, right, optimum in cells
            for part in (equals(attention, optimum, ATTENTION_MARGIN), at_least(right, COMPLETE))
        ]
    )


def makes_no_difference(attention: Estimate | None, right: Estimate | None) -> Verdict:
    """Two choices come to the same attention and the same right answers, as differences say; a difference in
    either is one.
    """
    parts = [equals(attention, 0.0, ATTENTION_MARGIN), equals(right, 0.0, RETRIEVAL_MARGIN)]
    return Verdict.FAILS if Verdict.FAILS in parts else all_of(parts)


def table_rows(run: Finished, runs: Sequence[Finished] = ()) -> Iterator[Row]:
    """Rows of those of the four tables that the run has; what they depend on, `runs` beside it say."""
    of = Experiments.of(run, Decided.among(runs))
    for task in TASKS:
        if of.cell("transfer", f"{task}, trained", "retrieval"):
            yield _transfer(of, task)
    if of.cell("published", ALL, "retrieval"):
        yield _published(of)
    if varies_recurrence(run):
        rows = pd.read_csv(run.folder / "cells.csv")
        yield _recurrence(of, rows[rows["table"] == "recurrence"])
    for what, compared, stated in CHOICES:
        if all(of.cell("mode", cell, "attention") for cell in compared):
            yield _choice(of, what, compared, stated)


def has(run: Finished, table: str, ending: str = "") -> bool:
    """Whether a run holds a cell of a table whose name ends so."""
    return bool(_cells(run, table).str.endswith(ending).any())


def varies_recurrence(run: Finished) -> bool:
    """Whether a run has LEAST recurrences or more: one says nothing of whatever share recurs."""
    return int(_cells(run, "recurrence").nunique()) >= LEAST


def _cells(run: Finished, table: str) -> "pd.Series[str]":
    """Names of the cells of a table, with repetitions; none for a run of another kind."""
    if run.kind != "experiments":
        return pd.Series(dtype=str)
    rows = pd.read_csv(run.folder / "cells.csv")
    return rows.loc[rows["table"] == table, "cell"]


def _transfer(of: Experiments, task: str) -> Row:
    """Trained memory and router with new heads, a random frozen model with new heads, and training from
    scratch, at equal steps and longer: attention is compared with the longer one where it was run, because a
    model that has not learnt the task may attend nowhere.
    """
    found = {
        name: {
            metric: of.cell("transfer", f"{task}, {name}", metric) for metric in ("retrieval", "attention")
        }
        for name in ("trained", "random", "from scratch", "from scratch longer")
    }
    scratch = "from scratch longer" if found["from scratch longer"]["attention"] else "from scratch"

    def seeds(name: str, metric: str) -> "pd.Series[float]":
        return of_seeds(of.run, "transfer", f"{task}, {name}", metric)

    gain = reduction = None
    if found["random"]["retrieval"]:
        gain = difference(seeds("trained", "retrieval"), seeds("random", "retrieval"))
    retrieves = found[scratch]["retrieval"]
    # what a model attends that has not learnt the task says nothing of what the task needs
    if retrieves and at_least(retrieves, LEARNT) is Verdict.HOLDS:
        reduction = reduced(seeds("trained", "attention"), seeds(scratch, "attention"))
    stated = paper.EXPERIMENTS.get(("transfer", f"{task}, trained"), {}).get("retrieval")
    less, price = paper.TRANSFER_REDUCTION[task], of.run.summary["config"]["objective"]["attention_penalty"]
    shown = {
        name: f"{show(by['retrieval'], 3)} right, {show(by['attention'], 4)} of positions"
        for name, by in found.items()
    }
    return Row(
        f"Memory and router trained on SRCD serve {TASKS[task]} with new heads: "
        + ("right as often as stated, " if stated else "")
        + "more often than a random frozen model, with less attention than training from scratch (tables 2 "
        "and 3)",
        ("" if stated is None else f"{stated} right, ") + f"{less:.0%} less attention",
        f"{shown['trained']}; {show(reduction)} less attention; right minus random frozen "
        f"{show(gain, 3, sign=True)}",
        f"random frozen: {shown['random']}; from scratch at equal steps: {shown['from scratch']}; four times "
        f"as long: {shown['from scratch longer']}",
        of.scale,
        transfers(found["trained"]["retrieval"], stated, gain, reduction, less),
        own=False,
        sentence="Heads train for a quarter of the steps, pressure sets in as much sooner, and no key "
        f"recurs, so all answers need {of.queries:.4f} of positions. Attention is compared with that of the "
        f"model from scratch that trained {'longer' if scratch.endswith('longer') else 'as long'}, if that "
        f"answers {LEARNT:.0%}; alike means within {REDUCTION_MARGIN}. Attention is priced at {price:g}; at "
        "a lower price, which was not tried, the model from scratch may attend at more. "
        f"{of.depends}",
        links=of.run.link,
        headline=True,
    )


def _published(of: Experiments) -> Row:
    """The preprint's settings together, and which of them decides."""
    names = dict.fromkeys(name for table, name, _ in of.cells if table == "published")
    pair = [name for name in names if name == put_back(*PAIR)]
    groups = {
        "With one put back": [name for name in names if name.startswith(BACK) and name not in pair],
        "With two put back, added after those were seen": pair,
        "With one changed of ours": [name for name in names if name.startswith(ALONE)],
        "With all of the preprint's, and another choice": [
            name for name in names if name.startswith(f"{ALL}, ")
        ],
    }
    found = {name: at_optimum([_ends(of, name)]) for name in names}
    seeds = {
        name: _by_seed(of, name) if verdict is Verdict.UNDECIDED else "" for name, verdict in found.items()
    }
    steps = [
        f"{what}: {_by_verdict({name.partition(', ')[2] + seeds[name]: found[name] for name in cells})}."
        for what, cells in groups.items()
        if cells
    ]
    if unrun := [one.name for one in listed(of.run, "published") if one.name not in names]:
        steps.append(f"Not run: {'; '.join(unrun)}.")
    steps.append(f"Alike means within {ATTENTION_MARGIN} of positions, and {COMPLETE:.0%} right.")
    others = _never_the_papers([one for one in listed(of.run, "published") if one.name in names])
    if others:
        steps.append(f"What else is not the preprint's, in all of them: {', '.join(others)}.")
    return Row(
        "With the preprint's price of attention, pressure from the start, temperature and semantic rank CRAM "
        "learns retrieval and attention falls to the optimum of eq 13",
        f"{paper.ATTENTION} of positions, {paper.RETRIEVAL:.0%} right",
        _came_to(of, ALL),
        "; ".join(f"{name}: {_came_to(of, name)}" for name in ("all ours", *pair)),
        of.scale,
        at_optimum([_ends(of, ALL)]),
        own=False,
        sentence=" ".join([*steps, of.depends]),
        links=of.figure("published_settings"),
        headline=True,
    )


def _never_the_papers(listed: Sequence[Cell]) -> list[str]:
    """The fields that are not the preprint's in any of the cells."""
    each = [
        [one.partition(":")[0] for one in trajectory.differences(PAPERS.recorded(), cell.config.recorded())]
        for cell in listed
    ]
    return [field for field in each[0] if all(field in others for others in each)]


def _by_verdict(found: Mapping[str, Verdict]) -> str:
    """Which cells come out in which way."""
    names = {state: [name for name, verdict in found.items() if verdict is state] for state in Verdict}
    return "; ".join(f"{state} with {', '.join(some)}" for state, some in names.items() if some)


def _ends(of: Experiments, cell: str) -> tuple[Estimate | None, Estimate | None, float]:
    """Attention, right answers, and the optimum of a cell of `published`."""
    return of.cell("published", cell, "attention"), of.cell("published", cell, "retrieval"), of.optimum


def _by_seed(of: Experiments, cell: str) -> str:
    """Attention in each seed of a cell, where there are several."""
    values = of_seeds(of.run, "published", cell, "attention")
    return f" (by seed {', '.join(f'{value:.4f}' for value in values)})" if len(values) > 1 else ""


def _came_to(of: Experiments, cell: str) -> str:
    """The same in words, with the novel queries, which need attention."""
    attention, right, _ = _ends(of, cell)
    novel = of.cell("published", cell, "novel")
    return f"{show(attention, 4)} of positions, {show(right, 3)} right, novel queries {show(novel, 3)}"


def _recurrence(of: Experiments, rows: pd.DataFrame) -> Row:
    """Attention at every recurrence beside eq 13."""
    cells, shown, reached, none = [], [], dict[str, Verdict](), []
    for cell, part in rows.groupby("cell", sort=False):
        by = {str(row["metric"]): row for row in part.to_dict("records")}
        attention, right = number(by.get("attention")), number(by.get("retrieval"))
        optimum = float(by["attention"]["optimum"])
        cells.append((attention, right, optimum))
        reads = number(by.get("at_recurring"))
        shown.append(
            f"{cell}: {show(attention, 4)} for {optimum:.4f}, {show(right, 3)} right"
            + (f", {show(reads)} of recurring queries read" if reads else "")
        )
        reached[str(cell)] = equals(attention, optimum, ATTENTION_MARGIN)
        none += [str(cell)] * (optimum <= ATTENTION_MARGIN)
    return Row(
        "Attention ends at the optimum of eq 13 whatever share of queries recurs, and retrieval is complete",
        "queries times the share that is novel",
        "; ".join(shown),
        f"best static routing: {of.queries:.3f} of positions",
        of.scale.replace("; n seeds", ", recurrence as named; n seeds"),
        at_optimum(cells),
        own=False,
        sentence=f"Attention alone: {_by_verdict(reached)}. Alike means within {ATTENTION_MARGIN} of "
        "positions"
        + (f", which no attention at all is with {', '.join(none)}" if none else "")
        + f", and complete {COMPLETE:.0%}. Attention is priced at "
        f"{of.run.summary['config']['objective']['attention_penalty']:g}. All train for equal steps, so a "
        f"pattern is seen more often where more recurs. {of.depends}",
        links=of.run.link,
    )


def _choice(of: Experiments, what: str, cells: tuple[str, str], stated: str) -> Row:
    """Whether a choice that the preprint leaves open changes what comes out."""
    seeds = {
        metric: [of_seeds(of.run, "mode", cell, metric) for cell in cells]
        for metric in ("attention", "retrieval")
    }
    gaps = {metric: difference(*both) for metric, both in seeds.items()}
    by_seed = {
        metric: ", ".join(f"{gap:+.4f}" for gap in (one - other).dropna())
        for metric, (one, other) in seeds.items()
    }
    config = of.run.summary["config"]
    keys, price = config["cram"]["keys"], config["objective"]["attention_penalty"]
    longer = [
        f" With {one.config['cram']['keys']} keys, that price and {one.config['steps']:,} steps CRAM reads "
        f"{show(one.mean('A', 'attends'))} of recurring queries and answers "
        f"{show(one.mean('A', 'novel'))} of novel ones, so more steps may turn this."
        for one in of.decided
        if one.of.price == price and one.config["steps"] > config["steps"]
    ]
    varied = cells[0].partition(" ")[0]
    shown = [
        f"{cell} {show(of.cell('mode', cell, 'attention'), 4)} of positions, "
        f"{show(of.cell('mode', cell, 'retrieval'), 3)} right"
        for cell in cells
    ]
    return Row(
        f"It makes no difference {what}",
        stated,
        f"{cells[0]} minus {cells[1]}: {show(gaps['attention'], 4, sign=True)} of positions, "
        f"{show(gaps['retrieval'], 3, sign=True)} right",
        "; ".join(shown),
        of.scale.replace(f"{keys} keys", "keys as named" if varied == "keys" else f"{keys} keys"),
        makes_no_difference(gaps["attention"], gaps["retrieval"]),
        own=False,
        sentence=f"Alike means within {ATTENTION_MARGIN} of positions and {RETRIEVAL_MARGIN} of answers; "
        "a difference in either is one. Differences are over the seeds of both, by "
        f"seed {by_seed['attention']} of positions and {by_seed['retrieval']} right: a seed that gives "
        f"attention up moves the mean. Attention is priced at {price:g}.{''.join(longer)}",
        links=of.run.link,
        claimed=False,
    )
