"""The commands as functions: the numbers of the command line, whatever the model and the text come as."""

import doctest
import html
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import BertConfig, BertLMHeadModel, BertModel

from labbook import console
from labbook.console import UserError, in_python
from labbook.run import load_tensors, save_tensors
from redundancy import Probes, interface, measure_training, probe_model, remove_attention
from redundancy.model.capture import activations
from redundancy.model.decoder import Decoder
from redundancy.probe import __main__ as probe
from redundancy.probe import kept
from redundancy.probe.config import ProbeConfig, ProbeSettings
from redundancy.probe.report import report
from redundancy.probe.tables import Tables
from redundancy.removal import __main__ as removal
from redundancy.removal.config import RemovalConfig
from redundancy.removal.tables import Losses
from redundancy.request import Settings
from redundancy.text import read_corpus
from redundancy.training import __main__ as training
from redundancy.training.config import TrainingConfig
from redundancy.training.tables import Course
from tests.conftest import TINY, build
from tests.planted import arguments

SMALL = {"context": 32, "tokens": 2000, "eval_tokens": 1500, "layers": [0, 2]}


@pytest.fixture(scope="module")
def command(tmp_path_factory, gpt2_folder, text_folder):
    """What the command line gives for the request of SMALL."""
    out = tmp_path_factory.mktemp("command") / "run"
    probe.main(arguments(gpt2_folder, text_folder, out, "--layers", "0", "2"))
    return Tables.read(out)


@pytest.fixture
def own():
    """The model of `gpt2_folder` as an object."""
    return build(TINY["gpt2"]).requires_grad_(True)


@pytest.fixture(scope="module")
def texts(text_folder):
    return [document.text for document in read_corpus(str(text_folder)).documents]


def same(tables, others):
    for name in ("layers", "heads", "controls", "histogram", "distribution"):
        pd.testing.assert_frame_equal(getattr(tables, name), getattr(others, name))


def test_named_by_path_and_given_as_objects_are_one(
    command, own, gpt2_folder, tokenizer, text_folder, texts, tmp_path
):
    same(probe_model(gpt2_folder, corpus=text_folder, **SMALL, out=tmp_path / "path"), command)
    own.train()
    own.transformer.h[1].eval()
    same(probe_model(own, tokenizer, texts, **SMALL, out=tmp_path / "texts"), command)
    # the caller's model is left as it was
    assert own.training
    assert not own.transformer.h[1].training
    assert own.transformer.h[0].training
    assert all(p.requires_grad for p in own.parameters())
    paths = sorted(text_folder.glob("*.txt"))
    found = probe_model(own, gpt2_folder, paths, **SMALL, out=tmp_path / "paths")
    same(found, command)
    _again_in_python(found)
    about = json.loads((tmp_path / "paths" / "provenance.json").read_text())
    theirs = json.loads((command.folder / "provenance.json").read_text())
    assert about["weight_hash"] == theirs["weight_hash"]
    assert about["data_hash"] == theirs["data_hash"]


def _again_in_python(found):
    """A run that was made of objects says how it is made again, and no command takes it for its own."""
    call = (
        "probe_model(model=model, tokenizer=tokenizer, corpus=corpus, tokens=2000, eval_tokens=1500, "
        "context=32, layers=[0, 2], out='again')"
    )
    page = html.unescape(report(found).page(found.folder))
    assert f"from redundancy import probe_model\n\n{call}" in page
    assert "--config" not in page
    with pytest.raises(SystemExit):
        probe.main(["--config", str(found.folder / "config.json")])


def test_a_result_says_what_was_found_and_no_whole_table(command):
    said = repr(command)
    assert len(said.splitlines()) == 3
    assert said.startswith(f"Tables: {command.summary['verdict']}")
    for part in ("layers, heads, controls", str(command.folder)):
        assert part in said


