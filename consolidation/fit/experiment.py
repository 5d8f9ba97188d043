"""A decay exponent that can be cited: `python -m consolidation.fit [SOURCE]`.

SOURCE is the folder of a training run (`python -m consolidation.train`), a table (.csv, .tsv, .txt, .xlsx,
.parquet), the name of a shipped human series, or nothing: then the shipped reference run is fitted,
P_episodic of eq 14 against the number of exposures over training, with all three clocks in the multiverse and
the human practice curves beside it.

The unit of x is given (--clock-unit, or a column `clock_unit`) and never guessed; only a count of
repetitions, steps or items is in counts unless it says so.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from consolidation.decay.analysis import Analysis, units_table
from consolidation.decay.equivalence import Margin
from consolidation.fit.config import FitConfig, Settings
from consolidation.fit.report import bibtex, data_hash, fit_decay, latex, report, summary, to_json
from consolidation.fit.short import short
from consolidation.fit.source import read
from labbook.console import UserError, choice, console, warn
from labbook.escape import plain
from labbook.run import Run, provenance, replacing, sealed


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


def execute(config: FitConfig, settings: Settings) -> Path:
    """The analysis: read, open the run folder, fit in every way, write, draw, print. A finished run is left
    as it is.
    """
    source = read(config)
    curve = source.curve
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.source).stem)
    out = settings.out or Path("runs") / f"fit-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    asked = {**asdict(config), "read_on_clock": str(curve.clock), "data_hash": data_hash(curve)}
    with opened(out, asked) as run:
        if run.finished:
            choice("run", "nothing is fitted again", "it is finished; its numbers are in fit.json")
            return run.folder
        run.json("provenance.json", provenance(data_hash=data_hash(curve), seed=config.seed))
        found = fit_decay(
            curve,
            forms=config.forms,
            unit=source.unit,
            replicates=config.bootstrap,
            human=None if config.human == ("all",) else config.human,
            seed=config.seed,
            clocks=source.clocks,
            change=source.change,
            margin=None if config.margin is None else Margin(config.margin, "given by --margin"),
        )
        _write(found, run, settings)
    if settings.full:
        for caution in found.cautions:
            warn(caution)
        console.print(summary(found), markup=False)
        return run.folder
    # the exponent's line says whether its form is rejected
    for caution in found.cautions:
        if not caution.startswith("the form is"):
            warn(caution)
    for line in short(found):
        # words are moved to the next line, so that no number is cut
        console.print(line, markup=False, soft_wrap=False)
    files = sorted({path.suffix.removeprefix(".") for path in run.folder.iterdir()})
    console.print(f"files: {', '.join(files)} in the folder below; everything that was found: --full")
    return run.folder


def _write(found: Analysis, run: Run, settings: Settings) -> None:
    """Everything that a finished run holds, `summary.json` last; nothing before all is computed."""
    # plotting libraries are slow to import; errors of the options should be fast
    from consolidation.fit.figures import draw

    texts = {"gamma.tex": latex(found), "gamma.bib": bibtex(found)}
    tables = {
        "forms": found.comparison.table,
        "exponents": found.exponents,
        "multiverse": found.multiverse.table,
        "units": units_table(found.curve),
    }
    for name, table in tables.items():
        run.table(f"{name}.csv", table)
    for name, text in texts.items():
        with replacing(run.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    run.json("fit.json", sealed(to_json(found)))
    draw(found, run.folder)
    if settings.report:
        report(found, tables).write(run.folder)
    run.finish(tables, to_json(found))
