"""Pass 2: errors of every predictor on held-out documents, as sums per document, and the scores made of them.

With a_t the attention output of a kept token and e_t the prediction's error:

    R                 mean of 1 - |e_t| / |a_t|                 Definition 1 of arXiv:2602.12204; not squared,
                                                                not centred
    R_ratio_of_sums   1 - sum |e_t| / sum |a_t|
    share_R_above_c   share of tokens with 1 - |e_t| / |a_t| > c
    R2_uncentred      1 - sum |e_t|^2 / sum |a_t|^2
    R2                1 - sum |e_t|^2 / sum |a_t - mean a|^2    scikit-learn's variance-weighted R^2
    cosine            mean of cos(a_t, prediction)

    linearity         1 - sum |e_t|^2 / sum |s_t - mean s|^2    of whole blocks: s_t = resid_post. The score
                                                                of arXiv:2405.12250, which fits and scores on
                                                                the same tokens; here these are held-out ones

For heads a_t is z_h W_O[h]. A token whose a_t is zero has no ratio and no cosine; it is left out of these two
and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from labbook.estimate import Array
from redundancy.batches import Batch
from redundancy.regression.controls import Predictor, Rows

THRESHOLDS = (0.5, 0.8, 0.9)
EDGES = np.round(np.arange(-1.0, 1.0 + 1e-9, 0.02), 2)
# per token, what every score is made of
SUMMANDS = (
    "defined",
    "ratio",
    "error",
    "norm",
    "error2",
    "norm2",
    "cosine",
    *(f"above_{c}" for c in THRESHOLDS),
)
METRICS = (
    "R",
    "R_ratio_of_sums",
    "R2",
    "R2_uncentred",
    "cosine",
    *(f"share_R_above_{c}" for c in THRESHOLDS),
)


def bounds(metric: str) -> tuple[float, float]:
    """Smallest and largest value that a score can have; an interval is cut there."""
    if metric.startswith("share_"):
        return 0.0, 1.0
    if metric.startswith("norm_ratio"):
        return 0.0, np.inf
    return (-1.0 if metric == "cosine" else -np.inf), 1.0


def token_fields(a: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Per token and head: the summands behind every score, (..., len(SUMMANDS)), and R_t (...), from a and e
    (..., width).
    """
    norm2, error2 = a.square().sum(-1), e.square().sum(-1)
    dot, predicted2 = (a * (a - e)).sum(-1), (a - e).square().sum(-1)
    norm, error = norm2.sqrt(), error2.sqrt()
    defined = norm > 0
    zero = torch.zeros_like(norm)
    ratio = torch.where(defined, 1 - error / norm, zero)
    length = norm * predicted2.sqrt()
    cosine = torch.where(length > 0, dot / length, zero)
    above = [torch.where(defined, ratio > c, False).to(norm.dtype) for c in THRESHOLDS]
    return torch.stack([defined.to(norm.dtype), ratio, error, norm, error2, norm2, cosine, *above], -1), ratio


def head_isometry(weight: Tensor, n_heads: int) -> Tensor:
    """L (n_heads, d_head, min(d_head, d_model)) with z_h W_O[h] = (z_h L_h) Q_h and orthonormal rows Q_h,
    from W_O (d_z, d_model).

    Norms and cosines of the heads' contributions need only the coordinates z_h L_h.
    """
    blocks = weight.double().unflatten(0, (n_heads, -1))
    return torch.linalg.qr(blocks.transpose(1, 2), mode="r").R.transpose(1, 2).float()


def head_coordinates(z: Tensor, isometry: Tensor) -> Tensor:
    """z (..., d_z) in the coordinates of `head_isometry`: (..., n_heads, min(d_head, d_model))."""
    return torch.einsum("...hk,hkj->...hj", z.unflatten(-1, (isometry.shape[0], -1)), isometry)


@dataclass(frozen=True)
class PredictorSums:
    """What one predictor of one layer is scored by, summed per document, float64.

    Attributes
    ----------
    layer, start : (document, SUMMANDS) of the layer output, at the kept tokens and at position 0 if it is
        none of them.
    heads : (document, head, SUMMANDS) of every head's contribution.
    histogram : (document, bin) counts of R_t.
    """

    layer: Tensor
    heads: Tensor
    start: Tensor
    histogram: Tensor

    @staticmethod
    def none(documents: int, n_heads: int, device: torch.device) -> "PredictorSums":
        """The sums over no token."""
        shapes = {
            "layer": (len(SUMMANDS),),
            "heads": (n_heads, len(SUMMANDS)),
            "start": (len(SUMMANDS),),
            "histogram": (len(EDGES) + 1,),
        }
        return PredictorSums(
            **{
                part: torch.zeros(documents, *shape, dtype=torch.float64, device=device)
                for part, shape in shapes.items()
            }
        )


