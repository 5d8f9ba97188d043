"""What is measured on held-out sequences, and what a finished seed is summed up as."""

import math

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from consolidation.config import variant
from consolidation.cram import EPISODIC, SEMANTIC, Model, Outputs, Part
from consolidation.srcd import Batch
from consolidation.train.config import TrainConfig
from consolidation.train.trajectory import SeedSummary

KNOCK_OUTS: tuple[Part, ...] = ("attention", "semantic", "working", "feed_forward")
# what counts as having learnt and as having consolidated, in `summary.json`
LEARNT, CONSOLIDATED = 0.95, 1.5
# torch's counter knows attention on GPUs, but not by the name that it has on CPUs
COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    )
}


def kinds(batch: Batch) -> dict[str, torch.Tensor]:
    """(batch, position) masks of the kinds of position."""
    recurring = torch.zeros_like(batch.role, dtype=torch.bool).scatter(1, batch.position, batch.recurring)
    query = torch.zeros_like(recurring).scatter(1, batch.position, torch.ones_like(batch.recurring))
    return {
        "all": torch.ones_like(query),
        "recurring": recurring,
        "novel": query & ~recurring,
        "query": query,
        "other": ~query,
    }


def accuracies(outputs: Outputs, batch: Batch) -> list[tuple[str, float, int]]:
    """Share of right answers by kind of query, with counts; kinds without queries are left out."""
    right = (outputs.logits.argmax(-1) == batch.target).gather(1, batch.position)
    masks = {
        "recurring": batch.recurring,
        "novel": ~batch.recurring,
        "query": torch.ones_like(batch.recurring),
    }
    return [(kind, float(right[m].double().mean()), int(m.sum())) for kind, m in masks.items() if m.any()]


def measure(outputs: Outputs, batch: Batch) -> list[tuple[int, str, str, float, int]]:
    """Rows (layer, kind, metric, value, n) of one evaluation without noise, for every layer and for their
    mean (layer -1).
    """
    rows = [(-1, kind, "accuracy", value, n) for kind, value, n in accuracies(outputs, batch)]
    error = (outputs.dynamics.double() - batch.dynamics).square().mean()
    positions, length = batch.key.numel(), batch.key.shape[1]
    rows.append((-1, "all", "dynamics_mse", float(error), positions))
    rows.append((-1, "all", "pairs_dense", (length + 1) / 2, positions))
    parts: list[list[tuple[str, str, float, int]]] = []
    for trace in outputs.traces:
        part = []
        for kind, mask in kinds(batch).items():
            n = int(mask.sum())
            if n:
                part.append((kind, "attention", float((trace.path[mask] == EPISODIC).double().mean()), n))
                part.append((kind, "semantic", float((trace.path[mask] == SEMANTIC).double().mean()), n))
                part.append((kind, "quality_predicted", float(trace.predicted[mask].double().mean()), n))
        part.append(("all", "pairs", float(trace.pairs) / positions, positions))
        parts.append(part)
    for layer, part in enumerate(parts):
        rows += [(layer, *row) for row in part]
    for same in zip(*parts, strict=True):
        kind, metric, _, n = same[0]
        rows.append((-1, kind, metric, float(np.mean([value for _, _, value, _ in same])), n))
    return rows


def memories(outputs: Outputs, batch: Batch, buffer: int) -> list[tuple[int, str, str, float, int]]:
    """Rows about r_E computed everywhere: mean and quantiles of q_t, and whether the bindings that are asked
    for are still in the buffer.
    """
    rows: list[tuple[int, str, str, float, int]] = []
    before = torch.arange(batch.key.shape[1], device=batch.key.device) < batch.position[..., None]
    for layer, trace in enumerate(outputs.traces):
        if trace.quality.isnan().any():
            continue
        for kind, mask in kinds(batch).items():
            values = trace.quality[mask].double()
            if len(values):
                rows.append((layer, kind, "quality", float(values.mean()), len(values)))
                tens = torch.quantile(values, values.new_tensor([0.1, 0.5, 0.9])).tolist()
                rows += [
                    (layer, kind, f"quality_q{q}", value, len(values))
                    for q, value in zip((10, 50, 90), tens, strict=True)
                ]
        bound = trace.novelty.gather(1, batch.binding)
        ahead = (trace.novelty[:, None] > bound[..., None]) & before
        rows.append((layer, "query", "held", float((ahead.sum(2) < buffer).double().mean()), bound.numel()))
    return rows


def operations(model: Model, batch: Batch) -> dict[str, float]:
    """Forward operations per position by torch's counter (matrix products and attention), with skipping and
    with attention computed everywhere.
    """
    found = {}
    for metric, dense in (("flops", False), ("flops_dense", True)):
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            model(batch, dense=dense)
        found[metric] = counter.get_total_flops() / batch.key.numel()
    return found


def summarise(table: pd.DataFrame, config: TrainConfig, seed: int, size: int, digest: str) -> SeedSummary:
    """The numbers of a finished seed of `size` parameters from its trajectory; `digest` is that of its
    configuration.
    """
    whole = table[table["layer"] == -1]

    def at(metric: str, kind: str, which: int) -> float:
        rows = whole[(whole["metric"] == metric) & (whole["kind"] == kind)]
        return float(rows["value"].iloc[which]) if len(rows) else math.nan

    attention = whole.query("metric == 'attention_in_training'")["value"]
    final = {kind: at("attention", kind, -1) for kind in ("all", "recurring", "novel", "other")}
    accuracy = {kind: at("accuracy", kind, -1) for kind in ("recurring", "novel", "query")}
    peak = float(whole.query("metric == 'attention' and kind == 'all'")["value"].max())
    # a model that never attends, or gave it up altogether, has not learnt when to
    optimum = config.benchmark.optimum()
    learnt = all(value >= LEARNT for value in accuracy.values() if not math.isnan(value))
    return SeedSummary(
        model=config.model,
        label=variant(config.model).label,
        seed=seed,
        parameters=size,
        steps=config.steps,
        accuracy=accuracy,
        dynamics_mse=at("dynamics_mse", "all", -1),
        attention=final,
        attention_first=float(attention.iloc[0]),
        attention_peak=peak,
        pairs=at("pairs", "all", -1),
        pairs_dense=at("pairs_dense", "all", -1),
        flops=at("flops", "all", -1),
        flops_dense=at("flops_dense", "all", -1),
        semantic=at("semantic", "all", -1),
        knock_outs={
            f"{part}, {kind}": at(f"accuracy_without_{part}", kind, -1)
            for part in (*KNOCK_OUTS, "all")
            for kind in ("recurring", "novel")
        },
        optimum=optimum,
        static=config.benchmark.queries,
        learnt=learnt,
        consolidated=learnt and 0 < final["all"] <= CONSOLIDATED * optimum,
        events=config.events(),
        seconds=at("seconds", "all", -1),
        config_digest=digest,
    )
