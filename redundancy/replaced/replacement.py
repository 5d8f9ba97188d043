"""What is replaced by what, without the model: chosen, saved, loaded, and sent to the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labbook.console import UserError
from redundancy.model.pair import Pair
from redundancy.probe.kept import PARTS, About, Probes
from redundancy.regression.controls import PositionAffine
from redundancy.regression.network import PositionNetwork
from redundancy.replaced.kept import Router

if TYPE_CHECKING:
    from torch import Tensor

FILES = Pair(
    "replaced.safetensors",
    "replaced.json",
    schema=2,
    kind="replaced model",
    instead="Name a folder that `save` of a replaced model wrote.",
    apart="were not saved together",
    # needs without networks
    older=(1,),
)


@dataclass(frozen=True)
class Replacement:
    """Which attention is replaced, and the maps that stand for it.

    Attributes
    ----------
    about : the model and text that the maps were fitted to.
    maps : layer -> z from resid_pre and position, (rows, n_heads * d_head); of every layer that is touched
        and not dropped.
    layers : replaced as a whole.
    heads : layer -> heads replaced as a whole.
    need : layer -> log need of every head from resid_pre and position; where it is at most `limit`, the
        (token, head) operation is replaced.
    dropped : whether the layers give 0 instead of a prediction.
    order, share : what was asked for; None where layers and heads were named.
    """

    about: About
    maps: Mapping[int, PositionAffine]
    layers: tuple[int, ...] = ()
    heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    need: Mapping[int, PositionNetwork] = field(default_factory=dict)
    limit: float = float("-inf")
    dropped: bool = False
    order: str | None = None
    share: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.layers:
            how = "dropped" if self.dropped else "replaced"
            parts.append(f"attention of layers {', '.join(map(str, self.layers))} {how}")
        if self.heads:
            named = (f"{n}: {', '.join(map(str, heads))}" for n, heads in sorted(self.heads.items()))
            parts.append(f"heads replaced (layer: heads) {'; '.join(named)}")
        if self.need:
            parts.append(f"operations with a low need replaced ({self.order}, share {self.share})")
        return "; ".join(parts)

    def save(self, folder: str | Path) -> Path:
        """Write `replaced.safetensors` and `replaced.json` into `folder`, and return it."""
        tensors: dict[str, Tensor] = {}
        maps = {(n, "map"): PositionNetwork(found) for n, found in self.maps.items()}
        for (n, kind), found in (maps | {(n, "need"): found for n, found in self.need.items()}).items():
            # a copy of each: maps may share one shift, and shared memory cannot be saved
            tensors |= {f"{n}/{kind}/{name}": tensor.clone() for name, tensor in found.tensors().items()}
        about = {
            "about": asdict(self.about),
            "layers": list(self.layers),
            "heads": [[n, list(heads)] for n, heads in sorted(self.heads.items())],
            "operations": sorted(self.need),
            # JSON has no infinity: a share of 1 replaces every operation
            "limit": None if self.limit == float("inf") else self.limit if self.need else 0.0,
            "dropped": self.dropped,
            "order": self.order,
            "share": self.share,
        }
        return FILES.save(folder, tensors, about)

    @classmethod
    def load(cls, folder: str | Path) -> "Replacement":
        """What is in `folder`. Raises UserError when there is nothing, when a file is damaged, and when the
        two files do not belong together.
        """
        tensors, found = FILES.load(folder)

        parts: dict[str, dict[int, dict[str, Tensor]]] = {"map": {}, "need": {}}
        for name, tensor in tensors.items():
            layer, kind, part = name.split("/")
            parts[kind].setdefault(int(layer), {})[part] = tensor
        maps, need = (
            {n: PositionNetwork.of(own) for n, own in sorted(parts[kind].items())} for kind in ("map", "need")
        )
        return cls(
            about=About.read(found["about"]),
            maps={n: one.linear for n, one in maps.items()},
            layers=tuple(found["layers"]),
            heads={int(n): tuple(heads) for n, heads in found["heads"]},
            need=need,
            limit=float("inf") if found["limit"] is None else found["limit"],
            dropped=found["dropped"],
            order=found["order"],
            share=found["share"],
        )

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload both files to the model repository `repo_id` on the Hugging Face hub, which is made if it is
        not there, and return the address of the commit. huggingface_hub finds the token.
        """
        message = f"{self.about.model}: {self}"
        return FILES.push_to_hub(self.save, repo_id, private=private, revision=revision, message=message)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "Replacement":
        """What is in a local folder or in a repository of the Hugging Face hub.

        Raises UserError when the repository cannot be reached or holds no replaced model.
        """
        return cls.load(FILES.fetch(name, revision))


