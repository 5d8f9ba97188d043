"""The model in people's experiments: `python -m consolidation.experiments NAME [--seeds N] [--out DIR]`.

practice    error and use of attention against repetitions: which form, and does averaging change it
retention   a retired cohort: is it forgotten, by which law; learning rate and load as factors
savings     a cohort brought back: is it relearnt faster than new patterns are learnt
spacing     equal numbers of exposures, massed and spread
frequency   Zipf's law: knowledge and use of attention by frequency, at one step and at equal exposures

CRAM and the control without semantic memory are trained alike (see `config`), every seed a run of
`consolidation.train` in a folder of its own; finished ones are skipped, so a killed command goes on, and the
five experiments share their runs. Every number is over seeds, and every verdict follows from a number and its
interval (`outcome`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from consolidation.experiments import frequency, practice, retention, savings, spacing
from consolidation.experiments.config import Command, Condition, conditions
from consolidation.experiments.outcome import Outcome
from consolidation.experiments.readings import read
from consolidation.train import trajectory
from consolidation.train.config import Settings
from consolidation.train.trainer import Trainer
from labbook.console import UserError
from labbook.report import Report
from labbook.run import Run, provenance
from labbook.training import default_folder, joined

ANALYSES: dict[str, Callable[[Mapping[str, pd.DataFrame]], Outcome]] = {
    "practice": practice.analyse,
    "retention": retention.analyse,
    "savings": savings.analyse,
    "spacing": spacing.analyse,
    "frequency": frequency.analyse,
}


def execute(command: Command) -> tuple[Path, Outcome]:
    """Train what is missing, seed by seed so that every condition has some soon, analyse all that is
    finished, and draw. Returns the folder of the experiment, NAME within the run's, and its outcome.

    Raises UserError for a number of seeds that cannot be, for a folder of other runs, and see `Trainer`.
    """
    if command.seeds < 0:
        raise UserError(f"--seeds {command.seeds}: give the number of seeds, or 0 to analyse what is there.")
    out = command.out or default_folder("experiments")
    listed = conditions(command.config.name, command.config.quick)
    for seed in range(command.seeds):
        for condition in listed:
            folder = out / condition.folder / f"seed-{seed}"
            Trainer(condition.config, seed, folder, Settings()).train()
    outcome = ANALYSES[command.config.name](finished(out, listed))
    tables = {**outcome.tables, "seeds": seeds(out, listed)}
    outcome = replace(outcome, tables=tables, quick=command.config.quick)
    if joined().is_main_process:
        _write(command, out / command.config.name, outcome)
    return out / command.config.name, outcome


def finished(out: Path, listed: list[Condition]) -> dict[str, pd.DataFrame]:
    """The tables of the conditions that have finished seeds, by folder.

    Raises UserError when the first has none, and when a seed was trained otherwise than its condition is.
    """
    found = {}
    for condition in listed:
        run = out / condition.folder
        if list(run.glob("seed-*/summary.json")):
            for seed in trajectory.seeds(run):
                _check(seed, condition)
            found[condition.folder] = read(run)
    if listed[0].folder not in found:
        raise UserError(f"{out} holds no finished seed of {listed[0].folder}. Increase --seeds.")
    return found


def seeds(out: Path, listed: list[Condition]) -> pd.DataFrame:
    """One row per condition and seed: right answers and reads of attention at the end, by kind of query;
    where novel queries are not read, the router has given up attention altogether.
    """
    rows = []
    for condition in listed:
        for folder in sorted((out / condition.folder).glob("seed-*/summary.json")):
            one = trajectory.read_summary(folder.parent)
            shares = {f"right, {kind}": one.accuracy[kind] for kind in ("recurring", "novel")}
            shares |= {f"attend, {kind}": one.attention[kind] for kind in ("recurring", "novel")}
            rows.append({"condition": condition.folder, "seed": one.seed, **shares})
    return pd.DataFrame(rows)


def _check(seed: Path, condition: Condition) -> None:
    if wrong := trajectory.unlike(seed, condition.config.recorded()):
        raise UserError(
            f"{seed} was trained with another configuration than {condition.folder} has "
            f"({'; '.join(wrong[:6])}). Choose another --out, or repeat the command with --quick as before."
        )


def _write(command: Command, folder: Path, outcome: Outcome) -> None:
    """The tables, the figure and the page of an experiment; those of fewer seeds are replaced."""
    # plotting libraries are slow to import, and only this process draws
    from consolidation.experiments.figures import draw

    asked = {c.folder: c.config.recorded() for c in conditions(command.config.name, command.config.quick)}
    run = Run(folder, {"name": command.config.name, "quick": command.config.quick, "conditions": asked})
    run.json("provenance.json", provenance(seeds=command.seeds))
    draw(outcome, folder)
    report(outcome).write(folder)
    outcome.write(run)


def report(outcome: Outcome) -> Report:
    """What the page of an experiment holds."""
    return Report(
        command="consolidation.experiments",
        title=f"The model in people's experiments: {outcome.name}",
        verdict=outcome.sentences(),
        tables={"claims": outcome.claims_table(), **outcome.tables},
    )
