"""What a change costs, against plain losses and a planted model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from redundancy import evaluation
from redundancy.evaluation import RARE, TALLIES, Key, Variant, copied_tokens, evaluate, rare_ids
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, Substitution, hidden_only
from redundancy.passes import collect, solve
from redundancy.removal.curve import measures
from tests.conftest import TINY, build
from tests.planted import plant_linear_attention, task


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
    assert torch.allclose(changed[0, :, TALLIES.index("kl")], expected[:, 2], rtol=1e-4)


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
    _, other = evaluate(decoder, replace(t, batch=size), variants, None, "test")
    assert torch.allclose(whole, other, rtol=1e-5, atol=1e-6)


def test_copied_tokens_are_those_of_a_naive_loop():
    ids = torch.randint(0, 4, (3, 40), generator=torch.Generator().manual_seed(0))
    found = copied_tokens(ids)
    assert found.shape == (3, 39)
    for row, own in enumerate(ids.tolist()):
        for t in range(39):
            last = own[t - 1 : t + 2] if t else None
            earlier = [own[s - 1 : s + 2] for s in range(1, t)]
            assert bool(found[row, t]) == (last in earlier), (row, t)
    assert 0 < float(found.float().mean()) < 1


def test_rare_ids_make_up_at_most_their_share_of_the_training_tokens(fitted_gpt2):
    decoder, t, *_ = fitted_gpt2
    rare = rare_ids(t, decoder.vocabulary).numpy()
    train = t.windows["train"]
    tokens = np.concatenate([row[:n] for row, n in zip(train.ids, train.lengths, strict=True)])
    counts = np.bincount(tokens, minlength=decoder.vocabulary)
    assert 0 < counts[rare].sum() <= RARE * len(tokens)
    assert counts[rare].max() <= counts[~rare].min()
    assert rare[counts == 0].all()


def test_losses_of_each_kind_of_tokens_are_sums_over_those_tokens(fitted_gpt2):
    decoder, t, _, fitted, _ = fitted_gpt2
    variants = [Variant(Key("all", "probe"), {n: Rule(hidden_only(fitted[n].probe)) for n in t.layers})]
    intact, changed = evaluate(decoder, t, variants, None, "test")
    rare, expected = rare_ids(t, decoder.vocabulary), np.zeros((2, 2, 2))
    for batch in t.batches("evaluation", decoder.device):
        for which, rules in enumerate(({}, variants[0].rules)):
            with torch.inference_mode(), Substitution(decoder, rules, 1):
                log_p = decoder.model(input_ids=batch.ids).logits[:, :-1].log_softmax(-1)
            goal, valid = batch.ids[:, 1:], batch.keep[:, :-1] & batch.keep[:, 1:]
            loss = -log_p.gather(-1, goal.unsqueeze(-1)).squeeze(-1)
            for kind, mask in enumerate((copied_tokens(batch.ids) & valid, rare[goal] & valid)):
                expected[which, kind] += float(mask.sum()), float(loss[mask].sum())
    for which, sums in enumerate((intact, changed[0])):
        for kind, name in enumerate(("copied", "rare")):
            own = [float(sums[:, TALLIES.index(f"{what}_{name}")].sum()) for what in ("tokens", "loss")]
            assert own == pytest.approx(expected[which, kind], rel=1e-4)
    assert expected[0, 1, 0] > 0


def test_one_place_reached_by_two_orders_is_measured_once(fitted_gpt2, monkeypatch):
    decoder, t, _, fitted, _ = fitted_gpt2
    rules = {n: Rule(hidden_only(fitted[n].probe)) for n in t.layers}
    calls, original = [0], evaluation.next_token_logits

    def counted(*args):
        calls[0] += 1
        return original(*args)

    monkeypatch.setattr(evaluation, "next_token_logits", counted)
    variants = [Variant(Key("curve", "with_position", order=order), rules) for order in ("a", "b")]
    _, changed = evaluate(decoder, t, variants, None, "test")
    assert calls[0] == 2 * -(-len(t.windows["evaluation"].lengths) // t.batch)
    assert torch.equal(changed[0], changed[1])


def test_one_way_of_running_the_model_under_several_names_is_run_once(fitted_gpt2):
    decoder, t, _, fitted, _ = fitted_gpt2
    maps = {n: fitted[n].with_position for n in t.layers}
    heads = tuple(range(decoder.n_heads))
    same = [
        {n: Rule(maps[n]) for n in t.layers},
        {n: Rule(maps[n], heads=heads) for n in t.layers},
        {n: Rule(maps[n], heads=heads[::-1]) for n in t.layers},
    ]
    others = [
        {n: Rule(maps[n], heads=heads[1:]) for n in t.layers},
        {n: Rule(maps[n], permuted=True) for n in t.layers},
        {0: Rule(maps[0])},
        {n: Rule(hidden_only(fitted[n].probe)) for n in t.layers},
    ]
    calls = []
    hook = decoder.model.register_forward_hook(lambda *_: calls.append(0))
    _, found = evaluate(
        decoder, t, [Variant(Key("x", str(i)), r) for i, r in enumerate(same + others)], None, "test"
    )
    hook.remove()
    batches = len(list(t.batches("evaluation", decoder.device)))
    assert len(calls) == batches * (1 + 1 + len(others))
    for rules, sums in zip(same + others, found, strict=True):
        _, alone = evaluate(decoder, t, [Variant(Key("x", "alone"), rules)], None, "test")
        assert torch.equal(alone[0], sums)
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0])
    assert not any(torch.equal(other, found[0]) for other in found[3:])


def test_of_equally_probable_tokens_the_first_is_the_most_probable(tiny, tokenizer):
    t = task(tokenizer)
    batch, draw = next(t.batches("evaluation", tiny.device)), torch.Generator().manual_seed(0)
    shape = (*batch.ids[:, 1:].shape, tiny.vocabulary)
    # so coarse that most positions have several
    one, other = (torch.randint(0, 3, shape, generator=draw).float() for _ in range(2))
    tally = evaluation._Tally(tiny, batch, one, 1, torch.zeros(tiny.vocabulary, dtype=torch.bool))
    found = tally.of(other, torch.zeros(len(batch.ids)), changed=True)[:, TALLIES.index("agreement")]
    expected = ((one.argmax(-1) == other.argmax(-1)) & evaluation.scored_tokens(batch)).sum(-1)
    assert found.tolist() == expected.tolist()
    same = tally.of(one, torch.zeros(len(batch.ids)), changed=True)[:, TALLIES.index("agreement")]
    assert same.tolist() == evaluation.scored_tokens(batch).sum(-1).tolist()


def test_an_activation_of_one_kernel_is_the_models_own_up_to_rounding(fitted_gpt2):
    decoder, t, *_ = fitted_gpt2
    batch = next(t.batches("evaluation", decoder.device))
    own = evaluation.log_probabilities(decoder, batch.ids)
    with evaluation.one_kernel(decoder):
        assert not any(type(m).__name__ == "NewGELUActivation" for m in decoder.model.modules())
        assert torch.allclose(evaluation.log_probabilities(decoder, batch.ids), own, atol=1e-5)
    assert torch.equal(evaluation.log_probabilities(decoder, batch.ids), own)
