"""Can a model learn to need less attention, and does it do so as people forget?"""

from typing import Any

__all__ = ["fit_decay"]


def __getattr__(name: str) -> Any:
    # resolved on first use, so that `python -m consolidation.fit` does not find its own modules imported already
    if name == "fit_decay":
        from consolidation.report import fit_decay

        return fit_decay
    raise AttributeError(f"module 'consolidation' has no attribute {name!r}")
