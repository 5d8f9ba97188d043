"""The results page and the README's findings: every number comes from a run folder.

Sentences state what the tables beside them show and name the choice they depend on; where a number could turn
a sentence, the sentence is chosen by the number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from consolidation.replicate.cells import PAPERS, PRICE, alone
from labbook.estimate import Estimate
from labbook.run import read_json
from redundancy.aggregate import CONTROL_NAMES
from redundancy.probe.summary import ProbeSummary
from redundancy.removal.config import ORDERS
from redundancy.removal.curve import BUDGETS
from redundancy.removal.figures import replacement_name
from redundancy.removal.summary import RemovalSummary
from redundancy.training.summary import CourseSummary
from replication.captions import CAPTIONS
from replication.claims import decay, settings
from replication.claims.beside import Repeats, contexts, crosses, running, scored_of_choice, shared
from replication.claims.consolidation import Experiments, difference
from replication.claims.decided import Decided, is_factorial
from replication.claims.experiments import people_section
from replication.claims.finding import finding
from replication.claims.tables import ALL
from replication.rows import Finished, exponent, figure, interval, number, show, table, window

PREDICTORS = ("R", "R2", "cosine", "share_operations_error_below_0.2")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table and a blank line."""
    return [*table(head, rows), ""]


def findings(runs: Sequence[Finished]) -> list[str]:
    """The findings that the README shows, in paragraphs and a table."""
    kinds = ("probe", "removal", "experiments", "fit")
    of = {kind: [run for run in runs if run.kind == kind] for kind in kinds}
    lines = []
    if of["probe"]:
        lines += _predictable([ProbeSummary.read(run.summary) for run in of["probe"]])
    if of["removal"]:
        lines += _removable_shares(of["removal"])
    for run in of["experiments"]:
        if not is_factorial(run):
            lines += _consolidation(run, Decided.among(of["experiments"]))
    if of["fit"]:
        lines.append(decay.finding(of["fit"]))
    return lines


def _predictable(probes: Sequence[ProbeSummary]) -> list[str]:
    """What a linear map reaches, beside its controls."""
    controls = {
        "previous token alone": "previous_token",
        "mean per position": "position_mean",
        "training mean": "training_mean",
        "random weights": "random_weights",
    }
    rows = [
        [
            f"{probe.model} (n = {probe.metrics['R'].n})",
            interval(probe.metrics["R"]),
            *(interval(probe.controls[name]["R"]) for name in controls.values()),
        ]
        for probe in probes
    ]
    return [
        "**How much is predictable.** R is the share of the norm of attention's output that a linear map of "
        "the hidden state gets right. It is not centred, so read it beside its controls:",
        "\n".join(markdown(["R", "probe", *controls], rows)).strip(),
        f"Random weights: over {probes[0].random_seeds} seeds too. "
        "The preprint's .88 for GPT-2 is neither confirmed nor refuted: its weights were not at hand.",
    ]


def _removable_shares(runs: Sequence[Finished]) -> list[str]:
    """What can go from each model, in which order, in windows of each length."""
    rows, again, chosen = [], list[str](), all(run.summary["chosen"] for run in runs)
    for run in runs:
        s, splits = RemovalSummary.read(run.summary), running(run)
        longest = max((n for of in splits.values() for n, _ in of), default=0)
        order = s.order_for(BUDGETS[1])
        rows.append(_removable_row(f"{s.model}, by {ORDERS[order]}, ", order, run.folder, s))
        for n, of in contexts(run):
            # what running text of that length answers better is left to RESULTS.md
            if n > longest:
                across = "across passages, " if crosses(n, of) else ""
                rows.append(_removable_row(f"the same, {across}", order, of.folder, of.headline))
        first, *others = splits.values() or [[]]
        for _, of in first:
            rows.append(_removable_row("that order, running text, ", order, of.folder, of.headline))
        for passages in others:
            shares = (f"{_at(of.headline, order, BUDGETS[1])} ({n:,} tokens)" for n, of in passages)
            documents, both = passages[0][1].headline.loss_intact.n, shared(first, passages)
            again.append(
                f"Another split (n = {documents}, {both} in both), +{BUDGETS[1]:g} nats: {', '.join(shares)}."
            )
        if first:
            both, books = scored_of_choice(run, first)
            again.append(f"Of the order's {books} documents {both} are scored.")
    head = (
        "model, order, windows",
        *(f"+{budget:g} nats" for budget in BUDGETS),
        f"+{BUDGETS[1]:g} at random",
    )
    how = "chosen on other documents" if chosen else "the best on these documents, which is optimistic"
    return [
        "**How much can go.** Before the loss per token rises by so much a linear prediction can replace, of "
        f"all attention operations, in an order {how} (others may spare more; intervals: for one fit):",
        "\n".join(markdown(head, rows)).strip(),
        *([" ".join(again)] if again else []),
    ]


