"""How the loss would change with attention's output: one backward pass of the intact model for all layers.

    block l:  resid_pre --> attention --z_l + delta_l--> W_O --> ... --> log p --> sum over t of -log p(y_t)

g_l = d loss / d delta_l at delta = 0, with labels y sampled from the model's own distribution, so that no
label of the text is used. For an error e of z the squared first-order change of the loss, (g . e)^2, has as
its mean over labels e' F e with F the Fisher information of z (Amari 1998, Neural Computation 10, 251-276):
the second-order change of the KL divergence, twice over.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from redundancy.batches import Batch
from redundancy.evaluation import next_token_log_p, scored_tokens
from redundancy.model.capture import entering
from redundancy.model.decoder import Decoder
from redundancy.passes import Task, Visit

# keeps the draws of labels apart from other draws of the same seed and window
STREAM = 3


def sample_labels(log_p: Tensor, batch: Batch, seed: int, draw: int = 0) -> Tensor:
    """One label per position from log p (batch, position, vocabulary): (batch, position).

    A function of the seed, of the number of the draw and of that of the window alone, so the batch size
    changes no number.
    """
    size, more = log_p.shape[1], [draw] if draw else []
    draws = [
        np.random.default_rng([seed, STREAM, int(number), *more]).random(size)
        for number in batch.number.cpu()
    ]
    u = torch.from_numpy(np.stack(draws)).to(log_p).unsqueeze(-1)
    below = log_p.exp().cumsum(-1) < u
    return below.sum(-1).clamp_max(log_p.shape[-1] - 1)


# labels (batch, position - 1) from log p (batch, position - 1, vocabulary)
Labels = Callable[[Tensor, Batch], Tensor]


def drawn(seed: int, draw: int = 0) -> Labels:
    """Labels that the model draws itself."""
    return lambda log_p, batch: sample_labels(log_p, batch, seed, draw)


def of_the_text(log_p: Tensor, batch: Batch) -> Tensor:
    """The next tokens of the text."""
    return batch.ids[:, 1:].to(log_p.device)


def change_by_head(gradient: Tensor, error: Tensor, n_heads: int) -> Tensor:
    """g . e, the first-order change of the loss by the error of each head, (rows, d_z) to (rows, n_heads)."""
    return (gradient.float() * error).unflatten(-1, (n_heads, -1)).sum(-1)


class GradientReader:
    """Stands for `passes.Reader` where the gradient is needed too: runs a batch forward and backward, then
    visits every layer.

    Parameters
    ----------
    labels : whose losses are differentiated, one backward pass each; None is one draw of the model's own.

    Attributes
    ----------
    gradients : for each of the labels, layer -> g (batch, position, d_z) of the batch that is being visited;
        `gradient` is the first of them.
    """

    def __init__(self, decoder: Decoder, task: Task, visit: Visit, labels: Sequence[Labels] | None = None):
        self.decoder, self.task, self.visit = decoder, task, visit
        self.labels = [drawn(task.seed)] if labels is None else list(labels)
        self.gradients: list[dict[int, Tensor]] = []
        self._x: dict[int, Tensor] = {}
        self._z: dict[int, Tensor] = {}
        self._delta: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def gradient(self) -> dict[int, Tensor]:
        """Gradient under the first labels, by layer."""
        return self.gradients[0]

    def __enter__(self) -> "GradientReader":
        for n in self.task.layers:
            block, projection = self.decoder.layers[n], self.decoder.projection(n)
            self._hooks.append(block.register_forward_pre_hook(self._keep(n), with_kwargs=True))
            self._hooks.append(projection.register_forward_pre_hook(self._add(n)))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _keep(self, n: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._x[n] = entering(args, kwargs).detach()

        return hook

    def _add(self, n: int) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            self._z[n] = args[0].detach()
            self._delta[n] = torch.zeros_like(args[0], requires_grad=True)
            return (args[0] + self._delta[n],)

        return hook

    def __call__(self, batch: Batch) -> None:
        """Run one batch and visit its layers."""
        with torch.enable_grad():
            log_p = next_token_log_p(self.decoder, batch.ids.to(self.decoder.device))
            valid = scored_tokens(batch).to(log_p.device)
            deltas = [self._delta[n] for n in self.task.layers]
            self.gradients = []
            for number, labels in enumerate(self.labels, 1):
                goal = labels(log_p.detach(), batch)
                loss = -(log_p.gather(-1, goal.unsqueeze(-1)).squeeze(-1) * valid).sum()
                slopes = torch.autograd.grad(loss, deltas, retain_graph=number < len(self.labels))
                self.gradients.append(dict(zip(self.task.layers, slopes, strict=True)))
        for n in self.task.layers:
            self.visit(n, self._x[n], self._z[n], batch.to(self._z[n].device))
