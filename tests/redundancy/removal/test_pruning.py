"""Methods of the field: their maps, criteria and orders against direct computations, and what tables make of
them.
"""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import GPT2Config

from labbook import console
from labbook.console import UserError
from labbook.estimate import Estimate, Studentised
from redundancy.evaluation import TALLIES, log_probabilities
from redundancy.model.decoder import Decoder
from redundancy.model.prefix import Prefix
from redundancy.model.updates import Unit, Updates, nothing
from redundancy.passes import collect
from redundancy.regression.controls import affine
from redundancy.regression.ridge import RidgePath
from redundancy.removal.pruning import greedy
from redundancy.removal.pruning.calibration import (
    Criteria,
    best_spans,
    canonical_bound,
    fit_spans,
    fit_target,
    measure_criteria,
    spans,
)
from redundancy.removal.pruning.experiment import Measured, Point, measure_methods
from redundancy.removal.pruning.figures import methods_curve
from redundancy.removal.pruning.greedy import greedy_order
from redundancy.removal.pruning.methods import DRAWS, METHODS, counts, removes_of
from redundancy.removal.pruning.tables import (
    COLUMNS,
    MethodTables,
    against_mlp,
    more_redundant,
    sentences,
    tabulate_methods,
)
from tests.conftest import SIZE, build
from tests.planted import stored, task

TARGETS = ("attention", "mlp", "block")


@pytest.fixture(scope="module")
def four(tokenizer):
    """A model of four blocks whose windows change from position 0 on, and maps of its updates."""
    config = GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=64, loss_type="ForCausalLM", **SIZE)
    decoder, t = Decoder(build(config), "four"), task(tokenizer, start=0, tokens=1500)
    t = copy.copy(t)
    object.__setattr__(t, "layers", (0, 1, 2, 3))
    return decoder, t, {target: fit_target(decoder, t, target, None) for target in TARGETS}


def test_the_map_of_nbl_is_the_probe_at_penalty_0(tiny, tokenizer):
    t = task(tokenizer)
    maps = fit_target(tiny, t, "attention", None)
    moments = collect(tiny, t, None, "probe", controls=False)
    for layer in t.layers:
        probe = affine(RidgePath(moments[layer].moments("train", "current")).solve(0.0), moments[layer].pilot)
        weight, bias = tiny.output_map(layer)
        rows = stored(tiny, t, "evaluation", layer)
        x = torch.from_numpy(rows["x"])
        ours = maps[Unit(layer, "attention")].linear(x)
        assert torch.allclose(ours, probe(x) @ weight.double() + bias.double(), atol=1e-4)
        train = stored(tiny, t, "train", layer)
        wide = np.hstack([train["x"], np.ones((len(train["x"]), 1))])
        solution = np.linalg.lstsq(wide, train["a"], rcond=None)[0]
        direct = np.hstack([rows["x"], np.ones((len(rows["x"]), 1))]) @ solution
        assert np.abs(ours.numpy() - direct).max() < 1e-3
        mean = maps[Unit(layer, "attention")].mean
        assert np.allclose(mean.numpy(), train["a"].mean(0), atol=1e-5)


def test_the_bound_and_the_cosine_are_those_of_stored_tokens(fitted_gpt2):
    decoder, t, *_ = fitted_gpt2
    maps, criteria = fit_target(decoder, t, "attention", None), Criteria()
    measure_criteria(decoder, t, "attention", maps, criteria)
    for layer in t.layers:
        rows, unit = stored(decoder, t, "validation", layer), Unit(layer, "attention")
        x, after = rows["x"], rows["x"] + rows["a"]
        own = (x * after).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(after, axis=1)
        assert criteria.cosine[unit] == pytest.approx(own.mean(), abs=1e-6)
        one, two = (np.linalg.qr(v - v.mean(0))[0] for v in (x, after))
        correlations = np.linalg.svd(one.T @ two, compute_uv=False)
        bound = (1 - correlations**2).sum()
        assert criteria.bound[unit] == pytest.approx(bound, abs=1e-3)
        # and it is a bound: of the error relative to the variance, column by column of the whitened output
        assert bound >= 0


