"""What removal runs say to the reading that what is predictable can go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from labbook.estimate import Estimate
from redundancy.removal.config import CONTROL, ORDERS
from redundancy.removal.curve import BEYOND, BUDGETS, DEPLOYABLE, Removable, best_order
from redundancy.removal.pruning.tables import AgainstMlp, MethodTables, against_mlp
from redundancy.removal.summary import RemovalSummary
from replication import paper
from replication.claims.beside import (
    BUDGET,
    TRAINED,
    UNMOVED,
    Repeats,
    contexts,
    repeats,
    running,
    said_contexts,
    said_running,
    said_seeds,
    unmoved,
)
from replication.rows import Finished, Row, show
from replication.verdict import Verdict, all_of, at_least, at_most

# what stands beside the order that is claimed
BESIDE = (CONTROL, "known_relative", "layers_dropped", *BEYOND)


def removable_share(best: Removable) -> Verdict:
    """At least .88 of the operations go within the budget; a share known only by its limits is judged by
    them.
    """
    share = best.share
    if best.kind == "less than":
        share = replace(share, estimate=share.lower)
    return at_least(share, paper.REDUNDANT)


def stands_for_attention(increases: Sequence[Estimate]) -> Verdict:
    """Some replacement in every layer raises the loss by at most the budget."""
    if not increases:
        return Verdict.UNTESTED
    return at_most(min(increases, key=lambda e: e.estimate), BUDGET)


def spares_more(difference: Estimate | None) -> Verdict:
    """One order can replace a larger share than another within the budget, paired by document."""
    if difference is None:
        return Verdict.UNDECIDED
    if difference.lower > 0:
        return at_least(difference, 0.0)
    # an interval that touches zero is no difference either way
    return Verdict.FAILS if at_most(difference, 0.0) is Verdict.HOLDS else Verdict.UNDECIDED


def removal_rows(run: Finished) -> Iterator[Row]:
    """What can be removed, against what can be predicted."""
    s = RemovalSummary.read(run.summary)
    if s.removable:
        at = {order: shares[BUDGET] for order, shares in s.removable.items()}
        found, again = compared(s), repeats(run)
        others = [(seed, losses.headline) for seed, losses in again]
        windows, splits = contexts(run), running(run)
        beside = (*again, *windows, *(one for split in splits.values() for one in split))
        main = found.main
        yield Row(
            "What is redundant can be removed: 88 % of attention at no cost",
            f"{paper.REDUNDANT} (as R)",
            found.ours,
            "; ".join(f"{ORDERS[order]} {at[order].text()}" for order in BESIDE if order in at),
            run.scale,
            all_of(
                [removable_share(one) for one in (at[main], *(chosen_share(o.headline) for _, o in beside))]
            ),
            own=False,
            sentence=f"{found.how} {_tried(s)} Others may spare more."
            + "".join(
                f" Made again with seed {seed}, the same model and another split of the same documents, some "
                f"of which are scored in both: {compared(other).ours}."
                for seed, other in others
            )
            + said_seeds(run, again)
            + said_contexts(run, main, windows)
            + said_running(run, main, splits)
            + _network(run, again),
            links=f"{run.figure('removal_curve')}{run.link}",
            headline=True,
        )
        yield from _loss_aware(run, s, again)
    if s.all_layers:
        lost = s.all_layers
        blind = ("zero", "shuffled", "training_mean", "resampled")
        same = {"in_place_mlp"} if _gained_nothing(s) else set[str]()
        fitted = {n: e for n, e in lost.items() if n not in {*blind, *same} and not n.startswith("previous")}
        best_name = min(fitted, key=lambda n: fitted[n].estimate)
        recovered = s.all_layers_recovered.get(best_name)
        cost = {name: show(increase, 2, sign=True) for name, increase in lost.items()}
        yield Row(
            "A prediction can stand for attention (implied by R)",
            "not measured",
            f"{cost['probe']} nats per token with the probe in every layer; best of {len(fitted)} "
            f"replacements on these documents ({best_name.replace('_', ' ')}) {cost[best_name]}"
            + (f", {show(recovered)} of what the training mean loses recovered" if recovered else ""),
            f"mean per position {cost['position_mean']}; training mean {cost['training_mean']}; nothing "
            f"{cost['zero']}",
            run.scale,
            stands_for_attention(list(fitted.values())),
            own=False,
            sentence=f"Holds for a rise of at most {BUDGET} nats. {_replaced(s)} {_layers(run)}",
            links=f"{run.figure('removal_by_layer')}{run.link}",
            headline=True,
        )
    yield from _methods(run)


def _methods(run: Finished) -> Iterator[Row]:
    """Whole attention layers against whole MLPs, by every method that can remove both."""
    compared = against_mlp(MethodTables.read(run.folder))
    if compared is None:
        return
    n = compared.removed
    yield Row(
        "Attention is more redundant than the MLP (arXiv:2406.15786 and others, not the preprint)",
        "not measured",
        f"with {n} MLPs gone instead of {n} attention layers the loss is higher by, in nats per token, "
        f"paired by document: {compared.each}",
        "the same documents for both",
        run.scale,
        cheaper_than_mlp(compared.differences),
        own=False,
        sentence="Holds only where every method says so; the random order is left out. With other numbers "
        f"removed: {_said_otherwise(compared)}.",
        links=f"{run.figure('removal_methods')}{run.link}",
    )


def _said_otherwise(compared: AgainstMlp) -> str:
    """The verdict with each other number removed."""
    verdicts = {count: cheaper_than_mlp(each) for count, each in compared.otherwise.items()}
    return ", ".join(f"{count} {verdict.value}" for count, verdict in verdicts.items()) or "not measured"


def cheaper_than_mlp(differences: Sequence[Estimate]) -> Verdict:
    """Whether attention can go more cheaply than the MLP by every method, from losses of the MLP minus losses
    of attention: `partly` where methods differ.
    """
    return all_of([at_least(one, 0.0) for one in differences]) if differences else Verdict.UNDECIDED


def chosen_share(s: RemovalSummary) -> Removable:
    """What the order that answers the claim can replace."""
    return s.removable[compared(s).main][BUDGET]


@dataclass(frozen=True)
class Compared:
    """Which order answers the claim, and beside which others it stands.

    Attributes
    ----------
    main : the order chosen on the validation documents; where none was, the best on the scored ones.
    ours : the share that it can replace, then what the best order on the scored documents can, and the best
        router that sees hidden state and position; an order is named once.
    how : on which documents it was chosen, and what follows.
    """

    main: str
    ours: str
    how: str


def compared(s: RemovalSummary) -> Compared:
    """The orders of a run at the budget. One that sees the label, or a map that sees other tokens, is no
    answer to the claim.
    """
    at = {order: shares[BUDGET] for order, shares in s.removable.items()}
    best = best_order({o: v for o, v in s.removable.items() if o not in BEYOND}, BUDGET)
    router = best_order({o: v for o, v in s.removable.items() if o.startswith("predicted")}, BUDGET)
    chosen = s.chosen.get(BUDGET)
    main = chosen or best
    open_to_a_model = sum(order in DEPLOYABLE for order in at)
    first = (
        f"order that, of {open_to_a_model} that a model could follow, spared most on the validation documents"
        if chosen
        else f"best of {len(at)} orders"
    )
    ours = f"{at[main].text()} (n = {at[main].share.n}) of operations at +{BUDGET} nats per token in the "
    ours += f"{first} ({ORDERS[main]})"
    if best != main:
        ours += f"; {at[best].text()} in the best on these documents ({ORDERS[best]})"
    if router not in (main, best):
        ours += f"; {at[router].text()} for a router that sees hidden state and position ({ORDERS[router]})"
    if not chosen:
        how = "The best order is chosen on the documents it is scored on, which favours the claim."
    else:
        how = "The order was chosen on other documents than those it is scored on" + (
            "; the best of all was chosen on the latter, which favours the claim."
            if best != main
            else ", and on those its share is the largest of those that a model could follow, too."
        )
    return Compared(main, ours, how)


def _trained(s: RemovalSummary) -> str:
    """Whether training through the loss moved the routers away from the one they start from."""
    if not all(unmoved(order, s) for order in TRAINED if order in s.removable):
        return "."
    return (
        f"; these end within {UNMOVED} of the linear one they start from, which competes on the validation "
        "documents, so training found nothing better."
    )


def _tried(s: RemovalSummary) -> str:
    """Which criteria the orders stand for, and how the maps of the curve were fitted."""
    if "trained_together" in s.removable:
        return (
            "Among them are routers that predict the change of the loss, linearly and by a network, and "
            "routers trained through the loss, alone and together with the maps" + _trained(s)
        )
    orders = (name for name in s.removable if name.startswith(("known", "predicted")) and name not in BEYOND)
    criteria = {name.split("_", 1)[1] for name in orders}
    count = f"{len(criteria)} criteria were" if len(criteria) > 1 else "One criterion was"
    knows = ", one of which knows the gradient of the loss" if "fisher" in criteria else ""
    place = (
        "maps trained in place were run with every layer replaced, and not in these orders"
        if "in_place" in s.all_layers
        else "it was not trained in place"
    )
    return (
        f"{count} tried for single operations{knows}; the replacement is a linear map fitted to the intact "
        f"model, layer by layer ({place})."
    )


def _replaced(s: RemovalSummary) -> str:
    """How the replacements of all layers were fitted, and what they can be compared with."""
    trained = {
        "in_place": "together, in place",
        "in_place_rank_16": "together, in place, with slopes of rank 16",
        "in_place_mlp": "together, in place, with a small network beside"
        + " (which gained nothing on the validation documents, so it is the one without)"
        * _gained_nothing(s),
        "sequential": "in sequence, each behind those before it",
    }
    there = [how for name, how in trained.items() if name in s.all_layers]
    text = (
        f"One replacement was trained {'; another '.join(there)}; the others are fitted to the intact model "
        "layer by layer."
        if there
        else "The replacements are fitted to the intact model layer by layer, not trained in place."
    )
    floor = s.lowest_floor()
    if floor is None:
        return text
    text += (
        f" No map that sees one token and its position gets below the entropy of the next token given these "
        f"two. The best model of that kind that was trained here (a {floor[0]}, {s.floor_tokens:,} tokens) "
        f"costs {show(floor[1], 2, sign=True)}; the entropy lies there or below, so the floor may not be "
        "reached yet."
    )
    local = {n: e for n, e in s.all_layers.items() if n.startswith("previous")}
    if local:
        best = min(local, key=lambda name: local[name].estimate)
        text += (
            f" Maps that also see tokens before are not bound by it: with {best.removeprefix('previous_')} "
            f"of them the cost is {show(local[best], 2, sign=True)}."
        )
    return text


def _gained_nothing(s: RemovalSummary) -> bool:
    """Whether the maps trained in place with a network beside are those without, to which they fall back."""
    return "in_place_mlp" in s.all_layers and s.all_layers["in_place_mlp"] == s.all_layers.get("in_place")


def _loss_aware(run: Finished, s: RemovalSummary, again: Repeats) -> Iterator[Row]:
    """Whether a router that knows the loss spares more than one that knows how far the stream is moved."""
    own, other = "predicted_fisher", "predicted_displacement"
    difference, others = _gaps(run, again, own, other)
    if difference is None:
        return
    at = {order: s.removable[order][BUDGET] for order in (own, other)}
    paired = pd.read_csv(run.folder / "paired.csv")
    elsewhere = {b: gap for b in BUDGETS if b != BUDGET and (gap := _more(paired, own, other, b))}
    yield Row(
        "A router that predicts the change of the loss spares more than one that predicts the displacement "
        "of the stream",
        "not measured",
        f"{show(difference, 2, sign=True)} of operations at +{BUDGET} nats per token, paired by document",
        f"{ORDERS[own]} {at[own].text()}; {ORDERS[other]} {at[other].text()}",
        run.scale,
        all_of([spares_more(difference), *(spares_more(gap) for _, gap in others)]),
        own=False,
        sentence="Both are linear in hidden state and position and were fitted to the same documents."
        + "".join(f" At +{budget:g} nats {show(gap, 3, sign=True)}." for budget, gap in elsewhere.items())
        + "".join(f" With seed {seed}: {show(gap, 2, sign=True)}." for seed, gap in others),
        links=f"{run.figure('removal_ranked')}{run.link}",
    )


def _network(run: Finished, again: Repeats) -> str:
    """By how much the small network replaces more than the linear router, in every seed."""
    first, others = _gaps(run, again, "network_fisher", "predicted_fisher")
    if first is None:
        return ""
    gaps = [("here", first), *((f"seed {seed}", gap) for seed, gap in others)]
    said = "; ".join(f"{where} {show(gap, 3, sign=True)}" for where, gap in gaps)
    return f" The network replaces more than the linear router by, paired: {said}."


def _gaps(
    run: Finished, again: Repeats, own: str, other: str
) -> tuple[Estimate | None, list[tuple[int, Estimate]]]:
    """`_more` of a run, None where it did not measure both orders, and of those made again, by seed."""
    path = run.folder / "paired.csv"
    others = [(seed, gap) for seed, losses in again if (gap := _more(losses.paired, own, other))]
    return _more(pd.read_csv(path), own, other) if path.is_file() else None, others


def _more(paired: pd.DataFrame, own: str, other: str, budget: float = BUDGET) -> Estimate | None:
    """By how much one order can replace more than one that stands before it, at a budget."""
    rows = paired[(paired["budget"] == budget) & (paired["order"] == other) & (paired["minus"] == own)]
    return None if rows.empty else -Estimate.read(rows.to_dict("records")[0])


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
