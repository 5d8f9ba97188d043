"""A replaced model beside the hooks that removal measures with, its cache, its files, and its errors."""

import doctest
import json
import shutil
import subprocess
import sys
from dataclasses import replace as with_fields
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import (
    BloomConfig,
    DynamicCache,
    Gemma2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    MistralConfig,
    StaticCache,
)

from labbook import console
from labbook.console import UserError
from labbook.run import load_tensors, save_tensors
from redundancy import Probes, load_replaced, remove, remove_attention
from redundancy.benchmark.config import Config
from redundancy.benchmark.experiment import replaced as compare_replaced
from redundancy.benchmark.removal import removal
from redundancy.facts import Facts
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Rule, Substitution, zero
from redundancy.passes import collect, solve
from redundancy.regression.network import PositionNetwork
from redundancy.removal import experiment
from redundancy.removal.need import NEEDS, measure_needs
from redundancy.removal.routing import routers, trained
from redundancy.removal.routing.known import KnownNeeds
from redundancy.removal.routing.orders import Routing
from redundancy.removal.routing.routers import Network, calibrate, of_need
from redundancy.removal.routing.whole import ExactNeeds
from redundancy.replaced import interface, skipping
from redundancy.replaced.cache import size
from redundancy.replaced.kept import FILES, GRID, Router, keep
from redundancy.replaced.model import ReplacedModel
from redundancy.replaced.replacement import Replacement
from redundancy.text import cut_windows, read_corpus, split_documents
from tests.conftest import SIZE, TINY, build
from tests.planted import task

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
MORE = {
    # a window of 8 tokens in the first layer, 4 key-value heads
    "sliding": MistralConfig(
        **SMALL, num_key_value_heads=4, max_position_embeddings=64, sliding_window=8, **SIZE
    ),
    # scores are capped, which torch's own kernel cannot do
    "capped": Gemma2Config(
        **SMALL,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=8,
        attn_implementation="eager",
        **SIZE,
    ),
    "gqa": TINY["llama"],
    "fused": TINY["gpt2"],
    "parallel": TINY["neox"],
    "nested": TINY["opt"],
}
WAYS = {
    "a layer": {"layers": [0]},
    "all layers": {"layers": [0, 1]},
    "heads": {"heads": {0: [1, 2], 1: [0, 1]}},
    "a layer and heads": {"layers": [0], "heads": {1: [3]}},
    "operations": {"router": "predicted_fisher", "share": 0.4},
    "operations by a network": {"router": "network_fisher", "share": 0.4},
    "operations and maps of their own": {"router": "trained_together", "share": 0.4},
    "heads in order": {"router": "heads_displacement", "share": 0.5},
    "dropped": {"router": "layers_dropped", "share": 0.5},
}


@pytest.fixture(scope="session")
def fitted(tokenizer, tmp_path_factory):
    """By name: a decoder, its maps and needs, and the folder in which they are kept."""
    done = {}

    def fit(name, *, start=1):
        if (name, start) not in done:
            decoder, t = Decoder(build(MORE[name]), name), task(tokenizer, start=start)
            moments = collect(decoder, t, None, "model", controls=True)
            probes = solve(decoder, t, moments, "model")
            needs = measure_needs(decoder, t, probes, None)
            routing = routed(decoder, t, moments, probes, needs)
            folder, chosen = tmp_path_factory.mktemp(name), {0.01: "heads_fisher", 0.05: "network_fisher"}
            about = facts(name, decoder.weight_hash())
            keep(folder, probes, needs, decoder, t, about, routing, chosen)
            done[name, start] = SimpleNamespace(
                model=decoder.model,
                decoder=decoder,
                task=t,
                probes=probes,
                needs=needs,
                routing=routing,
                folder=folder,
            )
        return done[name, start]

    return fit


