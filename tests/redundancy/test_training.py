"""Redundancy over training in-process: sources of checkpoints, paired differences, patterns, kill and resume,
errors.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import page_trend_test

from labbook import console
from redundancy.model.decoder import Decoder
from redundancy.model.loading import load_model, locate
from redundancy.probe.tables import Tables
from redundancy.regression.controls import CONTROLS, RANDOM
from redundancy.training import __main__ as training
from redundancy.training import experiment
from redundancy.training.attention import PATTERNS, attention_statistics, pattern_fields
from redundancy.training.checkpoints import find_checkpoints, hub_revisions
from redundancy.training.figures import COURSE_FIGURES
from redundancy.training.tables import DRIVERS, FRAMES, Course, page_test, slope_per_tenfold
from tests.conftest import TINY, build, fails
from tests.planted import arguments, task

STEPS = (0, 16, 128, 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Four checkpoints of a tiny model in the hub's layout, one twin of an earlier one, and something that is
    none.
    """
    place = tmp_path_factory.mktemp("checkpoints")
    for number, step in enumerate(STEPS):
        build(TINY["gpt2"], seed=number).save_pretrained(place / f"step-{step:06d}")
        tokenizer.save_pretrained(place / f"step-{step:06d}")
    shutil.copytree(place / "step-000128", place / "step-000256")
    (place / "notes-2024").mkdir()
    return place


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder, text_folder):
    out = tmp_path_factory.mktemp("run") / "course"
    training.main(arguments(folder, text_folder, out))
    return out


def test_a_run_folder_holds_every_checkpoint_once(finished):
    names = {p.name for p in finished.iterdir()}
    figures = {f"{name}.{kind}" for name in COURSE_FIGURES for kind in ("png", "pdf")}
    assert names == {
        "config.json",
        "provenance.json",
        "report.html",
        "summary.json",
        *(f"{n}.csv" for n in FRAMES),
        *figures,
    }
    course = Course.read(finished)
    assert [c["step"] for c in course.summary["checkpoints"]] == list(STEPS)
    assert len({c["weight_hash"] for c in course.summary["checkpoints"]}) == len(STEPS)
    features = {"resid_pre", "both_tokens", *CONTROLS, RANDOM}
    for (_, _, metric), rows in course.layers.groupby(["step", "layer", "metric"]):
        assert set(rows["feature"]) == features, metric
    assert "centred R2" in course.summary["verdict"]


def test_equal_weights_are_a_warning_and_one_row(folder, text_folder, tmp_path, capsys):
    names = [str(folder / f"step-{step:06d}") for step in (0, 128, 256)]
    training.main([*arguments(names[0], text_folder, tmp_path / "o"), "--checkpoints", *names])
    assert "step-000256 has the same weights as step-000128" in " ".join(capsys.readouterr().err.split())
    assert [c["step"] for c in Course.read(tmp_path / "o").summary["checkpoints"]] == [0, 128]


def test_each_checkpoint_has_the_numbers_of_its_own_probe_run(finished, folder, text_folder, tmp_path):
    from redundancy.probe import __main__ as probe

    probe.main(arguments(folder / "step-001024", text_folder, tmp_path / "probe"))
    alone = Tables.read(tmp_path / "probe").layers.set_index(["layer", "feature", "metric"])
    course = Course.read(finished).layers.query("step == 1024").set_index(["layer", "feature", "metric"])
    both = alone.index.intersection(course.index)
    assert len(both) > 100
    for column in ("estimate", "lower", "upper", "n"):
        assert np.allclose(alone.loc[both, column], course.loc[both, column], equal_nan=True), column


def test_differences_are_paired_over_documents(finished):
    overall = Course.read(finished).overall.fillna({"against": ""})
    probe = overall[(overall["feature"] == "resid_pre") & (overall["metric"] == "R2")].set_index(
        ["against", "step"]
    )
    gap = probe.loc[("first", 1024), "estimate"]
    assert gap == pytest.approx(probe.loc[("", 1024), "estimate"] - probe.loc[("", 0), "estimate"])
    zero = probe.loc[("first", 0)]
    assert zero["estimate"] == zero["lower"] == zero["upper"] == 0
    constant = overall[(overall["feature"] == RANDOM) & (overall["against"] == "last")]
    assert (constant["estimate"].abs() < 1e-12).all()