def _removable_row(what: str, order: str, folder: Path, s: RemovalSummary) -> tuple[str, ...]:
    """The shares in an order, with that of the random one."""
    config = read_json(folder / "config.json")
    dtype = "" if config["dtype"] == "float32" else f", {config['dtype']}"
    return (
        f"{what}{config['context']:,} tokens{dtype} (n = {s.loss_intact.n})",
        *(_at(s, order, budget) for budget in BUDGETS),
        _at(s, "random", BUDGETS[1]),
    )


def _consolidation(run: Finished, decided: Sequence[Decided]) -> list[str]:
    """Attention of CRAM and its control, and what the factorials say where there are some."""
    of, config = Experiments.of(run), run.summary["config"]
    text = (
        "**Consolidation** ([words](docs/glossary.md)). Attention of the rebuilt CRAM model falls to "
        f"{show(of.cell('table4', 'cram', 'attention'), 4)} of positions, of a control without semantic "
        f"memory to {show(of.cell('table4', 'control', 'attention'), 4)}, with "
        f"{config['cram']['keys']} keys, {config['benchmark']['patterns']} patterns, {config['steps']:,} "
        f"steps and a price of {config['objective']['attention_penalty']:g}{_published(of)}."
    )
    if not decided:
        return [
            f"{text} The experiment that separates memory from its use is still to be made, so nothing is "
            "claimed about the mechanism."
        ]
    before, shown, after = finding(decided)
    return [f"{text} {before}", shown, f"{after} ([Design](consolidation/design.md).)"]


def _published(of: Experiments) -> str:
    """Where attention ends with the preprint's price and all else as it is, and with what else the preset
    changes of its objective and model put back; empty where that was not run.
    """
    price = of.cell("published", alone(PRICE), "attention")
    every, novel = (of.cell("published", ALL, metric) for metric in ("attention", "novel"))
    change = difference(price, of.cell("table4", "cram", "attention"))
    chance = 1 / of.run.summary["config"]["benchmark"]["values"]
    depends = ", on which the result depends" * bool(change and change.excludes_zero)
    said = [f"at the preprint's {PAPERS.objective.attention_penalty:g}: {show(price, 4)}"] if price else []
    if every and novel:
        said.append(
            f"its onset, temperature and rank too: {show(every, 4)}, {show(novel)} of novel right, chance "
            f"{chance:.2f}"
        )
    return depends + (f" ({'; '.join(said)})" if said else "")


def results(runs: Sequence[Finished], headline: Sequence[str]) -> str:
    """RESULTS.md."""
    lines = [
        "# Results",
        "",
        "Written by `python -m replication` from the run folders that come with the project. Numbers are "
        "estimate [95 % interval]; `n` counts what the interval is over: held-out documents, seeds, human "
        "studies, or the points of a curve.",
        "",
        "## Claims of the preprint",
        "",
        *headline,
        "",
        "All claims, the rules behind the verdicts and the runs: [REPLICATION.md](REPLICATION.md).",
        "",
    ]
    sections = {
        "probe": ("How much can be predicted", probe_section),
        "training": ("Does training change it", training_section),
        "removal": ("How much can be removed", removal_section),
        "experiments": ("Consolidation", experiment_section),
        "people": ("The model in people's experiments", people_section),
        "fit": ("Decay exponents", fit_section),
    }
    for kind, (title, write) in sections.items():
        mine = [run for run in runs if run.kind == kind]
        lines += [f"## {title}", ""]
        if kind == "experiments":
            lines += settings.by_setting(runs)
        for run in mine:
            lines += [*write(run), ""]
        for name, caption in CAPTIONS.get(kind, {}).items():
            lines += figure(name, caption)
    return "\n".join(lines).rstrip() + "\n"


