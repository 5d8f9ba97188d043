"""What every training loop needs: when to measure, when to save, and the moments of its optimisers by name.

    step 0 --> [ step | measure at marks | save when due or asked to stop ] ... --> last step

A loop that is stopped or killed goes on from its last state to the same numbers, because everything random in
a step is a function of (seed, step).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from accelerate import PartialState

from labbook import processes
from labbook.console import Interrupted, choice, progress, stopping
from labbook.run import unused

Named = Sequence[tuple[str, torch.nn.Parameter]]


def joined() -> PartialState:
    """The processes of this training (torchrun, accelerate launch): accelerate joins CPU processes only when
    told to.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def default_folder(name: str) -> Path:
    """`runs/<name>-<time>`, the same on all processes, whose clocks may disagree; it is printed."""
    joined()
    folder = processes.agree(unused(name))
    choice("run folder", folder, "a new one; --out names another")
    return folder


def doubling(last: int) -> set[int]:
    """The powers of two below `last`: steps at which training is looked at, since it is fast at first."""
    return {2**i for i in range(last.bit_length()) if 2**i < last}


@dataclass(frozen=True)
class Loop:
    """A training loop.

    Attributes
    ----------
    label : of its progress bar.
    steps : the last step.
    step : does the step of that number; returns a note for the bar.
    marks : steps after which `measure` is called with the number of steps that are done.
    save : writes the state, called with the number of steps that are done, every `pause` seconds and before
        stopping.
    deadline : on the monotonic clock, after which it stops as if it were asked to.
    """

    label: str
    steps: int
    step: Callable[[int], str]
    marks: Iterable[int]
    measure: Callable[[int], None]
    save: Callable[[int], None]
    pause: float
    deadline: float = inf

    def run(self, done: int) -> None:
        """All steps from `done` on. Raises Interrupted, with the state saved, when asked to stop."""
        marks, saved = set(self.marks), time.monotonic()
        with progress(self.label, self.steps, done) as advance:
            while done < self.steps:
                note = self.step(done)
                done += 1
                if done in marks:
                    self.measure(done)
                advance(1, note)
                # saving may add up over all processes, so all of them have to save at the same step
                now = time.monotonic()
                stop, due = processes.agree((stopping() or now > self.deadline, now - saved > self.pause))
                if stop or due:
                    self.save(done)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(f"The state of step {done} is saved; repeat the same command to go on.")


def moments(optimizers: Iterable[torch.optim.Optimizer], named: Named) -> dict[str, torch.Tensor]:
    """The optimisers' tensors as `optimizer:KEY:PARAMETER`."""
    return {
        f"optimizer:{key}:{name}": tensor
        for optimizer in optimizers
        for name, p in named
        for key, tensor in optimizer.state.get(p, {}).items()
    }


def restore_moments(
    optimizers: Iterable[torch.optim.Optimizer], named: Named, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give the optimisers back what `moments` took from them."""
    held: dict[str, dict[str, torch.Tensor]] = {}
    for place, tensor in tensors.items():
        if place.startswith("optimizer:"):
            _, key, name = place.split(":", 2)
            held.setdefault(name, {})[key] = tensor
    for optimizer in optimizers:
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        for name, p in named:
            if p in groups and name in held:
                # torch keeps the step counter on the CPU unless the update is one fused kernel
                on_device = groups[p].get("fused") or groups[p].get("capturable")
                optimizer.state[p] = {
                    key: t.to(p.device) if key != "step" or on_device else t for key, t in held[name].items()
                }
