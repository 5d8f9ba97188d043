"""The few lines of a fit: a form that could not be fitted soundly is no rival."""

from types import SimpleNamespace

import pandas as pd

from consolidation.fit.short import _rivals


def test_a_failed_fit_is_counted_and_not_named():
    table = pd.DataFrame(
        {
            "form": ["power", "logarithmic", "stretched_exponential", "exponential"],
            "delta_aicc": [0.0, 1.5, 2.0, 9.0],
            "failures": ["", "", "did not converge", ""],
            "error": ["gaussian", "gaussian", "gaussian", "lognormal"],
        }
    )
    found = SimpleNamespace(
        comparison=SimpleNamespace(best="power", table=table, reasons={"apex": "too few points"})
    )
    assert _rivals(found) == (
        "rivals (AICc): logarithmic +1.5, exponential +9.0 with noise relative to y; 1 could not be fitted "
        "soundly; not compared: apex (`missing` in fit.json says why)"
    )
    alone = SimpleNamespace(comparison=SimpleNamespace(best="power", table=table.iloc[[0, 2]], reasons={}))
    assert _rivals(alone) == "rivals: none; 1 could not be fitted soundly"
