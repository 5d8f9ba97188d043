"""What a training run is made of, and what `consolidation.train` is asked. Imports nothing heavy, so that
--help is quick.
"""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from consolidation.config import CRAMConfig, Objective, SRCDConfig, variant
from labbook.command import conform, restored
from labbook.console import UserError

Record = dict[str, Any]
# fields of older configurations; a run with another value cannot go on
RETIRED: Record = {"compile": False}


@dataclass(frozen=True)
class TrainConfig:
    """One training run, without its seed."""

    model: str = "cram"
    """cram, one of its ablations (control, control-narrow, control-network, no-consolidation, no-quality,
    fast-semantic), or transformer, mamba, jamba, seqboat.
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
    """Peak of AdamW's (.9, .98)."""
    learning_rate_schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: cosine to zero at the last step, or constant, so that what a model does with a
    pattern at some age does not depend on the step at which that age is reached.
    """
    semantic_rate: float = 0.1
    """Learning rate of the semantic memory, relative to the peak."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices only."""
    warmup: int = 100
    """Steps of linear warm-up. Not in the paper; the usual guard of layers that are normalised after the sum.
    """
    temperature: tuple[float, float] = (1.0, 0.1)
    """Of the Gumbel-softmax, first and last. `paper` has the published 1 to .1; `tiny`, `small` and `base`
    keep 1, because in pilots annealing to .1 froze the router, or let it lose novel queries.
    """
    temperature_steps: int = 3000
    """Steps of its linear schedule; 0 keeps the last one from the start."""
    pressure_start: int = 0
    """Step at which the routing pressure (lambda_E and lambda_S) sets in. In the paper, and in `paper`, it is
    on from the start; in `tiny`, `small` and `base` it comes later, because in pilots it ended attention
    before retrieval was learnt.
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

    def __post_init__(self) -> None:
        conform(self)
        variant(self.model).model(self.cram)
        for name in ("steps", "batch", "evaluation", "evaluations"):
            self._require(name, getattr(self, name) >= 1, "has to be at least 1")
        for name in ("learning_rate", "semantic_rate"):
            self._require(name, 0 < getattr(self, name) < math.inf, "has to be positive and finite")
        self._require("temperature", min(self.temperature) > 0, "has to be positive at both ends")
        for name in ("weight_decay", "warmup", "temperature_steps", "pressure_start", "pressure_ramp"):
            self._require(name, getattr(self, name) >= 0, "has to be 0 or more")
        bound = self.benchmark.binding_count + self.benchmark.distractor_count
        if self.cram.buffer < bound:
            raise UserError(
                f"a buffer of {self.cram.buffer} entries cannot hold the {bound} bindings of a sequence. "
                "Increase --buffer, or decrease --bindings or --length."
            )
        late = [c.text for c in self.benchmark.schedule.cohorts if c.introduced >= self.steps]
        if late:
            raise UserError(
                f"the cohort {late[0]} is introduced after the last step, {self.steps}, so it is never "
                "active. Increase --steps, or change --cohorts."
            )

    def _require(self, name: str, sound: bool, what: str) -> None:
        """Raise UserError for a field that is not sound."""
        if not sound:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {getattr(self, name)} {what}. Change {flag}.")

    def recorded(self) -> Record:
        """The fields as `config.json` has them, with those that left at the only value that was ever used,
        and without those that came at the value that keeps everything as it was, so that older runs are still
        those of the same configuration.
        """
        found = asdict(self)
        if self.learning_rate_schedule == "cosine":
            del found["learning_rate_schedule"]
        if not self.benchmark.cohorts:
            del found["benchmark"]["cohorts"]
        return found | RETIRED

    @classmethod
    def restored(cls, record: Record) -> "TrainConfig":
        """The configuration that `recorded` wrote. Raises ValueError for what it cannot have written."""
        return cast(
            TrainConfig, restored(cls, {name: v for name, v in record.items() if name not in RETIRED})
        )

    def resolved(self) -> "TrainConfig":
        """The configuration with the fields in which its model differs from CRAM."""
        chosen = variant(self.model)
        rate = self.semantic_rate if chosen.semantic_rate is None else chosen.semantic_rate
        return replace(self, objective=chosen.objective(self.objective), semantic_rate=rate)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then the schedule."""
        shape = 1.0 if self.learning_rate_schedule == "constant" else math.cos(math.pi * step / self.steps)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup)) * 0.5 * (1 + shape)

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


@dataclass(frozen=True)
class Settings:
    """What changes no number."""

    tracker: str | None = None
    """Also log to tensorboard, wandb or trackio, through accelerate; the package has to be installed."""
    report: bool = True
    """Write report.html, the run on one page, into the folder."""
    compilation: Literal["auto", "no", "yes"] = "auto"
    """Compile the training step; auto: on GPUs. On CPUs it takes a C++ compiler and saves nothing."""

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class Command:
    """Train on SRCD and leave trajectories. The first argument is one of four sizes, whose values the options
    below change.

        size   length  width x layers  steps x batch  minutes a seed
        tiny       64          32 x 1       500 x 16  under 1, CPU (the default)
        small     256          64 x 1      4,000 x 8  2 to 4, CPU: the shipped runs
        base    1,024         256 x 4    10,000 x 32  not measured; for one GPU
        paper   2,048         512 x 8    10,000 x 32  not measured; published, GPUs
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    seeds: int = 1
    """Number of seeds; each fixes the patterns, the sequences, the weights and the routing noise."""
    first_seed: int = 0
    """The first of them."""
    out: Path | None = None
    """Folder of the run; default: runs/train-<model>-<time>."""

    def __post_init__(self) -> None:
        """Raises UserError for an option in whose place the model has a value of its own."""
        given, used, default = self.config, self.config.resolved(), TrainConfig()
        parts = (
            (given, used, default),
            (given.objective, used.objective, default.objective),
            (given.cram, variant(given.model).model(given.cram), default.cram),
        )
        for part in parts:
            for name in (one.name for one in fields(part[0]) if one.name not in ("cram", "objective")):
                asked, taken, usual = (getattr(of, name) for of in part)
                if asked not in (taken, usual):
                    flag = f"--{name.replace('_', '-')}"
                    raise UserError(
                        f"--model {given.model} has {name} {taken}, and {flag} {asked} was asked for. Leave "
                        f"{flag} out, or change --model."
                    )
