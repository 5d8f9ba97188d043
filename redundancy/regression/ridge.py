"""Exact ridge regression from moments, for every penalty at once.

    minimise over W, b   1/n sum_t |z_t - x_t W - b|^2 + alpha |S W|_F^2,   S = diag(standard deviations of x)

that is scikit-learn's `Ridge(alpha=n * alpha)` on standardised features, intercept unpenalised. With the
correlation matrix of x written as U diag(s) U', the solution for any alpha is S^-1 U diag(1 / (s + alpha)) U'
S^-1 C_xz: one eigendecomposition serves all penalties, all heads, and, because attn_out = z W_O + b_O is
linear, the layer output too.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from redundancy.regression.moments import Moments

PENALTIES = tuple(10.0**e for e in range(-9, 3))


@dataclass(frozen=True)
class Affine:
    """The map x -> (x - shift) W + b; weight (d, k), bias (k,), shift (d,)."""

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Predict (..., k) from (..., d), in the dtype of x."""
        return torch.nn.functional.linear(x - self.shift.to(x), self.weight.to(x).T, self.bias.to(x))


class RidgePath:
    """Ridge solutions of one regression for all penalties.

    Parameters
    ----------
    train : moments over the training tokens; n may be a sum of weights, where all sums are weighted.
    standardised : whether the penalty is on S W, as above; else on W itself.
    """

    def __init__(self, train: Moments, *, standardised: bool = True):
        self.mean_x, self.mean_z = train.x / train.n, train.z / train.n
        xx, xz = train.centred(self.mean_x, self.mean_z)
        deviation = xx.diagonal().clamp_min(0).sqrt()
        # a feature that never varies predicts nothing: leave it unscaled, its cross moments are zero
        varies = deviation > 1e-10 if standardised else torch.zeros_like(deviation, dtype=torch.bool)
        self.deviation = torch.where(varies, deviation, torch.ones_like(deviation))
        correlation = xx / torch.outer(self.deviation, self.deviation)
        self.spectrum, self.vectors = torch.linalg.eigh((correlation + correlation.T) / 2)
        self.spectrum = self.spectrum.clamp_min(0)
        self.rotated = self.vectors.T @ (xz / self.deviation.unsqueeze(-1))

    def with_targets(self, train: Moments) -> "RidgePath":
        """The path of other targets on the same features, sharing the eigendecomposition; train.x and
        train.xx are this path's.
        """
        path = copy.copy(self)
        path.mean_z = train.z / train.n
        _, xz = train.centred(self.mean_x, path.mean_z)
        path.rotated = self.vectors.T @ (xz / self.deviation.unsqueeze(-1))
        return path

    def solve(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Weight (d, k) and bias (k,) for penalty `alpha`.

        For 0, the least-squares solution, directions that vary by rounding alone get no weight.
        """
        spread = self.spectrum + alpha
        if alpha == 0:
            rounding = len(spread) * torch.finfo(spread.dtype).eps * spread[-1]
            spread = torch.where(spread > rounding, spread, torch.inf)
        weight = (self.vectors @ (self.rotated / spread.unsqueeze(-1))) / self.deviation.unsqueeze(-1)
        return weight, self.mean_z - self.mean_x @ weight

    def solve_rank(self, alpha: float, output: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """The solution of at most `rank` in the coordinates z M, M = `output` (k, m): reduced-rank regression
        with the ridge penalty.

        With A = (C + alpha)^(1/2) B M, C the correlations of the features and B the ridge solution on
        standardised features, the best M-image of rank r is B M V V', V the r leading right singular vectors
        of A (Izenman 1975, J. Multivariate Analysis 5, 248-264; the penalty acts as extra rows of data).
        Returned as a map to z, weight (d, k) and bias (k,).
        """
        output = output.to(self.rotated)
        leading = torch.linalg.svd(
            self.rotated @ output / (self.spectrum + alpha).sqrt().unsqueeze(-1), full_matrices=False
        ).Vh
        onto = output @ leading[:rank].T @ leading[:rank] @ torch.linalg.pinv(output)
        weight = self.solve(alpha)[0] @ onto
        return weight, self.mean_z - self.mean_x @ weight

    def validation_gain(self, validation: Moments, gram: Tensor, alphas: Tensor) -> Tensor:
        """Mean drop in squared error of z M on other tokens, against the training mean, for every alpha:
        (len(alphas),).

        gram = M M' (k, k) weighs the target; M = W_O gives the error of the layer output. Exact: no second
        pass is needed.
        """
        xx, xz = validation.centred(self.mean_x, self.mean_z)
        inverse = 1 / self.deviation
        xx = self.vectors.T @ (xx * torch.outer(inverse, inverse)) @ self.vectors
        xz = self.vectors.T @ (xz * inverse.unsqueeze(-1))
        weighted = self.rotated @ gram
        cross = (weighted * xz).sum(-1)
        quadratic = (weighted @ self.rotated.T) * xx
        shrink = 1 / (self.spectrum.unsqueeze(0) + alphas.to(self.spectrum).unsqueeze(-1))
        return 2 * shrink @ cross - torch.einsum("ai,ij,aj->a", shrink, quadratic, shrink)

    def best(self, validation: Moments, gram: Tensor, penalties: tuple[float, ...] = PENALTIES) -> float:
        """The penalty with the smallest validation error."""
        gains = self.validation_gain(validation, gram, torch.tensor(penalties, dtype=self.spectrum.dtype))
        return penalties[int(gains.argmax())]
