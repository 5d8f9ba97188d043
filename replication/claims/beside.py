"""Removal runs beside a removal run: with another seed, in windows of other lengths, on running text."""

import math
from dataclasses import replace
from pathlib import Path

from labbook.console import UserError
from labbook.estimate import Estimate
from labbook.run import read_json
from redundancy.removal.config import CONTROL, ORDERS
from redundancy.removal.curve import BUDGETS, Removable
from redundancy.removal.summary import RemovalSummary
from redundancy.removal.tables import Losses
from redundancy.text import EXCERPT, STRETCHES
from replication.rows import CONTEXT, REPEAT, RUNNING, Finished, show

# nats per token that count as no cost
BUDGET = BUDGETS[1]
# runs made again, by what was varied
Repeats = list[tuple[int, Losses]]
# runs on the same text in windows of each length, by the seed of the split, that of the run's own name first
Splits = dict[int, Repeats]
# measures of harm beside the budget of loss, as the curve has them
HARM = {
    "loss_increase": "the loss rises by",
    "kl": "the divergence from the intact model is",
    "top1_agreement": "its first choice is kept in",
}
# what a longer window changes in the share that can be replaced, where that is known
MORE, LESS = "more can go there", "less can go there"
# what running text has to have in common with the run that it lies beside, whose weights may be rounded
ALIKE = ("layers", "keep_position_0", "bos", "ridge")
# routers trained through the loss, and the share up to which one is where it started
START, TRAINED, UNMOVED = "predicted_fisher", ("trained_router", "trained_together"), 0.001
# what says how much of a run was measured, and in which precision, which the weights follow
MEASURED = {"parts", "shares", "orders", "targets", "tokens", "eval_tokens", "random_seeds", "dtype"}


def repeats(run: Finished) -> Repeats:
    """The same run with other seeds, by seed. Raises UserError where one is of another model or text, and
    where two have the same seed, or one differs in more.
    """
    return _beside(run, REPEAT, "seed")


def contexts(run: Finished) -> Repeats:
    """The same model in windows of other lengths, by their tokens. Raises UserError where one is of another
    model or text or differs in more, and where two have the same length.
    """
    return _beside(run, CONTEXT, "context")


def running(run: Finished) -> Splits:
    """The same model on running text, the same tokens in windows of each length, by their tokens, for each
    split of it; empty where there is no such run. Raises UserError where one is of another model, dtype or
    share of the text, of the same text as the run, or of the documents of another split.
    """
    folder = run.folder.with_name(f"{run.folder.name}{RUNNING}")
    if not folder.is_dir():
        return {}
    first, wrong = Losses.read(folder), ""
    config, own = (read_json(each / "config.json") for each in (folder, run.folder))
    if first.headline.model != run.summary["model"]:
        wrong = f"is of {first.headline.model} instead of {run.summary['model']}"
    elif config["data_hash"] == own["data_hash"]:
        wrong = "is of the same text"
    elif more := [key for key in ALIKE if config[key] != own[key]]:
        wrong = f"differs from it in {', '.join(more)}, too"
    if wrong:
        raise UserError(
            f"{folder} is called as {run.folder.name} on running text, and {wrong}. Move it, or name it "
            "otherwise."
        )
    on_passages = replace(run, folder=folder)
    folders = {int(config["seed"]): folder} | {seed: losses.folder for seed, losses in repeats(on_passages)}
    scored = dict[frozenset[str], Path]()
    for split in folders.values():
        names = frozenset(_documents(split)["evaluation"])
        if names in scored:
            raise UserError(
                f"{split} and {scored[names]} are called two splits, and scored the same documents. Move "
                "one, or name it otherwise."
            )
        scored[names] = split
    return {seed: _by_length(replace(run, folder=split)) for seed, split in folders.items()}


def _documents(folder: Path) -> dict[str, list[str]]:
    """The names of the documents of a run, by what they were used for."""
    found: dict[str, list[str]] = read_json(folder / "provenance.json")["documents"]
    return found


