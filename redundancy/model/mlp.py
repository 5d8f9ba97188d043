"""Find what a decoder block does beside attention, its MLP, by what it adds and not by its name.

    sequential   resid_pre --(+ attention)--> resid_mid --> norm, MLP --(+)--> resid_post
    parallel     resid_pre --> norm, attention --(+)---------------+---------> resid_post
                     +-------> norm, MLP ------(+)-----------------+

A copy of the block whose attention has zero weights adds what the MLP adds and nothing else; the module that
gives it is the sublayer. No module of it mixes positions: those that do are attention, or are refused.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redundancy.model.blocks import TOLERANCE, Call, NotLocated, ToStream, copy_of, run_twin


@dataclass(frozen=True)
class Added:
    """What one sublayer adds to the residual stream: `scale` times what the module at `path` returns.

    Attributes
    ----------
    path : of the module, within the block.
    scale : 1 in most models; Granite's residual multiplier.
    behind : whether the attention output of the same block is in the stream that enters; false for parallel
        blocks.
    """

    path: str
    scale: float
    behind: bool


@torch.no_grad()
def find_mlp(block: nn.Module, call: Call, attention: str, stream: ToStream) -> Added:
    """The sublayer beside the child `attention` of a block that was called as in `call`.

    Of the modules outside of attention whose output, times a constant, is resid_post - resid_pre of a copy
    without attention, the last is taken. In the block as it is, resid_post - resid_pre has to be what this
    module and `stream` give together.

    Raises NotLocated where that fails: there is no such sublayer, or several, or one that mixes positions
    too.
    """
    without = _Twin(block, call, attention, stream, without=True)
    added = without.change()
    if not bool(torch.isfinite(added).all()) or not bool(added.any()):
        raise NotLocated("nothing finite is added to the residual stream without attention")
    found: tuple[str, float] | None = None
    for path, left in without.outputs(added):
        scale = float((added * left).sum() / left.square().sum().clamp_min(1e-300))
        if path and path.split(".")[0] != attention and _near(scale * left, added):
            # a scale of 1 up to rounding is 1: plain models keep their numbers to the last bit
            found = path, 1.0 if abs(scale - 1) < TOLERANCE else scale
    if found is None:
        raise NotLocated("no one module gives what is added to the residual stream without attention")
    path, scale = found
    whole = _Twin(block, call, attention, stream, without=False)
    both = whole.change()
    outputs = dict(whole.outputs(both))
    if not _near(stream.scale * outputs[stream.path] + scale * outputs[path], both):
        raise NotLocated("attention and the other sublayer do not add up to what the block adds")
    return Added(path, scale, behind=not _near(scale * outputs[path], added))


class _Twin:
    """A copy of a block, with or without attention, and the calls in it."""

    def __init__(self, block: nn.Module, call: Call, attention: str, stream: ToStream, *, without: bool):
        self.block = copy_of(block, lambda path: without and path.split(".")[0] == attention, torch.float64)
        try:
            self.calls = run_twin(self.block, stream.path, attention, call, torch.float64)
        except RuntimeError:  # some blocks have kernels or constants for float32 only
            self.block = self.block.float()
            self.calls = run_twin(self.block, stream.path, attention, call, torch.float32)

    def change(self) -> Tensor:
        """resid_post - resid_pre (batch, position, d_model). Raises NotLocated without states."""
        whole = next(c for c in self.calls if c.module is self.block)
        if whole.entered is None or whole.left is None or whole.entered.shape != whole.left.shape:
            raise NotLocated("the block does not return states of the shape that it takes")
        return whole.left.double() - whole.entered.double()

    def outputs(self, like: Tensor) -> list[tuple[str, Tensor]]:
        """Path and output of every module that returns one tensor of as many states; some blocks (OPT) lay
        batch and position side by side.
        """
        paths = {id(m): path for path, m in self.block.named_modules()}
        return [
            (paths[id(c.module)], c.output.double().reshape(like.shape))
            for c in self.calls
            if isinstance(c.output, Tensor)
            and c.output.numel() == like.numel()
            and c.output.shape[-1] == like.shape[-1]
        ]


def _near(value: Tensor, truth: Tensor) -> bool:
    """Equal but for rounding, relative to the norm of `truth`."""
    return bool((value - truth).norm() < TOLERANCE * truth.norm())
