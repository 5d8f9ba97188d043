"""What stands for attention: tokens before, weighted least squares, another token's output, refitting."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import Ridge

from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule
from redundancy.passes import collect, solve
from redundancy.regression.ridge import PENALTIES
from redundancy.removal.gradients import GradientReader
from redundancy.removal.replacements import previous, weighted
from redundancy.removal.replacements.previous import fit_past, seen, with_past
from redundancy.removal.replacements.sampled import resampled_outputs, slots, token_means
from redundancy.removal.replacements.sequence import fit_sequential
from redundancy.removal.replacements.weighted import fit_weighted
from tests.conftest import TINY, build
from tests.planted import first_batch, run_substituted, stored, task


def test_tokens_before_stand_side_by_side_and_means_before_the_window():
    x, means = torch.arange(24.0).view(2, 4, 3), torch.tensor([-1.0, -2.0, -3.0])
    found = with_past(x, 2, means)
    assert found.shape == (2, 4, 9)
    for row in range(2):
        for t in range(4):
            expected = [x[row, t - k] if t >= k else means for k in range(3)]
            assert torch.equal(found[row, t], torch.cat(expected))


def test_no_token_before_is_the_probe_with_position(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, _ = fitted_gpt2
    monkeypatch.setattr(previous, "PAST", (0, 1))
    maps = fit_past(decoder, t, None, moments)
    assert set(maps) == {0, 1}
    for n in t.layers:
        ours, own = maps[0][n], fitted[n].with_position
        assert torch.allclose(ours.weight, own.weight, rtol=1e-6, atol=1e-9)
        assert torch.allclose(ours.bias, own.bias, rtol=1e-6, atol=1e-9)
        assert maps[1][n].weight.shape == (2 * decoder.d_model, decoder.d_z)


def test_attention_to_the_token_before_is_found_by_what_sees_it(tokenizer):
    """Planted: z of a token is a linear map of the hidden state of the token before."""
    decoder = Decoder(build(TINY["gpt2"]), "planted")
    for layer in decoder.layers:
        layer.ln_1 = torch.nn.Identity()
        attn = layer.attn

        def forward(hidden_states, attn=attn, **kwargs):
            value = attn.c_attn(torch.roll(hidden_states, 1, 1)).split(32, dim=-1)[2]
            return attn.c_proj(value), None

        attn.forward = forward
    t = task(tokenizer, ridge=1e-9)
    moments = collect(decoder, t, None, "model", controls=True)
    fitted = solve(decoder, t, moments, "model")
    maps = fit_past(decoder, t, None, moments)
    batch = first_batch(decoder, t)
    intact, _ = run_substituted(decoder, t, {}, batch)
    errors = {}
    for k in (1, 2):
        means = {n: sums.pilot["shift_x"] for n, sums in moments.items()}
        rules = {n: Rule(maps[k][n], sees=seen(k, means[n])) for n in t.layers}
        errors[k] = float((run_substituted(decoder, t, rules, batch)[0] - intact).abs().max())
    alone = {n: Rule(fitted[n].with_position) for n in t.layers}
    blind = float((run_substituted(decoder, t, alone, batch)[0] - intact).abs().max())
    assert max(errors.values()) < 1e-3 < 0.05 * blind


def test_moments_that_do_not_fit_are_left_out_with_a_warning(fitted_gpt2, monkeypatch, capsys):
    decoder, *_ = fitted_gpt2
    monkeypatch.setattr(previous, "LARGEST", 2 * (3 * decoder.d_model) ** 2)
    assert previous.affordable(decoder, 2) == (1, 2)
    assert "4, 8 tokens before are left out" in " ".join(capsys.readouterr().err.split())


def test_weighted_least_squares_is_the_weighted_ridge_of_scikit_learn(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    found, layer, head = fit_weighted(decoder, t, fitted, moments, None), 1, 2
    rows = {"x": [], "rest": [], "weight": []}
    own = slice(head * decoder.d_head, (head + 1) * decoder.d_head)
    start = fitted[layer].with_position

    def visit(n, x, z, batch):
        if n == layer:
            position = torch.arange(x.shape[1]).expand(x.shape[:2])[batch.keep]
            rows["x"].append(x[batch.keep])
            rows["rest"].append((z[batch.keep] - start(x[batch.keep], position))[:, own])
            rows["weight"].append(reader.gradient[n][batch.keep][:, own].square().sum(-1))

    with GradientReader(decoder, t, visit) as reader:
        for batch in t.batches("train", decoder.device):
            reader(batch)
    x, rest, weight = (torch.cat(rows[k]).double().numpy() for k in ("x", "rest", "weight"))
    pilot = moments[layer].pilot
    scaled = (x - pilot["shift_x"].numpy()) / pilot["scale_x"].numpy()
    moved = (found[layer].weight - start.weight)[:, own].numpy() * pilot["scale_x"].numpy()[:, None]
    candidates = [np.zeros_like(moved)] + [
        Ridge(alpha=a * weight.sum()).fit(scaled, rest, sample_weight=weight).coef_.T for a in PENALTIES
    ]
    size = np.abs(candidates[1]).max()
    assert min(np.abs(moved - c).max() for c in candidates) < 1e-3 * size


def test_one_decomposition_gives_what_solving_for_every_penalty_gives():
    draw = torch.Generator().manual_seed(0)
    d, heads, k = 12, 3, 4

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    sums, mixed = weighted.Sums(heads, d, k, torch.device("cpu")), normal(d, d)
    slope = 0.3 * normal(d, heads, k)
    slope[:, 2] = 0  # what is left of this head is not a matter of x
    for split, rows in (("train", 60), ("validation", 200)):
        x = normal(rows, d) @ mixed + 0.5
        rest = torch.einsum("td,dhk->thk", x, slope) + 5 * normal(rows, heads, k)
        sums.add(split, x, rest, normal(rows, heads).exp())
    found, penalties = sums.correction(), set()
    penalised = torch.eye(d + 1, dtype=torch.float64)
    penalised[-1, -1] = 0
    for head in range(heads):
        xx, xr, w = (sums.tensors[f"train/{name}"][head] for name in ("xx", "xr", "w"))
        own_xx, own_xr = (sums.tensors[f"validation/{name}"][head] for name in ("xx", "xr"))
        solved = {a: torch.linalg.lstsq(xx / w + a * penalised, xr / w).solution for a in PENALTIES}
        spared = {a: float((2 * s * own_xr).sum() - (s * (own_xx @ s)).sum()) for a, s in solved.items()}
        best = max(spared, key=lambda a: spared[a])
        expected = solved[best] if spared[best] > 0 else torch.zeros_like(solved[best])
        penalties.add(best if spared[best] > 0 else None)
        assert torch.allclose(found[head], expected, rtol=1e-9, atol=1e-12)
    # each way it can go: a penalty within the range, and none at all
    assert None in penalties and len(penalties) > 1


def test_another_tokens_output_is_one_that_stood_there(fitted_gpt2):
    decoder, t, *_ = fitted_gpt2
    found, train = resampled_outputs(decoder, t), stored(decoder, t, "train", 1)
    for position in (1, 7, 20):
        there = train["z"][train["position"] == position]
        differences = np.abs(there - found[1][position].numpy()).max(1)
        assert differences.min() < 1e-5
    again = resampled_outputs(decoder, replace(t, batch=3))
    assert torch.allclose(found[0], again[0], atol=1e-6)


def test_the_mean_of_a_token_id_is_the_control_of_the_probe(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    batch = first_batch(decoder, t)
    predict = token_means(moments[1])
    column = slots(torch.zeros(*batch.ids.shape, 1), batch)[batch.keep]
    ours = predict(column.float(), torch.zeros(len(column)))
    slot = batch.slot[batch.keep]
    rows = type("Rows", (), {"x": torch.zeros(len(slot), 1), "slot": slot})()
    assert torch.allclose(ours, fitted[1].predictors["token_mean"](rows).float(), atol=1e-6)


def test_refitting_in_sequence_starts_as_the_probe_and_fits_what_it_is_asked_for(fitted_gpt2, tmp_path):
    decoder, t, _, fitted, _ = fitted_gpt2
    found = {goal: fit_sequential(decoder, t, tmp_path, towards_intact=goal) for goal in (False, True)}
    for maps in found.values():
        own = fitted[0].with_position
        assert torch.allclose(maps[0].weight, own.weight, rtol=1e-5, atol=1e-8)
    kept: dict[str, list[torch.Tensor]] = {"x": [], "altered": [], "intact": [], "position": []}
    for batch in t.batches("train", decoder.device):
        for name, rules in (("intact", {}), ("altered", {0: Rule(found[True][0])})):

            def take(module, args, name=name, batch=batch):
                kept[name].append(args[0][batch.keep])

            def enter(module, args, name=name, batch=batch):
                if name == "altered":
                    kept["x"].append(args[0][batch.keep])

            hooks = [
                decoder.projection(1).register_forward_pre_hook(take),
                decoder.layers[1].register_forward_pre_hook(enter),
            ]
            run_substituted(decoder, t, rules, batch)
            for hook in hooks:
                hook.remove()
        kept["position"].append(torch.arange(batch.ids.shape[1]).expand(batch.ids.shape)[batch.keep])
    x, altered, intact, position = (torch.cat(kept[k]) for k in ("x", "altered", "intact", "position"))

    def error(maps, target):
        return float((target - maps[1](x, position)).square().sum())

    assert error(found[True], intact) < error(found[False], intact)
    assert error(found[False], altered) < error(found[True], altered)
