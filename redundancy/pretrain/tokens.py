"""Text to windows of token ids: the tokenizer, the encoding, and the order in which windows are read."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2TokenizerFast

from labbook.console import UserError, console
from labbook.run import (
    digest,
    read_json,
    replacing,
    write_json,
)
from redundancy.pretrain.config import PretrainConfig
from redundancy.pretrain.ngram import NGram, highest_order
from redundancy.text import Corpus

END = "<|endoftext|>"


def train_tokenizer(corpus: Corpus, vocabulary: int, context: int, folder: Path) -> GPT2TokenizerFast:
    """Train a byte-level BPE tokenizer on the corpus and save it in the hub's layout."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        (d.text for d in corpus.documents), vocab_size=vocabulary, special_tokens=[END], show_progress=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    tokenizer = GPT2TokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=context,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode(texts: list[str], tokenizer: Any) -> npt.NDArray[np.int64]:
    """All texts as one array of token ids, each closed by the end-of-text token: (n,)."""
    pieces = []
    for text in texts:
        pieces.append(
            np.array([*tokenizer(text, verbose=False)["input_ids"], tokenizer.eos_token_id], dtype=np.int64)
        )
    return np.concatenate(pieces)


def window_order(windows: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    """The order of the training windows in one epoch: a pure function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(windows)


def spread_windows(tokens: npt.NDArray[np.int64], context: int, budget: int) -> torch.Tensor:
    """Windows of context + 1 tokens, evenly spread over `tokens`: (about budget / context, context + 1)."""
    if len(tokens) < context + 1:
        raise UserError(
            f"the validation text has {len(tokens)} tokens, a window needs {context + 1}. Give more text or "
            "a smaller --context."
        )
    count = max(1, min(budget, len(tokens) - 1) // context)
    starts = np.linspace(0, len(tokens) - context - 1, count).astype(np.int64)
    return torch.from_numpy(np.stack([tokens[s : s + context + 1] for s in starts]))


def baselines(train: npt.NDArray[np.int64], validation: torch.Tensor, vocabulary: int) -> dict[str, float]:
    """Nats per token of Kneser-Ney models of order 1, 3 and 5 (or the highest that can be counted, 4 for the
    vocabulary of GPT-2), of the same windows, trained on the same tokens.
    """
    losses = {}
    for order in sorted({1, 3, min(5, highest_order(vocabulary))}):
        model = NGram(train.astype(np.int64), order, vocabulary)
        losses[f"{order}-gram"] = -float(np.mean([model.log_probabilities(w.numpy()) for w in validation]))
    return losses


def tokenise(config: PretrainConfig, corpus: Corpus, out: Path) -> tuple[Any, npt.NDArray[Any]]:
    """The tokenizer and the tokenised training text, made once and kept in the run folder with what they were
    made of.

    Raises UserError when the folder holds others: of another text, damaged, or changed.
    """
    store, about, model = out / "tokens.npy", out / "tokens.json", out / "model" / "tokenizer.json"

    def contents() -> dict[str, str]:
        files = {path.name: digest([path.read_bytes()]) for path in (store, model) if path.is_file()}
        return {"text": corpus.hash, **files}

    if not about.exists():
        with console.status("training the tokenizer and encoding the text"):
            tokenizer = train_tokenizer(corpus, config.vocabulary, config.context, out / "model")
            tokens = encode([d.text for d in corpus.documents], tokenizer)
        with replacing(store) as partial, partial.open("wb") as file:
            np.save(file, tokens.astype(np.uint16 if config.vocabulary <= 2**16 else np.int32))
        write_json(about, contents())
    stated, found = read_json(about), contents()
    if stated != found:
        changed = ", ".join(sorted(k for k in {*stated, *found} if stated.get(k) != found.get(k)))
        raise UserError(
            f"{out} holds the tokens of another text, or they were changed ({changed}). Choose another "
            "--out, or restore that folder and the text from a copy."
        )
    return GPT2TokenizerFast.from_pretrained(out / "model"), np.load(store, mmap_mode="r")
