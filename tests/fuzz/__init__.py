"""Damaged input on purpose: `python -m tests.fuzz` mutates what the commands read and counts how each case
ends.

A mutation is chosen so that the right outcome is known: the same numbers as before, an error, or exactly what
the file says, parsed here by other means than in the project. See `docs/reliability.md`.
"""
