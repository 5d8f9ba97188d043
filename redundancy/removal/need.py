"""Which (token, head) operations need attention: known, from the attention output itself, or predicted
without it.

    relative       |e_h| / |a_h|               1 - R of Definition 1 for one head and token
    displacement   |d_h| / |resid_pre|         how far the error moves the residual stream
    fisher         (g_h . (z_h - z_hat_h))^2   squared first-order change of the loss, see `gradients`

with a_h = z_h W_O[h] and e_h the error of the replacement in it. d_h is what the error changes in what
attention adds to the stream: e_h itself in most models; where a multiplier or a norm stands between (Granite,
Gemma 2, OLMo 2), the difference that is left behind it. g is the gradient of the loss with a label that the
model drew itself, so `fisher` is one noisy draw, and only its prediction and its mean over a head are used as
orders. A known need is not the outcome: another need may allow more.

The prediction is a ridge regression of the logarithm of a need on resid_pre and position, fitted on the
training documents like the probe itself: it is what a router could know before attention is computed. Other
routers are in `routing`.
Thresholds are quantiles of the need on the validation documents, over all layers, heads and kept tokens of
the intact model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labbook.estimate import Array
from redundancy.batches import Batch, places
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Site
from redundancy.passes import Targets, Task, Visit, collect
from redundancy.regression.controls import Fitted, PositionAffine, affine, fit_with_position
from redundancy.regression.moments import LayerMoments
from redundancy.regression.ridge import Affine, RidgePath
from redundancy.regression.scores import head_coordinates, head_isometry
from redundancy.removal.gradients import GradientReader, change_by_head

NEEDS = ("relative", "displacement", "fisher")
# those that can be known while the model runs
AT_ONCE = NEEDS[:2]
# Kept validation tokens behind the thresholds: a quantile over (token, layer, head) is then known to far
# better than a share of 1 %.
CALIBRATION_TOKENS = 8192
FLOOR = 1e-6
# of the squared change of the loss, in nats squared
SMALLEST_CHANGE = 1e-20
# elements of one temporary of the head-by-head differences behind a norm
CHUNK = 2**24


class LayerNeed:
    """The needs of one layer.

    Parameters
    ----------
    decoder, layer : whose output projection, and what follows it, decides how an error moves the stream.
        Raises UserError where that cannot be told (`Decoder.stream`).

    Attributes
    ----------
    stream : what becomes of the attention output before it is added to the residual stream.
    """

    def __init__(self, decoder: Decoder, layer: int):
        weight, bias = decoder.output_map(layer)
        self.weight, self.bias = weight.float(), bias.float()
        self.isometry = head_isometry(weight, decoder.n_heads)
        self.stream = decoder.stream(layer)
        self.n_heads = decoder.n_heads

    def logs(self, x: Tensor, z: Tensor, predicted: Tensor) -> Tensor:
        """Logarithm of the needs AT_ONCE, floored at FLOOR: (rows, 2, n_heads) from (rows, width) tensors."""
        z = z.to(self.isometry.dtype)
        difference = z - predicted.to(z)
        error = torch.linalg.vector_norm(head_coordinates(difference, self.isometry), dim=-1)
        norm = torch.linalg.vector_norm(head_coordinates(z, self.isometry), dim=-1)
        before = torch.linalg.vector_norm(x.to(z), dim=-1, keepdim=True)
        tiny = torch.finfo(z.dtype).tiny
        moved = self._moved(z, difference) if self.stream.norms else error * abs(self.stream.scale)
        return (
            torch.stack([error / norm.clamp_min(tiny), moved / before.clamp_min(tiny)], -2)
            .clamp_min(FLOOR)
            .log()
        )

    def log_fisher(self, z: Tensor, predicted: Tensor, gradient: Tensor) -> Tensor:
        """Logarithm of the squared first-order change of the loss by head, floored: (rows, n_heads)."""
        change = change_by_head(gradient, predicted.float() - z.float(), self.n_heads)
        return change.square().clamp_min(SMALLEST_CHANGE).log()

    def _moved(self, z: Tensor, difference: Tensor) -> Tensor:
        """Norm of the change in the stream when one head at a time has its error, (rows, n_heads)."""
        heads, (d_z, width) = self.n_heads, self.weight.shape
        blocks = self.weight.view(heads, d_z // heads, width)
        parts = []
        for rows, off in zip(
            *(t.split(max(1, CHUNK // (heads * width))) for t in (z, difference)), strict=True
        ):
            out = rows @ self.weight + self.bias
            errors = torch.einsum("rhk,hkd->rhd", off.unflatten(-1, (heads, -1)), blocks)
            moved = self.stream(out).unsqueeze(1) - self.stream(out.unsqueeze(1) - errors)
            parts.append(torch.linalg.vector_norm(moved, dim=-1))
        return torch.cat(parts)

    def cosine(self, x: Tensor, z: Tensor) -> Tensor:
        """Cosine of the stream before and after attention, (rows,): the criterion of He et al. 2024
        (arXiv:2406.15786).
        """
        added = self.stream(z.float() @ self.weight + self.bias)
        return torch.cosine_similarity(x.float(), x.float() + added, dim=-1)


@dataclass(frozen=True)
class Needs:
    """Known and predicted needs of every layer, and what is known about them from the validation documents.

    Attributes
    ----------
    layers : layer -> its needs.
    predictors : layer -> map from resid_pre and position to all log needs, (rows, len(NEEDS) n_heads).
    known, predicted : (len(NEEDS), tokens, layers, heads) log needs on validation tokens, the order of layers
        as in `predictors`.
    hidden : layer -> map from resid_pre alone to all log needs, (rows, len(NEEDS) n_heads).
    fit : share of the variance of each log need, within a head, that its prediction explains on the
        validation tokens.
    cosine : layer -> mean cosine of the stream before and after attention.
    """

    layers: dict[int, LayerNeed]
    predictors: dict[int, PositionAffine]
    known: Array
    predicted: Array
    fit: dict[str, float]
    cosine: dict[int, float]
    hidden: Mapping[int, Affine] = field(default_factory=dict)

    def at(self, site: Site, need: int, *, known: bool) -> Tensor:
        """One log need of every head at a site: (batch, position, head); of the known ones only those
        AT_ONCE.
        """
        shape = site.x.shape[:2]
        x = site.x.flatten(0, 1)
        if known:
            logs = self.layers[site.layer].logs(x, site.z.flatten(0, 1), site.predicted.flatten(0, 1))
        else:
            logs = self.predictors[site.layer](x.float(), site.position.flatten()).unflatten(
                -1, (len(NEEDS), -1)
            )
        return logs[:, need].unflatten(0, shape)

    def heads(self, need: int, layers: tuple[int, ...]) -> list[tuple[int, int]]:
        """Every (layer, head), the lowest mean need first: the mean of the need, not of its logarithm."""
        mean = np.exp(self.known[need]).mean(0)
        order = np.argsort(mean, axis=None, kind="stable")
        return [(layers[i], int(h)) for i, h in zip(*np.unravel_index(order, mean.shape), strict=True)]

    def threshold(self, need: int, share: float, *, known: bool) -> float:
        """The value below which `share` of the operations lie; infinite for all of them, held-out ones
        included.
        """
        if share >= 1:
            return float("inf")
        return float(np.quantile((self.known if known else self.predicted)[need], share))


def measure_needs(decoder: Decoder, task: Task, fitted: dict[int, Fitted], state: Path | None) -> Needs:
    """Fit the predictions on the training documents and collect known and predicted needs on the validation
    documents.

    The replacement whose error is needed is `with_position`, which `fitted` has to hold.
    """
    layers = {n: LayerNeed(decoder, n) for n in fitted}
    width = len(NEEDS) * decoder.n_heads

    current: list[GradientReader] = []

    def reader(decoder: Decoder, task: Task, visit: Visit) -> GradientReader:
        current[:] = [GradientReader(decoder, task, visit)]
        return current[0]

    def logs(layer: int, x: Tensor, z: Tensor) -> Tensor:
        """All log needs at every position of a batch: (batch, position, len(NEEDS) n_heads)."""
        replacement = fitted[layer].with_position
        assert replacement is not None
        rows, truth, slope = (t.flatten(0, 1) for t in (x, z, current[0].gradient[layer]))
        position = places(x).flatten()
        predicted = replacement(rows.float(), position)
        at_once = layers[layer].logs(rows, truth, predicted)
        fisher = layers[layer].log_fisher(truth, predicted, slope)
        return torch.cat([at_once, fisher.unsqueeze(-2)], -2).flatten(-2).unflatten(0, x.shape[:2])

    targets = Targets(logs, width, reader)
    moments = collect(decoder, task, state, "needs", controls=False, targets=targets)
    identity = torch.eye(width, dtype=torch.float64)
    predictors = {
        n: fit_with_position(sums, identity.to(sums.device), None)[0] for n, sums in moments.items()
    }
    needs = _calibrate(decoder, task, layers, predictors, targets)
    return replace(needs, hidden={n: _hidden(sums) for n, sums in moments.items()})


def _hidden(sums: LayerMoments) -> Affine:
    """The prediction of the log needs that does not know the position."""
    path, validation = RidgePath(sums.moments("train", "current")), sums.moments("validation", "current")
    metric = torch.eye(len(path.mean_z), dtype=torch.float64, device=sums.device)
    return affine(path.solve(path.best(validation, metric)), sums.pilot)


def first_windows(task: Task, split: str, tokens: int) -> Task:
    """The task with only the first windows of a split, so many that they hold `tokens` scored tokens."""
    windows = task.windows[split]
    scored = np.maximum(windows.lengths - task.start_position, 0).cumsum()
    few = windows.slice(0, int(np.searchsorted(scored, tokens)) + 1)
    return replace(task, windows={**task.windows, split: few})


def _calibrate(
    decoder: Decoder,
    task: Task,
    layers: dict[int, LayerNeed],
    predictors: dict[int, PositionAffine],
    targets: Targets,
) -> Needs:
    """Known and predicted needs at the first CALIBRATION_TOKENS of the validation documents."""
    known: dict[int, list[Tensor]] = {n: [] for n in layers}
    predicted: dict[int, list[Tensor]] = {n: [] for n in layers}
    cosines: dict[int, list[Tensor]] = {n: [] for n in layers}

    def gather(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        position = places(x)[batch.keep]
        rows, truth = x[batch.keep].float(), z[batch.keep].float()
        known[layer].append(targets.of(layer, x, z)[batch.keep].unflatten(-1, (len(NEEDS), -1)).cpu())
        predicted[layer].append(predictors[layer](rows, position).unflatten(-1, (len(NEEDS), -1)).cpu())
        cosines[layer].append(layers[layer].cosine(rows, truth).cpu())

    tokens = 0
    # every process reads the same windows, so all have the same thresholds
    with targets.read(decoder, task, gather) as read:
        for batch in task.batches("validation", decoder.device):
            read(batch)
            tokens += int(batch.keep.sum())
            if tokens >= CALIBRATION_TOKENS:
                break
    truth, guess = (
        torch.stack([torch.cat(part) for part in by_layer.values()], 2).movedim(1, 0).double().numpy()
        for by_layer in (known, predicted)
    )
    spread = np.square(truth - truth.mean(1, keepdims=True)).sum((1, 2, 3))
    fit = 1 - np.square(truth - guess).sum((1, 2, 3)) / spread
    return Needs(
        layers=layers,
        predictors=predictors,
        known=truth,
        predicted=guess,
        fit={name: float(value) for name, value in zip(NEEDS, fit, strict=True)},
        cosine={n: float(torch.cat(values).mean()) for n, values in cosines.items()},
    )
