"""What probe, training and removal runs say to section 2 and tables 6 and 7 of the preprint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from labbook.console import UserError
from labbook.estimate import Estimate
from redundancy.removal.tables import BUDGETS, ORDERS, best_order, show_share
from replication import paper
from replication.rows import Finished, Row, number, show
from replication.verdict import Verdict, all_of, at_least, at_most, equals

# nats per token that count as no cost
BUDGET = BUDGETS[1]


def predictable(r: Estimate, stated: float | None) -> Verdict:
    """R is the paper's for this model, or, for another model (None), at least its smaller one less its
    spread.
    """
    if stated is None:
        return at_least(r, paper.R_SMALL - paper.R_SPREAD)
    return equals(r, stated, paper.R_SPREAD)


def head_groups(shares: Mapping[str, Estimate]) -> Verdict:
    """Each group of heads has the share that the paper gives, to .05."""
    return all_of([equals(shares.get(name), stated, 0.05) for name, stated in paper.HEAD_GROUPS.items()])


def does_not_fall(whole: Estimate | None, late: Estimate | None, slope: Estimate | None) -> Verdict:
    """R does not fall: from the first step to the last, in the part of training that the paper covers, and as
    a trend.
    """
    return all_of([at_least(change, 0.0) for change in (whole, late, slope)])


def removable_share(best: Mapping[str, Any]) -> Verdict:
    """At least .88 of the operations go within the budget; a share known only by its limits is judged by
    them.
    """
    if best["kind"] == "less than":
        return at_least(Estimate(best["lower"], best["lower"], best["upper"], best["n"]), paper.REDUNDANT)
    return at_least(number(dict(best)), paper.REDUNDANT)


def stands_for_attention(increases: Sequence[Estimate]) -> Verdict:
    """Some replacement in every layer raises the loss by at most the budget."""
    if not increases:
        return Verdict.UNTESTED
    return at_most(min(increases, key=lambda e: e.estimate), BUDGET)


def probe_rows(run: Finished) -> Iterator[Row]:
    """R of Definition 1, the reading as a share of operations, and the head groups."""
    s = run.summary
    metrics = {name: number(v) for name, v in s["metrics"].items()}
    controls = {name: {m: number(v) for m, v in values.items()} for name, values in s["controls"].items()}
    r, own = metrics["R"], "paper" in s
    assert r is not None
    _require_own_tables(run, r)
    stated = s["paper"]["R"] if own else None
    yield Row(
        "Attention's output is predictable from the hidden state: R of Definition 1 as high as stated (for "
        f"another model: at least the smaller value less its spread, {paper.R_SMALL - paper.R_SPREAD:.2f})",
        f"R = {stated:.2f} (this model)"
        if stated
        else f"R = {paper.R_SMALL} and {paper.R_MEDIUM} (GPT-2 124M and 355M; mean {paper.REDUNDANT})",
        f"R = {show(r)}; centred R² {show(metrics['R2'])}",
        f"training mean {show(controls['training_mean']['R'])}; mean per position "
        f"{show(controls['position_mean']['R'])}; random weights ({s['random_seeds']} seeds) "
        f"{show(controls['random_weights']['R'])}, centred R² {show(controls['random_weights']['R2'])}",
        run.scale,
        predictable(r, stated),
        own,
        f"Knowing the position too, R is {show(controls['with_position']['R'])}. R is not centred, so a "
        "constant earns a part of it.",
        f"{run.figure('redundancy_by_layer')}{run.link}",
        headline=True,
    )
    share = "share_operations_error_below_0.2"
    yield Row(
        "88 % of attention operations are redundant (the reading of the title figure as a share of "
        "operations)",
        f"{paper.REDUNDANT}",
        f"{show(metrics[share])} of (token × head) operations predicted with an error below 20 %",
        f"hidden state and position {show(controls['with_position'][share])}; training mean "
        f"{show(controls['training_mean'][share])}",
        run.scale,
        at_least(metrics[share], paper.REDUNDANT),
        own,
        "The preprint's .88 is a mean of R, not a share of operations; the limit of 20 % is ours "
        f"(below 50 %: {show(metrics['share_operations_error_below_0.5'])}).",
        f"{run.figure('redundancy_distribution')}{run.link}",
    )
    groups = {name: number(v) for name, v in s["head_groups"][s["feature"]].items()}
    stated_groups = {name: value for name, value in groups.items() if value is not None}
    yield Row(
        "Heads fall into three groups, R > .8, .5 to .8, < .5",
        " / ".join(f"{value:.0%}" for value in paper.HEAD_GROUPS.values()) + " (model not said)",
        " / ".join(show(groups[name]) for name in paper.HEAD_GROUPS),
        "training mean "
        + " / ".join(show(number(s["head_groups"]["training_mean"][name])) for name in paper.HEAD_GROUPS),
        run.scale,
        head_groups(stated_groups),
        False,  # the paper does not say which model
        f"{len(s['layers']) * s['heads_per_layer']} heads.",
        f"{run.figure('redundancy_by_head')}{run.link}",
    )


def _require_own_tables(run: Finished, r: Estimate) -> None:
    """Raise UserError when the headline of a summary is not the mean of the run's own table."""
    layers = pd.read_csv(run.folder / "layers.csv")
    rows = layers[(layers["feature"] == run.summary["feature"]) & (layers["metric"] == "R")]
    if not abs(float(rows["estimate"].mean()) - r.estimate) < 1e-6:
        raise UserError(
            f"{run.folder}: summary.json says R = {r.estimate:.4f}, layers.csv has a mean of "
            f"{rows['estimate'].mean():.4f}. One of them was changed; restore it from a copy, or make the "
            "run again."
        )


