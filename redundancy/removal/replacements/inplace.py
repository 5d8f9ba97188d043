"""Replacements trained in place: the maps of all layers at once, on what the whole network makes of them.

    intact     ids --> blocks with attention ----------------------------------> p
    replaced   ids --> blocks with z' = (x - shift) W + b[position] instead ---> p'

The maps that ridge fits are each right for the intact stream, and none of them sees that stream once the
layers below are replaced too. Here they start from there and learn together to keep KL(p || p') small on the
training documents; the rest of the network is frozen. So this is the strongest affine replacement of hidden
state and position that is tried, as far as the optimiser finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule
from redundancy.passes import Task
from redundancy.regression.controls import PositionAffine
from redundancy.removal.replacements.descent import Descent, descend_without

HOW = Descent(epochs=6, rate=0.04, label="maps trained in place, epochs")


@dataclass(frozen=True)
class Trained:
    """Maps by layer, and the KL in nats per token that they had before and after training."""

    maps: dict[int, PositionAffine]
    before: float
    after: float


class ScaledMap(nn.Module):
    """A `PositionAffine` learnt in units of the spread of x, so that one rate fits all columns."""

    scale: Tensor
    shift: Tensor

    def __init__(self, start: PositionAffine, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", start.shift.float())
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

    Raises `Interrupted` when asked to stop, see `descent.descend`.
    """
    learnt = {n: ScaledMap(start[n], scale[n]) for n in task.layers}
    maps = nn.ModuleDict({str(n): m for n, m in learnt.items()})
    rules = {n: Rule(m) for n, m in learnt.items()}
    before, after = descend_without(maps, decoder, rules, decoder, task, HOW)
    return Trained({n: m.affine() for n, m in learnt.items()}, before, after)