def routed(decoder, t, moments, probes, needs):
    """Orders with a router of their own: a network with weights drawn at random, and maps that differ."""
    maps = {n: f.with_position for n, f in probes.items()}
    scores = {"network_fisher": {}, "trained_together": {}, "past_fisher": {}}
    torch.manual_seed(0)
    for n, predictor in needs.predictors.items():
        network = Network(of_need(predictor, "fisher"), moments[n].pilot)
        torch.nn.init.normal_(network.second.weight, std=0.5)
        scores["network_fisher"][n] = network.fixed()
        for order in ("trained_together", "past_fisher"):
            scores[order][n] = PositionNetwork(of_need(predictor, "relative"))
    own = {n: Rule(with_fields(m, weight=0.5 * m.weight)) for n, m in maps.items()}
    return Routing(
        tuple(scores),
        t,
        decoder.n_heads,
        maps,
        needs,
        KnownNeeds(t.layers, {}, {}),
        ExactNeeds({0: 0.2, 1: 0.1}, {(n, h): n - h for n in t.layers for h in range(decoder.n_heads)}),
        calibrate(decoder, t, scores),
        {"trained_together": own},
    )


def facts(name, weight_hash):
    return Facts(
        model=name,
        gguf=None,
        weight_hash=weight_hash,
        data_hash="text",
        corpus="text",
        unit="document",
        bos=None,
        device="cpu",
        processes=1,
        documents={},
        tokens={},
        depth=2,
        bytes_per_token=1.0,
        seed=0,
    )


def tokens(rows=3, length=20):
    return torch.from_numpy(np.random.default_rng(0).integers(5, 2000, (rows, length)))


def by_hooks(found, replacement, ids, start=1):
    """Logits of the intact model under the hooks of a removal run."""
    probe = {n: f.with_position for n, f in found.probes.items()}
    rules = {
        n: Rule(zero, dropped=True) if replacement.dropped else Rule(probe[n]) for n in replacement.layers
    }
    rules |= {n: Rule(probe[n], heads=some) for n, some in replacement.heads.items()}
    if replacement.order in found.routing.routers:
        (point,) = found.routing.points(replacement.order, [replacement.share])
        rules = point.rules
    elif replacement.need:
        kind = NEEDS.index(replacement.order.removeprefix("predicted_"))
        limit = found.needs.threshold(kind, replacement.share, known=False)
        rules = {
            n: Rule(probe[n], lambda site: found.needs.at(site, kind, known=False) <= limit) for n in probe
        }
    batch = SimpleNamespace(ids=ids, keep=torch.ones_like(ids, dtype=torch.bool))
    batch.keep[:, :start] = False
    with torch.no_grad(), Substitution(found.decoder, rules, start) as substitution:
        substitution.read(batch)
        logits = found.model(ids, use_cache=False).logits
    operations = batch.keep.sum() * found.decoder.n_heads * len(found.probes)
    return logits, float(substitution.skipped.sum() / operations)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["fused", "parallel", "gqa", "nested", "sliding"])
def test_it_is_the_model_that_the_removal_run_measures(fitted, name, way):
    found, ids = fitted(name), tokens()
    replaced = remove(found.model, found.folder, **WAYS[way])
    assert replaced.skips
    with torch.no_grad():
        logits = replaced(ids, use_cache=False).logits
    expected, share = by_hooks(found, replaced.replacement, ids)
    assert not torch.allclose(found.model(ids).logits, expected, atol=1e-2)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert replaced.realised_share == pytest.approx(share)
    replaced.read_anew()
    assert np.isnan(replaced.realised_share)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["fused", "gqa", "sliding", "capped"])
