"""Text that stands on both sides of the split: a probe would be scored on what it was fitted to.

Copies of a document are left out when it is read (`text.unique`). Documents that are no copies but share most
of their text are found here, by their runs of tokens.
"""

import numpy as np
import numpy.typing as npt

from labbook.console import UserError, warn
from redundancy.text import Windows

# tokens in a row that two texts hardly share by chance
RUN = 16
# shares of the runs of held-out text that stand in the training text: from where it is said, and refused
SAID, REFUSED = 0.1, 0.5


def require_apart(train: Windows, held_out: Windows, unit: str) -> None:
    """Warn where part of the held-out text stands in the training text too.

    Raises UserError where that is more than REFUSED of it: a score would be of what was fitted.
    """
    share = overlap(train, held_out)
    said = f"{share:.0%} of the held-out text ({RUN} tokens in a row) stands in the training {unit}s too"
    if share > REFUSED:
        raise UserError(
            f"{said}: the {unit}s are versions of one another, and a score would be of text that was fitted. "
            "Give --corpus texts that differ, or join those that belong together with --document-column."
        )
    if share > SAID:
        warn(f"{said}; scores may look better than they are on new text.")


def overlap(train: Windows, held_out: Windows) -> float:
    """Share of the runs of RUN tokens of `held_out` that occur in `train`; 0 where windows are shorter."""
    found = _runs(held_out)
    return float(np.isin(found, _runs(train)).mean()) if len(found) else 0.0


def _runs(windows: Windows) -> npt.NDArray[np.uint64]:
    """A hash of every run of RUN tokens inside of a window."""
    ids = windows.ids.astype(np.uint64)
    if ids.shape[1] < RUN:
        return np.empty(0, np.uint64)
    hashes = np.zeros((len(ids), ids.shape[1] - RUN + 1), np.uint64)
    for place in range(RUN):
        # a polynomial modulo 2^64 in an odd base; ids differ by a fixed mixing first
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + _mixed(ids[:, place : place + hashes.shape[1]])
    whole = np.arange(hashes.shape[1])[None] + RUN <= windows.lengths[:, None]
    return hashes[whole]


def _mixed(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = (ids + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))
