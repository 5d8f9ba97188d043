"""P_episodic of eq 14, counted while a model trains: how often, and how probably, queries for a pattern go to
attention after k exposures to it.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from consolidation.config import EXPOSURE_CLOCKS
from consolidation.cram import EPISODIC, Outputs
from consolidation.srcd import Batch, Exposures

PER_DECADE = 8


def bins(largest: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First k of every bin, log-spaced, whole numbers: 1, 2, 3, 4, 5, 7, 10, 13, ..."""
    edges = np.round(10 ** (np.arange(int(np.log10(largest) * PER_DECADE) + 2) / PER_DECADE))
    return np.unique(edges.astype(np.int64))


class PatternTable:
    """P_episodic(k) of every pattern, summed as training goes on; its tensors are part of the run's state."""

    def __init__(self, rows: int, patterns: int, layers: int, largest: float, device: torch.device):
        self.exposures = Exposures(rows, patterns, device)
        self.first = torch.from_numpy(bins(largest)).to(device)
        # layer, clock, pattern, bin, (queries, sum of k, routed, sum of probability)
        shape = (layers, len(EXPOSURE_CLOCKS), patterns, len(self.first), 4)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, everything: Batch, outputs: Outputs, first: int, last: int) -> None:
        """Count the recurring queries of one training step, and then the step's exposures; `outputs` are
        those of the rows from first to last.
        """
        batch = everything.rows(first, last)
        # novel queries count 0 times: to leave them out would make the host wait for their number
        counted = batch.recurring.double()
        k = self.exposures.before(everything)[:, first:last]
        pattern = batch.pattern.clamp(min=0)
        place = (torch.bucketize(k, self.first, right=True) - 1).clamp(min=0)
        for layer, trace in enumerate(outputs.traces):
            probability = trace.probability.gather(1, batch.position[..., None].expand(-1, -1, 3))
            chosen = (probability.argmax(-1) == EPISODIC).double()
            for clock in range(len(EXPOSURE_CLOCKS)):
                entry = torch.stack(
                    [torch.ones_like(chosen), k[clock].double(), chosen, probability[..., EPISODIC].double()],
                    -1,
                )
                self.sums[layer, clock].index_put_(
                    (pattern, place[clock]), entry * counted[..., None], accumulate=True
                )
        self.exposures.add(everything)

    def table(self) -> pd.DataFrame:
        """The table `patterns` of `trajectory`; empty bins are left out."""
        sums = self.sums.cpu().numpy()
        layer, clock, pattern, place = np.nonzero(sums[..., 0])
        count, k, routed, probability = sums[layer, clock, pattern, place].T
        first = self.first.cpu().numpy()
        last = np.append(first[1:] - 1, np.iinfo(np.int64).max)
        return pd.DataFrame(
            {
                "layer": layer,
                "clock": np.array(EXPOSURE_CLOCKS)[clock],
                "pattern": pattern,
                "k_first": first[place],
                "k_last": last[place],
                "k": k / count,
                "queries": count,
                "routed": routed,
                "probability": probability / count,
            }
        )
