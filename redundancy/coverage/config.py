"""What `redundancy.coverage` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """Simulate the coverage of the intervals over documents."""

    documents: tuple[int, ...] = (5, 8, 12, 33)
    """Numbers of documents."""
    simulations: int = 1000
    """Simulated tables per row."""
    seed: int = 0
    """Of the simulations."""
    out: Path = Path("runs/coverage_documents.csv")
    """The table; figures/coverage_documents.csv is the committed one."""
