"""What `consolidation.replicate` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from consolidation.train.config import Settings, TrainConfig


@dataclass(frozen=True)
class Command:
    """Run the experiments of the paper and their controls."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    tables: tuple[str, ...] = (
        "keys",
        "table1",
        "table4",
        "schedule",
        "recurrence",
        "novel",
        "mode",
        "transfer",
    )
    """Which tables: of the preprint and beside them keys, table1, table4, schedule, recurrence, novel, mode,
    transfer; factorial, the experiment of consolidation/design.md; controls, others in the place of its
    control; learned, that control and CRAM with learned keys; published, from the preprint's settings to
    ours one step at a time.
    """
    seeds: int = 5
    """Seeds of every cell that have to be finished; 0 only tabulates what is there."""
    minutes: float | None = None
    """Train for this long, the most important runs first, then tabulate what is there; the same command again
    goes on. None: until every cell has its seeds.
    """
    out: Path | None = None
    """Folder; default: runs/replicate-<time>. Finished cells in it are skipped."""
