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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from consolidation.decay.analysis import Analysis, units_table
from consolidation.decay.equivalence import Margin
from consolidation.fit.report import bibtex, data_hash, fit_decay, latex, report, summary, to_json
from consolidation.fit.short import short
from consolidation.fit.source import FitConfig, read
from labbook.command import Repeat, run_command
from labbook.console import UserError, at_once, choice, console, warn
from labbook.escape import plain
from labbook.run import Run, provenance, replacing, sealed
from labbook.view import print_words


@dataclass(frozen=True)
class Settings:
    """What changes no number."""

    out: Path | None = None
    """Run folder; default: runs/fit-<source>-<time>."""
    report: bool = True
    """Write report.html, the run on one page, into the folder."""
    full: bool = False
    """Print everything that was found, not only the lines that a reader needs first."""


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
        print_words(line)
    files = sorted(path.name for path in run.folder.iterdir() if path.suffix not in (".png", ".pdf"))
    print_words(f"files: {', '.join(files)}, and figures; everything that was found: --full")
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


@dataclass(frozen=True)
class Command:
    """Fit a decay curve in every way that applies, compare the forms, and hold the exponent against
    humans.
    """

    config: tyro.conf.OmitArgPrefixes[FitConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]


def work(command: Command) -> Path:
    """Fit, draw and print."""
    with at_once():
        return execute(command.config, command.settings)


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.fit", Command, work, args, repeat=Repeat({"read_on_clock", "data_hash"}))


if __name__ == "__main__":
    main()
