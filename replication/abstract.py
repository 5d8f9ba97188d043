"""The graphical abstract: both questions of the project in one figure, from run folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consolidation.decay.analysis import HUMAN_RANGE
from consolidation.fit.report import PAPER_LINE
from consolidation.replicate.figures import read_runs, setting
from consolidation.replicate.tabulation import over_seeds
from consolidation.train import trajectory
from labbook import style
from labbook.escape import mathtext
from labbook.estimate import Estimate
from redundancy.facts import subject
from redundancy.probe.tables import Tables
from redundancy.removal.curve import BUDGETS
from redundancy.removal.figures import best_of_each_kind, draw_order
from redundancy.removal.tables import Losses
from replication.claims.decay import clocks_differ, of_the_preprint
from replication.claims.decided import Decided, is_factorial
from replication.claims.finding import able_variations, where_learnt
from replication.rows import Finished, exponent

PREDICTORS = {
    "": "hidden state (the probe)",
    "previous_token": "previous token alone",
    "position_mean": "mean per position",
    "training_mean": "one constant",
    "random_weights": "hidden state, random weights",
}


def graphical_abstract(runs: Sequence[Finished]) -> Figure:
    """How predictable attention is and how much of it can go; how attention falls in the rebuilt model, and
    the exponents of the preprint, of that model and of people. The sentences are chosen by the numbers.

    Raises ValueError when a kind of run is missing.
    """
    of = {
        kind: [run for run in runs if run.kind == kind] for kind in ("probe", "removal", "experiments", "fit")
    }
    # the factorials hold cells and not the models that are drawn here
    decided = Decided.among(of["experiments"])
    of["experiments"] = [run for run in of["experiments"] if not is_factorial(run)]
    missing = [kind for kind, found in of.items() if not found]
    if missing:
        raise ValueError(f"the graphical abstract needs runs of {', '.join(missing)}")
    figure, panels = plt.subplots(2, 2, figsize=(style.WIDTH, 6.4))
    _predicted(panels[0, 0], [Tables.read(run.folder) for run in of["probe"]])
    _removed(panels[0, 1], Losses.read(of["removal"][0].folder))
    _attention(panels[1, 0], of["experiments"][0].folder, decided)
    _exponents(panels[1, 1], of["fit"])
    shown = [subject(Tables.read(run.folder)) for run in of["probe"]]
    removed = subject(Losses.read(of["removal"][0].folder))
    style.title(
        figure,
        f"Prediction: {', '.join(shown)}; removal: {removed}; memory: "
        f"{setting(read_runs(of['experiments'][0].folder))}; 95 % intervals over documents, seeds, points "
        "or studies",
    )
    return figure


def _head(axes: Axes, question: str, answer: str) -> None:
    axes.set_title(f"{question}\n", fontsize=10, fontweight="bold", loc="left", x=0)
    axes.annotate(
        answer,
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7.5,
        color="0.3",
    )


def _point(axes: Axes, number: Estimate, place: float, colour: Any, marker: str = "o") -> None:
    axes.plot([number.lower, number.upper], [place, place], color=colour, lw=1.6)
    axes.plot(number.estimate, place, marker, ms=5, color=colour)


def _name(axes: Axes, text: str, place: float) -> None:
    """The name of a row, above its points."""
    axes.text(0, place + 0.42, text, fontsize=7.5, color="0.2", va="center")


def _predicted(axes: Axes, probes: Sequence[Tables]) -> None:
    for which, (tables, colour) in enumerate(zip(probes, style.PALETTE, strict=False)):
        head = tables.headline
        for place, name in enumerate(PREDICTORS):
            scores = head.controls[name] if name else head.metrics
            _point(axes, scores["R"], -place + 0.1 - 0.26 * which, colour, "os^D"[which % 4])
        shown = mathtext("embedded model" if head.model == "embedded" else head.model.split(" (")[0])
        axes.text(
            head.metrics["R"].upper + 0.03, 0.1 - 0.26 * which, shown, color=colour, fontsize=8, va="center"
        )
    for place, text in enumerate(PREDICTORS.values()):
        _name(axes, text, -place)
    axes.set(xlim=(0, 1), ylim=(-len(PREDICTORS) + 0.4, 0.7), yticks=[])
    axes.set_xlabel("R: share of attention's output that is predicted")
    near = min(
        max(head.controls[name]["R"].estimate for name in PREDICTORS if name) / head.metrics["R"].estimate
        for head in (tables.headline for tables in probes)
    )
    _head(axes, "Can attention be predicted without it?", predicted(near))


def predicted(near: float) -> str:
    """The sentence about R; `near` is what the strongest control reaches of it, the least of all models."""
    return f"the strongest control here reaches {near:.0%} of the probe's R or more"


def _removed(axes: Axes, losses: Losses) -> None:
    edge = 0.5
    lines = losses.curve[losses.curve["metric"].isin(["share", "loss_increase"])]
    chosen = best_of_each_kind(losses)
    # the right ends of the names, where no line passes
    places = {"best router": (0.49, 0.02), "random": (0.2, 0.22), "whole layers, replaced": (0.49, 0.21)}
    axes.set(
        xlabel="share of attention replaced",
        ylabel="loss increase (nats per token)",
        xlim=(0, edge),
        ylim=(0, 0.3),
    )
    for order, (name, colour) in chosen.items():
        kind = name.split(":")[0]
        if kind not in places:
            continue
        draw_order(axes, lines, order, 0.2, color=colour, lw=1.8)
        axes.text(*places[kind], kind.replace(", ", ",\n"), color=colour, fontsize=8, ha="right", va="center")
    axes.axhline(BUDGETS[1], color="0.75", lw=0.7, zorder=0)
    axes.text(edge, BUDGETS[1], f"+{BUDGETS[1]} nats", fontsize=7, color="0.45", ha="right", va="bottom")
    order = losses.headline.order_for(BUDGETS[1])
    spared, blind = (losses.headline.removable[name][BUDGETS[1]].share for name in (order, "random"))
    _head(axes, "Can it be removed?", removed(spared, blind))


def removed(spared: Estimate, blind: Estimate) -> str:
    """The sentence about what the chosen order and a random one replace within the middle budget."""
    if spared.lower > blind.upper:
        shares = f"{spared.estimate:.0%}, chance {blind.estimate:.0%}"
        return f"for +{BUDGETS[1]} nats the chosen order spares {shares}"
    return "the chosen order is not told from chance"


def _attention(axes: Axes, folder: Path, decided: Sequence[Decided]) -> None:
    runs, last = read_runs(folder), dict[str, Sequence[float]]()
    first = runs.summaries["cram"][0]
    pressure = first.events.get("routing pressure sets in", 0)
    axes.set(
        yscale="log",
        xlabel="training step",
        ylabel="share of positions that attend",
        ylim=(0.01, 1),
        xlim=(0, first.steps),
    )
    for name, text, colour in (
        ("cram", "with a semantic memory (CRAM)", style.PALETTE[0]),
        ("control", "without one", style.PALETTE[1]),
    ):
        if name in runs.folders:
            course = trajectory.course(runs.folders[name], "attention").dropna()
            course = course[course.index >= pressure]
            found = interval_by_step(course)
            axes.plot(found["estimate"], color=colour, lw=1.6)
            axes.fill_between(found.index, found["lower"], found["upper"], color=colour, alpha=0.2, lw=0)
            last[name] = course.iloc[-1].tolist()
            axes.text(
                0.97,
                0.93 - 0.09 * len(last),
                text,
                color=colour,
                fontsize=8,
                transform=axes.transAxes,
                ha="right",
            )
    axes.axhline(first.optimum, color="0.4", lw=0.9, ls=":")
    axes.text(0, first.optimum, " optimum of the task", fontsize=7.5, color="0.4", va="top")
    config = trajectory.read_config(trajectory.seeds(runs.folders["cram"])[0])
    setting = f"{config['cram']['keys']} keys, price {config['objective']['attention_penalty']:g}"
    _head(axes, "Does memory spare attention?", f"{setting}: {attended(last)}")
    if decided:
        # in short lines: what falls at the left stays free
        # where retrieval is not learnt, routers read little for another reason
        able = where_learnt(decided)
        lines = [line.replace(": ", ":\n") for one in able for line in spared(one)]
        where = ",\nwhere retrieval is learnt:" if len(able) < len(decided) else ":"
        text = "\n".join([f"recurring queries read without\na memory, minus with one{where}", *lines])
        axes.text(0.97, 0.7, text, fontsize=7.2, color="0.3", transform=axes.transAxes, ha="right", va="top")


def spared(decided: Decided) -> list[str]:
    """The contrast of a factorial between a router without a memory and one with, and its state; and with
    another choice, see `able_variations`.
    """
    shown = [(decided, f"{decided.of.keys} keys, price {decided.of.price:g}")]
    shown += [(one.there, f"the same, {one.choice}") for one in able_variations(decided)]
    contrasts = [(one.of.contrast("B - A"), named) for one, named in shown]
    return [f"{named}: {one.number.text(2, sign=True)}, {one.state}" for one, named in contrasts]


def interval_by_step(course: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and its 95 % interval, Student's, at every step: estimate, lower and upper by step,
    from shares by step and seed.
    """
    rows = [vars(over_seeds(values, "attention")) for values in course.to_numpy(dtype=float)]
    return pd.DataFrame(rows, index=course.index)[["estimate", "lower", "upper"]]


