"""Simulated coverage of the intervals of decay fits."""
