"""Tiny models and texts, and a suite that fails when anything opens a connection."""

import copy
import os
import socket

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2TokenizerFast,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
)

from labbook import style
from redundancy.model.decoder import Decoder
from redundancy.text import DATA, read_corpus

SIZE = {"vocab_size": 2048, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
TINY = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, loss_type="ForCausalLM", **SIZE),
    "neox": GPTNeoXConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    ),
    "llama": LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        **SIZE,
    ),
    "opt": OPTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        **SIZE,
    ),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Only local sockets (Jupyter kernels talk over them) may be opened."""
    connect = socket.socket.connect

    def guard(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"the suite tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guard)


@pytest.fixture(scope="session", autouse=True)
def each_figure_is_written_once():
    """Every run makes and lays out its figures; the first of a name is written, later ones are its copies.
    Writing a PNG and a PDF takes most of the time of a small run, and most tests read only its tables.
    """
    save, written = style.save, dict[str, dict[str, bytes]]()

    def saved(figure, folder, name):
        if name not in written:
            written[name] = {path.name: path.read_bytes() for path in save(figure, folder, name)}
        else:
            figure.draw_without_rendering()
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in written[name].items():
                (folder / file).write_bytes(content)
        return [folder / file for file in written[name]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", saved)
        yield


def build(config: PretrainedConfig, seed: int = 0) -> torch.nn.Module:
    """A random model with weights large enough that attention matters."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        copy.deepcopy(config)
    ).eval()  # TransformerLens changes configurations
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.requires_grad_(False)


def fails(main, capsys, args: list[str]) -> str:
    """Run a command; it has to exit with 2, one paragraph and no traceback. Returns the paragraph."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    text = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in text
    return " ".join(text.split())


@pytest.fixture(params=list(TINY))
def tiny(request) -> Decoder:
    return Decoder(build(TINY[request.param]), request.param)


@pytest.fixture(scope="session")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(DATA / "model")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory, tokenizer):
    """A tiny GPT-2 in the hub's layout, with the embedded tokenizer."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-gpt2"
    build(TINY["gpt2"]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """Twelve short documents of unequal length, some shorter than a window."""
    folder = tmp_path_factory.mktemp("texts")
    documents = read_corpus(None).documents
    for number in range(12):
        length = 120 if number == 3 else 1500 + 300 * number
        (folder / f"{number:02d}.txt").write_text(documents[number].text[:length])
    return folder
