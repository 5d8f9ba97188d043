"""Pretraining: exact resume, what it leaves, its errors, and the n-gram baseline."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from labbook import console
from redundancy.model.loading import load_tokenizer
from redundancy.pretrain import __main__ as pretrain
from redundancy.pretrain import trainer
from redundancy.pretrain.config import begin
from redundancy.pretrain.ngram import NGram, highest_order
from redundancy.pretrain.tokens import baselines, window_order
from redundancy.pretrain.trainer import checkpoint_steps, learning_rate
from redundancy.text import DATA
from redundancy.training.checkpoints import find_checkpoints
from tests.conftest import fails
from tests.planted import SMALL


def run(text_folder, out, *more):
    pretrain.main([str(text_folder), "--out", str(out), *SMALL, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_folder):
    out = tmp_path_factory.mktemp("pretrain") / "whole"
    run(text_folder, out, "--ship", str(out.parent / "shipped"), "--ship-steps", "0", "4")
    return out


def test_checkpoints_are_log_spaced_and_in_the_hub_layout(trained):
    steps = [0, 1, 2, 4, 8, 12]
    assert checkpoint_steps(12) == steps
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == [f"step-{s:06d}" for s in steps]
    table = pd.read_csv(trained / "trajectory.csv")
    assert table["step"].tolist() == steps
    model = AutoModelForCausalLM.from_pretrained(trained / "checkpoints" / "step-000004")
    assert len(load_tokenizer(find_checkpoints(str(trained), (), ())[-1].source)) == 300
    assert model.lm_head.weight is model.transformer.wte.weight
    assert table["validation_loss"].iloc[0] == pytest.approx(math.log(300), abs=0.2)
    assert table["validation_loss"].iloc[-1] < table["validation_loss"].iloc[0]


def test_a_killed_training_resumes_bit_identically(trained, text_folder, tmp_path, monkeypatch, capsys):
    out, original, count = tmp_path / "killed", trainer.learning_rate, [0]

    def stop_in_step_seven(*args):
        count[0] += 1
        console._Signals.received = count[0] >= 7
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "learning_rate", stop_in_step_seven)
        with pytest.raises(SystemExit) as stop:
            run(text_folder, out)
    assert stop.value.code == 130
    assert "step 7 is saved" in capsys.readouterr().err
    run(text_folder, out)
    for name in ("model/model.safetensors", "checkpoints/step-000012/model.safetensors"):
        ours, whole = load_file(out / name), load_file(trained / name)
        assert all((ours[k] == whole[k]).all() for k in whole)
    assert (out / "trajectory.csv").read_bytes() == (trained / "trajectory.csv").read_bytes()


def test_the_card_has_losses_and_baselines(trained):
    card = (trained / "card.md").read_text()
    for word in ("Kneser-Ney 5-gram", "bits per byte", "seed 0", "never saw", "commit"):
        assert word in card
    summary = json.loads((trained / "summary.json").read_text())
    assert set(summary["baselines"]) == {"1-gram", "3-gram", "5-gram"}


def test_what_is_shipped_loads_and_is_half_precision(trained):
    shipped = trained.parent / "shipped"
    weights = load_file(shipped / "model" / "model.safetensors")
    assert {str(t.dtype) for t in weights.values()} == {"torch.float16"}
    assert AutoTokenizer.from_pretrained(shipped / "model").eos_token_id is not None
    assert (shipped / "checkpoints" / "step-000004" / "model.safetensors").exists()


def test_errors_name_the_flag(trained, text_folder, tmp_path, capsys):
    for more, message in (
        (["--batch", "100000"], "smaller --batch"),
        (["--validation", str(text_folder)], "also in the training text"),
        (["--learning-rate", "1e30"], "not finite at step"),
    ):
        with pytest.raises(SystemExit) as stop:
            pretrain.main(
                [str(text_folder), "--out", str(tmp_path / more[0]), *SMALL[:-4], *more, "--precision", "no"]
            )
        assert stop.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit) as stop:
        run(text_folder, trained, "--ship", str(tmp_path / "s"), "--ship-steps", "3")
    assert "there are [0, 1, 2, 4, 8, 12]" in " ".join(capsys.readouterr().err.split())


def test_a_packed_text_trains_the_same_model(trained, text_folder, tmp_path, capsys):
    packed, out = tmp_path / "text.npz", tmp_path / "run"
    run(text_folder, tmp_path / "unused", "--pack", str(packed))
    assert not (tmp_path / "unused").exists()
    run(packed, out)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (out, trained))
    assert all((ours[k] == theirs[k]).all() for k in theirs)
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (out, trained))
    for name in ("train_hash", "train_tokens", "tokens_per_byte", "baselines", "checkpoints"):
        assert one[name] == other[name], name
    said = fails(pretrain.main, capsys, [str(packed), "--out", str(tmp_path / "o"), *SMALL, "--context", "8"])
    assert "was made with --context 16, asked was --context 8" in said
    other_text = tmp_path / "other.npz"
    fewer = shutil.copytree(text_folder, tmp_path / "fewer", ignore=shutil.ignore_patterns("00.txt"))
    run(fewer, tmp_path / "unused", "--pack", str(other_text))
    other_text.replace(packed)
    (out / "summary.json").unlink()
    assert "the tokens of another text" in fails(
        pretrain.main, capsys, [str(packed), "--out", str(out), *SMALL]
    )
    packed.write_bytes(packed.read_bytes()[:-400])
    assert "Make it again" in fails(pretrain.main, capsys, [str(packed), "--out", str(out), *SMALL])


def test_minutes_stop_with_the_state_saved(trained, text_folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(text_folder, tmp_path / "r", "--minutes", "0.000001")
    assert stop.value.code == 130
    assert "is saved; repeat the same command" in capsys.readouterr().err
    run(text_folder, tmp_path / "r")
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "r", trained))
    assert all((ours[k] == theirs[k]).all() for k in theirs)


def test_the_preset_is_the_smallest_gpt2(capsys):
    config = begin(["x.npz", "--preset", "gpt2-124m"]).config
    with torch.device("meta"):
        model = trainer._new_model(config, 0)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert len(checkpoint_steps(config.steps)) >= 12
    said = fails(pretrain.main, capsys, ["x.npz", "--preset", "gpt3", "--out", "y"])
    assert "there is gpt2-124m" in said


def test_schedules_are_pure_functions():
    assert np.array_equal(window_order(50, 2, 0), window_order(50, 2, 0))
    assert sorted(window_order(50, 3, 1)) == list(range(50))
    rates = [learning_rate(s, 100, 1.0) for s in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.01


def naive_kneser_ney(tokens: list[int], order: int, vocabulary: int, history: list[int], word: int) -> float:
    """The recursion of Chen & Goodman with dictionaries."""
    if order == 0:
        return 1 / vocabulary

    def grams(k):
        return [tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1)]

    def counts(level):
        found: dict[tuple[int, ...], int] = {}
        if level == top:
            for g in grams(level):
                found[g] = found.get(g, 0) + 1
        else:
            for g in set(grams(level + 1)) if level + 1 == top else set(counts(level + 1)):
                found[g[1:]] = found.get(g[1:], 0) + 1
        return found

    top = len(history) + 1
    probability = 1 / vocabulary
    for level in range(1, order + 1):
        c = counts(level)
        context = tuple(history[len(history) - level + 1 :])
        once, twice = sum(v == 1 for v in c.values()), sum(v == 2 for v in c.values())
        discount = once / (once + 2 * twice) if once else 0.0
        following = {g: v for g, v in c.items() if g[:-1] == context}
        total = sum(following.values())
        if total:
            seen = following.get((*context, word), 0)
            probability = max(seen - discount, 0) / total + discount * len(following) / total * probability
    return probability


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_equals_the_naive_recursion_and_sums_to_one(order):
    g = np.random.default_rng(0)
    tokens = g.choice(5, 200, p=[0.4, 0.3, 0.15, 0.1, 0.05]).astype(np.int64)
    model = NGram(tokens, order, 5)
    for history in ([0, 1], [3, 2], [4, 4]):
        ours = [
            math.exp(model.log_probabilities(np.array([*history, w], dtype=np.int64))[-1]) for w in range(5)
        ]
        history = history[len(history) - order + 1 :]
        assert sum(ours) == pytest.approx(1.0)
        for w in range(5):
            assert ours[w] == pytest.approx(naive_kneser_ney(tokens.tolist(), order, 5, history, w))
    with pytest.raises(ValueError, match="63-bit"):
        NGram(tokens, 6, 50_000)


def test_the_embedded_model_is_a_language_model_worth_probing():
    card = (DATA / "card.md").read_text()
    nats = {
        line.split("|")[1].strip(): float(line.split("|")[2])
        for line in card.splitlines()
        if line.startswith(("| this", "| Kneser"))
    }
    assert nats["this model"] < nats["Kneser-Ney 3-gram"] - 0.15
    # the strongest n-gram of this text, which saw twice the tokens
    assert nats["this model"] < nats["Kneser-Ney 5-gram"] - 0.05


def test_the_vocabulary_of_gpt2_has_baselines_too():
    assert [highest_order(v) for v in (2048, 50_257)] == [5, 4]
    tokens = np.random.default_rng(0).integers(0, 50_257, 500)
    found = baselines(tokens, torch.from_numpy(tokens[:33])[None], 50_257)
    assert list(found) == ["1-gram", "3-gram", "4-gram"]
