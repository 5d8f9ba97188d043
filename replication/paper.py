"""What the examined preprint states, arXiv:2602.12204v1, where nothing below needs it: one name for every
number.
"""

from consolidation.replicate.tabulation import PAPER as EXPERIMENTS
from redundancy.probe.tables import PAPER_HEADS as HEAD_GROUPS
from redundancy.probe.tables import PAPER_R

__all__ = ["EXPERIMENTS", "HEAD_GROUPS", "PAPER_R"]

# table 6: R overall of GPT-2 124M and 355M, and the largest spread printed beside their layer groups
R_SMALL, R_MEDIUM = PAPER_R.values()
R_SPREAD = 0.05
# the mean of the two, read in the title as a share of attention
REDUNDANT = 0.88
# table 7: R from the first to the last checkpoint, 10K and 300K steps
COURSE_R = (0.52, 0.72)
COURSE_STEPS = (10_000, 300_000)
# tables 1 and 4: share of positions that attend at the end, right answers; and what every ablation is said to
# keep
ATTENTION, RETRIEVAL, ABLATED_ATTENTION = 0.016, 1.0, 0.167
# section 7 of no table: by how much attention falls
FALL = 37.8
# eq 14 and figure 4A: exponent and its spread
GAMMA, GAMMA_SPREAD = 0.43, 0.04
# tables 2 and 3: by how much less is attended after transfer from SRCD than in training from scratch
TRANSFER_REDUCTION = {"copy": 0.51, "associative": 0.49}
