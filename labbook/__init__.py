"""The ground floor both packages share: estimates with intervals, run folders, console output, figure style."""

__version__ = "0.1.0"
