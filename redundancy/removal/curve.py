"""The removal curve: loss against the share of attention replaced, and what a budget of loss allows."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labbook.estimate import Array, Estimate, Studentised
from redundancy.aggregate import TableRow
from redundancy.evaluation import KINDS, TALLIES, Variant
from redundancy.removal.config import CONTROL, NOT_DEPLOYABLE, ORDERS
from redundancy.removal.replacements.floor import Floor

# nats per token by which the loss may rise
BUDGETS = (0.01, 0.05, 0.1)
# the removal curve is measured again near a crossing while its neighbours are further apart than this, at
# most ROUNDS times
RESOLUTION, FINEST, ROUNDS = 0.05, 0.01, 3
# whole heads, layers or other units up to this number are removed one by one
FEW = 12
# orders in which whole heads or layers go: there is nothing between two measured shares
DISCRETE = tuple(order for order in ORDERS if order.startswith(("heads", "layers")))

# orders that a model could follow, and has a reason to: they are known before attention is computed
DEPLOYABLE = tuple(order for order in ORDERS if order not in (*NOT_DEPLOYABLE, CONTROL))
# no answer to how much a prediction from one token can replace: the label, or other tokens, are seen
BEYOND = ("known_first_order", "past_fisher")


@dataclass(frozen=True)
class Evaluated:
    """Sums per document (document, TALLIES) of the intact model, and of every variant (variant, document,
    TALLIES); `chosen` is the order to use by budget, chosen on other documents; `floor` is that of
    replacements which see one token.
    """

    variants: Sequence[Variant]
    intact: Tensor
    changed: Tensor
    chosen: Mapping[float, str] = field(default_factory=dict)
    floor: Floor = field(default_factory=Floor)

    def joined(self, other: "Evaluated") -> "Evaluated":
        """The variants of both; the intact model is the same."""
        return replace(
            self,
            variants=[*self.variants, *other.variants],
            changed=torch.cat([self.changed, other.changed]),
        )

    def curves(self) -> dict[str, list[int]]:
        """The variants of every order of the removal curve, by growing target share."""
        found: dict[str, list[int]] = {}
        for place, variant in enumerate(self.variants):
            if variant.key.part == "curve":
                found.setdefault(variant.key.order, []).append(place)
        return {
            order: sorted(places, key=lambda i: self.variants[i].key.target_share)
            for order, places in found.items()
        }


@dataclass(frozen=True)
class Removable:
    """How much of attention can be removed within a budget.

    Attributes
    ----------
    share : of the (token, head) operations; NaN where only its limits are known.
    within, beyond : measured shares between which it lies; NaN where none lies beyond.
    kind : what the estimate is, see `removable`.
    """

    share: Estimate
    within: float
    beyond: float
    kind: str

    def json(self) -> TableRow:
        """As `summary.json` and a row of `removable.csv` hold it."""
        return {**vars(self.share), "within": self.within, "beyond": self.beyond, "kind": self.kind}

    @staticmethod
    def read(values: Mapping[Any, Any]) -> "Removable":
        """What a file holds. Raises KeyError where a part is missing."""
        within, beyond = (math.nan if values[c] is None else float(values[c]) for c in ("within", "beyond"))
        return Removable(Estimate.read(values), within, beyond, values["kind"])

    def text(self, digits: int = 2) -> str:
        """An estimate with its interval, or what is known instead."""
        match self.kind:
            case "less than":
                return f"less than {self.beyond:.{digits}f}"
            case "at least":
                return f"at least {self.share.text(digits)}"
            case "measured":
                return f"{self.share.text(digits)}, next {self.beyond:.{digits}f}"
            case _:
                return self.share.text(digits)


# order -> budget in nats per token -> what can be removed
ByOrder = dict[str, dict[float, Removable]]


def best_order(by_order: ByOrder, budget: float) -> str:
    """The first of `ranked_orders`."""
    return ranked_orders(by_order, budget)[0]


def ranked_orders(by_order: ByOrder, budget: float) -> list[str]:
    """Orders by the share that they can replace within a budget, the largest first; what is only known to be
    less counts as nothing.
    """
    at = {order: by_order[order][budget].share.estimate for order in ORDERS if order in by_order}
    return sorted(at, key=lambda order: 0.0 if math.isnan(at[order]) else at[order], reverse=True)


def chosen_orders(evaluated: Evaluated) -> dict[float, str]:
    """The order that replaces the largest share within each budget, among those of DEPLOYABLE.

    `evaluated` is of documents on which nothing is scored afterwards. Between two measured shares of a
    continuous order the loss is interpolated; equal shares go to the order that stands first in ORDERS.
    """
    found = measures(evaluated.intact, evaluated.changed, np.ones((1, len(evaluated.intact))))
    curves = evaluated.curves()
    chosen = dict[float, str]()
    for budget in BUDGETS:
        spared = dict[str, float]()
        for order in (o for o in DEPLOYABLE if o in curves):
            shares, increases = (found[name][curves[order]].T for name in ("share", "loss_increase"))
            if order in DISCRETE:
                spared[order] = float(np.append(0.0, shares[0])[_first_over(increases[0], budget)])
            else:
                spared[order] = float(interpolated(shares, increases, budget)[0])
        if spared:
            chosen[budget] = max(spared, key=lambda order: spared[order])
    return chosen


def settled(evaluated: Evaluated) -> set[str]:
    """The orders that exceed every budget at some measured share: larger ones change no crossing."""
    found = measures(evaluated.intact, evaluated.changed, np.ones((1, len(evaluated.intact))))
    rises = found["loss_increase"][:, 0]
    return {o for o, places in evaluated.curves().items() if (rises[places] > max(BUDGETS)).any()}


def _first_over(increases: Array, budget: float) -> Array:
    """Index of the first point over the budget, the number of points if none is: (...,) from (..., point)."""
    over = increases > budget
    return np.where(over.any(-1), over.argmax(-1), increases.shape[-1])


def interpolated(shares: Array, increases: Array, budget: float) -> Array:
    """The share at which the loss first rises by more than `budget`, by linear interpolation from (0, 0):
    (replicate,).

    shares, increases : (replicate, point), points in the order of growing target share. Where no point
        exceeds the budget, the largest measured share is returned.
    """
    start = np.zeros((len(shares), 1))
    x, y = np.hstack([start, shares]), np.hstack([start, increases])
    first = _first_over(y, budget)
    none, first = first == y.shape[1], np.minimum(first, y.shape[1] - 1)
    rows = np.arange(len(x))
    x0, x1, y0, y1 = x[rows, first - 1], x[rows, first], y[rows, first - 1], y[rows, first]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = x0 + (x1 - x0) * (budget - y0) / (y1 - y0)
    return np.where(none, x1, crossing)


def removable(
    shares: Array, increases: Array, budget: float, bootstrap: Studentised, *, discrete: bool
) -> Removable:
    """How much can be removed while the loss rises by at most `budget`.

    Parameters
    ----------
    shares, increases : (1 + documents, point) under the weights of `bootstrap`, points in the order of
        growing target share.
    discrete : whether there is nothing between two points.

    Returns
    -------
    `kind` says what the estimate is:

    measured       discrete orders: the largest share up to which every measured point stays within the
                   budget, 0 if the first does not; the interval is that of percentiles, because the number
                   jumps
    interpolated   between the measured shares `within` and `beyond`
    at least       no measured point exceeds the budget; the largest share stands for the estimate
    less than      even the smallest measured share, `beyond`, exceeds the budget; the estimate is not known
                   (NaN), only its limits
    """
    own = shares[0]
    first = int(_first_over(increases[0], budget))
    within = 0.0 if first == 0 else float(own[first - 1])
    beyond = float(own[first]) if first < len(own) else math.nan
    if discrete:
        steps = np.append(0.0, own)
        replicates = steps[_first_over(bootstrap.replicates(increases), budget)]
        estimate, lower, upper = (float(v) for v in bootstrap.percentiles(replicates))
        kind = "measured" if first < len(own) else "at least"
    elif first == 0:
        estimate, lower, upper, kind = math.nan, 0.0, beyond, "less than"
    else:
        estimate, lower, upper = (
            float(v) for v in bootstrap.intervals(interpolated(shares, increases, budget))
        )
        lower, upper = max(lower, 0.0), min(upper, 1.0)
        kind = "interpolated" if first < len(own) else "at least"
    return Removable(Estimate(estimate, lower, upper, bootstrap.units), within, beyond, kind)


def crossings(evaluated: Evaluated) -> dict[str, list[float]]:
    """Shares at which continuous orders should be measured next, so that little is left to interpolation.

    A crossing is asked for where the measured shares on its two sides are further apart than RESOLUTION, or
    where none lies within the budget yet. Empty once there is nothing to ask.
    """
    measured = measures(evaluated.intact, evaluated.changed, np.ones((1, len(evaluated.intact))))
    wanted: dict[str, list[float]] = {}
    for order, places in evaluated.curves().items():
        if order in DISCRETE:
            continue
        targets = np.array([0.0] + [evaluated.variants[i].key.target_share for i in places])
        increases = np.append(0.0, measured["loss_increase"][places, 0])
        for budget in BUDGETS:
            first = int(_first_over(increases, budget))
            if first == len(targets):
                continue
            low, high = targets[first - 1], targets[first]
            if high - low <= (FINEST if first == 1 else RESOLUTION):
                continue
            # where nothing is known to lie within the budget the curve may rise steeply at first: at most
            # half way
            crossing = float(interpolated(targets[None, 1:], increases[None, 1:], budget)[0])
            share = min(crossing, (low + high) / 2) if first == 1 else crossing
            # rounded, so that a resumed run asks for the same shares; not on top of a measured one
            share = round(min(max(share, low + 0.1 * (high - low)), high - 0.1 * (high - low)), 4)
            if share not in wanted.setdefault(order, []):
                wanted[order].append(share)
    return {order: shares for order, shares in wanted.items() if shares}


def counts(total: int, shares: Sequence[float]) -> list[int]:
    """How many of `total` whole things go at each share: all counts of a few, else one and those nearest to
    the shares.
    """
    if total <= FEW:
        return list(range(1, total + 1))
    return sorted({1, *(max(1, round(share * total)) for share in shares)})


@dataclass(frozen=True)
class Difference:
    """By how much one order can remove more than another, of the same documents.

    Attributes
    ----------
    share : the difference, the first order minus the second; NaN where one of them is only known to be less
        than its smallest measured share, or at least its largest, below 1.
    """

    first: str
    second: str
    budget: float
    share: Estimate


def differences(
    curves: Mapping[str, tuple[Array, Array]], budget: float, bootstrap: Studentised
) -> list[Difference]:
    """Every pair of orders, paired by document: their shares removable within a budget, one minus the other.

    Parameters
    ----------
    curves : by order, shares and increases (1 + documents, point) under the weights of `bootstrap`, points in
        the order of growing target share.

    Two continuous orders are compared with the interval of a smooth statistic; where one of them jumps from
    one measured share to the next, with percentiles of replicates that share their documents.
    """
    smooth, replicates = dict[str, Array](), dict[str, Array]()
    known = {
        order
        for order, (shares, rises) in curves.items()
        if _told(shares[0], rises[0], budget, discrete=order in DISCRETE)
    }
    for order, (shares, increases) in curves.items():
        if order in DISCRETE:
            steps = np.append(0.0, shares[0])
            replicates[order] = steps[_first_over(bootstrap.replicates(increases), budget)]
        else:
            smooth[order] = interpolated(shares, increases, budget)
            replicates[order] = bootstrap.replicates(smooth[order])
    found = []
    ordered = [order for order in ORDERS if order in curves]
    for first, second in itertools.combinations(ordered, 2):
        if {first, second} <= known:
            if {first, second} <= set(smooth):
                numbers = bootstrap.intervals(smooth[first] - smooth[second])
            else:
                numbers = bootstrap.percentiles(replicates[first] - replicates[second])
            estimate, lower, upper = (float(v) for v in numbers)
        else:
            estimate = lower = upper = math.nan
        found.append(Difference(first, second, budget, Estimate(estimate, lower, upper, bootstrap.units)))
    return found


def _told(shares: Array, increases: Array, budget: float, *, discrete: bool) -> bool:
    """Whether a curve, (point,) each, says where it crosses a budget: not where it is over it from the first
    point on, or within it up to a last point that leaves some attention.
    """
    ends = bool((increases > budget).any()) or shares[-1] >= 1 - 1e-9
    return ends and (discrete or bool(increases[0] <= budget))


def measures(intact: Tensor, changed: Tensor, weights: Array) -> dict[str, Array]:
    """Loss increase (nats per token), KL, top-1 agreement, and share of operations replaced: each (variant,
    replicate). `loss_increase_copied` and so on are those of one kind of tokens (see `evaluation`); NaN where
    a replicate has none.
    """
    base = np.tensordot(weights, intact.numpy(), axes=1)
    total = np.einsum("rd,vdf->vrf", weights, changed.numpy())
    of = {name: i for i, name in enumerate(TALLIES)}

    def rise(suffix: str) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [t[..., of[f"loss{suffix}"]] / t[..., of[f"tokens{suffix}"]] for t in (total, base)]
        return ratios[0] - ratios[1]

    tokens = total[..., of["tokens"]]
    return {
        "loss_increase": rise(""),
        "kl": total[..., of["kl"]] / tokens,
        "top1_agreement": total[..., of["agreement"]] / tokens,
        "share": total[..., of["skipped"]] / total[..., of["operations"]],
        **{f"loss_increase_{kind}": rise(f"_{kind}") for kind in KINDS},
    }
