"""How local is attention? Ridge on the hidden states of a token and of the k tokens before it.

    x_t   x_(t-1)   ...   x_(t-k)   position   -->   z_t

All of the same layer. One pass keeps the second moments of the widest stack, and every smaller k is a corner
of them. A token that does not exist (at the start of a window) has a feature of its mean, 0 in the
coordinates of the moments; the intercept of each position knows where that is so.

k = 0 is `with_position`. With k > 0 this is no replacement that sees a token alone: stacked over L layers it
sees k L tokens before, so the floor of position-wise replacements does not hold for it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from labbook import processes
from labbook.console import warn
from redundancy.batches import Batch
from redundancy.model.decoder import Decoder
from redundancy.passes import Pass, Reader, Saved, Task, each_batch
from redundancy.regression.controls import PositionAffine, fit_with_position
from redundancy.regression.moments import Kept, LayerMoments, require_finite

# tokens before the current one
PAST = (1, 2, 4, 8)
# elements of the second moments of all layers, float64: 2 GiB
LARGEST = 2**28


def with_past(x: Tensor, past: int, means: Tensor) -> Tensor:
    """x_t, x_(t-1), ..., x_(t-past) side by side: (batch, position, (past + 1) d) from x (batch, position,
    d); before the window stand `means` (d,).
    """
    parts = [x]
    for _ in range(past):
        first = means.to(x).expand(len(x), 1, -1)
        parts.append(torch.cat([first, parts[-1][:, :-1]], 1))
    return torch.cat(parts, -1)


def affordable(decoder: Decoder, layers: int) -> tuple[int, ...]:
    """Those of PAST whose second moments fit into memory; a warning says which do not."""
    fit = tuple(k for k in PAST if layers * ((k + 1) * decoder.d_model) ** 2 <= LARGEST)
    if len(fit) < len(PAST):
        warn(
            f"the {', '.join(str(k) for k in PAST if k not in fit)} tokens before are left out: the moments "
            f"of {layers} layers of width {decoder.d_model} would not fit into 2 GiB. Ask for fewer --layers."
        )
    return fit


def fit_past(
    decoder: Decoder, task: Task, state: Path | None, moments: dict[int, LayerMoments]
) -> dict[int, dict[int, PositionAffine]]:
    """The maps by number of tokens before, then by layer; `moments` of one token give the coordinates.

    Raises UserError where activations are not finite, and Interrupted when asked to stop; the sums so far are
    then saved in `state`.
    """
    numbers = affordable(decoder, len(task.layers))
    if not numbers:
        return {}
    widest = numbers[-1]
    sums = _collect(decoder, task, state, widest, moments)
    found: dict[int, dict[int, PositionAffine]] = {}
    for k in numbers:
        for n, wide in sums.items():
            weight = decoder.output_map(n)[0].double()
            corner = narrowed(wide, (k + 1) * decoder.d_model)
            found.setdefault(k, {})[n] = fit_with_position(corner, weight @ weight.T, task.ridge)[0]
    return found


def seen(past: int, means: Tensor) -> Callable[[Tensor, Batch], Tensor]:
    """What such a map is handed, see `substitution.Rule`."""
    return lambda x, batch: with_past(x, past, means)


def narrowed(moments: LayerMoments, width: int) -> LayerMoments:
    """The moments of the first `width` features alone."""
    sums = moments.sums
    kept = Kept(
        d=width,
        k=sums["train/z"].shape[0],
        positions=sums["train/per_position"].shape[0],
        types=0,
        controls=False,
        places=True,
    )
    corner = LayerMoments(kept, moments.device)
    for name, value in sums.items():
        match name.partition("/")[2]:
            case "x" | "xz":
                corner.sums[name] = value[:width]
            case "xx":
                corner.sums[name] = value[:width, :width]
            case "x_by_position":
                corner.sums[name] = value[:, :width]
            case _:
                corner.sums[name] = value
    corner.pilot = {n: v[:width] if n.endswith("_x") else v for n, v in moments.pilot.items()}
    return corner


def _collect(
    decoder: Decoder, task: Task, state: Path | None, past: int, moments: dict[int, LayerMoments]
) -> dict[int, LayerMoments]:
    """The moments of the widest stack over training and validation documents, of all processes together."""
    kept = Kept(
        d=(past + 1) * decoder.d_model,
        k=decoder.d_z,
        positions=max(w.ids.shape[1] for w in task.windows.values()),
        types=0,
        controls=False,
        places=True,
    )
    layers = {n: LayerMoments(kept, decoder.layer_device(n)) for n in task.layers}
    for n, wide in layers.items():
        # the coordinates of the first pass, so that those of all processes are the same
        pilot = moments[n].pilot
        wide.pilot = {name: v.repeat(past + 1) if name.endswith("_x") else v for name, v in pilot.items()}
    saved = Saved(state)
    stored, done = saved.load(task.counts)
    for n, tensors in stored.items():
        layers[n].restore(tensors)

    def add(split: str, layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        wide = with_past(x, past, moments[layer].pilot["shift_x"])
        ok = layers[layer].add(split, wide, z, batch)
        require_finite(x, z, batch, task.windows[split].names, layer, ok=ok)

    def save(split: str, count: int) -> None:
        done[split] = count
        saved.save({n: m.state() for n, m in layers.items()}, done)

    for split in ("train", "validation"):
        label = f"tokens before: moments, {split}"
        reading = Pass(split, label, done.get(split, 0), saved, partial(save, split))
        with Reader(decoder, task, partial(add, split)) as read:
            each_batch(task, reading, decoder.device, read)
    for wide in layers.values():
        processes.add_up(wide.sums.values())
    return layers