def test_the_bound_of_a_linear_update_is_zero_and_of_noise_nearly_all():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    for y, bound, tolerance in (
        (x @ weight, 0, 1e-9),
        (1e6 * torch.randn(20_000, 6, generator=generator, dtype=torch.float64), 6, 0.01),
    ):
        c = torch.cov(torch.cat([x, y], 1).T)
        found = canonical_bound(c[:6, :6], c[:6, 6:], c[6:, 6:])
        assert found == pytest.approx(bound, abs=tolerance)


def mean_loss(model, t, batches) -> float:
    """Loss per scored token of a plain model."""
    total = count = 0.0
    for batch in batches:
        log_p = model(input_ids=batch.ids, use_cache=False).logits[:, :-1].double().log_softmax(-1)
        valid = batch.keep[:, :-1] & batch.keep[:, 1:]
        total -= float(log_p.gather(-1, batch.ids[:, 1:, None])[..., 0][valid].sum())
        count += int(valid.sum())
    return total / count


def without(model, units):
    """A copy whose units add nothing, made of zero weights and of missing blocks."""
    model = copy.deepcopy(model)
    for layer, target in units:
        block = model.transformer.h[layer]
        for module in {"attention": [block.attn.c_proj], "mlp": [block.mlp.c_proj]}.get(
            target, [block.attn.c_proj, block.mlp.c_proj]
        ):
            module.weight.data.zero_()
            module.bias.data.zero_()
    return model


@pytest.mark.parametrize("kinds", [("attention",), ("mlp",), ("block",), ("attention", "mlp")])
def test_greedy_is_brute_force(four, monkeypatch, kinds):
    decoder, t, _ = four
    monkeypatch.setattr(greedy, "TOKENS", 300)
    units = [Unit(n, kind) for n in range(4) for kind in kinds]
    order = greedy_order(decoder, t, units, lambda unit: nothing, 3, "loss", "greedy")
    batches = greedy.calibration_batches(decoder, t)
    gone = []
    for unit in order:
        losses = {
            (one.layer, one.target): mean_loss(
                without(decoder.model, [*gone, (one.layer, one.target)]), t, batches
            )
            for one in units
            if (one.layer, one.target) not in gone
        }
        assert min(losses, key=losses.__getitem__) == (unit.layer, unit.target)
        gone.append((unit.layer, unit.target))


