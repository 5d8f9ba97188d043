"""Pass 1: first and second moments of features and targets, so that no activation is ever stored.

Everything a ridge regression needs is in sums over tokens, so memory depends on the widths of the model and
not on the amount of text. Per layer, with x the feature and z the target of a kept token (position 0 is left
out by default):

    current    n, sum x, sum z, sum x x', sum x z'     the probe
    previous   the same with x of the token before     control: what the neighbour alone tells
    both       sum x_t x_(t-1)'                        control, if asked for: what both tell together
    shuffled   sum s, sum x s' with s a target         control: what chance alone fits
               of another window
    aligned    the same with s the target at the       control: chance that knows the position
               same position of the other window
    within     sum x, sum z by position in the window  hidden state and position together
    tables     sum z by position, by token id          controls: what needs no hidden state

Products are formed in float32 (float64 models: float64) per batch, on features shifted and scaled by a pilot
batch so that large constants do not eat the digits, and added up in float64.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labbook.console import UserError
from redundancy.batches import Batch

Add = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Moments:
    """Sums over n tokens for one regression: x (d,), z (k,), xx (d, d), xz (d, k), float64."""

    n: Tensor
    x: Tensor
    z: Tensor
    xx: Tensor
    xz: Tensor

    def centred(self, mean_x: Tensor, mean_z: Tensor) -> tuple[Tensor, Tensor]:
        """Means over tokens of (x - mean_x)(x - mean_x)' and (x - mean_x)(z - mean_z)', any two vectors."""
        mx, mz = self.x / self.n, self.z / self.n
        dx, dz = mean_x - mx, mean_z - mz
        xx = self.xx / self.n - torch.outer(mx, mx) + torch.outer(dx, dx)
        xz = self.xz / self.n - torch.outer(mx, mz) + torch.outer(dx, dz)
        return xx, xz


def gram(x: Tensor, blocks: int = 4) -> Tensor:
    """x' x (d, d) of x (rows, d), computing only the column blocks on and above the diagonal: 5/8 of the work
    for 4 blocks.
    """
    if x.shape[1] < 64 * blocks:
        return x.T @ x
    out = x.new_zeros(x.shape[1], x.shape[1])
    edges = [x.shape[1] * i // blocks for i in range(blocks + 1)]
    for start, stop in itertools.pairwise(edges):
        out[:stop, start:stop] = x[:, :stop].T @ x[:, start:stop]
    return out.triu() + out.triu(1).T


@dataclass(frozen=True)
class Kept:
    """Which sums are kept of a layer.

    Attributes
    ----------
    d, k : widths of feature and target.
    positions, types : rows of the position and of the token table.
    controls : whether to keep the sums of the controls too.
    places : whether to keep the sums by position, which `controls` includes.
    both : whether to keep, with the controls, the joint moments of a token's features and of those before it.
    """

    d: int
    k: int
    positions: int
    types: int
    controls: bool
    places: bool = False
    both: bool = False


class LayerMoments:
    """The sums of one layer, in the coordinates (x - shift_x) / scale_x and z - shift_z."""

    def __init__(self, kept: Kept, device: torch.device):
        self.controls, self.device, self.both = kept.controls, device, kept.controls and kept.both
        self.places = kept.controls or kept.places
        d, k, positions, types = kept.d, kept.k, kept.positions, kept.types
        wide = {"n": (), "x": (d,), "z": (k,), "xx": (d, d), "xz": (d, k)}
        if self.controls:
            wide |= {
                "previous_n": (),
                "previous_x": (d,),
                "previous_z": (k,),
                "previous_xx": (d, d),
                "previous_xz": (d, k),
            }
            wide |= {"shuffled_z": (k,), "shuffled_xz": (d, k), "aligned_z": (k,), "aligned_xz": (d, k)}
        if self.places:
            wide |= {
                "x_by_position": (positions, d),
                "z_by_position": (positions, k),
                "per_position": (positions,),
            }
            # summed squared norm of the shifted targets
            wide["square"] = ()
        if self.both:
            wide["both_xx"] = (d, d)
        kinds = ("train", "validation")
        self.sums = {
            f"{s}/{name}": torch.zeros(shape, dtype=torch.float64, device=device)
            for s in kinds
            for name, shape in wide.items()
        }
        if self.controls:
            self.sums["by_token"] = torch.zeros(types + 1, k, dtype=torch.float64, device=device)
            self.sums["per_token"] = torch.zeros(types + 1, dtype=torch.float64, device=device)
        self.pilot: dict[str, Tensor] = {}
        self._carry: Tensor | None = None  # targets of the window before, for the shuffled controls

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on later."""
        carry = {} if self._carry is None else {"carry": self._carry}
        return self.sums | {f"pilot/{k}": v for k, v in self.pilot.items()} | carry

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.sums = {k: state[k].to(self.device) for k in self.sums}
        self.pilot = {
            k.removeprefix("pilot/"): v.to(self.device) for k, v in state.items() if k.startswith("pilot/")
        }
        self._carry = state["carry"].to(self.device) if "carry" in state else None

    def _set_pilot(self, x: Tensor, z: Tensor, keep: Tensor) -> None:
        rows, targets = x[keep].double(), z[keep].double()
        scale = rows.std(0, correction=0)
        scale = torch.where(
            scale > 1e-12 * rows.abs().amax(0).clamp_min(1e-30), scale, torch.ones_like(scale)
        )
        self.pilot = {"shift_x": rows.mean(0), "scale_x": scale, "shift_z": targets.mean(0)}

    def look(self, x: Tensor, z: Tensor, batch: Batch) -> None:
        """Take from a batch only what the next one needs of it: the pilot and the last window."""
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        x, z = x.to(compute), z.to(compute)
        if not self.pilot:
            self._set_pilot(x, z, batch.keep)
        shaped = z.sub(self.pilot["shift_z"].to(compute)).mul_(batch.keep.to(compute).unsqueeze(-1))
        self._carry = shaped[-1].clone()

    def add(self, split: str, x: Tensor, z: Tensor, batch: Batch) -> bool:
        """Add the tokens of a batch; x (batch, position, d), z (batch, position, k). Returns False if one is
        not finite.
        """
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        x, z = x.to(compute), z.to(compute)
        if not self.pilot:
            self._set_pilot(x, z, batch.keep)
        p = {name: value.to(compute) for name, value in self.pilot.items()}
        keep = batch.keep.to(compute)
        features = x.sub(p["shift_x"]).mul_(1 / p["scale_x"]).flatten(0, 1)
        shaped = z.sub(p["shift_z"]).mul_(keep.unsqueeze(-1))
        targets, flat = shaped.flatten(0, 1), keep.flatten()
        by_position = shaped.sum(0)
        total = by_position.sum(0)

        def add(name: str, value: Tensor) -> None:
            self.sums[f"{split}/{name}"].add_(value)

        if self.controls:
            around = self._add_previous(add, features, targets, total, batch)
        features.mul_(flat.unsqueeze(-1))
        xx = gram(features)
        add("n", flat.sum(dtype=torch.float64))
        add("x", features.sum(0))
        add("z", total)
        add("xx", xx)
        add("xz", features.T @ targets)
        if self.controls:
            add("previous_xx", xx + around)
            self._add_shuffled(add, features, targets, flat, batch)
            if split == "train":
                self.sums["by_token"].index_add_(0, batch.slot.flatten(), targets.double())
                self.sums["per_token"].index_add_(0, batch.slot.flatten(), flat.double())
        if self.places:
            width = by_position.shape[0]
            self.sums[f"{split}/x_by_position"][:width].add_(features.view(*x.shape).sum(0))
            self.sums[f"{split}/z_by_position"][:width].add_(by_position)
            self.sums[f"{split}/per_position"][:width].add_(batch.keep.sum(0))
            add("square", torch.linalg.vector_norm(targets) ** 2)
        return bool(torch.isfinite(xx.diagonal().sum() + total.sum()))

    def begin(self) -> None:
        """Start another set of windows: its first window has no window before it."""
        self._carry = None

    def _add_previous(
        self, add: Add, features: Tensor, targets: Tensor, total: Tensor, batch: Batch
    ) -> Tensor:
        """Pair each kept token with the features of the token before it; `features` still holds every
        position.

        Returns by how much the second moments of the features before exceed those of the kept tokens' own,
        (d, d).
        """
        previous = batch.previous.flatten()
        before = torch.zeros_like(previous)
        before[:-1] = previous[1:]
        paired = targets
        if bool((batch.keep != batch.previous).any()):
            paired = targets * previous.unsqueeze(-1)
            total = paired.sum(0)
        add("previous_n", previous.sum(dtype=torch.float64))
        add("previous_x", before.to(features.dtype) @ features)
        add("previous_z", total)
        add("previous_xz", features[:-1].T @ paired[1:])
        if self.both:
            add("both_xx", (features[1:] * previous[1:].unsqueeze(-1)).T @ features[:-1])
        kept = batch.keep.flatten()
        only_before, only_kept = features[before & ~kept], features[kept & ~before]
        return only_before.T @ only_before - only_kept.T @ only_kept

    def _add_shuffled(self, add: Add, features: Tensor, targets: Tensor, flat: Tensor, batch: Batch) -> None:
        """Pair each kept token with a target of the window before it in the (random) order of windows."""
        count, width = batch.ids.shape
        windows = torch.arange(-1, count - 1, device=self.device).clamp_min(0).unsqueeze(1)
        for kind, donor in (("shuffled", batch.donor), ("aligned", batch.aligned)):
            other = targets.index_select(0, (windows * width + donor).flatten())
            if self._carry is not None:
                other[:width] = self._carry.to(other.dtype).index_select(0, donor[0])
            add(f"{kind}_z", flat @ other)
            add(f"{kind}_xz", features.T @ other)
        self._carry = targets[-width:].clone()

    def moments(self, split: str, kind: str) -> Moments:
        """The sums of one regression.

        kind is `current`, `previous`, `shuffled`, `aligned`, `both` (on (x_t, x_(t-1)) side by side), or
        `within`: of what is left of x and z after the training means at their position.
        """
        s = {
            name.removeprefix(f"{split}/"): value
            for name, value in self.sums.items()
            if name.startswith(f"{split}/")
        }
        if kind == "previous":
            return Moments(*(s[f"previous_{name}"] for name in ("n", "x", "z", "xx", "xz")))
        if kind == "both":
            if not torch.equal(s["n"], s["previous_n"]):
                raise ValueError(
                    "the joint moments need a token before every kept token: leave position 0 out"
                )
            xx = torch.cat(
                [torch.cat([s["xx"], s["both_xx"]], 1), torch.cat([s["both_xx"].T, s["previous_xx"]], 1)], 0
            )
            return Moments(
                s["n"],
                torch.cat([s["x"], s["previous_x"]]),
                s["z"],
                xx,
                torch.cat([s["xz"], s["previous_xz"]]),
            )
        if kind in ("shuffled", "aligned"):
            return Moments(s["n"], s["x"], s[f"{kind}_z"], s["xx"], s[f"{kind}_xz"])
        if kind == "within":
            x, z = self.position_means()
            n, by_x, by_z = (s[name] for name in ("per_position", "x_by_position", "z_by_position"))
            weighed = n.unsqueeze(-1) * x
            return Moments(
                s["n"],
                s["x"] - n @ x,
                s["z"] - n @ z,
                s["xx"] - by_x.T @ x - x.T @ by_x + x.T @ weighed,
                s["xz"] - by_x.T @ z - x.T @ by_z + weighed.T @ z,
            )
        return Moments(s["n"], s["x"], s["z"], s["xx"], s["xz"])

    def position_means(self) -> tuple[Tensor, Tensor]:
        """Training means of x (position, d) and z (position, k) at each position; where none was trained on,
        the overall ones.
        """
        count = self.sums["train/per_position"].unsqueeze(-1)
        found = []
        for name in ("x", "z"):
            overall = self.sums[f"train/{name}"] / self.sums["train/n"]
            mean = self.sums[f"train/{name}_by_position"] / count.clamp_min(1)
            found.append(torch.where(count > 0, mean, overall))
        return found[0], found[1]


def require_finite(
    x: Tensor, z: Tensor, batch: Batch, names: tuple[str, ...], layer: int, *, ok: bool
) -> None:
    """Raise UserError naming layer and document when a batch held NaN or infinity."""
    if ok:
        return
    bad = ~(torch.isfinite(x).all(-1) & torch.isfinite(z).all(-1)) & batch.keep
    rows = bad.any(-1).nonzero()
    where = (
        f"in document {names[int(batch.document[rows[0, 0]])]!r}" if len(rows) else "in the sums over a batch"
    )
    raise UserError(
        f"activations of layer {layer} are not finite {where}. If --dtype is float16, use float32 or "
        "bfloat16; otherwise the weights are damaged or the model cannot process this text."
    )
