"""The result of a fit: what it says, shows and draws, and the folder that it leaves."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from consolidation.decay.analysis import Analysis
from consolidation.decay.curve import Curve
from consolidation.decay.exponents import units_table
from consolidation.fit.citation import bibtex, latex
from consolidation.fit.config import FitConfig
from consolidation.fit.report import data_hash, report, summary, to_json
from consolidation.fit.short import short
from labbook.console import CALL, UserError
from labbook.escape import plain
from labbook.report import as_html, drawn, new_folder, said
from labbook.run import Run, provenance, replacing


@dataclass(frozen=True, repr=False)
class DecayReport(Analysis):
    """A decay fit that can show, draw and save itself.

    Attributes
    ----------
    config : what was asked.
    call : the Python call, where the data are an object that no command line can name; else empty.
    forms, units : rival forms, and the exponent of every unit, as DataFrames.
    tables : forms, exponents, multiverse and units as DataFrames, as the run folder holds them.
    summary : every number with what it depends on, a dict as `fit.json` holds it.
    """

    config: FitConfig
    call: str = ""

    def __repr__(self) -> str:
        # every name leads there as an attribute of the report
        tables = ("multiverse.table" if name == "multiverse" else name for name in self.tables)
        return said("DecayReport", self._lines(), tables, None)

    def _lines(self) -> str:
        """What a reader needs first, with every caution."""
        lines = [*short(self), *(f"Caution: {caution}." for caution in self.cautions)]
        return " ".join(f"{line.rstrip('.')}." for line in lines)

    @property
    def forms(self) -> pd.DataFrame:
        """Rival forms by AICc: `tables["forms"]`."""
        return self.comparison.table

    @property
    def units(self) -> pd.DataFrame:
        """The exponent of the power law of every unit: `tables["units"]`."""
        return units_table(self.curve)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Rival forms, exponents, specifications and units, by the names of their files."""
        return {
            "forms": self.forms,
            "exponents": self.exponents,
            "multiverse": self.multiverse.table,
            "units": self.units,
        }

    @property
    def summary(self) -> dict[str, Any]:
        """Everything that was found, as `fit.json` holds it."""
        return to_json(self)

    def fit_report(self) -> str:
        """The report as text, to be printed."""
        return summary(self)

    def to_latex(self) -> str:
        """Macros and a sentence for a paper."""
        return latex(self)

    def plot(self, name: str | None = None) -> Figure:
        """A figure: decay_fits, decay_specifications or decay_forest; None is the first, the data with their
        fits.

        Raises UserError for a name that there is not.
        """
        return drawn(self, _figures(), name)

    def save(self, folder: str | Path) -> Path:
        """Write what `python -m consolidation.fit` writes into `folder`, a new one, and return it: tables,
        figures, fit.json, LaTeX, BibTeX and report.html.

        Raises UserError when `folder` is not empty.
        """
        with opened(new_folder(folder), asked(self.config, self.curve)) as run:
            of_objects = {CALL: self.call} if self.call else {}
            about = provenance(data_hash=data_hash(self.curve), seed=self.seed, **of_objects)
            run.json("provenance.json", about)
            write(self, run)
        return run.folder

    def _repr_html_(self) -> str:
        return as_html(self._lines(), self.forms, None)


def _figures() -> Mapping[str, Callable[[Any], Figure]]:
    from consolidation.fit.figures import FIGURES  # plotting libraries are slow to import

    return FIGURES


def asked(config: FitConfig, curve: Curve) -> dict[str, Any]:
    """What the run folder's config.json holds."""
    return {**asdict(config), "read_on_clock": str(curve.clock), "data_hash": data_hash(curve)}


@contextmanager
def opened(out: Path, config: dict[str, Any]) -> Iterator[Run]:
    """The run folder, there and writable before the analysis begins; a new one is taken away again when the
    analysis fails.

    Raises UserError when it cannot be made or holds something else.
    """
    try:
        new, fresh = not out.exists(), not (out / "config.json").exists()
        run = Run(out, config)
    except OSError as error:
        raise UserError(
            f"--out {plain(out)[:200]} cannot be made a run folder ({error.strerror}). Choose another --out."
        ) from error
    try:
        yield run
    except BaseException:
        if fresh and not (out / "fit.json").exists():
            for name in ("config.json", "provenance.json"):
                (out / name).unlink(missing_ok=True)
            if new:
                with suppress(OSError):  # something else was written there in the meantime
                    out.rmdir()
        raise


def write(found: DecayReport, run: Run, with_report: bool = True) -> None:
    """Everything that a finished run holds, `summary.json` last; nothing before all is computed."""
    # plotting libraries are slow to import; errors of the options should be fast
    from consolidation.fit.figures import draw

    texts = {"gamma.tex": latex(found), "gamma.bib": bibtex(found)}
    for name, table in found.tables.items():
        run.table(f"{name}.csv", table)
    for name, text in texts.items():
        with replacing(run.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    everything = found.summary
    run.json("fit.json", run.sealed_with(found.tables, everything))
    draw(found, run.folder)
    if with_report:
        report(found, found.tables).write(run.folder)
    run.finish(found.tables, everything)