def _by_length(run: Finished) -> Repeats:
    """A run and those beside it, by the length of their windows. Raises UserError where they differ in the
    dtype, or did not read the same tokens.
    """
    first, config = Losses.read(run.folder), read_json(run.folder / "config.json")
    others = contexts(run)
    for _, losses in others:
        if (other := read_json(losses.folder / "config.json")["dtype"]) != config["dtype"]:
            raise UserError(
                f"{losses.folder} is in {other} and {run.folder} in {config['dtype']}, so more differs than "
                "the length of the windows. Make one of them again with the other's --dtype."
            )
        same = _documents(losses.folder) == _documents(run.folder)
        if not same or losses.headline.tokens != first.headline.tokens:
            raise UserError(
                f"{losses.folder} read {losses.headline.tokens} tokens and {run.folder} "
                f"{first.headline.tokens}{'' if same else ', of other documents'}, so they are not of the "
                "same text in windows of different lengths. Make one of them again with the other's --seed, "
                "--tokens and --eval-tokens."
            )
    return sorted([(int(config["context"]), first), *others])


def _beside(run: Finished, mark: str, varied: str) -> Repeats:
    """The folders beside a run that are called after it, by what varies in their configuration."""
    found, own = dict[int, Losses](), read_json(run.folder / "config.json")
    for folder in sorted(run.folder.parent.glob(f"{run.folder.name}{mark}*")):
        if mark == REPEAT and CONTEXT in folder.name.removeprefix(run.folder.name):
            continue  # it lies beside a repeat, in windows of another length
        losses, config = Losses.read(folder), read_json(folder / "config.json")
        value, wrong = int(config[varied]), ""
        more = sorted(k for k in {*own, *config} - MEASURED - {varied} if own.get(k) != config.get(k))
        if losses.headline.model != run.summary["model"]:
            wrong = f"is of {losses.headline.model} instead of {run.summary['model']}"
        elif config["data_hash"] != own["data_hash"]:
            wrong = "is of another text"
        elif value == own[varied]:
            wrong = f"has the same {varied}, {value}"
        elif value in found:
            wrong = f"has {varied} {value} as {found[value].folder.name} has"
        elif more and (config["dtype"] == own["dtype"] or more != ["weight_hash"]):
            wrong = f"differs in {', '.join(more)}, too"
        if wrong:
            raise UserError(
                f"{folder} is called as {run.folder.name} made again, and {wrong}. Move it, or name it "
                "otherwise."
            )
        found[value] = losses
    return sorted(found.items())


def differs_in_dtype(run: Finished, other: Losses) -> str:
    """The dtype of weights and activations in another run, where it is not that of the run; else empty."""
    own, there = (str(read_json(folder / "config.json")["dtype"]) for folder in (run.folder, other.folder))
    return "" if there == own else there


