"""The stages of a GPU, with commands that need none: time, resume, failure, and what comes back."""

import sys
import tarfile
import time

import numpy as np
import pandas as pd
import pytest

from replication.gpu import __main__ as gpu
from replication.gpu import experiment, stages
from replication.gpu.config import STAGES, Command
from replication.gpu.stages import LONGEST, Job, jobs, minutes_of
from tests.conftest import fails

# a command that counts to its goal, a tenth of a second each, keeps its place and stops when asked
COUNTING = """
import pathlib, signal, sys, time
out, goal = pathlib.Path(sys.argv[1]), int(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
state = out / "state.csv"
done = int(state.read_text()) if state.exists() else 0
print("begins at", done, flush=True)
while done < goal:
    time.sleep(0.1)
    done += 1
    state.write_text(str(done))
    if stop:
        sys.exit(130)
(out / "weights.safetensors").write_bytes(b"0" * 1000)
(out / "summary.json").write_text("{}")
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Two stages, of a short and a long command, and of one that fails."""
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "broken.py").write_text("raise RuntimeError('no kernel for this device')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(experiment, "GRACE", 5.0)
    makers = {
        "base": lambda *_: [Job("short", 1.0, "counting {out} 2"), Job("long", 1.0, "counting {out} 60")],
        "paper": lambda *_: [Job("broken", 0.5, "broken {out}"), Job("other", 1.0, "counting {out} 1")],
    }
    monkeypatch.setattr(stages, "MAKERS", makers)
    return Command(
        minutes=0.1, stages=("base", "paper"), size="rehearsal", work=tmp_path / "work", out=tmp_path / "out"
    )


def test_a_stage_that_was_stopped_goes_on_and_one_that_fails_ends_nothing(planned):
    began = time.monotonic()
    first = experiment.execute(planned).set_index("job")
    assert time.monotonic() - began < 60 * planned.minutes + 2 * experiment.GRACE + 10
    assert first["state"].to_dict() == {
        "short": "finished",
        "long": "stopped",
        "broken": "failed",
        "other": "finished",
    }
    assert "no kernel for this device" in first.loc["broken", "said"]
    reached = int((planned.work / "base" / "long" / "state.csv").read_text())
    assert 0 < reached < 60
    for _ in range(8):
        again = experiment.execute(planned).set_index("job")
        if again.loc["long", "state"] == "finished":
            break
    assert again.loc["short", "said"] == "was finished before"
    log = (planned.work / "base" / "long.log").read_text().splitlines()
    assert log[0] == "begins at 0" and int(log[1].split()[-1]) >= reached
    table = pd.read_csv(planned.out / "stages.csv")
    assert set(table["job"]) == {"short", "long", "broken", "other"}
    # of what was finished before, the table keeps how long it took
    kept = table.set_index("job").loc["short"]
    assert kept["state"] == "finished" and kept["seconds"] == pytest.approx(first.loc["short", "seconds"])


def test_what_comes_back_is_small_and_flat(planned, monkeypatch):
    experiment.execute(planned)
    names = sorted(p.name for p in planned.out.iterdir())
    assert names == ["base.tar.gz", "device.json", "paper.tar.gz", "stages.csv"]
    with tarfile.open(planned.out / "base.tar.gz") as tar:
        held = {name for name in tar.getnames()}
    assert "base/short/summary.json" in held and "base/long.log" in held
    assert not any(name.endswith(".safetensors") for name in held)
    # what does not fit is named
    folder = planned.work / "base"
    (folder / "large.csv").write_bytes(np.random.default_rng(0).bytes(2000))
    monkeypatch.setattr(experiment, "LARGEST", 1500)
    assert experiment.archive(folder, planned.out / "base.tar.gz") == ["large.csv"]
    with tarfile.open(planned.out / "base.tar.gz") as tar:
        assert "base/left-out.txt" in tar.getnames() and "base/large.csv" not in tar.getnames()
    assert len(STAGES) + 2 <= 8


def test_precisions_are_compared_where_they_differ_most(tmp_path):
    experiment.compare_precisions(tmp_path)
    assert not (tmp_path / "precision.csv").exists()
    columns = ["layer", "feature", "metric", "estimate", "lower", "upper", "n"]
    for kind, second in (("bfloat16", 0.52), ("float64", 0.5)):
        folder = tmp_path / f"precision-{kind}"
        folder.mkdir()
        rows = [(0, "resid_pre", "R", 0.7, 0.6, 0.8, 9), (1, "resid_pre", "R", second, 0.4, 0.7, 9)]
        pd.DataFrame(rows, columns=columns).to_csv(folder / "layers.csv", index=False)
        (folder / "summary.json").write_text("{}")
    experiment.compare_precisions(tmp_path)
    (row,) = pd.read_csv(tmp_path / "precision.csv").to_dict("records")
    assert (row["layer"], row["metric"]) == (1, "R")
    assert (row["difference"], row["half_width"]) == pytest.approx((0.02, 0.15))


def test_time_is_shared_and_no_stage_takes_more_than_ten_minutes():
    command = Command(minutes=28)
    left, spent = command.minutes, []
    for stage in command.stages:
        spent.append(minutes_of(stage, command, left))
        left -= spent[-1]
    assert 60 * max(spent) + experiment.GRACE <= 600 and sum(spent) <= 28
    assert minutes_of("base", Command(minutes=1000), 1000) == LONGEST
    # what the others leave over goes to the last
    assert minutes_of("gpt2", command, 9.0) == 9.0


@pytest.mark.parametrize("size", ["full", "rehearsal"])
def test_every_command_of_every_stage_is_one_that_there_is(size, tmp_path):
    import importlib

    text = tmp_path / "text.npz"
    for stage in STAGES:
        for job in jobs(stage, size, tmp_path, text):
            module = job.arguments.split()[0]
            assert callable(importlib.import_module(f"{module}.__main__").main)
            assert "{out}" in job.arguments and 0 < job.share <= 1


def test_requests_that_cannot_be_met_are_explained(capsys, tmp_path):
    places = ["--work", str(tmp_path / "w"), "--out", str(tmp_path / "o")]
    assert "needs the tokenised text" in fails(gpu.main, capsys, ["--stages", "gpt2", *places])
    assert "how long all stages may take" in fails(gpu.main, capsys, ["--minutes", "0", *places])
    assert not (tmp_path / "w").exists() and not (tmp_path / "o").exists()


def test_the_device_is_named():
    about = experiment._device()
    assert about["device"] and about["python"].split(".")[0] == str(sys.version_info[0])
