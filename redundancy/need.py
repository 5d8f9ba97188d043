"""Which (token, head) operations need attention: measured after the fact, or predicted from the hidden state alone.

    relative       |e_h| / |a_h|          1 - R of Definition 1 for one head and token
    displacement   |e_h| / |resid_pre|    how far the error moves the residual stream

with a_h = z_h W_O[h] and e_h the probe's error in it. The prediction is a ridge regression of the logarithm of a need on resid_pre,
fitted on the training documents like the probe itself: it is what a router could know before attention is computed.
Thresholds are quantiles of the need on the validation documents, over all layers, heads and kept tokens of the intact model.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labbook.estimate import Array
from redundancy.controls import Fitted, affine
from redundancy.measure import Reader, Task, collect
from redundancy.models import Decoder
from redundancy.moments import Batch
from redundancy.ridge import Affine, RidgePath
from redundancy.scores import head_coordinates, head_isometry
from redundancy.substitution import Site

NEEDS = ("relative", "displacement")
# Kept validation tokens behind the thresholds: a quantile over (token, layer, head) is then known to far better than a share of 1 %.
CALIBRATION_TOKENS = 8192
FLOOR = 1e-6


def log_needs(x: Tensor, z: Tensor, predicted: Tensor, isometry: Tensor) -> Tensor:
    """Logarithm of both needs, floored at FLOOR, in the order of NEEDS: (..., 2, n_heads) from (..., width) tensors."""
    z = z.to(isometry.dtype)
    error = torch.linalg.vector_norm(head_coordinates(z - predicted.to(z), isometry), dim=-1)
    norm = torch.linalg.vector_norm(head_coordinates(z, isometry), dim=-1)
    stream = torch.linalg.vector_norm(x.to(z), dim=-1, keepdim=True)
    tiny = torch.finfo(z.dtype).tiny
    return torch.stack([error / norm.clamp_min(tiny), error / stream.clamp_min(tiny)], -2).clamp_min(FLOOR).log()


@dataclass(frozen=True)
class Needs:
    """Known and predicted needs of every layer, and what is known about them from the validation documents.

    Attributes
    ----------
    predictors : layer -> map from resid_pre to both log needs, (rows, 2 n_heads).
    isometry : layer -> see `scores.head_isometry`.
    known, predicted : (2, tokens, layers, heads) log needs on validation tokens, the order of layers as in `predictors`.
    fit : share of the variance of each log need, within a head, that its prediction explains on the validation tokens.
    cosine : layer -> mean cosine of resid_pre and resid_pre + attn_out, the criterion of He et al. 2024 (arXiv:2406.15786).
    """

    predictors: dict[int, Affine]
    isometry: dict[int, Tensor]
    known: Array
    predicted: Array
    fit: dict[str, float]
    cosine: dict[int, float]

    def at(self, site: Site, need: int, known: bool) -> Tensor:
        """One log need of every head at a site: (batch, position, head)."""
        if known:
            return log_needs(site.x, site.z, site.predicted, self.isometry[site.layer])[..., need, :]
        both: Tensor = self.predictors[site.layer](site.x.float())
        return both.unflatten(-1, (len(NEEDS), -1))[..., need, :]

    def heads(self, need: int, layers: tuple[int, ...]) -> list[tuple[int, int]]:
        """Every (layer, head), the lowest mean need first: the mean of the need itself, not of its logarithm."""
        mean = np.exp(self.known[need]).mean(0)
        order = np.argsort(mean, axis=None, kind="stable")
        return [(layers[i], int(h)) for i, h in zip(*np.unravel_index(order, mean.shape), strict=True)]

    def threshold(self, need: int, known: bool, share: float) -> float:
        """The value below which `share` of the operations lie; infinite for all of them, held-out ones included."""
        if share >= 1:
            return float("inf")
        return float(np.quantile((self.known if known else self.predicted)[need], share))


def measure_needs(decoder: Decoder, task: Task, fitted: dict[int, Fitted], state: Path | None) -> Needs:
    """Fit the predictions on the training documents and collect both kinds of need on the validation documents."""
    isometry = {n: head_isometry(decoder.output_map(n)[0], decoder.n_heads) for n in fitted}
    outputs = {n: tuple(t.float() for t in decoder.output_map(n)) for n in fitted}

    def target(layer: int, x: Tensor, z: Tensor) -> Tensor:
        return log_needs(x, z, fitted[layer].probe(x), isometry[layer]).flatten(-2)

    moments = collect(decoder, task, False, state, "needs", target, len(NEEDS) * decoder.n_heads)
    predictors, identity = {}, torch.eye(len(NEEDS) * decoder.n_heads, dtype=torch.float64, device=decoder.device)
    for n, sums in moments.items():
        path = RidgePath(sums.moments("train", "current"))
        alpha = path.best(sums.moments("validation", "current"), identity.to(sums.device))
        predictors[n] = affine(path.solve(alpha), sums.pilot)

    known: dict[int, list[Tensor]] = {n: [] for n in fitted}
    predicted: dict[int, list[Tensor]] = {n: [] for n in fitted}
    cosines: dict[int, list[Tensor]] = {n: [] for n in fitted}

    def gather(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        rows, truth = x[batch.keep].float(), z[batch.keep].float()
        weight, bias = outputs[layer]
        known[layer].append(target(layer, rows, truth).unflatten(-1, (len(NEEDS), -1)).cpu())
        predicted[layer].append(predictors[layer](rows).unflatten(-1, (len(NEEDS), -1)).cpu())
        cosines[layer].append(torch.cosine_similarity(rows, rows + truth @ weight + bias, dim=-1).cpu())

    tokens = 0
    with Reader(decoder, task, gather) as read:  # every process reads the same windows, so all have the same thresholds
        for batch in task.batches("validation", decoder.device):
            read(batch)
            tokens += int(batch.keep.sum())
            if tokens >= CALIBRATION_TOKENS:
                break
    truth, guess = (
        torch.stack([torch.cat(part) for part in found.values()], 2).movedim(1, 0).double().numpy()
        for found in (known, predicted)
    )
    spread = np.square(truth - truth.mean(1, keepdims=True)).sum((1, 2, 3))
    fit = 1 - np.square(truth - guess).sum((1, 2, 3)) / spread
    return Needs(
        predictors=predictors,
        isometry=isometry,
        known=truth,
        predicted=guess,
        fit={name: float(value) for name, value in zip(NEEDS, fit, strict=True)},
        cosine={n: float(torch.cat(found).mean()) for n, found in cosines.items()},
    )