def probe_section(run: Finished) -> Iterator[str]:
    """Means over layers of one probe run, and whether more text would change them."""
    s = ProbeSummary.read(run.summary)
    yield f"### {s.model}"
    yield ""
    yield (
        f"Means over layers, {s.tokens['train']:,} training tokens, {run.scale} (n = {s.metrics['R'].n}); "
        f"{run.link}."
    )
    yield ""
    sources = {f"probe ({s.feature})": s.metrics} | {
        title: s.controls[name] for name, title in CONTROL_NAMES.items() if name in s.controls
    }
    rows = [(title, *(interval(values[m]) for m in PREDICTORS)) for title, values in sources.items()]
    yield from markdown(
        ("predictor", "R (Definition 1)", "centred R²", "cosine", "operations with an error below 20 %"),
        rows,
    )
    difference = s.differences["random_weights"]
    yield (
        f"Probe minus random weights ({s.random_seeds} seeds, paired over documents): R "
        f"{show(difference['R'], 2, sign=True)}, centred R² {show(difference['R2'], 2, sign=True)}."
    )
    if not s.learning:
        yield (
            "Whether more training text would change these numbers was not measured in this run "
            "(`--learning-curve`)."
        )
    for model, convergence in s.learning.items():
        state = "has converged" if convergence.converged else "still changes"
        yield (
            f"With {model} weights centred R² {state} with the training text: "
            f"{show(convergence.R2_gain, 4, sign=True)} from {convergence.from_tokens:,} to "
            f"{s.tokens['train']:,} tokens."
        )


def training_section(run: Finished) -> Iterator[str]:
    """One row per checkpoint."""
    s = CourseSummary.read(run.summary)
    yield f"### {s.model}"
    yield ""
    yield f"Means over layers, {run.scale} (n = {s.course[0].loss.n}); {run.link}."
    yield ""
    names = ("with_position", "training_mean", "position_mean")
    head = ["step", "nats per token", "bits per byte", "R", "centred R²"]
    head += [f"R, {CONTROL_NAMES[name]}" for name in names]
    rows = []
    for place in s.course:
        own = [interval(place.scores[s.feature][m]) for m in ("R", "R2")]
        controls = [interval(place.scores[name]["R"]) for name in names]
        rows.append((f"{place.step:,}", interval(place.loss), f"{place.bits_per_byte:.3f}", *own, *controls))
    yield from markdown(head, rows)
    for trend in s.trend:
        if trend.metric in ("R", "R2"):
            yield (
                f"Trend of {trend.metric}: {show(trend.slope, 3, sign=True)} per tenfold of steps over the "
                f"{trend.checkpoints} checkpoints after step 0; Page's test: rising p = "
                f"{trend.p_rising:.2g}, falling p = {trend.p_falling:.2g}."
            )
    trained = [place for place in s.course if place.step > 0]
    if len(trained) > 2:
        highest, lowest = (
            pick(trained, key=lambda place: place.scores[s.feature]["R"].estimate) for pick in (max, min)
        )
        yield (
            f"A slope says little about a course that turns: R is highest at step {highest.step:,}, where "
            f"the training mean alone has {show(highest.scores['training_mean']['R'])}, and lowest at step "
            f"{lowest.step:,}."
        )


def removal_section(run: Finished) -> Iterator[str]:
    """All layers replaced, and what each order can remove."""
    s = RemovalSummary.read(run.summary)
    yield f"### {s.model}"
    yield ""
    yield (
        f"{run.scale} (n = {s.loss_intact.n}), {s.loss_intact.estimate:.3f} nats per token intact, "
        f"{s.bytes_per_token:.2f} bytes per token; {run.link}."
    )
    yield ""
    if s.all_layers:
        rows = [
            (replacement_name(name), interval(increase), interval(s.all_layers_recovered.get(name)))
            for name, increase in s.all_layers.items()
        ]
        yield from markdown(
            ("in place of attention in every layer", "nats per token more", "loss recovered"), rows
        )
    if s.removable:
        yield from _removable(s)
        yield "`next`: of whole heads and layers, the next share that was measured, which costs more."
        yield ""
    if others := contexts(run):
        yield from _windows(run, s, others)
    for seed, ((_, first), *longer) in running(run).items():
        yield (
            "Of running text, one passage of each document, the same tokens in windows of each length, the "
            f"split of seed {seed}:"
        )
        yield ""
        yield from _windows(replace(run, folder=first.folder), first.headline, longer)