def attended(last: Mapping[str, Sequence[float]]) -> str:
    """The sentence about where the seeds end, with (`cram`) and without (`control`) a memory."""
    if len(last) < 2:
        return "one of the two models was run"
    cram, control = last["cram"], last["control"]
    if max(cram) < min(control):
        return "every seed ends lower with a memory"
    if max(control) < min(cram):
        return "every seed ends lower without a memory"
    return f"both end in one range (n = {len(cram)}, {len(control)})"


def _exponents(axes: Axes, fits: Sequence[Finished]) -> None:
    rows: list[tuple[str, Estimate | None, Any]] = [("the line that the preprint draws", None, "0.3")]
    for run in fits:
        own = (
            "a power law on the preprint's own points"
            if of_the_preprint(run)
            else "the same on the rebuilt model"
        )
        state = run.summary["standing"]["state"]
        named = own if state == "survives" else f"{own}: {state}"
        rows.append((named, exponent(run.summary["gamma"]), style.PALETTE[0]))
    for equal in (e for run in fits for e in run.summary["equivalences"]):
        number = Estimate(**{k: equal["human_mean"][k] for k in ("estimate", "lower", "upper", "n")})
        said = {"time": "people, times", "error": "people, errors"}.get(
            equal["measure"], f"people, {equal['measure']}"
        )
        rows.append((f"{said}: mean of {number.n} studies", number, style.PALETTE[3]))
    axes.axvspan(*HUMAN_RANGE, color=style.PALETTE[1], alpha=0.3, lw=0)
    for place, (_, found, colour) in enumerate(rows):
        if found is None:
            axes.plot(PAPER_LINE[1], -place, "D", ms=5, mfc="none", color=colour)
        else:
            _point(axes, found, -place, colour)
    for place, (text, *_) in enumerate(rows):
        _name(axes, text, -place)
    shade = tuple(0.7 * c for c in style.PALETTE[1])
    axes.text(HUMAN_RANGE[1], 0, " range claimed of people", fontsize=7.5, color=shade, va="center")
    axes.set(xlim=(0, None), ylim=(-len(rows) + 0.4, 0.7), yticks=[])
    axes.set_xlabel("exponent γ of the power law" + " (clocks differ)" * clocks_differ(fits))
    people = [number for _, number, colour in rows if number is not None and colour == style.PALETTE[3]]
    _head(axes, "Does it decay as in people?", compared(people))


def compared(people: Sequence[Estimate]) -> str:
    """The sentence about the mean exponents of people, one for each class of measure."""
    apart = any(a.upper < b.lower for a in people for b in people)
    return (
        "people's exponents depend on what is measured" if apart else "people's exponents by what is measured"
    )


def draw(runs: Sequence[Finished], destination: Path) -> list[Path]:
    """Draw the graphical abstract as PNG and PDF."""
    return style.draw(runs, {"graphical_abstract": graphical_abstract}, destination)
