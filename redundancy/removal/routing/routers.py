"""Routers: what says, before attention is computed, which operations need it least.

A router scores every (token, head) from resid_pre and position; the lowest scores go first, and a share is
made of scores by a quantile over the validation documents, over all layers, heads and scored tokens of the
intact model.

    hidden_fisher    ridge of the logarithm of the change of the loss (see `need`) on resid_pre alone
    network_fisher   a small network for the same, resid_pre and position
    trained ...      see `trained`
    past_fisher      ridge like predicted_fisher, on resid_pre and position of the one token, of the change
                     by another error: that of the maps that see the tokens before (`replacements.previous`)
                     and stand for attention in this order

The network is predicted_fisher with a network of hidden width d_model beside it (`regression.network`). What
it should tell is the mean of the need y = (g . e)^2 and not that of its logarithm, so it minimises
y exp(-f) + f, of which f = log E[y] is the minimum (the likelihood of an exponential distribution, which is
consistent for the mean whatever the distribution is: Gourieroux, Monfort & Trognon 1984, Econometrica 52,
681-700). Labels are drawn afresh in every epoch. The weights are kept that are best on the validation
documents, the start among them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from labbook.console import progress
from labbook.estimate import Array
from redundancy.batches import Batch, places
from redundancy.model.capture import as_rows
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Choose, Rule, Site
from redundancy.passes import Reader, Targets, Task, Visit, collect
from redundancy.regression.controls import PositionAffine, fit_with_position
from redundancy.regression.moments import LayerMoments
from redundancy.regression.network import Correction, PositionNetwork
from redundancy.removal.gradients import GradientReader, change_by_head, drawn
from redundancy.removal.need import CALIBRATION_TOKENS, NEEDS, SMALLEST_CHANGE, Needs, first_windows
from redundancy.removal.replacements.rivals import read_split

EPOCHS, RATE, MINIBATCH = 3, 1e-3, 1024


@dataclass(frozen=True)
class Router:
    """Scores by layer, (row, head) from resid_pre (row, d_model) and position (row,), and what they are on
    the validation documents: (operation,).
    """

    scores: Mapping[int, PositionNetwork]
    calibrated: Array

    def choose(self, share: float) -> Choose:
        """Choose the operations with the lowest scores, about `share` of all."""
        limit = float("inf") if share >= 1 else float(np.quantile(self.calibrated, share))

        def choose(site: Site) -> Tensor:
            x = site.x.flatten(0, 1)
            found = self.scores[site.layer](x.float(), site.position.flatten())
            return (found <= limit).unflatten(0, site.x.shape[:2])

        return choose


def _columns(need: str, n_heads: int) -> slice:
    """Where the heads of one need stand among those of all."""
    return slice(NEEDS.index(need) * n_heads, (NEEDS.index(need) + 1) * n_heads)


def of_need(predictor: PositionAffine, need: str) -> PositionAffine:
    """The columns of one need of a map to all of them."""
    own = _columns(need, predictor.weight.shape[1] // len(NEEDS))
    return PositionAffine(predictor.weight[:, own], predictor.bias[:, own], predictor.shift)


def without_position(needs: Needs, n_heads: int) -> dict[int, PositionNetwork]:
    """The scores of `hidden_fisher`: one intercept for all positions."""
    own, found = _columns("fisher", n_heads), {}
    for n, hidden in needs.hidden.items():
        bias = hidden.bias[own].expand(len(needs.predictors[n].bias), -1)
        found[n] = PositionNetwork(PositionAffine(hidden.weight[:, own], bias, hidden.shift))
    return found


def predict_need(
    decoder: Decoder, task: Task, rules: Mapping[int, Rule], state: Path | None, label: str
) -> dict[int, PositionNetwork]:
    """Ridge on resid_pre and position of the log of (g . e)^2, the squared first-order change of the loss by
    the error e of each head under `rules`, as `need` has it for the maps of all other orders; by layer.

    One backward pass over training and validation documents. Raises Interrupted when asked to stop; `state`
    keeps the sums.
    """
    current: list[GradientReader] = []
    windows: list[Batch] = []

    def read(decoder: Decoder, task: Task, visit: Visit) -> GradientReader:
        def remember(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
            windows[:] = [batch]
            visit(layer, x, z, batch)

        current[:] = [GradientReader(decoder, task, remember)]
        return current[0]

    def logs(layer: int, x: Tensor, z: Tensor) -> Tensor:
        rule = rules[layer]
        seen = as_rows(x if rule.sees is None else rule.sees(x, windows[0]))
        error = rule.predict(seen, places(x).flatten()) - z.flatten(0, 1).float()
        change = change_by_head(current[0].gradient[layer].flatten(0, 1), error, decoder.n_heads)
        return change.square().clamp_min(SMALLEST_CHANGE).log().unflatten(0, x.shape[:2])

    targets = Targets(logs, decoder.n_heads, read)
    moments = collect(decoder, task, state, label, controls=False, targets=targets)
    found = {}
    for n, sums in moments.items():
        identity = torch.eye(decoder.n_heads, dtype=torch.float64, device=sums.device)
        found[n] = PositionNetwork(fit_with_position(sums, identity, None)[0])
    return found


def calibrate(
    decoder: Decoder, task: Task, routers: Mapping[str, Mapping[int, PositionNetwork]]
) -> dict[str, Router]:
    """Routers of scores. Every process reads the same windows, so all have the same thresholds."""
    few = first_windows(task, "validation", CALIBRATION_TOKENS)
    found: dict[str, list[Tensor]] = {name: [] for name in routers}

    @torch.no_grad()
    def gather(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        position = places(x)[batch.keep]
        rows = x[batch.keep].float()
        for name, scores in routers.items():
            found[name].append(scores[layer](rows, position).flatten().double().cpu())

    with Reader(decoder, few, gather) as read:
        for batch in few.batches("validation", decoder.device):
            read(batch)
    return {name: Router(scores, torch.cat(found[name]).numpy()) for name, scores in routers.items()}


class Network(Correction):
    """The `network_fisher` of this module's text for one layer."""

    def __init__(self, start: PositionAffine, pilot: Mapping[str, Tensor]):
        super().__init__(start.weight, len(start.weight), pilot)
        self.start = start

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Logarithm of the mean need (rows, heads) from x (rows, d_model) and position (rows,)."""
        x = x.float()
        return self.start(x, position) + self.correction(x)

    def fixed(self) -> PositionNetwork:
        """The scores without what trains them."""
        return PositionNetwork(self.start, {name: t.detach() for name, t in self.network().items()})

    def loss(self, x: Tensor, position: Tensor, need: Tensor) -> Tensor:
        """Mean of y exp(-f) + f over rows and heads; `need` is y."""
        f = self(x, position)
        return (need.clamp_min(SMALLEST_CHANGE).log() - f).exp().add(f).mean()


def train_networks(
    decoder: Decoder,
    task: Task,
    needs: Needs,
    maps: Mapping[int, PositionAffine],
    moments: Mapping[int, LayerMoments],
) -> dict[int, Network]:
    """One `Network` per layer, where `maps` stand for attention.

    Every process reads all of the text here, so that all of them hold the same weights. Raises `Interrupted`
    when asked to stop; what was trained is then lost.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        models = {n: Network(of_need(p, "fisher"), moments[n].pilot) for n, p in needs.predictors.items()}
    for model in models.values():
        model.requires_grad_(True)
    optimisers = {n: torch.optim.Adam(m.parameters(), lr=RATE) for n, m in models.items()}
    best = {n: (torch.inf, copy.deepcopy(m.state_dict())) for n, m in models.items()}
    sums = {n: torch.zeros(2, dtype=torch.float64) for n in models}
    reader: list[GradientReader] = []

    def needed(layer: int, x: Tensor, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        rows, truth = x[batch.keep].float(), z[batch.keep].float()
        position = places(x)[batch.keep]
        slope, error = reader[0].gradient[layer][batch.keep], maps[layer](rows, position) - truth
        return rows, position, change_by_head(slope, error, decoder.n_heads).square()

    def step(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        rows = needed(layer, x, z, batch)
        for part in torch.arange(len(rows[0])).split(MINIBATCH):
            optimisers[layer].zero_grad()
            models[layer].loss(*(t[part] for t in rows)).backward()
            # needs have long tails: one token must not decide a step
            nn.utils.clip_grad_norm_(models[layer].parameters(), 1.0)
            optimisers[layer].step()

    @torch.no_grad()
    def check(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        rows = needed(layer, x, z, batch)
        n = torch.tensor(len(rows[0]), dtype=torch.float64)
        sums[layer] += torch.stack([models[layer].loss(*rows).double().cpu() * n, n])

    with progress("router networks, epochs", EPOCHS) as advance:
        for epoch in range(EPOCHS + 1):
            now = task.shuffled("train", task.seed + epoch)
            # first: the error of the start itself
            for split, visit in (("train", step), ("validation", check))[epoch == 0 :]:
                draw = epoch if split == "train" else 0
                with GradientReader(decoder, now, visit, [drawn(task.seed, draw)]) as read:
                    reader[:] = [read]
                    read_split(now, split, decoder, read)
            for n, model in models.items():
                error = float(sums[n][0] / sums[n][1])
                sums[n].zero_()
                if error < best[n][0]:
                    best[n] = (error, copy.deepcopy(model.state_dict()))
            advance(int(epoch > 0))
    for n, model in models.items():
        model.load_state_dict(best[n][1])
        model.requires_grad_(False)
    return models