def training_rows(run: Finished) -> Iterator[Row]:
    """Whether redundancy falls in training; only courses of more than two checkpoints say anything."""
    s = run.summary
    if len(s["checkpoints"]) < 3:
        return
    overall = pd.read_csv(run.folder / "overall.csv").fillna({"against": ""})
    probe = overall[(overall["feature"] == s["feature"]) & (overall["metric"] == "R")]
    to_last = probe[probe["against"] == "last"].set_index("step").to_dict("index")
    trained = [place for place in s["course"] if place["step"] > 0]
    last = trained[-1]["step"]

    def change(step: int) -> Estimate:
        row = to_last[step]
        return Estimate(-row["estimate"], -row["upper"], -row["lower"], int(row["n"]))

    # the paper's first checkpoint comes at 1 / 30 of its training; its loss in nats cannot be compared across
    # tokenizers
    part = paper.COURSE_STEPS[1] / paper.COURSE_STEPS[0]
    start = next(place["step"] for place in trained if place["step"] >= last / part)
    slope = next((number(t) for t in s["trend"] if t["metric"] == "R"), None)
    whole, late = change(trained[0]["step"]), change(start)
    top = max(trained, key=lambda place: place[s["feature"]]["R"]["estimate"])
    square = {place["step"]: number(place[s["feature"]]["R2"]) for place in trained}
    yield Row(
        "Redundancy does not fall in training (table 7)",
        f"R {paper.COURSE_R[0]} to {paper.COURSE_R[1]} from step 10K to 300K",
        f"R {show(whole, 3, sign=True)} from step {trained[0]['step']:,} to {last:,}; {show(late, 3, sign=True)} from "
        f"step {start:,}, the first after 1/{part:.0f} of training; trend {show(slope, 3, sign=True)} per "
        "tenfold of steps",
        f"training mean {show(number(top['training_mean']['R']))} at step {top['step']:,}, where R is "
        f"highest, {show(number(top[s['feature']]['R']))}",
        run.scale,
        does_not_fall(whole, late, slope),
        False,
        "The answer depends on where one starts and on the score: centred R² goes from "
        f"{show(square[trained[0]['step']])} to {show(square[last])}. At step {top['step']:,} the model has "
        f"{top['bits_per_byte']:.2f} bits per byte, at the end {trained[-1]['bits_per_byte']:.2f}.",
        f"{run.figure('training_course')}{run.link}",
        headline=True,
    )


