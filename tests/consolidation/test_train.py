"""Training on SRCD: resume, schema, what is recorded, commands and their errors."""

import ast
import json
import math
import re
from dataclasses import is_dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import consolidation.config
import consolidation.train.config
from consolidation.config import EXPOSURE_CLOCKS
from consolidation.replicate import __main__ as replicate
from consolidation.replicate.tabulation import over_seeds
from consolidation.rivals import build
from consolidation.srcd import Exposures, generate
from consolidation.train import __main__ as train
from consolidation.train import trajectory
from consolidation.train.curves import episodic_curve
from consolidation.train.evaluation import memories
from consolidation.train.patterns import bins
from consolidation.train.presets import PRESETS, preset
from consolidation.train.trainer import STATE, Trainer
from labbook.console import Interrupted, UserError
from labbook.run import load_tensors
from tests.conftest import fails

QUICK = replace(
    preset("tiny"),
    steps=24,
    evaluations=3,
    evaluation=8,
    batch=4,
    pressure_start=8,
    pressure_ramp=8,
    temperature_steps=12,
)

# small enough that bindings are lost
BUFFER = 3


def tables(folder):
    course, facts = trajectory.read(folder / "trajectory.parquet")
    patterns, _ = trajectory.read(folder / "patterns.parquet")
    return course[course["metric"] != "seconds"].reset_index(drop=True), patterns, facts


