"""The probe and its controls: what predicts the attention output, fitted on training documents only.

resid_pre          ridge on the hidden state of the token itself (or on another feature): the probe
with_position      ridge on the hidden state, with an intercept of its own at every position: what a predictor
                   knows that, like any part of the network, also knows where it is
training_mean      the mean target: what any constant reaches
position_mean      the mean target at this position in the window  } both shrunk towards the training mean as
token_mean         the mean target of this token id                } a random-effects model says; ids too rare
                   for the table share one mean, ids never trained on get the training mean
previous_token     ridge on the hidden state of the token before
both_tokens        ridge on the hidden states of the token and of the token before together, if asked for
shuffled           ridge on the hidden state, fitted to targets of other tokens: what chance reaches, which is
                   what the training mean reaches
aligned_shuffled   the same with the target at the same position of another window: chance that keeps what
                   position tells
random_weights     the probe on the same architecture with random weights (further models, see
                   `passes.measure_twins`)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from redundancy.batches import Batch, places
from redundancy.regression.moments import LayerMoments
from redundancy.regression.ridge import Affine, RidgePath

CONTROLS = (
    "with_position",
    "training_mean",
    "position_mean",
    "token_mean",
    "previous_token",
    "shuffled",
    "aligned_shuffled",
)
RANDOM = "random_weights"


@dataclass(frozen=True)
class Rows:
    """Kept tokens of a batch: features of the token and of the token before (rows, d), position and token
    slot (rows,).
    """

    x: Tensor
    previous: Tensor
    has_previous: Tensor
    position: Tensor
    slot: Tensor

    @staticmethod
    def of(x: Tensor, batch: Batch) -> "Rows":
        """Select the kept tokens of x (batch, position, d)."""
        before = torch.roll(x, 1, dims=1)[batch.keep]
        return Rows(
            x[batch.keep], before, batch.previous[batch.keep], places(x)[batch.keep], batch.slot[batch.keep]
        )


Predictor = Callable[[Rows], Tensor]


@dataclass(frozen=True)
class PositionAffine:
    """The map (x, position) -> (x - shift) W + b[position]; weight (d, k), bias (position, k), shift (d,)."""

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __call__(self, x: Tensor, position: Tensor) -> Tensor:
        """Predict (rows, k) from x (rows, d) and position (rows,) of integers, in the dtype of x."""
        return (x - self.shift.to(x)) @ self.weight.to(x) + self.bias.to(x)[position]


@dataclass(frozen=True)
class Fitted:
    """What was fitted to one layer.

    Attributes
    ----------
    predictors, penalties : by name; penalties of the ridge regressions among them.
    probe : the probe itself.
    mean : (k,) mean training target.
    with_position, position_mean : map and table (position, k) of these controls, where they were fitted.
    """

    predictors: dict[str, Predictor]
    penalties: dict[str, float]
    probe: Affine
    mean: Tensor
    with_position: PositionAffine | None = None
    position_mean: Tensor | None = None


def affine(solution: tuple[Tensor, Tensor], pilot: dict[str, Tensor]) -> Affine:
    """A ridge solution (weight, bias) in the model's own coordinates."""
    weight, bias = solution
    return Affine(
        weight / pilot["scale_x"].to(weight).unsqueeze(-1), bias + pilot["shift_z"].to(bias), pilot["shift_x"]
    )


def shrunk_means(sums: Tensor, counts: Tensor, total_square: Tensor, mean: Tensor) -> Tensor:
    """Group means shrunk by n_g / (n_g + within / between) towards `mean` (one-way random effects, method of
    moments).

    Parameters
    ----------
    sums, counts : (group, k) and (group,) of the training targets; total_square is their summed squared norm.

    Returns
    -------
    (group, k); groups without a training token get `mean`.
    """
    n, groups = counts.sum(), int((counts > 0).sum())
    means = sums / counts.clamp_min(1).unsqueeze(-1)
    deviation = torch.where((counts > 0).unsqueeze(-1), means - mean, torch.zeros_like(means))
    between_square = (counts * deviation.square().sum(-1)).sum()
    within = (total_square - n * mean.square().sum() - between_square).clamp_min(0) / (n - groups).clamp_min(
        1
    )
    size = (n - counts.square().sum() / n) / max(groups - 1, 1)
    between = ((between_square / max(groups - 1, 1) - within) / size).clamp_min(0)
    ratio = within / between if float(between) > 0 else torch.full_like(within, torch.inf)
    weight = torch.where(counts > 0, counts / (counts + ratio), torch.zeros_like(counts))
    return mean + weight.unsqueeze(-1) * deviation


