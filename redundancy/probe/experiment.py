"""Measure how much of attention's output a linear map of the hidden state predicts.

`python -m redundancy.probe [MODEL]`; `execute` is the experiment, step by step. The scores are defined in
`regression/scores`, the controls in `regression/controls`.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from labbook import processes
from labbook.console import UserError, choice, stages
from labbook.estimate import Studentised
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.passes import STAGES, Task, measure, measure_twins
from redundancy.preparation import NOTHING, Given, entering, prepare, repeated
from redundancy.probe import learning
from redundancy.probe.config import ProbeConfig, ProbeSettings
from redundancy.probe.kept import Probes
from redundancy.probe.tables import Scored, Tables, tabulate
from redundancy.regression.ridge import PENALTIES
from redundancy.regression.scores import LayerScores

# parts of the training text behind the learning curve
PARTS = (0.25, 0.5)


def execute(config: ProbeConfig, settings: ProbeSettings, given: Given = NOTHING) -> Tables:
    """The experiment: model, text, moments, ridge, held-out errors, the same with random weights, tables."""
    folder = repeated(config, settings, given)
    if folder is not None:
        return Tables.read(folder)
    if config.target != "attention" and config.feature != "resid_pre":
        raise UserError(
            f"--feature {config.feature} was asked for with --target {config.target}; what the MLP or a "
            "block adds is predicted from the stream that enters it. Leave --feature out, or change --target."
        )
    prepared = prepare(config, settings, given)
    # an error, before anything is written, where the model has no such target
    decoder = prepared.decoder.aimed(config.target)
    run = prepared.open_run(settings)
    if run.finished:
        return Tables.read(run.folder)
    task = prepared.task(settings, entering(decoder, config.feature))

    state = run.folder / "state"
    models = 1 + config.random_seeds
    # the learning curve fits the model and a random network to every part
    fits = models + 2 * len(PARTS) * config.learning_curve
    with stages("all of the probe", STAGES * fits):
        trained, fitted = measure(decoder, task, controls=True, state=state, label="model")
        twins = measure_twins(decoder, task, config.random_seeds, state)

        scored = Scored(trained, twins, {n: f.penalties for n, f in fitted.items()})
        chosen = {n: penalties[task.feature] for n, penalties in scored.penalties.items()}
        why = "asked for" if task.ridge is not None else chosen_from(chosen)
        choice("ridge penalty", f"{min(chosen.values()):g} to {max(chosen.values()):g}", why)

        bootstrap = Studentised(len(task.windows["evaluation"].names), task.seed)
        course = pd.DataFrame(columns=list(learning.LEARNING))
        if config.learning_curve:
            parts = [
                *measure_parts(decoder, task, state),
                (task.windows["train"].tokens, {"trained": trained, "random": twins[0]}),
            ]
            course = learning.tabulate_learning(parts, task.feature, bootstrap)
    tables = tabulate(decoder, task, scored, course, bootstrap, prepared.facts)
    if settings.probes and config.target != "attention":
        choice("kept probes", "none", "they stand for attention, which was not the target")
    elif settings.probes and processes.rank() == 0:
        Probes.of(fitted, decoder, task, prepared.facts).save(run.folder)
    tables.write(run)
    if processes.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
    return replace(tables, folder=run.folder)


def chosen_from(penalties: Mapping[int, float]) -> str:
    """How the ridge penalty of every layer was chosen. Where it is the smallest or the largest tried, a
    better one may lie beyond, and the layers are named.
    """
    text = f"smallest validation error per layer, from {PENALTIES[0]:g} to {PENALTIES[-1]:g}"
    for name, edge in (("smallest", PENALTIES[0]), ("largest", PENALTIES[-1])):
        at = [str(layer) for layer, penalty in penalties.items() if penalty == edge]
        if at:
            text += f"; the {name} tried in layer{'s' * (len(at) > 1)} {', '.join(at)}"
    return text


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
