"""Training of CRAM, its ablations and its rivals: `python -m consolidation.train`."""
