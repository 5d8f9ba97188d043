"""Leave attention out for real, and count the floating-point operations and the seconds that this saves.

    layers       whole attention modules are replaced by one map of resid_pre and position to attn_out (the
                 probe with position and W_O folded together)
    operations   queries, keys and values are computed as ever, scores and weighted sums only for the (token,
                 head) that the predicted need asks for; the probe fills the rest. Keys and values of a
                 skipped token are still needed by later tokens, so this is what skipping single operations
                 can save at most without touching the projections

Operations are those that torch counts: both sides of every ratio use matrix products that its counter sees
(attention as explicit products, full width).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

from labbook.console import progress, warn
from redundancy.aggregate import TableRow
from redundancy.batches import places
from redundancy.model.capture import activations, entering
from redundancy.model.decoder import Decoder
from redundancy.passes import Task
from redundancy.regression.controls import PositionAffine
from redundancy.removal.need import NEEDS, Needs

ROUNDS = 7
WINDOWS = 4
INTERFACE = "redundancy_skipping"
COST = (
    "kind",
    "replaced",
    "share",
    "flops_ratio",
    "seconds_ratio",
    "lower_quartile",
    "upper_quartile",
    "n",
)


class _Folded(nn.Module):
    """Stands for an attention module: returns x A + c[position] in the form in which the original returns its
    output.
    """

    def __init__(self, weight: Tensor, bias: Tensor, length: int):
        super().__init__()
        self.weight, self.bias, self.length = weight, bias, length
        self.x: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.x is not None
        output = self.x @ self.weight + self.bias[: self.x.shape[1]]
        return output if self.length == 0 else (output, *[None] * (self.length - 1))


@contextmanager
def replaced_layers(decoder: Decoder, probe: Mapping[int, PositionAffine]) -> Iterator[None]:
    """Replace the attention of every layer in `probe` at all positions; the original modules come back at the
    end.
    """
    originals, hooks, length = {}, [], _output_length(decoder)
    for n, affine in probe.items():
        weight, bias = (t.double() for t in decoder.output_map(n))
        folded = affine.weight.double() @ weight
        constant = (affine.bias.double() - affine.shift.double() @ affine.weight.double()) @ weight + bias
        stand_in = _Folded(folded.to(decoder.dtype), constant.to(decoder.dtype), length)

        def enter(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], stand_in: _Folded = stand_in
        ) -> None:
            stand_in.x = entering(args, kwargs)

        hooks.append(decoder.layers[n].register_forward_pre_hook(enter, with_kwargs=True))
        originals[n] = decoder.attention(n)
        setattr(decoder.layers[n], decoder.attention_name, stand_in)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for n, module in originals.items():
            setattr(decoder.layers[n], decoder.attention_name, module)


@torch.inference_mode()
def _output_length(decoder: Decoder) -> int:
    """Number of things that an attention module returns as a tuple; 0 when it returns the tensor itself."""
    found: list[int] = []
    hook = decoder.attention(0).register_forward_hook(
        lambda module, args, output: found.append(len(output) if isinstance(output, tuple) else 0)
    )
    try:
        decoder.backbone(
            input_ids=torch.zeros(1, 8, dtype=torch.long, device=decoder.device), use_cache=False
        )
    finally:
        hook.remove()
    return found[0]


class Skipping:
    """Attention computed only where it is wanted, for the time of a `with` block.

    Parameters
    ----------
    wanted : layer -> function of resid_pre (batch, position, d_model) giving the (batch, position, head) to
        compute; all of them in layers that are not named.
    probe : layer -> the map that fills the others.
    """

    def __init__(
        self,
        decoder: Decoder,
        wanted: Mapping[int, Callable[[Tensor], Tensor]],
        probe: Mapping[int, PositionAffine],
    ):
        self.decoder, self.wanted, self.probe = decoder, wanted, probe
        self.layer_of = {id(m): n for n in range(len(decoder.layers)) for m in decoder.attention(n).modules()}
        self.x: dict[int, Tensor] = {}
        self.chosen: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Skipping":
        self.before = self.decoder.model.config._attn_implementation
        AttentionInterface.register(INTERFACE, self._attend)
        self.decoder.model.set_attn_implementation(INTERFACE)
        for n in self.wanted:
            self._hooks.append(
                self.decoder.layers[n].register_forward_pre_hook(self._choose(n), with_kwargs=True)
            )
            self._hooks.append(self.decoder.projection(n).register_forward_pre_hook(self._fill(n)))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.decoder.model.set_attn_implementation(self.before)

    def _choose(self, n: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.x[n] = entering(args, kwargs)
            self.chosen[n] = self.wanted[n](self.x[n])

        return hook

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Scores and weighted sums of the wanted queries: query (batch, head, position, d), out (batch,
        position, head, d).
        """
        chosen = self.chosen.get(self.layer_of[id(module)])
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = query.shape[1] // key.shape[1]
        out = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        places = torch.arange(query.shape[2], device=query.device)
        for b in range(query.shape[0]):
            for h in range(query.shape[1]):
                rows = places if chosen is None else chosen[b, :, h].nonzero().squeeze(-1)
                if len(rows):
                    scores = query[b, h, rows] @ key[b, h // groups].T * scale
                    scores = scores.masked_fill(places > rows.unsqueeze(-1), -torch.inf)
                    out[b, rows, h] = scores.softmax(-1) @ value[b, h // groups]
        return out, None

    def _fill(self, n: int) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            z, probe, width = args[0].clone(), self.probe[n], self.decoder.d_head
            x = self.x[n] - probe.shift.to(self.x[n])
            position = places(x)
            for h in range(self.decoder.n_heads):
                rest, columns = ~self.chosen[n][..., h], slice(h * width, (h + 1) * width)
                if bool(rest.any()):
                    bias = probe.bias[:, columns].to(x)[position[rest]]
                    z[..., columns][rest] = x[rest] @ probe.weight[:, columns].to(x) + bias
            return (z,)

        return hook


def measure_cost(
    decoder: Decoder, task: Task, probe: Mapping[int, PositionAffine], needs: Needs, shares: tuple[float, ...]
) -> pd.DataFrame:
    """Ratios of operations and of seconds against the intact model, on WINDOWS held-out windows.

    Returns COST: kind (`layers` or `operations`), how many layers or None, realised share of attention
    operations replaced, the two ratios (seconds: median over paired rounds with quartiles), and the number of
    rounds. Empty, with a warning, for a model whose attention is not softmax(q k' scale) v over the past or
    does more than return its output.
    """
    batch = next(task.batches("evaluation", decoder.device, 0, WINDOWS))
    if not shares or not _runs_in_parts(decoder, batch.ids, task.layers[0], probe):
        return pd.DataFrame(columns=list(COST))
    kind, rows = NEEDS.index("displacement"), []
    counts = sorted({round(share * len(task.layers)) for share in shares} - {0})
    ranked = sorted(task.layers, key=lambda n: -needs.cosine[n])
    with progress("cost of what is left", len(counts) + len(shares)) as advance:
        dense = _flops(decoder, batch.ids, Skipping(decoder, {}, probe))
        for count in counts:
            some = {n: probe[n] for n in ranked[:count]}
            with replaced_layers(decoder, some):
                flops = _flops(decoder, batch.ids, Skipping(decoder, {}, probe))
            seconds = _seconds(decoder, batch.ids, partial(replaced_layers, decoder, some))
            share = count / len(task.layers)
            rows.append(
                {"kind": "layers", "replaced": count, "share": share, "flops_ratio": flops / dense, **seconds}
            )
            advance()
        for share in shares:
            limit = needs.threshold(kind, share, known=False)
            wanted = {n: _wanted(needs, n, kind, limit, task.start_position) for n in task.layers}
            skipping = Skipping(decoder, wanted, probe)
            flops = _flops(decoder, batch.ids, skipping)
            left = torch.stack([skipping.chosen[n][batch.keep].double().mean() for n in task.layers]).mean()
            seconds = _seconds(decoder, batch.ids, partial(Skipping, decoder, wanted, probe))
            rows.append(
                {"kind": "operations", "share": 1 - float(left), "flops_ratio": flops / dense, **seconds}
            )
            advance()
    return pd.DataFrame(rows, columns=list(COST))


def _runs_in_parts(decoder: Decoder, ids: Tensor, layer: int, probe: Mapping[int, PositionAffine]) -> bool:
    """Whether attention computed by `Skipping`, with nothing skipped, is that of the model; a warning says
    why not.
    """
    try:
        with Skipping(decoder, {}, probe):
            plain = _logits(decoder, ids)
        reference = _logits(decoder, ids)
        captured = activations(decoder, ids[:1], layer)
        weight, bias = decoder.output_map(layer)
        rebuilt = captured["z"] @ weight + bias
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        warn(
            "the cost of skipping was not measured: this attention cannot be run in parts "
            f"({type(error).__name__}: {error})."
        )
        return False
    scale = 1e-2 * float(reference.abs().max())
    differences = (plain - reference, rebuilt - captured["attn_out"])
    if any(float(difference.abs().max()) > scale for difference in differences):
        warn(
            "the cost of skipping was not measured: attention here is more than softmax(q k') v over the "
            "past."
        )
        return False
    return True


def _wanted(needs: Needs, layer: int, kind: int, limit: float, start: int) -> Callable[[Tensor], Tensor]:
    """The (batch, position, head) of a layer whose predicted need exceeds `limit`, and every position before
    `start`.
    """
    predictor = needs.predictors[layer]
    n_heads = predictor.weight.shape[1] // len(NEEDS)
    columns = slice(kind * n_heads, (kind + 1) * n_heads)
    predict = PositionAffine(predictor.weight[:, columns], predictor.bias[:, columns], predictor.shift)

    def wanted(x: Tensor) -> Tensor:
        position = places(x).flatten()
        chosen = predict(x.flatten(0, 1), position).view(*x.shape[:2], n_heads) > limit
        chosen[:, :start] = True
        return chosen

    return wanted


@torch.inference_mode()
def _logits(decoder: Decoder, ids: Tensor) -> Tensor:
    logits: Tensor = decoder.model(input_ids=ids, use_cache=False).logits.float()
    return logits


def _flops(decoder: Decoder, ids: Tensor, way: AbstractContextManager[Any]) -> int:
    """Floating-point operations of one forward pass under `way`, by torch's counter."""
    with way, FlopCounterMode(display=False) as counter:
        _logits(decoder, ids)
    return counter.get_total_flops()


def _seconds(decoder: Decoder, ids: Tensor, way: Callable[[], AbstractContextManager[Any]]) -> TableRow:
    """Seconds under `way` against the intact model with its own kernels, paired rounds in turn."""

    def once(context: AbstractContextManager[Any]) -> float:
        with context:
            began = time.perf_counter()
            _logits(decoder, ids).sum().item()  # item() waits for the device
            return time.perf_counter() - began

    once(way())
    ratios = [once(way()) / once(nullcontext()) for _ in range(ROUNDS)]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"seconds_ratio": middle, "lower_quartile": low, "upper_quartile": high, "n": ROUNDS}
