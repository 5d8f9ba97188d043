"""Least squares that cares for the loss: tokens count by how much their head's output moves it.

    minimise over W_h, b_h   sum_t w_th |z_th - (x_t - shift) W_h - b_h[position]|^2,   w_th = |g_th|^2

with g the gradient of the loss with a label that the model drew (see `gradients`): w is the trace of the
Fisher information of z, in one draw. The fit starts from `with_position` and finds what the weights change in
its slope and, alike for all positions, in its intercept; the penalty is chosen on the validation documents by
the weighted error. Every head has weights of its own.
"""

from pathlib import Path

import torch
from torch import Tensor

from labbook import processes
from labbook.console import UserError
from redundancy.batches import Batch, places
from redundancy.model.decoder import Decoder
from redundancy.passes import Pass, Saved, Task, each_batch
from redundancy.regression.controls import Fitted, PositionAffine
from redundancy.regression.moments import LayerMoments, Moments
from redundancy.regression.ridge import PENALTIES, RidgePath
from redundancy.removal.gradients import GradientReader


class Sums:
    """Weighted moments of features with a constant (d + 1) and of what is left of z, by head."""

    def __init__(self, heads: int, d: int, k: int, device: torch.device):
        self.tensors = {
            f"{split}/{name}": torch.zeros(heads, *shape, dtype=torch.float64, device=device)
            for split in ("train", "validation")
            for name, shape in {"xx": (d + 1, d + 1), "xr": (d + 1, k), "w": ()}.items()
        }

    def add(self, split: str, x: Tensor, rest: Tensor, weight: Tensor) -> None:
        """Tokens x (rows, d), rest (rows, heads, k), weight (rows, heads).

        Raises UserError for a weight that is no number. Products are in float64: rounding to float32 would be
        larger than the smallest penalties, and make a fit of nearly collinear features.
        """
        if not bool(weight.isfinite().all()):
            raise UserError(
                "a gradient of the loss is not a finite number, so the weighted fit has no weights. Use "
                "another --dtype, or leave the part out of --parts."
            )
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
        rest, weight = rest.double(), weight.double()
        for head in range(weight.shape[1]):
            scaled = x * weight[:, head, None]
            self.tensors[f"{split}/xx"][head] += scaled.T @ x
            self.tensors[f"{split}/xr"][head] += scaled.T @ rest[:, head]
            self.tensors[f"{split}/w"][head] += weight[:, head].sum()

    def _moments(self, split: str, head: int) -> Moments:
        """The sums of one head without the constant, n the summed weight."""
        n, xx, xr = (self.tensors[f"{split}/{name}"][head] for name in ("w", "xx", "xr"))
        return Moments(n, xx[-1, :-1], xr[-1], xx[:-1, :-1], xr[:-1])

    def correction(self) -> Tensor:
        """What the weights add to slope and intercept, (heads, d + 1, k), with the best penalty of each head;
        none where no penalty helps on the validation documents.

        The penalty is on the slope in the coordinates of the moments, and the intercept has none: it is the
        weighted mean of what the slope leaves (`RidgePath`).
        """
        found = torch.zeros_like(self.tensors["train/xr"])
        for head, weight in enumerate(self.tensors["train/w"]):
            validation = self._moments("validation", head)
            if not float(weight) or not float(validation.n):
                continue
            path = RidgePath(self._moments("train", head), standardised=False)
            alone = torch.eye(len(path.mean_z), dtype=torch.float64, device=path.mean_z.device)
            alphas = torch.tensor(PENALTIES, dtype=torch.float64)
            # against the weighted training mean, and what that spares against no correction at all
            mean = 2 * path.mean_z @ (validation.z / validation.n) - path.mean_z.square().sum()
            spared = path.validation_gain(validation, alone, alphas) + mean
            best = int(spared.argmax())
            if float(spared[best]) > 0:
                slope, constant = path.solve(PENALTIES[best])
                found[head] = torch.cat([slope, constant.unsqueeze(0)])
        return found


def fit_weighted(
    decoder: Decoder,
    task: Task,
    fitted: dict[int, Fitted],
    moments: dict[int, LayerMoments],
    state: Path | None,
) -> dict[int, PositionAffine]:
    """The maps by layer. Raises Interrupted when asked to stop; `state` keeps the sums."""
    start = {n: f.with_position for n, f in fitted.items() if f.with_position is not None}
    heads, d_head = decoder.n_heads, decoder.d_head
    layers = {n: Sums(heads, decoder.d_model, d_head, decoder.layer_device(n)) for n in start}
    saved = Saved(state)
    stored, done = saved.load(task.counts)
    for n, tensors in stored.items():
        layers[n].tensors.update({name: v.to(decoder.layer_device(n)) for name, v in tensors.items()})
    reader: list[GradientReader] = []

    for split in ("train", "validation"):

        def add(n: int, x: Tensor, z: Tensor, batch: Batch, split: str = split) -> None:
            rows, truth = x[batch.keep].float(), z[batch.keep].float()
            position = places(x)[batch.keep]
            rest = (truth - start[n](rows, position)).unflatten(-1, (heads, d_head))
            slope = reader[0].gradient[n][batch.keep].float().unflatten(-1, (heads, d_head))
            pilot = moments[n].pilot
            scaled = (rows - pilot["shift_x"].float()) / pilot["scale_x"].float()
            layers[n].add(split, scaled, rest, slope.square().sum(-1))

        def save(count: int, split: str = split) -> None:
            done[split] = count
            saved.save({n: sums.tensors for n, sums in layers.items()}, done)

        reading = Pass(split, f"weighted least squares, {split}", done.get(split, 0), saved, save)
        with GradientReader(decoder, task, add) as read:
            reader[:] = [read]
            each_batch(task, reading, decoder.device, read)
    for sums in layers.values():
        processes.add_up(sums.tensors.values())
    return {n: _moved(start[n], sums.correction(), moments[n]) for n, sums in layers.items()}


def _moved(start: PositionAffine, correction: Tensor, moments: LayerMoments) -> PositionAffine:
    """`start` with the correction (heads, d + 1, k), found in the coordinates of the moments, added."""
    joined = correction.movedim(0, 1).flatten(1)
    shift, scale = (moments.pilot[n].to(joined) for n in ("shift_x", "scale_x"))
    slope = joined[:-1] / scale.unsqueeze(-1)
    # (x - shift_moments) S = (x - shift_start) S + (shift_start - shift_moments) S
    constant = joined[-1] + (start.shift.to(joined) - shift) @ slope
    return PositionAffine(start.weight.to(slope) + slope, start.bias.to(slope) + constant, start.shift)
