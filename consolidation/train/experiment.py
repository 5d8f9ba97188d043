"""Train the reference model or a rival on SRCD: `python -m consolidation.train [tiny | small | base | paper]
[flags]`.

Every seed leaves a folder: `trajectory.parquet` and `patterns.parquet` (see
`consolidation/train/trajectory.py`), the final weights, `config.json`, `provenance.json` and `summary.json`.
A killed run goes on when the command is repeated. On several GPUs:
`accelerate launch -m consolidation.train base`.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from consolidation.train.config import Command
from consolidation.train.trainer import Trainer
from consolidation.train.trajectory import SeedSummary
from labbook.console import UserError, warn
from labbook.report import Report
from labbook.training import default_folder, joined


def execute(command: Command) -> tuple[Path, list[SeedSummary]]:
    """Train every seed into its folder below the run's, and return that and their summaries.

    Raises UserError for a number of seeds that cannot be, and see `Trainer`.
    """
    if command.seeds < 1:
        raise UserError(f"--seeds {command.seeds}: at least one seed is needed.")
    if command.config.warmup >= command.config.steps:
        warn(
            f"the {command.config.steps} steps end within the warm-up of {command.config.warmup}, before the "
            "learning rate is reached. Increase --steps, or decrease --warmup."
        )
    out = command.out or default_folder(f"train-{command.config.model}")
    summaries = []
    for seed in range(command.first_seed, command.first_seed + command.seeds):
        trainer = Trainer(command.config, seed, out / f"seed-{seed}", command.settings)
        summaries.append(trainer.train())
    if joined().is_main_process:
        # plotting libraries are slow to import, and only this process draws
        from consolidation.train.figures import draw

        draw(out)
        if command.settings.report:
            report(summaries).write(out)
    return out, summaries


def by_seed(summaries: Sequence[SeedSummary]) -> pd.DataFrame:
    """One row per seed."""
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
    return pd.DataFrame(rows)


def report(summaries: list[SeedSummary]) -> Report:
    """What the page of the run folder holds."""
    first = summaries[0]
    return Report(
        command="consolidation.train",
        title=f"{first.label}: {first.parameters:,} parameters, {first.steps:,} steps",
        verdict=[succeeded(summaries)],
        tables={"by seed": by_seed(summaries)},
        config=f"seed-{first.seed}/config.json",
    )


def succeeded(summaries: Sequence[SeedSummary]) -> str:
    """How many seeds did what they should."""
    learnt, consolidated = sum(s.learnt for s in summaries), sum(s.consolidated for s in summaries)
    return f"{learnt} of {len(summaries)} seeds learnt retrieval, {consolidated} consolidated"