def _windows(run: Finished, s: RemovalSummary, others: Repeats) -> list[str]:
    """Shares by the length of the windows, in the order to use and at random."""
    order, rows = s.order_for(BUDGETS[1]), []
    for folder, there in (run.folder, s), *((o.folder.resolve(), o.headline) for _, o in others):
        config = read_json(folder / "config.json")
        rows.append(
            (
                f"{config['context']:,}",
                config["dtype"],
                f"{there.tokens['evaluation']:,} (n = {there.loss_intact.n})",
                interval(there.loss_intact),
                *(_at(there, order, budget) for budget in BUDGETS),
                _at(there, "random", BUDGETS[1]),
                replace(run, folder=folder).link,
            )
        )
    shares = [f"at +{budget} nats" for budget in BUDGETS]
    head = (
        *("tokens of a window", "dtype", "held-out tokens", "intact, nats per token"),
        *shares,
        f"at random, {shares[1]}",
        "",
    )
    return [
        f"The share by the length of the windows, in the order {ORDERS[order]}; maps and router are fitted "
        "anew for each:",
        "",
        *markdown(head, rows),
    ]


def _at(s: RemovalSummary, order: str, budget: float) -> str:
    """A share in one order; a dash where it was not measured."""
    found = s.removable.get(order, {}).get(budget)
    return "–" if found is None else found.text()


def _removable(s: RemovalSummary) -> list[str]:
    cells: list[tuple[str, ...]] = [
        (ORDERS[order], *(shares[budget].text() for budget in BUDGETS))
        for order, shares in s.removable.items()
    ]
    return markdown(("share of attention operations removable", *(f"at +{b} nats" for b in BUDGETS)), cells)


def experiment_section(run: Finished) -> Iterator[str]:
    """Cells of the experiments, means over seeds; of the factorial its outcomes and contrasts."""
    if is_factorial(run):
        yield from settings.section(Decided.read(run))
        drawn = "factorial_memory_and_use"
        # the first has its figure among the others
        yield from figure(f"{run.folder.name}/{drawn}", CAPTIONS["experiments"][drawn])
        return
    config = run.summary["config"]
    yield "### Cells of the preprint's tables"
    yield ""
    yield (
        f"{config['cram']['keys'].capitalize()} keys, {config['benchmark']['patterns']} patterns, N = "
        f"{config['benchmark']['length']}, d = {config['cram']['width']}, {config['cram']['layers']} layer, "
        f"{config['steps']:,} steps; {run.link}. Every number depends on the choice of keys and on the price."
    )
    yield ""
    found = pd.read_csv(run.folder / "cells.csv")
    first = dict[tuple[tuple[str, ...], int], str]()
    metrics = ("retrieval", "novel", "attention", "at_recurring", "at_novel", "consolidated")
    rows, again = [], list[str]()
    for (name, cell), part in found.groupby(["table", "cell"], sort=False):
        by = {str(r["metric"]): number(r) for r in part.to_dict("records")}
        count = max((e.n for e in by.values() if e is not None), default=0)
        numbers = tuple(_of_cell(metric, by.get(metric)) for metric in metrics)
        # cells that several tables share are trained once, and shown once
        same = first.setdefault((numbers, count), f"{name}, {cell}")
        if same == f"{name}, {cell}":
            rows.append((str(name), str(cell), *numbers, str(count)))
        else:
            again.append(f"{name}, {cell} ({same})")
    head = (
        "table",
        "cell",
        "right",
        "novel right",
        "positions that attend",
        "at recurring",
        "at novel",
        "seeds whose attention fell to the optimum",
        "n",
    )
    yield from markdown(head, rows)
    if again:
        yield f"The same runs as in a row above, which is named in brackets: {'; '.join(again)}."


def _of_cell(metric: str, values: Estimate | None) -> str:
    if values is None:
        return "–"
    if metric == "consolidated":
        return f"{round(values.estimate * values.n)} of {values.n}"
    return interval(values, 3) if values.lower == values.lower else f"{values.estimate:.3f}"


def fit_section(run: Finished) -> Iterator[str]:
    """Exponents of one curve under every form and estimator."""
    s = run.summary
    yield f"### {s['curve']}"
    yield ""
    yield f"Clock {s['clock']['counts']} ({s['clock']['unit']}), window {window(s)}; {run.link}."
    yield ""
    yield s["forms_verdict"]
    yield ""
    rows = [
        (
            row["form"].replace("_", " "),
            row["estimator"],
            "no fit" if row["failures"] else show(exponent(row)),
            row["failures"] or f"{row['method']} over {row['unit']}s",
        )
        for row in s["exponents"]
    ]
    yield from markdown(("form", "estimator", "γ", "interval"), rows)
    for verdict in (s["multiverse"], *s["equivalences"], s.get("change_point") or {}):
        if "verdict" in verdict:
            yield f"{verdict['verdict']}"
            yield ""