@pytest.mark.parametrize("model", ["cram", "seqboat"])
def test_a_killed_run_goes_on_to_the_same_trajectory_bit_for_bit(model, tmp_path, monkeypatch):
    config = replace(QUICK, model=model)
    whole = Trainer(config, 3, tmp_path / "whole").train()
    for stop in (5, 17):
        trainer = Trainer(config, 3, tmp_path / "parts")
        monkeypatch.setattr(
            "labbook.training.stopping", lambda trainer=trainer, stop=stop: trainer.step >= stop
        )
        with pytest.raises(Interrupted, match=f"The state of step {stop} is saved"):
            trainer.train()
        assert (tmp_path / "parts" / STATE).exists()
    monkeypatch.setattr("labbook.training.stopping", lambda: False)
    parts = Trainer(config, 3, tmp_path / "parts").train()
    assert replace(whole, seconds=0) == replace(parts, seconds=0)
    for one, other in zip(tables(tmp_path / "whole"), tables(tmp_path / "parts"), strict=True):
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        else:
            assert one == other
    weights = [load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not (tmp_path / "parts" / STATE).exists()


def test_the_tables_hold_what_the_schema_says(tmp_path):
    summary = Trainer(QUICK, 0, tmp_path / "r" / "seed-0").train()
    course, patterns, facts = tables(tmp_path / "r" / "seed-0")
    assert facts["model"] == "cram"
    names = {m for key in trajectory.METRICS for m in key.split(", ")}
    for metric in course["metric"].unique():
        known = metric in names or re.match(
            r"accuracy_without_(attention|semantic|working|feed_forward|all)|loss_\w+", metric
        )
        assert known, metric
    assert set(course["step"]) == {0, 1, 2, 4, 8, 16, 24}
    knocked = course[course["metric"].str.startswith("accuracy_without_")]
    assert set(knocked["step"]) == {0, 1, 2, 4, 8, 16, 24}
    shares = course.query("metric == 'attention' and layer == -1").pivot(
        index="step", columns="kind", values="value"
    )
    counts = course.query("metric == 'attention' and layer == -1").pivot(
        index="step", columns="kind", values="n"
    )
    weighted = (shares["query"] * counts["query"] + shares["other"] * counts["other"]) / counts["all"]
    np.testing.assert_allclose(weighted, shares["all"])
    # every recurring query of training is in the table once per clock
    expected = sum(
        int(generate(QUICK.benchmark, 0, s, QUICK.batch).recurring.sum()) for s in range(QUICK.steps)
    )
    assert patterns.groupby("clock")["queries"].sum().to_dict() == dict.fromkeys(EXPOSURE_CLOCKS, expected)
    assert bool(((patterns["k"] >= patterns["k_first"]) & (patterns["k"] <= patterns["k_last"])).all())
    assert patterns["probability"].between(0, 1).all()
    assert summary.optimum == pytest.approx(0.0625 * 0.3)
    assert (
        summary.accuracy["query"]
        == course.query("metric == 'accuracy' and kind == 'query' and step == 24")["value"].item()
    )


def test_exposures_in_the_table_are_those_of_the_stream(tmp_path):
    trainer = Trainer(QUICK, 0, tmp_path)
    exposures = Exposures(QUICK.batch, QUICK.benchmark.patterns)
    k_sum = np.zeros(3)
    for step in range(5):
        batch = generate(QUICK.benchmark, 0, step, QUICK.batch)
        k_sum += exposures.before(batch)[:, batch.recurring].double().sum(1).numpy()
        exposures.add(batch)
        trainer._step(trainer.step)
    table = trainer.table.table()
    found = [(t["k"] * t["queries"]).sum() for _, t in table.groupby("clock", sort=False)]
    np.testing.assert_allclose(sorted(found), sorted(k_sum))
    assert torch.equal(trainer.table.exposures.rows, exposures.rows)


def test_bindings_held_in_the_buffer_are_counted_by_a_loop(tmp_path):
    torch.manual_seed(0)
    model = build("cram", QUICK.benchmark, replace(QUICK.cram, buffer=BUFFER)).eval()
    batch = generate(QUICK.benchmark, 0, 0, 4)
    with torch.no_grad():
        outputs = model(batch, dense=True)
    (found,) = [
        value
        for _, kind, metric, value, _ in memories(outputs, batch, BUFFER)
        if metric == "held" and kind == "query"
    ]
    held = []
    for row in range(4):
        c = outputs.traces[0].novelty[row].tolist()
        for t, s in zip(batch.position[row].tolist(), batch.binding[row].tolist(), strict=True):
            buffer: list[int] = []
            for u in range(t):
                buffer.append(u)
                if len(buffer) > BUFFER:
                    buffer.remove(min(buffer, key=lambda u: (c[u], -u)))
            held.append(s in buffer)
    assert found == pytest.approx(np.mean(held))
    assert not all(held)


def test_schedules():
    config = replace(
        PRESETS["small"], temperature=(1.0, 0.1), temperature_steps=1000, pressure_start=100, pressure_ramp=50
    )
    assert [round(config.temperature_at(s), 6) for s in (0, 500, 1000, 3000)] == [1.0, 0.55, 0.1, 0.1]
    weights = [config.objective_at(s).attention_penalty for s in (0, 99, 125, 150, 4000)]
    assert weights == pytest.approx([0, 0, 0.25, 0.5, 0.5])
    assert config.objective_at(125).semantic_reward == pytest.approx(0.025)
    assert config.objective_at(0).consolidation == 0.5
    assert config.events() == {
        "end of the temperature schedule": 1000.0,
        "routing pressure sets in": 100.0,
        "routing pressure at full weight": 150.0,
    }
    paper = preset("paper").resolved()
    assert paper.objective_at(0).attention_penalty == 0.1
    assert (paper.cram.width, paper.cram.layers, paper.cram.buffer, paper.cram.rank, paper.batch) == (
        512,
        8,
        512,
        32,
        32,
    )
    control = replace(paper, model="control").resolved()
    assert (
        control.objective.consolidation,
        control.objective.semantic_reward,
        control.objective.attention_penalty,
    ) == (0, 0, 0.1)
    assert replace(paper, model="fast-semantic").resolved().semantic_rate == 10 * paper.semantic_rate


def test_a_loss_that_is_not_finite_is_named_and_the_state_is_kept(tmp_path, monkeypatch):
    trainer = Trainer(QUICK, 0, tmp_path)
    for _ in range(3):
        trainer._step(trainer.step)
    trainer.save()
    before = (tmp_path / STATE).read_bytes()
    with torch.no_grad():
        trainer.bare.predict.weight.fill_(math.nan)
    with pytest.raises(
        UserError, match="not finite at step 4, term dynamics; the state of an earlier step is kept"
    ):
        trainer.train()
    assert (tmp_path / STATE).read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_suggests_a_batch(tmp_path, monkeypatch, error):
    trainer = Trainer(QUICK, 0, tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr("consolidation.step.objective", fail)
    with pytest.raises(UserError, match=r"out of memory at --batch 4 and --length 64 .* Try --batch 2"):
        trainer.train()
    monkeypatch.setattr("consolidation.step.objective", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer._step(trainer.step)


def test_damaged_and_foreign_states_are_refused(tmp_path):
    trainer = Trainer(QUICK, 0, tmp_path)
    trainer.save()
    path = tmp_path / STATE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or is not a safetensors file"):
        Trainer(QUICK, 0, tmp_path)
    from labbook.run import save_tensors

    save_tensors(path, {"x": torch.zeros(2)}, {"model": "other"})
    with pytest.raises(UserError, match="is not the state of such a run"):
        Trainer(QUICK, 0, tmp_path)
    with pytest.raises(UserError, match="holds a run with another configuration"):
        Trainer(replace(QUICK, steps=30), 0, tmp_path)


def test_foreign_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        trajectory.read(tmp_path / "trajectory.parquet")
    (tmp_path / "trajectory.parquet").write_text("no")
    with pytest.raises(UserError, match="damaged or is not a Parquet"):
        trajectory.read(tmp_path / "trajectory.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "trajectory.parquet")
    with pytest.raises(UserError, match="no trajectory: its schema is 'not named'"):
        trajectory.read(tmp_path / "trajectory.parquet")
    row = trajectory.tidy([(0, -1, "all", "attention", 0.5, 3)])
    trajectory.write(tmp_path / "trajectory.parquet", row, {"model": "cram"})
    table, facts = trajectory.read(tmp_path / "trajectory.parquet")
    assert facts == {"model": "cram"}
    assert table.to_dict("records") == row.to_dict("records")
    import pyarrow.parquet as pq

    arrow = pq.read_table(tmp_path / "trajectory.parquet")
    newer = {**{k.decode(): v.decode() for k, v in arrow.schema.metadata.items()}, "version": "99"}
    pq.write_table(arrow.replace_schema_metadata(newer), tmp_path / "trajectory.parquet")
    with pytest.raises(UserError, match="has version 99"):
        trajectory.read(tmp_path / "trajectory.parquet")
    pq.write_table(arrow.drop_columns(["value"]), tmp_path / "trajectory.parquet")
    with pytest.raises(UserError, match="lacks the columns value"):
        trajectory.read(tmp_path / "trajectory.parquet")


def test_bins_are_whole_numbers_up_to_the_largest():
    first = bins(5000)
    assert first[:8].tolist() == [1, 2, 3, 4, 6, 7, 10, 13]
    assert (np.diff(first) > 0).all()
    assert first[-1] >= 5000 / 10 ** (1 / 8)
    assert np.log10(first[first > 30][1:] / first[first > 30][:-1]).max() < 0.14


def test_the_command_trains_seeds_and_gives_a_curve(tmp_path, capsys):
    flags = [
        "tiny",
        "--steps",
        "40",
        "--evaluations",
        "2",
        "--batch",
        "4",
        "--evaluation",
        "8",
        "--seeds",
        "2",
    ]
    train.main([*flags, "--out", str(tmp_path / "r")])
    out = capsys.readouterr().out
    assert "0 of 2 seeds learnt retrieval" in out
    assert out.strip().splitlines()[-1] == str(tmp_path / "r")
    assert (tmp_path / "r" / "train_progress.pdf").exists()
    curve = episodic_curve(tmp_path / "r", least=5)
    assert set(curve.unit) == {"0", "1"}
    assert curve.clock.counts == "repetitions over training"
    table = trajectory.load(tmp_path / "r", "patterns").query("clock == @curve.clock.counts")
    k = table.groupby("k_first")["queries"].sum()
    assert len(curve.x) == 2 * curve.x[curve.unit == "0"].size
    assert curve.x.max() <= k.index.max() * 2
    assert trajectory.course(tmp_path / "r", "attention").shape[1] == 2
    with pytest.raises(UserError, match="there are repetitions in sequence"):
        episodic_curve(tmp_path / "r", "seconds")
    again = [p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*.parquet")]
    train.main([*flags, "--out", str(tmp_path / "r")])
    assert [p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*.parquet")] == again


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["huge"], "there is no preset 'huge'; there are tiny, small, base, paper"),
        (["tiny", "--model", "gpt"], "there is no model 'gpt'; there are cram"),
        (["tiny", "--buffer", "2"], "cannot hold the 4 bindings"),
        (["tiny", "--queries", "0.9", "--bindings", "0.9"], "do not fit into 64 positions"),
        (["tiny", "--patterns", "2"], "need as many different keys"),
        (["tiny", "--seeds", "0"], "at least one seed"),
        (["tiny", "--tracker", "scroll"], "the tracker 'scroll' is not installed or not known"),
        (["tiny", "--steps", "0"], "--steps 0 has to be at least 1"),
        (
            ["tiny", "--model", "no-consolidation", "--consolidation", "0.9"],
            "--model no-consolidation has consolidation 0.0, and --consolidation 0.9 was asked for",
        ),
        (["tiny", "--model", "fast-semantic", "--semantic-rate", "0.2"], "has semantic_rate 1.0, and"),
    ],
)
def test_bad_requests_are_explained(args, words, capsys, tmp_path):
    assert words in fails(train.main, capsys, [*args, "--out", str(tmp_path / "r")])
    assert not (tmp_path / "r").exists()


def test_unknown_fields_are_errors(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["tiny", "--learning-rat", "1"])
    assert stop.value.code == 2
    assert "--learning-rat" in capsys.readouterr().err


@pytest.mark.slow
def test_replicate_runs_every_cell_once_and_tabulates(tmp_path, capsys):
    flags = [
        "tiny",
        "--steps",
        "12",
        "--evaluations",
        "1",
        "--batch",
        "2",
        "--evaluation",
        "4",
        "--seeds",
        "2",
        "--tables",
        "table4",
        "transfer",
    ]
    replicate.main([*flags, "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "table4: mean over seeds" in out
    table = pd.read_csv(tmp_path / "cells.csv")
    assert set(table["table"]) == {"table4", "transfer"}
    # a seed that attends nowhere has nothing to consolidate
    assert set(table[table["metric"] != "consolidated"]["n"]) == {2}
    row = table.query("table == 'table4' and cell == 'control' and metric == 'attention'").iloc[0]
    values = [
        json.loads((tmp_path / "control" / f"seed-{i}" / "summary.json").read_text())["attention"]["all"]
        for i in (0, 1)
    ]
    assert row["estimate"] == pytest.approx(np.mean(values))
    assert row["paper"] == 0.167
    # frozen means frozen: all but the heads are the trained weights
    start, _ = load_tensors(tmp_path / "cram" / "seed-0" / "model.safetensors")
    moved, _ = load_tensors(tmp_path / "transfer-copy-trained" / "seed-0" / "model.safetensors")
    heads = ("retrieve.", "predict.")
    assert all(
        torch.equal(start[k], moved[k]) == (not k.startswith(heads)) for k in start if not k.endswith("scale")
    )
    began = (tmp_path / "control" / "seed-0" / "trajectory.parquet").stat().st_mtime_ns
    replicate.main([*flags, "--out", str(tmp_path)])
    assert (tmp_path / "control" / "seed-0" / "trajectory.parquet").stat().st_mtime_ns == began
    assert (tmp_path / "consolidation_attention.png").exists()
    assert {"config.json", "provenance.json", "summary.json"} <= {p.name for p in tmp_path.iterdir()}
    drawn = (tmp_path / "consolidation_attention.png").stat().st_mtime_ns
    replicate.main([*flags, "--out", str(tmp_path)])
    assert (tmp_path / "consolidation_attention.png").stat().st_mtime_ns == drawn
    assert "there is no table 'table9'" in fails(replicate.main, capsys, ["tiny", "--tables", "table9"])
    assert "--tables names no table" in fails(replicate.main, capsys, ["tiny", "--tables"])
    assert "the experiments choose the models" in fails(replicate.main, capsys, ["tiny", "--model", "mamba"])


def test_seed_intervals():
    number = over_seeds(np.array([1.0, 2.0, 3.0]), "dynamics_mse")
    assert (number.lower, number.upper) == pytest.approx(
        (2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5
    )
    wilson = over_seeds(np.array([1.0, 1.0, 1.0, 1.0, 0.0]), "learnt")
    assert (wilson.lower, wilson.upper) == pytest.approx((0.3755, 0.9638), abs=1e-3)
    assert math.isnan(over_seeds(np.array([1.0]), "attention").lower)
    share = over_seeds(np.array([1.0, 0.9]), "retrieval")
    assert (share.lower >= 0, share.upper) == (True, 1.0)


@pytest.mark.slow
def test_tiny_learns(tmp_path):
    """Both kinds of query are answered, and fewer positions attend than there are queries: not all of them
    need it.
    """
    summary = Trainer(preset("tiny"), 0, tmp_path).train()
    assert summary.accuracy["recurring"] > 0.95
    assert summary.accuracy["novel"] > 0.85
    assert summary.attention["all"] < summary.static
    assert summary.attention["recurring"] < 0.5 < summary.attention["novel"]


def test_help_says_what_the_sizes_are_before_the_options(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    lines = capsys.readouterr().out.split("\n\noptions\n")[0].splitlines()
    found = {line.split()[0]: " ".join(line.split()) for line in lines if line.startswith("  ")}
    assert set(PRESETS) < set(found)
    for name, config in PRESETS.items():
        sizes = f"{config.benchmark.length:,} {config.cram.width} x {config.cram.layers}"
        assert found[name].startswith(f"{name} {sizes} {config.steps:,} x {config.batch} ")


def test_a_reason_for_a_value_names_the_presets_that_have_it():
    """The help of one preset shows the reasons beside its own values: a reason that is of others says so."""
    documented = {}
    for module in (consolidation.config, consolidation.train.config):
        for one in ast.walk(ast.parse(Path(module.__file__).read_text())):
            for field, doc in pairwise(one.body) if isinstance(one, ast.ClassDef) else ():
                if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                    documented[field.target.id] = ast.literal_eval(doc.value)

    def values(config):
        for name, value in vars(config).items():
            yield from values(value) if is_dataclass(value) else [(name, value)]

    sets = [dict(values(preset)) for preset in PRESETS.values()]
    differ = {name for name in sets[0] if any(one[name] != sets[0][name] for one in sets)}
    assert {"bindings", "heads", "attention_penalty", "pressure_start"} <= differ
    # as many novel keys as patterns: that reason is of every preset
    for name in differ - {"novel_keys"}:
        doc = documented[name]
        if "Not in the paper" in doc or "because" in doc:
            assert re.search("`(tiny|small|base|paper)`", doc), name
