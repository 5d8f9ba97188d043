"""Weights that are not those of a complete model are an error on every path that they can come by."""

import json
import re
import shutil
from types import SimpleNamespace

import gguf
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from labbook.console import UserError
from redundancy.corpus import hub
from redundancy.model import loading
from redundancy.model.loading import load_config, load_model, locate
from redundancy.text import DATA, read_corpus
from redundancy.training.checkpoints import find_checkpoints
from tests.conftest import TINY, build
from tests.planted import write_gguf

CPU = torch.device("cpu")
KEY = "transformer.h.0.attn.c_attn.weight"


def load(source, **options):
    return load_model(source, CPU, torch.float32, 0, **options)


def without(tensors):
    tensors.pop(KEY)


def renamed(tensors):
    tensors["transformer.h.0.attn.c_attention.weight"] = tensors.pop(KEY)


def reshaped(tensors):
    tensors[KEY] = tensors[KEY][:, :-1].contiguous()


def added(tensors):
    tensors["transformer.h.9.attn.c_attn.weight"] = tensors[KEY].clone()


def not_finite(tensors):
    tensors[KEY][3, 5] = float("nan")


DAMAGES = (
    (without, f"they lack 1 tensor ({KEY})"),
    (renamed, f"they lack 1 tensor ({KEY}), hold unknown 1 tensor (transformer.h.0.attn.c_attention.weight)"),
    (reshaped, f"they hold mis-shaped 1 tensor ({KEY} (128, 383) for (128, 384))"),
    (added, "they hold unknown 1 tensor (transformer.h.9.attn.c_attn.weight)"),
    (not_finite, f"not finite (NaN or infinity) in 1 tensors ({KEY})"),
)


@pytest.fixture(params=DAMAGES, ids=lambda p: p[0].__name__)
def damage(request):
    return request.param


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DATA / "model", tmp_path / "model")


def change(file, damage):
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file, {"format": "pt"})


def refused(source, message):
    with pytest.raises(UserError) as error:
        load(source)
    assert message in str(error.value)
    assert "embedded" not in str(error.value).split(":")[0]


def test_a_folder_has_to_hold_every_tensor_and_no_other(folder, damage):
    change(folder / "model.safetensors", damage[0])
    refused(locate(str(folder)), damage[1])


def test_shards_have_to_hold_every_tensor_and_no_other(folder, damage):
    model = load(locate(str(folder))).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    assert load(locate(str(folder))).weight_hash() == load(locate(None)).weight_hash()
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    change(folder / index[KEY], damage[0])
    refused(locate(str(folder)), damage[1])


def test_a_checkpoint_folder_has_to_hold_every_tensor_and_no_other(tmp_path, damage):
    for step in ("step-000001", "step-000002"):
        shutil.copytree(DATA / "model", tmp_path / "course" / step)
    change(tmp_path / "course" / "step-000002" / "model.safetensors", damage[0])
    first, second = find_checkpoints(str(tmp_path / "course"), (), ())
    assert load(first.source).weight_hash() == load(locate(None)).weight_hash()
    refused(second.source, damage[1])