def apart(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, with the limits of two independent estimates, as Donner and Zou (2012) combine
    them; of the same documents they are wider than those of the paired difference where documents that allow
    more in one allow more in the other.
    """
    gap = first.estimate - second.estimate
    below = math.hypot(first.estimate - first.lower, second.upper - second.estimate)
    above = math.hypot(first.upper - first.estimate, second.estimate - second.lower)
    return Estimate(gap, gap - below, gap + above, min(first.n, second.n))


def longer_windows(gap: Estimate) -> str:
    """What a longer window changes in the share that can be replaced."""
    if gap.excludes_zero:
        return MORE if gap.lower > 0 else LESS
    return "the two are not told apart, which does not make them equal"


def said_contexts(run: Finished, order: str, others: Repeats) -> str:
    """Whether the share holds in windows of another length."""
    here, said = RemovalSummary.read(run.summary), ""
    context = int(read_json(run.folder / "config.json")["context"])
    for tokens, losses in others:
        there = _share(losses.headline, order)
        if there is None:
            said += f" In windows of {tokens:,} tokens this order was not measured."
            continue
        said += (
            f" In windows of {tokens:,} tokens, instead of {context:,}, the same order replaces "
            f"{there.text()} (n = {there.share.n})"
        )
        gap, dtype = _moved(order, here, losses.headline), differs_in_dtype(run, losses)
        if gap is None:
            said += "."
            continue
        said += (
            f", {show(gap, 2, sign=True)} as of independent samples: "
            f"{longer_windows(gap)}. Maps and router are fitted anew there, and scored on "
            f"{losses.headline.tokens['evaluation']:,} tokens{dtype and f', the model in {dtype}'}; longer "
            f"windows reach later text{crosses(tokens, losses)}."
        )
        if by_chance := _moved(CONTROL, here, losses.headline):
            said += f" The random order changes by {show(by_chance, 2, sign=True)}."
    return said


def said_seeds(run: Finished, again: Repeats) -> str:
    """Which shares another split moves: intervals over documents are those of one fit of maps and routers."""
    here, said = RemovalSummary.read(run.summary), ""
    for seed, losses in again:
        same = {order for order in TRAINED if all(unmoved(order, of) for of in (here, losses.headline))}
        orders = [order for order in here.removable if order not in {CONTROL, *same}]
        moved = {order: _moved(order, here, losses.headline) for order in orders}
        gaps = {order: gap for order, gap in moved.items() if gap is not None}
        told = [
            f"{ORDERS[order]} {show(gap, 2, sign=True)}" for order, gap in gaps.items() if gap.excludes_zero
        ]
        if gaps:
            named = f" ({'; '.join(told)})" if told else ""
            said += (
                f" Of {len(gaps)} orders {len(told)} are told apart from the other split's{named} with seed "
                f"{seed}, as of independent samples: intervals are over documents, for one fit of maps and "
                f"router{'; routers that training left where they began are not counted' if same else ''}."
            )
    return said


def unmoved(order: str, of: RemovalSummary) -> bool:
    """Whether training through the loss left the share of a router where that of the one it began from is."""
    trained, begun = _share(of, order), _share(of, START)
    if trained is None or begun is None:
        return False
    return abs(trained.share.estimate - begun.share.estimate) <= UNMOVED


def _share(of: RemovalSummary, order: str, budget: float = BUDGET) -> Removable | None:
    """What an order can replace; None where it was not measured."""
    return of.removable.get(order, {}).get(budget)


def _moved(
    order: str, here: RemovalSummary, there: RemovalSummary, budget: float = BUDGET
) -> Estimate | None:
    """By how much more an order can replace in another run, as of independent samples; None where one of the
    shares is a limit or a single measured point, which have no difference with an interval.
    """
    first, second = _share(here, order, budget), _share(there, order, budget)
    if first is None or second is None or {first.kind, second.kind} != {"interpolated"}:
        return None
    return apart(second.share, first.share)


def crosses(tokens: int, losses: Losses) -> str:
    """That windows of so many tokens span a jump, where the text is the embedded one, which is made of
    passages (`redundancy.text.excerpts`); empty where they do not, or for another text.
    """
    if read_json(losses.folder / "provenance.json").get("corpus") != "embedded":
        return ""
    passage = EXCERPT // STRETCHES / losses.headline.bytes_per_token
    if tokens <= passage:
        return ""
    return f", here beyond the first passage of a document (some {round(passage, -2):,.0f} tokens)"


def said_running(run: Finished, order: str, splits: Splits) -> str:
    """The share by the length of the windows on running text, in an order, for each split of it; how it
    changes from the shortest to the longest at every budget, and at random.
    """
    measured = {seed: found for seed, of in splits.items() if (found := _measured(order, of))}
    if not measured:
        return ""
    first, *others = measured.items()
    said = (
        " The order is carried over to running text. In one passage of running text of each of "
        f"{_said_split(run, order, first[1])}"
    )
    moved = [gap for found in measured.values() if (gap := _change(order, found))]
    for seed, found in others:
        said += (
            f" With another split of the same passages (seed {seed}), {shared(first[1], found)} of which are "
            "scored in both, of "
            f"{_said_split(run, order, found)}{_between_splits(order, first[1], found)}"
        )
    if not moved:
        return said
    told = {longer_windows(gap) for gap in moved}
    if len(moved) == 1:
        said += " One split was measured in windows of each length"
    elif len(told) == 1:
        said += f" All {len(moved)} splits say so"
    elif {MORE, LESS} <= told:
        said += f" The {len(moved)} splits contradict each other, so the change hangs on the split"
    else:
        told_apart = sum(gap.excludes_zero for gap in moved)
        changes = ", ".join(f"{gap.estimate:+.3f}" for gap in moved)
        said += f" The lengths are told apart in {told_apart} of {len(moved)} splits, at changes of {changes}"
    if len(moved) > 1:
        said += "; splits that share documents are no independent replications"
    return (
        f"{said}. Maps and router are fitted anew for each length, once per split, which no interval here "
        "knows of, and may be worse for one than for the other."
    )


def shared(first: Repeats, second: Repeats) -> int:
    """How many documents two splits score both."""
    one, other = (set(_documents(split[0][1].folder)["evaluation"]) for split in (first, second))
    return len(one & other)


def _between_splits(order: str, first: Repeats, second: Repeats) -> str:
    """How far the shares of two splits lie apart, in windows of equal length."""
    there = dict(second)
    gaps = {n: _moved(order, one.headline, there[n].headline) for n, one in first if n in there}
    told = [f"{show(gap, 2, sign=True)} in windows of {n:,} tokens" for n, gap in gaps.items() if gap]
    return f" Against the first split, as of independent samples: {', '.join(told)}." if told else ""


def _measured(order: str, passages: Repeats) -> Repeats:
    """The runs that measured an order."""
    return [(n, losses) for n, losses in passages if _share(losses.headline, order) is not None]


def _change(order: str, measured: Repeats) -> Estimate | None:
    """From the shortest windows to the longest; None where there is one length only, see `_moved`."""
    (_, shortest), (_, longest) = measured[0], measured[-1]
    return _moved(order, shortest.headline, longest.headline) if len(measured) > 1 else None


def scored_of_choice(run: Finished, passages: Repeats) -> tuple[int, int]:
    """How many of the documents on which the order of a run was chosen are scored on running text, and how
    many there are.
    """
    chosen_on, scored = _documents(run.folder)["validation"], _documents(passages[0][1].folder)["evaluation"]
    return len(set(chosen_on) & set(scored)), len(set(chosen_on))


def _said_split(run: Finished, order: str, measured: Repeats) -> str:
    """The shares of one split by the length of the windows, and from the shortest to the longest; and how
    many of the documents on which the order was chosen are among those that are scored.
    """
    (_, shortest), (_, longest) = measured[0], measured[-1]
    both, chosen_on = scored_of_choice(run, measured)
    shares = ", ".join(
        f"{one.text()} in windows of {n:,} tokens"
        for n, losses in measured
        if (one := _share(losses.headline, order))
    )
    text = (
        f"{shortest.headline.documents['evaluation']} documents ({both} of the {chosen_on} on which the "
        "order was chosen are among them), "
        f"{shortest.headline.tokens['evaluation']:,} tokens (fitted to "
        f"{shortest.headline.tokens['train']:,}), the model in "
        f"{read_json(shortest.folder / 'config.json')['dtype']}, the same order replaces {shares}"
    )
    gap = _change(order, measured)
    if gap is None:
        return f"{text}."
    others = {
        f"at +{budget:g} nats": _moved(order, shortest.headline, longest.headline, budget)
        for budget in BUDGETS
        if budget != BUDGET
    }
    others["in random order"] = _moved(CONTROL, shortest.headline, longest.headline)
    besides = [f"{what} {show(one, 2, sign=True)}" for what, one in others.items() if one is not None]
    besides += _by_other_measures(order, shortest, longest)
    said = f" Beside it: {'; '.join(besides)}." if besides else ""
    return (
        f"{text}: the same tokens but for the first of each window, {show(gap, 2, sign=True)} in the longest "
        f"windows as of independent samples: {longer_windows(gap)}.{said}"
    )


def _by_other_measures(order: str, first: Losses, second: Losses) -> list[str]:
    """What the largest share that both measured does by each measure of harm, and how well their routers tell
    the need: a budget of loss is one measure of several.
    """
    rows = [losses.curve[losses.curve["order"] == order] for losses in (first, second)]
    target = max(set(rows[0]["target_share"]) & set(rows[1]["target_share"]), default=None)
    at = [
        {row["metric"]: row for row in one[one["target_share"] == target].to_dict("records")} for one in rows
    ]
    harm = [
        f"{name} {' against '.join(show(Estimate.read(one[metric]), 3) for one in at)}"
        for metric, name in HARM.items()
        if all(metric in one for one in at)
    ]
    gone = " and ".join(f"{one['share']['estimate']:.3f}" for one in at if "share" in one)
    said = [f"with {gone} of the operations gone {', '.join(harm)}"] if harm else []
    intact = [f"{losses.headline.loss_intact.estimate:.2f}" for losses in (first, second)]
    said.append(
        f"the intact model's loss is {' against '.join(intact)}, so an equal rise is not an equal part of it"
    )
    need = order.removeprefix("predicted_")
    told = [losses.headline.variance_of_log_need_predicted.get(need) for losses in (first, second)]
    if None not in told:
        said.append(
            f"the router predicts {told[0]:.2f} against {told[1]:.2f} of the variance of the need's logarithm"
        )
    return said
