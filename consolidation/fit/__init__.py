"""A decay curve fitted in every way that applies: `python -m consolidation.fit`."""