def test_a_cache_changes_nothing(fitted, name, way):
    found, ids = fitted(name), tokens()
    replaced = remove(found.model, found.folder, **WAYS[way])
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    with torch.no_grad():
        whole = replaced(ids, use_cache=False).logits
        cache, parts = None, []
        for piece in (ids[:, :7], ids[:, 7:8], ids[:, 8:12], *ids[:, 12:].split(1, 1)):
            out = replaced(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        generated = replaced.generate(ids[:, :8], **options)
        assert torch.equal(generated, replaced.generate(ids[:, :8], use_cache=False, **options))
        beams = {"num_beams": 3, **options}
        assert torch.equal(
            replaced.generate(ids[:, :8], **beams),
            replaced.generate(ids[:, :8], use_cache=False, **beams),
        )


@pytest.mark.parametrize("name", ["gqa", "sliding"])
def test_blocks_of_queries_change_nothing(fitted, monkeypatch, name):
    """Few queries at a time, and one call for each head, as in long texts."""
    found, ids = fitted(name), tokens()
    monkeypatch.setattr(skipping, "BLOCK", 3)
    monkeypatch.setattr(skipping, "GATHERED", 4)
    replaced = remove(found.model, found.folder, router="predicted_fisher", share=0.4)
    expected, _ = by_hooks(found, replaced.replacement, ids)
    with torch.no_grad():
        assert torch.allclose(replaced(ids, use_cache=False).logits, expected, atol=1e-5)
        cache, parts = None, []
        for piece in (ids[:, :5], *ids[:, 5:8].split(1, 1), ids[:, 8:15], *ids[:, 15:].split(1, 1)):
            out = replaced(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1), expected, atol=1e-5)


def test_a_cache_holds_what_later_tokens_can_ask_for(fitted):
    found, ids = fitted("gqa"), tokens()

    def cached(model):
        with torch.no_grad():
            return size(model(ids, use_cache=True).past_key_values)

    intact = cached(found.model)
    # two layers, two key-value heads, each read by two heads
    assert intact == 2 * 2 * 2 * 3 * 20 * 8 * 4
    for heads, share in (({0: [0, 1]}, 0.75), ({0: [0, 2]}, 1), ({0: [0, 1], 1: [2, 3]}, 0.5)):
        assert cached(remove(found.model, found.folder, heads=heads)) == share * intact
    assert cached(remove(found.model, found.folder, layers=[0])) == intact / 2
    assert cached(remove(found.model, found.folder, layers=[0, 1])) == 0
    assert cached(remove(found.model, found.folder, router="predicted_fisher", share=0.9)) == intact


@pytest.mark.parametrize("way", WAYS)
def test_left_padding_changes_nothing(fitted, way):
    found, ids = fitted("fused"), tokens()
    replaced = remove(found.model, found.folder, **WAYS[way])
    padded = torch.cat([torch.ones(3, 4, dtype=torch.long), ids], 1)
    mask = (torch.arange(24) >= 4).long().expand(3, -1)
    with torch.no_grad():
        alone, share = replaced(ids).logits, replaced.realised_share
        replaced.read_anew()
        assert torch.allclose(replaced(padded, attention_mask=mask).logits[:, 4:], alone, atol=1e-5)
    assert replaced.realised_share == pytest.approx(share)


def test_what_is_skipped_is_not_computed(fitted, monkeypatch):
    """Queries that reach torch's attention: those of the operations that keep attention, and no others."""
    found, ids = fitted("fused"), tokens(1)
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        seen.append(query.shape[:-1].numel())
        return original(query, *args, **kwargs)

    # the third layer has no probe and keeps all of its attention
    for way, kept in (
        ({"layers": [0, 1]}, 0),
        ({"heads": {0: [0], 1: [1, 2, 3]}}, 20 * (3 + 1)),
        ({"router": "predicted_fisher", "share": 0.4}, None),
    ):
        replaced = remove(found.model, found.folder, **way)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
        seen.clear()
        with torch.no_grad():
            replaced(ids, use_cache=False)
        monkeypatch.undo()
        if kept is None:
            kept = 2 * 4 * 20 - round(replaced.realised_share * 2 * 4 * 19)
        assert sum(seen) == kept + 20 * 4


