"""How much of what attention computes could be predicted from the hidden state alone?"""

from typing import Any

__all__ = ["ProbeConfig", "Settings", "Tables", "probe_model"]


def __getattr__(name: str) -> Any:
    # resolved on first use: importing torch and transformers takes seconds, and `python -m redundancy.probe` must not
    # find its own module imported already
    if name == "Tables":
        from redundancy.tables import Tables

        return Tables
    if name in __all__:
        from redundancy import probe

        return getattr(probe, name)
    raise AttributeError(f"module 'redundancy' has no attribute {name!r}")