def test_a_new_run_folder_is_named(gpt2_folder, text_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = probe_model(gpt2_folder, corpus=text_folder, **SMALL)
    said = " ".join(capsys.readouterr().out.split())
    assert f"run folder {found.folder} (a new one; out= names another)" in said
    assert found.folder.parent == Path("runs")


@pytest.mark.slow
def test_token_ids_are_the_text_that_they_stand_for(command, own, tokenizer, texts, tmp_path):
    ids = [tokenizer(text)["input_ids"] for text in texts]
    same(probe_model(own, tokenizer, ids, **SMALL, out=tmp_path / "ids"), command)
    arrays = [torch.tensor(ids[0]), *map(np.array, ids[1:])]
    bare = probe_model(own, corpus=arrays, **SMALL, out=tmp_path / "bare")
    # no tokenizer says what they stand for, so the documents are split by their ids
    assert bare.summary["documents"] == command.summary["documents"]
    again = probe_model(own, corpus=ids, **SMALL, out=tmp_path / "again")
    same(bare, again)
    assert json.loads((tmp_path / "bare" / "provenance.json").read_text())["bytes_per_token"] is None


def test_ids_that_begin_with_the_bos_token_get_it_once(own, tokenizer, texts, tmp_path):
    bare = [tokenizer(text)["input_ids"] for text in texts]
    begun = [[tokenizer.bos_token_id, *ids] for ids in bare]
    results = [
        probe_model(own, tokenizer, ids, **SMALL, bos="yes", out=tmp_path / str(n))
        for n, ids in enumerate((bare, begun))
    ]
    same(*results)


@pytest.mark.filterwarnings("ignore")
def test_the_model_inside_a_bridge_is_measured(command, own, tokenizer, texts, tmp_path):
    bridge = TransformerBridge.boot_transformers("gpt2", hf_model=own, tokenizer=tokenizer, device="cpu")
    # the bridge makes its tokenizer put a BOS token before every text
    found = probe_model(bridge, corpus=texts, **SMALL, bos="no", out=tmp_path / "bridge")
    about = [json.loads((r.folder / "provenance.json").read_text()) for r in (found, command)]
    assert about[0]["weight_hash"] == about[1]["weight_hash"]
    columns = ["estimate", "lower", "upper"]
    # the bridge makes its model compute attention with another kernel
    assert np.allclose(found.layers[columns], command.layers[columns], atol=2e-4, equal_nan=True)
    with pytest.raises(UserError, match="transformers model, or call `predict`"), found.probes.hook(bridge):
        pass
    bridge.enable_compatibility_mode()
    with pytest.raises(UserError, match="weights were processed"):
        probe_model(bridge, corpus=texts, **SMALL, out=tmp_path / "folded")


def test_a_dtype_is_asked_of_a_copy(own, tokenizer, texts, tmp_path):
    found = probe_model(own, tokenizer, texts, **SMALL, dtype="float64", out=tmp_path / "double")
    assert own.dtype == torch.float32
    assert found.probes.about.dtype == "float64"


@pytest.mark.slow
def test_training_of_checkpoints_that_are_objects(gpt2_folder, text_folder, tokenizer, texts, tmp_path):
    models = {7: build(TINY["gpt2"], 1), 3: build(TINY["gpt2"], 2)}
    folder = tmp_path / "series"
    for step, model in models.items():
        model.save_pretrained(folder / f"step-{step}")
        tokenizer.save_pretrained(folder / f"step-{step}")
    args = arguments(folder, text_folder, tmp_path / "command", "--layers", "0", "2")
    training.main(args)
    expected = Course.read(tmp_path / "command")
    by_name = measure_training(folder, corpus=text_folder, **SMALL, out=tmp_path / "named")
    by_name = Course.read(by_name.folder)
    given = measure_training("series", tokenizer, texts, checkpoints=models, **SMALL, out=tmp_path / "given")
    assert given._repr_html_() == replace(Course.read(given.folder), folder=given.folder)._repr_html_()
    given = Course.read(given.folder)
    for name in ("layers", "overall", "drivers", "attention", "losses", "trend"):
        pd.testing.assert_frame_equal(getattr(by_name, name), getattr(expected, name))
        ours, theirs = (getattr(course, name) for course in (given, expected))
        drop = [c for c in ("checkpoint",) if c in ours]
        pd.testing.assert_frame_equal(ours.drop(columns=drop), theirs.drop(columns=drop))
    assert "centred R2" in given._repr_html_()
    assert given.plot("training_drivers").axes
    ids = [tokenizer(text)["input_ids"] for text in texts]
    bare = measure_training("series", corpus=ids, checkpoints=models, **SMALL, out=tmp_path / "bare")
    assert bare.losses["bits_per_byte"].isna().all()
    assert given.losses["bits_per_byte"].notna().all()
    assert bare.save(tmp_path / "bare-copy").is_dir()
    with pytest.raises(UserError, match="at least 2"):
        measure_training("series", tokenizer, texts, checkpoints={1: models[7]}, **SMALL)
    with pytest.raises(UserError, match="tokenizer= is for checkpoints"):
        measure_training(folder, tokenizer, texts, **SMALL)


@pytest.mark.slow
def test_removal_of_an_object(own, gpt2_folder, text_folder, tokenizer, texts, tmp_path):
    more = ("--layers", "0", "2", "--parts", "all", "layers")
    removal.main(arguments(gpt2_folder, text_folder, tmp_path / "command", *more))
    expected = Losses.read(tmp_path / "command")
    found = remove_attention(own, tokenizer, texts, parts=["all", "layers"], **SMALL, out=tmp_path / "own")
    found = Losses.read(found.folder)
    pd.testing.assert_frame_equal(found.substitution, expected.substitution)
    pd.testing.assert_frame_equal(found.predictors, expected.predictors)
    assert "probe" in found._repr_html_()
    ids = [tokenizer(text)["input_ids"] for text in texts]
    bare = remove_attention(own, corpus=ids, parts=["layers"], **SMALL, out=tmp_path / "bare")
    assert np.isnan(Losses.read(bare.folder).headline.bytes_per_token)
    with pytest.raises(UserError, match="there is no figure None; there are none"):
        bare.plot()


# results


def test_a_result_shows_itself_and_is_saved_whole(command, tmp_path):
    page = command._repr_html_()
    assert "random weights" in page
    assert "<table" in page
    hostile = replace(command, headline=replace(command.headline, verdict="<script>alert(1)</script>"))
    assert "<script>" not in hostile._repr_html_()
    assert command.plot().axes
    with pytest.raises(UserError, match="no figure 'x'; there are redundancy_by_layer"):
        command.plot("x")
    copy = command.save(tmp_path / "copy")
    same(Tables.read(copy), command)
    assert {p.name for p in copy.iterdir()} == {p.name for p in command.folder.iterdir()}
    with pytest.raises(UserError, match="not empty"):
        command.save(copy)


# probes


def test_probes_are_kept_unless_asked_not_to(command, gpt2_folder, text_folder, own, tmp_path):
    probes = Probes.load(command.folder)
    assert repr(probes) == "Probes(tiny-gpt2, resid_pre -> z, layers 0, 2)"
    assert probes.about.weight_hash == Decoder(own, "own").weight_hash()
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "o", "--layers", "0", "--no-probes"))
    with pytest.raises(UserError, match=r"no probes\.safetensors and no probes\.json"):
        _ = Tables.read(tmp_path / "o").probes
    same_run = probe_model(
        gpt2_folder, corpus=text_folder, **{**SMALL, "layers": [0]}, out=tmp_path / "p", probes=False
    )
    assert not (same_run.folder / kept.FILES.tensors).exists()


