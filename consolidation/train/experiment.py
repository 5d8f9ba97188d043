"""Train the reference model or a rival on SRCD: `python -m consolidation.train [tiny | small | base | paper]
[flags]`.

Every seed leaves a folder: `trajectory.parquet` and `patterns.parquet` (see
`consolidation/train/trajectory.py`), the final weights, `config.json`, `provenance.json` and `summary.json`.
A killed run goes on when the command is repeated. On several GPUs:
`accelerate launch -m consolidation.train base`.
"""

from pathlib import Path

from consolidation.train.config import Command
from consolidation.train.trainer import Trainer
from consolidation.train.trajectory import SeedSummary
from labbook.console import UserError
from labbook.training import default_folder, joined


def execute(command: Command) -> tuple[Path, list[SeedSummary]]:
    """Train every seed into its folder below the run's, and return that and their summaries.

    Raises UserError for a number of seeds that cannot be, and see `Trainer`.
    """
    if command.seeds < 1:
        raise UserError(f"--seeds {command.seeds}: at least one seed is needed.")
    out = command.out or default_folder(f"train-{command.config.model}")
    summaries = []
    for seed in range(command.first_seed, command.first_seed + command.seeds):
        trainer = Trainer(command.config, seed, out / f"seed-{seed}", command.settings)
        summaries.append(trainer.train())
    if joined().is_main_process:
        # plotting libraries are slow to import, and only this process draws
        from consolidation.train.figures import draw

        draw(out)
    return out, summaries