def test_the_drivers_add_up_to_everything(finished):
    course = Course.read(finished)
    total = course.drivers.groupby(["step", "layer"])["estimate"].sum()
    assert np.allclose(total, 1)
    assert set(course.drivers["driver"]) == set(DRIVERS)


def test_the_trend_is_pages_test_on_documents():
    g = np.random.default_rng(0)
    steps = np.array([0, 10, 100, 1000])
    values = np.outer([5.0, 1.0, 2.0, 3.0], np.ones(3))
    documents = g.normal(size=(9, 4)) + np.array([9, 0, 1, 2])
    rising, falling = page_test(steps, documents)
    assert np.allclose(slope_per_tenfold(steps, values), 1)
    assert rising == pytest.approx(page_trend_test(documents[:, 1:]).pvalue)
    assert rising < 0.01 < falling


def test_patterns_of_attention_equal_a_plain_loop():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, generator=g).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    weights = logits.softmax(-1)
    found = dict(zip(PATTERNS, pattern_fields(weights).unbind(-1), strict=True))
    for b in range(2):
        for t in range(6):
            p = weights[b, :, t, : t + 1].double()
            assert float(found["entropy"][b, t]) == pytest.approx(
                float(-(p * p.log()).sum(-1).mean()), abs=1e-6
            )
            assert float(found["entropy_of_uniform"][b, t]) == pytest.approx(np.log(t + 1), abs=1e-6)
            assert float(found["on_self"][b, t]) == pytest.approx(float(p[:, t].mean()), abs=1e-6)
            assert float(found["on_position_0"][b, t]) == pytest.approx(float(p[:, 0].mean()), abs=1e-6)
            previous = float(p[:, t - 1].mean()) if t else 0.0
            assert float(found["on_previous"][b, t]) == pytest.approx(previous, abs=1e-6)


def test_attention_of_equal_keys_is_even(tokenizer):
    model = build(TINY["gpt2"])
    for block in model.transformer.h:
        block.attn.c_attn.weight[:, :64] = 0
    decoder = Decoder(model, "even")
    sums = attention_statistics(decoder, task(tokenizer), "test")
    mean = (sums[..., 1:] / sums[..., :1]).mean(0)
    assert torch.allclose(
        mean[:, PATTERNS.index("entropy")], mean[:, PATTERNS.index("entropy_of_uniform")], rtol=1e-5
    )
    assert decoder.model.config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_a_killed_run_resumes_by_checkpoint_to_the_same_numbers(
    finished, folder, text_folder, tmp_path, monkeypatch
):
    count, out, original = [0], tmp_path / "killed", experiment.measure

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] == 3:
            raise console.Interrupted("stopped")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "measure", counted)
        with pytest.raises(SystemExit) as stop:
            training.main(arguments(folder, text_folder, out))
    assert stop.value.code == 130
    count[0] = 10
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "measure", counted)
        training.main(arguments(folder, text_folder, out))
    assert count[0] == 10 + 3  # two checkpoints were done; three are left
    for name in FRAMES:
        assert (out / f"{name}.csv").read_bytes() == (finished / f"{name}.csv").read_bytes(), name