def test_probes_predict_with_the_score_that_the_table_gives(command, own, tokenizer, text_folder):
    """R of the attention output over all held-out documents, by the definition, from `predict` alone."""
    probes, decoder = command.probes, Decoder(own.requires_grad_(False), "own")
    held_out = json.loads((command.folder / "provenance.json").read_text())["documents"]["evaluation"]
    texts = {d.name: d.text for d in read_corpus(str(text_folder)).documents}
    weight, bias = decoder.output_map(2)
    for use_position, feature in ((False, "resid_pre"), (True, "with_position")):
        errors, documents = [], set()
        budget = 1500
        rows = [tokenizer(texts[name])["input_ids"] for name in held_out]
        windows = [ids[i : i + 32] for ids in rows for i in range(0, len(ids), 32)]
        assert sum(len(w) for w in windows if len(w) > 1) >= budget
        for name, ids in zip(held_out, rows, strict=True):
            documents.add(name)
            for start in range(0, len(ids), 32):
                window = torch.tensor([ids[start : start + 32]])
                if window.shape[1] < 2:
                    continue
                found = activations(decoder, window, 2)
                position = torch.arange(window.shape[1])[None] if use_position else None
                z = probes.predict(found["resid_pre"], 2, position)
                a = found["z"] @ weight + bias
                share = 1 - (z @ weight + bias - a).norm(dim=-1) / a.norm(dim=-1)
                errors.append(share[0, 1:])
        table = command.layers.query("layer == 2 and metric == 'R'")
        stated = table[table["feature"] == feature]["estimate"].item()
        # the table reads 1,500 tokens of these
        assert float(torch.cat(errors).mean()) == pytest.approx(stated, abs=0.03)