def test_greedy_by_divergence_is_brute_force(four, monkeypatch):
    decoder, t, _ = four
    monkeypatch.setattr(greedy, "TOKENS", 300)
    units = [Unit(n, kind) for n in range(4) for kind in ("attention", "mlp")]
    order = greedy_order(decoder, t, units, lambda unit: nothing, 2, "divergence", "greedy")
    batches, gone = greedy.calibration_batches(decoder, t), []

    def divergence(units) -> float:
        model, total = without(decoder.model, units), 0.0
        for batch in batches:
            p, q = (
                m(input_ids=batch.ids, use_cache=False).logits[:, :-1].double().softmax(-1)
                for m in (decoder.model, model)
            )
            m = (p + q) / 2
            js = 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)
            total += float(js[batch.keep[:, :-1] & batch.keep[:, 1:]].sum())
        return total

    for unit in order:
        found = {
            (one.layer, one.target): divergence([*gone, (one.layer, one.target)])
            for one in units
            if (one.layer, one.target) not in gone
        }
        assert min(found, key=found.__getitem__) == (unit.layer, unit.target)
        gone.append((unit.layer, unit.target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("replacement", ["nothing", "mean", "linear", "placed"])
def test_what_is_taken_from_below_changes_no_number(four, target, replacement):
    """With other units gone already, below, above and in the same block as the candidate."""
    decoder, t, maps = four
    gone = {Unit(n, target): maps[target][Unit(n, target)].put(replacement) for n in (0, 3)}
    own = {Unit(2, target): maps[target][Unit(2, target)].put(replacement)}
    batch, prefix = next(t.batches("validation", decoder.device)), Prefix(decoder)
    with Updates(decoder, gone | own, 0):
        whole = log_probabilities(decoder, batch.ids)
    with Updates(decoder, gone, 0), prefix.recorded():
        log_probabilities(decoder, batch.ids)
    above = {unit: put for unit, put in gone.items() if unit.layer >= 2}
    with Updates(decoder, above | own, 0), prefix.given(2):
        short = log_probabilities(decoder, batch.ids)
    assert torch.equal(short, whole)


def test_the_map_of_a_run_of_blocks_is_least_squares(four):
    decoder, t, maps = four
    criteria = Criteria()
    measure_criteria(decoder, t, "block", maps["block"], criteria)
    chosen = best_spans(criteria)
    assert set(criteria.spans) == set(spans(t.layers)) == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    assert set(chosen) == {1, 2, 3}
    transforms = fit_spans(decoder, t, chosen)
    first, stop = chosen[2]
    rows = {n: stored(decoder, t, "train", n) for n in (first, first - 1)}
    before = rows[first]["x"]
    middle = rows[first - 1]["x"] + rows[first - 1]["a"]
    m = before - middle
    after = stored(decoder, t, "train", stop)["x"] if stop < 4 else None
    if after is None:  # behind the last block
        kept = []
        hook = decoder.layers[3].register_forward_hook(
            lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for ids, length in zip(t.windows["train"].ids, t.windows["train"].lengths, strict=True):
            decoder.model(input_ids=torch.from_numpy(ids[None, :length]))
        hook.remove()
        after = np.concatenate([states[0].double().numpy() for states in kept])
    direct = np.linalg.lstsq(m, after - middle, rcond=None)[0]
    assert np.abs(transforms[2].numpy() - direct).max() < 2e-3 * np.abs(direct).max()
    # the cosine by which it was chosen
    validation = stored(decoder, t, "validation", first)["x"]
    later = stored(decoder, t, "validation", 3)["x"]
    own = (validation * later).sum(1) / np.linalg.norm(validation, axis=1) / np.linalg.norm(later, axis=1)
    if first < 3:
        assert criteria.spans[first, 3] == pytest.approx(own.mean(), abs=1e-6)


@pytest.fixture(scope="module")
def measured(fitted_gpt2, tmp_path_factory):
    decoder, t, *_ = fitted_gpt2
    state = tmp_path_factory.mktemp("state")
    return measure_methods(decoder, t, TARGETS, (0.5,), state), decoder, t, state


class Of:
    bytes_per_token = 3.0


@pytest.fixture(scope="module")
def tables(measured):
    found, _, t, _ = measured
    return tabulate_methods(found, Studentised(len(t.windows["evaluation"].names), 0), Of())


def test_every_method_is_measured_at_every_number(measured, tables):
    found, _, t, _ = measured
    rows = tables.methods[tables.methods["metric"] == "loss_increase"].set_index(
        ["target", "method", "removed"]
    )
    rows = rows.sort_index()
    for name, method in METHODS.items():
        for removes in method.removes:
            total = 4 if removes == "sublayers" else 2
            numbers = (
                (1,) if name == "replaceme" else range(1, total + 1)
            )  # of two blocks one carries the map
            assert list(rows.loc[removes, name].index) == list(numbers), (name, removes)
    assert rows["n"].eq(len(t.windows["evaluation"].names)).all()
    # with all units gone every order leaves the same model
    for target in TARGETS:
        drop = "block_influence" if target == "block" else "llm_drop"
        ends = rows.loc[target].xs(2, level="removed")["estimate"]
        assert ends[drop] == ends["sleb"] == pytest.approx(ends["random"])
    assert rows.loc["sublayers", "finercut", 4]["estimate"] == pytest.approx(
        rows.loc["block", "sleb", 2]["estimate"], abs=1e-4
    )
    assert len(next(p for p in found.points if p.method == "random").places) == DRAWS
    one = rows.loc["attention", "llm_drop", 1]
    assert one["units"] in ("attention 0", "attention 1")
    assert one["source"] == "arXiv:2406.15786"


def test_a_row_is_the_loss_of_the_model_with_the_named_units_gone(measured, tables):
    """Against a plain hook that leaves position 0 as it is."""
    _, decoder, t, _ = measured
    rows = tables.methods[tables.methods["metric"] == "loss_increase"]
    row = rows[(rows["method"] == "sleb") & (rows["target"] == "mlp") & (rows["removed"] == 1)].iloc[0]
    layer = int(row["units"].split()[1])

    def swap(module, args, out):
        return torch.cat([out[:, :1], torch.zeros_like(out[:, 1:])], 1)

    batches = list(t.batches("evaluation", decoder.device))
    intact = mean_loss(decoder.model, t, batches)
    hook = decoder.layers[layer].mlp.register_forward_hook(swap)
    changed = mean_loss(decoder.model, t, batches)
    hook.remove()
    assert row["estimate"] == pytest.approx(changed - intact, abs=1e-5)


def made_up(losses: list[float], points: list[Point]) -> Measured:
    """Sums of six documents of 100 tokens each, whose losses rise by `losses`, a row for each."""
    sums = torch.zeros(len(losses) + 1, 6, len(TALLIES), dtype=torch.float64)
    sums[:, :, TALLIES.index("tokens")], sums[:, :, TALLIES.index("operations")] = 100, 1
    sums[:, :, TALLIES.index("loss")] = 100 * torch.tensor([0.0, *losses]).double().unsqueeze(1)
    return Measured(points, sums[0], sums[1:], [])


@pytest.mark.parametrize(("nothing_costs", "recovered"), [(0.4, 0.75), (0.0, None), (0.05, -1.0)])
def test_what_is_recovered_is_of_the_same_units(nothing_costs, recovered):
    point = Point("nbl", "attention", 1, (Unit(0, "attention"),), 2, places=(0,), nothing=1, mean=2)
    found = made_up([0.1, nothing_costs, 0.2], [point])
    rows = tabulate_methods(found, Studentised(6, 0), Of()).methods.set_index("metric")["estimate"]
    assert rows["loss_increase"] == pytest.approx(0.1)
    assert rows["recovered_of_mean"] == pytest.approx(0.5)
    if recovered is None:  # there is nothing to recover
        assert "recovered_of_nothing" not in rows.index
    else:
        assert rows["recovered_of_nothing"] == pytest.approx(recovered)


def test_a_random_order_is_the_mean_of_its_draws():
    point = Point("random", "mlp", 1, (), 2, places=(0, 1, 2), nothing=None, mean=None)
    found = made_up([0.1, 0.2, 0.6], [point])
    row = tabulate_methods(found, Studentised(6, 0), Of()).methods.query("metric == 'loss_increase'").iloc[0]
    assert row["estimate"] == pytest.approx(0.3)
    assert row["units"] == ""
    # the documents agree exactly: all that is uncertain are the draws
    assert row["upper"] - row["estimate"] == pytest.approx(
        stats.t.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / 10 / 3**0.5
    )


def test_differences_are_paired(tables):
    rows = (
        tables.methods[tables.methods["metric"] == "loss_increase"]
        .set_index(["target", "method", "removed"])["estimate"]
        .sort_index()
    )
    assert set(tables.method_differences["removed"]) == {1, 2, 3, 4}
    for row in tables.method_differences.to_dict("records"):
        own = rows[row["target"], row["method"], row["removed"]]
        other = rows[row["other_target"], row["other_method"], row["removed"]]
        assert row["estimate"] == pytest.approx(own - other, abs=1e-9)
    both = tables.method_differences.query("target == 'mlp' and other_target == 'attention'")
    assert set(both["method"]) == {"random", "llm_drop", "sleb", "mean_update", "nbl", "linear_greedy"}
    # the same units gone in both orders: no difference, and no interval around it
    of = "target == 'mlp' and method == 'sleb' and other_method == 'llm_drop' and removed == 2"
    end = tables.method_differences.query(of).iloc[0]
    assert (end["estimate"], end["lower"], end["upper"]) == (0, 0, 0)


def test_a_killed_search_goes_on_to_the_same_tables(measured, tables, tmp_path, monkeypatch):
    _, decoder, t, _ = measured
    calls, original = [0], greedy.log_probabilities

    def counted(*args):
        calls[0] += 1
        console._Signals.received = calls[0] == 60
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(greedy, "log_probabilities", counted)
        with pytest.raises(console.Interrupted):
            measure_methods(decoder, t, TARGETS, (0.5,), tmp_path)
    console._Signals.received = False
    assert (tmp_path / "methods-orders.json").exists()
    again = measure_methods(decoder, t, TARGETS, (0.5,), tmp_path)
    found = tabulate_methods(again, Studentised(len(t.windows["evaluation"].names), 0), Of())
    for name in ("methods", "method_differences", "method_removable"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(tables, name))


def test_one_target_alone_is_measured_alone(fitted_gpt2, tmp_path):
    decoder, t, *_ = fitted_gpt2
    found = measure_methods(decoder, t, ("mlp",), (0.5,), tmp_path)
    assert {p.removes for p in found.points} == {"mlp"}
    with pytest.raises(UserError, match="--targets embedding was asked for"):
        measure_methods(decoder, t, ("embedding",), (0.5,), tmp_path)


def test_counts_and_targets():
    assert counts(6, (0.1,)) == [1, 2, 3, 4, 5, 6]
    assert counts(30, (0.05, 0.1, 0.2, 0.5, 0.65, 1.0)) == [1, 2, 3, 6, 15]
    assert removes_of(("mlp", "attention")) == ("attention", "mlp", "sublayers")
    assert removes_of(("block",)) == ("block",)
    assert counts(60, (0.8,)) == [1]


def number(estimate: float, half: float = 0.1, n: int = 12) -> Estimate:
    return Estimate(estimate, estimate - half, estimate + half, n)


@pytest.mark.parametrize(
    ("differences", "answer"),
    [
        ([number(0.5), number(0.2)], "yes"),
        ([number(-0.5), number(-0.2)], "no"),
        ([number(0.5), number(0.05)], "undecided"),
        ([number(0.5), number(-0.5), number(0.0)], "depends"),
        ([number(-0.5), number(0.05)], "undecided"),
        ([number(0.5, float("nan"))], "undecided"),
        ([number(0.5, n=2)], "undecided"),
        ([], "undecided"),
    ],
)
def test_which_is_more_redundant_can_come_out_each_way(differences, answer):
    assert more_redundant(differences) == answer


def planted(value: float) -> MethodTables:
    """Tables in which the MLP costs `value` more than attention."""
    frames = {name: pd.DataFrame(columns=list(columns)) for name, columns in COLUMNS.items()}
    row = {"target": "mlp", "other_target": "attention", "removed": 3, "share": 0.5, **vars(number(value))}
    other = {**row, "removed": 1, "share": 1 / 6, **vars(number(-value))}
    frames["method_differences"] = pd.DataFrame(
        [{"method": m, "other_method": m, **r} for m in ("sleb", "nbl") for r in (row, other)]
    )
    frames["method_removable"] = pd.DataFrame(
        [
            {"method": "sleb", "target": "attention", "budget": 0.05, **vars(number(0.0, 0))},
            {"method": "nbl", "target": "attention", "budget": 0.05, **vars(number(max(value, 0.0), 0))},
        ]
    )
    return MethodTables(**frames)


def test_sentences_follow_the_numbers():
    more = sentences(planted(0.5))
    assert more[0].startswith("Attention is more redundant than the MLP: without 3 MLPs")
    assert "SLEB +0.50 [+0.40, +0.60]" in more[0]
    assert more[1].endswith("a share of 0.50 of the attention layers can go whole (NBL).")
    less = sentences(planted(-0.5))
    assert less[0].startswith("Attention is less redundant than the MLP")
    assert less[1].endswith("of the attention layers can go whole: the cheapest one costs more.")
    neither = sentences(planted(0.0))[0]
    assert neither.startswith("Whether attention or the MLP is more redundant is undecided")
    assert sentences(MethodTables.none()) == []


def test_the_choice_of_how_many_go_is_named_and_a_random_order_decides_nothing():
    tables = planted(0.5)
    compared = against_mlp(tables)
    assert (compared.removed, compared.answer, list(compared.otherwise)) == (3, "yes", [1])
    assert "(with other numbers removed, 1: no)" in sentences(tables)[0]
    chance = tables.method_differences.assign(method="random", other_method="random")
    chance[["estimate", "lower", "upper"]] *= -1
    both = pd.concat([tables.method_differences, chance])
    assert against_mlp(replace(tables, method_differences=both)) == compared
    # of five layers two and three are as near to half: one of them stands for both
    five = tables.method_differences.assign(share=lambda rows: rows["removed"].map({1: 0.4, 3: 0.6}))
    assert against_mlp(replace(tables, method_differences=five)).removed == 1


def test_tables_are_read_as_they_were_written(tables, tmp_path):
    assert not MethodTables.read(tmp_path).files()
    for name, frame in tables.files().items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    again = MethodTables.read(tmp_path)
    for name, frame in tables.files().items():
        columns = ["estimate"] if "estimate" in frame else ["seconds"]
        assert np.allclose(getattr(again, name)[columns], frame[columns], equal_nan=True)


def test_the_figure_names_every_line(tables):
    figure = methods_curve(tables, "made up")
    figure.canvas.draw()
    shown = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {method.label for method in METHODS.values()} <= shown
    assert not any(axes.get_legend() for axes in figure.axes)
