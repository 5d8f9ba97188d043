"""Exponents of decay: curves, forms, fits, comparison, people. Knows nothing of torch."""
