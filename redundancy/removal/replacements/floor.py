"""The floor: what no replacement that sees one token and its position can get below.

    attention gone from every layer:   token_t, position t --> p(token_(t+1))

Whatever map stands for attention, if it sees one token's stream alone then so does the whole network, and its
loss is at least H(token_(t+1) | token_t, t). That entropy is not known; what finite text gives is models of
the same kind, each of whose losses it lies at or below:

    bigram    interpolated Kneser-Ney of the training windows
    network   the model itself with affine maps of all attention layers, started from those that are given,
              every weight trained on KL(intact || without attention) over the training documents, as far as
              the validation documents are the better for it

The smaller on the validation documents is the estimate, an upper one. That the network is distilled from the
intact model lets it know more text than the training windows hold (Hinton, Vinyals & Dean 2015,
arXiv:1503.02531).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from labbook import processes
from labbook.console import choice
from redundancy.batches import Batch
from redundancy.evaluation import scored_tokens
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule
from redundancy.passes import Pass, Task, each_batch
from redundancy.pretrain.ngram import NGram
from redundancy.regression.controls import PositionAffine
from redundancy.removal.replacements.descent import Descent, descend_without, log_p_without
from redundancy.removal.replacements.inplace import ScaledMap

HOW = Descent(epochs=6, rate=0.01, label="floor: network without attention, epochs")
# log p(next token) at every position but the last, (batch, position - 1)
Speak = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Floor:
    """Losses of models that see one token and its position.

    Attributes
    ----------
    sums : by model, (document, 2) scored tokens and their summed loss in nats on the held-out documents; the
        model that is best on the validation documents comes first.
    validation : by model, nats per token on the validation documents.
    tokens : training tokens that they were estimated from.
    """

    sums: Mapping[str, Tensor] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0


def measure_floor(
    decoder: Decoder, task: Task, start: Mapping[int, PositionAffine], scale: Mapping[int, Tensor]
) -> Floor:
    """Train and score the models of this module's text.

    Parameters
    ----------
    start : maps by layer that the network begins with.
    scale : (d_model,) spread of the hidden state by layer.

    Empty where some layers keep their attention: then earlier tokens are seen. Raises `Interrupted` when
    asked to stop, see `descent.descend`.
    """
    if len(task.layers) < len(decoder.layers):
        choice("floor", "none", "only some layers are replaced, so the others still see earlier tokens")
        return Floor()
    models = {"bigram": bigram(task, decoder.vocabulary), "network": network(decoder, task, start, scale)}
    validation = {name: _mean(task, decoder, speak, "validation") for name, speak in models.items()}
    best = min(validation, key=lambda name: validation[name])
    said = ", ".join(f"{name} {loss:.3f}" for name, loss in validation.items())
    choice("floor", best, f"nats per token on the validation documents: {said}")
    first = sorted(models, key=lambda name: validation[name])
    return Floor(
        {name: _sums(task, decoder, models[name], "evaluation") for name in first},
        validation,
        task.windows["train"].tokens,
    )


def bigram(task: Task, vocabulary: int) -> Speak:
    """Kneser-Ney of order 2 over the training windows."""
    train = task.windows["train"]
    tokens = [row[:n] for row, n in zip(train.ids.astype(np.int64), train.lengths, strict=True)]
    model = NGram(tokens, 2, vocabulary)

    def speak(batch: Batch) -> Tensor:
        rows = batch.ids.cpu().numpy().astype(np.int64)
        return torch.from_numpy(np.stack([model.log_probabilities(row) for row in rows]))

    return speak


def network(
    decoder: Decoder, task: Task, start: Mapping[int, PositionAffine], scale: Mapping[int, Tensor]
) -> Speak:
    """The model without attention, every other weight trained; the model that is given stays as it is."""
    without = copy.deepcopy(decoder)
    maps = {n: ScaledMap(start[n], scale[n]) for n in task.layers}
    whole = nn.ModuleDict({"model": without.model, **{f"map_{n}": m for n, m in maps.items()}})
    rules = {n: Rule(m) for n, m in maps.items()}
    # weights are loaded without gradients; what is inside attention has no effect any more
    without.model.requires_grad_(True)
    for n in task.layers:
        projection = {id(p) for p in without.projection(n).parameters()}
        for p in without.attention(n).parameters():
            p.requires_grad_(id(p) in projection)
    descend_without(whole, without, rules, decoder, task, HOW)

    def speak(batch: Batch) -> Tensor:
        goal = batch.ids[:, 1:].unsqueeze(-1)
        found = log_p_without(without, rules, task, batch)
        return found.gather(-1, goal.to(found.device)).squeeze(-1)

    return speak


@torch.no_grad()
def _sums(task: Task, decoder: Decoder, speak: Speak, split: str) -> Tensor:
    """Scored tokens and their summed loss by document: (document, 2)."""
    sums = torch.zeros(len(task.windows[split].names), 2, dtype=torch.float64)

    @torch.no_grad()
    def body(batch: Batch) -> None:
        valid = scored_tokens(batch).cpu()
        loss = torch.where(valid, -speak(batch).double().cpu(), 0.0)
        sums.index_add_(0, batch.document.cpu(), torch.stack([valid.sum(-1).double(), loss.sum(-1)], -1))

    each_batch(task, Pass(split, f"floor, {split}"), decoder.device, body)
    processes.add_up([sums])
    return sums


def _mean(task: Task, decoder: Decoder, speak: Speak, split: str) -> float:
    tokens, loss = _sums(task, decoder, speak, split).sum(0).tolist()
    return float(loss / tokens)
