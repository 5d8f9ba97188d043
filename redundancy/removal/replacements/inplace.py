"""Replacements trained in place: the maps of all layers at once, on what the whole network makes of them.

    intact     ids --> blocks with attention ------------------------> p
    replaced   ids --> blocks with z' = map(x, position) instead ----> p'

Maps that are fitted layer by layer are each right for the intact stream, and none of them sees that stream
once the layers below are replaced too. Here they learn together to keep KL(p || p') small on the training
documents; the rest of the network is frozen. What is kept, on the validation documents, is never above its
start.

    in_place           (x - shift) W + b[position], from the ridge maps: the strongest affine replacement of
                       hidden state and position that is tried, as far as the optimiser finds it
    in_place_rank_16   the same with W = U V of rank RANK, from reduced-rank regression
    in_place_mlp       in_place and a network of hidden width 2 d_model beside it (`regression.network`), from
                       where in_place ended: what shape adds to the best affine map. It has had up to twice as
                       many epochs

One rank stands for all of `rivals`, because every further one is another training: RANK is where the map that
is fitted layer by layer can still lose something that training may bring back, while more ranks come near the
full map.

Each of the three reads the training documents up to HOW.epochs times forward and backward, and most of that
is the frozen network, so together they take about three times as long as in_place alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule
from redundancy.passes import Task
from redundancy.regression.controls import Fitted, PositionAffine, affine
from redundancy.regression.moments import LayerMoments
from redundancy.regression.network import Correction, PositionNetwork
from redundancy.regression.ridge import RidgePath
from redundancy.removal.replacements.descent import Descent, descend_without, relative_rates

HOW = Descent(epochs=6, rate=0.04, label="maps trained in place, epochs")
RANK = 16

Map = TypeVar("Map", PositionAffine, PositionNetwork)


@dataclass(frozen=True)
class Trained(Generic[Map]):
    """Maps by layer, and the KL in nats per token that they had before and after training."""

    maps: dict[int, Map]
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

    def slope(self) -> Tensor:
        """(d, k) of standardised x."""
        return self.weight

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """z' (rows, k) from x (rows, d) and position (rows,)."""
        return ((x.float() - self.shift) / self.scale) @ self.slope() + self.bias[position]

    def rates(self, rate: float) -> dict[nn.Parameter, float]:
        """Steps by parameter, see `relative_rates`."""
        return relative_rates(self.parameters(), rate)

    def affine(self) -> PositionAffine:
        """The map in the model's own coordinates."""
        weight = self.slope().detach() / self.scale.unsqueeze(-1)
        return PositionAffine(weight.double(), self.bias.detach().double(), self.shift.double())


class RankedMap(ScaledMap):
    """The same with a slope U V of a rank that stays; what `start` has beyond it is left out."""

    def __init__(self, start: PositionAffine, scale: Tensor, rank: int):
        super().__init__(start, scale)
        u, s, v = torch.linalg.svd(self.weight.detach(), full_matrices=False)
        root = s[:rank].sqrt()
        self.left, self.right = nn.Parameter(u[:, :rank] * root), nn.Parameter(root.unsqueeze(-1) * v[:rank])
        del self.weight

    def slope(self) -> Tensor:
        """(d, k) of standardised x."""
        return self.left @ self.right


class NetworkMap(Correction):
    """A `ScaledMap` with a network of hidden width 2 d_model beside it."""

    def __init__(self, start: PositionAffine, pilot: Mapping[str, Tensor]):
        super().__init__(start.weight, 2 * len(start.weight), pilot)
        self.linear = ScaledMap(start, pilot["scale_x"])

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """z' (rows, k) from x (rows, d) and position (rows,)."""
        found: Tensor = self.linear(x, position)
        return found + self.correction(x.float())

    def rates(self, rate: float) -> dict[nn.Parameter, float]:
        """Steps by parameter: what begins at 0 has no size, and takes that of the map, whose output it adds
        to.
        """
        size = rate * float(self.linear.weight.detach().square().mean().sqrt())
        return relative_rates(self.parameters(), rate) | dict.fromkeys(self.second.parameters(), size)

    def fixed(self) -> PositionNetwork:
        """The map in the model's own coordinates."""
        network = {name: t.detach() for name, t in self.network().items()}
        return PositionNetwork(self.linear.affine(), network)


def train_in_place(
    decoder: Decoder, task: Task, start: Mapping[int, PositionAffine], scale: Mapping[int, Tensor]
) -> Trained[PositionAffine]:
    """Train the maps of every layer of `task` together.

    Parameters
    ----------
    start : maps by layer to begin from.
    scale : (d_model,) spread of the hidden state by layer.

    Raises `Interrupted` when asked to stop, see `descent.descend`.
    """
    learnt = {n: ScaledMap(start[n], scale[n]) for n in task.layers}
    before, after = train_maps(decoder, task, learnt, HOW)
    return Trained({n: m.affine() for n, m in learnt.items()}, before, after)


def train_ranked(
    decoder: Decoder, task: Task, start: Mapping[int, PositionAffine], scale: Mapping[int, Tensor]
) -> Trained[PositionAffine]:
    """The same with slopes of rank RANK; `start` is cut to it where it has more, see `reduced`."""
    learnt = {n: RankedMap(start[n], scale[n], RANK) for n in task.layers}
    how = replace(HOW, label=f"maps of rank {RANK} trained in place, epochs")
    before, after = train_maps(decoder, task, learnt, how)
    return Trained({n: m.affine() for n, m in learnt.items()}, before, after)


def train_networks_in_place(
    decoder: Decoder,
    task: Task,
    start: Mapping[int, PositionAffine],
    moments: Mapping[int, LayerMoments],
) -> Trained[PositionNetwork]:
    """The same with a network beside every map, all of which learns; `start` are the maps to begin from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        learnt = {n: NetworkMap(start[n], moments[n].pilot) for n in task.layers}
    how = replace(HOW, label="small networks trained in place, epochs")
    before, after = train_maps(decoder, task, learnt, how)
    return Trained({n: m.fixed() for n, m in learnt.items()}, before, after)


def reduced(fitted: Fitted, moments: LayerMoments, output: Tensor) -> PositionAffine:
    """`with_position` with its slope replaced by that of reduced-rank regression at RANK, in the metric of
    the layer output; `output` is W_O (d_z, d_model). The mean prediction stays what it was.
    """
    placed = fitted.with_position
    assert placed is not None
    path, alpha = RidgePath(moments.moments("train", "within")), fitted.penalties["with_position"]
    weight, _ = path.solve_rank(alpha, output, RANK)
    # of the training tokens, in the coordinates of the moments
    mean = moments.sums["train/x"] / moments.sums["train/n"]
    bias = placed.bias + mean @ (path.solve(alpha)[0] - weight)
    return PositionAffine(affine((weight, placed.bias), moments.pilot).weight, bias, placed.shift)


def train_maps(
    decoder: Decoder, task: Task, learnt: Mapping[int, ScaledMap | NetworkMap], how: Descent
) -> tuple[float, float]:
    """Train the maps of all layers where they stand; the KL in nats per token before and after.

    Raises `Interrupted` when asked to stop, see `descent.descend`.
    """
    maps = nn.ModuleDict({str(n): m for n, m in learnt.items()})
    rates = {p: rate for m in learnt.values() for p, rate in m.rates(how.rate).items()}
    rules = {n: Rule(m) for n, m in learnt.items()}
    return descend_without(maps, decoder, rules, decoder, task, how, rates)
