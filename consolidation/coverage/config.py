"""What `consolidation.coverage` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass, field
from pathlib import Path

from consolidation.decay.forms import FORMS


@dataclass(frozen=True)
class Config:
    """Simulate how often the intervals of the decay fits hold the truth."""

    simulations: int = 1000
    """Curves per row; 1,000 measure a coverage of .95 to +-.014."""
    replicates: int = 1000
    """Of each bootstrap."""
    forms: tuple[str, ...] = field(default_factory=lambda: tuple(FORMS))
    """Forms whose intervals are simulated."""
    seed: int = 0
    """Of all draws."""
    out: Path = Path("runs/coverage.csv")
    """The table; rows that it already holds are skipped."""
