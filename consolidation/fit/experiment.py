"""A decay exponent that can be cited: `python -m consolidation.fit [SOURCE]`.

SOURCE is the folder of a training run (`python -m consolidation.train`), a table (.csv, .tsv, .txt, .xlsx,
.parquet), the name of a shipped human series, or nothing: then the shipped reference run is fitted,
P_episodic of eq 14 against the number of exposures over training, with all three clocks in the multiverse and
the human practice curves beside it.

The unit of x is given (--clock-unit, or a column `clock_unit`) and never guessed; only a count of
repetitions, steps or items is in counts unless it says so.
"""

from dataclasses import replace
from pathlib import Path

from consolidation.decay.analysis import Choices, analyse
from consolidation.decay.equivalence import Margin
from consolidation.fit.config import FitConfig, Settings
from consolidation.fit.report import data_hash, read_fit
from consolidation.fit.result import DecayReport, asked, opened, write
from consolidation.fit.source import Source, read
from labbook.console import choice, console, warn, worded
from labbook.run import provenance, unused
from labbook.view import print_words


def execute(config: FitConfig, settings: Settings) -> Path:
    """The analysis: read, open the run folder, fit in every way, write, draw, print. A finished run is left
    as it is, and printed again.
    """
    source = read(config)
    curve = source.curve
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.source).stem)
    out = settings.out or unused(f"fit-{name}")
    with opened(out, asked(config, curve)) as run:
        if run.finished:
            choice("run", "nothing is fitted again", "it is finished; its numbers are in fit.json")
            show(run.folder, settings.full)
            return run.folder
        run.json("provenance.json", provenance(data_hash=data_hash(curve), seed=config.seed))
        found = fit_source(source, config)
        write(found, run, settings.report)
    show(run.folder, settings.full)
    return run.folder


def show(folder: Path, full: bool = False) -> None:
    """Print the fit in a run folder: in a few lines, or everything that was found."""
    found = read_fit(folder / "fit.json")
    if not found["said"]:
        warn("The version that made this fit kept no text of it; its numbers are in fit.json.")
    # the exponent's line says whether its form is rejected
    for caution in found["cautions"]:
        if full or not caution.startswith("the form is"):
            warn(caution)
    if full:
        console.print(found["report"], markup=False)
        return
    for line in found["said"]:
        print_words(line)
    files = sorted(path.name for path in folder.iterdir() if path.suffix not in (".png", ".pdf"))
    print_words(f"files: {', '.join(files)}, and figures; everything that was found: --full")


def fit_source(source: Source, config: FitConfig) -> DecayReport:
    """Fit what was read in every way that applies to it.

    Raises UserError when no form, or no power law, can be fitted.
    """
    margin = None if config.margin is None else Margin(config.margin, worded("given by --margin"))
    choices = Choices(
        forms=config.forms,
        unit=source.unit,
        replicates=config.bootstrap,
        human=None if config.human == ("all",) else config.human,
        seed=config.seed,
        clocks=source.clocks,
        change=source.change,
        margin=margin,
        hierarchical=config.hierarchical,
    )
    found = analyse(source.curve, choices)
    missing = {name: worded(reason) for name, reason in found.missing.items()}
    found = replace(found, missing=missing, cautions=tuple(map(worded, found.cautions)))
    return DecayReport(**vars(found), config=config)
