"""The methods: which units go in which order, and what stands in their place.

    method            source            removes                   order                        in its place
    random            -                 attention | mlp | block   random, mean of DRAWS        nothing
    llm_drop          arXiv:2406.15786  attention | mlp           cosine of x and x + y        nothing
    block_influence   arXiv:2403.03853  block                     cosine of x and x + y        nothing
    sleb              arXiv:2402.09025  block (attention, mlp)    greedy, loss                 nothing
    finercut          arXiv:2405.18218  attention and mlp         greedy, output divergence    nothing
    blockpruner       arXiv:2406.10594  attention and mlp         greedy, loss                 nothing
    mean_update       arXiv:2407.16286  attention | mlp | block   cosine of x and x + y        mean of y
    nbl               arXiv:2505.21077  attention (mlp, block)    canonical correlations       linear map of x
    replaceme         arXiv:2505.02819  block                     cosine over a span           one linear map
    linear_greedy     -                 attention | mlp | block   greedy, loss                 linear map of x
                                                                                               and position

x is the stream that enters and y what the unit adds to it (see `model.updates`). In brackets: targets that
the paper does not treat, to which its rule is applied here for the comparison. Maps are fitted on training
documents and orders found on validation documents, where the papers take both from one calibration set.

cosine          mean over tokens of cos(x, x + y), highest first: 1 - cos is Block Influence (ShortGPT, eq. 1)
                and the importance of LLM-Drop, which measures every unit in the intact model
canonical       d - sum_i rho_i^2, lowest first: rho_i are the canonical correlations of x and x + y, and the
                sum bounds the normalised error of the least-squares map (NBL, theorem 3.2)
greedy, loss    one unit at a time, that whose removal leaves the lowest loss beside those that went before
greedy, output  the same by the Jensen-Shannon divergence of the next-token distribution from that of the
divergence      intact model, one of the distances that FinerCut compares
span            for each number of blocks the run of consecutive blocks a to b with the highest mean cosine of
                the streams before and after it; M T, M what the MLP before the run adds, stands for M, with T
                the least-squares solution of s_b = (s_a - M) + M T (ReplaceMe, closed form)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redundancy.removal import curve
from redundancy.request import Target

Order = Literal["random", "cosine", "canonical", "loss", "divergence", "span"]
Replacement = Literal["nothing", "mean", "linear", "placed", "span"]
# what a method removes: units of one target, or attention and mlp sublayers together
Removes = Literal["attention", "mlp", "block", "sublayers"]
# random orders whose mean stands for chance
DRAWS = 3
# with more units than `curve.FEW`, counts are those nearest to the asked shares, up to this one: beyond it
# every method costs far more than any budget, and greedy orders take most of their time
LARGEST_SHARE = 0.5


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes
    ----------
    label : its name in figures.
    source : where it was published; empty for the project's own.
    removes : what it is measured on.
    order, replacement : see the module's text.
    """

    label: str
    source: str
    removes: tuple[Removes, ...]
    order: Order
    replacement: Replacement


EACH: tuple[Removes, ...] = ("attention", "mlp", "block")
METHODS: dict[str, Method] = {
    "random": Method("random", "", EACH, "random", "nothing"),
    "llm_drop": Method("LLM-Drop", "arXiv:2406.15786", ("attention", "mlp"), "cosine", "nothing"),
    "block_influence": Method("Block Influence", "arXiv:2403.03853", ("block",), "cosine", "nothing"),
    "sleb": Method("SLEB", "arXiv:2402.09025", EACH, "loss", "nothing"),
    "finercut": Method("FinerCut", "arXiv:2405.18218", ("sublayers",), "divergence", "nothing"),
    "blockpruner": Method("BlockPruner", "arXiv:2406.10594", ("sublayers",), "loss", "nothing"),
    "mean_update": Method("mean update", "arXiv:2407.16286", EACH, "cosine", "mean"),
    "nbl": Method("NBL", "arXiv:2505.21077", EACH, "canonical", "linear"),
    "replaceme": Method("ReplaceMe", "arXiv:2505.02819", ("block",), "span", "span"),
    "linear_greedy": Method("linear, greedy", "", EACH, "loss", "placed"),
}


def removes_of(targets: Sequence[Target]) -> tuple[Removes, ...]:
    """What methods remove when `targets` are asked for: sublayers together where both kinds are."""
    both: tuple[Removes, ...] = ("sublayers",) if {"attention", "mlp"} <= set(targets) else ()
    return (*(target for target in EACH if target in targets), *both)


def counts(total: int, shares: Sequence[float]) -> list[int]:
    """How many of `total` units go: all numbers of a few, else one and those nearest to the shares."""
    return curve.counts(total, [share for share in shares if share <= LARGEST_SHARE])
