"""Can a model learn to need less attention, and does it do so as people forget?"""

from typing import TYPE_CHECKING, Any

from labbook import __version__

if TYPE_CHECKING:
    from consolidation.decay.curve import Curve
    from consolidation.fit.report import DecayReport

__all__ = ["__version__", "fit_decay"]


def fit_decay(curve: "Curve", **options: Any) -> "DecayReport":
    """Fit a curve in every way that applies to it, as `python -m consolidation.fit` does.

    `options` are the fields of `consolidation.decay.analysis.Choices`. Raises UserError when no form, or no
    power law, can be fitted.
    """
    # here and not above: `python -m consolidation.fit --help` should not wait for scipy and torch
    from consolidation.fit.report import fit_decay as fit

    return fit(curve, **options)
