"""The probe of MLPs and blocks: against scikit-learn on stored updates, and how it is asked for."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from labbook.console import UserError
from redundancy.evaluation import log_probabilities
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.model.updates import Unit, Updates
from redundancy.passes import measure
from redundancy.probe import __main__ as probe
from redundancy.probe.tables import Tables
from redundancy.training import __main__ as training
from redundancy.training.tables import Course
from tests.conftest import TINY, build, fails
from tests.planted import arguments, ridge, task


def updates(decoder: Decoder, t, split: str, layer: int, target) -> tuple[np.ndarray, ...]:
    """x, y and document of the kept tokens of a split, one window at a time."""
    found = {"x": [], "y": [], "document": []}
    windows, kept = t.windows[split], {}

    def put(x, y):
        kept["x"], kept["y"] = x[0].double().numpy(), y[0].double().numpy()

    for number, (ids, length) in enumerate(zip(windows.ids, windows.lengths, strict=True)):
        with Updates(decoder, {Unit(layer, target): put}, 0):
            log_probabilities(decoder, torch.from_numpy(ids[None, :length]))
        for name in ("x", "y"):
            found[name].append(kept[name][t.start_position :])
        found["document"].append(np.full(int(length) - t.start_position, windows.document[number]))
    return tuple(np.concatenate(found[name]) for name in ("x", "y", "document"))


@pytest.mark.parametrize("target", ["mlp", "block"])
@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_scores_are_those_of_scikit_learn(tokenizer, name, target):
    decoder, t = Decoder(build(TINY[name]), name), task(tokenizer)
    scores, fitted = measure(decoder.aimed(target), t, None, "model", controls=True)
    for layer in t.layers:
        x, y, _ = updates(decoder, t, "train", layer, target)
        predict = ridge(x, y)
        x_new, y_new, _ = updates(decoder, t, "evaluation", layer, target)
        error = y_new - predict(x_new)
        own, _ = scores[layer].metrics("resid_pre", np.ones((1, len(t.windows["evaluation"].names))))
        r = 1 - np.linalg.norm(error, axis=1) / np.linalg.norm(y_new, axis=1)
        r2 = 1 - (error**2).sum() / ((y_new - y_new.mean(0)) ** 2).sum()
        assert own["R"][0] == pytest.approx(r.mean(), abs=2e-4)
        assert own["R2"][0] == pytest.approx(r2, abs=2e-4)
        assert ("linearity" in own) == (target == "block")
        if target == "block":
            after = x_new + y_new
            linearity = 1 - (error**2).sum() / ((after - after.mean(0)) ** 2).sum()
            assert own["linearity"][0] == pytest.approx(linearity, abs=2e-4)
        mean, _ = scores[layer].metrics("training_mean", np.ones((1, len(t.windows["evaluation"].names))))
        r_mean = 1 - np.linalg.norm(y_new - y.mean(0), axis=1) / np.linalg.norm(y_new, axis=1)
        assert mean["R"][0] == pytest.approx(r_mean.mean(), abs=2e-4)
        assert fitted[layer].probe.weight.shape == (decoder.d_model, decoder.d_model)


def test_linearity_is_the_published_score_where_it_is_fitted_and_scored_on_the_same_tokens():
    """1 - min_A |X A - Y|^2 with X and Y centred and of norm 1, A any matrix."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 6))
    y = x @ generator.normal(size=(6, 6)) * 0.3 + 0.2 * generator.normal(size=(500, 6))
    one, two = ((v - v.mean(0)) / np.linalg.norm(v - v.mean(0)) for v in (x, x + y))
    published = 1 - np.square(one @ np.linalg.lstsq(one, two, rcond=None)[0] - two).sum()
    wide = np.hstack([x, np.ones((500, 1))])
    error = y - wide @ np.linalg.lstsq(wide, y, rcond=None)[0]
    after = x + y
    assert 1 - (error**2).sum() / ((after - after.mean(0)) ** 2).sum() == pytest.approx(published)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["mlp", "block"])