def removal_rows(run: Finished) -> Iterator[Row]:
    """What can be removed, against what can be predicted."""
    s = run.summary
    if s["removable"]:
        at = {order: values[f"{BUDGET:g}"] for order, values in s["removable"].items()}
        best = best_order(s["removable"], BUDGET)
        router = best_order({o: v for o, v in s["removable"].items() if o.startswith("predicted")}, BUDGET)
        yield Row(
            "What is redundant can be removed: 88 % of attention at no cost",
            f"{paper.REDUNDANT} (as R)",
            f"{show_share(at[best])} of operations at +{BUDGET} nats per token in the best of {len(at)} "
            f"orders ({ORDERS[best]}); {show_share(at[router])} for a router that sees hidden state and "
            f"position ({ORDERS[router]})",
            f"random order {show_share(at['random'])}; order by R {show_share(at['known_relative'])}; whole "
            f"layers by cosine, dropped {show_share(at['layers_dropped'])}",
            run.scale,
            removable_share(at[best]),
            False,
            "The best order is chosen on the documents it is scored on, which favours the claim. Three "
            "criteria were tried, one of which knows the gradient of the loss; the replacement is a linear "
            "map that was not trained in place. Others may spare more.",
            f"{run.figure('removal_curve')}{run.link}",
            headline=True,
        )
    if s["all_layers"]:
        lost = {name: number(v) for name, v in s["all_layers"].items()}
        fitted = {
            n: e for n, e in lost.items() if e is not None and n not in ("zero", "shuffled", "training_mean")
        }
        best_name = min(fitted, key=lambda n: fitted[n].estimate)
        recovered = number(s["all_layers_recovered"].get(best_name))
        yield Row(
            "A prediction can stand for attention (implied by R)",
            "not measured",
            f"{show(lost['probe'], 2, sign=True)} nats per token with the probe in every layer; best of "
            f"{len(fitted)} replacements ({best_name.replace('_', ' ')}) {show(fitted[best_name], 2, sign=True)}"
            + (f", {show(recovered)} of what the training mean loses recovered" if recovered else ""),
            f"mean per position {show(lost['position_mean'], 2, sign=True)}; training mean "
            f"{show(lost['training_mean'], 2, sign=True)}; nothing {show(lost['zero'], 2, sign=True)}",
            run.scale,
            stands_for_attention(list(fitted.values())),
            False,
            "The replacements are fitted to the intact model layer by layer, not trained in place. "
            f"{_layers(run)}",
            f"{run.figure('removal_by_layer')}{run.link}",
            headline=True,
        )


def _layers(run: Finished) -> str:
    """In which layers a mean per position costs less than the probe, with intervals apart."""
    table = pd.read_csv(run.folder / "substitution.csv")
    alone = table[(table["part"] == "layers") & (table["metric"] == "loss_increase")]
    wide = alone.pivot(index="layer", columns="replacement", values=["estimate", "lower", "upper"])
    if wide.empty or "position_mean" not in wide["estimate"]:
        return ""
    better = wide[wide["upper", "position_mean"] < wide["lower", "probe"]]
    if better.empty:
        return "In no single layer does a mean per position, which sees no text, cost less than the probe."
    names = ", ".join(f"{layer:.0f}" for layer in better.index)
    costs = ", ".join(
        f"{row['estimate', 'position_mean']:.3f} against {row['estimate', 'probe']:.3f}"
        for _, row in better.iterrows()
    )
    return (
        f"In layer {names} a mean per position, which sees no text, costs less than the probe ({costs} nats "
        "per token)."
    )
