"""Train the reference model or a rival on SRCD: `python -m consolidation.train [tiny | small | base | paper]
[flags]`.

Every seed leaves a folder: `trajectory.parquet` and `patterns.parquet` (see
`consolidation/train/trajectory.py`), the final weights, `config.json`, `provenance.json` and `summary.json`.
A killed run goes on when the command is repeated. On several GPUs:
`accelerate launch -m consolidation.train base`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from accelerate import PartialState

from consolidation.train.presets import TrainConfig, begin
from consolidation.train.trainer import Settings, Trainer
from consolidation.train.trajectory import SeedSummary
from labbook.command import Repeat, run_command
from labbook.console import UserError
from labbook.report import Report
from labbook.view import print_table, print_verdict


@dataclass(frozen=True)
class Command:
    """Train on SRCD and leave trajectories."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    seeds: int = 1
    """Number of seeds; each fixes the patterns, the sequences, the weights and the routing noise."""
    first_seed: int = 0
    """The first of them."""
    out: Path | None = None
    """Folder of the run; default: runs/train-<model>-<time>."""


def execute(command: Command, out: Path) -> list[SeedSummary]:
    """Train every seed into its folder, and return their summaries."""
    if command.seeds < 1:
        raise UserError(f"--seeds {command.seeds}: at least one seed is needed.")
    summaries = []
    for seed in range(command.first_seed, command.first_seed + command.seeds):
        trainer = Trainer(command.config, seed, out / f"seed-{seed}", command.settings)
        summaries.append(trainer.train())
    if PartialState().is_main_process:
        # plotting libraries are slow to import, and only this process draws
        from consolidation.train.figures import draw

        draw(out)
        if command.settings.report:
            report(summaries).write(out)
    return summaries


def report(summaries: list[SeedSummary]) -> Report:
    """What the page of the run folder holds."""
    first = summaries[0]
    rows = [
        {
            "seed": s.seed,
            **{f"right, {kind}": share for kind, share in s.accuracy.items()},
            "dynamics MSE": s.dynamics_mse,
            **{f"attend, {kind}": share for kind, share in s.attention.items()},
            "query-key pairs": s.pairs,
            "learnt": s.learnt,
            "consolidated": s.consolidated,
            "minutes": s.seconds / 60,
        }
        for s in summaries
    ]
    return Report(
        command="consolidation.train",
        title=f"{first.label}: {first.parameters:,} parameters, {first.steps:,} steps",
        verdict=[succeeded(summaries)],
        tables={"by seed": pd.DataFrame(rows)},
        config=f"seed-{first.seed}/config.json",
    )


def succeeded(summaries: list[SeedSummary]) -> str:
    """How many seeds did what they should."""
    learnt, consolidated = sum(s.learnt for s in summaries), sum(s.consolidated for s in summaries)
    return f"{learnt} of {len(summaries)} seeds learnt retrieval, {consolidated} consolidated"


def show(summaries: list[SeedSummary]) -> None:
    """How many seeds succeeded, and one line for each."""
    print_verdict([succeeded(summaries)])
    first = summaries[0]
    title = (
        f"{first.label}, {first.parameters:,} parameters, {first.steps:,} steps. Right answers by "
        "kind of query, error of the dynamics, share of positions that attend: all, at both kinds of "
        f"query, elsewhere; query-key pairs per position (causal attention: {first.pairs_dense:.0f}); "
        f"optimum (eq 13) {first.optimum:.3f}, best static routing {first.static:.3f}"
    )
    heads = ["seed", "right, recurring", "right, novel", "MSE", "attend"]
    heads += ["attend, recurring", "attend, novel", "attend, other", "pairs", "learnt", "consolidated", "min"]
    rows = [
        [
            str(s.seed),
            _number(s.accuracy["recurring"]),
            _number(s.accuracy["novel"]),
            f"{s.dynamics_mse:.4f}",
            f"{s.attention['all']:.4f}",
            _number(s.attention["recurring"]),
            _number(s.attention["novel"]),
            f"{s.attention['other']:.4f}",
            f"{s.pairs:.2f}",
            _yes(s.learnt),
            _yes(s.consolidated),
            f"{s.seconds / 60:.1f}",
        ]
        for s in summaries
    ]
    print_table(title, heads, rows, left=0)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def work(command: Command) -> Path | None:
    """Train every seed and print a line for each."""
    out = command.out or Path("runs") / f"train-{command.config.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    summaries = execute(command, out)
    if not PartialState().is_main_process:
        return None
    show(summaries)
    return out


def of_seed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the command that trains the seed of this configuration again."""
    if found.get("start") is not None:
        raise ValueError("the run started from the weights of another, which consolidation.replicate does")
    return {"first_seed": found["seed"]}


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command(
        "consolidation.train", Command, work, args, start=begin, repeat=Repeat({"seed", "start"}, of_seed)
    )


if __name__ == "__main__":
    main()
