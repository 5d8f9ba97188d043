"""What else predicts attention from the hidden state: fewer numbers (ridge of low rank) or more shape (a
small network).

rank_r   the probe restricted to rank r in the layer output (`RidgePath.solve_rank`)
mlp      the probe with a network of hidden width 2 d_model beside it (`regression.network`); Adam on
         |(z - prediction) W_O|^2 over the training documents, the weights kept that had the smallest error on
         the validation documents, stopped after PATIENCE epochs without a smaller one
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from labbook.console import Interrupted, progress, stopping
from redundancy.batches import Batch
from redundancy.evaluation import one_kernel
from redundancy.model.decoder import Decoder
from redundancy.passes import Reader, Task
from redundancy.regression.controls import Fitted, affine
from redundancy.regression.moments import LayerMoments
from redundancy.regression.network import Correction
from redundancy.regression.ridge import Affine, RidgePath

RANKS = (1, 4, 16, 64)
EPOCHS, PATIENCE, MINIBATCH, RATE = 20, 2, 512, 1e-3


def low_rank(sums: LayerMoments, alpha: float, output: Tensor) -> dict[str, Affine]:
    """The probe at every rank of RANKS below full; `output` is W_O (d_z, d_model)."""
    path = RidgePath(sums.moments("train", "current"))
    full = min(len(path.spectrum), *output.shape)
    return {f"rank_{r}": affine(path.solve_rank(alpha, output, r), sums.pilot) for r in RANKS if r < full}


class Mlp(Correction):
    """The `mlp` of this module's text for one layer; it starts as the probe."""

    def __init__(self, probe: Affine, pilot: Mapping[str, Tensor], output: Tensor):
        super().__init__(probe.weight, 2 * len(probe.weight), pilot)
        self.probe, self.output = probe, output.float()

    def forward(self, x: Tensor) -> Tensor:
        """Predict z (rows, d_z) from x (rows, d_model)."""
        x = x.float()
        return self.probe(x) + self.correction(x)

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Mean squared error of the layer output."""
        return ((z.float() - self(x)) @ self.output).square().sum(-1).mean()


def read_split(task: Task, split: str, decoder: Decoder, read: Callable[[Batch], None]) -> None:
    """Hand every batch of a split to `read`, in every process. Raises `Interrupted` when asked to stop."""
    for batch in task.batches(split, decoder.device):
        read(batch)
        if stopping():
            raise Interrupted(
                "The finished steps are saved; the same command with the same --out goes on from there."
            )


def train_mlps(
    decoder: Decoder, task: Task, fitted: dict[int, Fitted], moments: dict[int, LayerMoments]
) -> dict[int, Mlp]:
    """One `Mlp` per layer, all trained while the text streams through the model once per epoch.

    Every process reads all of the text here, so that all of them hold the same weights. Raises `Interrupted`
    when asked to stop; what was trained is then lost.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        models = {n: Mlp(f.probe, moments[n].pilot, decoder.output_map(n)[0]) for n, f in fitted.items()}
    optimisers = {n: torch.optim.Adam(m.parameters(), lr=RATE) for n, m in models.items()}
    best = {n: (torch.inf, copy.deepcopy(m.state_dict())) for n, m in models.items()}
    waited = dict.fromkeys(models, 0)
    errors = {n: torch.zeros(2, dtype=torch.float64) for n in models}

    def step(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            rows, targets = x[batch.keep].clone(), z[batch.keep].clone()
            for part in torch.arange(len(rows)).split(MINIBATCH):
                optimisers[layer].zero_grad()
                models[layer].loss(rows[part], targets[part]).backward()
                optimisers[layer].step()

    def check(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        n = batch.keep.sum()
        errors[layer] += torch.stack([models[layer].loss(x[batch.keep], z[batch.keep]) * n, n]).double().cpu()

    with one_kernel(decoder), progress("mlp probes, epochs", EPOCHS) as advance:
        for epoch in range(EPOCHS + 1):
            active = tuple(n for n in models if waited[n] < PATIENCE)
            if not active:
                break
            now = replace(task.shuffled("train", task.seed + epoch), layers=active)
            # first: the error of the start itself
            for split, visit in (("train", step), ("validation", check))[epoch == 0 :]:
                with Reader(decoder, now, visit) as read:
                    read_split(now, split, decoder, read)
            for n in active:
                error = float(errors[n][0] / errors[n][1])
                errors[n].zero_()
                waited[n] += 1
                if error < best[n][0]:
                    best[n], waited[n] = (error, copy.deepcopy(models[n].state_dict())), 0
            advance(int(epoch > 0))
    for n, model in models.items():
        model.load_state_dict(best[n][1])
        model.requires_grad_(False)
    return models
