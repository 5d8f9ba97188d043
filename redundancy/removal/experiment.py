"""Remove attention and see what it costs: `python -m redundancy.removal [MODEL]`.

The probe says how much of attention's output can be predicted; here the prediction takes the place of
attention while the rest of the network runs on, and the loss says how much of that mattered. `execute` is the
experiment, step by step.

    layers       one layer at a time: probe | hidden state and position | mean per position | training mean |
                 zero | the probe's prediction for another token
    heads        one head at a time: probe | hidden state and position | training mean
    all          every layer at once: the same as for layers, and what `rivals`, `in_place` and `cumulative`
                 fit
    rivals       probes of low rank and a small network, see `rivals`
    in_place     the maps of all layers trained together, with the rest of the network frozen, see `inplace`
    cumulative   layers 0 to l, which shows how errors add up: probe | hidden state and position | mean per
                 position | training mean | sequential, a probe refitted on the stream as it is after the
                 earlier substitutions
    curve        the (token, head) operations with the lowest need, a growing share of them, in several orders
                 (see `curve.ORDERS`), replaced by what hidden state and position predict; then once more
                 near where each budget is crossed; the order to use is chosen on the validation documents
    methods      whole attention layers, MLPs and blocks, by methods of the field, see `pruning`
    cost         operations and seconds when attention is really left out, see `cost`
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labbook import processes
from labbook.console import UserError, choice, console, stages
from labbook.estimate import Studentised
from redundancy.evaluation import Key, Variant, evaluate
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Choose, Predict, Rule, Site, Substitution, hidden_only, zero
from redundancy.model.updates import require_target
from redundancy.passes import Task, collect, score, solve
from redundancy.preparation import NOTHING, Given, prepare
from redundancy.regression.controls import Fitted, Predictor
from redundancy.regression.moments import LayerMoments
from redundancy.regression.ridge import Affine
from redundancy.removal.config import PartName, RemovalConfig
from redundancy.removal.cost import measure_cost
from redundancy.removal.curve import ORDERS, ROUNDS, Evaluated, chosen_orders, crossings
from redundancy.removal.inplace import train_in_place
from redundancy.removal.need import NEEDS, Needs, measure_needs
from redundancy.removal.pruning.experiment import measure_methods, stages_of
from redundancy.removal.pruning.tables import sentences, tabulate_methods
from redundancy.removal.rivals import low_rank, train_mlps
from redundancy.removal.tables import Losses, tabulate_losses
from redundancy.replaced.kept import keep
from redundancy.request import Settings, Target

# replacements that are fitted in closed form
BY_RIDGE = ("probe", "with_position", "position_mean")
# whole layers or heads up to this number are removed one by one along the curve
FEW = 12
# log-probabilities held at once: 2^26 float32 are 256 MiB, and the intact ones stay beside those of a variant
LOGITS = 2**26


def execute(config: RemovalConfig, settings: Settings, given: Given = NOTHING) -> Losses:
    """The experiment: fit probes and their rivals, score them, predict the need, then run the model with and
    without attention.
    """
    if not config.shares or min(config.shares) <= 0 or max(config.shares) > 1:
        raise UserError(
            f"--shares {config.shares} was asked for; shares lie above 0 and up to 1. Change --shares."
        )
    prepared = prepare(config, settings, given)
    decoder = prepared.decoder
    task = _suit_vocabulary(prepared.task(settings), decoder)
    for layer in task.layers:
        # an error, before anything is written, where attention cannot be taken out of the stream
        decoder.stream(layer)
    if "methods" in config.parts:
        require_target(decoder, config.targets, task.layers)
    run = prepared.open_run(settings)
    if run.finished:
        console.print("this run is finished; nothing is computed again")
        return Losses.read(run.folder)
    state = run.folder / "state"

    with stages("all of the removal", count_stages(config.parts, len(task.layers), config.targets)):
        moments = collect(decoder, task, state / "moments.safetensors", "model", controls=True)
        fitted = solve(decoder, task, moments, "model")
        probes = fit_probes(decoder, task, fitted, moments, state, config.parts)
        scores = score(decoder, task, _with_rivals(fitted, probes), state / "scores.safetensors", "model")
        needs = measure_needs(decoder, task, fitted, state / "needs.safetensors")

        means = {n: f.mean for n, f in fitted.items()}
        variants = list(plan(task, decoder.n_heads, means, probes, needs, config.parts, config.shares))
        label = "ways of running the model"
        evaluated = Evaluated(
            variants, *evaluate(decoder, task, variants, state / "losses.safetensors", label)
        )
        for number in range(ROUNDS):
            closer = list(refine(task, decoder.n_heads, probes["with_position"], needs, evaluated))
            if closer:
                near = evaluate(
                    decoder, task, closer, state / f"refined-{number}.safetensors", "shares near the budgets"
                )
                evaluated = evaluated.joined(Evaluated(closer, *near))
        chosen = choose(decoder, task, variants, state)
        methods = (
            measure_methods(decoder, task, config.targets, config.shares, state)
            if "methods" in config.parts
            else None
        )
        affine = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
        cost = measure_cost(decoder, task, affine, needs, config.shares if "cost" in config.parts else ())

    bootstrap = Studentised(len(task.windows["evaluation"].names), task.seed)
    evaluated = replace(evaluated, chosen=chosen)
    losses = tabulate_losses(evaluated, scores, needs, cost, bootstrap, prepared.facts, task)
    if processes.rank() == 0:
        keep(run.folder, fitted, needs, decoder, task, prepared.facts)
    if methods is not None:
        found = tabulate_methods(methods, bootstrap, prepared.facts)
        verdict = " ".join([losses.headline.verdict, *sentences(found)])
        losses = replace(losses, methods=found, headline=replace(losses.headline, verdict=verdict))
    losses.write(run)
    if processes.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
    return replace(losses, folder=run.folder)


def choose(decoder: Decoder, task: Task, variants: Sequence[Variant], state: Path) -> dict[float, str]:
    """The order that spares most on the validation documents, by budget; empty without a curve."""
    curve = [variant for variant in variants if variant.key.part == "curve"]
    if not curve:
        return {}
    sums = evaluate(decoder, task, curve, state / "chosen.safetensors", "choice of the order", "validation")
    return chosen_orders(Evaluated(curve, *sums))


def count_stages(parts: Sequence[PartName], layers: int, targets: Sequence[Target]) -> int:
    """At most how many progress bars a run shows: moments (2), ridge, held-out errors, needs (2) and losses
    always; the rest as the parts ask for it.
    """
    return (
        7
        + ("rivals" in parts)
        + ("in_place" in parts)
        + 3 * layers * ("cumulative" in parts)
        + (ROUNDS + 1) * ("curve" in parts)
        + stages_of(targets) * ("methods" in parts)
        + ("cost" in parts)
    )


def _suit_vocabulary(task: Task, decoder: Decoder) -> Task:
    """Fewer windows per forward pass where log-probabilities over a large vocabulary fill the memory."""
    context = task.windows["train"].ids.shape[1]
    return replace(task, batch=max(1, min(task.batch, LOGITS // (context * decoder.vocabulary))))


def fit_probes(
    decoder: Decoder,
    task: Task,
    fitted: dict[int, Fitted],
    moments: dict[int, LayerMoments],
    state: Path,
    parts: Sequence[PartName],
) -> dict[str, dict[int, Predict]]:
    """Every map to z that the parts need, by name and layer.

    `probe`, `with_position`, `position_mean`, and, as the parts ask for them, `rank_r`, `mlp`, `in_place`,
    `sequential`.
    """
    probes: dict[str, dict[int, Predict]] = {"probe": {n: hidden_only(f.probe) for n, f in fitted.items()}}
    for n, f in fitted.items():
        assert f.with_position is not None and f.position_mean is not None
        probes.setdefault("with_position", {})[n] = f.with_position
        probes.setdefault("position_mean", {})[n] = _table(f.position_mean)
    if "rivals" in parts:
        for n, sums in moments.items():
            for name, reduced in low_rank(
                sums, fitted[n].penalties[task.feature], decoder.output_map(n)[0]
            ).items():
                probes.setdefault(name, {})[n] = hidden_only(reduced)
        probes["mlp"] = {n: hidden_only(m) for n, m in train_mlps(decoder, task, fitted, moments).items()}
    if "in_place" in parts:
        start = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
        scale = {n: sums.pilot["scale_x"] for n, sums in moments.items()}
        trained = train_in_place(decoder, task, start, scale)
        gain = f"KL {trained.before:.3f} to {trained.after:.3f} nats"
        choice("maps in place", gain, "on the validation documents")
        probes["in_place"] = dict(trained.maps)
    if "cumulative" in parts:
        probes["sequential"] = {n: hidden_only(m) for n, m in fit_sequential(decoder, task, state).items()}
    return probes


def _table(values: Tensor) -> Predict:
    """The prediction that is a row of `values` (position, d_z)."""
    return lambda x, position: values.to(x)[position]


def fit_sequential(decoder: Decoder, task: Task, state: Path) -> dict[int, Affine]:
    """Probes fitted one layer after the other, each on the stream in which all earlier ones already stand for
    attention.
    """
    sequential: dict[int, Affine] = {}
    for number, layer in enumerate(task.layers):
        alone = replace(task, layers=(layer,))
        label = f"sequential, layer {layer}"
        rules = {n: Rule(hidden_only(probe)) for n, probe in sequential.items()}
        with Substitution(decoder, rules, task.start_position):
            sums = collect(decoder, alone, state / f"sequential-{number}.safetensors", label, controls=False)
        sequential[layer] = solve(decoder, alone, sums, label)[layer].probe
    return sequential


def _with_rivals(fitted: dict[int, Fitted], probes: dict[str, dict[int, Predict]]) -> dict[int, Fitted]:
    """The predictors of every layer with the rivals among them, so that one pass scores all."""

    def on_rows(predict: Predict) -> Predictor:
        return lambda rows: predict(rows.x, rows.position).to(rows.x)

    rivals = [name for name in probes if name.startswith(("rank_", "mlp"))]
    return {
        n: replace(f, predictors=f.predictors | {name: on_rows(probes[name][n]) for name in rivals})
        for n, f in fitted.items()
    }


def plan(
    task: Task,
    n_heads: int,
    means: dict[int, Tensor],
    probes: dict[str, dict[int, Predict]],
    needs: Needs,
    parts: Sequence[PartName],
    shares: Sequence[float],
) -> Iterator[Variant]:
    """Every way in which the model is run (see the module's text); `means` are the training means of z by
    layer.
    """
    layers = task.layers

    def mean(n: int) -> Rule:
        return Rule(lambda x, position: means[n].to(x).expand(len(x), -1))

    def replacements(n: int) -> dict[str, Rule]:
        return {
            **{name: Rule(probes[name][n]) for name in BY_RIDGE},
            "training_mean": mean(n),
            "zero": Rule(zero, dropped=True),
            "shuffled": Rule(probes["probe"][n], permuted=True),
        }

    if "layers" in parts:
        for n in layers:
            for name, rule in replacements(n).items():
                yield Variant(Key("layers", name, layer=n), {n: rule})
    if "heads" in parts:
        for n in layers:
            for h in range(n_heads):
                for name in ("probe", "with_position", "training_mean"):
                    rule = replace(replacements(n)[name], heads=(h,))
                    yield Variant(Key("heads", name, layer=n, head=h), {n: rule})
    if "all" in parts:
        for name in replacements(layers[0]):
            yield Variant(Key("all", name), {n: replacements(n)[name] for n in layers})
        for name in probes:
            if name not in BY_RIDGE:
                rules = {n: Rule(predict) for n, predict in probes[name].items()}
                yield Variant(Key("all", name), rules)
    if "cumulative" in parts:
        for stop, n in enumerate(layers, 1):
            for name in ("probe", "with_position", "position_mean", "sequential", "training_mean"):
                rules = {
                    m: mean(m) if name == "training_mean" else Rule(probes[name][m]) for m in layers[:stop]
                }
                yield Variant(Key("cumulative", name, layer=n), rules)
    if "curve" in parts:
        for order in ORDERS:
            yield from _points(task, n_heads, probes["with_position"], needs, order, shares)


def refine(
    task: Task, n_heads: int, probe: dict[int, Predict], needs: Needs, evaluated: Evaluated
) -> Iterator[Variant]:
    """Points of the continuous orders near where they cross a budget, see `crossings`."""
    for order, shares in crossings(evaluated).items():
        yield from _points(task, n_heads, probe, needs, order, shares)


def _points(
    task: Task, n_heads: int, probe: dict[int, Predict], needs: Needs, order: str, shares: Sequence[float]
) -> Iterator[Variant]:
    for share, rules in _curve(task, n_heads, probe, needs, order, shares):
        yield Variant(Key("curve", "with_position", order=order, target_share=share), rules)


def _curve(
    task: Task, n_heads: int, probe: dict[int, Predict], needs: Needs, order: str, shares: Sequence[float]
) -> Iterator[tuple[float, dict[int, Rule]]]:
    """The rules that skip each share of the operations in one order."""
    by, _, need = order.partition("_")
    layers = task.layers

    def random_choice(share: float) -> Choose:
        def choose(site: Site) -> Tensor:
            size = (site.x.shape[1], n_heads)
            draws = [
                np.random.default_rng([task.seed, int(w), site.layer]).random(size) for w in site.batch.number
            ]
            return torch.from_numpy(np.stack(draws) < share).to(site.x.device)

        return choose

    def need_choice(kind: int, limit: float, *, known: bool) -> Choose:
        return lambda site: needs.at(site, kind, known=known) <= limit

    if by == "heads":
        ranked = needs.heads(NEEDS.index(need), layers)
        for count in _counts(len(ranked), shares):
            rules = {n: Rule(probe[n], heads=tuple(h for m, h in ranked[:count] if m == n)) for n in layers}
            yield count / len(ranked), {n: rule for n, rule in rules.items() if rule.heads}
        return
    if by == "layers":
        ranked_layers = sorted(layers, key=lambda n: -needs.cosine[n])
        for count in _counts(len(layers), shares):
            first = ranked_layers[:count]
            yield (
                count / len(layers),
                {n: Rule(zero, dropped=True) if need == "dropped" else Rule(probe[n]) for n in first},
            )
        return
    for share in shares:
        if by == "random":
            yield share, {n: Rule(probe[n], random_choice(share)) for n in layers}
        else:
            kind, known = NEEDS.index(need), by == "known"
            limit = needs.threshold(kind, share, known=known)
            yield share, {n: Rule(probe[n], need_choice(kind, limit, known=known)) for n in layers}


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """How many of `total` whole things go at each share: all counts of a few, else one and those nearest to
    the shares.
    """
    if total <= FEW:
        return list(range(1, total + 1))
    return sorted({1, *(max(1, round(share * total)) for share in shares)})
