"""What a removal run saves: penalties from one decomposition, one backward pass for all layers, and work that
the intact run did.
"""

import torch

from redundancy.batches import Batch
from redundancy.benchmark.config import Config
from redundancy.benchmark.timing import Comparison, compare_pairs, paired, prepare
from redundancy.evaluation import log_probabilities, next_token_log_p
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Prefix
from redundancy.model.substitution import Rule, Substitution
from redundancy.passes import Task
from redundancy.regression.ridge import PENALTIES
from redundancy.removal.gradients import GradientReader
from redundancy.removal.replacements.weighted import Sums


def removal(config: Config) -> list[Comparison]:
    """The weighted fit of one layer, the slope of the loss in every layer, and the model with the mean in the
    place of all attention.
    """
    decoder, task = prepare(config, 4096)
    batch = next(task.batches("evaluation", decoder.device))
    prefix, change = Prefix(decoder), _without_attention(decoder, task.start_position)
    with prefix.recorded():
        log_probabilities(decoder, batch.ids)

    def whole() -> None:
        with change:
            change.read(batch)
            log_probabilities(decoder, batch.ids)

    def given() -> None:
        with prefix.given(change.first, change.blind):
            whole()

    return [
        _weighted(decoder, config.rounds),
        _slopes(decoder, task, batch, config.rounds),
        compare_pairs(
            "all attention replaced, what the intact run gives taken from there / computed whole, seconds",
            paired(decoder.device, config.rounds, given, whole),
        ),
    ]


def _slopes(decoder: Decoder, task: Task, batch: Batch, rounds: int) -> Comparison:
    """One backward pass for all layers, with the forward pass that it needs, against that forward pass."""

    def both() -> None:
        with GradientReader(decoder, task, lambda *_: None) as reader:
            reader(batch)

    @torch.inference_mode()
    def forward() -> None:
        next_token_log_p(decoder, batch.ids)

    pairs = paired(decoder.device, rounds, both, forward)
    return compare_pairs("slope of the loss in every layer, forward and backward / forward, seconds", pairs)


def _without_attention(decoder: Decoder, start: int) -> Substitution:
    def constant(x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), decoder.d_z)

    return Substitution(decoder, {n: Rule(constant) for n in range(len(decoder.layers))}, start)


def _weighted(decoder: Decoder, rounds: int) -> Comparison:
    """`Sums.correction` against solving for one penalty, on random moments of the widths of the model."""
    device, generator = decoder.device, torch.Generator().manual_seed(0)
    d, k, heads = decoder.d_model, decoder.d_head, decoder.n_heads
    sums = Sums(heads, d, k, device)
    for split in ("train", "validation"):
        shapes = ((4 * d, d), (4 * d, heads, k), (4 * d, heads))
        x, rest, weight = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
        sums.add(split, x, rest, weight.exp())
    penalty = PENALTIES[len(PENALTIES) // 2] * torch.eye(d + 1, dtype=torch.float64, device=device)

    def one() -> None:
        for head in range(heads):
            n, xx, xr = (sums.tensors[f"train/{name}"][head] for name in ("w", "xx", "xr"))
            torch.linalg.lstsq(xx / n + penalty, xr / n)

    pairs = paired(device, rounds, sums.correction, one)
    return compare_pairs(
        f"weighted least squares of one layer, {len(PENALTIES)} penalties / one, seconds", pairs
    )
