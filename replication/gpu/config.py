"""What `replication.gpu` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Size = Literal["full", "rehearsal"]
StageName = Literal["base", "paper", "ratios", "gpt2"]
STAGES: tuple[StageName, ...] = ("base", "paper", "ratios", "gpt2")


@dataclass(frozen=True)
class Command:
    """Run what needs a GPU, stage by stage, and leave the tables in one small folder."""

    minutes: float = 28
    """For all stages that are left, together. The same command again goes on where this one stopped."""
    stages: tuple[StageName, ...] = STAGES
    """Which stages, in this order."""
    text: Path | None = None
    """The .npz file of `redundancy.pretrain CORPUS --preset gpt2-124m --pack FILE.npz`, which the stage gpt2
    needs.
    """
    size: Size = "full"
    """rehearsal: the same commands at about a hundredth of the size, for a CPU."""
    work: Path = Path("runs/gpu-work")
    """Run folders, with weights and states."""
    out: Path = Path("runs/gpu")
    """Results: an archive of tables for every stage, stages.csv and device.json."""
