"""Run the intact model and every variant over the held-out documents, and count what the change costs.

Of every next-token prediction from a scored position:

    loss        -log p(next token), nats
    kl          sum_v p_intact(v) log(p_intact(v) / p(v)), nats
    agreement   whether the most probable token is that of the intact model
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from labbook import processes
from redundancy.batches import Batch
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Prefix
from redundancy.model.substitution import Rule, Substitution
from redundancy.passes import Pass, Saved, Task, each_batch

# what is summed per document
TALLIES = ("tokens", "loss", "kl", "agreement", "skipped", "operations")


@dataclass(frozen=True)
class Key:
    """By which tables know a way to run the model.

    Attributes
    ----------
    part : of the experiment.
    replacement : what stands for attention.
    layer, head : where, for the parts that go through them.
    order, target_share : place on the removal curve.
    """

    part: str
    replacement: str
    layer: int | None = None
    head: int | None = None
    order: str = ""
    target_share: float = 0.0


@dataclass(frozen=True)
class Variant:
    """A way to run the model: the rules by layer, and the key of what they leave."""

    key: Key
    rules: Mapping[int, Rule]

    def change(self, decoder: Decoder, start: int) -> Substitution:
        """The hooks that change the model from position `start` on."""
        return Substitution(decoder, self.rules, start)


class Change(Protocol):
    """Hooks that change a model for the time of a `with` block."""

    @property
    def first(self) -> int:
        """The lowest layer that is changed."""

    @property
    def skipped(self) -> Tensor:
        """(batch,) operations of attention that were replaced in the windows that were `read`."""

    def read(self, batch: Batch) -> None:
        """Name the windows that the model is run on next."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> None: ...


class Changing(Protocol):
    """A way to run the model: a `Variant`, or anything else that names its hooks."""

    def change(self, decoder: Decoder, start: int) -> Change:
        """The hooks that change the model from position `start` on."""


def next_token_log_p(decoder: Decoder, ids: Tensor) -> Tensor:
    """log p(next token) at every position but the last: (batch, position - 1, vocabulary), float32 (float64
    models: float64).
    """
    logits: Tensor = decoder.model(input_ids=ids, use_cache=False).logits[:, :-1]
    return logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32).log_softmax(-1)


@torch.inference_mode()
def log_probabilities(decoder: Decoder, ids: Tensor) -> Tensor:
    """`next_token_log_p` without anything that a gradient needs."""
    return next_token_log_p(decoder, ids)


def evaluate(
    decoder: Decoder,
    task: Task,
    variants: Sequence[Changing],
    state: Path | None,
    label: str,
    split: Literal["validation", "evaluation"] = "evaluation",
) -> tuple[Tensor, Tensor]:
    """Run the intact model and every variant over the held-out documents, or those of another split.

    Of a variant only the blocks from its first changed one on are computed.

    Returns
    -------
    Sums per document in float64: of the intact model (document, TALLIES), of the variants (variant, document,
    TALLIES).
    """
    documents = len(task.windows[split].names)
    saved = Saved(state)
    stored, done = saved.load(task.counts)
    sums = torch.zeros(len(variants) + 1, documents, len(TALLIES), dtype=torch.float64)
    if stored:
        sums = stored[0]["sums"]
    changes = [v.change(decoder, task.start_position) for v in variants]
    prefix = Prefix(decoder)

    @torch.inference_mode()
    def body(batch: Batch) -> None:
        with prefix.recorded():
            intact = log_probabilities(decoder, batch.ids)
        device = intact.device
        valid = (batch.keep[:, :-1] & batch.keep[:, 1:]).to(device)
        goal, best = batch.ids[:, 1:].to(device).unsqueeze(-1), intact.argmax(-1)
        operations = batch.keep.sum(-1).cpu() * decoder.n_heads * len(task.layers)
        owner = batch.document.cpu()

        def add(row: int, log_p: Tensor, skipped: Tensor) -> None:
            per_token = (
                torch.ones_like(valid),
                -log_p.gather(-1, goal).squeeze(-1),
                torch.zeros_like(valid) if row == 0 else (intact.exp() * (intact - log_p)).sum(-1),
                log_p.argmax(-1) == best,
            )
            fields = [torch.where(valid, f, 0).sum(-1, dtype=torch.float64).cpu() for f in per_token]
            sums[row].index_add_(0, owner, torch.stack([*fields, skipped, operations.double()], -1))

        add(0, intact, torch.zeros(len(owner), dtype=torch.float64))
        for row, change in enumerate(changes, 1):
            with change, prefix.below(change.first):
                change.read(batch)
                log_p = log_probabilities(decoder, batch.ids)
            add(row, log_p, change.skipped)

    def save(count: int) -> None:
        saved.save({0: {"sums": sums}}, {split: count})

    reading = Pass(split, label, done.get(split, 0), saved, save)
    each_batch(task, reading, decoder.device, body)
    processes.add_up([sums])
    return sums[0], sums[1:]
