"""Remove attention and see what it costs: `python -m redundancy.removal [MODEL]`.

The probe says how much of attention's output can be predicted; here the prediction takes the place of attention while the
rest of the network runs on, and the loss says how much of that mattered. `execute` is the experiment, step by step.

    layers      one layer at a time: probe | training mean | zero | the probe's prediction for another token
    heads       one head at a time: probe | training mean
    all         every layer at once: the same four, and what `rivals` and `cumulative` fit
    rivals      probes of low rank and a small network, see `rivals`
    cumulative  layers 0 to l: probe | sequential, a probe refitted on the stream as it is after the earlier substitutions |
                training mean, which shows how errors add up
    curve       the (token, head) operations with the lowest need, a growing share of them, in several orders (see `losses`)
    cost        operations and seconds when attention is really left out, see `skipping`
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from labbook import processes
from labbook.console import UserError, console, guarded, literal
from labbook.estimate import Bootstrap
from redundancy.controls import Fitted, Predictor
from redundancy.losses import ORDERS, Losses, print_losses, tabulate_losses
from redundancy.measure import Task, collect, score, solve
from redundancy.models import Decoder
from redundancy.moments import LayerMoments
from redundancy.need import NEEDS, Needs, measure_needs
from redundancy.ridge import Affine
from redundancy.rivals import low_rank, train_mlps
from redundancy.setup import Request, Settings, prepare
from redundancy.skipping import measure_cost
from redundancy.substitution import Choose, Predict, Rule, Site, Substitution, Variant, evaluate, zero

Part = Literal["layers", "heads", "all", "rivals", "cumulative", "curve", "cost"]
PARTS: tuple[Part, ...] = ("layers", "heads", "all", "rivals", "cumulative", "curve", "cost")
# log-probabilities held at once: 2^26 float32 are 256 MiB, and the intact ones stay beside those of a variant
LOGITS = 2**26


@dataclass(frozen=True)
class RemovalConfig(Request):
    """Everything that changes a number of a removal run. `None` means chosen automatically, and the choice is printed."""

    eval_tokens: int | None = None
    """Held-out tokens; every way of running the model reads all of them. Default: 20,000."""
    parts: tuple[Part, ...] = PARTS
    """Which experiments; each layer, head, or point of the curve is one more run over the held-out text."""
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
    """Shares of the attention operations at which the removal curve is measured."""

    def default_eval_tokens(self, tokens: int) -> int:
        """20,000: each of the many ways of running the model reads them all."""
        return 20_000


def execute(config: RemovalConfig, settings: Settings) -> Losses:
    """The experiment: fit probes and their rivals, score them, predict the need, then run the model with and without attention."""
    if not config.shares or min(config.shares) <= 0 or max(config.shares) > 1:
        raise UserError(f"--shares {config.shares} was asked for; shares lie above 0 and up to 1. Change --shares.")
    prepared = prepare(config, settings)
    decoder = prepared.decoder
    task = _suit_vocabulary(prepared.task(settings), decoder)
    run = prepared.open_run(settings)
    if run.finished:
        console.print("this run is finished; nothing is computed again")
        return Losses.read(run.folder)
    state = run.folder / "state"

    moments = collect(decoder, task, True, state / "moments.safetensors", "model")
    fitted = solve(decoder, task, moments, "model")
    probes = fit_probes(decoder, task, fitted, moments, state, config.parts)
    scores = score(decoder, task, _with_rivals(fitted, probes), state / "scores.safetensors", "model")
    needs = measure_needs(decoder, task, fitted, state / "needs.safetensors")

    means = {n: f.mean for n, f in fitted.items()}
    variants = list(plan(task, decoder.n_heads, means, probes, needs, config.parts, config.shares))
    intact, changed = evaluate(decoder, task, variants, state / "losses.safetensors", "ways of running the model")
    affine = {n: f.probe for n, f in fitted.items()}
    cost = measure_cost(decoder, task, affine, needs, config.shares if "cost" in config.parts else ())

    bootstrap = Bootstrap(len(task.windows["evaluation"].names), task.seed)
    losses = tabulate_losses(variants, intact, changed, scores, needs, cost, bootstrap, prepared.facts, task)
    losses.write(run)
    if processes.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
    return replace(losses, folder=run.folder)


def _suit_vocabulary(task: Task, decoder: Decoder) -> Task:
    """Fewer windows per forward pass where log-probabilities over a large vocabulary would fill the memory."""
    context = task.windows["train"].ids.shape[1]
    return replace(task, batch=max(1, min(task.batch, LOGITS // (context * decoder.vocabulary))))


def fit_probes(
    decoder: Decoder,
    task: Task,
    fitted: dict[int, Fitted],
    moments: dict[int, LayerMoments],
    state: Path,
    parts: Sequence[Part],
) -> dict[str, dict[int, Predict]]:
    """Every map from resid_pre to z that the parts need, by name and layer: `probe`, `rank_r`, `mlp`, `sequential`."""
    probes: dict[str, dict[int, Predict]] = {"probe": {n: f.probe for n, f in fitted.items()}}
    if "rivals" in parts:
        for n, sums in moments.items():
            for name, reduced in low_rank(sums, fitted[n].penalties[task.feature], decoder.output_map(n)[0]).items():
                probes.setdefault(name, {})[n] = reduced
        probes["mlp"] = dict(train_mlps(decoder, task, fitted, moments))
    if "cumulative" in parts:
        probes["sequential"] = dict(fit_sequential(decoder, task, state))
    return probes


def fit_sequential(decoder: Decoder, task: Task, state: Path) -> dict[int, Affine]:
    """Probes fitted one layer after the other, each on the stream in which all earlier ones already stand for attention."""
    sequential: dict[int, Affine] = {}
    for number, layer in enumerate(task.layers):
        alone = replace(task, layers=(layer,))
        label = f"sequential, layer {layer}"
        with Substitution(decoder, {n: Rule(probe) for n, probe in sequential.items()}, task.start_position):
            sums = collect(decoder, alone, False, state / f"sequential-{number}.safetensors", label)
        sequential[layer] = solve(decoder, alone, sums, label)[layer].probe
    return sequential


def _with_rivals(fitted: dict[int, Fitted], probes: dict[str, dict[int, Predict]]) -> dict[int, Fitted]:
    """The predictors of every layer with the rivals among them, so that one pass scores all."""

    def on_rows(predict: Predict) -> Predictor:
        return lambda rows: predict(rows.x).to(rows.x)

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
    parts: Sequence[Part],
    shares: Sequence[float],
) -> Iterator[Variant]:
    """Every way in which the model is run (see the module's text); `means` are the training means of z by layer."""
    layers = task.layers

    def mean(n: int) -> Rule:
        return Rule(lambda x: means[n].to(x).expand(len(x), -1))

    def replacements(n: int) -> dict[str, Rule]:
        probe = probes["probe"][n]
        shuffled, dropped = Rule(probe, permuted=True), Rule(zero, dropped=True)
        return {"probe": Rule(probe), "training_mean": mean(n), "zero": dropped, "shuffled": shuffled}

    if "layers" in parts:
        for n in layers:
            for name, rule in replacements(n).items():
                yield Variant({"part": "layers", "layer": n, "replacement": name}, {n: rule})
    if "heads" in parts:
        for n in layers:
            for h in range(n_heads):
                for name in ("probe", "training_mean"):
                    rule = replace(replacements(n)[name], heads=(h,))
                    yield Variant({"part": "heads", "layer": n, "head": h, "replacement": name}, {n: rule})
    if "all" in parts:
        for name in replacements(layers[0]):
            yield Variant({"part": "all", "replacement": name}, {n: replacements(n)[name] for n in layers})
        for name in probes:
            if name != "probe":
                rules = {n: Rule(predict) for n, predict in probes[name].items()}
                yield Variant({"part": "all", "replacement": name}, rules)
    if "cumulative" in parts:
        for stop, n in enumerate(layers, 1):
            for name in ("probe", "sequential", "training_mean"):
                rules = {m: mean(m) if name == "training_mean" else Rule(probes[name][m]) for m in layers[:stop]}
                yield Variant({"part": "cumulative", "layer": n, "replacement": name}, rules)
    if "curve" in parts:
        for order in ORDERS:
            for share, rules in _curve(task, n_heads, probes["probe"], needs, order, shares):
                yield Variant({"part": "curve", "order": order, "target_share": share, "replacement": "probe"}, rules)


def _curve(
    task: Task, n_heads: int, probe: dict[int, Predict], needs: Needs, order: str, shares: Sequence[float]
) -> Iterator[tuple[float, dict[int, Rule]]]:
    """The rules that skip each share of the operations in one order."""
    by, _, need = order.partition("_")
    layers = task.layers

    def random_choice(share: float) -> Choose:
        def choose(site: Site) -> Tensor:
            size = (site.x.shape[1], n_heads)
            draws = [np.random.default_rng([task.seed, int(w), site.layer]).random(size) for w in site.batch.number]
            return torch.from_numpy(np.stack(draws) < share).to(site.x.device)

        return choose

    def need_choice(kind: int, known: bool, limit: float) -> Choose:
        return lambda site: needs.at(site, kind, known) <= limit

    done = set()
    for share in shares:
        if by in ("known", "predicted"):
            kind, known = NEEDS.index(need), by == "known"
            limit = needs.threshold(kind, known, share)
            yield share, {n: Rule(probe[n], need_choice(kind, known, limit)) for n in layers}
        elif by == "random":
            yield share, {n: Rule(probe[n], random_choice(share)) for n in layers}
        elif by == "heads":
            ranked = needs.heads(NEEDS.index(need), layers)
            chosen = ranked[: round(share * len(ranked))]
            rules = {n: Rule(probe[n], heads=tuple(h for m, h in chosen if m == n)) for n in layers}
            yield share, {n: rule for n, rule in rules.items() if rule.heads}
        else:
            first = sorted(layers, key=lambda n: -needs.cosine[n])[: round(share * len(layers))]
            if first and len(first) not in done:
                yield share, {n: Rule(zero, dropped=True) if need == "dropped" else Rule(probe[n]) for n in first}
            done.add(len(first))


@dataclass(frozen=True)
class Command:
    """Replace attention by predictions, for a layer, a head, all layers, or the operations that need it least."""

    config: tyro.conf.OmitArgPrefixes[RemovalConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m redundancy.removal")

    def body() -> None:
        from redundancy.figures import draw_removal  # plotting libraries are slow to import; errors should be fast

        with processes.together():
            losses = execute(command.config, command.settings)
            if processes.rank() == 0:
                draw_removal(losses.folder, losses.folder)
                print_losses(losses)
                console.print(literal(losses.folder))

    guarded(body)


if __name__ == "__main__":
    main()
