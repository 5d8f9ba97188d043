"""Greedy orders: one unit goes after the other, each time that which costs least beside those already gone.

    gone = {}                 for each unit left: run with gone + unit, score
    gone = {}, best           ...

Of a candidate only the blocks from its own layer on run: those below compute what they computed for the
units that are already gone, and are taken from there (`Prefix`); and what is gone is not computed at all. No
number changes; more than half of the work is saved.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from labbook.console import Interrupted, progress, stopping
from redundancy.batches import Batch
from redundancy.evaluation import log_probabilities, one_kernel, scored_tokens
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Prefix
from redundancy.model.updates import Put, Unit, Updates
from redundancy.passes import Task

Score = Literal["loss", "divergence"]
# kept validation tokens behind every step: the spread of a paired difference of losses is then below .005
# nats for removals that cost little
TOKENS = 4096


def calibration_batches(decoder: Decoder, task: Task) -> list[Batch]:
    """The first batches of the validation documents, in their random order, with TOKENS kept tokens.

    Every process reads the same ones, so all have the same orders.
    """
    found, tokens = list[Batch](), 0
    for batch in task.batches("validation", decoder.device):
        found.append(batch)
        tokens += int(batch.keep.sum())
        if tokens >= TOKENS:
            break
    return found


def greedy_order(
    decoder: Decoder,
    task: Task,
    units: Sequence[Unit],
    put: Callable[[Unit], Put],
    count: int,
    by: Score,
    label: str,
) -> list[Unit]:
    """The first `count` units to go, in their order.

    Parameters
    ----------
    units : candidates; of equal scores the one that stands first goes.
    put : what stands for a unit that goes; asks for nothing of y but its shape.
    by : `loss`, of the next token, or `divergence` (Jensen-Shannon) from the intact model.

    Raises `Interrupted` when asked to stop.
    """
    batches, gone = calibration_batches(decoder, task), list[Unit]()
    prefix = Prefix(decoder, [(unit.layer, unit.target) for unit in units])
    steps = sum(len(units) - i for i in range(count))
    with one_kernel(decoder), progress(label, steps) as advance:
        for _ in range(count):
            left = [unit for unit in units if unit not in gone]
            scores = torch.zeros(len(left), dtype=torch.float64)
            for batch in batches:
                intact = log_probabilities(decoder, batch.ids) if by == "divergence" else None
                so_far = {unit: put(unit) for unit in gone}
                with (
                    Updates(decoder, so_far, task.start_position) if so_far else nullcontext(),
                    prefix.recorded(),
                ):
                    log_probabilities(decoder, batch.ids)
                for place, unit in enumerate(left):
                    # what lies below has its effect in the recorded states already
                    puts = {other: p for other, p in so_far.items() if other.layer >= unit.layer}
                    puts |= {unit: put(unit)}
                    changed = Updates(decoder, puts, task.start_position, puts)
                    with changed, prefix.given(unit.layer, changed.blind):
                        log_p = log_probabilities(decoder, batch.ids)
                    scores[place] += _score(log_p, intact, batch)
                    if stopping():
                        raise Interrupted(
                            "The finished orders are saved; the same command with the same --out goes on."
                        )
            gone.append(left[int(scores.argmin())])
            advance(len(left))
    return gone


@torch.inference_mode()
def _score(log_p: Tensor, intact: Tensor | None, batch: Batch) -> float:
    """Loss, or Jensen-Shannon divergence from `intact`, summed over the scored tokens of a batch."""
    valid = scored_tokens(batch).to(log_p.device)
    if intact is None:
        target = batch.ids[:, 1:].to(log_p.device).unsqueeze(-1)
        values = -log_p.gather(-1, target).squeeze(-1)
    else:
        p, q = intact.exp(), log_p.exp()
        middle = ((p + q) / 2).clamp_min(torch.finfo(p.dtype).tiny).log()
        values = ((p * (intact - middle)).sum(-1) + (q * (log_p - middle)).sum(-1)) / 2
    return float(torch.where(valid, values, 0).sum(dtype=torch.float64))
