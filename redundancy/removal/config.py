"""What `redundancy.removal` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

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


@dataclass(frozen=True)
class RemovalConfig(Request):
    """Everything that changes a number of a removal run. `None` means chosen automatically, and the choice is
    printed.
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
    targets: tuple[Target, ...] = TARGETS
    """What the part `methods` removes whole: attention layers, MLPs, blocks."""

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
