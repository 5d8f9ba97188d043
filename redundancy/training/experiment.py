"""Redundancy over training: the probe and all its controls at every checkpoint.

`python -m redundancy.training [MODEL]` measures every checkpoint on the same held-out documents, so that
differences between checkpoints are paired over documents. `execute` is the experiment, step by step;
`checkpoints` says where checkpoints come from, `tables` makes the tables.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from labbook import processes
from labbook.console import UserError, choice, stages, warn
from labbook.estimate import Studentised
from labbook.run import load_tensors, owner, save_tensors
from redundancy.evaluation import evaluate
from redundancy.model.decoder import Decoder
from redundancy.model.loading import load_config, load_model
from redundancy.passes import STAGES, Task, measure, measure_twins
from redundancy.preparation import NOTHING, Given, entering, prepare, repeated
from redundancy.regression.scores import LayerScores
from redundancy.request import Settings
from redundancy.training.attention import attention_statistics
from redundancy.training.checkpoints import Checkpoint, check_same, find_checkpoints
from redundancy.training.config import TrainingConfig
from redundancy.training.tables import Course, Measured, tabulate_course


def execute(
    config: TrainingConfig,
    settings: Settings,
    given: Given = NOTHING,
    checkpoints: Sequence[Checkpoint] = (),
) -> Course:
    """The experiment: find the checkpoints, cut one text for all, measure each, compare them.

    `given` and `checkpoints` (ordered by step) are what Python hands over.
    """
    folder = repeated(config, settings, given)
    if folder is not None:
        return Course.read(folder)
    checkpoints = checkpoints or find_checkpoints(
        config.model, config.revisions, config.checkpoints, trust_remote_code=config.trust_remote_code
    )
    check_same([(c.name, _shape(c)) for c in checkpoints])
    name = Path(config.model).resolve().name if Path(config.model).is_dir() else config.model
    prepared = prepare(config, settings, replace(given, source=checkpoints[-1].source, name=name))
    # an error, before anything is written, where the model has no such target
    decoder = prepared.decoder.aimed(config.target)
    task = replace(prepared.task(settings, entering(decoder)), both_tokens=True)
    if task.start_position == 0:
        raise UserError(
            "--keep-position-0 cannot be had here: the control on both tokens needs a token before each. "
            "Leave it out."
        )
    run = prepared.open_run(settings, {"steps": [c.step for c in checkpoints]})
    if run.finished:
        return Course.read(run.folder)

    state = run.folder / "state"
    measured: list[Measured] = []
    hashes: dict[str, str] = {}
    # of every checkpoint its loss and its attention patterns too
    count = len(checkpoints) * (STAGES + 2) + config.random_seeds * STAGES
    with stages("all checkpoints", count):
        for checkpoint in checkpoints:
            result = measure_checkpoint(checkpoint, decoder, task, settings, state)
            if result.weight_hash in hashes:
                same = hashes[result.weight_hash]
                warn(f"{checkpoint.name} has the same weights as {same}; it gets no row of its own.")
                continue
            hashes[result.weight_hash] = checkpoint.name
            measured.append(result)
        twins = measure_twins(decoder, task, config.random_seeds, state)

    bootstrap = Studentised(len(task.windows["evaluation"].names), task.seed)
    course = tabulate_course(task, measured, twins, bootstrap, prepared.facts, config.target)
    course.write(run)
    if processes.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
    return replace(course, folder=run.folder)


def _shape(checkpoint: Checkpoint) -> tuple[object, ...]:
    shape = load_config(checkpoint.source).get_text_config(decoder=True)
    return (
        shape.model_type,
        shape.num_hidden_layers,
        shape.num_attention_heads,
        shape.hidden_size,
        shape.vocab_size,
    )


def measure_checkpoint(
    checkpoint: Checkpoint, last: Decoder, task: Task, settings: Settings, state: Path
) -> Measured:
    """Probe, controls, loss and attention patterns of one checkpoint, with the target of the `last` one; what
    a killed run has finished is read back.
    """
    path = state / f"{checkpoint.name}.safetensors"
    if processes.agree(path.exists()):
        return _restore(checkpoint, path, task, last)
    decoder = load_model(
        checkpoint.source, last.device, last.dtype, task.seed, split=settings.device == "split"
    )
    choice("checkpoint", checkpoint.name, f"step {checkpoint.step:,}")
    scores, _ = measure(decoder.aimed(last.target), task, controls=True, state=state, label=checkpoint.name)
    losses, _ = evaluate(
        decoder, task, [], state / f"{checkpoint.name}-loss.safetensors", f"{checkpoint.name}: loss"
    )
    patterns = attention_statistics(decoder, task, f"{checkpoint.name}: attention")
    measured = Measured(
        name=checkpoint.name,
        step=checkpoint.step,
        weight_hash=decoder.weight_hash(),
        scores=scores,
        losses=losses,
        patterns=patterns,
    )
    if processes.rank() == 0:
        _save(measured, path)
    return measured


def _save(measured: Measured, path: Path) -> None:
    tensors = {"losses": measured.losses, "patterns": measured.patterns}
    for n, scores in measured.scores.items():
        tensors |= {f"scores/{n}/{name}": values for name, values in scores.state().items()}
        tensors |= {f"map/{n}/weight": scores.weight, f"map/{n}/bias": scores.bias}
    save_tensors(path, tensors, {"weight_hash": measured.weight_hash}, owner(path))


def _restore(checkpoint: Checkpoint, path: Path, task: Task, decoder: Decoder) -> Measured:
    tensors, metadata = load_tensors(path, owner(path))
    parts: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        if key.count("/") >= 2:
            kind, layer, name = key.split("/", 2)
            parts.setdefault(kind, {}).setdefault(int(layer), {})[name] = value
    scores = {}
    for n in task.layers:
        output = parts["map"][n]
        scores[n] = LayerScores.of_state(
            parts["scores"][n], (output["weight"], output["bias"]), decoder.n_heads
        )
    return Measured(
        name=checkpoint.name,
        step=checkpoint.step,
        weight_hash=metadata["weight_hash"],
        scores=scores,
        losses=tensors["losses"],
        patterns=tensors["patterns"],
    )
