"""Whole layers and heads by what their replacement really costs: one run of the model for each.

The exact change of the loss when this layer, or this head, alone is replaced, on validation documents. It
knows everything but what several replacements do to each other; in that a greedy order knows more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redundancy.evaluation import TALLIES, Key, Variant, evaluate
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Predict, Rule
from redundancy.passes import Task
from redundancy.removal.need import CALIBRATION_TOKENS, first_windows


@dataclass(frozen=True)
class ExactNeeds:
    """Rise of the loss in nats per token by layer, and by (layer, head); empty where they were not
    measured.
    """

    layers: dict[int, float]
    heads: dict[tuple[int, int], float]


def measure_exact(
    decoder: Decoder, task: Task, maps: Mapping[int, Predict], state: Path | None, *, heads: bool
) -> ExactNeeds:
    """The rises where `maps` stand for attention, of single heads too if `heads` says so."""
    few = first_windows(task, "validation", CALIBRATION_TOKENS)
    variants = [Variant(Key("exact", "with_position", layer=n), {n: Rule(maps[n])}) for n in task.layers]
    if heads:
        variants += [
            Variant(Key("exact", "with_position", layer=n, head=h), {n: Rule(maps[n], heads=(h,))})
            for n in task.layers
            for h in range(decoder.n_heads)
        ]
    label = "single layers and heads" if heads else "single layers"
    intact, changed = evaluate(decoder, few, variants, state, label, "validation")
    loss, tokens = (TALLIES.index(name) for name in ("loss", "tokens"))
    rises = (changed[..., loss] - intact[:, loss]).sum(-1) / intact[:, tokens].sum()
    found = {(v.key.layer, v.key.head): float(rise) for v, rise in zip(variants, rises, strict=True)}
    return ExactNeeds(
        {n: rise for (n, h), rise in found.items() if n is not None and h is None},
        {(n, h): rise for (n, h), rise in found.items() if n is not None and h is not None},
    )
