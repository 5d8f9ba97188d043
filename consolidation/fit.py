"""A decay exponent that can be cited: `python -m consolidation.fit [SOURCE]`.

SOURCE is the folder of a training run (`python -m consolidation.train`), a CSV file, the name of a shipped human series, or nothing: then the shipped reference run
is fitted, P_episodic of eq 14 against the number of exposures over training, with all three clocks in the multiverse and the human practice curves beside it.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from consolidation import humans, trajectory
from consolidation.analysis import DecayFit, units_table
from consolidation.decay import CLOCKS, FORMS, Clock, Curve
from consolidation.report import bibtex, data_hash, fit_decay, latex, summary, to_json
from consolidation.srcd import CLOCKS as EXPOSURES
from consolidation.transitions import Transition, transition
from labbook.console import UserError, choice, console, guarded
from labbook.estimate import REPLICATES
from labbook.run import Run, provenance, replacing

REFERENCE = "reference"
REFERENCE_RUN = humans.DATA / "runs" / "small" / "cram"
MOST_PARAMETERS = max(len(form.parameters) for form in FORMS.values())


@dataclass(frozen=True)
class FitConfig:
    """What is fitted, and how."""

    source: Annotated[str, tyro.conf.Positional] = REFERENCE
    """The folder of a training run, a CSV file, or a series of `python -m consolidation.humans` (cram2026_fig4a is the paper's own figure 4A);
    default: the shipped reference run."""
    x: str = "x"
    """Column of the CSV that is counted."""
    y: str = "value"
    """Column of the CSV that decays."""
    series: str | None = None
    """Which series of the CSV, where its column `series` holds several."""
    clock: str | None = None
    """What x counts: one of the clocks of the registry, or your own words; needed for a CSV without a column `clock`."""
    on_clock: str | None = None
    """Read x as counts of this clock, so that exponents on it may be compared; the result says so."""
    unit: str | None = None
    """Column of independent units (seed, pattern, list, subject); resampled as wholes."""
    count: str | None = None
    """Column of trials behind each proportion, for binomial likelihood."""
    window: tuple[float, float] | None = None
    """First and last x that are used; default: all, and of a training run the part from the largest value on."""
    forms: tuple[str, ...] = tuple(FORMS)
    """Rival forms."""
    bootstrap: int = REPLICATES
    """Replicates."""
    human: tuple[str, ...] = ("all",)
    """Human series to compare with, or all on the same clock."""
    seed: int = 0
    """Of the bootstrap and of the simulations."""


@dataclass(frozen=True)
class Settings:
    """What changes no number."""

    out: Path | None = None
    """Run folder; default: runs/fit-<source>-<time>."""


@dataclass(frozen=True)
class Source:
    """What is fitted: the curve, the same data on other clocks, the change point of its trajectory, and what a unit is."""

    curve: Curve
    clocks: tuple[Curve, ...] = ()
    change: Transition | None = None
    unit: str | None = None


def read(config: FitConfig) -> Source:
    """The data asked for. Raises UserError for missing files, columns, series, and for values that are no numbers."""
    path = REFERENCE_RUN if config.source == REFERENCE else Path(config.source)
    if path.is_dir():
        source = _from_run(path, config)
    else:
        curve = _from_csv(path, config) if path.suffix == ".csv" else humans.load(config.source)
        source = Source(_within(curve, config), unit=config.unit)
    if config.on_clock is None:
        return source
    if config.on_clock not in CLOCKS:
        raise UserError(
            f"there is no clock {config.on_clock!r}; there are {', '.join(map(repr, CLOCKS))}. Change --on-clock."
        )
    return replace(source, curve=source.curve.on_clock(Clock(config.on_clock, CLOCKS[config.on_clock]), 1.0))


def _within(curve: Curve, config: FitConfig) -> Curve:
    if config.window is None:
        return curve
    part = curve.within(*config.window)
    if len(part.x) == 0:
        raise UserError(f"--window {config.window} leaves no point of {curve.name}. Change --window.")
    return part


def _from_run(run: Path, config: FitConfig) -> Source:
    """P_episodic(k) of a training run on its three clocks, and the change point of its attention at recurring queries."""
    chosen = config.clock or EXPOSURES[2]
    curves = {clock: trajectory.episodic_curve(run, clock) for clock in dict.fromkeys((chosen, *EXPOSURES))}
    if config.window is None:
        whole, curves = curves, {clock: c.falling() for clock, c in curves.items()}
        # a clock on which nothing falls keeps its points only if there are enough of them
        curves = {
            clock: c if len(np.unique(c.x)) >= MOST_PARAMETERS + 2 else whole[clock] for clock, c in curves.items()
        }
        choice(
            "window", curves[chosen].window, "from the largest mean on, because a decay is fitted; --window changes it"
        )
    else:
        curves = {clock: _within(c, config) if clock == chosen else c for clock, c in curves.items()}
    attention = trajectory.course(run, "attention", "recurring").dropna()
    # before its largest value attention is being learnt, not given up
    attention = attention.loc[attention.mean(axis=1).iloc[::-1].idxmax() :]
    events = trajectory.summaries(run)[0]["events"]
    change = None
    if attention.shape[1] > 1:
        change = transition(attention.index.to_numpy(float), attention.to_numpy(float).T, events, config.seed)
    others = tuple(c for clock, c in curves.items() if clock != chosen)
    return Source(curves[chosen], others, change, "seed")


def _from_csv(path: Path, config: FitConfig) -> Curve:
    if not path.is_file():
        raise UserError(f"{path} does not exist. Name a CSV, or one of the series of `python -m consolidation.humans`.")
    table = pd.read_csv(path)
    named = {"--x": config.x, "--y": config.y, "--unit": config.unit, "--count": config.count}
    for flag, column in named.items():
        if column is not None and column not in table:
            raise UserError(
                f"{path} has no column {column!r}; it has {', '.join(map(str, table.columns))}. Change {flag}."
            )
    if "series" in table:
        names = list(dict.fromkeys(table["series"].astype(str)))
        if config.series is None and len(names) > 1:
            raise UserError(f"{path} holds {len(names)} series ({', '.join(names[:20])}). Choose one with --series.")
        if config.series is not None and config.series not in names:
            raise UserError(
                f"{path} has no series {config.series!r}; there are {', '.join(names[:20])}. Change --series."
            )
        table = table[table["series"].astype(str) == (config.series or names[0])]
    clock = config.clock or (str(table["clock"].iloc[0]) if "clock" in table else None)
    if clock is None:
        raise UserError(
            f"{path} does not say what {config.x} counts. Say it with --clock, for instance {', '.join(map(repr, CLOCKS))}."
        )
    numbers = table[[c for c in (config.x, config.y, config.count) if c]].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(numbers.to_numpy(dtype=float)).all(1)
    if bad.any():
        raise UserError(
            f"{path}: row {int(np.flatnonzero(bad)[0]) + 2} has no number in {', '.join(numbers.columns)} ({int(bad.sum())} rows in all). Fill or remove them."
        )
    order = np.argsort(numbers[config.x].to_numpy(), kind="stable")
    own_unit = str(table["clock_unit"].iloc[0]) if "clock_unit" in table else "units of x"
    return Curve(
        name=config.series or path.stem,
        x=numbers[config.x].to_numpy(dtype=float)[order],
        y=numbers[config.y].to_numpy(dtype=float)[order],
        clock=Clock(clock, CLOCKS.get(clock, own_unit)),
        unit=None if config.unit is None else np.array([str(u) for u in table[config.unit]])[order],
        count=None if config.count is None else numbers[config.count].to_numpy(dtype=float)[order],
        error="binomial" if config.count else "gaussian",
        source=f"{path.name}, columns {config.x} and {config.y}",
    )


def execute(config: FitConfig, settings: Settings) -> tuple[DecayFit, Path]:
    """The analysis: read, fit in every way, write the run folder."""
    source = read(config)
    curve = source.curve
    found = fit_decay(
        curve,
        forms=config.forms,
        unit=source.unit,
        replicates=config.bootstrap,
        human=None if config.human == ("all",) else config.human,
        seed=config.seed,
        clocks=source.clocks,
        change=source.change,
    )
    name = Path(config.source).stem
    run = Run(
        settings.out or Path("runs") / f"fit-{name}-{time.strftime('%Y%m%d-%H%M%S')}",
        {**asdict(config), "data_hash": data_hash(curve)},
    )
    run.json("provenance.json", provenance(data_hash=data_hash(curve), seed=config.seed))
    run.table("forms.csv", found.comparison.table)
    run.table("exponents.csv", found.exponents)
    run.table("multiverse.csv", found.multiverse.table)
    run.table("units.csv", units_table(curve))
    for file, text in (("gamma.tex", latex(found)), ("gamma.bib", bibtex(found))):
        with replacing(run.folder / file) as partial:
            partial.write_text(text, encoding="utf-8")
    run.json("fit.json", to_json(found))
    return found, run.folder


@dataclass(frozen=True)
class Command:
    """Fit a decay curve in every way that applies, compare the forms, and hold the exponent against humans."""

    config: tyro.conf.OmitArgPrefixes[FitConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m consolidation.fit")

    def body() -> None:
        from consolidation.figures import draw  # plotting libraries are slow to import; errors above should be fast

        found, folder = execute(command.config, command.settings)
        draw(found, folder)
        console.print(summary(found), markup=False)
        console.print(str(folder))

    guarded(body)


if __name__ == "__main__":
    main()