@pytest.mark.slow
def test_a_hooked_model_has_the_loss_that_removal_measures(own, tokenizer, texts, tmp_path):
    run = probe_model(own, tokenizer, texts, **SMALL, out=tmp_path / "probe")
    lost = remove_attention(own, tokenizer, texts, parts=["all"], **SMALL, out=tmp_path / "removal")
    windows = read_windows(texts, tokenizer)
    assert len(windows) > 10
    for replacement, position in (("probe", False), ("with_position", True)):
        intact, changed = [], []
        for window in windows:
            with torch.no_grad():
                intact.append(losses(own, window))
                with run.probes.hook(own, with_position=position):
                    changed.append(losses(own, window))
                assert torch.equal(losses(own, window), intact[-1])
        increase = float(torch.cat(changed).mean() - torch.cat(intact).mean())
        table = lost.substitution.query("metric == 'loss_increase'")
        stated = table[table["replacement"] == replacement]
        assert increase == pytest.approx(stated["estimate"].item(), rel=1e-4, abs=1e-6)


def read_windows(texts, tokenizer):
    """The held-out windows of SMALL."""
    from redundancy.corpus.documents import Document
    from redundancy.text import cut_windows, split_documents

    parts = split_documents([Document(str(n), text) for n, text in enumerate(texts)], 0)
    cut = cut_windows(parts["evaluation"], tokenizer, 32, 1500)
    return [torch.from_numpy(ids[None, :n]) for ids, n in zip(cut.ids, cut.lengths, strict=True)]


def losses(model, window):
    """-log p of every token after the first two."""
    log_p = model(window, use_cache=False).logits[0, 1:-1].log_softmax(-1)
    return -log_p.gather(-1, window[0, 2:, None])[:, 0]


def test_a_hook_is_refused_where_it_would_mean_something_else(
    command, own, tmp_path, text_folder, gpt2_folder
):
    probes, ids = command.probes, torch.arange(5, 17)[None]
    with pytest.raises(UserError, match="other weights"), probes.hook(build(TINY["gpt2"], 3)):
        pass
    with pytest.raises(UserError, match="or dtype"), probes.hook(build(TINY["gpt2"]).double()):
        pass
    with pytest.raises(UserError, match="there are probes of"), probes.hook(own, [1]):
        pass
    with probes.hook(own), pytest.raises(UserError, match="use_cache=False"):
        own.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=1)
    with probes.hook(own, layers=[0]):
        changed = own(ids).logits
    assert not torch.allclose(changed, own(ids).logits)
    ln1 = probe_model(
        gpt2_folder, corpus=text_folder, **{**SMALL, "layers": [0]}, feature="ln1", out=tmp_path / "ln1"
    )
    with pytest.raises(UserError, match="predict from ln1"), ln1.probes.hook(own):
        pass


def test_bad_requests_of_a_prediction_are_named(command):
    probes = command.probes
    with pytest.raises(UserError, match="layer=1 has no probe; there are 0, 2"):
        probes.predict(torch.zeros(2, 32), 1)
    with pytest.raises(UserError, match="31 columns"):
        probes.predict(torch.zeros(2, 31), 0)
    with pytest.raises(UserError, match="0 to 31"):
        probes.predict(torch.zeros(2, 32), 0, torch.tensor([0, 32]))
    assert probes.predict(torch.zeros(2, 3, 32, dtype=torch.float64), 0).dtype == torch.float64


def test_damaged_probes_are_no_probes(command, tmp_path):
    command.probes.save(tmp_path / "a")
    tensors, metadata = load_tensors(tmp_path / "a" / kept.FILES.tensors)
    save_tensors(
        tmp_path / "a" / kept.FILES.tensors, tensors, {"about": metadata["about"].replace("tiny", "tall")}
    )
    with pytest.raises(UserError, match="not of one run"):
        Probes.load(tmp_path / "a")
    command.probes.save(tmp_path / "b")
    content = bytearray((tmp_path / "b" / kept.FILES.tensors).read_bytes())
    content[-5] ^= 1
    (tmp_path / "b" / kept.FILES.tensors).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        Probes.load(tmp_path / "b")


