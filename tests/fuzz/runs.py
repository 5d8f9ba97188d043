"""Run folders: finished ones, states of unfinished ones, and trajectories."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from consolidation.config import EXPOSURE_CLOCKS
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from consolidation.train.presets import preset
from consolidation.train.trainer import STATE, Trainer
from labbook.estimate import Estimate
from labbook.run import Run
from redundancy import passes as measure
from redundancy.probe.summary import ProbeSummary
from redundancy.probe.tables import FRAMES, Tables
from tests.fuzz.judge import Case, damage, equal

QUICK = replace(
    preset("tiny"), steps=6, evaluations=1, evaluation=4, batch=2, pressure_start=2, pressure_ramp=2
)


def frame(table: pd.DataFrame) -> object:
    """A table by column, comparable."""
    return {name: table[name].tolist() for name in table}


def probe_run(folder: Path, seed: int) -> Path:
    """A finished probe run with made-up numbers."""
    rng = np.random.default_rng(seed)
    tables = {
        name: pd.DataFrame(
            {"layer": range(4), "estimate": rng.random(4), "n": 9}, columns=["layer", "estimate", "n"]
        )
        for name in FRAMES
    }
    value = float(rng.random())
    summary = ProbeSummary(
        model="made up",
        feature="resid_pre",
        layers=(0,),
        depth=1,
        random_seeds=2,
        heads_per_layer=1,
        aggregation="none",
        tokens={"train": 9},
        documents={"train": 9},
        unit="document",
        position_0="excluded",
        metrics={"R": Estimate(value, value, value, 9)},
        controls={},
        differences={},
        head_groups={},
        penalties={},
        paper=None,
        verdict="none",
        learning={},
        at_position_0={},
    )
    Run(folder, {"model": "made up", "seed": seed}).finish(tables, summary.json())
    return folder


def read_probe(folder: Path) -> object:
    """Summary and tables, as resumed commands and figures read them."""
    found = Tables.read(folder)
    return found.summary, {name: frame(getattr(found, name)) for name in FRAMES}


def finished_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """summary.json, config.json and tables of a finished run."""
    one, other, place = probe_run(folder / "one", 1), probe_run(folder / "other", 2), folder / "place"
    wanted = read_probe(one)

    def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[], object]:
        return lambda: (place / name).write_bytes(change((place / name).read_bytes()))

    def summary(**more: object) -> Callable[[], object]:
        return edit("summary.json", lambda data: json.dumps({**json.loads(data), **more}).encode())

    yield Case("finished run", "as it is", lambda: read_probe(one), equal(wanted), whole=True)
    edits: dict[str, Callable[[], object]] = {
        "a table of another seed": lambda: shutil.copy(other / "layers.csv", place),
        "two tables swapped": lambda: (place / "layers.csv").write_bytes((place / "heads.csv").read_bytes()),
        "the summary of another seed": lambda: shutil.copy(other / "summary.json", place),
        "the configuration of another seed": lambda: shutil.copy(other / "config.json", place),
        "a table removed": lambda: (place / "heads.csv").unlink(),
        "the summary removed": lambda: (place / "summary.json").unlink(),
        "a row removed": edit("layers.csv", lambda d: d[: d.rstrip().rfind(b"\n") + 1]),
        "a number changed": edit("layers.csv", lambda d: d.replace(b"0,0.", b"0,1.", 1)),
        "a number of the summary changed": summary(metrics={"R": {"estimate": 0.9, "n": 9}}),
        "a word of the summary changed": summary(verdict="all of it"),
        "a list": edit("summary.json", lambda d: b"[1]"),
        "no file at all": edit("summary.json", lambda d: b""),
        "a folder for a table": lambda: ((place / "heads.csv").unlink(), (place / "heads.csv").mkdir()),
    }
    for name, change in edits.items():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(one, place)
        change()
        yield Case("finished run", name, lambda: read_probe(place), None)
    names = sorted(p.name for p in one.iterdir())
    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(one, place)
        fault = damage(place / str(rng.choice(names)), rng)
        yield Case("finished run", fault, lambda: read_probe(place), equal(wanted))


def read_training(run: Path) -> object:
    """Both tables, the summaries and the curve of a consolidation run, as `fit` and the figures read them."""
    curve = episodic_curve(run, EXPOSURE_CLOCKS[2], least=1)
    tables = {name: frame(trajectory.load(run, name)) for name in ("trajectory", "patterns")}
    return tables, trajectory.summaries(run), curve.x.tolist(), curve.y.tolist()


def _quietly(action: Callable[[], object]) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        action()


def trajectory_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Parquet tables, summaries and configurations of a training run of two seeds."""
    run, place = folder / "run", folder / "place"
    for seed in (0, 1):
        _quietly(Trainer(QUICK, seed, run / f"seed-{seed}").train)
    wanted = read_training(run)
    yield Case("trajectory", "as it is", lambda: read_training(run), equal(wanted), whole=True)

    def swap(name: str, other: str | None = None) -> Callable[[], object]:
        return lambda: shutil.copy(place / "seed-1" / (other or name), place / "seed-0" / name)

    def value() -> None:
        table = trajectory.read(place / "seed-0" / "trajectory.parquet")[0]
        about = trajectory.pq.read_schema(place / "seed-0" / "trajectory.parquet").metadata
        table.loc[3, "value"] += 0.01
        arrow = trajectory.pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(about)
        trajectory.pq.write_table(arrow, place / "seed-0" / "trajectory.parquet")

    def summary() -> None:
        path = place / "seed-0" / "summary.json"
        found = json.loads(path.read_text())
        found["attention"]["all"] += 0.125
        path.write_text(json.dumps(found))

    edits: dict[str, Callable[[], object]] = {
        "the trajectory of another seed": swap("trajectory.parquet"),
        "the patterns of another seed": swap("patterns.parquet"),
        "another table": swap("trajectory.parquet", "patterns.parquet"),
        "the summary of another seed": swap("summary.json"),
        "the configuration of another seed": swap("config.json"),
        "a value changed": value,
        "a number of the summary changed": summary,
        "a table removed": lambda: (place / "seed-1" / "patterns.parquet").unlink(),
        "a seed renamed": lambda: (place / "seed-1").rename(place / "seed-4"),
    }
    for name, change in edits.items():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run, place)
        change()
        yield Case("trajectory", name, lambda: read_training(place), None)
    names = ("trajectory.parquet", "patterns.parquet", "summary.json", "config.json")
    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run, place)
        fault = damage(place / f"seed-{int(rng.integers(2))}" / str(rng.choice(names)), rng)
        yield Case("trajectory", fault, lambda: read_training(place), equal(wanted))