def fit_with_position(sums: LayerMoments, gram: Tensor, ridge: float | None) -> tuple[PositionAffine, float]:
    """Ridge on the hidden state with an intercept at every position; returns the map and its penalty.

    The weights come from what varies within positions, exactly as if every position had an unpenalised
    indicator (Frisch & Waugh 1933); the intercepts are then shrunk towards their mean like the means per
    position are.
    """
    path = RidgePath(sums.moments("train", "within"))
    alpha = path.best(sums.moments("validation", "within"), gram) if ridge is None else ridge
    weight, _ = path.solve(alpha)
    of = {name: sums.sums[f"train/{name}"] for name in ("n", "x", "z", "xx", "xz", "square", "per_position")}
    rest = sums.sums["train/z_by_position"] - sums.sums["train/x_by_position"] @ weight
    square = of["square"] - 2 * (weight * of["xz"]).sum() + (weight * (of["xx"] @ weight)).sum()
    mean = (of["z"] - of["x"] @ weight) / of["n"]
    bias = shrunk_means(rest, of["per_position"], square, mean)
    slope = affine((weight, mean), sums.pilot)
    return PositionAffine(slope.weight, bias + sums.pilot["shift_z"].to(bias), slope.shift), alpha


def fit(sums: LayerMoments, gram: Tensor, name: str, ridge: float | None) -> Fitted:
    """Fit the probe, and the controls if their sums were kept.

    Parameters
    ----------
    gram : W_O W_O' (d_z, d_z) float64, the metric in which the penalty is chosen.
    name : the feature's name, which is the probe's.
    ridge : a fixed penalty, or None to choose by validation error.
    """
    current = RidgePath(sums.moments("train", "current"))
    validation = sums.moments("validation", "current")
    alpha = current.best(validation, gram) if ridge is None else ridge
    probe = affine(current.solve(alpha), sums.pilot)
    predictors: dict[str, Predictor] = {name: lambda rows: probe(rows.x)}
    penalties = {name: alpha}
    shift, mean = sums.pilot["shift_z"].to(current.mean_z), current.mean_z
    constant = shift + mean
    if not sums.controls:
        return Fitted(predictors, penalties, probe, constant)

    square, per_position = sums.sums["train/square"], sums.sums["train/per_position"]
    place_mean = shrunk_means(sums.sums["train/z_by_position"], per_position, square, mean) + shift
    token_mean = shrunk_means(sums.sums["by_token"].to(mean), sums.sums["per_token"], square, mean) + shift
    placed, placed_alpha = fit_with_position(sums, gram, ridge)

    before = RidgePath(sums.moments("train", "previous"))
    before_alpha = before.best(sums.moments("validation", "previous"), gram) if ridge is None else ridge
    neighbour = affine(before.solve(before_alpha), sums.pilot)
    penalties |= {"previous_token": before_alpha, "with_position": placed_alpha}
    by_chance = dict[str, Affine]()
    for kind, title in (("shuffled", "shuffled"), ("aligned", "aligned_shuffled")):
        chance = current.with_targets(sums.moments("train", kind))
        penalties[title] = chance.best(sums.moments("validation", kind), gram) if ridge is None else ridge
        by_chance[title] = affine(chance.solve(penalties[title]), sums.pilot)

    predictors |= {
        "with_position": lambda rows: placed(rows.x, rows.position),
        "training_mean": lambda rows: constant.to(rows.x).expand(len(rows.x), -1),
        "position_mean": lambda rows: place_mean.to(rows.x)[rows.position],
        "token_mean": lambda rows: token_mean.to(rows.x)[rows.slot],
        "previous_token": lambda rows: torch.where(
            rows.has_previous.unsqueeze(-1), neighbour(rows.previous), constant.to(rows.x)
        ),
        "shuffled": lambda rows: by_chance["shuffled"](rows.x),
        "aligned_shuffled": lambda rows: by_chance["aligned_shuffled"](rows.x),
    }
    if sums.both:
        pair = RidgePath(sums.moments("train", "both"))
        pair_alpha = pair.best(sums.moments("validation", "both"), gram) if ridge is None else ridge
        twice = {name: torch.cat([sums.pilot[name]] * 2) for name in ("shift_x", "scale_x")}
        joint = affine(pair.solve(pair_alpha), {**sums.pilot, **twice})
        predictors["both_tokens"] = lambda rows: joint(torch.cat([rows.x, rows.previous], -1))
        penalties["both_tokens"] = pair_alpha
    return Fitted(predictors, penalties, probe, constant, placed, place_mean)
