"""What the probe costs, as ratios against other ways of the same work.

`python -m redundancy.benchmark [MODEL]` compares

    pass 1               moments, all heads, penalties and controls / the plain forward pass of the same
                         batches, alternating
    memory               peak of pass 1 at ten times the tokens / at the smaller number
    stored activations   TransformerLens' run_with_cache and scikit-learn's Ridge / pass 1 and the exact ridge
    gradient descent     the paper's 10,000 steps at learning rate 1e-3 / the exact ridge, and the R of each
    removal              the weighted fit for all penalties / for one; the slope of the loss in every layer,
                         forward and backward / forward; a variant of the model that takes from the intact
                         run what it can / the same variant computed whole
    replaced             models with half of the layers, all layers, half of the heads or half of the
                         operations replaced / the intact model: seconds per generated token with a cache,
                         bytes of the cache per token, bytes of weights

Peak memory is that of a fresh process per leg, counted from after the model was loaded.
"""

import gc
import importlib.util
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from labbook.console import UserError, choice, console
from labbook.run import write_table
from redundancy.benchmark.config import Config
from redundancy.benchmark.removal import removal
from redundancy.benchmark.timing import Comparison, compare, compare_pairs, prepare, seconds
from redundancy.model.capture import Capture
from redundancy.model.decoder import Decoder
from redundancy.model.loading import load_tokenizer, locate
from redundancy.passes import Task, collect, measure, solve
from redundancy.probe.kept import About
from redundancy.regression.controls import fit
from redundancy.regression.moments import Kept, LayerMoments
from redundancy.removal.need import NEEDS, measure_needs
from redundancy.replaced.cache import size
from redundancy.replaced.kept import one_need
from redundancy.replaced.model import replace as replace_attention
from redundancy.replaced.replacement import Replacement


def pass_1(config: Config) -> list[Comparison]:
    """Seconds per batch of pass 1 and of the plain backbone, in turn on the same batches; the median of the
    pairwise ratios.
    """
    decoder, task = prepare(config, 4 * 4096)
    types, device = len(task.types), decoder.device
    parts = [b for b in task.batches("train", device) if len(b.ids) == task.batch]
    layers = {
        n: LayerMoments(Kept(decoder.d_model, decoder.d_z, config.context, types, controls=True), device)
        for n in task.layers
    }
    current = [parts[0]]

    def visit(layer: int, x: torch.Tensor, z: torch.Tensor) -> None:
        layers[layer].add("train", x, z, current[0])

    @torch.inference_mode()
    def plain() -> None:
        decoder.backbone(input_ids=current[0].ids, use_cache=False)

    def full() -> None:
        with Capture(decoder, task.layers, "resid_pre", visit) as capture:
            capture(current[0].ids)

    plain()  # warm up
    full()
    pairs = []
    for number in range(config.rounds):
        current[0] = parts[number % len(parts)]
        first, second = (plain, full) if number % 2 else (full, plain)
        a, b = seconds(device, first), seconds(device, second)
        pairs.append((b, a) if number % 2 else (a, b))
    return [compare_pairs("pass 1 / plain forward, seconds per batch", pairs)]


def _leg(config: Config, kind: str, tokens: int) -> tuple[float, float]:
    """In a fresh process: seconds and peak memory in bytes of one way to fit probes on `tokens` tokens."""
    decoder, task = prepare(config, tokens)
    if kind == "ours":

        def body() -> None:
            solve(decoder, task, collect(decoder, task, None, "pass 1", controls=True), "pass 1")
    else:
        body = _stored_activations(decoder, task, load_tokenizer(locate(config.model)))
    gc.collect()
    before = _resident()
    took = seconds(decoder.device, body)
    return took, max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 1.0)


