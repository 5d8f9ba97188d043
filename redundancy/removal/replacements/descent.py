"""Training against the intact model: Adam on the training documents, what is kept decided on the validation
documents.

The rate of every parameter is relative to its size and falls as a cosine over the epochs; after every epoch
the objective on the validation documents decides what is kept, and PATIENCE epochs without a smaller one end
it. What was there before training competes too.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labbook.console import Interrupted, progress, stopping
from redundancy.batches import Batch
from redundancy.evaluation import next_token_log_p, one_kernel, scored_tokens
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Prefix, Window
from redundancy.model.substitution import Rule, Substitution
from redundancy.passes import Task

PATIENCE = 2
# elements of the intact model's last states that are kept while something is trained: 2^26 float32 are
# 256 MiB, however much text there is
KEPT = 2**26

# sum of an objective over the scored tokens of a batch, and how many they are
Objective = Callable[[Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Descent:
    """How something is trained.

    Attributes
    ----------
    epochs : at most this many.
    rate : step of Adam relative to the root mean square of what it changes.
    label : what the progress bar calls it.
    """

    epochs: int
    rate: float
    label: str


def relative_rates(parameters: Iterable[nn.Parameter], rate: float) -> dict[nn.Parameter, float]:
    """`rate` times the root mean square of each parameter."""
    return {p: rate * float(p.detach().square().mean().sqrt()) for p in parameters}


def descend(
    module: nn.Module,
    rates: Mapping[nn.Parameter, float],
    objective: Objective,
    judge: Callable[[], float],
    decoder: Decoder,
    task: Task,
    how: Descent,
) -> tuple[float, float]:
    """Train `module` in place; what `judge` said before and after.

    Every process reads all of the text, so that all of them end with the same parameters. Raises
    `Interrupted` when asked to stop; what was trained is then lost, and the same command trains it again.
    """
    optimiser = torch.optim.Adam([{"params": [p], "peak": rate} for p, rate in rates.items()], lr=0.0)
    best = before = judge()
    kept, waited = copy.deepcopy(module.state_dict()), 0
    steps = -(-len(task.windows["train"].lengths) // task.batch)
    with progress(how.label, how.epochs) as advance:
        for epoch in range(how.epochs):
            if waited == PATIENCE:
                break
            shuffled = task.shuffled("train", task.seed + epoch)
            for number, batch in enumerate(shuffled.batches("train", decoder.device), epoch * steps):
                for group in optimiser.param_groups:
                    group["lr"] = (
                        group["peak"] * 0.5 * (1 + math.cos(math.pi * number / (how.epochs * steps)))
                    )
                with torch.enable_grad():
                    total, tokens = objective(batch)
                    (total / tokens.clamp_min(1)).backward()
                optimiser.step()
                optimiser.zero_grad()
                if stopping():
                    raise Interrupted("The same command with the same --out goes on from the last part.")
            found = judge()
            waited += 1
            if found < best:
                best, kept, waited = found, copy.deepcopy(module.state_dict()), 0
            advance(1, f"{found:.3f} nats")
    module.load_state_dict(kept)
    return before, best


def divergence(intact: Tensor, changed: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """KL(intact || changed) in nats summed over the scored tokens of a batch, and how many they are; both
    (batch, position - 1, vocabulary) of log p.
    """
    valid = scored_tokens(batch).to(intact.device)
    per_token = (intact.exp() * (intact - changed)).sum(-1)
    return torch.where(valid, per_token, 0).sum(), valid.sum()


class Intact:
    """log p of the intact model, which every epoch asks for again: what was computed for a window is kept, as
    long as all of it has at most KEPT elements, and the rest is computed anew.

    Parameters
    ----------
    start : first position that is changed.

    Attributes
    ----------
    prefix : holds what `Prefix.given` with `first` -1 needs for the batch that was asked for last.
    """

    def __init__(self, decoder: Decoder, start: int):
        self.decoder, self.start, self.prefix = decoder, start, Prefix(decoder)
        # by the ids of the window, because its number is another one in every epoch
        self._windows = dict[bytes, Window]()
        self._room = KEPT

    @torch.no_grad()
    def log_p(self, batch: Batch) -> Tensor:
        """What is to be matched (batch, position - 1, vocabulary), without a gradient."""
        keys = [row.tobytes() for row in batch.ids.cpu().numpy()]
        windows = [self._windows[key] for key in keys if key in self._windows]
        if len(windows) == len(keys):
            self.prefix.restore(windows)
            with self.prefix.given(len(self.decoder.layers)):
                return next_token_log_p(self.decoder, batch.ids)
        with self.prefix.recorded():
            found = next_token_log_p(self.decoder, batch.ids)
        for key, window in zip(keys, self.prefix.windows(self.start), strict=False):
            if key not in self._windows and window.last.numel() <= self._room:
                self._room -= window.last.numel()
                self._windows[key] = window
        return found


def log_p_without(
    decoder: Decoder, rules: Mapping[int, Rule], task: Task, batch: Batch, prefix: Prefix | None = None
) -> Tensor:
    """`next_token_log_p` with `rules` in the place of attention, which need not run where `prefix` holds what
    the same model computes for the batch.
    """
    with Substitution(decoder, rules, task.start_position) as substitution:
        substitution.read(batch)
        with prefix.given(-1, substitution.blind) if prefix else nullcontext():
            return next_token_log_p(decoder, batch.ids)


def descend_without(
    module: nn.Module,
    changed: Decoder,
    rules: Mapping[int, Rule],
    decoder: Decoder,
    task: Task,
    how: Descent,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> tuple[float, float]:
    """Train the parameters of `module` that require a gradient, so that `changed`, with `rules` in the place
    of attention, comes near the intact `decoder`; the divergence in nats per token before and after.

    rates : steps of Adam by parameter; None is `relative_rates` of all.
    """

    intact = Intact(decoder, task.start_position)

    def objective(batch: Batch) -> tuple[Tensor, Tensor]:
        goal = intact.log_p(batch)
        known = intact.prefix if changed is decoder else None
        return divergence(goal, log_p_without(changed, rules, task, batch, known), batch)

    def judge() -> float:
        return mean_over(task, decoder, objective)

    if rates is None:
        rates = relative_rates((p for p in module.parameters() if p.requires_grad), how.rate)
    with one_kernel(decoder), one_kernel(changed), detached(changed, task.layers):
        return descend(module, rates, objective, judge, decoder, task, how)


@contextmanager
def detached(decoder: Decoder, layers: Iterable[int]) -> Iterator[None]:
    """No gradient flows through the inside of attention in `layers`, where all of its output is replaced: it
    would be zero but for the first position, which stays intact, and cost as much as the rest of the block.
    """

    def cut(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        def own(value: Any) -> Any:
            return value.detach() if isinstance(value, Tensor) else value

        return tuple(map(own, args)), {name: own(value) for name, value in kwargs.items()}

    hooks = [decoder.attention(n).register_forward_pre_hook(cut, with_kwargs=True) for n in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def mean_over(task: Task, decoder: Decoder, objective: Objective) -> float:
    """The objective on the validation documents, per token."""
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in task.batches("validation", decoder.device):
        sums += torch.stack(objective(batch)).double().cpu()
    return float(sums[0] / sums[1])
