"""The result of a training run in Python: what its seeds left, shown, drawn and copied."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from consolidation.train import trajectory
from consolidation.train.experiment import by_seed, succeeded
from consolidation.train.trajectory import SeedSummary
from labbook.console import UserError
from labbook.report import RunResult, new_folder


@dataclass(frozen=True)
class TrainingRun(RunResult):
    """The seeds of a training run.

    Attributes
    ----------
    seeds : the numbers of every finished seed.
    trajectory : step, layer, kind, metric, value, n, seed: every evaluation, see
        `consolidation.train.trajectory`.
    patterns : layer, clock, pattern, k_first, k_last, k, queries, routed, probability, seed: P_episodic(k).
    folder : where all of it is stored, with the final weights.
    """

    seeds: tuple[SeedSummary, ...]
    trajectory: pd.DataFrame
    patterns: pd.DataFrame
    folder: Path

    @classmethod
    def read(cls, folder: str | Path, seeds: Sequence[int] | None = None) -> "TrainingRun":
        """The seeds of a run folder; None is all that are finished.

        Raises UserError when there is none, when one that is asked for is not finished, or when files do not
        belong to their seed.
        """
        folder = Path(folder)
        found = {one.seed: one for one in trajectory.summaries(folder)}
        wanted = list(found) if seeds is None else list(seeds)
        if absent := [str(seed) for seed in wanted if seed not in found]:
            raise UserError(
                f"{folder} has no finished seed {', '.join(absent)}; there are {', '.join(map(str, found))}."
            )

        def rows(name: str) -> pd.DataFrame:
            table = trajectory.load(folder, name)
            return table[table["seed"].isin(wanted)].reset_index(drop=True)

        chosen = tuple(found[seed] for seed in wanted)
        return cls(chosen, rows("trajectory"), rows("patterns"), folder)

    @property
    def by_seed(self) -> pd.DataFrame:
        """One row per seed: right answers, attention, whether it learnt and consolidated, minutes."""
        return by_seed(self.seeds)

    @property
    def summary(self) -> dict[str, Any]:
        """The summaries by the folders of their seeds, as each one's `summary.json` holds it."""
        return {f"seed-{one.seed}": one.to_json() for one in self.seeds}

    def save(self, folder: str | Path) -> Path:
        """Copy the run folder, figures included, to `folder`, a new one, and return it.

        Raises UserError when `folder` is not empty.
        """
        return Path(shutil.copytree(self.folder, new_folder(folder), dirs_exist_ok=True))

    def _figures(self) -> Mapping[str, Callable[[Any], Figure]]:
        from consolidation.train.figures import FIGURES  # plotting libraries are slow to import

        return {name: partial(_of_folder, make) for name, make in FIGURES.items()}

    def _shown(self) -> tuple[str, pd.DataFrame]:
        return succeeded(self.seeds), self.by_seed


def _of_folder(make: Callable[[Path], Figure], run: TrainingRun) -> Figure:
    return make(run.folder)
