"""What `redundancy.benchmark` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Config:
    """Measure speed and memory as ratios to what else would do the same: what is timed, and how much text."""

    model: tyro.conf.Positional[str] = "embedded"
    """As for the probe."""
    parts: tuple[Literal["pass1", "memory", "stored", "descent", "replaced", "removal"], ...] = (
        "pass1",
        "memory",
        "stored",
        "descent",
        "replaced",
        "removal",
    )
    """Which comparisons."""
    tokens: int = 50_000
    """Tokens of the memory comparison, against ten times as many."""
    stored_tokens: int = 20_000
    """Tokens whose activations are stored in the comparison with TransformerLens and scikit-learn."""
    rounds: int = 12
    """Alternations of pass 1 and the plain forward pass, of the replaced and the intact model, and of what a
    removal run saves.
    """
    context: int = 256
    """Tokens per window."""
    device: str = "auto"
    """As for the probe."""
    out: Path = Path("runs/benchmark.csv")
    """Table of all figures."""
