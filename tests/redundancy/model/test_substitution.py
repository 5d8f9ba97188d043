"""Substitution against hand-made replacements, planted models and plain losses; skipping against
substitution.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import Ridge
from transformers import Gemma2Config, GraniteConfig, Olmo2Config

from labbook.estimate import Studentised
from redundancy.evaluation import FIELDS, Key, Variant, evaluate, log_probabilities
from redundancy.model.capture import activations
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, Substitution, hidden_only, zero
from redundancy.passes import collect, measure, solve
from redundancy.regression.controls import affine
from redundancy.regression.ridge import RidgePath
from redundancy.regression.scores import head_coordinates, head_isometry
from redundancy.removal.cost import Skipping, measure_cost, replaced_layers
from redundancy.removal.curve import BUDGETS, ROUNDS, Evaluated, crossings, interpolated, measures, removable
from redundancy.removal.gradients import GradientReader, sample_labels
from redundancy.removal.need import AT_ONCE, NEEDS, SMALLEST_CHANGE, LayerNeed, measure_needs
from redundancy.removal.rivals import RANKS, low_rank, train_mlps
from tests.conftest import SIZE, TINY, build
from tests.planted import plant_linear_attention, ridge, stored, task, within_positions


@pytest.fixture(scope="module")
def fitted_gpt2(tokenizer):
    decoder, t = Decoder(build(TINY["gpt2"]), "gpt2"), task(tokenizer)
    moments = collect(decoder, t, None, "model", controls=True)
    fitted = solve(decoder, t, moments, "model")
    return decoder, t, moments, fitted, measure_needs(decoder, t, fitted, None)


def first_batch(decoder, t):
    return next(t.batches("evaluation", decoder.device))


def run(decoder, t, rules, batch):
    with Substitution(decoder, rules, t.start_position) as substitution:
        substitution.read(batch)
        return log_probabilities(decoder, batch.ids), substitution.skipped


def test_the_true_output_in_place_of_attention_changes_nothing(tiny, tokenizer):
    t = task(tokenizer)
    batch = first_batch(tiny, t)
    truth = {n: activations(tiny, batch.ids, n)["z"][:, 1:].flatten(0, 1) for n in (0, 1)}
    changed, skipped = run(tiny, t, {n: Rule(lambda x, position, n=n: truth[n]) for n in (0, 1)}, batch)
    assert (changed - log_probabilities(tiny, batch.ids)).abs().max() < 1e-6
    assert skipped.tolist() == (batch.keep.sum(1) * 2 * tiny.n_heads).tolist()


def test_a_replaced_head_changes_its_own_columns_at_scored_positions_only(tiny, tokenizer):
    t = task(tokenizer)
    batch = first_batch(tiny, t)
    intact = activations(tiny, batch.ids, 0)["z"]
    with Substitution(
        tiny, {0: Rule(lambda x, position: torch.full((len(x), tiny.d_z), 7.0), heads=(2,))}, 1
    ):
        z = activations(tiny, batch.ids, 0)["z"]
    own = slice(2 * tiny.d_head, 3 * tiny.d_head)
    assert (z[:, 1:, own] == 7).all()
    assert torch.equal(z[:, :1], intact[:, :1])
    rest = [i for i in range(tiny.d_z) if not own.start <= i < own.stop]
    assert torch.equal(z[:, 1:, rest], intact[:, 1:, rest])


def test_a_dropped_layer_is_one_whose_output_weights_are_zero(tokenizer):
    t = task(tokenizer, start=0)
    decoder, other = (Decoder(build(TINY["gpt2"]), "gpt2") for _ in range(2))
    batch = first_batch(decoder, t)
    changed, _ = run(decoder, t, {1: Rule(zero, dropped=True)}, batch)
    projection = other.projection(1)
    projection.weight.zero_()
    projection.bias.zero_()
    assert (changed - log_probabilities(other, batch.ids)).abs().max() < 1e-6


def test_mean_ablation_puts_the_training_mean_of_the_control(fitted_gpt2):
    decoder, t, _, fitted, _ = fitted_gpt2
    batch, train = first_batch(decoder, t), stored(decoder, t, "train", 1)
    with Substitution(decoder, {1: Rule(lambda x, position: fitted[1].mean.to(x).expand(len(x), -1))}, 1):
        z = activations(decoder, batch.ids, 1)["z"]
    assert np.abs(z[0, 1:].numpy() - train["z"].mean(0)).max() < 1e-5
    rows = torch.zeros(3, decoder.d_model)
    control = fitted[1].predictors["training_mean"]
    assert torch.allclose(control(type("R", (), {"x": rows})()), fitted[1].mean.float().expand(3, -1))


def test_losses_are_those_of_plain_cross_entropy_and_kl(fitted_gpt2):
    decoder, t, _, fitted, _ = fitted_gpt2
    variants = [Variant(Key("all", "probe"), {n: Rule(hidden_only(fitted[n].probe)) for n in t.layers})]
    intact, changed = evaluate(decoder, t, variants, None, "test")
    windows = t.windows["evaluation"]
    expected = torch.zeros(len(windows.names), 3, dtype=torch.float64)
    for ids, length, document in zip(windows.ids, windows.lengths, windows.document, strict=True):
        row = torch.from_numpy(ids[None, :length])
        with torch.inference_mode():
            logits = decoder.model(input_ids=row).logits[0]
            with Substitution(decoder, variants[0].rules, 1):
                other = decoder.model(input_ids=row).logits[0]
        goal = row[0, 2:]
        expected[document, 0] += len(goal)
        expected[document, 1] += torch.nn.functional.cross_entropy(logits[1:-1], goal, reduction="sum")
        expected[document, 2] += torch.nn.functional.kl_div(
            other[1:-1].log_softmax(-1), logits[1:-1].log_softmax(-1), log_target=True, reduction="sum"
        )
    assert torch.allclose(intact[:, 0], expected[:, 0])
    assert torch.allclose(intact[:, 1], expected[:, 1], rtol=1e-5)
    assert torch.allclose(changed[0, :, FIELDS.index("kl")], expected[:, 2], rtol=1e-4)


def test_planted_linear_attention_can_be_removed_at_no_loss(tokenizer):
    decoder = Decoder(build(TINY["gpt2"]), "planted")
    plant_linear_attention(decoder)
    t = task(tokenizer, ridge=1e-9)
    fitted = solve(decoder, t, collect(decoder, t, None, "model", controls=False), "model")
    variants = [
        Variant(Key("all", "probe"), {n: Rule(hidden_only(fitted[n].probe)) for n in t.layers}),
        Variant(
            Key("all", "shuffled"),
            {n: Rule(hidden_only(fitted[n].probe), permuted=True) for n in t.layers},
        ),
    ]
    sums = evaluate(decoder, t, variants, None, "test")
    found = measures(*sums, np.ones((1, len(t.windows["evaluation"].names))))
    assert abs(found["loss_increase"][0, 0]) < 1e-5
    assert found["kl"][0, 0] < 1e-6
    assert found["top1_agreement"][0, 0] > 0.999
    assert found["kl"][1, 0] > 100 * found["kl"][0, 0]
    assert found["share"].tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("size", [1, 5])
def test_the_batch_size_changes_no_loss(fitted_gpt2, size):
    decoder, t, _, fitted, needs = fitted_gpt2
    limit = needs.threshold(1, 0.4, known=True)
    rules = [
        {n: Rule(hidden_only(fitted[n].probe), permuted=True) for n in t.layers},
        {
            n: Rule(hidden_only(fitted[n].probe), choose=lambda site: needs.at(site, 1, known=True) <= limit)
            for n in t.layers
        },
    ]
    variants = [Variant(Key("x", str(i)), r) for i, r in enumerate(rules)]
    _, whole = evaluate(decoder, t, variants, None, "test")
    _, other = evaluate(decoder, type(t)(**{**vars_of(t), "batch": size}), variants, None, "test")
    assert torch.allclose(whole, other, rtol=1e-5, atol=1e-6)


def vars_of(t):
    return {name: getattr(t, name) for name in t.__dataclass_fields__}


def test_needs_are_relative_and_absolute_errors_of_heads(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    batch = first_batch(decoder, t)
    found = activations(decoder, batch.ids, 1)
    x, z = found["resid_pre"][0, 5:6], found["z"][0, 5:6]
    predicted = fitted[1].probe(x)
    weight = decoder.output_map(1)[0]
    h = 3
    own = slice(h * decoder.d_head, (h + 1) * decoder.d_head)
    error, a = (z - predicted)[:, own] @ weight[own], z[:, own] @ weight[own]
    logs = LayerNeed(decoder, 1).logs(x, z, predicted)[0]
    assert float(logs[0, h].exp()) == pytest.approx(float(error.norm() / a.norm()), rel=1e-4)
    assert float(logs[1, h].exp()) == pytest.approx(float(error.norm() / x.norm()), rel=1e-4)
    assert torch.allclose(
        head_coordinates(z, head_isometry(weight, decoder.n_heads))[0, h].norm(), a.norm(), rtol=1e-4
    )
    for kind in range(len(NEEDS)):
        share = (needs.known[kind] <= needs.threshold(kind, 0.3, known=True)).mean()
        assert share == pytest.approx(0.3, abs=0.01)


def test_the_predicted_need_is_the_ridge_of_scikit_learn(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    train, held = (stored(decoder, t, split, 1) for split in ("train", "evaluation"))

    def target(rows):
        x, z = torch.from_numpy(rows["x"]).float(), torch.from_numpy(rows["z"]).float()
        replaced = fitted[1].with_position(x, torch.from_numpy(rows["position"]))
        return needs.layers[1].logs(x, z, replaced).flatten(-2).double().numpy()

    at_once = slice(0, len(AT_ONCE) * decoder.n_heads)

    x, y = within_positions(train["x"], target(train), train["position"])
    held_x = torch.from_numpy(held["x"]).float()
    ours = needs.predictors[1](held_x, torch.from_numpy(held["position"])).numpy()[:, at_once]
    scale = x.std(0)
    differences = ours[1:] - ours[:1]  # of two tokens at one position the intercept cancels
    same = held["position"][1:] == held["position"][0]
    best = min(
        np.abs(
            differences[same]
            - (held["x"][1:] - held["x"][:1])[same]
            @ (Ridge(alpha=len(x) * 10.0**e, fit_intercept=False).fit(x / scale, y).coef_ / scale).T
        ).max()
        for e in range(-9, 3)
    )
    assert same.sum() > 5
    assert best < 1e-3


def test_low_rank_is_reduced_rank_regression_and_full_rank_is_the_probe(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    train = stored(decoder, t, "train", 1)
    alpha, weight = fitted[1].penalties["resid_pre"], decoder.output_map(1)[0].double().numpy()
    path = RidgePath(moments[1].moments("train", "current"))
    full = affine(path.solve_rank(alpha, torch.from_numpy(weight), decoder.d_model), moments[1].pilot)
    assert torch.allclose(full.weight, fitted[1].probe.weight, atol=1e-6 * float(full.weight.abs().max()))
    # oracle: ridge as extra rows of data, least squares, then the best projection of the fitted values
    x, y = train["x"], train["z"] @ weight
    mean, scale = x.mean(0), x.std(0)
    s, target = (x - mean) / scale, y - y.mean(0)
    rows = np.vstack([s, np.sqrt(len(x) * alpha) * np.eye(s.shape[1])])
    b = np.linalg.lstsq(rows, np.vstack([target, np.zeros((s.shape[1], y.shape[1]))]), rcond=None)[0]
    leading = np.linalg.svd(rows @ b, full_matrices=False)[2][:4]
    expected = s @ b @ leading.T @ leading + y.mean(0)
    ours = low_rank(moments[1], alpha, torch.from_numpy(weight))
    found = ours["rank_4"](torch.from_numpy(x)).numpy() @ weight
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert set(ours) == {f"rank_{r}" for r in RANKS if r < decoder.d_model}
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-6 * np.abs(found).max() * len(found)) <= 4


def test_the_network_is_never_worse_than_the_probe_on_the_validation_documents(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    mlps = train_mlps(decoder, t, fitted, moments)
    for layer in t.layers:
        rows = stored(decoder, t, "validation", layer)
        x, z = (torch.from_numpy(rows[k]).float() for k in ("x", "z"))
        weight = decoder.output_map(layer)[0].float()
        probe = ((z - fitted[layer].probe(x)) @ weight).square().sum(-1).mean()
        assert float(mlps[layer].loss(x, z)) <= float(probe) * (1 + 1e-5)


def test_skipping_for_real_equals_substitution(tiny, tokenizer):
    t = task(tokenizer)
    fitted = solve(tiny, t, collect(tiny, t, None, "model", controls=True), "model")
    probe, batch = {n: fitted[n].with_position for n in t.layers}, first_batch(tiny, t)
    masks = {
        n: torch.rand(*batch.ids.shape, tiny.n_heads, generator=torch.Generator().manual_seed(n)) < 0.5
        for n in t.layers
    }
    for mask in masks.values():
        mask[:, 0] = True
    rules = {n: Rule(probe[n], choose=lambda site: ~masks[site.layer][:, 1:]) for n in t.layers}
    dense, _ = run(tiny, t, rules, batch)
    with Skipping(tiny, {n: lambda x, n=n: masks[n] for n in t.layers}, probe):
        gathered = log_probabilities(tiny, batch.ids)
    assert (dense - gathered).abs().max() < 1e-4
    everything, _ = run(
        tiny, type(t)(**{**vars_of(t), "start_position": 0}), {n: Rule(probe[n]) for n in t.layers}, batch
    )
    with replaced_layers(tiny, probe):
        folded = log_probabilities(tiny, batch.ids)
    assert (everything - folded).abs().max() < 1e-4
    with Skipping(tiny, {}, probe):
        assert (log_probabilities(tiny, batch.ids) - log_probabilities(tiny, batch.ids)).abs().max() < 1e-5


def test_operations_fall_with_the_share_that_is_skipped(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    cost = measure_cost(decoder, t, {n: fitted[n].with_position for n in t.layers}, needs, (0.5, 1.0))
    layers = cost[cost["kind"] == "layers"].sort_values("share")
    assert layers["flops_ratio"].is_monotonic_decreasing
    assert (layers["flops_ratio"] < 1).all()
    operations = cost[cost["kind"] == "operations"].sort_values("share")
    assert operations["share"].iloc[-1] == 1
    assert (cost["n"] >= 5).all()


def test_the_interpolated_share_is_the_first_crossing():
    shares = np.array([[0.2, 0.5, 1.0]])
    assert interpolated(shares, np.array([[0.0, 0.03, 0.5]]), 0.01)[0] == pytest.approx(0.2 + 0.3 / 3)
    assert interpolated(shares, np.array([[0.02, 0.0, 0.5]]), 0.01)[0] == pytest.approx(0.1)
    assert interpolated(shares, np.array([[0.0, 0.0, 0.005]]), 0.01)[0] == 1.0
    assert interpolated(shares, np.array([[-0.01, 0.0, 0.02]]), 0.01)[0] == pytest.approx(0.75)


def removable_of(points: list[float], *, discrete: bool, spread: float = 0.001, shares=(0.2, 0.5, 1.0)):
    bootstrap = Studentised(12, 0)
    document = np.random.default_rng(0).normal(points, spread, (12, len(points)))
    increases = (
        bootstrap.weights @ (document - document.mean(0) + points) / bootstrap.weights.sum(1, keepdims=True)
    )
    return removable(np.tile(shares, (13, 1)), increases, 0.05, bootstrap, discrete=discrete)


def test_whole_layers_are_removed_whole_or_not_at_all():
    """One sixth of the layers already costs too much: the answer is 0, with the next measured share, and
    nothing between.
    """
    found = removable_of([0.08, 0.3, 0.9], discrete=True, shares=(1 / 6, 2 / 6, 1.0))
    assert (found.share.estimate, found.share.lower, found.share.upper, found.kind) == (0, 0, 0, "measured")
    assert found.beyond == pytest.approx(1 / 6)
    found = removable_of([0.01, 0.049, 0.9], discrete=True, spread=0.01)
    assert found.share.estimate == 0.5
    assert found.share.lower == 0.2  # in some resamples the second step costs too much
    assert {found.share.estimate, found.share.lower, found.share.upper} <= {0.0, 0.2, 0.5, 1.0}


def evaluated_curve(shares: list[float], increases: list[float], order: str = "random") -> Evaluated:
    """A curve of made-up losses on 6 documents of 100 tokens."""
    sums = torch.zeros(len(shares) + 1, 6, len(FIELDS), dtype=torch.float64)
    sums[:, :, 0], sums[:, :, 5] = 100, 400
    for row, (share, increase) in enumerate(zip(shares, increases, strict=True), 1):
        sums[row, :, 1], sums[row, :, 4] = 100 * increase, 400 * share
    keys = [Key("curve", "with_position", order=order, target_share=share) for share in shares]
    return Evaluated([Variant(k, {}) for k in keys], sums[0], sums[1:])


def test_crossings_are_measured_until_their_neighbours_are_close():
    def loss(share):  # steep at first: the secant from (0, 0) misses
        return 0.3 * share**0.5

    shares = [0.05, 0.3, 1.0]
    for _ in range(ROUNDS):
        wanted = crossings(evaluated_curve(shares, [loss(s) for s in shares])).get("random", [])
        assert not set(wanted) & set(shares)
        shares = sorted({*shares, *wanted})
    for budget in BUDGETS:
        true = (budget / 0.3) ** 2
        below = max((s for s in shares if s <= true), default=0.0)
        above = min(s for s in shares if s > true)
        assert above - below <= 0.06
    assert not crossings(evaluated_curve([0.5, 1.0], [0.0, 0.001]))  # no budget is crossed
    assert not crossings(
        evaluated_curve([0.5, 1.0], [0.2, 0.9], "layers_cosine")
    )  # nothing lies between whole layers


def test_nothing_is_interpolated_below_the_first_measured_share_or_beyond_the_last():
    found = removable_of([0.08, 0.3, 0.9], discrete=False)
    assert np.isnan(found.share.estimate)
    assert (found.share.lower, found.share.upper, found.kind) == (0, 0.2, "less than")
    found = removable_of([0.0, 0.01, 0.02], discrete=False)
    assert (found.share.estimate, found.kind) == (1.0, "at least")
    found = removable_of([0.0, 0.03, 0.5], discrete=False)
    assert (found.within, found.beyond, found.kind) == (0.5, 1.0, "interpolated")
    assert 0.5 < found.share.lower <= found.share.estimate <= found.share.upper < 1


def test_intervals_of_paired_loss_differences_cover_in_simulation():
    """Documents of very different difficulty, a small difference: only a paired interval finds it with the
    right coverage.
    """
    g, documents, truth = np.random.default_rng(0), 12, 0.05
    inside, width, trials = 0, [], 300
    for _ in range(trials):
        tokens = g.integers(500, 1500, documents).astype(float)
        base = tokens * g.normal(3.5, 0.4, documents)
        change = base + tokens * g.normal(truth, 0.02, documents)
        sums = [np.zeros((documents, len(FIELDS))) for _ in range(2)]
        for s, loss in zip(sums, (base, change), strict=True):
            s[:, 0], s[:, 1], s[:, 5] = tokens, loss, tokens
        bootstrap = Studentised(documents, int(g.integers(2**31)), 500)
        found = measures(torch.from_numpy(sums[0]), torch.from_numpy(sums[1])[None], bootstrap.weights)
        e = bootstrap.estimate(found["loss_increase"][0])
        inside += e.lower <= truth <= e.upper
        width.append(e.upper - e.lower)
    error = 3 * np.sqrt(0.95 * 0.05 / trials)
    assert 0.95 - error - 0.02 < inside / trials < 0.95 + error + 0.01
    assert np.median(width) < 4 * norm.ppf(0.975) * 0.02 / np.sqrt(documents)


def test_both_tokens_together_equal_scikit_learn(tokenizer):
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = type(task(tokenizer))(**{**vars_of(task(tokenizer)), "both_tokens": True})
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


NORMED = {
    "olmo2": Olmo2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    ),
    "gemma2": Gemma2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    ),
    "granite": GraniteConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        residual_multiplier=0.22,
        **SIZE,
    ),
    "gpt2": TINY["gpt2"],
}


@pytest.mark.parametrize("name", list(NORMED))
def test_displacement_and_cosine_are_those_of_the_residual_stream_itself(name, tokenizer):
    """Oracle: run the block with one head replaced and its MLP silenced, and see how its output moves."""
    decoder = Decoder(build(NORMED[name]), name)
    t = task(tokenizer)
    batch, layer, head = first_batch(decoder, t), 1, 2
    found = activations(decoder, batch.ids, layer)
    x, z = found["resid_pre"], found["z"]
    predicted = z + 0.3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    own = torch.zeros(decoder.d_z, dtype=torch.bool)
    own[head * decoder.d_head : (head + 1) * decoder.d_head] = True

    def after_attention(replaced):
        """The stream behind attention: the block's output when everything after attention adds nothing."""
        block, kept = decoder.layers[layer], []
        silent = [m for n, m in block.named_modules() if n and n.split(".")[0] in ("mlp", "feed_forward")]
        hooks = [m.register_forward_hook(lambda m, a, out: torch.zeros_like(out)) for m in silent[:1]]
        hooks += [
            m.register_forward_hook(lambda m, a, out: torch.zeros_like(out))
            for n, m in block.named_modules()
            if "post_feedforward" in n
        ]
        hooks.append(decoder.projection(layer).register_forward_pre_hook(lambda m, a: (replaced,)))
        hooks.append(
            block.register_forward_hook(
                lambda m, a, out: kept.append(out if torch.is_tensor(out) else out[0])
            )
        )
        try:
            decoder.backbone(input_ids=batch.ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return kept[0]

    with torch.inference_mode():
        whole, changed = after_attention(z), after_attention(torch.where(own, predicted, z))
    moved = (whole - changed).norm(dim=-1) / x.norm(dim=-1)
    need = LayerNeed(decoder, layer)
    logs = need.logs(x.flatten(0, 1), z.flatten(0, 1), predicted.flatten(0, 1))
    assert torch.allclose(logs[:, 1, head].exp(), moved.flatten(), rtol=2e-3)
    assert torch.allclose(
        need.cosine(x.flatten(0, 1), z.flatten(0, 1)),
        torch.cosine_similarity(x, whole, dim=-1).flatten(),
        atol=1e-4,
    )
    assert bool(need.stream.norms) == (name in ("olmo2", "gemma2"))
    assert need.stream.scale == pytest.approx(0.22 if name == "granite" else 1.0)


@pytest.mark.parametrize("name", list(NORMED))
def test_a_dropped_layer_adds_nothing_to_the_stream(name, tokenizer):
    decoder = Decoder(build(NORMED[name]), name)
    batch = first_batch(decoder, task(tokenizer, start=0))
    assert (decoder.to_stream(1, torch.zeros(3, decoder.d_model)) == 0).all()
    with Substitution(decoder, {1: Rule(zero, dropped=True)}, 0) as substitution:
        substitution.read(batch)
        found = activations(decoder, batch.ids, 1)
    assert (found["projected"] == 0).all() or (found["attn_out"] == 0).all()


def test_the_gradient_is_the_slope_of_the_loss_and_its_labels_are_those_of_the_model(tokenizer):
    """Finite differences of the loss with the same labels, in float64, for an error in one head and token."""
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    batch = first_batch(decoder, t)
    kept = {}
    with GradientReader(decoder, t, lambda n, x, z, b: kept.setdefault(n, z)) as reader:
        reader(batch)
    layer, row, place, head = 1, 0, 5, 2
    error = torch.zeros_like(kept[layer])
    own = slice(head * decoder.d_head, (head + 1) * decoder.d_head)
    error[row, place, own] = torch.randn(decoder.d_head, generator=torch.Generator().manual_seed(0)).double()

    def loss(step: float) -> float:
        hook = decoder.projection(layer).register_forward_pre_hook(lambda m, a: (a[0] + step * error,))
        try:
            log_p = log_probabilities(decoder, batch.ids)
        finally:
            hook.remove()
        valid = batch.keep[:, :-1] & batch.keep[:, 1:]
        return float(-(log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * valid).sum())

    labels = sample_labels(log_probabilities(decoder, batch.ids), batch, t.seed)
    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert float((reader.gradient[layer] * error).sum()) == pytest.approx(slope, rel=1e-5)
    need = LayerNeed(decoder, layer).log_fisher(
        kept[layer][row], (kept[layer] + error)[row], reader.gradient[layer][row]
    )
    assert float(need[place, head]) == pytest.approx(np.log(slope**2), abs=1e-4)
    assert float(need[place, 0]) == pytest.approx(np.log(SMALLEST_CHANGE))  # no error, no change


def test_sampled_labels_have_the_distribution_that_they_are_sampled_from():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    number = torch.arange(4000)
    batch = type("B", (), {"number": number})()
    labels = sample_labels(p.log().expand(4000, 1, 4), batch, 0).flatten()
    counts = torch.bincount(labels, minlength=4)
    assert counts[1] == 0
    assert torch.allclose(counts / 4000, p, atol=0.03)


def test_the_squared_change_of_the_loss_has_the_fisher_information_as_its_mean(tokenizer):
    """E over labels of (g . e)^2 is the curvature of KL(intact || changed): checked by KL itself for a small
    error.
    """
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    whole = first_batch(decoder, t)
    batch = type(whole)(*(getattr(whole, f)[:1] for f in whole.__dataclass_fields__))
    layer, place = 1, 6
    error = torch.zeros(1, batch.ids.shape[1], decoder.d_z, dtype=torch.float64)
    error[0, place] = 0.05 * torch.randn(decoder.d_z, generator=torch.Generator().manual_seed(1)).double()
    squares = []
    for seed in range(1500):
        with GradientReader(decoder, replace(t, seed=seed, layers=(layer,)), lambda *a: None) as reader:
            reader(batch)
        squares.append(float((reader.gradient[layer] * error).sum()) ** 2)
    intact = log_probabilities(decoder, batch.ids)
    hook = decoder.projection(layer).register_forward_pre_hook(lambda m, a: (a[0] + error,))
    changed = log_probabilities(decoder, batch.ids)
    hook.remove()
    valid = batch.keep[:, :-1] & batch.keep[:, 1:]
    kl = float(((intact.exp() * (intact - changed)).sum(-1) * valid).sum())
    assert np.mean(squares) == pytest.approx(2 * kl, rel=0.15)