def test_probes_go_to_the_hub_and_come_back(command, tmp_path, monkeypatch):
    """The hub is a folder here."""
    hub = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            assert exist_ok
            (hub / repo_id).mkdir(parents=True)

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            assert "tiny-gpt2" in commit_message
            Probes.load(folder_path).save(hub / repo_id)
            return f"https://huggingface.co/{repo_id}/commit/1"

    def snapshot(name, revision, allow_patterns):
        assert set(allow_patterns) == {kept.FILES.tensors, kept.FILES.about}
        return str(hub / name)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert command.probes.push_to_hub("me/probes").endswith("/1")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.snapshot_download", snapshot)
        back = Probes.from_pretrained("me/probes")
    assert back.about == command.probes.about
    assert all(torch.equal(back.tensors[k], t) for k, t in command.probes.tensors.items())
    assert Probes.from_pretrained(command.folder).about == back.about
    with pytest.raises(UserError, match="neither a local folder nor a repository"):
        Probes.from_pretrained("me/nothing")


# what cannot be served


def test_what_is_no_model_is_named(own, tokenizer, texts):
    encoder = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=2048
    )
    with pytest.raises(UserError, match="not causal"):
        probe_model(BertLMHeadModel(encoder), tokenizer, texts, **{**SMALL, "layers": [0]})
    with pytest.raises(UserError, match="an encoder, or a model without its language-model head"):
        probe_model(BertModel(encoder), tokenizer, texts, **SMALL)
    with pytest.raises(UserError, match="model= is a Linear; a name, a path"):
        probe_model(torch.nn.Linear(2, 2), tokenizer, texts)
    with pytest.raises(UserError, match="model= is a NoneType"):
        probe_model(None)
    with pytest.raises(UserError, match=r"holds no tokenizer\. Give it with tokenizer="):
        probe_model(own, corpus=texts, **SMALL)
    with pytest.raises(UserError, match="tokenizer= is a int"):
        probe_model(own, 3, texts)
    with pytest.raises(UserError, match="revision='main' is for models that are named"):
        probe_model(own, tokenizer, texts, revision="main")
    damaged = build(TINY["gpt2"])
    damaged.transformer.wte.weight.data[3, 3] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        probe_model(damaged, tokenizer, texts, **SMALL)


def test_what_is_no_text_is_named(own, tokenizer, texts):
    def refused(corpus, match, **more):
        with pytest.raises(UserError, match=match):
            probe_model(own, tokenizer, corpus, **{**SMALL, **more})

    refused(["a.txt", "b.txt"], r"strings that look like files \('a\.txt'\)")
    refused([], "lists nothing")
    refused({f"title {n}": text for n, text in enumerate(texts)}, "corpus= is a dict, whose items are no doc")
    refused(set(texts), "corpus= is a set")
    refused(pd.DataFrame({"text": texts}), "corpus= is a DataFrame")
    with pytest.raises(UserError, match="revision='x' is one of a hub model, and the embedded model"):
        probe_model("embedded", revision="x", **SMALL)
    refused(["text", [1, 2]], "lists list, str")
    refused([[1.5, 2.0]] * 9, "no sequence of token ids")
    refused([[1, -2]] * 9, "token id -2")
    refused(texts[:3], "at least 8 are needed")
    many = [[n, *range(300, 600)] for n in range(12)]
    many[5][7] = 2048
    refused(many, "holds the id 2048; .* knows 2048 ids, 0 to 2047")
    with pytest.raises(UserError, match="no tokenizer says which token that is"):
        probe_model(own, corpus=[[n, *range(300, 600)] for n in range(12)], **SMALL, bos="yes")


