"""A small network beside an affine map: what it adds to the map, and the two of them as one function.

    (x, position)  -->  (x - shift) W + b[position]  +  W_2 gelu(W_1 s + b_1) + b_2,  s = (x - centre) / scale

s is the standardised hidden state. W_2 and b_2 begin at 0, so that training begins with the affine map.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from redundancy.regression.controls import PositionAffine

LINEAR = ("weight", "bias", "shift")
NETWORK = ("centre", "scale", "first_weight", "first_bias", "second_weight", "second_bias")


def correction(x: Tensor, network: Mapping[str, Tensor]) -> Tensor:
    """What a network adds: (rows, k) from x (rows, d), in the dtype of x.

    Parameters
    ----------
    network : by the names of NETWORK: centre, scale (d,); first_weight (width, d), first_bias (width,);
        second_weight (k, width), second_bias (k,).
    """
    centre, scale, first, first_bias, second, second_bias = (network[name].to(x) for name in NETWORK)
    return F.linear(F.gelu(F.linear((x - centre) / scale, first, first_bias)), second, second_bias)


class Correction(nn.Module):
    """A network that is trained beside a linear map.

    Parameters
    ----------
    start : (d_model, k) weights of that map.
    width : of the hidden layer.
    pilot : mean and spread of the hidden state, `shift_x` and `scale_x` (d_model,) of `LayerMoments.pilot`.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, start: Tensor, width: int, pilot: Mapping[str, Tensor]):
        super().__init__()
        d, k = start.shape
        self.register_buffer("centre", pilot["shift_x"].float())
        self.register_buffer("scale", pilot["scale_x"].float())
        self.first = nn.Linear(d, width, device=start.device)
        self.second = nn.Linear(width, k, device=start.device)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def network(self) -> dict[str, Tensor]:
        """By the names of NETWORK, in the memory of this module."""
        parts = (self.centre, self.scale, *self.first.parameters(), *self.second.parameters())
        return dict(zip(NETWORK, parts, strict=True))

    def correction(self, x: Tensor) -> Tensor:
        """(rows, k) from x (rows, d_model), float32."""
        return correction(x, self.network())


@dataclass(frozen=True)
class PositionNetwork:
    """A `PositionAffine`, with what a network adds to it where there is one; see this module's text.

    Attributes
    ----------
    linear : weight (d, k), bias (position, k), shift (d,).
    network : by the names of NETWORK, see `correction`; empty where the affine map is all.
    """

    linear: PositionAffine
    network: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, x: Tensor, position: Tensor) -> Tensor:
        """Predict (rows, k) from x (rows, d) and position (rows,) of integers, in the dtype of x."""
        found = self.linear(x, position)
        return found + correction(x, self.network) if self.network else found

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, for files and modules."""
        return {name: getattr(self.linear, name) for name in LINEAR} | dict(self.network)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "PositionNetwork":
        """From what `tensors` gives. Raises KeyError where a part is missing."""
        network = {name: tensors[name] for name in NETWORK} if NETWORK[0] in tensors else {}
        return cls(PositionAffine(*(tensors[name] for name in LINEAR)), network)

    def kept(self) -> "PositionNetwork":
        """The same in float32, in which a model that runs computes it, in memory of its own."""
        return self.of(
            {
                name: t.detach().float().clone(memory_format=torch.contiguous_format)
                for name, t in self.tensors().items()
            }
        )