def chosen(
    probes: Probes,
    router: Router | None,
    share: float | None,
    layers: Sequence[int] | None,
    heads: Mapping[int, Sequence[int]] | None,
) -> Replacement:
    """What a request replaces: `share` of the operations in the order of `router`, or the layers and heads
    that are named.

    Raises UserError for a share outside (0, 1], layers or heads that do not exist, probes of another feature
    than resid_pre, and a router of another model or text than the probes.
    """
    about = probes.about
    if about.feature != "resid_pre":
        raise UserError(
            f"these probes predict from {about.feature}; only those of resid_pre can stand for attention. "
            "Fit with feature='resid_pre'."
        )
    if router is None:
        if share is not None:
            raise UserError(f"share={share} was asked for without a router=. Name one, or leave share out.")
        places = [*(layers or ()), *(heads or {}), *(h for some in (heads or {}).values() for h in some)]
        odd = [place for place in places if isinstance(place, bool) or not hasattr(place, "__index__")]
        if odd:
            raise UserError(f"{odd[0]!r} is no number of a layer or head; give whole numbers from 0 on.")
        return _named(probes, tuple(layers or ()), dict(heads or {}))
    if layers or heads:
        raise UserError(
            f"router={router.order!r} chooses what is replaced, and layers= or heads= names it. Leave one of "
            "them out."
        )
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise UserError(
            f"share={share!r} was asked for; shares of the attention operations lie above 0 and up to 1. "
            "Change share=."
        )
    differing = [
        name
        for name in ("weight_hash", "data_hash", "feature", "layers", "start_position", "positions")
        if getattr(router.about, name) != getattr(about, name)
    ]
    if differing:
        raise UserError(
            f"the router {router.order} belongs to other probes than these (of {router.about.model}, these "
            f"of {about.model}; other {', '.join(differing)}). Take both from the folder of one removal run."
        )
    if router.need:
        limit = router.threshold(share)
        return Replacement(
            about,
            router.maps or _maps(probes, about.layers),
            need=router.need,
            limit=limit,
            order=router.order,
            share=share,
        )
    spared = router.first(share)
    if len(spared[0]) == 1:
        whole, some = tuple(sorted(place[0] for place in spared)), dict[int, tuple[int, ...]]()
    else:
        whole, some = (), {n: tuple(sorted(h for m, h in spared if m == n)) for n, _ in spared}
    dropped = router.order.endswith("dropped")
    found = _named(probes, whole, some, dropped=dropped)
    return Replacement(**{**vars(found), "order": router.order, "share": share})


def _named(
    probes: Probes, layers: tuple[int, ...], heads: Mapping[int, Sequence[int]], *, dropped: bool = False
) -> Replacement:
    """The replacement of layers and heads; a layer all of whose heads go is a whole one."""
    about = probes.about
    unknown = sorted({*layers, *heads} - set(about.layers))
    if unknown:
        raise UserError(
            f"layer {unknown[0]} was asked for; there are probes of {', '.join(map(str, about.layers))}. "
            "Change layers= or heads=."
        )
    for n, some in heads.items():
        wrong = sorted(h for h in set(some) if not 0 <= h < about.n_heads)
        if wrong:
            raise UserError(
                f"head {wrong[0]} of layer {n} was asked for; there are heads 0 to {about.n_heads - 1}. "
                "Change heads=."
            )
    whole = {*layers, *(n for n, some in heads.items() if len(set(some)) == about.n_heads)}
    rest = {n: tuple(sorted(set(some))) for n, some in sorted(heads.items()) if some and n not in whole}
    if not whole and not rest:
        raise UserError(
            "nothing was asked to be replaced. Give router= and share=, layers=[0, 1], or heads={0: [1, 2]}."
        )
    touched = () if dropped else tuple(sorted({*whole, *rest}))
    return Replacement(
        about, _maps(probes, touched), layers=tuple(sorted(whole)), heads=rest, dropped=dropped
    )


def _maps(probes: Probes, layers: Sequence[int]) -> dict[int, PositionAffine]:
    """Hidden state and position -> z, of some layers."""
    return {
        n: PositionAffine(*(probes.tensors[f"{n}/with_position/{part}"] for part in PARTS)) for n in layers
    }
