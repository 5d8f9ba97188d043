"""What training, skipping and fitting cost, as ratios in one process: `python -m consolidation.benchmark
[steps] [attention] [growth] [fits]`.

steps      training step of CRAM / of the Transformer of the same width, depth and length, alternating; and
           its operations at the rate of a matrix product (the floor); and generating the batch / the step;
           and steps of several seeds one after another / the least that all of them in one model could take
attention  the attention part alone, projections included: dense causal / read at the routed positions only,
           alternating
growth     one layer with routed reads at 1k to 16k positions: exponent of its time in the length, beside a
           Transformer layer's; memory beside time
fits       1,000 bootstrap replicates x 8 forms x 30 curves by the batched solver; the loop of
           scipy.optimize.curve_fit is timed on a sample of the same replicates and scaled up; both have to
           reach the same optimum
"""

import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.optimize import OptimizeWarning, curve_fit
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from consolidation.benchmark.config import Config, Timed
from consolidation.config import CRAMConfig
from consolidation.cram import EPISODIC, CRAMLayer, Routing
from consolidation.decay.forms import FORMS
from consolidation.decay.solver import Data, fit_best, solve
from consolidation.rivals import Attention, MixerLayer, build
from consolidation.srcd import generate, generator
from consolidation.step import Step
from consolidation.train.presets import preset
from labbook.console import progress
from labbook.estimate import Array
from labbook.run import write_table

CHOSEN = (
    "power",
    "power_asymptote",
    "shifted_power",
    "exponential",
    "exponential_asymptote",
    "stretched_exponential",
    "hyperbolic",
    "logistic",
)


def _data(config: Config, number: int) -> tuple[Array, Array, Array]:
    """x, y and bootstrap weights of one curve: noise around a shifted power law of its own."""
    g = np.random.default_rng(number)
    x = np.geomspace(1, 100, config.points)
    y = 0.9 * (1 + x / g.uniform(0.5, 3)) ** -g.uniform(0.3, 0.8) + 0.01 * g.standard_normal(config.points)
    # Bayesian bootstrap weights: every replicate keeps all points, so every form can be fitted to it
    return x, y, g.exponential(size=(config.replicates, config.points))


def fits(config: Config) -> dict[str, float]:
    """Seconds of both ways, their ratio, and the largest relative excess of our objective over scipy's."""
    ours = theirs = 0.0
    worst, sampled = 0.0, 0
    with progress("curves", config.curves) as advance:
        for number in range(config.curves):
            x, y, w = _data(config, number)
            for name in CHOSEN:
                form = FORMS[name]
                began = time.perf_counter()
                first, _ = fit_best(form, Data(x, y[None], np.ones((1, len(y)))))
                start = np.tile(first.parameters, (config.replicates, 1))
                found = solve(form, Data(x, np.tile(y, (config.replicates, 1)), w), start)
                ours += time.perf_counter() - began
                if number == 0:
                    seconds, excess = _scipy(config, name, x, y, w, first.parameters[0], found.objective)
                    theirs += seconds * config.replicates / config.sample * config.curves
                    worst, sampled = max(worst, excess), sampled + config.sample
            advance()
    return {
        "ours_seconds": ours,
        "scipy_seconds": theirs,
        "ratio": theirs / ours,
        "worst_excess": worst,
        "sampled_fits": sampled,
    }


def _scipy(
    config: Config, name: str, x: Array, y: Array, w: Array, start: Array, objective: Array
) -> tuple[float, float]:
    """Seconds of curve_fit, from the same start with the same gradient, on the first replicates, and the
    excess of our objective over its.
    """
    form = FORMS[name]
    low, high = form.limits(x)
    seconds, excess = 0.0, 0.0
    for i in range(config.sample):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            p, _ = curve_fit(
                lambda x, *p: form.value(x, np.array(p)),
                x,
                y,
                p0=np.clip(start, low, high),
                sigma=w[i] ** -0.5,
                bounds=(low, high),
                jac=lambda x, *p: form.gradient(x, np.array(p)),
                maxfev=5000,
            )
        seconds += time.perf_counter() - began
        theirs = 0.5 * np.sum(w[i] * (y - form.value(x, p)) ** 2)
        excess = max(excess, float(objective[i] / theirs - 1))
    return seconds, excess


Row = dict[str, object]
# how many seeds are asked whether they should be trained as one model
SEEDS = 4
# side of the matrices whose product gives the rate of the device
SQUARE = 4096 if torch.cuda.is_available() else 1024
# of dense / routed attention, by length: on CPUs, and on GPUs against flash attention
GOALS = {False: {2048: 2, 8192: 5}, True: {8192: 10, 32768: 30}}