def test_the_given_model_is_left_as_it_is(fitted):
    found, ids = fitted("fused"), tokens()
    before, state = found.model(ids).logits, {k: v.clone() for k, v in found.model.state_dict().items()}
    found.model.train()
    replaced = remove(found.model, found.folder, layers=[0], heads={1: [0]})
    assert found.model.training
    found.model.eval()
    assert replaced.skips
    assert not replaced.training
    assert isinstance(replaced, ReplacedModel)
    assert isinstance(replaced, GPT2LMHeadModel)
    # weights are in the same memory, until one of the two moves
    assert replaced.lm_head.weight.data_ptr() == found.model.lm_head.weight.data_ptr()
    replaced.double()
    assert replaced(ids).logits.dtype == torch.float64
    assert torch.equal(found.model(ids).logits, before)
    assert found.model.config._attn_implementation == "sdpa"
    assert found.model.config.n_positions == 64
    assert found.model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in found.model.state_dict().items())


def test_where_position_0_was_fitted_nothing_of_attention_is_left(fitted):
    found, ids = fitted("fused", start=0), tokens()
    replaced = remove(found.model, found.folder, layers=[0, 1])
    with torch.no_grad():
        logits = replaced(ids).logits
    assert torch.allclose(logits, by_hooks(found, replaced.replacement, ids, 0)[0], atol=1e-5)
    assert replaced.realised_share == 1
    assert replaced.transformer.h[0].attn.first_weight is None


def test_attention_that_cannot_run_in_parts_is_overwritten(fitted, capsys):
    found, ids = fitted("capped"), tokens()
    for way in ("heads", "operations"):
        replaced = remove(found.model, found.folder, **WAYS[way])
        assert not replaced.skips
        assert "saves nothing" in capsys.readouterr().err
        with torch.no_grad():
            logits = replaced(ids).logits
        assert torch.allclose(logits, by_hooks(found, replaced.replacement, ids)[0], atol=1e-5)
    whole = remove(found.model, found.folder, layers=[1])
    expected, _ = by_hooks(found, whole.replacement, ids)
    with torch.no_grad():
        assert torch.allclose(whole(ids).logits, expected, atol=1e-5)


# files


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_model_gives_equal_logits(fitted, tmp_path, way):
    found, ids = fitted("fused"), tokens()
    replaced = remove(found.model, found.folder, **WAYS[way])
    folder = replaced.save(tmp_path / "kept")
    again = load_replaced(folder, found.model)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, replaced(ids).logits)
    assert str(again.replacement) == str(replaced.replacement) != ""
    assert again.replacement.share == WAYS[way].get("share")


@pytest.mark.slow
def test_another_process_has_the_same_model(fitted, gpt2_folder, tmp_path):
    found, ids = fitted("fused"), tokens()
    # the model of `gpt2_folder` is that of `found`
    replaced = remove(gpt2_folder, found.folder, router="predicted_fisher", share=1)
    replaced.save(tmp_path / "kept")
    code = """
import sys, torch
from redundancy import load_replaced
replaced = load_replaced(sys.argv[1], sys.argv[2])
torch.save(replaced(torch.load(sys.argv[3])).logits, sys.argv[4])
"""
    torch.save(ids, tmp_path / "ids")
    paths = [str(p) for p in (tmp_path / "kept", gpt2_folder, tmp_path / "ids", tmp_path / "logits")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, capture_output=True)
    assert torch.allclose(torch.load(tmp_path / "logits"), replaced(ids).logits, atol=1e-5)


def test_replaced_models_go_to_the_hub_and_come_back(fitted, tmp_path, monkeypatch):
    """The hub is a folder here."""
    found, hub, ids = fitted("fused"), tmp_path / "hub", tokens()

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            assert (repo_id, private, exist_ok) == ("me/less", True, True)

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            Replacement.load(folder_path).save(hub)
            return f"https://hub/{repo_id}: {commit_message}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    replaced = remove(found.model, found.folder, layers=[1])
    address = replaced.push_to_hub("me/less", private=True)
    assert address == "https://hub/me/less: fused: attention of layers 1 replaced"

    def snapshot(repo_id, revision, allow_patterns):
        assert allow_patterns == ["replaced.safetensors", "replaced.json"]
        if repo_id != "me/less":
            raise LocalEntryNotFoundError("no such thing")
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert torch.equal(load_replaced("me/less", found.model)(ids).logits, replaced(ids).logits)
    with pytest.raises(UserError, match="neither a local folder nor a repository"):
        load_replaced("me/more", found.model)


