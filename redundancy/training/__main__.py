"""Redundancy over training: the probe and all its controls at every checkpoint: `python -m
redundancy.training [MODEL]`.

Every checkpoint is measured on the same held-out documents, so differences between checkpoints are paired
over documents. `execute` is the experiment, step by step; `checkpoints` says where checkpoints come from,
`courses` makes the tables.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from torch import Tensor

from labbook import processes
from labbook.command import run_command
from labbook.console import UserError, choice, console, warn
from labbook.estimate import Studentised
from labbook.run import load_tensors, owner, save_tensors
from redundancy.evaluation import evaluate
from redundancy.model.decoder import Decoder
from redundancy.model.loading import load_config, load_model
from redundancy.passes import Task, measure, measure_twins
from redundancy.regression.scores import LayerScores
from redundancy.request import Prepared, Request, Settings, prepare
from redundancy.training.attention import attention_statistics
from redundancy.training.checkpoints import Checkpoint, check_same, find_checkpoints
from redundancy.training.tables import Course, Measured, print_course, tabulate_course


@dataclass(frozen=True)
class TrainingConfig(Request):
    """Everything that changes a number of a training run. `None` means chosen automatically, and the choice
    is printed.

    MODEL is the embedded model, a folder of checkpoints, or, with --revisions, a hub id.
    """

    revisions: tuple[str, ...] = ()
    """Hub revisions: step0 step512 ... (or with commas), or all of those whose names hold a step."""
    checkpoints: tuple[str, ...] = ()
    """A list of checkpoints: .gguf files, .safetensors files (with MODEL's configuration), folders, or any
    MODEL.
    """


def execute(config: TrainingConfig, settings: Settings) -> Course:
    """The experiment: find the checkpoints, cut one text for all, measure each, compare them."""
    checkpoints = find_checkpoints(
        config.model, config.revisions, config.checkpoints, config.trust_remote_code
    )
    check_same([(c.name, _shape(c)) for c in checkpoints])
    prepared = prepare(config, settings, checkpoints[-1].source)
    task = replace(prepared.task(settings), both_tokens=True)
    if task.start_position == 0:
        raise UserError(
            "--keep-position-0 cannot be had here: the control on both tokens needs a token before each. "
            "Leave it out."
        )
    run = prepared.open_run(settings, {"steps": [c.step for c in checkpoints]})
    if run.finished:
        console.print("this run is finished; nothing is computed again")
        return Course.read(run.folder)

    state = run.folder / "state"
    measured: list[Measured] = []
    hashes: dict[str, str] = {}
    for checkpoint in checkpoints:
        one = measure_checkpoint(checkpoint, prepared, task, settings, state)
        if one.weight_hash in hashes:
            warn(
                f"{checkpoint.name} has the same weights as {hashes[one.weight_hash]}; it gets no row of its "
                "own."
            )
            continue
        hashes[one.weight_hash] = checkpoint.name
        measured.append(one)
    twins = measure_twins(prepared.decoder, task, config.random_seeds, state)

    bootstrap = Studentised(len(task.windows["evaluation"].names), task.seed)
    course = tabulate_course(task, measured, twins, bootstrap, prepared.facts)
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
    checkpoint: Checkpoint, prepared: Prepared, task: Task, settings: Settings, state: Path
) -> Measured:
    """Probe, controls, loss and attention patterns of one checkpoint; what a killed run has finished is read
    back.
    """
    path = state / f"{checkpoint.name}.safetensors"
    last = prepared.decoder
    if processes.agree(path.exists()):
        return _restore(checkpoint, path, task, last)
    decoder = load_model(
        checkpoint.source, last.device, last.dtype, task.seed, split=settings.device == "split"
    )
    choice("checkpoint", checkpoint.name, f"step {checkpoint.step:,}")
    scores, _ = measure(decoder, task, controls=True, state=state, label=checkpoint.name)
    losses, _ = evaluate(
        decoder, task, [], state / f"{checkpoint.name}-loss.safetensors", f"{checkpoint.name}: loss"
    )
    patterns = attention_statistics(decoder, task, f"{checkpoint.name}: attention")
    one = Measured(
        name=checkpoint.name,
        step=checkpoint.step,
        weight_hash=decoder.weight_hash(),
        scores=scores,
        losses=losses,
        patterns=patterns,
    )
    if processes.rank() == 0:
        _save(one, path)
    return one


def _save(one: Measured, path: Path) -> None:
    tensors = {"losses": one.losses, "patterns": one.patterns}
    for n, scores in one.scores.items():
        tensors |= {f"scores/{n}/{name}": values for name, values in scores.sums.items()}
        tensors |= {f"map/{n}/weight": scores.weight, f"map/{n}/bias": scores.bias}
    save_tensors(path, tensors, {"weight_hash": one.weight_hash}, owner(path))


def _restore(checkpoint: Checkpoint, path: Path, task: Task, decoder: Decoder) -> Measured:
    tensors, metadata = load_tensors(path, owner(path))
    parts: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        if key.count("/") >= 2:
            kind, layer, name = key.split("/", 2)
            parts.setdefault(kind, {}).setdefault(int(layer), {})[name] = value
    scores = {}
    for n in task.layers:
        sums, output = parts["scores"][n], parts["map"][n]
        names = [key.removeprefix("layer/") for key in sums if key.startswith("layer/")]
        scores[n] = LayerScores(
            names, len(sums["count"]), (output["weight"], output["bias"]), decoder.n_heads
        )
        scores[n].restore(sums)
    return Measured(
        name=checkpoint.name,
        step=checkpoint.step,
        weight_hash=metadata["weight_hash"],
        scores=scores,
        losses=tensors["losses"],
        patterns=tensors["patterns"],
    )


@dataclass(frozen=True)
class Command:
    """Measure attention redundancy at every checkpoint of a training run, with all controls, on the same
    documents.
    """

    config: tyro.conf.OmitArgPrefixes[TrainingConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]


def work(command: Command) -> Path | None:
    """Measure, draw and print."""
    # plotting libraries are slow to import; errors of the options should be fast
    from redundancy.training.figures import draw_course

    with processes.together():
        course = execute(command.config, command.settings)
        if processes.rank() > 0:
            return None
        draw_course(course.folder, course.folder)
        print_course(course)
    return course.folder


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.training", Command, work, args)


if __name__ == "__main__":
    main()
