"""The examined paper's tables 1 to 4 as one experiment: `python -m consolidation.replicate`."""
