"""Orders: known needs against finite differences, routers against what they should know, training that never
ends above its start.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from redundancy.evaluation import TALLIES, Key, Variant, evaluate, log_probabilities
from redundancy.model.capture import activations
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, Site
from redundancy.passes import collect, solve
from redundancy.regression.controls import PositionAffine
from redundancy.regression.ridge import RidgePath
from redundancy.removal.config import MAKERS, ORDERS, PARTS, orders_of
from redundancy.removal.gradients import sample_labels
from redundancy.removal.need import NEEDS, LayerNeed, first_windows, measure_needs
from redundancy.removal.replacements.previous import seen
from redundancy.removal.routing import routers, trained
from redundancy.removal.routing.known import DRAWS, measure_known
from redundancy.removal.routing.orders import Routing
from redundancy.removal.routing.routers import (
    Router,
    calibrate,
    of_need,
    predict_need,
    train_networks,
    without_position,
)
from redundancy.removal.routing.trained import train_router
from redundancy.removal.routing.whole import ExactNeeds, measure_exact
from tests.conftest import TINY, build
from tests.planted import first_batch, plant_linear_attention, run_substituted, task


def placed(fitted):
    return {n: f.with_position for n, f in fitted.items()}


def spread(moments):
    return {n: sums.pilot["scale_x"] for n, sums in moments.items()}


def test_known_changes_of_the_loss_are_its_slopes(tokenizer):
    """Finite differences in float64, with the labels of the text and with those that the model drew."""
    decoder = Decoder(build(TINY["gpt2"]).double(), "gpt2")
    t = task(tokenizer)
    fitted = solve(decoder, t, collect(decoder, t, None, "model", controls=True), "model")
    maps, batch = placed(fitted), first_batch(decoder, t)
    known = measure_known(decoder, t, maps)
    layer, row, place, head = 1, 0, 5, 2
    found = activations(decoder, batch.ids, layer)
    x, z = found["resid_pre"], found["z"]
    positions = torch.arange(x.shape[1]).repeat(len(x))
    error = torch.zeros_like(z)
    own = slice(head * decoder.d_head, (head + 1) * decoder.d_head)
    predicted = maps[layer](x.flatten(0, 1), positions).view_as(z)
    error[row, place, own] = (predicted - z)[row, place, own]
    valid = batch.keep[:, :-1] & batch.keep[:, 1:]

    def slope(labels):
        def loss(step):
            hook = decoder.projection(layer).register_forward_pre_hook(lambda m, a: (a[0] + step * error,))
            log_p = log_probabilities(decoder, batch.ids)
            hook.remove()
            return float(-(log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * valid).sum())

        return (loss(1e-4) - loss(-1e-4)) / 2e-4

    index = t.layers.index(layer)
    assert float(known.held_out["first_order"][row, place, index, head]) == pytest.approx(
        slope(batch.ids[:, 1:]), rel=1e-3
    )
    log_p = log_probabilities(decoder, batch.ids)
    squares = [slope(sample_labels(log_p, batch, t.seed, draw)) ** 2 for draw in range(DRAWS)]
    assert float(known.held_out["fisher"][row, place, index, head]) == pytest.approx(
        np.mean(squares), rel=1e-3
    )
    few = first_windows(t, "validation", 8192)
    windows = few.windows["validation"]
    scored = int(np.maximum(windows.lengths - t.start_position, 0).sum())
    assert len(known.calibrated["fisher"]) == scored * len(t.layers) * decoder.n_heads


def test_a_router_that_sees_the_need_reproduces_the_known_order(tokenizer):
    """Planted: attention is a function of the hidden state, so the need can be computed before it."""
    decoder, t = Decoder(build(TINY["gpt2"]), "planted"), task(tokenizer)
    decoder.stream(0)  # found before its parts are exchanged
    plant_linear_attention(decoder)
    fitted = solve(decoder, t, collect(decoder, t, None, "model", controls=True), "model")
    # maps that are wrong, so that there is something to need
    maps = {n: replace(m, weight=0.6 * m.weight) for n, m in placed(fitted).items()}
    fitted = {n: replace(f, with_position=maps[n]) for n, f in fitted.items()}
    needs, kind = measure_needs(decoder, t, fitted, None), NEEDS.index("displacement")

    def score(n):
        attn, need = decoder.layers[n].attn, LayerNeed(decoder, n)
        return lambda x, position: need.logs(x, attn.c_attn(x).split(32, dim=-1)[2], maps[n](x, position))[
            :, kind
        ]

    seer = calibrate(decoder, t, {"seer": {n: score(n) for n in t.layers}})["seer"]
    assert np.allclose(np.sort(seer.calibrated), np.sort(needs.known[kind], axis=None), atol=1e-4)
    batch = first_batch(decoder, t)
    for share in (0.2, 0.5):
        limit = needs.threshold(kind, share, known=True)
        known = {
            n: Rule(maps[n], lambda s, limit=limit: needs.at(s, kind, known=True) <= limit) for n in t.layers
        }
        routed = {n: Rule(maps[n], seer.choose(share)) for n in t.layers}
        (one, count), (other, again) = (run_substituted(decoder, t, r, batch) for r in (known, routed))
        assert torch.allclose(one, other, atol=1e-5)
        assert torch.equal(count, again)
        kept = int(batch.keep.sum()) * decoder.n_heads * len(t.layers)
        assert 0.5 * share < float(count.sum()) / kept < 1.5 * share


def site_of(decoder, t, maps, layer):
    batch = first_batch(decoder, t)
    found = activations(decoder, batch.ids, layer)
    x, z = (found[k][:, t.start_position :] for k in ("resid_pre", "z"))
    return Site(layer, x, z, torch.zeros_like(z), batch, t.start_position)


def test_thresholds_replace_the_share_that_is_asked_for(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    router = calibrate(decoder, t, {"hidden": without_position(needs, decoder.n_heads)})["hidden"]
    assert np.mean(router.calibrated <= np.quantile(router.calibrated, 0.3)) == pytest.approx(0.3, abs=0.01)
    for layer in t.layers:
        site = site_of(decoder, t, placed(fitted), layer)
        assert bool(router.choose(1.0)(site).all())
        some, more = (router.choose(share)(site) for share in (0.2, 0.6))
        assert some.shape == (*site.x.shape[:2], decoder.n_heads)
        assert bool((more | ~some).all())  # what goes early stays gone


def test_the_need_of_any_map_is_predicted_as_that_of_the_maps_of_one_token(fitted_gpt2, monkeypatch):
    # of one need and of all needs together other penalties would be chosen
    monkeypatch.setattr(RidgePath, "best", lambda self, validation, gram: 1e-3)
    decoder, t, _, fitted, _ = fitted_gpt2
    few = first_windows(t, "train", 800)
    own = measure_needs(decoder, few, fitted, None).predictors
    maps = placed(fitted)
    # with the tokens before in view, and maps that make the same error without them
    wide = {
        n: Rule(
            lambda x, position, m=m: m(x[:, : decoder.d_model], position),
            sees=seen(2, torch.zeros(decoder.d_model)),
        )
        for n, m in maps.items()
    }
    worse = {n: Rule(lambda x, position, m=m: 10 * m(x, position)) for n, m in maps.items()}
    found, other = (predict_need(decoder, few, rules, None, "x") for rules in (wide, worse))
    for n in t.layers:
        expected, slope = of_need(own[n], "fisher"), found[n].linear.weight
        assert torch.allclose(slope, expected.weight, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))
        # intercepts are shrunk in the company of other needs; their mean is not
        mean = found[n].linear.bias.mean(0)
        assert torch.allclose(mean, expected.bias.mean(0), atol=0.05)
        assert float((other[n].linear.bias.mean(0) - mean).mean()) > 0.5


def test_the_network_is_never_worse_than_its_start_on_the_validation_documents(fitted_gpt2, monkeypatch):
    decoder, t, moments, fitted, needs = fitted_gpt2
    monkeypatch.setattr(routers, "EPOCHS", 1)
    found = train_networks(decoder, t, needs, placed(fitted), moments)
    monkeypatch.setattr(routers, "EPOCHS", 0)
    start = train_networks(decoder, t, needs, placed(fitted), moments)
    x, position = torch.randn(7, decoder.d_model), torch.arange(1, 8)
    for n in t.layers:
        expected = of_need(needs.predictors[n], "fisher")(x, position)
        assert torch.allclose(start[n](x, position), expected, atol=1e-6)
        need = torch.rand(7, decoder.n_heads)
        f = start[n](x, position)
        plain = float((need * (-f).exp() + f).mean())
        assert float(start[n].loss(x, position, need)) == pytest.approx(plain, rel=1e-4)
    assert any(not torch.equal(found[n].second.weight, start[n].second.weight) for n in t.layers)


@pytest.mark.parametrize("together", [False, True])
def test_a_trained_router_never_ends_above_its_start(fitted_gpt2, monkeypatch, together):
    decoder, t, moments, fitted, needs = fitted_gpt2
    monkeypatch.setattr(trained, "HOW", replace(trained.HOW, epochs=1))
    start = {n: of_need(p, "fisher") for n, p in needs.predictors.items()}
    found, again = (
        train_router(decoder, t, start, placed(fitted), spread(moments), together=together) for _ in range(2)
    )
    assert found.after <= found.before == again.before
    assert found.after == again.after
    for n in t.layers:
        same = torch.allclose(found.maps[n].weight.float(), fitted[n].with_position.weight.float(), atol=1e-6)
        assert same or (together and found.after < found.before)


def test_training_learns_where_attention_is_needed(tokenizer, monkeypatch):
    """Planted: the maps are exact but for head 0, and the router begins by asking for the other heads."""
    decoder, t = Decoder(build(TINY["gpt2"]), "planted"), task(tokenizer)
    plant_linear_attention(decoder)
    moments = collect(decoder, t, None, "model", controls=True)
    maps = placed(solve(decoder, t, moments, "model"))
    wrong = torch.zeros(decoder.d_z, dtype=torch.float64)
    wrong[: decoder.d_head] = 3.0
    maps = {n: replace(m, bias=m.bias + wrong) for n, m in maps.items()}
    blind = torch.linspace(0.0, 0.3, decoder.n_heads, dtype=torch.float64)
    positions = t.windows["train"].ids.shape[1]
    start = {
        n: PositionAffine(
            torch.full((decoder.d_model, decoder.n_heads), 1e-3, dtype=torch.float64),
            blind.expand(positions, -1).clone(),
            m.shift,
        )
        for n, m in maps.items()
    }
    monkeypatch.setattr(trained, "HOW", replace(trained.HOW, epochs=3, rate=0.2))
    found = train_router(decoder, t, start, maps, spread(moments), together=False)
    assert found.after < 0.7 * found.before
    lifted = torch.stack([(s.bias - start[n].bias).mean(0) for n, s in found.scores.items()]).mean(0)
    assert int(lifted.argmax()) == 0


def test_exact_needs_are_the_losses_of_single_replacements(fitted_gpt2):
    decoder, t, _, fitted, _ = fitted_gpt2
    maps = placed(fitted)
    found = measure_exact(decoder, t, maps, None, heads=True)
    few = first_windows(t, "validation", 8192)
    variant = Variant(Key("x", "x"), {1: Rule(maps[1], heads=(2,))})
    intact, changed = evaluate(decoder, few, [variant], None, "x", "validation")
    loss, tokens = (TALLIES.index(n) for n in ("loss", "tokens"))
    rise = float((changed[0, :, loss] - intact[:, loss]).sum() / intact[:, tokens].sum())
    assert found.heads[1, 2] == pytest.approx(rise, abs=1e-9)
    assert set(found.layers) == set(t.layers)
    assert not measure_exact(decoder, t, maps, None, heads=False).heads


def test_every_order_can_be_followed_once_what_it_needs_is_there(fitted_gpt2):
    decoder, t, _, fitted, needs = fitted_gpt2
    maps = placed(fitted)
    known = measure_known(decoder, t, maps)
    calm = {n: (lambda x, position: torch.zeros(len(x), decoder.n_heads)) for n in t.layers}
    every = {name: Router(calm, np.zeros(3)) for name in ("hidden_fisher", *(set(MAKERS) - {"heads_exact"}))}
    exact = ExactNeeds(dict.fromkeys(t.layers, 0.0), {(n, h): h * 1.0 for n in t.layers for h in range(4)})
    own = {o: {n: Rule(m) for n, m in maps.items()} for o in ("trained_together", "past_fisher")}
    assert orders_of(PARTS) == tuple(ORDERS)
    assert set(ORDERS) - set(orders_of(["curve"])) == set(MAKERS)
    assert not orders_of(["layers", "routers"])
    whole = Routing(tuple(ORDERS), t, decoder.n_heads, maps, needs, known, exact, every, own)
    ends = [list(whole.points(order, (0.5, 1.0)))[-1] for order in ORDERS]
    shared = {id(v.rules) for v in ends if v.key.order not in ("layers_dropped", *own)}
    layers = {id(v.rules) for v in ends if v.key.order.startswith("layers")}
    assert len(shared - layers) == 1  # measured once
    assert next(iter(whole.points("heads_exact", (0.2,)))).rules[0].heads == (0,)
