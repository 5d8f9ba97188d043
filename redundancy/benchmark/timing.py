"""What every comparison of the benchmark begins and ends with: the model and the text, seconds, a row."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from redundancy.benchmark.config import Config
from redundancy.model.decoder import Decoder
from redundancy.model.loading import choose_device, choose_dtype, load_model, load_tokenizer, locate
from redundancy.passes import Task
from redundancy.text import SPLITS, cut_windows, read_corpus, split_documents


@dataclass(frozen=True)
class Comparison:
    """A row of the table: what is compared, both numbers, their ratio with quartiles over n pairs."""

    comparison: str
    ours: float
    other: float
    ratio: float
    lower_quartile: float
    upper_quartile: float
    n: int


def prepare(config: Config, tokens: int) -> tuple[Decoder, Task]:
    """The model and a task of about `tokens` training tokens of the embedded text, repeated if it is too
    short.
    """
    source, (device, _) = locate(config.model), choose_device(config.device)
    decoder, tokenizer = (
        load_model(source, device, choose_dtype("auto", device)[0], 0),
        load_tokenizer(source),
    )
    parts = split_documents(read_corpus(None).documents, 0)
    windows = {split: cut_windows(parts[split], tokenizer, config.context, tokens) for split in SPLITS}
    windows["validation"] = windows["validation"].slice(0, 8)
    train = windows["train"]
    repeats = np.tile(np.arange(len(train.lengths)), -(-tokens // train.tokens))[
        : max(1, tokens // config.context)
    ]
    windows["train"] = replace(
        train, ids=train.ids[repeats], lengths=train.lengths[repeats], document=train.document[repeats]
    )
    batch = (32_768 if device.type == "cuda" else 4096) // config.context
    return decoder, Task(
        windows,
        layers=tuple(range(len(decoder.layers))),
        feature="resid_pre",
        ridge=None,
        start_position=1,
        seed=0,
        batch=batch,
    )


def seconds(device: torch.device, body: Callable[[], Any]) -> float:
    """Wall-clock seconds of `body`, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    body()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def compare(
    comparison: str, ours: float, other: float, ratios: np.ndarray | None = None, n: int = 1
) -> Comparison:
    """One comparison; with several pairs the ratio is the median and the range holds its quartiles."""
    values = np.array([ours / other]) if ratios is None else ratios
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Comparison(comparison, ours, other, middle, low, high, n)


def paired(
    device: torch.device, rounds: int, ours: Callable[[], Any], other: Callable[[], Any]
) -> list[tuple[float, float]]:
    """Seconds of both, in turn with either first, after each ran once."""
    ours()
    other()
    pairs = []
    for number in range(rounds):
        if number % 2:
            own = seconds(device, ours)
            pairs.append((own, seconds(device, other)))
        else:
            theirs = seconds(device, other)
            pairs.append((seconds(device, ours), theirs))
    return pairs


def compare_pairs(comparison: str, pairs: list[tuple[float, float]]) -> Comparison:
    """Medians of both, and the median of the ratios of pairs."""
    ours, other = np.median(pairs, 0)
    return compare(comparison, ours, other, np.array([a / b for a, b in pairs]), len(pairs))
