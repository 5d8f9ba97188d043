"""Remove attention and see what it costs: `python -m redundancy.removal [MODEL]`.

The probe says how much of attention's output can be predicted; here the prediction takes the place of
attention while the rest of the network runs on, and the loss says how much of that mattered. `execute` is the
experiment, step by step.

    layers       one layer at a time: probe | hidden state and position | the same, weighted by what moves the
                 loss | mean per position | mean per token id | output of another token | training mean |
                 zero | the probe's prediction for another token
    heads        one head at a time: probe | hidden state and position | training mean
    all          every layer at once: the same as for layers, and what the next four fit
    previous     probes that see the tokens before, too, see `replacements.previous`; in one layer and in all
    rivals       probes of low rank and a small network, see `replacements.rivals`
    in_place     the maps of all layers trained together, with the rest of the network frozen: affine, of low
                 rank, and with a small network beside, see `replacements.inplace`
    floor        what no replacement that sees one token can get below, see `replacements.floor`
    cumulative   layers 0 to l, which shows how errors add up: probe | hidden state and position | mean per
                 position | training mean | probes refitted in sequence, see `replacements.sequence`
    curve        the (token, head) operations with the lowest need, a growing share of them, in several orders
                 (see `config.ORDERS`), replaced by what hidden state and position predict; then once more
                 near where each budget is crossed; the order to use is chosen on the validation documents
    routers      more orders for the curve: routers that are networks, or trained through the loss, see
                 `routing`
    methods      whole attention layers, MLPs and blocks, by methods of the field, see `pruning`
    cost         operations and seconds when attention is really left out, see `cost`
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from labbook import processes
from labbook.console import UserError, choice, stages
from labbook.estimate import Studentised
from redundancy.evaluation import Variant, evaluate
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, hidden_only
from redundancy.model.updates import require_target
from redundancy.passes import Task, collect, score, solve
from redundancy.preparation import NOTHING, Given, prepare, repeated
from redundancy.regression.controls import Fitted, PositionAffine, Predictor
from redundancy.regression.moments import LayerMoments
from redundancy.regression.network import PositionNetwork
from redundancy.removal.config import PartName, RemovalConfig
from redundancy.removal.cost import measure_cost
from redundancy.removal.curve import DEPLOYABLE, FEW, ROUNDS, Evaluated, chosen_orders, crossings, settled
from redundancy.removal.need import CALIBRATION_TOKENS, Needs, first_windows, measure_needs
from redundancy.removal.plan import Replacements, plan
from redundancy.removal.pruning.experiment import measure_methods, stages_of
from redundancy.removal.pruning.tables import sentences, tabulate_methods
from redundancy.removal.replacements.floor import Floor, measure_floor
from redundancy.removal.replacements.inplace import (
    RANK,
    Trained,
    reduced,
    train_in_place,
    train_networks_in_place,
    train_ranked,
)
from redundancy.removal.replacements.previous import fit_past
from redundancy.removal.replacements.rivals import low_rank, train_mlps
from redundancy.removal.replacements.sampled import resampled_outputs, token_means
from redundancy.removal.replacements.sequence import fit_sequential
from redundancy.removal.replacements.weighted import fit_weighted
from redundancy.removal.routing.known import KNOWN, KnownNeeds, measure_known
from redundancy.removal.routing.orders import Routing
from redundancy.removal.routing.routers import (
    calibrate,
    of_need,
    predict_need,
    train_networks,
    without_position,
)
from redundancy.removal.routing.trained import train_router
from redundancy.removal.routing.whole import ExactNeeds, measure_exact
from redundancy.removal.tables import Losses, tabulate_losses
from redundancy.replaced.kept import keep
from redundancy.request import Settings, Target

# log-probabilities held at once: 2^26 float32 are 256 MiB, and the intact ones stay beside those of a variant
LOGITS = 2**26
# tokens of a batch on a CPU, whose caches hold the activations of no more
TOKENS_AT_ONCE = 1024

# layer -> map from resid_pre and position to z
Maps = dict[int, PositionAffine]


def execute(config: RemovalConfig, settings: Settings, given: Given = NOTHING) -> Losses:
    """The experiment: fit probes and their rivals, score them, predict the need, then run the model with and
    without attention.
    """
    orders = _check(config)
    folder = repeated(config, settings, given)
    if folder is not None:
        return Losses.read(folder)
    prepared = prepare(config, settings, given)
    decoder, parts = prepared.decoder, config.parts
    task = _suit_vocabulary(prepared.task(settings), decoder)
    for layer in task.layers:
        # an error, before anything is written, where attention cannot be taken out of the stream
        decoder.stream(layer)
    if "methods" in config.parts:
        require_target(decoder, config.targets, task.layers)
    run = prepared.open_run(settings)
    if run.finished:
        return Losses.read(run.folder)
    state = run.folder / "state"

    with stages("all of the removal", count_stages(parts, len(task.layers), config.targets, config.shares)):
        moments = collect(decoder, task, state / "moments.safetensors", "model", controls=True)
        fitted = solve(decoder, task, moments, "model")
        maps = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
        replacements = fit_replacements(decoder, task, fitted, moments, state, parts)
        floor = Floor()
        if "floor" in parts:
            floor = measure_floor(decoder, task, _best(replacements), _spread(moments))
        scored = _with_rivals(fitted, replacements)
        scores = score(decoder, task, scored, state / "scores.safetensors", "model")
        needs = measure_needs(decoder, task, fitted, state / "needs.safetensors")

        variants = list(plan(task.layers, decoder.n_heads, replacements, parts))
        routing = (
            build_routing(decoder, task, needs, maps, replacements, moments, state, orders)
            if orders
            else None
        )
        if routing:
            variants += [v for order in routing.orders for v in routing.points(order, config.shares)]
        label = "ways of running the model"
        evaluated = Evaluated(
            variants, *evaluate(decoder, task, variants, state / "losses.safetensors", label)
        )
        if routing:
            evaluated = refine(decoder, task, routing, evaluated, state)
        chosen = choose(decoder, task, variants, state)
        methods = (
            measure_methods(decoder, task, config.targets, config.shares, state)
            if "methods" in parts
            else None
        )
        cost = measure_cost(decoder, task, maps, needs, config.shares if "cost" in parts else ())

    bootstrap = Studentised(len(task.windows["evaluation"].names), task.seed)
    evaluated = replace(evaluated, chosen=chosen, floor=floor)
    losses = tabulate_losses(evaluated, scores, needs, cost, bootstrap, prepared.facts, task)
    if processes.rank() == 0:
        keep(run.folder, fitted, needs, decoder, task, prepared.facts, routing, chosen)
    if methods is not None:
        found = tabulate_methods(methods, bootstrap, prepared.facts)
        verdict = " ".join([losses.headline.verdict, *sentences(found)])
        losses = replace(losses, methods=found, headline=replace(losses.headline, verdict=verdict))
    losses.write(run)
    if processes.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
    return replace(losses, folder=run.folder)


def _check(config: RemovalConfig) -> tuple[str, ...]:
    """The orders of the curve. Raises UserError for what no model can serve, before one is loaded."""
    config.require_known()
    if not config.shares or not all(0 < share <= 1 for share in config.shares):
        raise UserError(
            f"--shares {config.shares} was asked for; shares lie above 0 and up to 1. Change --shares."
        )
    if "routers" in config.parts and "curve" not in config.parts:
        raise UserError("--parts routers was asked for without curve, where routers are compared. Add curve.")
    return config.curve_orders()


def refine(decoder: Decoder, task: Task, routing: Routing, evaluated: Evaluated, state: Path) -> Evaluated:
    """The curve with more points where the continuous orders cross a budget, see `crossings`."""
    for number in range(ROUNDS):
        wanted = crossings(evaluated).items()
        closer = [variant for order, shares in wanted for variant in routing.points(order, shares)]
        if closer:
            kept = state / f"refined-{number}.safetensors"
            near = evaluate(decoder, task, closer, kept, "shares near the budgets")
            evaluated = evaluated.joined(Evaluated(closer, *near))
    return evaluated


def choose(decoder: Decoder, task: Task, variants: Sequence[Variant], state: Path) -> dict[float, str]:
    """The order that spares most on CALIBRATION_TOKENS of the validation documents, by budget; empty without
    a curve. Every order is followed until it exceeds all budgets, one share after the other.
    """
    curves: dict[str, list[Variant]] = {}
    for v in sorted(variants, key=lambda v: v.key.target_share):
        if v.key.part == "curve" and v.key.order in DEPLOYABLE:
            curves.setdefault(v.key.order, []).append(v)
    few = first_windows(task, "validation", CALIBRATION_TOKENS)
    found: Evaluated | None = None
    for number in range(max(map(len, curves.values()), default=0)):
        done = settled(found) if found else set()
        following = [o for o, points in curves.items() if o not in done and number < len(points)]
        if not following:
            break
        now, kept = [curves[o][number] for o in following], state / f"chosen-{number}.safetensors"
        sums = evaluate(decoder, few, now, kept, f"choice of the order, {number + 1}", "validation")
        found = found.joined(Evaluated(now, *sums)) if found else Evaluated(now, *sums)
    return chosen_orders(found) if found else {}


def count_stages(
    parts: Sequence[PartName], layers: int, targets: Sequence[Target], shares: Sequence[float]
) -> int:
    """At most how many progress bars a run shows: moments (2), ridge, weighted least squares (2), held-out
    errors, needs (2) and losses always; the rest as the parts ask for it.
    """
    return (
        9
        + ("rivals" in parts)
        + 3 * ("in_place" in parts)
        + 4 * ("previous" in parts)
        + 6 * ("floor" in parts)
        + 6 * layers * ("cumulative" in parts)
        # a choice between orders at each of their shares, or at each number of few whole heads and layers
        + (ROUNDS + 3 + max(FEW, len(shares) + 1)) * ("curve" in parts)
        + 3 * ("routers" in parts)
        + stages_of(targets) * ("methods" in parts)
        + ("cost" in parts)
    )


def _suit_vocabulary(task: Task, decoder: Decoder) -> Task:
    """Fewer windows per forward pass where log-probabilities over a large vocabulary fill the memory, or
    activations the caches.
    """
    context = task.windows["train"].ids.shape[1]
    most = LOGITS // (context * decoder.vocabulary)
    if decoder.device.type == "cpu":
        most = min(most, TOKENS_AT_ONCE // context)
    return replace(task, batch=max(1, min(task.batch, most)))


def fit_replacements(
    decoder: Decoder,
    task: Task,
    fitted: dict[int, Fitted],
    moments: dict[int, LayerMoments],
    state: Path,
    parts: Sequence[PartName],
) -> Replacements:
    """Everything that stands for attention in the parts that are asked for, see the module's text."""
    found = Replacements()
    maps = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
    means = {n: f.position_mean for n, f in fitted.items() if f.position_mean is not None}
    found.add("probe", {n: hidden_only(f.probe) for n, f in fitted.items()})
    found.add("with_position", maps)
    if {"layers", "all"} & set(parts):
        weighted = fit_weighted(decoder, task, fitted, moments, state / "weighted.safetensors")
        found.add("weighted", weighted)
        found.add_token_means({n: token_means(sums) for n, sums in moments.items()})
        found.add_tables("resampled", resampled_outputs(decoder, task))
    found.add_tables("position_mean", means)
    found.add_constants("training_mean", {n: f.mean for n, f in fitted.items()})
    found.finish()
    if "previous" in parts:
        starts = {n: sums.pilot["shift_x"] for n, sums in moments.items()}
        for past, by_layer in fit_past(decoder, task, state / "previous.safetensors", moments).items():
            found.add_past(past, by_layer, starts)
    if "rivals" in parts:
        ranks = {
            n: low_rank(sums, fitted[n].penalties[task.feature], decoder.output_map(n)[0])
            for n, sums in moments.items()
        }
        for name in ranks[task.layers[0]]:
            found.add(name, {n: hidden_only(by_rank[name]) for n, by_rank in ranks.items()})
        found.add("mlp", {n: hidden_only(m) for n, m in train_mlps(decoder, task, fitted, moments).items()})
    if "in_place" in parts:
        _add_in_place(found, decoder, task, fitted, moments)
    if "cumulative" in parts:
        for name, towards_intact in (("sequential", False), ("sequential_intact", True)):
            found.add(name, fit_sequential(decoder, task, state, towards_intact=towards_intact))
    return found


