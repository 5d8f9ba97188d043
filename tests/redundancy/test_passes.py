"""The two streaming passes against plain loops over stored activations, scikit-learn, and planted models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from labbook.console import UserError
from labbook.estimate import Bootstrap
from redundancy.model.decoder import Decoder
from redundancy.model.loading import random_twin
from redundancy.passes import collect, measure, solve
from redundancy.regression.controls import CONTROLS, shrunk_means
from redundancy.regression.scores import EDGES, SUMMANDS, token_fields
from tests.conftest import TINY, build
from tests.planted import ALPHA, plant_linear_attention, ridge, stored, task, within_positions


def test_probe_and_controls_equal_plain_computation(tiny, tokenizer):
    t, layer = task(tokenizer), 1
    scores, fitted = measure(tiny, t, controls=True, state=None, label="model")
    train, held = stored(tiny, t, "train", layer), stored(tiny, t, "evaluation", layer)
    weight = tiny.output_map(layer)[0].double().numpy()
    constant = train["z"].mean(0)
    predictions = {
        "resid_pre": ridge(train["x"], train["z"])(held["x"]),
        "training_mean": np.broadcast_to(constant, held["z"].shape),
        "previous_token": ridge(train["previous"], train["z"])(held["previous"]),
    }
    for column, name in (("position", "position_mean"), ("id", "token_mean")):
        values, index = np.unique(train[column], return_inverse=True)
        sums = np.zeros((len(values), constant.size))
        np.add.at(sums, index, train["z"] - constant)
        counts = np.bincount(index).astype(float)
        square = np.square(train["z"] - constant).sum()
        means = shrunk_means(
            *(torch.from_numpy(np.asarray(v)) for v in (sums, counts, square, np.zeros_like(constant)))
        ).numpy()
        lookup = dict(zip(values, means, strict=True))
        predictions[name] = constant + np.array(
            [lookup.get(v, np.zeros_like(constant)) for v in held[column]]
        )
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    for name, z in predictions.items():
        error, truth = (held["z"] - z) @ weight, held["a"]
        layer_scores, head_scores = scores[layer].metrics(name, weights)
        norm = np.linalg.norm
        ratio = 1 - norm(error, axis=1) / norm(truth, axis=1)
        expected = {
            "R": ratio.mean(),
            "R_ratio_of_sums": 1 - norm(error, axis=1).sum() / norm(truth, axis=1).sum(),
            "R2": r2_score(truth, truth - error, multioutput="variance_weighted"),
            "R2_uncentred": 1 - np.square(error).sum() / np.square(truth).sum(),
            "cosine": (
                np.sum(truth * (truth - error), 1) / norm(truth, axis=1) / norm(truth - error, axis=1)
            ).mean(),
            "share_R_above_0.5": (ratio > 0.5).mean(),
        }
        for metric, value in expected.items():
            assert float(layer_scores[metric][0]) == pytest.approx(
                value, abs=2e-3 if "share" in metric else 2e-5
            ), (
                name,
                metric,
            )
        h = 2
        rows = slice(h * tiny.d_head, (h + 1) * tiny.d_head)
        head_error, head_truth = (held["z"] - z)[:, rows] @ weight[rows], held["z"][:, rows] @ weight[rows]
        head_ratio = 1 - norm(head_error, axis=1) / norm(head_truth, axis=1)
        assert float(head_scores["R"][0, h]) == pytest.approx(head_ratio.mean(), abs=1e-4), name
        oracle = r2_score(head_truth, head_truth - head_error, multioutput="variance_weighted")
        assert float(head_scores["R2"][0, h]) == pytest.approx(oracle, abs=1e-4), name
    assert set(fitted[layer].predictors) == {"resid_pre", *CONTROLS}
    ratio = 1 - norm((held["z"] - predictions["resid_pre"]) @ weight, axis=1) / norm(held["a"], axis=1)
    counts, _ = np.histogram(ratio, bins=[-np.inf, *EDGES, np.inf])
    assert np.abs(scores[layer].histogram("resid_pre", weights)[0] - counts / counts.sum()).sum() < 0.01


def test_float64_statistics_agree_with_scikit_learn_to_1e_8(tokenizer):
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    fitted = solve(decoder, t, collect(decoder, t, None, "model", controls=True), "model")
    train, held = stored(decoder, t, "train", 1), stored(decoder, t, "evaluation", 1)
    ours = fitted[1].probe(torch.from_numpy(held["x"])).numpy()
    oracle = ridge(train["x"], train["z"])(held["x"])
    assert np.abs(ours - oracle).max() < 1e-8 * np.abs(oracle).max()


def test_the_probe_with_position_is_a_ridge_with_an_indicator_of_every_position(tokenizer):
    """Oracle: scikit-learn on what varies within positions; then intercepts, shrunk as the random-effects
    model says.
    """
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    fitted = solve(decoder, t, collect(decoder, t, None, "model", controls=True), "model")
    train, held = stored(decoder, t, "train", 1), stored(decoder, t, "evaluation", 1)
    x, z = within_positions(train["x"], train["z"], train["position"])
    scale = x.std(0)
    weight = Ridge(alpha=len(x) * ALPHA, fit_intercept=False).fit(x / scale, z).coef_.T / scale[:, None]
    rest = train["z"] - train["x"] @ weight
    places, index = np.unique(train["position"], return_inverse=True)
    sums = np.zeros((len(places), rest.shape[1]))
    centre = rest.mean(0)
    np.add.at(sums, index, rest - centre)
    parts = (sums, np.bincount(index).astype(float), np.square(rest - centre).sum(), np.zeros_like(centre))
    intercept = dict(zip(places, centre + shrunk_means(*map(torch.as_tensor, parts)).numpy(), strict=True))
    expected = held["x"] @ weight + np.stack([intercept[p] for p in held["position"]])
    ours = fitted[1].with_position(torch.from_numpy(held["x"]), torch.from_numpy(held["position"])).numpy()
    assert np.abs(ours - expected).max() < 1e-8 * np.abs(expected).max()


def test_what_position_alone_decides_is_found_by_position_and_by_the_aligned_shuffle_only(tokenizer):
    """Attention output planted as a function of the position: pairs from other windows keep it only if
    positions are kept.
    """
    decoder = Decoder(build(TINY["gpt2"]), "planted")
    table = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    for layer in decoder.layers:
        attn = layer.attn

        def forward(hidden_states, attn=attn, **kwargs):
            return attn.c_proj(table[: hidden_states.shape[1]].expand_as(hidden_states).contiguous()), None

        attn.forward = forward
    t = task(tokenizer, ridge=None)
    scores, _ = measure(decoder, t, None, "model", controls=True)
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    r2 = {name: float(scores[0].metrics(name, weights)[0]["R2"][0]) for name in ("resid_pre", *CONTROLS)}
    assert r2["with_position"] > 0.999
    assert r2["position_mean"] > 0.999
    assert abs(r2["shuffled"]) < 0.1
    # what a linear map of the hidden state can tell of the position
    assert r2["aligned_shuffled"] == pytest.approx(r2["resid_pre"], abs=0.05)
    assert r2["aligned_shuffled"] > r2["shuffled"] + 0.3


@pytest.mark.parametrize("start", [0, 1])
def test_the_batch_size_changes_no_number(tokenizer, start):
    decoder = Decoder(build(TINY["llama"]).double(), "llama")
    weights, results = np.ones((1, 7)), []
    for size in (1, 5, 64):
        t = task(tokenizer, batch=size, ridge=None, start=start)
        scores, fitted = measure(decoder, t, None, "model", controls=True)
        weights = np.ones((1, len(t.windows["evaluation"].names)))
        results.append(
            ({n: scores[1].metrics(n, weights)[0] for n in fitted[1].predictors}, fitted[1].penalties)
        )
    for found, penalties in results[1:]:
        assert penalties == results[0][1]
        for name, metrics in found.items():
            for metric, value in metrics.items():
                # the token table and the scores' weights are float32
                assert value[0] == pytest.approx(results[0][0][name][metric][0], abs=1e-6), (name, metric)


def test_shuffled_pairs_stand_for_other_windows(tokenizer):
    """With targets that are constant per window, a pair from the same window would show as a perfect fit."""
    decoder = Decoder(build(TINY["gpt2"]), "gpt2")
    t = task(tokenizer, tokens=3000, ridge=None)
    scores, _ = measure(decoder, t, None, "model", controls=True)
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    shuffled = scores[1].metrics("shuffled", weights)[0]
    mean = scores[1].metrics("training_mean", weights)[0]
    assert abs(float(shuffled["R2"][0] - mean["R2"][0])) < 0.02
    assert abs(float(shuffled["R2"][0])) < 0.1


def test_planted_linear_attention_is_fully_redundant_and_shuffled_is_not(tokenizer):
    model = build(TINY["gpt2"])
    decoder = Decoder(model, "planted")
    plant_linear_attention(decoder)
    t = task(tokenizer, ridge=None)
    scores, _ = measure(decoder, t, None, "model", controls=True)
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    for layer in (0, 1):
        probe, heads = scores[layer].metrics("resid_pre", weights)
        assert float(probe["R2"][0]) > 1 - 1e-6
        assert float(heads["R2"].min()) > 1 - 1e-6
        assert float(probe["R"][0]) > 0.999
        assert abs(float(scores[layer].metrics("shuffled", weights)[0]["R2"][0])) < 0.1


def test_a_zero_attention_output_has_no_ratio():
    a = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    fields, ratio = token_fields(a, torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
    assert fields[:, SUMMANDS.index("defined")].tolist() == [0.0, 1.0]
    assert ratio.tolist() == [0.0, 0.0]
    assert not torch.isnan(fields).any()


def test_shrunk_means_follow_the_random_effects_model():
    g = np.random.default_rng(0)
    groups, size, within, between = 400, 6, 2.0, 0.7
    truth = g.normal(0, between, (groups, 3))
    data = truth[:, None] + g.normal(0, within, (groups, size, 3))
    square = torch.tensor(np.square(data).sum())
    means = shrunk_means(
        torch.from_numpy(data.sum(1)),
        torch.full((groups,), float(size), dtype=torch.float64),
        square,
        torch.zeros(3, dtype=torch.float64),
    )
    expected = size / (size + within**2 / between**2)
    slope = (means.numpy() * data.mean(1)).sum() / np.square(data.mean(1)).sum()
    assert slope == pytest.approx(expected, rel=0.1)
    assert np.square(means.numpy() - truth).mean() < 0.6 * np.square(data.mean(1) - truth).mean()


def test_activations_that_are_not_finite_name_layer_and_document(tokenizer):
    decoder = Decoder(build(TINY["gpt2"]), "gpt2")
    t = task(tokenizer)
    victim = next(i for i in t.windows["train"].ids[7, 1:] if i > 0)
    with torch.no_grad():
        decoder.model.transformer.wte.weight[victim] = float("inf")
    with pytest.raises(UserError, match=r"layer 0 are not finite in document"):
        measure(decoder, t, None, "model", controls=True)


def test_float16_overflow_in_activations_is_an_error_and_statistics_do_not_overflow(tokenizer):
    model = build(TINY["llama"])
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3e4 / model.model.embed_tokens.weight.abs().max())
    decoder, t = Decoder(model.to(torch.bfloat16), "llama"), task(tokenizer)
    scores, _ = measure(
        decoder, t, None, "model", controls=True
    )  # sums of squares of 3e4 leave the range of float16
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    assert np.isfinite(scores[1].metrics("resid_pre", weights)[0]["R2"]).all()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e3)
    with pytest.raises(UserError, match="--dtype"):
        measure(Decoder(model.to(torch.float16), "llama"), t, None, "model", controls=True)


def test_the_random_twin_is_measured_on_the_same_tokens(tiny, tokenizer):
    t = task(tokenizer)
    ours, _ = measure(tiny, t, None, "model", controls=True)
    twin, _ = measure(random_twin(tiny, 1), t, None, "twin", controls=False)
    assert torch.equal(ours[1].count, twin[1].count)
    assert twin[1].names == ("resid_pre",)
    Bootstrap(len(ours[1].count), 0)


def test_both_tokens_together_equal_scikit_learn(tokenizer):
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = replace(task(tokenizer), both_tokens=True)
    scores, fitted = measure(decoder, t, None, "model", controls=True)
    train, held = stored(decoder, t, "train", 1), stored(decoder, t, "evaluation", 1)
    together = {k: np.hstack([rows["x"], rows["previous"]]) for k, rows in (("train", train), ("held", held))}
    expected = ridge(together["train"], train["z"])(together["held"])
    rows = type("R", (), {"x": torch.from_numpy(held["x"]), "previous": torch.from_numpy(held["previous"])})()
    assert (
        np.abs(fitted[1].predictors["both_tokens"](rows).numpy() - expected).max()
        < 1e-7 * np.abs(expected).max()
    )
    weights = np.ones((1, len(t.windows["evaluation"].names)))
    assert scores[1].metrics("both_tokens", weights)[0]["R2"][0] > 0
