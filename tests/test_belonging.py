"""States, tables and summaries of training runs belong to the run they lie in, or are refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from consolidation.coverage import __main__ as coverage
from consolidation.coverage.simulation import COLUMNS
from consolidation.decay import humans
from consolidation.decay.transitions import alternatives, half_times, schedule_slope, transition
from consolidation.fit import __main__ as fit_command
from consolidation.fit.config import FitConfig
from consolidation.fit.source import read
from consolidation.replicate import __main__ as replicate
from consolidation.replicate.figures import FIGURES
from consolidation.theory import PhasePlane, fit_phase_plane, fit_phase_planes
from consolidation.train import trajectory
from consolidation.train.presets import preset
from consolidation.train.trainer import STATE, Trainer
from labbook.console import UserError
from labbook.run import load_tensors, save_tensors
from tests.conftest import fails

SMALL = humans.DATA / "runs" / "small"
QUICK = replace(
    preset("tiny"), steps=6, evaluations=1, evaluation=4, batch=2, pressure_start=2, pressure_ramp=2
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "cram"
    for seed in (0, 1):
        Trainer(QUICK, seed, folder / f"seed-{seed}").train()
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "cram"))


def refused(run: Path, words: str) -> None:
    with pytest.raises(UserError, match=words):
        trajectory.load(run, "trajectory")
        trajectory.load(run, "patterns")
        trajectory.summaries(run)


def test_a_whole_run_is_read(run):
    assert set(trajectory.load(run, "trajectory")["seed"]) == {0, 1}
    assert len(trajectory.summaries(run)) == 2
    about = {
        k.decode(): v.decode()
        for k, v in pq.read_schema(run / "seed-1" / "patterns.parquet").metadata.items()
    }
    assert about["version"] == "3"
    assert about["config_digest"] == trajectory.config_digest(trajectory.read_config(run / "seed-1"))
    assert json.loads(about["facts"])["seed"] == 1
    assert len(about["checksum"]) == 64


def test_tables_of_another_seed_table_or_configuration_are_refused(run):
    one, other = run / "seed-0", run / "seed-1"
    kept = (one / "trajectory.parquet").read_bytes()
    shutil.copy(other / "trajectory.parquet", one / "trajectory.parquet")
    refused(run, r"is not of the run that it lies in \(seed: there 1, asked 0\)")
    shutil.copy(one / "patterns.parquet", one / "trajectory.parquet")
    refused(run, "holds the table 'patterns' and not 'trajectory'")
    (one / "trajectory.parquet").write_bytes(kept)
    config = json.loads((one / "config.json").read_text())
    config["benchmark"]["length"] = 128
    (one / "config.json").write_text(json.dumps(config))
    refused(run, "benchmark.length: there 64, asked 128")


def test_changed_values_are_refused(run):
    path = run / "seed-0" / "trajectory.parquet"
    arrow = pq.read_table(path)
    table = arrow.to_pandas()
    table.loc[3, "value"] += 1e-9
    changed = pq.read_table(path).from_pandas(
        table, schema=arrow.schema.remove_metadata(), preserve_index=False
    )
    pq.write_table(changed.replace_schema_metadata(arrow.schema.metadata), path)
    refused(run, "its checksum is not that of its content")


def test_tables_of_version_1_are_checked_as_far_as_they_can_be(run):
    path = run / "seed-0" / "trajectory.parquet"
    arrow = pq.read_table(path)
    old = {
        k.decode(): v.decode()
        for k, v in arrow.schema.metadata.items()
        if k in (b"schema", b"table", b"facts")
    }
    pq.write_table(arrow.replace_schema_metadata({**old, "version": "1"}), path)
    assert len(trajectory.load(run, "trajectory")) > 0
    cut = arrow.slice(0, arrow.num_rows // 2)
    pq.write_table(cut.replace_schema_metadata({**old, "version": "1"}), path)
    refused(run, "last step: there")
    pq.write_table(arrow.replace_schema_metadata({**old, "version": "one"}), path)
    refused(run, "its metadata cannot be read")


def test_every_shipped_run_is_read():
    for folder in sorted(p for p in SMALL.iterdir() if p.is_dir()):
        n = len(trajectory.summaries(folder))
        assert trajectory.load(folder, "trajectory")["seed"].nunique() == n
        if (folder / "seed-0" / "patterns.parquet").exists():
            assert trajectory.load(folder, "patterns")["seed"].nunique() == n


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"seed": 0}', b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_json_is_named(run, name, text, capsys):
    path = run / "seed-0" / name
    path.write_bytes(text)
    with pytest.raises(UserError, match=f"seed-0/{name} (cannot be read|is not that of a training run)"):
        trajectory.summaries(run)
    with pytest.raises(UserError, match="seed-0"):
        Trainer(QUICK, 0, run / "seed-0").train()
    assert str(path) in fails(fit_command.main, capsys, [str(run)])


def test_summaries_of_another_run_are_refused(run):
    path = run / "seed-0" / "summary.json"
    good = json.loads(path.read_text())
    for change, words in (
        ({"seed": 1}, "seed: 1"),
        ({"steps": 5}, "steps: 5"),
        ({"config_digest": "0"}, "the digest of its configuration"),
        ({"pairs": "many"}, "something that is no number"),
        ({"accuracy": [1]}, "something that is no number"),
    ):
        path.write_text(json.dumps({**good, **change}))
        refused(run, words)
    path.write_text(json.dumps(good))
    (run / "seed-1").rename(run / "seed-7")
    refused(run, "holds seed 1 by its config.json")


# states


def state(tmp_path: Path) -> tuple[Path, dict, dict]:
    trainer = Trainer(QUICK, 0, tmp_path)
    for _ in range(3):
        trainer._step(trainer.step)
    trainer.save()
    return tmp_path / STATE, *load_tensors(tmp_path / STATE)


def test_states_that_cannot_be_this_runs_are_refused(tmp_path):
    path, tensors, about = state(tmp_path)
    assert Trainer(QUICK, 0, tmp_path).step == 3
    weight = next(k for k in tensors if k.startswith("model:") and tensors[k].dim() == 2)
    changed = {**tensors, weight: tensors[weight] + 1}
    cases = [
        (tensors, {**about, "step": "7"}, "says that 7 steps"),
        (tensors, {**about, "step": "-1"}, "says that -1 steps"),
        (tensors, {**about, "step": "many"}, "its step or its rows cannot be read"),
        (tensors, {**about, "seconds": "nan"}, "says that 3 steps in nan s"),
        (tensors, {**about, "config_digest": "0"}, "the state of a run with another configuration or seed"),
        (tensors, {k: v for k, v in about.items() if k != "config_digest"}, "another configuration or seed"),
        (changed, about, "its checksum is not that of its content"),
    ]
    for content, said, words in cases:
        save_tensors(path, content, said)
        with pytest.raises(UserError, match=words):
            Trainer(QUICK, 0, tmp_path)
    save_tensors(path, tensors, about)
    assert Trainer(QUICK, 0, tmp_path).step == 3


def test_a_run_with_a_field_that_left_goes_on_at_its_only_value(tmp_path):
    state(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["compile"] is False
    (tmp_path / "config.json").write_text(json.dumps({**config, "compile": True}))
    with pytest.raises(UserError, match="compile: there True, asked False"):
        Trainer(QUICK, 0, tmp_path)


def test_a_state_of_another_seed_of_equal_shape_is_refused(tmp_path):
    path, _, _ = state(tmp_path / "a")
    Trainer(QUICK, 1, tmp_path / "b")
    shutil.copy(path, tmp_path / "b" / STATE)
    with pytest.raises(UserError, match="another configuration or seed"):
        Trainer(QUICK, 1, tmp_path / "b")


# replicate and coverage


@pytest.mark.slow
def test_a_folder_of_another_preset_is_refused_by_the_fields_that_differ(tmp_path, capsys, monkeypatch):
    # fitted seed by seed, which takes longer than everything else here
    monkeypatch.delitem(FIGURES, "consolidation_phase_plane")
    for name in ("cram", "control"):
        shutil.copytree(SMALL / name, tmp_path / name)
    flags = ["--tables", "table4", "--seeds", "0", "--out", str(tmp_path)]
    said = fails(replicate.main, capsys, ["base", *flags])
    assert "cram/seed-0 was trained with another configuration than table4, cram has" in said
    assert "benchmark.length: there 256, asked 1024" in said
    assert not (tmp_path / "cells.csv").exists()
    replicate.main(["small", *flags])
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert set(cells["cell"]) == {"cram", "control"}
    one = json.loads((tmp_path / "control" / "seed-3" / "config.json").read_text())
    (tmp_path / "control" / "seed-3" / "config.json").write_text(json.dumps({**one, "model": "cram"}))
    assert "model: there 'cram', asked 'control'" in fails(replicate.main, capsys, ["small", *flags])
    assert "--seeds -1" in fails(
        replicate.main, capsys, ["small", "--seeds", "-1", "--out", str(tmp_path / "n")]
    )


def test_coverage_does_not_mix_settings(tmp_path, capsys):
    shipped = pd.read_csv(Path(__file__).parent.parent / "figures" / "coverage.csv")
    assert tuple(shipped.columns) == COLUMNS
    path = tmp_path / "c.csv"
    shipped.to_csv(path, index=False)
    made = ["--simulations", "400", "--replicates", "600", "--out", str(path)]
    made += ["--forms", *dict.fromkeys(shipped["form"])]
    coverage.main(made)
    pd.testing.assert_frame_equal(pd.read_csv(path), shipped)
    for flag, value in (("--simulations", "10"), ("--replicates", "50"), ("--seed", "1")):
        there = {"--simulations": 400, "--replicates": 600, "--seed": 0}[flag]
        said = fails(coverage.main, capsys, [*made, flag, value])
        assert f"holds rows made with {flag} {there}, asked was {value}" in said
    shipped.drop(columns="seed").to_csv(path, index=False)
    assert "it lacks seed" in fails(coverage.main, capsys, made)
    path.write_text("")
    assert "cannot be read as a table" in fails(coverage.main, capsys, made)
    assert "--simulations 0" in fails(
        coverage.main, capsys, ["--simulations", "0", "--out", str(tmp_path / "n.csv")]
    )


# change points


def noisy(y: np.ndarray, units: int = 6, seed: int = 0) -> np.ndarray:
    return y + 0.03 * np.random.default_rng(seed).standard_normal((units, len(y)))


STEPS = np.arange(0, 4000, 100.0)


@pytest.mark.parametrize(
    ("shape", "preferred"),
    [
        (np.full(40, 0.5), "constant"),
        (1 - STEPS / 8000, "linear"),
        (np.where(STEPS < 2000, 1.0, 0.1), "step"),
        (np.clip((2600 - STEPS) / 1600, 0, 1), "ramp"),
    ],
)
def test_change_points_are_held_against_no_change_and_a_ramp(shape, preferred):
    found = transition(STEPS, noisy(shape), {"event": 2000.0})
    assert found.preferred == preferred
    assert found.support > 0.5
    assert min(found.aicc, key=found.aicc.get) == preferred
    if preferred in ("constant", "linear"):
        assert "there is no transition" in found.verdict
        assert found.events == ()
    else:
        assert {"step": "a sharp step", "ramp": "a gradual ramp"}[preferred] in found.verdict


def test_aicc_of_the_alternatives_is_that_of_least_squares():
    y = noisy(np.clip((2600 - STEPS) / 1600, 0, 1), 1)
    found = alternatives(STEPS, y)
    n = len(STEPS)
    line = np.polyval(np.polyfit(STEPS, y[0], 1), STEPS)
    splits = [
        np.sum((y[0, :i] - y[0, :i].mean()) ** 2) + np.sum((y[0, i:] - y[0, i:].mean()) ** 2)
        for i in range(1, n)
    ]
    for name, square, k in (("linear", np.sum((y[0] - line) ** 2), 3), ("step", min(splits), 4)):
        wanted = n * math.log(square / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        assert found[name][0] == pytest.approx(wanted, rel=1e-9)


def test_half_times_and_the_schedule():
    y = np.stack([np.clip((at + 500 - STEPS) / 1000, 0, 1) for at in (1000, 1550)])
    assert half_times(STEPS, y) == pytest.approx([1000, 1550])
    assert np.isnan(half_times(STEPS, np.ones((1, len(STEPS))))).all()
    onsets = (200.0, 400.0, 600.0)
    follows = {on: {f"{s}": 800 + on + 100 * s + 2 * (s - 1) * (on > 300) for s in range(4)} for on in onsets}
    still = {
        on: {f"{s}": 1200 + 100 * s + (5 if (s + on / 200) % 2 else -5) for s in range(4)} for on in onsets
    }
    found = schedule_slope("pressure", follows)
    assert found.slope.estimate == pytest.approx(1, abs=0.05)
    assert "follows the schedule" in found.verdict
    assert "does not follow the schedule" in schedule_slope("pressure", still).verdict
    half = {on: {s: 1200 + 0.5 * (value - 1200) for s, value in v.items()} for on, v in follows.items()}
    assert "in part" in schedule_slope("pressure", half).verdict
    against = {on: {s: 3000 - value for s, value in v.items()} for on, v in follows.items()}
    assert "moves against" in schedule_slope("pressure", against).verdict
    with pytest.raises(UserError, match="at least 2 are needed"):
        schedule_slope("pressure", {200.0: {"0": 1.0}, 400.0: {"1": 2.0}})


def test_the_shipped_shifts_are_the_evidence_for_the_schedule(capsys):
    change = read(FitConfig()).change
    assert change.preferred == "ramp"
    shift = change.schedule
    assert {k: round(v) for k, v in shift.half_times["0"].items()} == {200: 1165, 400: 1258, 600: 1363}
    assert set(shift.half_times) == {"0", "1"}
    assert shift.slope.estimate > 0
    assert "is not decided" in shift.verdict


@pytest.mark.slow
def test_phase_planes_have_intervals_over_seeds_and_both_starts():
    steps = np.linspace(0, 4000, 40)
    truths = [PhasePlane(0.002, 0.003, star, (0.1, 0.4), 0.0, 1.0) for star in (0.28, 0.3, 0.32)]
    paths = np.stack([t.path(steps) for t in truths])
    found = fit_phase_planes(steps, paths[:, 0], paths[:, 1])
    star = found.numbers["q_star"]
    assert (star.estimate, star.n) == (pytest.approx(0.3, abs=0.01), 3)
    assert star.lower < 0.28 < 0.32 < star.upper
    assert found.numbers["explained_from_observed"].estimate > 0.99
    assert (found.numbers["q_observed"].estimate, found.numbers["p_observed"].estimate) == pytest.approx(
        (0.1, 0.4)
    )
    # from where trained models begin the model never moves, which a fitted start hides
    stuck = paths[0].copy()
    stuck[:, 0] = (0.1, 0.0)
    assert fit_phase_plane(steps, *stuck).explained > 0.9
    assert fit_phase_plane(steps, *stuck, from_observed=True).explained < 0.5
    assert "from the start that was observed" in found.verdict
    with pytest.raises(UserError, match="at least 2 seeds"):
        fit_phase_planes(steps, paths[:1, 0], paths[:1, 1])
