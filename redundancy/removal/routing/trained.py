"""Routers trained through the loss with the replacement in place, and the replacement with them.

    z'_th = a_th z_th + (1 - a_th) z_hat_th,    a_th = 1 where the score s_th exceeds the threshold, else 0

The decision is hard on the way forward, and on the way back its slope is that of sigmoid(s - threshold)
(straight through, Bengio, Leonard & Courville 2013, arXiv:1308.3432), as SkipGPT trains its routers for
whole sublayers (arXiv:2506.04179). What is minimised is KL(intact || replaced) on the training documents with
the rest of the network frozen. Where SkipGPT holds a target share by a penalty, the threshold here is the
quantile of the scores of the batch before, so the share is met without a weight to tune; it is drawn anew for
every batch from SHARES, so that one router orders the operations for the whole curve.

    trained_router      the scores learn, starting from those of predicted_fisher
    trained_together    scores and maps learn, the maps starting from with_position

Both are judged on the validation documents at the shares JUDGED, and the start competes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from redundancy.batches import Batch, places
from redundancy.evaluation import next_token_log_p, one_kernel
from redundancy.model.capture import entering
from redundancy.model.decoder import Decoder
from redundancy.passes import Task
from redundancy.regression.controls import PositionAffine
from redundancy.removal.need import CALIBRATION_TOKENS, first_windows
from redundancy.removal.replacements.descent import (
    Descent,
    Intact,
    descend,
    divergence,
    relative_rates,
)
from redundancy.removal.replacements.inplace import ScaledMap

SHARES, JUDGED = (0.1, 0.6), (0.2, 0.4)
HOW = Descent(epochs=2, rate=0.02, label="trained router, epochs")
# keeps the draws of shares apart from others of the same seed
STREAM = 12


@dataclass(frozen=True)
class TrainedRouter:
    """Scores and maps by layer, and the KL in nats per token, mean over JUDGED, before and after training."""

    scores: dict[int, PositionAffine]
    maps: dict[int, PositionAffine]
    before: float
    after: float


class _Gates:
    """Hooks that let attention through where scores ask for it, for the time of a `with` block.

    Attributes
    ----------
    threshold : of the scores.
    seen : scores of the last run, (rows,) of each layer.
    """

    def __init__(
        self, decoder: Decoder, scores: Mapping[int, ScaledMap], maps: Mapping[int, ScaledMap], start: int
    ):
        self.decoder, self.scores, self.maps, self.start = decoder, scores, maps, start
        self.threshold = 0.0
        self.seen: dict[int, Tensor] = {}
        self._x: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "_Gates":
        for n in self.scores:
            block, projection = self.decoder.layers[n], self.decoder.projection(n)
            self._hooks.append(block.register_forward_pre_hook(self._keep(n), with_kwargs=True))
            self._hooks.append(projection.register_forward_pre_hook(self._mix(n)))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._x = [], {}

    def quantile(self, share: float) -> float:
        """The threshold that would have replaced `share` of the operations of the last run."""
        return float(torch.quantile(torch.cat(list(self.seen.values()))[:: self._step()], share))

    def _step(self) -> int:
        """Every how many-th score is enough: torch sorts at most 16 M values, and needs far fewer."""
        return max(1, sum(len(s) for s in self.seen.values()) // 2**20)

    def _keep(self, n: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._x[n] = entering(args, kwargs)

        return hook

    def _mix(self, n: int) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            z, start = args[0], self.start
            x, truth = self._x[n][:, start:].flatten(0, 1), z[:, start:].flatten(0, 1)
            position = places(z[:, start:], start).flatten()
            score = self.scores[n](x, position)
            self.seen[n] = score.detach().flatten()
            soft = torch.sigmoid(score - self.threshold)
            gate = (score > self.threshold).to(soft) + soft - soft.detach()
            wide = gate.repeat_interleave(self.decoder.d_head, -1)
            predicted = self.maps[n](x, position)
            mixed = (predicted + wide * (truth - predicted)).to(z.dtype)
            return (torch.cat([z[:, :start], mixed.view_as(z[:, start:])], 1),)

        return hook


def train_router(
    decoder: Decoder,
    task: Task,
    scores: Mapping[int, PositionAffine],
    maps: Mapping[int, PositionAffine],
    scale: Mapping[int, Tensor],
    *,
    together: bool,
) -> TrainedRouter:
    """Train the scores, and with `together` the maps too.

    Parameters
    ----------
    scores, maps : by layer, what is begun with.
    scale : (d_model,) spread of the hidden state by layer.

    Raises `Interrupted` when asked to stop, see `descent.descend`.
    """
    router = {n: ScaledMap(scores[n], scale[n]) for n in task.layers}
    replacing = {n: ScaledMap(maps[n], scale[n]) for n in task.layers}
    learnt = nn.ModuleDict({f"score_{n}": m for n, m in router.items()})
    if together:
        learnt.update({f"map_{n}": m for n, m in replacing.items()})
    else:
        for m in replacing.values():
            m.requires_grad_(False)
    gates = _Gates(decoder, router, replacing, task.start_position)
    few = first_windows(task, "validation", CALIBRATION_TOKENS)
    draws = np.random.default_rng([task.seed, STREAM])
    intact = Intact(decoder, task.start_position)

    def objective(batch: Batch) -> tuple[Tensor, Tensor]:
        goal = intact.log_p(batch)
        gates.threshold = gates.quantile(float(draws.uniform(*SHARES)))
        with gates:
            return divergence(goal, next_token_log_p(decoder, batch.ids), batch)

    @torch.no_grad()
    def judge() -> float:
        totals = torch.zeros(2, dtype=torch.float64)
        for share in JUDGED:
            for number, batch in enumerate(few.batches("validation", decoder.device)):
                goal = intact.log_p(batch)
                with gates:
                    if number == 0:  # what its scores are where everything runs
                        gates.threshold = -torch.inf
                        next_token_log_p(decoder, batch.ids)
                    gates.threshold = gates.quantile(share)
                    total, tokens = divergence(goal, next_token_log_p(decoder, batch.ids), batch)
                totals += torch.stack([total, tokens]).double().cpu()
        return float(totals[0] / totals[1])

    rates = relative_rates(learnt.parameters(), HOW.rate)
    with one_kernel(decoder):
        before, after = descend(learnt, rates, objective, judge, decoder, task, HOW)
    return TrainedRouter(
        {n: m.affine() for n, m in router.items()},
        {n: m.affine() for n, m in replacing.items()},
        before,
        after,
    )
