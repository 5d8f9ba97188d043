"""What `redundancy.removal` is asked. Imports nothing heavy, so that --help is quick."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from labbook.console import UserError
from redundancy.request import TARGETS, Request, Settings, Target

PartName = Literal[
    "layers",
    "heads",
    "all",
    "previous",
    "rivals",
    "in_place",
    "floor",
    "cumulative",
    "curve",
    "routers",
    "methods",
    "cost",
]


PARTS: tuple[PartName, ...] = get_args(PartName)
# in which attention operations can go, and what each is in words
ORDERS = {
    "known_relative": "relative error, known",
    "known_displacement": "displacement, known",
    "known_fisher": "change of the loss, known from labels the model drew",
    "known_first_order": "change of the loss, known from the true label",
    "predicted_relative": "relative error, predicted before attention",
    "predicted_displacement": "displacement, predicted before attention",
    "predicted_fisher": "change of the loss, predicted before attention",
    "hidden_fisher": "change of the loss, predicted without the position",
    "network_fisher": "change of the loss, predicted by a small network",
    "trained_router": "router trained through the loss",
    "trained_together": "router and maps trained through the loss",
    # the change that the error of these maps makes, not that of the maps of one token; in runs of an earlier
    # version the router predicted the latter
    "past_fisher": "change of the loss, predicted; maps that see the tokens before",
    "random": "random",
    "heads_relative": "whole heads by relative error",
    "heads_displacement": "whole heads by displacement",
    "heads_fisher": "whole heads by change of the loss",
    "heads_exact": "whole heads by the loss that each costs",
    "layers_cosine": "whole layers by cosine, replaced",
    "layers_exact": "whole layers by the loss that each costs",
    "layers_dropped": "whole layers by cosine, dropped",
}


# parts that make an order; the others come with the part curve itself
MAKERS: dict[str, PartName] = {
    "network_fisher": "routers",
    "trained_router": "routers",
    "trained_together": "routers",
    "past_fisher": "previous",
    "heads_exact": "heads",
}
# orders that no model could follow: they go by the label or by what attention gives, or their maps see more
# than one token, a question of its own
NOT_DEPLOYABLE = tuple(order for order in ORDERS if order.startswith(("known", "past")))
# the control of all other orders, always measured beside them
CONTROL = "random"


def orders_of(parts: Sequence[PartName]) -> tuple[str, ...]:
    """The orders that a run of these parts can make; none without the curve."""
    made = (order for order in ORDERS if MAKERS.get(order, "curve") in parts)
    return tuple(made) if "curve" in parts else ()


@dataclass(frozen=True)
class RemovalConfig(Request):
    """Everything that changes a number of a removal run. `None` means chosen automatically, and the choice is
    printed.
    """

    quick: bool = False
    """A first look: 20,000 training and 10,000 held-out tokens unless given. With `--parts curve floor` it
    took four minutes on the embedded model and two busy cores; each further part adds to that.
    """
    eval_tokens: int | None = None
    """Held-out tokens; every way of running the model reads all of them. Default: 20,000."""
    parts: Annotated[tuple[PartName, ...], tyro.conf.arg(metavar="PART [PART ...]")] = PARTS
    """Which experiments, of layers, heads, all, previous, rivals, in_place, floor, cumulative, curve,
    routers, methods, cost; each layer, head, or point of the curve is one more run over the held-out text."""
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0)
    """Shares of the attention operations at which the removal curve is measured, and of the layers of deep
    models at which the methods are.
    """
    orders: tuple[str, ...] | None = None
    """Orders of the part curve, such as predicted_fisher; each is measured at every share, and random always
    beside them. Default: all that the parts asked for can make.
    """
    targets: tuple[Target, ...] = TARGETS
    """What the part `methods` removes whole: attention layers, MLPs, blocks."""

    def require_known(self) -> None:
        """Raises UserError for an order that there is not, and for what is named twice."""
        unknown = [name for name in self.orders or () if name not in ORDERS]
        if unknown:
            raise UserError(
                f"there is no order {unknown[0]!r}; there are {', '.join(ORDERS)}. Change --orders."
            )
        for kind, asked in (
            ("part", self.parts),
            ("order", self.orders or ()),
            ("target", self.targets),
            ("share", self.shares),
        ):
            twice = [name for name in asked if asked.count(name) > 1]
            if twice:
                raise UserError(f"--{kind}s names {twice[0]} {asked.count(twice[0])} times. Name each once.")

    def curve_orders(self) -> tuple[str, ...]:
        """The orders of the removal curve. Raises UserError for those that the parts cannot make."""
        possible = orders_of(self.parts)
        if self.orders is None:
            return possible
        if "curve" not in self.parts:
            raise UserError("--orders was given without --parts curve, whose orders they are. Add curve.")
        if set(self.orders) == {CONTROL}:
            raise UserError(
                f"--orders names {CONTROL} alone, the control, which is measured beside the others in any "
                "case. Name another order, or leave --orders out."
            )
        for order in self.orders:
            if order not in possible:
                raise UserError(
                    f"the order {order} is made by the part {MAKERS[order]}. Add it to --parts, or leave "
                    "the order out of --orders."
                )
        return tuple(order for order in possible if order in (*self.orders, CONTROL))

    def default_eval_tokens(self, tokens: int) -> int:
        """20,000: each of the many ways of running the model reads them all."""
        return 20_000


@dataclass(frozen=True)
class RemovalSettings(Settings):
    """What changes no number."""

    full: bool = False
    """Print every table: all replacements with all metrics, one layer replaced, all orders, methods, cost."""


@dataclass(frozen=True)
class Command:
    """Replace attention by predictions, for a layer, a head, all layers, or the operations that need it
    least.
    """

    config: tyro.conf.OmitArgPrefixes[RemovalConfig]
    settings: tyro.conf.OmitArgPrefixes[RemovalSettings]