class LayerScores:
    """Sums per document for one layer and all its predictors.

    Parameters
    ----------
    names : predictors.
    documents : number of held-out documents.
    output_map : W_O (d_z, d_model) and b_O (d_model,).
    n_heads : heads; W_O is cut into n_heads blocks of rows.
    whole : whether the target is what a block adds to its input x, so that x + z is a state of the stream.

    Attributes
    ----------
    count, z : (document,) kept tokens and (document, d_z) their summed head outputs.
    stream : of whole blocks, (document, 1 + d_model): summed squared norms of x + z, and their sum.
    predictors : the sums of each predictor by its name.
    """

    def __init__(
        self,
        names: Sequence[str],
        documents: int,
        output_map: tuple[Tensor, Tensor],
        n_heads: int,
        *,
        whole: bool = False,
    ):
        self.weight, self.bias = output_map[0].float(), output_map[1].float()
        device, self.n_heads = self.weight.device, n_heads
        self.isometry = head_isometry(self.weight, n_heads)
        self.count = torch.zeros(documents, dtype=torch.float64, device=device)
        self.z = torch.zeros(documents, self.weight.shape[0], dtype=torch.float64, device=device)
        self.predictors = {name: PredictorSums.none(documents, n_heads, device) for name in names}
        width = 1 + self.weight.shape[1]
        self.stream = torch.zeros(documents, width, dtype=torch.float64, device=device) if whole else None

    @staticmethod
    def of_state(
        state: Mapping[str, Tensor], output_map: tuple[Tensor, Tensor], n_heads: int
    ) -> "LayerScores":
        """The scores whose `state` was saved; the names of the predictors are in its keys."""
        names = [key.removeprefix("layer/") for key in state if key.startswith("layer/")]
        scores = LayerScores(names, len(state["count"]), output_map, n_heads, whole="stream" in state)
        scores.restore(state)
        return scores

    @property
    def names(self) -> tuple[str, ...]:
        """The predictors."""
        return tuple(self.predictors)

    def state(self) -> dict[str, Tensor]:
        """All sums, by `count`, `z`, `stream` and PART/PREDICTOR: what a file keeps, and what processes add
        up.
        """
        stream = {} if self.stream is None else {"stream": self.stream}
        return (
            {"count": self.count, "z": self.z}
            | stream
            | {
                f"{part}/{name}": tensor
                for name, sums in self.predictors.items()
                for part, tensor in vars(sums).items()
            }
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        device = self.weight.device
        self.count, self.z = state["count"].to(device), state["z"].to(device)
        self.stream = state["stream"].to(device) if "stream" in state else None
        parts = [field.name for field in fields(PredictorSums)]
        self.predictors = {
            name: PredictorSums(**{part: state[f"{part}/{name}"].to(device) for part in parts})
            for name in self.predictors
        }

    def add(self, predictors: dict[str, Predictor], x: Tensor, z: Tensor, batch: Batch) -> None:
        """Add the kept tokens of a batch; x (batch, position, d), z (batch, position, d_z)."""
        # float64 activations (a float64 model) are scored in float64
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        x, z = x.to(compute), z.to(compute)
        document = batch.document.unsqueeze(-1).expand_as(batch.ids)
        rows, truth, owner = Rows.of(x, batch), z[batch.keep], document[batch.keep]
        weight, bias, isometry = self.weight.to(compute), self.bias.to(compute), self.isometry.to(compute)
        attn_out, heads = truth @ weight + bias, head_coordinates(truth, isometry)
        _add_by(owner, torch.ones_like(owner, dtype=compute), self.count)
        _add_by(owner, truth, self.z)
        if self.stream is not None:
            after = (rows.x + truth).to(self.stream)
            _add_by(owner, torch.cat([after.square().sum(-1, keepdim=True), after], -1), self.stream)
        edges = torch.from_numpy(EDGES).to(attn_out)
        start = self._start(x, z, batch)
        for name, predict in predictors.items():
            sums, difference = self.predictors[name], truth - predict(rows)
            summands, ratio = token_fields(attn_out, difference @ weight)
            _add_by(owner, summands, sums.layer)
            _add_by(owner, token_fields(heads, head_coordinates(difference, isometry))[0], sums.heads)
            bins = torch.bucketize(ratio.contiguous(), edges)
            sums.histogram.index_put_((owner, bins), summands[:, 0].to(self.count), accumulate=True)
            if start is not None:
                first, z0 = start
                a0 = z0 @ weight + bias
                _add_by(batch.document, token_fields(a0, (z0 - predict(first)) @ weight)[0], sums.start)

    def _start(self, x: Tensor, z: Tensor, batch: Batch) -> tuple[Rows, Tensor] | None:
        """Position 0 of every window, when it is not among the kept tokens."""
        if bool(batch.keep[:, 0].any()):
            return None
        none = torch.zeros_like(batch.document)
        return Rows(x[:, 0], x[:, 0], none.bool(), none, batch.slot[:, 0]), z[:, 0]

    def _spread(self, norm2: Tensor, total: Tensor) -> Tensor:
        """Summed squared distance of a_t to its mean over all held-out tokens, per document.

        The mean is that of all documents also in resamples: recomputing it there would shrink the spread by
        the share of one document, a bias as large as the interval for few documents, while to first order it
        changes nothing. norm2 (document, ...) and total (document, ..., width) are sums of |a|^2 and of a.
        """
        count = self.count.cpu().reshape(-1, *[1] * (total.dim() - 1))
        mean = total.sum(0) / count.sum()
        return norm2.cpu() - 2 * (total * mean).sum(-1) + count.squeeze(-1) * mean.square().sum(-1)

    def metrics(self, name: str, weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Every score under document weights (replicate, document): of the layer (replicate,), of heads
        (replicate, n_heads).
        """
        z, weight, bias = (t.double().cpu() for t in (self.z, self.weight, self.bias))
        count = self.count.cpu().unsqueeze(-1)
        square = SUMMANDS.index("norm2")
        total = z @ weight + count * bias
        layer, heads = self.predictors[name].layer, self.predictors[name].heads
        spread = self._spread(layer[..., square], total)
        head_spread = self._spread(heads[..., square], head_coordinates(z, self.isometry.double().cpu()))
        own = _scores(_weighted(weights, layer), weights @ spread.numpy())
        if self.stream is not None:
            after = self.stream.cpu()
            states = weights @ self._spread(after[:, 0], after[:, 1:]).numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                own["linearity"] = 1 - _weighted(weights, layer)["error2"] / states
        return own, _scores(_weighted(weights, heads), weights @ head_spread.numpy())

    def start_metrics(self, name: str, weights: Array) -> dict[str, Array]:
        """R and the norm of the attention output at position 0, the latter relative to the kept tokens; empty
        if 0 is kept.
        """
        sums = self.predictors[name]
        if not float(sums.start.sum()):
            return {}
        start, kept = _weighted(weights, sums.start), _weighted(weights, sums.layer)
        with np.errstate(divide="ignore", invalid="ignore"):
            norms = (start["norm"] / start["defined"]) / (kept["norm"] / kept["defined"])
            return {"R_position_0": start["ratio"] / start["defined"], "norm_ratio_position_0": norms}

    def histogram(self, name: str, weights: Array) -> Array:
        """Share of tokens per bin of R_t; bins are below EDGES[0], between edges, and above EDGES[-1]:
        (replicate, bin).
        """
        counts: Array = weights @ self.predictors[name].histogram.double().cpu().numpy()
        return counts / counts.sum(-1, keepdims=True)


def _add_by(owner: Tensor, values: Tensor, sums: Tensor) -> None:
    """Add the rows of `values` to those rows of `sums` that `owner` names."""
    sums.index_add_(0, owner, values.to(sums.dtype))


def _weighted(weights: Array, sums: Tensor) -> dict[str, Array]:
    """SUMMANDS summed over documents under weights."""
    total = np.tensordot(weights, sums.double().cpu().numpy(), axes=1)
    return {field: total[..., i] for i, field in enumerate(SUMMANDS)}


def _scores(s: dict[str, Array], spread: Array) -> dict[str, Array]:
    """The scores of this module's text from weighted sums; spread is sum |a - mean a|^2."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            "R": s["ratio"] / s["defined"],
            "R_ratio_of_sums": 1 - s["error"] / s["norm"],
            "R2": 1 - s["error2"] / spread,
            "R2_uncentred": 1 - s["error2"] / s["norm2"],
            "cosine": s["cosine"] / s["defined"],
        }
        return scores | {f"share_R_above_{c}": s[f"above_{c}"] / s["defined"] for c in THRESHOLDS}