def test_a_listed_file_has_to_hold_every_tensor_and_no_other(tmp_path, damage):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(DATA / "model" / "model.safetensors", tmp_path / name)
    change(tmp_path / "b.safetensors", damage[0])
    names = tuple(str(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    first, second = find_checkpoints("embedded", (), names)
    assert load(first.source).weight_hash() == load(locate(None)).weight_hash()
    refused(second.source, damage[1])


def test_what_may_be_absent_or_left_over_is_not_an_error(folder):
    """The tied unembedding is stored once, masks that GPT-2 used to store are computed, a bare body has its
    names without a prefix.
    """
    file = folder / "model.safetensors"
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(file).items()}
    assert "lm_head.weight" not in tensors
    tensors |= {f"h.{n}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8) for n in range(6)}
    tensors |= {f"h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(6)}
    save_file(tensors, file, {"format": "pt"})
    assert load(locate(str(folder))).weight_hash() == load(locate(None)).weight_hash()


def test_a_missing_shard_is_an_error(folder):
    model = load(locate(str(folder))).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    next(folder.glob("model-00002*")).unlink()
    refused(locate(str(folder)), "cannot be loaded")


def test_a_gguf_file_has_to_hold_every_tensor_and_no_other(tmp_path):
    model = build(TINY["llama"])
    write_gguf(tmp_path / "whole.gguf", model)
    assert load(locate(str(tmp_path / "whole.gguf"))).n_heads == 4
    write_gguf(tmp_path / "less.gguf", model, leave=("blk.1.attn_q.weight",))
    refused(
        locate(str(tmp_path / "less.gguf")), "they lack 1 tensor (model.layers.1.self_attn.q_proj.weight)"
    )
    write_gguf(tmp_path / "more.gguf", model, extra=("blk.0.attn_extra.weight",))
    refused(locate(str(tmp_path / "more.gguf")), "they hold unknown 1 tensor (blk.0.attn_extra.weight)")


def test_a_gguf_file_is_called_what_it_is(tmp_path):
    model = build(TINY["llama"])
    q4 = {"quantise": gguf.GGMLQuantizationType.Q4_1, "file_type": int(gguf.LlamaFileType.MOSTLY_Q4_1)}
    path = tmp_path / "Tiny-135M-Instruct.Q4_1.gguf"
    write_gguf(path, model, name="Tiny 135M 8k", finetune="8k-mix1", template="{{ messages }}", **q4)
    source = locate(str(path))
    assert source.name == load(source).name == "Tiny-135M-Instruct (GGUF, Q4_1)"
    assert source.gguf.facts == {
        "file": "Tiny-135M-Instruct.Q4_1.gguf",
        "general_name": "Tiny 135M 8k",
        "finetune": "8k-mix1",
        "chat_template": True,
        "quantisation": "Q4_1",
        "tensor_types": {"Q4_1": 14, "F32": 7},
    }
    assert locate(f"random:{path}").name == "random:Tiny-135M-Instruct"
    path.rename(
        tmp_path / "model.gguf"
    )  # after renaming the file's own name and template still say what it is
    assert locate(str(tmp_path / "model.gguf")).name == "Tiny 135M 8k (GGUF, Q4_1, chat template)"
    write_gguf(tmp_path / "tiny.gguf", model)
    assert locate(str(tmp_path / "tiny.gguf")).name == "tiny (GGUF, F32)"
    write_gguf(tmp_path / "tiny-f16.gguf", model, file_type=int(gguf.LlamaFileType.MOSTLY_F16))
    assert locate(str(tmp_path / "tiny-f16.gguf")).name == "tiny-f16 (GGUF, F32, by its own account F16)"


def test_a_damaged_gguf_file_is_an_error(tmp_path):
    write_gguf(tmp_path / "whole.gguf", build(TINY["llama"]))
    content = (tmp_path / "whole.gguf").read_bytes()
    for number, damaged in enumerate((b"", b"GGUF", content[: len(content) // 2], b"x" + content[1:])):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be loaded as a GGUF file"):
            locate(str(path))


def hub_error(kind: type[Exception]) -> OSError:
    """As transformers raises it: its own error, from the hub library's."""
    error = OSError("We couldn't connect, or there is nothing")
    error.__cause__ = kind.__new__(kind)
    return error


@pytest.mark.parametrize(
    ("kind", "offline", "said"),
    [
        (
            RepositoryNotFoundError,
            False,
            "the hub was asked and has no model me/gpt2-mediun",
        ),
        (RevisionNotFoundError, False, "the hub has me/gpt2-mediun, but not the revision"),
        (GatedRepoError, False, "for accounts that were granted access"),
        (
            LocalEntryNotFoundError,
            False,
            "the hub cannot be reached, so it is not known whether",
        ),
        (LocalEntryNotFoundError, True, "the hub was not asked, because HF_HUB_OFFLINE is set"),
        (ValueError, False, "OSError: We couldn't connect"),
    ],
)
def test_a_name_that_the_hub_has_not_is_told_from_a_hub_that_was_not_asked(kind, offline, said, monkeypatch):
    def fail(*args, **kwargs):
        raise hub_error(kind)

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", fail)
    monkeypatch.setattr(loading, "is_offline_mode", lambda: offline)
    with pytest.raises(UserError, match=re.escape(said)):
        load_config(locate("me/gpt2-mediun"))


def test_a_name_that_is_nearly_right_is_named(monkeypatch):
    held = [SimpleNamespace(repo_id="me/gpt2-medium", repo_type="model")]
    monkeypatch.setattr(loading, "scan_cache_dir", lambda: SimpleNamespace(repos=held))
    said = r"the local cache holds me/gpt2-medium; did you mean me/gpt2-medium\?"
    with pytest.raises(UserError, match=said):
        load_config(locate("me/gpt2-mediun"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gtp2", "gpt2"),
        ("GPT2", "gpt2"),
        ("gpt2-mediun", "gpt2-medium"),
        ("embeded", "embedded"),
        ("smollm2", "smollm2-135m"),
        ("random:gtp2", "gpt2"),
    ],
)
def test_a_name_close_to_one_that_is_there_is_refused_at_once(name, meant, monkeypatch):
    with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
        locate(name)
    # unless the local cache holds that very name
    monkeypatch.setattr(loading, "cached", lambda *_: True)
    assert locate(name).path == name.removeprefix("random:")


@pytest.mark.parametrize(
    "name",
    ["gpt2", "gpt2-xl", "distilgpt2", "openai-gpt", "ctrl", "bert-base-uncased", "t5-small", "roberta-base"],
)
def test_old_ids_without_a_slash_go_to_the_hub(name):
    assert locate(name).path == name


def asking(monkeypatch, answer: Exception | None) -> list[str]:
    """A hub that is asked, with HF_HUB_OFFLINE unset; returns what was asked for."""
    asked = []

    def head(url):
        asked.append(url)
        if answer is not None:
            raise answer

    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", head)
    return asked


def test_a_hub_that_is_not_there_is_asked_once(monkeypatch):
    class ConnectError(Exception):
        """As the library of the hub's own library raises it."""

    asked = asking(monkeypatch, ConnectError("Name or service not known"))
    left = lambda *_, **__: pytest.fail("the hub's library was asked")  # noqa: E731
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", left)
    monkeypatch.setattr(loading, "is_offline_mode", lambda: False)
    with pytest.raises(UserError, match="the hub cannot be reached, so it is not known whether"):
        load_config(locate("someone/model", "step512"))
    assert asked == ["https://huggingface.co/someone/model/resolve/step512/config.json"]
    monkeypatch.setattr("datasets.load_dataset", left)
    with pytest.raises(UserError, match=r"nor a hub dataset that can be reached \(ConnectionError: the hub"):
        read_corpus("someone/books")


@pytest.mark.parametrize("answer", [None, GatedRepoError.__new__(GatedRepoError), ValueError("no id")])
def test_what_the_hub_answers_is_left_to_its_library(answer, monkeypatch):
    asked = asking(monkeypatch, answer)
    hub.require_reachable("someone/model", "model")
    assert len(asked) == 1
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: "config.json")
    hub.require_reachable("someone/model", "model")
    assert len(asked) == 1  # what is in the cache needs no hub