def test_damaged_files_are_refused(fitted, tmp_path):
    found = fitted("fused")
    replaced = remove(found.model, found.folder, layers=[0])
    folder = replaced.save(tmp_path / "kept")
    with pytest.raises(UserError, match=r"no replaced\.safetensors and no replaced\.json"):
        load_replaced(tmp_path, found.model)
    about = json.loads((folder / "replaced.json").read_text())
    (folder / "replaced.json").write_text(json.dumps(about | {"layers": [1]}))
    with pytest.raises(UserError, match="not saved together"):
        load_replaced(folder, found.model)
    (folder / "replaced.json").write_text(json.dumps(about | {"schema": 99}))
    with pytest.raises(UserError, match="another version"):
        load_replaced(folder, found.model)
    (folder / "replaced.json").write_text(json.dumps(about))
    content = bytearray((folder / "replaced.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "replaced.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_replaced(folder, found.model)
    with pytest.raises(UserError, match=r"Use save\(folder\)"):
        replaced.save_pretrained(tmp_path)


# routers


def test_a_model_made_of_a_removal_run_has_the_loss_of_its_curve(
    gpt2_folder, text_folder, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "ROUNDS", 0)
    monkeypatch.setattr(routers, "EPOCHS", 1)
    monkeypatch.setattr(trained, "HOW", with_fields(trained.HOW, epochs=1))
    wanted = {"context": 32, "tokens": 1200, "eval_tokens": 600, "layers": [0, 2]}
    operations = ("predicted_fisher", "hidden_fisher", "network_fisher", "trained_router", "trained_together")
    orders = (*operations, "heads_fisher", "layers_cosine", "layers_exact", "layers_dropped")
    wanted |= {"parts": ["curve", "routers"], "orders": orders, "shares": [0.5]}
    lost = remove_attention(gpt2_folder, corpus=text_folder, **wanted, out=tmp_path / "run")
    table = lost.curve.set_index(["order", "target_share", "metric"])["estimate"].sort_index()
    documents = split_documents(read_corpus(str(text_folder)).documents, 0)["evaluation"]
    windows = cut_windows(documents, tokenizer, 32, 600)

    def loss(model):
        parts = []
        for ids, length in zip(windows.ids, windows.lengths, strict=True):
            ids = torch.from_numpy(ids[None, :length])
            with torch.no_grad():
                log_p = model(ids, use_cache=False).logits[0, 1:-1].log_softmax(-1)
            parts.append(-log_p.gather(-1, ids[0, 2:, None]))
        return float(torch.cat(parts).mean())

    intact = loss(build(TINY["gpt2"]))
    for order in orders:
        replaced = remove(gpt2_folder, lost.folder, router=order, share=0.5)
        stated = table[order, 0.5]
        assert loss(replaced) - intact == pytest.approx(stated["loss_increase"], rel=1e-3, abs=1e-5)
        assert replaced.realised_share == pytest.approx(stated["share"], abs=1e-6)
    unnamed = remove(gpt2_folder, lost.folder, share=0.5).replacement
    assert unnamed.order == lost.headline.chosen[0.05]
    # that what is kept of networks and maps is what was trained shows only if training changed something
    network = Router.load(lost.folder, "network_fisher").need[0].network
    assert float(network["second_weight"].abs().max()) > 0
    mapped = Router.load(lost.folder, "trained_together").maps
    assert sorted(mapped) == [0, 2]


def test_a_router_has_the_thresholds_and_orders_of_its_run(fitted):
    found = fitted("fused")
    needs = found.needs
    for kind, need in enumerate(NEEDS):
        router = Router.load(found.folder, f"predicted_{need}")
        for share in (0.0001, 0.05, 0.27, 0.3333, 0.9):
            assert router.threshold(share) == needs.threshold(kind, share, known=False)
        assert router.threshold(1) == float("inf")
        ranked = Router.load(found.folder, f"heads_{need}").ranked
        assert list(ranked) == needs.heads(kind, (0, 1))
    assert len(GRID) == 10_001
    for order, own in found.routing.routers.items():
        if order != "past_fisher":
            kept = Router.load(found.folder, order)
            for share in (0.0001, 0.27, 0.9):
                assert kept.threshold(share) == np.quantile(own.calibrated, share)
    assert Router.load(found.folder).order == "network_fisher"
    assert Router.load(found.folder, "heads_exact").ranked[:2] == ((0, 3), (0, 2))
    assert Router.load(found.folder, "layers_exact").ranked == ((1,), (0,))
    cosines = Router.load(found.folder, "layers_cosine").ranked
    assert [n for (n,) in cosines] == sorted(needs.cosine, key=lambda n: -needs.cosine[n])


def test_what_cannot_be_is_refused(fitted, tmp_path):
    found, other = fitted("fused"), fitted("parallel")
    model, folder = found.model, found.folder
    probes = Probes.load(folder)
    router = Router.load(folder, "predicted_fisher")

    def refused(text, *args, **kwargs):
        with pytest.raises(UserError, match=text):
            remove(*args, **kwargs)

    for share in (0, -0.1, 1.01, float("nan"), None):
        refused(r"above 0 and up to 1. Change share=", model, folder, router="predicted_fisher", share=share)
    refused("one of 8 is a share of 0.125", model, folder, router="heads_fisher", share=0.1)
    refused("knows predicted_relative, .*layers_dropped", model, folder, router="best", share=0.5)
    refused("layer 2 was asked for; there are probes of 0, 1", model, folder, layers=[0, 2])
    refused("head 4 of layer 1 .* heads 0 to 3", model, folder, heads={1: [4]})
    refused("nothing was asked", model, folder)
    refused(r"share=0\.5 was asked for with loaded probes", model, probes, share=0.5)
    refused("No replaced model can go by past_fisher", model, folder, router="past_fisher", share=0.5)
    refused(
        "did not measure hidden_fisher, an order of the part curve",
        model,
        folder,
        router="hidden_fisher",
        share=0.5,
    )
    refused("Leave one of them out", model, folder, router="heads_fisher", share=0.5, layers=[0])
    refused("probes= is missing", model)
    refused("bring no routers", model, probes, router="heads_fisher", share=0.5)
    refused("neither a local folder", model, tmp_path / "none", layers=[0])
    refused("holds no probes", model, tmp_path, layers=[0])
    probes.save(tmp_path)
    refused(r"holds no routers \(no routers", model, tmp_path, router="heads_fisher", share=0.5)
    alien = Router.load(other.folder, "predicted_fisher")
    refused("belongs to other probes .*parallel.* other weight_hash", model, probes, router=alien, share=0.5)
    later = with_fields(router, about=with_fields(router.about, positions=64))
    refused("other positions", model, probes, router=later, share=0.5)
    refused("has other weights", build(TINY["gpt2"], 3), folder, layers=[0])
    refused("or dtype \\(here float64\\)", build(TINY["gpt2"]).double(), folder, layers=[0])
    ln1 = Probes(with_fields(probes.about, feature="ln1"), probes.tensors)
    refused("predict from ln1", model, ln1, layers=[0])
    for odd in ([1.0], [True], ["1"]):
        refused("whole numbers from 0", model, folder, layers=odd)
    refused("whole numbers from 0", model, folder, heads={0: [0.5]})
    for share in ("0.3", True):
        refused("lie above 0", model, folder, router="predicted_fisher", share=share)
    spread = build(TINY["gpt2"])
    spread.hf_device_map = {"a": 0, "b": 1}
    refused("several devices", spread, folder, layers=[0])


def test_runs_without_a_choice_and_of_an_earlier_version_say_so(fitted, tmp_path):
    found = fitted("fused")
    about = facts("fused", found.decoder.weight_hash())
    keep(tmp_path / "plain", found.probes, found.needs, found.decoder, found.task, about)
    with pytest.raises(UserError, match=r"chose no order, which the part curve does. Name one of predicted"):
        remove(found.model, tmp_path / "plain", share=0.5)
    tensors, stored = FILES.load(found.folder)
    stored = {name: value for name, value in stored.items() if name not in ("learnt", "chosen")}
    shutil.copytree(tmp_path / "plain", tmp_path / "old")
    with_fields(FILES, schema=1).save(tmp_path / "old", tensors, stored)
    for way in ({"share": 0.5}, {"share": 0.5, "router": "network_fisher"}):
        with pytest.raises(UserError, match="made by an earlier version"):
            remove(found.model, tmp_path / "old", **way)
    replaced, ids = remove(found.model, tmp_path / "old", **WAYS["operations"]), tokens()
    with torch.no_grad():
        assert torch.allclose(replaced(ids).logits, by_hooks(found, replaced.replacement, ids)[0], atol=1e-5)


def test_a_damaged_router_is_no_router(fitted, tmp_path):
    found = fitted("fused")
    for name in ("routers.json", "routers.safetensors"):
        (tmp_path / name).write_bytes((found.folder / name).read_bytes())
    about = json.loads((tmp_path / "routers.json").read_text())
    (tmp_path / "routers.json").write_text(json.dumps(about | {"needs": ["fisher"]}))
    with pytest.raises(UserError, match="not of one run"):
        Router.load(tmp_path, "predicted_fisher")
    (tmp_path / "routers.json").write_text(json.dumps(about | {"schema": 99}))
    with pytest.raises(UserError, match="another version"):
        Router.load(tmp_path, "predicted_fisher")
    (tmp_path / "routers.json").write_text(json.dumps(about))
    tensors, metadata = load_tensors(tmp_path / "routers.safetensors")
    tensors["thresholds"] += 1
    save_tensors(tmp_path / "routers.safetensors", tensors, metadata)
    assert Router.load(tmp_path, "predicted_fisher").threshold(0.5) != found.needs.threshold(
        NEEDS.index("fisher"), 0.5, known=False
    )


def test_texts_and_caches_that_do_not_fit_are_refused(fitted):
    found = fitted("fused")
    replaced = remove(found.model, found.folder, layers=[0])
    # windows of 32 tokens were fitted
    assert replaced.config.n_positions == 32
    replaced(tokens(1, 32))
    with pytest.raises(UserError, match=r"33 tokens; .* positions 0 to 31"):
        replaced(tokens(1, 33))
    with pytest.raises(UserError, match="33 tokens"):
        replaced.generate(tokens(1, 30), max_new_tokens=9, min_new_tokens=9, pad_token_id=1)
    filled = DynamicCache()
    found.model(tokens(), past_key_values=filled)
    with pytest.raises(UserError, match="filled by another model"):
        replaced(tokens(), past_key_values=filled)
    static = StaticCache(config=found.model.config, max_cache_len=32)
    with pytest.raises(UserError, match=r"StaticLayer; .* DynamicCache"):
        replaced(tokens(), past_key_values=static)
    with pytest.raises(UserError, match="is a tuple"):
        replaced(tokens(), past_key_values=())


def test_attention_modules_that_add_more_keep_their_layer(tokenizer, tmp_path):
    """BLOOM's attention adds the residual stream before it returns."""
    config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SIZE)
    decoder, t = Decoder(build(config), "bloom"), task(tokenizer)
    probes = solve(decoder, t, collect(decoder, t, None, "model", controls=True), "model")
    Probes.of(probes, decoder, t, facts("bloom", decoder.weight_hash())).save(tmp_path)
    with pytest.raises(UserError, match="returns something else than its output projection"):
        remove(decoder.model, tmp_path, layers=[0])


def test_a_sink_in_the_softmax_keeps_position_0(tokenizer, tmp_path):
    """gpt-oss: even the first token attends to a sink, by how much depends on its query."""
    config = GptOssConfig(
        **SMALL,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        max_position_embeddings=64,
        attn_implementation="eager",
        **SIZE,
    )
    decoder, t = Decoder(build(config), "oss"), task(tokenizer)
    probes = solve(decoder, t, collect(decoder, t, None, "model", controls=True), "model")
    Probes.of(probes, decoder, t, facts("oss", decoder.weight_hash())).save(tmp_path)
    with pytest.raises(UserError, match="not affine in what enters"):
        remove(decoder.model, tmp_path, layers=[0])


def test_the_benchmark_names_what_a_token_costs(gpt2_folder):
    rows = {row.comparison: row for row in compare_replaced(Config(str(gpt2_folder), rounds=2, context=32))}
    assert len(rows) == 12
    cache = {name.split(" replaced")[0]: row for name, row in rows.items() if "cache" in name}
    # layers 0 and 2 of three; two key-value heads of four
    assert cache["half of the layers"].ratio == pytest.approx(1 / 3)
    assert cache["all layers"].ratio == 0
    assert cache["half of the heads"].ratio == 0.5
    assert cache["half of the operations"].ratio == 1
    assert any("all layers replaced (1.00 of the operations)" in name for name in rows)
    seconds = [row for name, row in rows.items() if "seconds" in name]
    assert all(row.n == 2 and row.lower_quartile <= row.ratio <= row.upper_quartile for row in seconds)


def test_the_benchmark_names_what_a_removal_run_saves(gpt2_folder):
    rows = removal(Config(str(gpt2_folder), rounds=2, context=32))
    assert [row.comparison.split(",")[0] for row in rows] == [
        "weighted least squares of one layer",
        "slope of the loss in every layer",
        "all attention replaced",
    ]
    assert all(row.n == 2 and row.ours > 0 and row.other > 0 for row in rows)


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.console, "quiet", True)
    found = doctest.testmod(interface, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 3
    assert not found.failed


# lm-evaluation-harness

CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
TEXT = """
task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
"""


@pytest.mark.filterwarnings("ignore")
def test_lm_evaluation_harness_scores_it_beside_the_intact_model(fitted, tokenizer, tmp_path, monkeypatch):
    reason = "lm-evaluation-harness is not installed; the extra `eval` brings it"
    lm_eval = pytest.importorskip("lm_eval", reason=reason)
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found, texts = fitted("fused"), [d.text for d in read_corpus(None).documents[:12]]
    # cut between words, so that the tokens of the context are those of context and choice
    words = [text.split()[:14] for text in texts]
    ends = [" " + " ".join(some[10:]) for some in words]
    choices = [
        {"context": " ".join(some[:10]), "choices": [end, other], "label": 0}
        for some, end, other in zip(words, ends, ends[1:] + ends[:1], strict=True)
    ]
    # longer than the windows that were fitted, so that it is cut
    passages = [{"text": text[:300]} for text in texts[:3]]
    for name, task_of, rows in (("choice", CHOICE, choices), ("text", TEXT, passages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / f"{name}.yaml").write_text(task_of.format(data=tmp_path / f"{name}.jsonl"))

    def scores(model):
        results = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=32),
            tasks=["local_choice", "local_text"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            bootstrap_iters=0,
        )["results"]
        return results["local_choice"]["acc,none"], results["local_text"]["bits_per_byte,none"]

    def right(model, row):
        """Whether the right choice is the more probable one."""
        before = tokenizer(row["context"])["input_ids"]
        sums = []
        for choice in row["choices"]:
            ids = tokenizer(row["context"] + choice)["input_ids"]
            log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(float(log_p[i - 1, ids[i]]) for i in range(len(before), len(ids))))
        return sums[0] > sums[1]

    replaced = remove(found.model, found.folder, router="predicted_fisher", share=0.5)
    assert HFLM(pretrained=replaced, tokenizer=tokenizer).max_length == 32
    intact, less = scores(found.model), scores(replaced)
    for model, (accuracy, bits) in ((found.model, intact), (replaced, less)):
        assert accuracy == pytest.approx(np.mean([right(model, row) for row in choices]))
        assert 0 < bits < 20
    assert intact[1] != less[1]
