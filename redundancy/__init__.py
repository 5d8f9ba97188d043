"""How much of what attention computes could be predicted from the hidden state alone?"""

from typing import TYPE_CHECKING, Any

from labbook import __version__

if TYPE_CHECKING:
    from redundancy.probe.tables import Tables
    from redundancy.request import Settings

__all__ = ["__version__", "probe_model"]


def probe_model(model: str | None = None, *, settings: "Settings | None" = None, **options: Any) -> "Tables":
    """Measure attention redundancy of `model`, as `python -m redundancy.probe` does, and return its tables.

    Parameters
    ----------
    model : as MODEL on the command line; None is the embedded model.
    settings : device, batch size, folder.
    options : fields of `ProbeConfig`, such as corpus="books/", tokens=100_000, layers=(0, 5).

    Returns
    -------
    Tables : `layers`, `heads`, `controls`, `histogram` as DataFrames, `summary` as a dict, `folder` of the
        run.

    Raises
    ------
    UserError : with what was asked, what is available, and the option to change.
    """
    # here and not above: torch and transformers take seconds to import
    from redundancy.probe.experiment import run_probe

    return run_probe(model, settings, options)
