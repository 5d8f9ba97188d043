"""The ground floor every package shares: estimates with intervals, run folders, console output, style."""

__version__ = "0.1.0"