def test_bare_weights_take_the_configuration_of_the_model(folder, tmp_path):
    model = build(TINY["gpt2"], seed=1)
    save_file(
        {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"},
        tmp_path / "step16.safetensors",
    )
    first = str(folder / "step-000000")
    found = find_checkpoints(first, (), (first, str(tmp_path / "step16.safetensors")))
    assert [(c.name, c.step) for c in found] == [("step-000000", 0), ("step16", 16)]
    ours = load_model(found[1].source, torch.device("cpu"), torch.float32, 0)
    same = load_model(locate(str(folder / "step-000016")), torch.device("cpu"), torch.float32, 0)
    assert ours.weight_hash() == same.weight_hash()


def test_the_layout_of_pretrain_ends_with_the_final_model():
    found = find_checkpoints("embedded", (), ())
    assert [c.step for c in found] == [0, 16, 64, 256, 512, 1024, 2048, 4096, 5000]
    assert found[-1].name == "final"


def test_folders_and_lists_without_checkpoints(capsys, tmp_path, folder, text_folder, gpt2_folder):
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoints" in fails(
        training.main, capsys, arguments(tmp_path / "empty", text_folder, tmp_path / "o")
    )
    assert "not a folder of checkpoints" in fails(
        training.main, capsys, arguments("gpt2", text_folder, tmp_path / "o")
    )
    one = [*arguments(gpt2_folder, text_folder, tmp_path / "o"), "--checkpoints", str(gpt2_folder)]
    assert "at least 2" in fails(training.main, capsys, one)
    two = [*one, str(tmp_path / "gone.safetensors")]
    assert "does not exist" in fails(training.main, capsys, two)
    both = [*one, "--revisions", "step0"]
    assert "both given" in fails(training.main, capsys, both)
    same = [*one[:-1], str(folder / "step-000016"), str(folder.parent / folder.name / "step-000016")]
    assert "same step" in fails(training.main, capsys, same)
    assert not (tmp_path / "o").exists()


def test_a_checkpoint_of_another_architecture_is_refused(capsys, tmp_path, folder, text_folder, tokenizer):
    build(TINY["llama"]).save_pretrained(tmp_path / "step-000512")
    args = [
        *arguments(folder, text_folder, tmp_path / "o"),
        "--checkpoints",
        str(folder / "step-000000"),
        str(tmp_path / "step-000512"),
    ]
    text = fails(training.main, capsys, args)
    assert "another architecture" in text
    assert "llama" in text


def test_position_0_is_refused_with_its_reason(capsys, tmp_path, folder, text_folder):
    assert "token before" in fails(
        training.main, capsys, arguments(folder, text_folder, tmp_path / "o", "--keep-position-0")
    )


def fake_hub(cache, folder, revisions: dict[str, str]) -> None:
    """A model in the layout of the hub's local cache: refs name commits, snapshots hold their files."""
    repo = cache / "models--lab--tiny"
    for number, (revision, checkpoint) in enumerate(revisions.items()):
        commit = f"{number:040x}"
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
        shutil.copytree(folder / checkpoint, repo / "snapshots" / commit)


@pytest.mark.slow
def test_hub_revisions_are_read_from_the_hubs_own_layout(folder, text_folder, tmp_path):
    """The hub's own code path in a process of its own, with a cache made here and no network."""
    fake_hub(
        tmp_path / "cache", folder, {"step0": "step-000000", "step16": "step-000016", "main": "step-001024"}
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-m",
        "redundancy.training",
        *arguments("lab/tiny", text_folder, tmp_path / "o"),
    ]
    done = subprocess.run(
        [*command, "--revisions", "all"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    course = Course.read(tmp_path / "o")
    assert [c["name"] for c in course.summary["checkpoints"]] == ["step0", "step16"]
    assert course.summary["model"] == "lab/tiny"
    missing = subprocess.run(
        [*command[:-1], str(tmp_path / "p"), "--revisions", "step0,step7"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert missing.returncode == 2
    text = " ".join(missing.stderr.split())
    assert "no revision step7" in text
    assert "main, step0, step16" in text
    assert not (tmp_path / "p").exists()


def test_revisions_of_an_unknown_model_name_the_ways_on():
    with pytest.raises(console.UserError, match="cannot be listed"):
        hub_revisions("no-such/model")


def test_a_folder_that_is_no_training_run_is_named(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({}))
    with pytest.raises(console.UserError, match="not a finished training run"):
        Course.read(tmp_path)


def test_tables_read_back_as_they_were_written(finished):
    course = Course.read(finished)
    assert pd.read_csv(finished / "trend.csv")["n"].eq(course.summary["documents"]["evaluation"]).all()
    assert set(course.attention["metric"]) == {*PATTERNS, "entropy_share"}
