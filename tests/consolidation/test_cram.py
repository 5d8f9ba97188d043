"""The reference model against its per-token reading; causality, routing, skipping, rivals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from consolidation import naive
from consolidation.config import VARIANTS, CRAMConfig, Objective, SRCDConfig
from consolidation.cram import EPISODIC, CRAMLayer, Outputs, Routing, Trace, objective
from consolidation.rivals import BUDGET, SparselyActivated, build, parameters
from consolidation.srcd import generate, generator
from labbook.console import UserError

CPU = torch.device("cpu")
BENCHMARK = SRCDConfig(length=64, patterns=20, novel_keys=20, values=8, bindings=0.08, queries=0.08)
CONFIG = CRAMConfig(width=32, layers=2, heads=2, buffer=32)


def noise_for(batch, layers):
    return Routing.draw(layers, batch, generator(CPU, "noise"))


def gradients(layer: nn.Module, x: torch.Tensor, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names = [name for name, p in layer.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(
        loss, [x, *(p for p in layer.parameters() if p.requires_grad)], allow_unused=True
    )
    return {name: g for name, g in zip(["x", *names], found, strict=True) if g is not None}


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"exploration": 0.4},
        {"quality": "oracle"},
        {"quality": "oracle", "initial": "zero", "step_size": 0.2, "sigma": 3.0},
        {"semantic": False},
        {"quality_in_router": False},
        {"semantic": False, "quality": "learned"},
        {"buffer": 5},
        {"buffer": 5, "chunk": 7},
        {"buffer": 1, "chunk": 3, "quality": "oracle"},
    ],
    ids=str,
)
def test_the_layer_is_its_per_token_reading(change, noisy):
    torch.manual_seed(0)
    layer = CRAMLayer(replace(CONFIG, **change)).double().eval()
    x = torch.randn(2, 40, 32, dtype=torch.float64, requires_grad=True)
    gap = 3 * torch.rand(2, 40, dtype=torch.float64)
    routing = Routing(torch.randn(2, 40, 3).double(), torch.rand(2, 40).double(), 0.5) if noisy else None
    weight = torch.randn(2, 40, 32, dtype=torch.float64)
    fast, trace = layer(x, gap, routing, frozenset())
    # the rows of a layer's routing are those of its sequences
    rows = [
        naive.forward(layer, x[i], gap[i], None if routing is None else routing.layer(i)) for i in range(2)
    ]
    slow = torch.stack([out for out, _ in rows])
    assert torch.equal(trace.path, torch.stack([path for _, path in rows]))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    ours, theirs = gradients(layer, x, (fast * weight).sum()), gradients(layer, x, (slow * weight).sum())
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(("change", "trains"), [({}, False), ({"quality": "learned"}, True)], ids=str)
def test_the_router_trains_its_network_of_x_only_where_it_has_nothing_to_predict(change, trains):
    torch.manual_seed(0)
    layer = CRAMLayer(replace(CONFIG, semantic=False, **change)).train()
    routing = Routing(torch.randn(2, 40, 3), torch.rand(2, 40), 1.0)
    out, trace = layer(torch.randn(2, 40, 32), torch.rand(2, 40), routing, frozenset())
    of_router = gradients(layer, layer.router.first.weight, out.sum())
    assert any(name.startswith("predict.") for name in of_router) is trains
    assert (float(trace.prediction_loss.detach()) == 0) is trains


def test_a_router_with_a_network_of_x_is_no_model_with_semantic_memory():
    with pytest.raises(UserError, match="control-network"):
        replace(CONFIG, quality="learned")
    sizes = {name: build(name, BENCHMARK, CONFIG) for name in ("cram", "control", "control-network")}
    cram, control, network = (parameters(model) for model in sizes.values())
    assert control == network
    assert abs(control / cram - 1) < 0.1
    narrow = build("control-narrow", BENCHMARK, CONFIG)
    assert narrow.layers[0].up.out_features == sizes["cram"].layers[0].up.out_features
    assert parameters(narrow) < cram


@pytest.mark.parametrize("chunk", [5, 64])
@pytest.mark.parametrize("quality", ["oracle", "predicted"])
def test_nothing_depends_on_the_future(quality, chunk):
    torch.manual_seed(0)
    layer = CRAMLayer(replace(CONFIG, quality=quality, buffer=6, chunk=chunk)).double().eval()
    x, gap = torch.randn(1, 30, 32).double(), torch.rand(1, 30).double()
    before, _ = layer(x, gap, None, frozenset())
    for t in (3, 17, 29):
        changed = x.clone()
        changed[:, t:] += 10 * torch.randn(1, 30 - t, 32).double()
        after, _ = layer(changed, gap, None, frozenset())
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_model_is_causal_learns_something_and_keeps_its_budget(name):
    torch.manual_seed(0)
    model = build(name, BENCHMARK, CONFIG)
    size = parameters(build("cram", BENCHMARK, CONFIG))
    assert abs(parameters(model) / size - 1) <= BUDGET
    batch = generate(BENCHMARK, 0, 0, 4)
    model.eval()
    with torch.no_grad():
        before = model(batch)
        later = batch.previous.clone()
        later[:, 40:] += 5
        after = model(replace(batch, previous=later))
    torch.testing.assert_close(after.logits[:, :40], before.logits[:, :40])
    assert not torch.equal(after.logits[:, 40:], before.logits[:, 40:])
    model.train()
    terms = objective(model(batch, noise_for(batch, len(model.layers))), batch, Objective())
    terms["total"].backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # one of the two mixers of a layer may go unused where a path is never taken; what is never used by design
    # is not there
    assert unused == []
    assert math.isfinite(terms["total"].item())


def test_a_budget_that_cannot_be_met_is_refused():
    with pytest.raises(UserError, match=r"has .* parameters within 10%"):
        build(
            "jamba",
            replace(BENCHMARK, patterns=20),
            replace(CONFIG, width=4, heads=2, layers=1, feed_forward=1, semantic_rank=1),
        )


@pytest.mark.parametrize("buffer", [4, 64])
def test_skipping_is_masking(buffer):
    torch.manual_seed(1)
    model = build("cram", BENCHMARK, replace(CONFIG, buffer=buffer, chunk=24)).eval()
    batch = generate(BENCHMARK, 0, 0, 4)
    with torch.no_grad():
        skipped, dense = model(batch), model(batch, dense=True)
    torch.testing.assert_close(skipped.logits, dense.logits, rtol=1e-5, atol=1e-5)
    for one, other in zip(skipped.traces, dense.traces, strict=True):
        assert torch.equal(one.path, other.path)
        # position t can see min(t, M) entries
        t = torch.arange(BENCHMARK.length).expand(4, -1)
        assert int(one.pairs) == int(t.clamp(max=buffer)[one.path == EPISODIC].sum())
        assert int(other.pairs) == int(t.clamp(max=buffer).sum())
        assert bool((one.quality.isnan() == (one.path != EPISODIC)).all())


def test_routing_is_a_simplex_with_the_gradient_of_the_soft_one():
    layer = CRAMLayer(CONFIG)
    logits = torch.randn(2, 5, 3, requires_grad=True)
    routing = Routing(torch.randn(2, 5, 3), torch.rand(2, 5), 0.7)
    weight = torch.randn(2, 5, 3)
    probability, route = layer._route(logits, routing)
    torch.testing.assert_close(probability.sum(-1), torch.ones(2, 5))
    assert torch.equal(
        route.detach().sort(-1).values.round(decimals=5), torch.tensor([0.0, 0.0, 1.0]).expand(2, 5, 3)
    )
    (hard,) = torch.autograd.grad((route * weight).sum(), logits)
    soft = ((logits + routing.gumbel) / 0.7).softmax(-1)
    (expected,) = torch.autograd.grad((soft * weight).sum(), logits)
    torch.testing.assert_close(hard, expected)
    without = CRAMLayer(replace(CONFIG, semantic=False))
    probability, _ = without._route(logits[..., :2], routing)
    assert bool((probability[..., 2] == 0).all())


def test_gumbel_noise_samples_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0])
    batch = generate(replace(BENCHMARK, length=256), 0, 0, 64)
    noise = Routing.draw(1, batch, generator(CPU, "x")).layer(0).gumbel
    share = torch.bincount((logits + noise).argmax(-1).flatten(), minlength=3) / noise[..., 0].numel()
    torch.testing.assert_close(share, logits.softmax(0), atol=0.01, rtol=0)


def test_exploration_estimates_the_gradient_of_attention_everywhere():
    """Averaged over which positions are explored, the router's gradient is that of a model that reads
    everywhere.
    """
    torch.manual_seed(0)
    layer = CRAMLayer(replace(CONFIG, exploration=0.25, layers=1)).double().train()
    layer.requires_grad_(False)
    layer.router.second.weight.requires_grad_(True)
    x, gap = torch.randn(64, 20, 32).double(), torch.rand(64, 20).double()
    weight = torch.randn(64, 20, 32).double()
    gumbel = torch.randn(64, 20, 3).double()

    def gradient(explore: torch.Tensor) -> torch.Tensor:
        out, _ = layer(x, gap, Routing(gumbel, explore), frozenset())
        (g,) = torch.autograd.grad((out * weight).sum(), layer.router.second.weight)
        return g

    layer.eval()  # the running scale stands still
    g = torch.Generator().manual_seed(0)
    draws = torch.stack([gradient(torch.rand(64, 20, generator=g).double()) for _ in range(200)])
    # everything explored, each read weighted by 1 / 1 instead of 1 / exploration
    layer.config = replace(layer.config, exploration=1 - 1e-12)
    everywhere = gradient(torch.zeros(64, 20).double())
    error = draws.std(0) / 200**0.5
    assert bool(((draws.mean(0) - everywhere).abs() < 5 * error + 1e-9).all())


def test_the_objective_is_equation_8():
    batch = generate(BENCHMARK, 0, 0, 2)
    shape = batch.key.shape
    torch.manual_seed(0)
    traces = []
    for _ in range(2):
        route = torch.rand(*shape, 3).softmax(-1)
        nothing = torch.zeros(shape)
        traces.append(
            Trace(
                route,
                route,
                route.argmax(-1),
                nothing.bool(),
                nothing,
                torch.rand(shape),
                nothing,
                torch.tensor(0),
                torch.tensor(0.3),
                torch.tensor(0.2),
            )
        )
    logits, dynamics = torch.randn(*shape, 8), torch.randn(shape)
    terms = objective(Outputs(logits, dynamics, traces), batch, Objective(0.1, 0.05, 0.5))
    answers = [
        -logits[b, t].log_softmax(0)[batch.target[b, t]]
        for b in range(shape[0])
        for t in batch.position[b].tolist()
    ]
    torch.testing.assert_close(terms["retrieval"], torch.stack(answers).mean())
    torch.testing.assert_close(terms["dynamics"], ((dynamics - batch.dynamics) ** 2).mean())
    queries = batch.position.numel()
    torch.testing.assert_close(
        terms["attention"], sum(0.1 * t.route[..., 1].sum() / queries for t in traces) / 2
    )
    torch.testing.assert_close(
        terms["semantic"], -sum(0.05 * (t.route[..., 2] * t.predicted).sum() / queries for t in traces) / 2
    )
    assert float(terms["consolidation"]) == pytest.approx(0.15)
    torch.testing.assert_close(terms["total"], sum(v for k, v in terms.items() if k != "total"))


def test_eq_6_and_its_running_scale():
    torch.manual_seed(0)
    layer = CRAMLayer(replace(CONFIG, quality="oracle"))
    x, gap = torch.randn(4, 30, 32), torch.rand(4, 30)
    with torch.no_grad():
        recalled, _ = layer.episodic(x)
        _, trace = layer.eval()(x, gap, None, frozenset())
    expected = torch.exp(-(layer.semantic(x) - recalled).square().sum(-1) / layer.scale)
    torch.testing.assert_close(trace.quality, expected.detach())
    layer.train()(x, gap, None, frozenset())
    torch.testing.assert_close(layer.scale, 0.99 + 0.01 * recalled.square().sum(-1).mean())


def test_knock_outs_take_away_what_they_name():
    torch.manual_seed(0)
    model = build("cram", BENCHMARK, replace(CONFIG, quality="oracle", routing="soft")).eval()
    batch = generate(BENCHMARK, 0, 0, 2)
    with torch.no_grad():
        whole = model(batch).logits
        for part, module in (
            ("attention", "episodic.out"),
            ("semantic", "semantic.up"),
            ("feed_forward", "down"),
        ):
            silenced = build("cram", BENCHMARK, replace(CONFIG, quality="oracle", routing="soft")).eval()
            silenced.load_state_dict(model.state_dict())
            knocked = model(batch, without=frozenset([part]))
            assert not torch.equal(knocked.logits, whole)
            if part == "feed_forward":
                for layer in silenced.layers:
                    layer.get_submodule(module).weight.zero_()
                    layer.get_submodule(module).bias.zero_()
                torch.testing.assert_close(silenced(batch).logits, knocked.logits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 5}, "not divisible by --heads 5"),
        ({"buffer": 0}, "buffer is 0"),
        ({"exploration": 1.0}, "--exploration 1.0"),
    ],
)
def test_impossible_models_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **change)


def test_seqboat_attends_among_the_activated_only():
    torch.manual_seed(0)
    mixer = SparselyActivated(CONFIG).eval()
    x = torch.randn(1, 20, 32)
    with torch.no_grad():
        mixed, gate, pairs = mixer(x, None, frozenset())
        state, _, _ = mixer.space(x)
    active = gate[0] > 0.5
    n = int(active.sum())
    assert 0 < n < 20
    assert int(pairs) == n * (n + 1) // 2
    torch.testing.assert_close(mixed[0, ~active], state[0, ~active])
    # attention among the activated alone, computed on them alone
    dense, _, _ = mixer.attention((x + state)[:, active])
    torch.testing.assert_close(mixed[0, active], state[0, active] + dense[0], rtol=1e-5, atol=1e-5)


def test_a_shut_gate_of_seqboat_gets_the_gradient_of_what_it_would_read_if_it_alone_were_open():
    torch.manual_seed(0)
    mixer = SparselyActivated(CONFIG).double().eval()
    x, weight = torch.randn(1, 20, 32).double(), torch.randn(32).double()
    mixed, gate, _ = mixer(x, None, frozenset())
    state = mixer.space(x).tokens
    h, active = (x + state).detach(), gate[0] > 0.5
    (shut,) = torch.where(~active)
    assert 0 < len(shut) < 20
    for t in shut.tolist():
        open_ = active.clone()
        open_[t], open_[t + 1 :] = True, False
        read = mixer.attention(h[:, open_])[0][0, -1]
        p = mixer.gate(h).softmax(-1)[0, t, 1]
        (found,) = torch.autograd.grad(mixed[0, t] @ weight, mixer.gate.bias, retain_graph=True)
        torch.testing.assert_close(found[1], p * (1 - p) * (read @ weight), rtol=1e-8, atol=1e-10)
