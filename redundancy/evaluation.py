"""Run the intact model and every variant over the held-out documents, and count what the change costs.

Of every next-token prediction from a scored position:

    loss        -log p(next token), nats
    kl          sum_v p_intact(v) log(p_intact(v) / p(v)), nats
    agreement   whether the most probable token is that of the intact model

Two kinds of tokens are counted apart: copied ones, whose trigram with the two tokens before stood in the
window already (what attention is for), and rare ones, which were seldom read in training text.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from labbook import processes
from redundancy.batches import Batch
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Prefix, Sublayer
from redundancy.model.substitution import Rule, Substitution
from redundancy.passes import Pass, Saved, Task, each_batch

# kinds of next tokens whose loss is summed apart, too
KINDS = ("copied", "rare")
# what is summed per document
TALLIES = (
    "tokens",
    "loss",
    "kl",
    "agreement",
    "skipped",
    "operations",
    *(f"{what}_{kind}" for kind in KINDS for what in ("tokens", "loss")),
)
# of the tokens of the training text, those whose ids are its least frequent ones
RARE = 0.1


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
    def blind(self) -> Collection[Sublayer]:
        """Sublayers whose output is replaced whatever it is."""

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
    return next_token_logits(decoder, ids).log_softmax(-1)


def next_token_logits(decoder: Decoder, ids: Tensor) -> Tensor:
    """`next_token_log_p` before it is normalised."""
    logits: Tensor = decoder.model(input_ids=ids, use_cache=False).logits[:, :-1]
    return logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)


@torch.inference_mode()
def log_probabilities(decoder: Decoder, ids: Tensor) -> Tensor:
    """`next_token_log_p` without anything that a gradient needs."""
    return next_token_log_p(decoder, ids)


def scored_tokens(batch: Batch) -> Tensor:
    """Whether both a token and the one that is predicted from it are kept: (batch, position - 1)."""
    return batch.keep[:, :-1] & batch.keep[:, 1:]


def copied_tokens(ids: Tensor) -> Tensor:
    """Whether the next token ends a trigram that stood earlier in the window: (batch, position - 1) from ids
    (batch, position).
    """
    ids = ids.to(torch.int64)
    base = int(ids.max()) + 1
    grams = (ids[:, :-2] * base + ids[:, 1:-1]) * base + ids[:, 2:]
    ordered, place = grams.sort(dim=1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    found = torch.zeros_like(again).scatter(1, place, again)
    return torch.cat([torch.zeros_like(found[:, :1]), found], 1)


def rare_ids(task: Task, vocabulary: int) -> Tensor:
    """Which ids are rare: the least frequent ones, that make up at most RARE of the training tokens:
    (vocabulary,).
    """
    train = task.windows["train"]
    real = np.arange(train.ids.shape[1]) < train.lengths[:, None]
    counts = np.bincount(train.ids[real], minlength=vocabulary)
    order = np.argsort(counts, kind="stable")
    rare = np.zeros(vocabulary, dtype=bool)
    rare[order] = counts[order].cumsum() <= RARE * counts.sum()
    return torch.from_numpy(rare)


@contextmanager
def one_kernel(decoder: Decoder) -> Iterator[None]:
    """Inside, an activation that the model puts together from single operations (GPT-2's gelu_new) is one
    kernel of torch, in less than half of the time; values differ by rounding alone.

    Not where labels are drawn: rounding flips one in tens of thousands, and what is fitted to them moves.
    """
    kept = list[tuple[nn.Module, str, nn.Module]]()
    for parent in decoder.model.modules():
        for name, child in parent.named_children():
            if type(child) is NewGELUActivation:
                kept.append((parent, name, child))
                setattr(parent, name, nn.GELU(approximate="tanh"))
    try:
        yield
    finally:
        for parent, name, child in kept:
            setattr(parent, name, child)


class _Tally:
    """Sums over the windows of one batch, against the intact model."""

    def __init__(self, decoder: Decoder, batch: Batch, intact: Tensor, layers: int, rare: Tensor):
        self.goal = batch.ids[:, 1:].to(intact.device).unsqueeze(-1)
        valid = scored_tokens(batch).to(intact.device)
        kinds = (
            copied_tokens(batch.ids).to(valid.device),
            rare.to(valid.device)[self.goal.squeeze(-1)],
        )
        self.valid = valid
        self.kinds = [valid & kind for kind in kinds]
        self.operations = (batch.keep.sum(-1).cpu() * decoder.n_heads * layers).double()
        self.intact, self.log_total = _shifted(intact)
        self.best, self.p = intact.argmax(-1), (self.intact - self.log_total.unsqueeze(-1)).exp()

    def of(self, logits: Tensor, skipped: Tensor, *, changed: bool) -> Tensor:
        """(batch, TALLIES) of what a way of running the model gives, next-token logits (batch, position - 1,
        vocabulary).
        """
        shifted, log_total = _shifted(logits)
        loss = log_total - shifted.gather(-1, self.goal).squeeze(-1)
        kl = torch.zeros_like(loss)
        if changed:
            # sum_v p (log p - log p') with the differences taken before they are weighed, for their digits
            difference = torch.sub(self.intact, shifted).mul_(self.p).sum(-1)
            kl = difference + log_total - self.log_total
        agreement = self._agrees(shifted)
        fields = [
            torch.where(self.valid, f, 0).sum(-1, dtype=torch.float64).cpu()
            for f in (torch.ones_like(loss), loss, kl, agreement)
        ]
        fields += [skipped, self.operations]
        for kind in self.kinds:
            fields += [kind.sum(-1).double().cpu(), torch.where(kind, loss, 0).sum(-1).double().cpu()]
        return torch.stack(fields, -1)

    def _agrees(self, shifted: Tensor) -> Tensor:
        """Whether the most probable token is that of the intact model: (batch, position - 1)."""
        best = self.best.unsqueeze(-1)
        found = shifted.gather(-1, best).squeeze(-1) == 0
        # argmax is slow: it decides only where another token is as probable, as happens in half precision
        ties = found & (shifted.scatter(-1, best, -torch.inf).amax(-1) == 0)
        found[ties] = shifted[ties].argmax(-1) == self.best[ties]
        return found


def _shifted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits less their largest, and the logarithm of the sum of their exponentials."""
    shifted = logits - logits.amax(-1, keepdim=True)
    return shifted, shifted.exp().sum(-1).log()


def _identity(variant: Changing, n_heads: int) -> Hashable:
    """What tells one way of running the model from another: equal ones give the same numbers."""
    if not isinstance(variant, Variant):
        return id(variant)
    return tuple(
        (
            n,
            id(rule.predict),
            rule.choose and id(rule.choose),
            rule.sees and id(rule.sees),
            None if rule.heads is None or len(set(rule.heads)) == n_heads else frozenset(rule.heads),
            rule.permuted,
            rule.dropped,
        )
        for n, rule in sorted(variant.rules.items())
    )


def evaluate(
    decoder: Decoder,
    task: Task,
    variants: Sequence[Changing],
    state: Path | None,
    label: str,
    split: Literal["validation", "evaluation"] = "evaluation",
) -> tuple[Tensor, Tensor]:
    """Run the intact model and every variant over the held-out documents, or those of another split.

    Of a variant only what it changes is computed, see `prefix`.

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
    identities = [_identity(v, decoder.n_heads) for v in variants]
    prefix = Prefix(decoder, {sublayer for change in changes for sublayer in change.blind})

    rare = rare_ids(task, decoder.vocabulary)

    @torch.inference_mode()
    def body(batch: Batch) -> None:
        with prefix.recorded():
            intact = next_token_logits(decoder, batch.ids)
        owner = batch.document.cpu()
        tally = _Tally(decoder, batch, intact, len(task.layers), rare)
        nothing = torch.zeros(len(owner), dtype=torch.float64)
        sums[0].index_add_(0, owner, tally.of(intact, nothing, changed=False))
        # several parts and orders meet in one and the same place: it is measured once
        counted = dict[Hashable, Tensor]()
        for row, (identity, change) in enumerate(zip(identities, changes, strict=True), 1):
            if identity not in counted:
                with change, prefix.given(change.first, change.blind):
                    change.read(batch)
                    logits = next_token_logits(decoder, batch.ids)
                counted[identity] = tally.of(logits, change.skipped, changed=True)
            sums[row].index_add_(0, owner, counted[identity])

    def save(count: int) -> None:
        saved.save({0: {"sums": sums}}, {split: count})

    reading = Pass(split, label, done.get(split, 0), saved, save)
    with one_kernel(decoder):
        each_batch(task, reading, decoder.device, body)
    processes.add_up([sums])
    return sums[0], sums[1:]
