"""Replacements trained in place: the maps of all layers at once, on what the whole network makes of them.

    intact     ids --> blocks with attention ----------------------------------> p
    replaced   ids --> blocks with z' = (x - shift) W + b[position] instead ---> p'

The maps that ridge fits are each right for the intact stream, and none of them sees that stream once the
layers below are replaced too. Here they start from there and learn together to keep KL(p || p') small on the
training documents; the rest of the network is frozen. So this is the strongest affine replacement of hidden
state and position that is tried, as far as the optimiser finds it.

Adam with a cosine over EPOCHS; after every epoch the KL on the validation documents decides what is kept, and
PATIENCE epochs without a smaller one end it. The maps before training compete too.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labbook.console import Interrupted, progress, stopping
from redundancy.batches import Batch
from redundancy.evaluation import next_token_log_p
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, Substitution
from redundancy.passes import Task
from redundancy.regression.controls import PositionAffine

EPOCHS, PATIENCE = 6, 2
# step of Adam relative to the root mean square of what it changes
RATE = 0.04


@dataclass(frozen=True)
class Trained:
    """Maps by layer, and the KL in nats per token that they had before and after training."""

    maps: dict[int, PositionAffine]
    before: float
    after: float


class _Map(nn.Module):
    """A `PositionAffine` learnt in units of the spread of x, so that one rate fits all columns."""

    def __init__(self, start: PositionAffine, scale: Tensor):
        super().__init__()
        self.scale, self.shift = scale.float(), start.shift.float()
        self.weight = nn.Parameter(start.weight.float() * self.scale.unsqueeze(-1))
        self.bias = nn.Parameter(start.bias.float().clone())

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """z' (rows, k) from x (rows, d) and position (rows,)."""
        return ((x.float() - self.shift) / self.scale) @ self.weight + self.bias[position]

    def affine(self) -> PositionAffine:
        """The map in the model's own coordinates."""
        weight = self.weight.detach() / self.scale.unsqueeze(-1)
        return PositionAffine(weight.double(), self.bias.detach().double(), self.shift.double())


def train_in_place(
    decoder: Decoder, task: Task, start: Mapping[int, PositionAffine], scale: Mapping[int, Tensor]
) -> Trained:
    """Train the maps of every layer of `task` together.

    Parameters
    ----------
    start : maps by layer to begin from.
    scale : (d_model,) spread of the hidden state by layer.

    Every process reads all of the text, so that all of them hold the same maps. Raises `Interrupted` when
    asked to stop; what was trained is then lost, and the same command trains it again.
    """
    learnt = {n: _Map(start[n], scale[n]) for n in task.layers}
    maps = nn.ModuleDict({str(n): m for n, m in learnt.items()})
    size_of = {p: float(p.detach().square().mean().sqrt()) for p in maps.parameters()}
    groups = [{"params": [p], "peak": RATE * size} for p, size in size_of.items()]
    optimiser = torch.optim.Adam(groups, lr=0.0)
    rules = {n: Rule(m) for n, m in learnt.items()}
    best = before = _divergence(decoder, task, rules)
    kept, waited = copy.deepcopy(maps.state_dict()), 0
    steps = -(-len(task.windows["train"].lengths) // task.batch)
    with progress("maps trained in place, epochs", EPOCHS) as advance:
        for epoch in range(EPOCHS):
            if waited == PATIENCE:
                break
            shuffled = task.shuffled("train", task.seed + epoch)
            for number, batch in enumerate(shuffled.batches("train", decoder.device), epoch * steps):
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * number / (EPOCHS * steps)))
                with torch.enable_grad():
                    total, tokens = _batch_divergence(decoder, task, rules, batch)
                    (total / tokens.clamp_min(1)).backward()
                optimiser.step()
                optimiser.zero_grad()
                if stopping():
                    raise Interrupted("The same command with the same --out goes on from the last part.")
            divergence = _divergence(decoder, task, rules)
            waited += 1
            if divergence < best:
                best, kept, waited = divergence, copy.deepcopy(maps.state_dict()), 0
            advance(1, f"KL {divergence:.3f} nats")
    maps.load_state_dict(kept)
    return Trained({n: m.affine() for n, m in learnt.items()}, before, best)


def _batch_divergence(
    decoder: Decoder, task: Task, rules: Mapping[int, Rule], batch: Batch
) -> tuple[Tensor, Tensor]:
    """KL(intact || replaced) summed over the scored tokens of a batch, and how many they are."""
    with torch.no_grad():
        intact = next_token_log_p(decoder, batch.ids)
    with Substitution(decoder, rules, task.start_position) as substitution:
        substitution.read(batch)
        replaced = next_token_log_p(decoder, batch.ids)
    valid = (batch.keep[:, :-1] & batch.keep[:, 1:]).to(intact.device)
    divergence = (intact.exp() * (intact - replaced)).sum(-1)
    return torch.where(valid, divergence, 0).sum(), valid.sum()


@torch.no_grad()
def _divergence(decoder: Decoder, task: Task, rules: Mapping[int, Rule]) -> float:
    """KL(intact || replaced) on the validation documents, nats per token."""
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in task.batches("validation", decoder.device):
        sums += torch.stack(_batch_divergence(decoder, task, rules, batch)).double().cpu()
    return float(sums[0] / sums[1])