def _add_in_place(
    found: Replacements,
    decoder: Decoder,
    task: Task,
    fitted: dict[int, Fitted],
    moments: dict[int, LayerMoments],
) -> None:
    """The part `in_place`: affine maps, maps of low rank, and networks."""
    spread = _spread(moments)

    def add(name: str, trained: Trained[PositionAffine] | Trained[PositionNetwork]) -> None:
        gain = f"KL {trained.before:.3f} to {trained.after:.3f} nats"
        choice(name.replace("_", " "), gain, "on the validation documents")
        found.add(name, trained.maps)

    start = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
    affine = train_in_place(decoder, task, start, spread)
    add("in_place", affine)
    if min(decoder.d_model, decoder.d_z) > RANK:
        narrow = {n: reduced(fitted[n], moments[n], decoder.output_map(n)[0]) for n in task.layers}
        add(f"in_place_rank_{RANK}", train_ranked(decoder, task, narrow, spread))
    add("in_place_mlp", train_networks_in_place(decoder, task, affine.maps, moments))


def build_routing(
    decoder: Decoder,
    task: Task,
    needs: Needs,
    maps: Maps,
    replacements: Replacements,
    moments: dict[int, LayerMoments],
    state: Path,
    orders: Sequence[str],
) -> Routing:
    """The orders of the curve, with everything they are made of."""
    scores: dict[str, dict[int, PositionNetwork]] = {}
    own: dict[str, dict[int, Rule]] = {}
    if "hidden_fisher" in orders:
        scores["hidden_fisher"] = without_position(needs, decoder.n_heads)
    if "network_fisher" in orders:
        networks = train_networks(decoder, task, needs, maps, moments)
        scores["network_fisher"] = {n: network.fixed() for n, network in networks.items()}
    predicted = {n: of_need(predictor, "fisher") for n, predictor in needs.predictors.items()}
    for name, together in (("trained_router", False), ("trained_together", True)):
        if name not in orders:
            continue
        trained = train_router(decoder, task, predicted, maps, _spread(moments), together=together)
        gain = f"KL {trained.before:.4f} to {trained.after:.4f} nats"
        choice(name.replace("_", " "), gain, "on the validation documents")
        scores[name] = {n: PositionNetwork(score) for n, score in trained.scores.items()}
        if together:
            own[name] = {n: Rule(trained_map) for n, trained_map in trained.maps.items()}
    past = [name for name in replacements.rules if name.startswith("previous_")]
    if not past:  # too large to fit, as a warning said
        orders = [order for order in orders if order != "past_fisher"]
    if "past_fisher" in orders:
        own["past_fisher"] = replacements.rules[past[-1]]
        found, label = state / "past-needs.safetensors", "needs with tokens before"
        scores["past_fisher"] = predict_need(decoder, task, own["past_fisher"], found, label)
    exact = ExactNeeds({}, {})
    if {"layers_exact", "heads_exact"} & set(orders):
        found = state / "exact.safetensors"
        exact = measure_exact(decoder, task, maps, found, heads="heads_exact" in orders)
    known = KnownNeeds(task.layers, {}, {})
    if {f"known_{need}" for need in KNOWN} & set(orders):
        known = measure_known(decoder, task, maps)
    return Routing(
        tuple(orders),
        task,
        decoder.n_heads,
        maps,
        needs,
        known,
        exact,
        calibrate(decoder, task, scores) if scores else {},
        own,
    )


def _spread(moments: dict[int, LayerMoments]) -> dict[int, Tensor]:
    """Spread of the hidden state by layer, (d_model,) each."""
    return {n: sums.pilot["scale_x"] for n, sums in moments.items()}


def _best(replacements: Replacements) -> Maps:
    """The maps of all layers that a network without attention begins with."""
    name = "in_place" if "in_place" in replacements.rules else "with_position"
    return {n: m for n, m in replacements.maps(name).items() if isinstance(m, PositionAffine)}


def _with_rivals(fitted: dict[int, Fitted], replacements: Replacements) -> dict[int, Fitted]:
    """The predictors of every layer with the rivals among them, so that one pass scores all."""

    def on_rows(name: str, n: int) -> Predictor:
        predict = replacements.rules[name][n].predict
        return lambda rows: predict(rows.x, rows.position).to(rows.x)

    rivals = [name for name in replacements.rules if name.startswith(("rank_", "mlp", "weighted"))]
    return {
        n: replace(f, predictors=f.predictors | {name: on_rows(name, n) for name in rivals})
        for n, f in fitted.items()
    }
