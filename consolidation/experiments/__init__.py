"""The model in the experiments that psychologists make with people: `python -m consolidation.experiments`."""
