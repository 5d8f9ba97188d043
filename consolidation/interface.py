"""The commands as functions: `fit_decay`, `train_cram`.

Nothing heavy is imported before one of them is called: `import consolidation` takes no time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from labbook.console import keywords
from labbook.estimate import REPLICATES

if TYPE_CHECKING:
    from consolidation.fit.given import Data
    from consolidation.fit.result import DecayReport


def fit_decay(
    data: "Data | str | Path",
    *,
    x: str = "x",
    y: str = "value",
    series: str | None = None,
    unit: str | None = None,
    count: str | None = None,
    clock: str | None = None,
    clock_unit: str | None = None,
    on_clock: str | None = None,
    on_clock_factor: float | None = None,
    measure: Literal["time", "error", "recall", "savings"] | None = None,
    margin: float | None = None,
    window: tuple[float, float] | None = None,
    forms: Sequence[str] | None = None,
    human: Sequence[str] | None = None,
    bootstrap: int = REPLICATES,
    seed: int = 0,
) -> "DecayReport":
    """Fit a decay curve in every way that applies, compare the forms, and hold the exponent against humans.

    The same numbers as `python -m consolidation.fit` gives for the same data. Nothing is written before
    `save` is called.

    Parameters
    ----------
    data : a DataFrame; arrays by name, {"days": ..., "recall": ...}; a pair of arrays (x, y); a
        `consolidation.decay.curve.Curve`; or a name as on the command line: a table file, the folder of a
        training run, a shipped human series, or "reference", the shipped reference run. Frames and arrays are
        read as strictly as files: what is missing or no number is an error that names its row, from 0 on.
    x, y : columns: what is counted, and what decays. A pair of arrays gets these names.
    series : which series, where a column `series` holds several.
    unit : column of independent units (seed, pattern, list, subject), resampled as wholes. Of a Curve, which
        holds its units, what they are.
    count : column of the trials behind each proportion, for binomial likelihood.
    clock : what x counts: a clock of the registry ("repetition", "retention interval", ...), or your own
        words; needed unless a column `clock` says it.
    clock_unit : unit of x ("days", "count", ...); needed for a clock that is no count, unless a column
        `clock_unit` says it. It is never guessed.
    on_clock, on_clock_factor : read x on this clock of the registry, of which one unit of x is so many units.
    measure : what y is, so that it is held against human measures of that class only; None: against every
        class, one at a time.
    margin : difference of exponents that is too small to matter; None: the standard deviation between human
        studies.
    window : first and last x that are used; None: all, and of a training run the part from the largest value
        on.
    forms : rival forms, by name; None is all of them.
    human : human series to compare with; None is all on the same clock.
    bootstrap : replicates, at least 100.
    seed : of the bootstrap and of the simulations.

    Returns
    -------
    DecayReport : `headline`, the exponent to cite with its interval; `comparison` of the forms; `exponents`
        and `tables` as DataFrames; `cautions`; `summary`, a dict of everything; `fit_report()`, the same as
        text; `to_latex()`, `plot()`, `save(folder)`.

    Raises
    ------
    UserError : with what was asked, what is available, and the keyword to change; when no form, or no power
        law, can be fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> from consolidation import fit_decay
    >>> frame = pd.DataFrame({"days": [1, 2, 4, 7, 15, 30], "recall": [0.80, 0.66, 0.56, 0.48, 0.38, 0.31]})
    >>> found = fit_decay(frame, x="days", y="recall", clock="retention interval", clock_unit="days")
    clock unit days (clock_unit=)
    clock retention interval (days) (of the data frame)
    >>> print(found.headline.form, found.headline.number.text(2))
    power 0.27 [0.26, 0.29]
    """
    from consolidation.fit.config import FitConfig
    from consolidation.fit.given import called
    from consolidation.fit.result import fit_source
    from consolidation.fit.source import given, read

    with keywords():
        chosen = {} if forms is None else {"forms": _names(forms)}
        config = FitConfig(
            source=str(data) if isinstance(data, str | Path) else called(data),
            x=x,
            y=y,
            series=series,
            clock=clock,
            clock_unit=clock_unit,
            on_clock=on_clock,
            on_clock_factor=on_clock_factor,
            measure=measure,
            margin=margin,
            unit=unit,
            count=count,
            window=window,
            bootstrap=bootstrap,
            human=("all",) if human is None else _names(human),
            seed=seed,
            **chosen,
        )
        source = read(config) if isinstance(data, str | Path) else given(data, config)
        return fit_source(source, config)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """Several names; one alone is not taken apart into its letters."""
    return (given,) if isinstance(given, str) else tuple(given)