def read_state(place: Path) -> object:
    """What a resumed training goes on from."""
    trainer = Trainer(QUICK, 0, place)
    return (
        trainer.step,
        trainer.rows,
        {k: t.cpu().numpy() for k, t in trainer._tensors().items() if k != "log"},
    )


def read_sums(place: Path) -> object:
    """What a resumed pass over a text goes on from."""
    state, done = measure.Saved(place / "state" / "moments.safetensors").load({"train": 40, "validation": 9})
    return {n: {k: t.numpy() for k, t in tensors.items()} for n, tensors in state.items()}, done


def state_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """States of unfinished runs: of training, and of the passes of probe, removal and courses over a text."""
    run, place = folder / "run", folder / "place"
    for seed in (0, 1):
        trainer = Trainer(QUICK, seed, run / f"seed-{seed}")
        for _ in range(3):
            trainer._step(trainer.step)
        trainer.save()
        trainer.run._lock = None  # type: ignore[assignment]
    wanted = read_state(run / "seed-0")
    sums = [folder / f"sums-{seed}" for seed in (0, 1)]
    for seed, path in enumerate(sums):
        Run(path, {"seed": seed})
        tensors = {
            0: {"xx": torch.rand(5, 5, dtype=torch.float64), "n": torch.tensor(7)},
            1: {"xx": torch.rand(5, 5)},
        }
        measure.Saved(path / "state" / "moments.safetensors").save(tensors, {"train": 24})
    wanted_sums = read_sums(sums[0])
    yield Case("state", "as it is", lambda: read_state(run / "seed-0"), equal(wanted), whole=True)
    yield Case("state", "sums as they are", lambda: read_sums(sums[0]), equal(wanted_sums), whole=True)
    shutil.copytree(run / "seed-0", place)
    shutil.copy(run / "seed-1" / STATE, place)
    yield Case("state", "of another seed", lambda: read_state(place), None)
    shutil.copy(run / "seed-0" / STATE, place)
    shutil.copy(run / "seed-1" / "config.json", place)
    yield Case("state", "in the folder of another seed", lambda: read_state(place), None)
    shutil.rmtree(place)
    shutil.copytree(sums[0], place)
    shutil.copy(sums[1] / "state" / "moments.safetensors", place / "state")
    yield Case("state", "sums of another run", lambda: read_sums(place), None)
    while True:
        shutil.rmtree(place, ignore_errors=True)
        if rng.random() < 0.5:
            shutil.copytree(run / "seed-0", place)
            fault = damage(place / str(rng.choice([STATE, STATE, "config.json"])), rng)
            yield Case("state", fault, lambda: read_state(place), equal(wanted))
        else:
            shutil.copytree(sums[0], place)
            fault = damage(place / "state" / "moments.safetensors", rng)
            yield Case("state", f"sums, {fault}", lambda: read_sums(place), equal(wanted_sums))
