"""Simulated coverage of the intervals over documents."""
