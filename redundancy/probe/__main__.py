"""Measure how much of attention's output a linear map of the hidden state predicts: `python -m
redundancy.probe [MODEL]`.

`execute` is the experiment, step by step. The definitions of the scores are in `scores`, of the controls in
`controls`.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from labbook import processes
from labbook.command import run_command
from labbook.console import UserError, choice, console
from labbook.estimate import Studentised
from redundancy.model.capture import Feature
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.passes import Task, measure, measure_twins
from redundancy.probe.tables import LEARNING, Tables, print_tables, tabulate, tabulate_learning
from redundancy.regression.ridge import PENALTIES
from redundancy.regression.scores import LayerScores
from redundancy.request import Request, Settings, prepare

# parts of the training text behind the learning curve
PARTS = (0.25, 0.5)


@dataclass(frozen=True)
class ProbeConfig(Request):
    """Everything that changes a number of a probe run. `None` means chosen automatically, and the choice is
    printed.
    """

    feature: Feature = "resid_pre"
    """What predicts: the residual stream before the block, after its first norm (ln1), or the embedding."""
    learning_curve: bool = False
    """Fit the probe, and that of one random network, to a quarter and to half of the training text too, and
    say whether more text would change them.
    """


def execute(config: ProbeConfig, settings: Settings) -> Tables:
    """The experiment: model, text, moments, ridge, held-out errors, the same with random weights, tables."""
    prepared = prepare(config, settings)
    run = prepared.open_run(settings)
    if run.finished:
        console.print("this run is finished; nothing is computed again")
        return Tables.read(run.folder)
    decoder, task = prepared.decoder, prepared.task(settings, config.feature)

    state = run.folder / "state"
    trained, fitted = measure(decoder, task, controls=True, state=state, label="model")
    twins = measure_twins(decoder, task, config.random_seeds, state)

    penalties = {n: f.penalties for n, f in fitted.items()}
    chosen = [p[task.feature] for p in penalties.values()]
    why = (
        f"smallest validation error per layer, from {PENALTIES[0]:g} to {PENALTIES[-1]:g}"
        if task.ridge is None
        else "asked for"
    )
    choice("ridge penalty", f"{min(chosen):g} to {max(chosen):g}", why)

    bootstrap = Studentised(len(task.windows["evaluation"].names), task.seed)
    learning = pd.DataFrame(columns=list(LEARNING))
    if config.learning_curve:
        parts = [
            *measure_parts(decoder, task, state),
            (task.windows["train"].tokens, {"trained": trained, "random": twins[0]}),
        ]
        learning = tabulate_learning(parts, task.feature, bootstrap)
    tables = tabulate(decoder, task, trained, twins, penalties, learning, bootstrap, prepared.facts)
    tables.write(run)
    if processes.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
    return replace(tables, folder=run.folder)


def measure_parts(
    decoder: Decoder, task: Task, state: Path
) -> Iterator[tuple[int, dict[str, dict[int, LayerScores]]]]:
    """The probe of the model and of one random network, fitted to PARTS of the training windows: training
    tokens, scores.
    """
    windows = task.windows["train"]
    for part in PARTS:
        fewer = windows.slice(0, max(1, round(part * len(windows.lengths))))
        if fewer.tokens < decoder.d_model + 1:
            raise UserError(
                f"--learning-curve fits to {part:g} of the training text, which is {fewer.tokens} tokens and "
                f"fewer than the {decoder.d_model + 1} that a probe needs. Increase --tokens, or leave "
                "--learning-curve out."
            )
        small = replace(task, windows=task.windows | {"train": fewer})
        label = f"{fewer.tokens} tokens"
        own, _ = measure(decoder, small, controls=False, state=state, label=label)
        twin = random_twin(decoder, task.seed + 1)
        random, _ = measure(twin, small, controls=False, state=state, label=f"{label}, random weights")
        yield fewer.tokens, {"trained": own, "random": random}


def run_probe(model: str | None, settings: Settings | None, options: dict[str, Any]) -> Tables:
    """What `redundancy.probe_model` does. Raises UserError for options that there are not."""
    unknown = sorted(set(options) - set(asdict(ProbeConfig())))
    if unknown:
        raise UserError(f"unknown options {unknown}; there are {sorted(asdict(ProbeConfig()))}.")
    return execute(ProbeConfig(model=model or "embedded", **options), settings or Settings())


@dataclass(frozen=True)
class Command:
    """Measure how much of attention's output a linear map of the hidden state predicts, beside its controls."""

    config: tyro.conf.OmitArgPrefixes[ProbeConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]


def work(command: Command) -> Path | None:
    """Measure, draw and print."""
    # plotting libraries are slow to import; errors of the options should be fast
    from redundancy.probe.figures import draw

    with processes.together():
        tables = execute(command.config, command.settings)
        if processes.rank() > 0:
            return None
        draw(tables.folder, tables.folder)
        print_tables(tables)
    return tables.folder


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.probe", Command, work, args)


if __name__ == "__main__":
    main()
