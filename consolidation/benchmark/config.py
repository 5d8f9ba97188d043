"""What `consolidation.benchmark` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

Timed = Literal["steps", "attention", "growth", "fits"]


@dataclass(frozen=True)
class Config:
    """Measure speed and memory of the reference model and the fits as ratios: what is timed, and how much."""

    parts: tyro.conf.Positional[tuple[Timed, ...]] = ("steps", "attention", "growth", "fits")
    """Which comparisons."""
    preset: str = "small"
    """Size of the models whose training steps are compared."""
    rounds: int = 15
    """Alternations of every pair."""
    width: int = 256
    """Width of the attention and growth comparisons; 4 heads, a buffer of 512."""
    routed: float = 0.02
    """Share of positions that read there."""
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    """Positions of the growth comparison."""
    attention_lengths: tuple[int, ...] = (2048, 8192)
    """Positions of the attention comparison."""
    curves: int = 30
    """Number of curves."""
    replicates: int = 1000
    """Bootstrap replicates of each."""
    points: int = 13
    """Points of each curve."""
    sample: int = 40
    """Replicates of one curve and form that scipy fits."""
    out: Path = Path("runs/benchmark-consolidation.csv")
    """Table of all figures."""
