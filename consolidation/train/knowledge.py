"""What is known of every pattern at log-spaced ages and lags: answers with attention knocked out, and the
router's use of attention, on held-out sequences that ask for all patterns introduced so far.

Knowledge and the use of attention are two things: a model may read what its weights already hold. The table
`knowledge` of `trajectory` has one row per probe and pattern.
"""

from typing import Any

import pandas as pd
import torch

from consolidation.config import SRCDConfig
from consolidation.cram import EPISODIC, Model
from consolidation.srcd import Batch

# of a row of `KnowledgeTable.rows`
COUNTS = ("step", "pattern", "k", "lag", "others", "queries", "right", "known")
SHARES = ("routed", "probability", "recall")


class KnowledgeTable:
    """Recency of every pattern, and the probes so far; its tensors are part of the run's state.

    Attributes
    ----------
    recency : (2, patterns) the step after the last exposure (0: never shown), and how often other patterns
        had been shown by then.
    rows : (rows, columns) the probes, columns in the order of COUNTS and SHARES.
    """

    def __init__(self, benchmark: SRCDConfig, device: torch.device):
        self.plan, patterns = benchmark.schedule, benchmark.patterns
        self.recency = torch.zeros(2, patterns, dtype=torch.int64, device=device)
        self.rows = torch.zeros(0, len(COUNTS) + len(SHARES), dtype=torch.float64, device=device)

    def add(self, done: int, batch: Batch, exposures: torch.Tensor) -> None:
        """Note which patterns the step showed, after which `done` steps are done; `exposures` (patterns,)
        counts those of this step too.
        """
        shown = torch.zeros_like(exposures, dtype=torch.bool)
        shown[batch.shows[batch.shows >= 0]] = True
        now = torch.stack([torch.full_like(exposures, done), exposures.sum() - exposures])
        self.recency = torch.where(shown, now, self.recency)

    @torch.no_grad()
    def probe(self, model: Model, batch: Batch, done: int, exposures: torch.Tensor) -> None:
        """Add a row for every pattern that the held-out `batch` asks for."""
        whole, weights = model(batch), model(batch, without=frozenset({"attention"}))
        asked, at = batch.recurring, batch.position[..., None]
        pattern, target = batch.pattern[asked], batch.target.gather(1, batch.position)[asked]

        def answers(logits: torch.Tensor) -> torch.Tensor:
            return logits.gather(1, at.expand(-1, -1, logits.shape[-1]))[asked].double()

        said, known = answers(whole.logits), answers(weights.logits)
        episodic = [t.probability.gather(1, at.expand(-1, -1, 3))[asked].double() for t in whole.traces]
        routed = torch.stack([(one.argmax(-1) == EPISODIC).double() for one in episodic]).mean(0)
        measured = torch.stack(
            [
                torch.ones_like(routed),
                (said.argmax(-1) == target).double(),
                (known.argmax(-1) == target).double(),
                routed,
                torch.stack(episodic).mean(0)[:, EPISODIC],
                known.softmax(-1).gather(1, target[:, None])[:, 0],
            ],
            -1,
        )
        sums = measured.new_zeros(len(exposures), measured.shape[1]).index_add_(0, pattern, measured)
        which = sums[:, 0].nonzero()[:, 0]
        last, others = self.recency[:, which]
        k, queries = exposures[which], sums[which, :1]
        lag = torch.where(k > 0, done - last, -1)
        since = torch.where(k > 0, exposures.sum() - k - others, -1)
        clocks = torch.stack([torch.full_like(k, done), which, k, lag, since], -1).double()
        row = torch.cat([clocks, sums[which, :3], sums[which, 3:] / queries], -1)
        self.rows = torch.cat([self.rows, row])

    def table(self) -> pd.DataFrame:
        """The table `knowledge` of `trajectory`."""
        columns: dict[str, Any] = dict(zip((*COUNTS, *SHARES), self.rows.cpu().numpy().T, strict=True))
        frame = pd.DataFrame(columns)
        frame[list(COUNTS)] = frame[list(COUNTS)].round().astype("int64")
        cohort = frame["pattern"].map(dict(enumerate(self.plan.cohort_of())))
        introduced = cohort.map({n: c.introduced for n, c in enumerate(self.plan.cohorts)})
        frame.insert(1, "cohort", cohort)
        frame.insert(3, "age", frame["step"] - introduced)
        return frame