def _resident() -> float:
    """Bytes of memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _stored_activations(decoder: Decoder, task: Task, tokenizer: Any) -> Callable[[], None]:
    """The way people fit such probes today: cache everything with TransformerLens, then scikit-learn, layer
    by layer.
    """
    from sklearn.linear_model import Ridge
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        decoder.name, hf_model=decoder.model, tokenizer=tokenizer, device=str(decoder.device)
    )
    ids = torch.from_numpy(task.windows["train"].ids)

    def body() -> None:
        names = ("hook_resid_pre", "hook_attn_out")
        stored: dict[str, list[np.ndarray]] = {}
        for part in ids.split(task.batch):
            _, cache = bridge.run_with_cache(part, names_filter=lambda name: name.endswith(names))
            for layer in task.layers:
                for name in names:
                    stored.setdefault(f"{layer}{name}", []).append(
                        cache[f"blocks.{layer}.{name}"][:, 1:].flatten(0, 1).numpy()
                    )
        for layer in task.layers:
            x, a = (np.concatenate(stored[f"{layer}{name}"]) for name in names)
            Ridge(alpha=1.0).fit(x, a)

    return body


def _in_fresh_process(config: Config, kind: str, tokens: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_leg, config, kind, tokens).result()


def memory(config: Config) -> list[Comparison]:
    """Peak memory of pass 1 at ten times the tokens against the smaller number."""
    many, few = (_in_fresh_process(config, "ours", n)[1] for n in (10 * config.tokens, config.tokens))
    return [compare(f"peak memory, {10 * config.tokens:,} / {config.tokens:,} tokens, bytes", many, few)]


def stored(config: Config) -> list[Comparison]:
    """Time and peak memory against stored activations; one penalty and no controls there, all of them here.

    Raises UserError when one of the other implementations is not installed.
    """
    missing = [name for name in ("sklearn", "transformer_lens") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the comparison `stored` needs {' and '.join(missing)}, which the extra `oracles` brings. "
            "Install it, or leave `stored` out of --parts."
        )
    (our_time, our_peak), (their_time, their_peak) = (
        _in_fresh_process(config, kind, config.stored_tokens) for kind in ("ours", "stored")
    )
    name = f"TransformerLens and scikit-learn / ours, {config.stored_tokens:,} tokens"
    return [
        compare(f"{name}, seconds", their_time, our_time),
        compare(f"{name}, bytes", their_peak, our_peak),
    ]


def descent(config: Config, steps: int = 10_000, rate: float = 1e-3, batch: int = 512) -> list[Comparison]:
    """The paper's procedure for one layer (the middle one): stochastic gradient steps (Adam) on |a - x W -
    b|^2.
    """
    decoder, task = prepare(config, config.tokens)
    layer = len(decoder.layers) // 2
    task = replace(task, layers=(layer,))
    weight, bias = (t.float() for t in decoder.output_map(layer))
    features, targets = list[torch.Tensor](), list[torch.Tensor]()

    def keep(number: int, x: torch.Tensor, z: torch.Tensor) -> None:
        features.append(x[:, 1:].flatten(0, 1).float())
        targets.append((z[:, 1:].flatten(0, 1).float() @ weight) + bias)

    with Capture(decoder, task.layers, "resid_pre", keep) as capture:
        for ids in torch.from_numpy(task.windows["train"].ids).split(task.batch):
            capture(ids)
    x, a = torch.cat(features), torch.cat(targets)
    probe = torch.nn.Linear(decoder.d_model, decoder.d_model, device=decoder.device)
    optimiser, generator = torch.optim.Adam(probe.parameters(), lr=rate), torch.Generator().manual_seed(0)

    def train() -> None:
        for _ in range(steps):
            rows = torch.randint(len(x), (batch,), generator=generator).to(x.device)
            loss = (probe(x[rows]) - a[rows]).square().sum(-1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    slow = seconds(decoder.device, train)
    moments = collect(decoder, task, None, "pass 1", controls=False)[layer]
    fast = seconds(
        decoder.device, lambda: fit(moments, weight.double() @ weight.double().T, "resid_pre", None)
    )
    scores, _ = measure(decoder, task, None, "exact", controls=False)
    exact = float(
        scores[layer].metrics("resid_pre", np.ones((1, len(task.windows["evaluation"].names))))[0]["R"][0]
    )
    theirs = _held_out_r(decoder, task, layer, probe)
    return [
        compare(f"{steps:,} gradient steps / exact ridge, layer {layer}, seconds after capture", slow, fast),
        compare(f"R of the exact ridge / R after {steps:,} gradient steps, layer {layer}", exact, theirs),
    ]


def _held_out_r(decoder: Decoder, task: Task, layer: int, probe: torch.nn.Module) -> float:
    """R of a probe of the layer output over the held-out tokens."""
    weight, bias = (t.float() for t in decoder.output_map(layer))
    total, count = 0.0, 0
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    with (
        Capture(decoder, [layer], "resid_pre", lambda n, x, z: found.append((x, z))) as capture,
        torch.inference_mode(),
    ):
        for part in task.batches("evaluation", decoder.device):
            found.clear()
            capture(part.ids)
            x, z = (t[part.keep].float() for t in found[0])
            a = z @ weight + bias
            total += float((1 - (probe(x) - a).norm(dim=-1) / a.norm(dim=-1)).sum())
            count += len(a)
    return total / count


def replaced(config: Config) -> list[Comparison]:
    """What a token costs when it is generated with a cache by models with less attention, beside the intact
    one; the second half of a window is generated.
    """
    # what the maps predict does not change what they cost
    decoder, task = prepare(config, 4096)
    ids = next(task.batches("evaluation", decoder.device, 0, 1)).ids
    found = list[Comparison]()
    for name, replacement in _replacements(decoder, task).items():
        model = replace_attention(decoder, replacement)
        _generate(model, ids)  # warm up
        pairs = []
        for number in range(config.rounds):
            first, second = (model, decoder.model) if number % 2 else (decoder.model, model)
            a, b = _generate(first, ids), _generate(second, ids)
            pairs.append((a, b) if number % 2 else (b, a))
        ratios = np.array([ours[0] / theirs[0] for ours, theirs in pairs])
        ours, theirs = (np.median([pair[side] for pair in pairs], 0) for side in (0, 1))
        share = f"{name} replaced ({model.realised_share:.2f} of the operations) / intact"
        found += [
            compare(f"{share}, seconds per generated token", ours[0], theirs[0], ratios, len(ratios)),
            compare(f"{share}, bytes of cache per token", ours[1], theirs[1]),
            compare(f"{share}, bytes of weights", _weights(model), _weights(decoder.model)),
        ]
    return found


def _replacements(decoder: Decoder, task: Task) -> dict[str, Replacement]:
    """Half of the layers, all of them, half of the heads of every layer, and half of the operations."""
    fitted = solve(decoder, task, collect(decoder, task, None, "pass 1", controls=True), "pass 1")
    needs, kind = measure_needs(decoder, task, fitted, None), NEEDS.index("fisher")
    maps = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
    about = About(
        model=decoder.name,
        weight_hash=decoder.weight_hash(),
        data_hash="",
        feature="resid_pre",
        dtype=str(decoder.dtype).removeprefix("torch."),
        layers=task.layers,
        d_model=decoder.d_model,
        d_z=decoder.d_z,
        n_heads=decoder.n_heads,
        start_position=task.start_position,
        positions=len(maps[task.layers[0]].bias),
    )
    half = tuple(range(decoder.n_heads // 2))
    return {
        "half of the layers": Replacement(about, maps, layers=task.layers[::2]),
        "all layers": Replacement(about, maps, layers=task.layers),
        "half of the heads": Replacement(about, maps, heads=dict.fromkeys(task.layers, half)),
        "half of the operations": Replacement(
            about,
            maps,
            need={n: one_need(p, kind) for n, p in needs.predictors.items()},
            limit=needs.threshold(kind, 0.5, known=False),
        ),
    }


@torch.inference_mode()
def _generate(model: Any, ids: torch.Tensor) -> tuple[float, float]:
    """Seconds per token, and bytes of the cache per token, of the second half of `ids`, read one by one."""
    half = ids.shape[1] // 2
    cache = model(ids[:, :half], use_cache=True).past_key_values

    def body() -> None:
        for token in ids[:, half:].split(1, 1):
            model(token, past_key_values=cache, use_cache=True)

    return seconds(ids.device, body) / (ids.shape[1] - half), size(cache) / ids.shape[1]


def _weights(model: Any) -> float:
    """Bytes of all parameters and buffers."""
    parts = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    return float(sum(parts.values()))


def execute(config: Config) -> None:
    """Measure every part and write one row for each ratio."""
    choice("threads", torch.get_num_threads(), f"model {config.model}")
    rows = list[dict[str, Any]]()
    for name, part in (
        ("pass1", pass_1),
        ("memory", memory),
        ("stored", stored),
        ("descent", descent),
        ("replaced", replaced),
        ("removal", removal),
    ):
        if name in config.parts:
            for row in part(config):
                rows.append({"model": config.model, **vars(row)})
                console.print(
                    f"{row.comparison}: {row.ours:.4g} / {row.other:.4g} = {row.ratio:.3f} "
                    f"[{row.lower_quartile:.3f}, {row.upper_quartile:.3f}] (n = {row.n})"
                )
    write_table(config.out, pd.DataFrame(rows))
