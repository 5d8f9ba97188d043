"""Replace attention by a prediction while the model runs, and count the operations that were replaced.

    block l:  resid_pre --ln1--> q, k, v --> z --[ z' = prediction where chosen, z elsewhere ]--> W_O --> ...
                  |                                     ^
                  +------ predict(resid_pre) -----------+

attn_out = z W_O + b_O is linear, so replacing the columns of head h in z replaces that head's contribution
and nothing else. Positions before the first scored one stay intact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redundancy.batches import Batch, places
from redundancy.model.capture import Hooks, as_rows
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Sublayer

# x (rows, d_model) and position (rows,) -> z (rows, d_z)
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Site:
    """One attention layer at work: where a choice between attention and prediction is made.

    Attributes
    ----------
    layer : number of the block.
    x, z, predicted : resid_pre, head outputs and their prediction at the scored positions, (batch, position,
        width).
    batch : the windows; `start` is the first scored position.
    """

    layer: int
    x: Tensor
    z: Tensor
    predicted: Tensor
    batch: Batch
    start: int

    @property
    def position(self) -> Tensor:
        """(batch, position) place in the window of every scored position."""
        return places(self.x, self.start)


Choose = Callable[[Site], Tensor]


@dataclass(frozen=True)
class Rule:
    """What replaces attention in one layer, and where.

    Attributes
    ----------
    predict : resid_pre (rows, d_model) and position (rows,) -> z (rows, d_z).
    choose : which (batch, position, head) are replaced; None replaces all.
    heads : which heads are replaced; None means all, else as `choose` says.
    permuted : hand each token the prediction of another token of its window.
    dropped : leave the whole sublayer out: attn_out = 0, its bias included.
    sees : what `predict` is handed in the place of resid_pre, (batch, position, width) from resid_pre of the
        whole windows and the windows; None is resid_pre itself.
    """

    predict: Predict
    choose: Choose | None = None
    heads: tuple[int, ...] | None = None
    permuted: bool = False
    dropped: bool = False
    sees: Callable[[Tensor, Batch], Tensor] | None = None


def hidden_only(predict: Callable[[Tensor], Tensor]) -> Predict:
    """A prediction from the hidden state alone, whatever the position."""
    return lambda x, position: predict(x)


def zero(x: Tensor, position: Tensor) -> Tensor:
    """Stands in for a prediction that is not used."""
    raise AssertionError("a dropped layer predicts nothing")


class Substitution(Hooks):
    """Hooks that apply rules, for the time of a `with` block.

    Rules that choose or permute have to know the windows: `read` names them before the model runs on them.

    Attributes
    ----------
    first : the lowest layer with a rule.
    blind : the layers whose attention is not looked at, see `prefix`.
    skipped : (batch,) replaced (token, head) operations at kept tokens, summed over layers, of the last run.
    """

    def __init__(self, decoder: Decoder, rules: Mapping[int, Rule], start: int):
        super().__init__()
        self.decoder, self.rules, self.start = decoder, rules, start
        self.first = min(rules, default=0)
        self.blind: frozenset[Sublayer] = frozenset(
            (n, "attention")
            for n, rule in rules.items()
            if rule.choose is None and (rule.heads is None or len(set(rule.heads)) == decoder.n_heads)
        )
        self.batch: Batch | None = None
        self.skipped = torch.zeros(0)

    def __enter__(self) -> "Substitution":
        for layer, rule in self.rules.items():
            block, projection = self.decoder.layers[layer], self.decoder.projection(layer)
            self._hooks.append(block.register_forward_pre_hook(self._keep, with_kwargs=True))
            if rule.dropped:
                self._hooks.append(projection.register_forward_hook(self._drop()))
            else:
                self._hooks.append(projection.register_forward_pre_hook(self._replace(layer, rule)))
        return self

    def read(self, batch: Batch) -> None:
        """Name the windows that the model is run on next."""
        self.batch, self.skipped = batch, torch.zeros(len(batch.ids), dtype=torch.float64)

    def _count(self, chosen: Tensor) -> None:
        if self.batch is not None:
            kept = self.batch.keep[:, self.start :].to(chosen.device)
            self.skipped += (chosen.sum(-1) * kept).sum(-1).double().cpu()

    def _replace(self, layer: int, rule: Rule) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            assert self._x is not None
            z, start, heads = args[0], self.start, self.decoder.n_heads
            x, truth = self._x[:, start:].to(z.device), z[:, start:]
            seen = x
            if rule.sees is not None:
                assert self.batch is not None
                seen = rule.sees(self._x, self.batch)[:, start:].to(z.device)
            # half-precision models: the probe stays float32
            rows = as_rows(seen)
            predicted = rule.predict(rows, places(truth, start).flatten()).to(z.dtype).view_as(truth)
            if rule.permuted:
                assert self.batch is not None
                order = _permutation(self.batch)[:, start:].to(z.device) - start
                predicted = predicted.gather(1, order.unsqueeze(-1).expand_as(predicted))
            chosen = torch.ones(*truth.shape[:2], heads, dtype=torch.bool, device=z.device)
            if rule.choose is not None:
                assert self.batch is not None
                chosen = rule.choose(Site(layer, x, truth, predicted, self.batch, start))
            if rule.heads is not None:
                chosen = chosen & torch.isin(torch.arange(heads), torch.tensor(rule.heads)).to(z.device)
            self._count(chosen)
            mixed = torch.where(chosen.repeat_interleave(self.decoder.d_head, -1), predicted, truth)
            return (torch.cat([z[:, :start], mixed], 1),)

        return hook

    def _drop(self) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            size = (*output.shape[:2], self.decoder.n_heads)
            self._count(torch.ones(size, dtype=torch.bool, device=output.device)[:, self.start :])
            return torch.cat([output[:, : self.start], torch.zeros_like(output[:, self.start :])], 1)

        return hook


def _permutation(batch: Batch) -> Tensor:
    """A random order of the kept positions of each window, others in place: (batch, position).

    A function of the window alone (its donors are drawn from its number), so the batch size changes no
    number.
    """
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    out = positions.repeat(len(batch.ids), 1)
    for row, keep in enumerate(batch.keep):
        kept = positions[keep]
        out[row, kept] = kept[torch.argsort(batch.donor[row, kept], stable=True)]
    return out