def _pairs(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, alternating, after one round that is not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for place, work in enumerate((first, second)):
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[place].append(time.perf_counter() - began)
    return seconds


def _ratio(what: str, numerator: list[float], denominator: list[float], target: str, **more: object) -> Row:
    """Median of the paired ratios with quartiles and n."""
    ratios = np.array(numerator) / np.array(denominator)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    row = {
        "what": what,
        "ratio": middle,
        "lower_quartile": low,
        "upper_quartile": high,
        "n": len(ratios),
        "target": target,
    }
    return {
        **row,
        "numerator_seconds": float(np.median(numerator)),
        "denominator_seconds": float(np.median(denominator)),
        **more,
    }


def _precision() -> torch.autocast:
    """bf16 on GPUs, as in training and as flash attention takes it; float32 on CPUs."""
    kind = _device().type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def steps(config: Config) -> list[Row]:
    """Training steps of CRAM against the Transformer with the budget of CRAM, and the generator's share of
    the step.
    """
    base, device = preset(config.preset), _device()
    work, made = {}, {}
    for name in ("cram", "transformer"):
        torch.manual_seed(0)
        model = build(name, base.benchmark, base.cram).to(device)
        # a router as it is after training: reads are rare
        for layer in model.layers:
            if isinstance(layer, CRAMLayer):
                with torch.no_grad():
                    layer.router.second.bias.copy_(torch.tensor([0.0, -3.0, 0.0]))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        numbers = base.batch * base.benchmark.length * base.cram.width
        made[name] = (model, optimizer, Step(None, model.train(), _precision, device, "auto", numbers))

        def step(name: str = name, seeds: int = 1) -> None:
            model, optimizer, forward = made[name]
            batch = generate(base.benchmark, 0, 0, seeds * base.batch, device)
            routing = Routing.draw(len(model.layers), batch, generator(device, "noise"))
            forward(batch, routing, base.objective)[1]["total"].backward()
            optimizer.step()
            optimizer.zero_grad()

        work[name] = step
    cram, transformer = _pairs(work["cram"], work["transformer"], config.rounds)
    product, alone = _pairs(_product(device), work["cram"], config.rounds)
    floor = np.array(product) * _operations(work["cram"]) / (2 * SQUARE**3)
    drawn, again = _pairs(
        lambda: generate(base.benchmark, 0, 0, base.batch, device), work["cram"], config.rounds
    )
    # weights that all sequences share, and are updated once, cost less than weights of each seed, so this
    # bounds what seeds in one model would gain
    in_turn, at_once = _pairs(
        lambda: [work["cram"]() for _ in range(SEEDS)], partial(work["cram"], "cram", SEEDS), config.rounds
    )
    return [
        _ratio(f"training step, CRAM / Transformer, {config.preset}", cram, transformer, "at most 1.5"),
        _ratio(
            f"training step of CRAM / its operations at the rate of a matrix product, {config.preset}",
            alone,
            list(floor),
            "",
        ),
        _ratio(
            f"generating the batch / training step of CRAM, {config.preset}", drawn, again, "at most 0.10"
        ),
        _ratio(
            f"steps of {SEEDS} seeds in turn / one step of all with shared weights, {config.preset}",
            in_turn,
            at_once,
            "at least 2 to build it",
        ),
    ]


def _product(device: torch.device) -> Callable[[], object]:
    """A product of square matrices in the precision of training: what the device computes at best."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(SQUARE, SQUARE, device=device, dtype=kind)
    return lambda: a @ a


def _operations(step: Callable[[], object]) -> float:
    """Operations of the matrix products of a step, forward and backward, and of its attention where torch
    counts it (not on CPUs); compiled code is not counted, so the step runs without.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def _layers(
    config: Config, length: int
) -> tuple[CRAMLayer, Attention, MixerLayer, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A CRAM layer, dense attention, a Transformer layer, tokens, gaps, and the positions that read."""
    torch.manual_seed(0)
    device = _device()
    cram = CRAMConfig(width=config.width, heads=4, layers=1, buffer=512, chunk=512)
    layer, dense = CRAMLayer(cram).to(device).eval(), Attention(cram).to(device).eval()
    x, gap = torch.randn(1, length, config.width, device=device), torch.rand(1, length, device=device)
    read = torch.zeros(1, length, dtype=torch.bool, device=device)
    read[0, torch.randperm(length, device=device)[: round(config.routed * length)]] = True
    return layer, dense, MixerLayer(cram, dense).to(device).eval(), x, gap, read


@torch.no_grad()
def attention(config: Config) -> list[Row]:
    """Dense causal attention against reads at the routed positions, projections included."""
    rows = []
    cuda = _device().type == "cuda"
    for length in config.attention_lengths:
        layer, dense, _, x, _, read = _layers(config, length)
        with _precision():
            everywhere, routed = _pairs(partial(dense, x), partial(layer.episodic, x, read), config.rounds)
        what = (
            f"attention part, dense / routed at {config.routed:.0%} of {length:,} positions, width "
            f"{config.width}"
        )
        least = GOALS[cuda].get(length)
        rows.append(_ratio(what, everywhere, routed, "" if least is None else f"at least {least}"))
    return rows


def _route(layer: CRAMLayer, read: torch.Tensor) -> None:
    """Make the layer route to attention exactly where `read` says, whatever the tokens."""
    logits = torch.zeros(*read.shape, 3, device=read.device)
    logits[..., EPISODIC] = torch.where(read, 1.0, -1.0)
    layer.router.forward = lambda *_: logits  # type: ignore[method-assign]


def _peak(work: Callable[[], object]) -> float:
    """Bytes of tensors alive at once, at most, during `work`, by the allocator's own record."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return float(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    kineto = record.profiler
    if kineto is None or kineto.kineto_results is None:
        return float("nan")
    changes = sorted(
        (e.start_ns(), e.nbytes()) for e in kineto.kineto_results.events() if e.name() == "[memory]"
    )
    return float(np.cumsum([size for _, size in changes]).max())


@torch.no_grad()
def growth(config: Config) -> list[Row]:
    """Time and memory of one layer by length, and the exponents of their growth."""
    rows: list[Row] = []
    seconds: dict[str, list[float]] = {"cram": [], "transformer": []}
    peaks: dict[str, list[float]] = {"cram": [], "transformer": []}
    for length in config.lengths:
        layer, _, transformer, x, gap, read = _layers(config, length)
        _route(layer, read)
        work = {
            name: partial(chosen, x, gap, None, frozenset())
            for name, chosen in (("cram", layer), ("transformer", transformer))
        }
        with _precision():
            timed = _pairs(work["cram"], work["transformer"], config.rounds)
        for name, spent in zip(work, timed, strict=True):
            seconds[name].append(float(np.median(spent)))
            with _precision():
                peaks[name].append(_peak(work[name]))
    for name in work:
        for length, median, peak in zip(config.lengths, seconds[name], peaks[name], strict=True):
            rows.append(
                {
                    "what": f"one layer, {name}, {length:,} positions",
                    "numerator_seconds": median,
                    "bytes": peak,
                    "n": config.rounds,
                }
            )
        for measure, values in (("time", seconds[name]), ("memory", peaks[name])):
            target = "near 1" if (name, measure) == ("cram", "time") else ""
            # the longest half: at short lengths the fixed cost of a call hides the growth
            half = min(len(values) // 2, len(values) - 2)
            exponent = float(
                np.polyfit(np.log(config.lengths[half:]), np.log(np.maximum(values[half:], 1e-9)), 1)[0]
            )
            what = f"one layer, {name}: exponent of {measure} from {config.lengths[half]:,} positions on"
            rows.append({"what": what, "ratio": exponent, "n": len(values) - half, "target": target})
    return rows


def fitting(config: Config) -> list[Row]:
    """The batched solver against a loop of curve_fit."""
    row = fits(config)
    count = config.curves * config.replicates * len(CHOSEN)
    what = f"loop of curve_fit / batched solver, {count:,} fits (scipy scaled from {row['sampled_fits']:.0f})"
    both: Row = {
        "numerator_seconds": row["scipy_seconds"],
        "denominator_seconds": row["ours_seconds"],
        "worst_excess": row["worst_excess"],
    }
    return [{"what": what, "ratio": row["ratio"], "n": count, "target": "at least 50", **both}]


PARTS: dict[Timed, Callable[[Config], list[Row]]] = {
    "steps": steps,
    "attention": attention,
    "growth": growth,
    "fits": fitting,
}


def execute(config: Config) -> pd.DataFrame:
    """Measure every part, and write one row for each ratio as they come."""
    rows: list[Row] = []
    for part in config.parts:
        rows += PARTS[part](config)
        write_table(config.out, pd.DataFrame(rows))
    return pd.DataFrame(rows)