def test_errors_and_warnings_name_keywords(own, gpt2_folder, text_folder, texts, tmp_path, capsys):
    for bad, match in (
        ({"tokens": 0}, r"^tokens=0 was asked for; .* Change tokens=, or leave it out"),
        ({"layers": [7]}, r"layers=\(7,\) was asked for; .* Change layers=\."),
        ({"random_seeds": 1}, r"random_seeds=1 was asked for"),
        ({"corpus": "nowhere.txt"}, r"Give corpus= an existing file"),
        ({"corpus": texts[0]}, r"^corpus= is one text; give a list of texts"),
        ({"device": "cuda:99"}, r"Change device=; auto takes"),
        ({"keep_position_0": "no"}, r"keep_position_0='no' was asked for; it takes True or False"),
        ({"dtype": "fp32"}, r"dtype='fp32' was asked for; it takes one of 'auto', 'float32'"),
        ({"layers": 0}, r"layers=0 was asked for; it takes a list \(a whole number each\)"),
        ({"batch_size": "4"}, r"batch_size='4' was asked for; it takes a whole number or 'auto'"),
    ):
        with pytest.raises(UserError, match=match):
            probe_model(gpt2_folder, **{"corpus": text_folder, **SMALL, **bad}, out=tmp_path / "bad")
    # what is asked for is refused, what is left to us is what the model takes
    with pytest.raises(UserError, match=r"context=256 was asked for; .* takes 8 to 64 tokens"):
        probe_model(gpt2_folder, corpus=text_folder, **{**SMALL, "context": 256}, out=tmp_path / "bad")
    few = [text[:1500] for text in texts]
    capsys.readouterr()
    more = {**SMALL, "tokens": 50_000, "layers": [0]}
    probe_model(own, gpt2_folder, few, **more, out=tmp_path / "warned")
    said = " ".join("".join(capsys.readouterr()).split())
    assert "Give corpus= more text, and see learning_curve=." in said
    assert "--" not in said
    with pytest.raises(SystemExit):
        probe.main([str(gpt2_folder), "--tokens", "0"])
    assert "--tokens 0 was asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "python"),
    [
        ("--eval-tokens 5 was asked", "eval_tokens=5 was asked"),
        ("Use --bos no.", "Use bos='no'."),
        ("--layers (0, 9) was", "layers=(0, 9) was"),
        ("`pip install --no-deps it`", "`pip install --no-deps it`"),
        ("--layers [0] was, --bos True was", "layers=[0] was, bos=True was"),
        ("say --rows lines (documents run", "say rows='lines' (documents run"),
        ("--series 'x' chooses", "series='x' chooses"),
        ("--on-clock-factor (1: each", "on_clock_factor= (1: each"),
        ("Choose another MODEL.", "Choose another model=."),
        ("random:MODEL, no MODEL", "random:MODEL, no model="),
        ("--ridge 0.5; a --z--> b", "ridge=0.5; a --z--> b"),
        ("--tokens 20.", "tokens=20."),
    ],
)
def test_flags_become_keywords(said, python):
    assert in_python(said) == python


# the functions themselves


@pytest.mark.parametrize(
    ("function", "config", "settings"),
    [
        (probe_model, ProbeConfig, ProbeSettings),
        (measure_training, TrainingConfig, Settings),
        (remove_attention, RemovalConfig, Settings),
    ],
)
def test_every_option_of_the_command_is_a_documented_keyword_with_the_same_default(
    function, config, settings
):
    parameters = inspect.signature(function).parameters
    options = {f.name: f.default for of in (config, settings) for f in fields(of)}
    # pages and tables are the command line's; in Python the result shows itself
    assert set(parameters) - {"tokenizer"} == set(options) - {"report", "full"}
    described = re.findall(r"^    ([a-z_0-9, ]+) : ", function.__doc__, re.MULTILINE)
    named = {name for part in described for name in part.split(", ")}
    for name, parameter in parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty
        assert name in named, name
        if name not in ("tokenizer", "parts"):
            assert parameter.default == options[name], name


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import redundancy, consolidation, sys; print([m for m in ('torch', 'transformers', 'scipy', "
        "'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("module", [interface, kept])
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # choices are printed beside the results; the examples are about the results
    monkeypatch.setattr(console.console, "quiet", True)
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 3
    assert not found.failed


def test_the_context_is_what_the_model_takes(gpt2_folder, text_folder, tmp_path, capsys):
    asked = {name: value for name, value in SMALL.items() if name != "context"}
    found = probe_model(gpt2_folder, corpus=text_folder, **asked, out=tmp_path / "auto")
    assert "context 64 (all that" in " ".join(capsys.readouterr().out.split())
    assert json.loads((found.folder / "config.json").read_text())["context"] == 64
    again = probe_model(gpt2_folder, corpus=text_folder, **asked, context=64, out=tmp_path / "64")
    same(again, found)


def test_few_validation_documents_are_named(own, gpt2_folder, texts, tmp_path, capsys):
    few = {**SMALL, "layers": [0], "random_seeds": 2}
    probe_model(own, gpt2_folder, [text * 3 for text in texts[:8]], **few, out=tmp_path / "few")
    said = " ".join("".join(capsys.readouterr()).split())
    assert re.search(r"rest on 1 validation document \(text \d\); below 3", said)
    assert "Give corpus= more documents" in said
    halves = [half for text in texts for half in (text[: len(text) // 2], text[len(text) // 2 :])]
    probe_model(own, gpt2_folder, halves, **few, out=tmp_path / "enough")
    assert "validation document" not in " ".join("".join(capsys.readouterr()).split())