def test_the_command_measures_another_target(gpt2_folder, text_folder, tmp_path, target):
    args = ["--target", target, "--layers", "0", "2", "--random-seeds", "2"]
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "run", *args))
    tables = Tables.read(tmp_path / "run")
    feature = "resid_mid" if target == "mlp" else "resid_pre"
    assert (tables.headline.target, tables.headline.feature) == (target, feature)
    assert {feature, "training_mean", "with_position", "random_weights", "shuffled"} <= set(
        tables.layers["feature"]
    )
    assert set(tables.heads["head"]) == {0}
    assert ("linearity" in set(tables.layers["metric"])) == (target == "block")
    assert ("Linearity of the stream" in tables.headline.verdict) == (target == "block")
    named = {"mlp": "MLP output", "block": "update of the block"}[target]
    assert f"Of the {named}, R = " in tables.headline.verdict
    assert named in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match=f"probes of the {named} are not kept"):
        _ = tables.probes


@pytest.mark.slow
def test_the_target_of_attention_is_as_it_was(gpt2_folder, text_folder, tmp_path):
    few = ["--layers", "0", "--random-seeds", "2"]
    for name, args in (("plain", few), ("named", [*few, "--target", "attention"])):
        probe.main(arguments(gpt2_folder, text_folder, tmp_path / name, *args))
    plain, named = (pd.read_csv(tmp_path / name / "layers.csv") for name in ("plain", "named"))
    pd.testing.assert_frame_equal(plain, named)
    assert "target" not in json.loads((tmp_path / "plain" / "summary.json").read_text())


def test_a_feature_that_does_not_enter_the_target_is_an_error(gpt2_folder, text_folder, tmp_path, capsys):
    args = ["--target", "mlp", "--feature", "ln1"]
    text = fails(probe.main, capsys, arguments(gpt2_folder, text_folder, tmp_path / "run", *args))
    assert "--feature ln1 was asked for with --target mlp" in text
    assert not (tmp_path / "run").exists()


def test_a_random_twin_is_aimed_alike(tiny):
    twin = random_twin(tiny.aimed("block"), 1)
    assert (twin.target, twin.n_heads, twin.d_z) == ("block", 1, tiny.d_model)
    assert (tiny.target, tiny.n_heads) == ("attention", 4)
    weight, bias = twin.output_map(0)
    assert torch.equal(weight, torch.eye(tiny.d_model)) and not bias.any()


@pytest.mark.slow
def test_training_measures_another_target_too(gpt2_folder, text_folder, tokenizer, tmp_path):
    build(TINY["gpt2"], seed=1).save_pretrained(tmp_path / "course" / "step-0")
    shutil.copytree(gpt2_folder, tmp_path / "course" / "step-10")
    tokenizer.save_pretrained(tmp_path / "course" / "step-0")
    args = ["--target", "mlp", "--layers", "1", "--random-seeds", "2"]
    training.main(arguments(tmp_path / "course", text_folder, tmp_path / "run", *args))
    course = Course.read(tmp_path / "run")
    assert (course.headline.target, course.headline.feature) == ("mlp", "resid_mid")
    assert course.headline.paper.rows == ()
    assert course.headline.verdict.startswith("Of the MLP output: From step")
    drivers = course.drivers[course.drivers["layer"] == "mean"].groupby("step")["estimate"].sum()
    assert np.allclose(drivers, 1)
    # the last checkpoint is the model that the probe measures, by the same numbers
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / "probe", *args))
    own = Tables.read(tmp_path / "probe").layers
    last = course.layers[course.layers["step"] == course.layers["step"].max()]
    keys = ["feature", "metric"]
    one, two = (
        frame[(frame["feature"] == "resid_mid") & frame["metric"].isin(["R", "R2"])].set_index(keys)
        for frame in (own, last)
    )
    assert np.allclose(one["estimate"], two.loc[one.index, "estimate"])
