"""What a training run is made of, and four sizes of it.

| preset | length | width x layers | steps x batch | meant for |
|---|---|---|---|---|
| tiny | 64 | 32 x 1 | 500 x 16 | under a minute on two cores: does it run |
| small | 256 | 64 x 1 | 4,000 x 8 | minutes a seed on one core: the shipped reference runs |
| base | 1,024 | 256 x 4 | 10,000 x 32 | one GPU; not run yet |
| paper | 2,048 | 512 x 8 | 10,000 x 32 | GPUs: every published hyperparameter; not run yet |

Four fields of the first three are not the paper's. Three for what was seen in pilots on this benchmark (one
seed each): routing pressure from the start ends attention before retrieval is learnt; a Gumbel temperature
annealed to .1 freezes the router, or lets it lose novel queries; and at lambda_E = .1 the router had left
only half of the recurring queries after 3,000 steps. The fourth, r = 32 as in the paper instead of d / 16 =
4, so that the semantic memory is not made small by the small width.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from consolidation.cram import CRAMConfig, Objective
from consolidation.rivals import variant
from consolidation.srcd import SRCDConfig
from labbook.command import Start
from labbook.console import UserError


@dataclass(frozen=True)
class TrainConfig:
    """One training run, without its seed."""

    model: str = "cram"
    """cram, one of its ablations (control, no-consolidation, no-quality, fast-semantic), or transformer,
    mamba, jamba, seqboat.
    """
    benchmark: Annotated[SRCDConfig, tyro.conf.arg(name="")] = field(default_factory=SRCDConfig)
    cram: Annotated[CRAMConfig, tyro.conf.arg(name="")] = field(default_factory=CRAMConfig)
    objective: Annotated[Objective, tyro.conf.arg(name="")] = field(default_factory=Objective)
    trained: Literal["all", "heads"] = "all"
    """`heads` trains the two output maps only: memory and router stay as they are (transfer, table 2)."""
    steps: int = 10_000
    """Optimiser steps."""
    batch: int = 32
    """Sequences per step, over all processes."""
    learning_rate: float = 3e-4
    """Peak of AdamW's (.9, .98), cosine to zero."""
    semantic_rate: float = 0.1
    """Learning rate of the semantic memory, relative to the peak."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices only."""
    warmup: int = 100
    """Steps of linear warm-up. Not in the paper; the usual guard of layers that are normalised after the sum.
    """
    temperature: tuple[float, float] = (1.0, 0.1)
    """Of the Gumbel-softmax, first and last."""
    temperature_steps: int = 3000
    """Steps of its linear schedule; 0 keeps the last one from the start."""
    pressure_start: int = 0
    """Step at which the routing pressure (lambda_E and lambda_S) sets in. In the paper it is on from the
    start.
    """
    pressure_ramp: int = 0
    """Steps over which it grows linearly to its full weight."""
    evaluation: int = 64
    """Held-out sequences of every evaluation."""
    evaluations: int = 80
    """Evaluations, evenly over training, besides those at powers of two; knock-outs are measured at the
    latter and at the end.
    """
    precision: Literal["auto", "no", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs, float32 on CPUs. Weights stay float32."""
    compile: bool = False
    """Compile the model with torch.compile."""

    def __post_init__(self) -> None:
        variant(self.model)
        for name in ("steps", "batch", "evaluation", "evaluations"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} has to be at least 1.")
        bound = self.benchmark.binding_count + self.benchmark.distractor_count
        if self.cram.buffer < bound:
            raise UserError(
                f"a buffer of {self.cram.buffer} entries cannot hold the {bound} bindings of a sequence. "
                "Increase --buffer, or decrease --bindings or --length."
            )

    def resolved(self) -> "TrainConfig":
        """The configuration with the fields in which its model differs from CRAM."""
        chosen = variant(self.model)
        return replace(self, objective=replace(self.objective, **chosen.objective), **chosen.training)

    def temperature_at(self, step: int) -> float:
        """Gumbel temperature of a step."""
        first, last = self.temperature
        return (
            last
            if self.temperature_steps == 0
            else first + (last - first) * min(1.0, step / self.temperature_steps)
        )

    def objective_at(self, step: int) -> Objective:
        """Weights of eq 8 at a step; lambda_E and lambda_S grow along the ramp."""
        done = 1.0 if self.pressure_ramp == 0 else min(1.0, (step - self.pressure_start) / self.pressure_ramp)
        share = done if step >= self.pressure_start else 0.0
        full = self.objective
        return replace(
            full,
            attention_penalty=share * full.attention_penalty,
            semantic_reward=share * full.semantic_reward,
        )

    def events(self) -> dict[str, float]:
        """Steps of the schedules, by name, for the change-point analysis."""
        steps = {
            "end of the temperature schedule": self.temperature_steps,
            "routing pressure sets in": self.pressure_start,
        }
        if self.pressure_ramp:
            steps["routing pressure at full weight"] = self.pressure_start + self.pressure_ramp
        return {name: float(step) for name, step in steps.items() if 0 < step < self.steps}


PRESETS = {
    "tiny": TrainConfig(
        benchmark=SRCDConfig(
            length=64, patterns=20, novel_keys=20, values=8, bindings=0.0625, queries=0.0625
        ),
        cram=CRAMConfig(width=32, layers=1, heads=2, buffer=32, semantic_rank=16),
        objective=Objective(attention_penalty=0.5),
        steps=500,
        batch=16,
        learning_rate=6e-3,
        temperature=(1.0, 1.0),
        temperature_steps=0,
        pressure_start=150,
        pressure_ramp=150,
        evaluation=128,
        evaluations=20,
    ),
    "small": TrainConfig(
        benchmark=SRCDConfig(length=256),
        cram=CRAMConfig(width=64, layers=1, heads=2, buffer=64, semantic_rank=32),
        objective=Objective(attention_penalty=0.5),
        steps=4000,
        batch=8,
        learning_rate=3e-3,
        temperature=(1.0, 1.0),
        temperature_steps=0,
        pressure_start=400,
        pressure_ramp=800,
        evaluations=50,
    ),
    "base": TrainConfig(
        benchmark=SRCDConfig(length=1024),
        cram=CRAMConfig(width=256, layers=4, heads=4, buffer=256, semantic_rank=32),
        objective=Objective(attention_penalty=0.5),
        learning_rate=1e-3,
        temperature=(1.0, 1.0),
        temperature_steps=0,
        pressure_start=1000,
        pressure_ramp=2000,
    ),
    "paper": TrainConfig(),
}


def preset(name: str) -> TrainConfig:
    """The preset of that name. Raises UserError naming those there are."""
    if name not in PRESETS:
        raise UserError(
            f"there is no preset {name!r}; there are {', '.join(PRESETS)}. The preset is the first argument."
        )
    return PRESETS[name]


def begin(args: list[str]) -> Start:
    """Arguments `[PRESET] [flags]`: the preset (default: tiny) and the flags."""
    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("tiny", args)
    return Start(preset(name), rest, f" [{' | '.join(PRESETS)}]")
