"""Several processes give the numbers of one; layers spread over memory and disk give those of one device."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import dispatch_model

from consolidation.train import trajectory
from labbook import processes
from labbook.training import default_folder
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.passes import measure
from tests.conftest import TINY, build
from tests.planted import arguments, task

pytestmark = pytest.mark.slow


def run(module: str, args: list[str], count: int) -> subprocess.CompletedProcess:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    )
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    }
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", module, *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("module", "more", "tables"),
    [
        ("redundancy.probe", [], ["layers", "heads", "controls"]),
        (
            "redundancy.training",
            ["--checkpoints", "random:{model}", "{model}"],
            ["layers", "drivers", "attention", "losses"],
        ),
        (
            "redundancy.removal",
            ["--parts", "all", "curve", "--shares", "0.5"],
            ["predictors", "substitution", "curve"],
        ),
    ],
)
def test_two_processes_give_the_numbers_of_one(gpt2_folder, text_folder, tmp_path, module, more, tables):
    more = [part.format(model=gpt2_folder) for part in more]
    for count in (1, 2):
        args = arguments(gpt2_folder, text_folder, tmp_path / str(count), "--batch-size", "8", *more)
        done = run(module, args, count)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("verdict") == 0
        assert done.stdout.strip().splitlines()[-1] == str(tmp_path / str(count)), "rank 0 alone prints"
        assert done.stdout.count("evaluation text") == 1
    for name in tables:
        one, two = (pd.read_csv(tmp_path / str(count) / f"{name}.csv") for count in (1, 2))
        for column in ("estimate", "lower", "upper"):
            assert np.allclose(one[column], two[column], rtol=0, atol=1e-10, equal_nan=True), (name, column)
    assert not (tmp_path / "2" / "state").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_cover_everything_once_and_start_with_rank_0(monkeypatch, count):
    for total in (1, 5, 16, 33):
        edges = []
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(processes, "count", lambda: count)
            edges.append(processes.share(total, 4))
        assert edges[0][0] == 0
        assert edges[0][1] > 0
        assert edges[-1][1] == total
        assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
        assert all(start % 4 == 0 or start == total for start, _ in edges)


def test_layers_on_disk_give_the_numbers_of_layers_in_memory(tokenizer, tmp_path):
    t = task(tokenizer)
    whole = Decoder(build(TINY["gpt2"]), "gpt2")
    places = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.ln_f": "cpu", "lm_head": "cpu"}
    places |= {"transformer.h.0": "cpu", "transformer.h.1": "disk", "transformer.h.2": "disk"}
    spread = Decoder(
        dispatch_model(
            build(TINY["gpt2"]), places, main_device="cpu", offload_dir=tmp_path, force_hooks=True
        ),
        "gpt2",
    )
    assert next(spread.projection(1).parameters()).is_meta
    assert spread.weight_hash() == whole.weight_hash()
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    for ours, other in ((whole, spread), (random_twin(whole, 1), random_twin(spread, 1))):
        one, two = (measure(decoder, t, None, "model", controls=True)[0] for decoder in (ours, other))
        for layer in t.layers:
            for metric, value in one[layer].metrics("resid_pre", weights)[0].items():
                assert value[0] == pytest.approx(
                    two[layer].metrics("resid_pre", weights)[0][metric][0], abs=1e-9
                )
    assert spread.layer_device(1) == torch.device("cpu")


def test_the_default_folder_has_the_time_of_the_first_process(monkeypatch):
    first = "train-cram-20260102-030405"
    monkeypatch.setattr(processes, "agree", lambda own: own.with_name(first))
    assert default_folder("train-cram") == Path("runs") / first


def test_training_on_two_processes_is_that_of_one(tmp_path):
    """The same sequences and routing noise; sums are taken in another order, and means over reading positions
    per process.
    """
    flags = ["tiny", "--steps", "8", "--evaluations", "1", "--evaluation", "8"]
    for count in (1, 2):
        done = run("consolidation.train", [*flags, "--out", str(tmp_path / str(count))], count)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().splitlines()[-1] == str(tmp_path / str(count))
    one, two = (trajectory.load(tmp_path / str(count), "patterns") for count in (1, 2))
    counted = ["layer", "clock", "pattern", "k_first", "queries", "k"]
    pd.testing.assert_frame_equal(one[counted], two[counted])
    one, two = (
        trajectory.load(tmp_path / str(count), "trajectory").query("metric.str.startswith('loss_')")
        for count in (1, 2)
    )
    assert np.allclose(one["value"], two["value"], rtol=5e-3, atol=1e-3)
