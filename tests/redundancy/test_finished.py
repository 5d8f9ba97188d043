"""A finished run is told from a new one, and another run from this one, before a model is loaded."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from labbook.console import UserError
from redundancy import measure_training, probe_model, remove_attention
from redundancy.finished import fingerprint, finished
from redundancy.probe import __main__ as probe
from redundancy.probe.config import ProbeConfig, ProbeSettings
from redundancy.training.config import TrainingConfig
from tests.conftest import fails
from tests.planted import arguments


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, gpt2_folder, text_folder):
    """A model and a text of this module's own, to be changed."""
    folder = tmp_path_factory.mktemp("inputs")
    return (
        shutil.copytree(gpt2_folder, folder / "model"),
        shutil.copytree(text_folder, folder / "text"),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, inputs):
    """Arguments of a finished run, and its folder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    args = arguments(*inputs, out)
    probe.main(args)
    return args, out


def test_a_finished_run_is_repeated_without_torch(run):
    args, out = run
    look = (
        "import sys\nfrom redundancy.probe.__main__ import main\nmain(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    done = subprocess.run([sys.executable, "-c", look, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "this run is finished; nothing is computed again"
    assert json.loads((out / "summary.json").read_text())["verdict"] in " ".join(lines)
    assert lines[-2:] == [str(out), "[]"]
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_request_is_refused_before_anything_is_loaded(run, capsys, monkeypatch, tmp_path):
    args, out = run
    monkeypatch.setattr("redundancy.preparation.load_config", lambda source: pytest.fail("it was loaded"))
    said = fails(probe.main, capsys, [*args, "--seed", "5"])
    assert "holds a run with another configuration (seed: there 0, asked 5)" in said
    said = fails(probe.main, capsys, [*args, "--corpus", "elsewhere"])
    assert "corpus: there" in said
    with pytest.raises(UserError, match="layers: there"):
        probe_model(args[0], corpus=args[2], layers=[1], out=out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert "is not a run folder" in fails(probe.main, capsys, ["--out", str(tmp_path / "notes")])


def test_python_is_answered_at_once_too(inputs, tmp_path, monkeypatch, capsys):
    model, text = inputs
    wanted = {"corpus": text, "context": 32, "tokens": 2000, "eval_tokens": 1000, "layers": [0]}
    wanted |= {"parts": ["layers"], "out": tmp_path / "run"}
    first = remove_attention(model, **wanted)
    monkeypatch.setattr("redundancy.preparation.load_config", lambda source: pytest.fail("it was loaded"))
    again = remove_attention(model, **wanted)
    assert again.folder == first.folder
    assert again.substitution["estimate"].tolist() == pytest.approx(first.substitution["estimate"].tolist())
    assert "nothing is computed again" in capsys.readouterr().out
    with pytest.raises(UserError, match="parts: there"):
        remove_attention(model, **wanted | {"parts": ["all"]})


@pytest.mark.parametrize(
    ("call", "asked", "said"),
    [
        (
            remove_attention,
            {"parts": ["layer"]},
            r"takes a list \(one of 'layers', .*'cost' each\). Change parts=",
        ),
        (remove_attention, {"targets": ["mpl"]}, r"takes a list \(one of 'attention', .* targets="),
        (remove_attention, {"orders": ["fisher"]}, "no order 'fisher'; there are known.* Change orders="),
        (probe_model, {"target": "attn"}, "takes one of 'attention', 'mlp', 'block'. Change target="),
        (measure_training, {"target": "attn"}, "^target='attn' was asked for; it takes one of"),
    ],
)
def test_names_that_there_are_not_are_refused_before_anything_is_loaded(monkeypatch, call, asked, said):
    monkeypatch.setattr("redundancy.preparation.load_config", lambda source: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=said):
        call("embedded", **asked)


def test_what_is_not_known_yet_is_no_clash(run):
    _, out = run
    stored = json.loads((out / "config.json").read_text())
    asked = ProbeConfig(
        **{name: stored[name] for name in ("model", "corpus", "context", "seed", "random_seeds")}
    )
    # tokens and layers that the model decides may turn out to be those that are there
    assert finished(asked, ProbeSettings(out=out)) is None


def test_a_fingerprint_is_of_the_request_and_of_its_files(inputs, monkeypatch):
    model, text = inputs
    config = ProbeConfig(str(model), corpus=str(text))
    first = fingerprint(config)
    assert first is not None
    assert fingerprint(config) == first
    assert fingerprint(replace(config, seed=1)) != first
    assert fingerprint(replace(config, model=f"random:{model}")) != first
    path = next(text.glob("*.txt"))
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    os.utime(path, ns=(times[0], times[1] + 1))
    assert fingerprint(config) != first
    os.utime(path, ns=times)
    assert fingerprint(config) == first
    monkeypatch.setattr("redundancy.finished.__version__", "0")
    assert fingerprint(config) != first


def test_what_is_no_file_has_no_fingerprint(inputs):
    assert fingerprint(ProbeConfig("gpt2")) is None
    assert fingerprint(ProbeConfig("x" * 5000)) is None
    assert fingerprint(ProbeConfig(corpus="Skylion007/openwebtext")) is None
    assert fingerprint(TrainingConfig(revisions=("step0",))) is None
    assert fingerprint(TrainingConfig(checkpoints=("nowhere.gguf",))) is None
    assert fingerprint(TrainingConfig()) is not None


def test_a_changed_text_is_read_again(run, inputs, tmp_path, capsys):
    args, _ = run
    path = next(inputs[1].glob("*.txt"))
    content, times = path.read_text(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text(content + " And more.")
    assert "data_hash: there" in fails(probe.main, capsys, args)
    path.write_text(content)
    # the same text, written again: everything is looked at, and nothing is computed again
    probe.main(args)
    assert "nothing is computed again" in capsys.readouterr().out
    os.utime(path, ns=times)


def test_a_damaged_run_is_no_finished_one(run, tmp_path, capsys):
    args, out = run
    copy = shutil.copytree(out, tmp_path / "copy")
    place = args.index("--out") + 1
    args = [*args[:place], str(copy), *args[place + 1 :]]
    (copy / "layers.csv").write_text("layer\n")
    assert "layers.csv is not the table that this run wrote" in fails(probe.main, capsys, args)
