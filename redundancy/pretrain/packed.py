"""Text that was tokenised beforehand, in one file that can be carried to a machine without the text.

`python -m redundancy.pretrain CORPUS --pack FILE.npz` writes it; `python -m redundancy.pretrain FILE.npz`
trains on it. The file holds the tokenizer, the tokens of the training and of the validation text, what is
known of both, and the losses of the n-gram models, which need no GPU and minutes of a CPU.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import GPT2TokenizerFast

from labbook.console import UserError
from labbook.run import digest, read_json, replacing, write_json
from redundancy.corpus.documents import Document
from redundancy.pretrain.config import PretrainConfig
from redundancy.pretrain.tokens import END, baselines, encode, spread_windows, train_tokenizer
from redundancy.text import Corpus

SUFFIX = ".npz"
# options that decide what the file holds
DECIDING = ("vocabulary", "context", "validation_tokens")
ARRAYS = ("tokens", "held", "tokenizer", "facts")


@dataclass(frozen=True)
class Packed:
    """Tokens (n,) of the training text and `held` (m,) of the validation text, the tokenizer's own JSON, and
    the facts of the text that the model card states.
    """

    tokens: npt.NDArray[Any]
    held: npt.NDArray[Any]
    tokenizer_json: str
    facts: dict[str, Any]

    def tokenizer(self, folder: Path, context: int) -> GPT2TokenizerFast:
        """The tokenizer, saved into `folder` of the run in the hub's layout.

        Raises UserError when the run was begun on another text.
        """
        about, stated = folder.parent / "tokens.json", {"text": self.facts["train_hash"]}
        if not about.exists():
            write_json(about, stated)
        if read_json(about) != stated:
            raise UserError(f"{folder.parent} holds the tokens of another text. Choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokenizer.json"
        path.write_text(self.tokenizer_json, encoding="utf-8")
        tokenizer = GPT2TokenizerFast(
            tokenizer_file=str(path), bos_token=END, eos_token=END, unk_token=END, model_max_length=context
        )
        tokenizer.save_pretrained(folder)
        return tokenizer


def facts_of(corpus: Corpus, held: list[Document], held_tokens: int) -> dict[str, Any]:
    """What the model card says of the text."""
    return {
        "train_documents": len(corpus.documents),
        "train_characters": sum(len(d.text) for d in corpus.documents),
        "train_hash": corpus.hash,
        "validation_documents": len(held),
        "tokens_per_byte": held_tokens / sum(len(d.text.encode()) for d in held),
    }


def pack(config: PretrainConfig, corpus: Corpus, held: list[Document], path: Path, scratch: Path) -> None:
    """Train the tokenizer, encode both texts, and write them to `path`. `scratch` takes the
    tokenizer's files.

    Raises UserError for a name that does not end in .npz.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"--pack {path} has to end in {SUFFIX}. Change --pack.")
    tokenizer = train_tokenizer(corpus, config.vocabulary, config.context, scratch)
    kind: Any = np.uint16 if config.vocabulary <= 2**16 else np.int32
    tokens, held_tokens = (
        encode([d.text for d in documents], tokenizer).astype(kind) for documents in (corpus.documents, held)
    )
    validation = spread_windows(held_tokens.astype(np.int64), config.context, config.validation_tokens)
    about = {
        **{name: getattr(config, name) for name in DECIDING},
        "corpus": Path(config.corpus).name,
        **facts_of(corpus, held, len(held_tokens)),
        "baselines": baselines(tokens, validation, config.vocabulary),
        "sha256": digest([tokens.tobytes(), held_tokens.tobytes()]),
    }
    json_text = (scratch / "tokenizer.json").read_bytes()
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            tokens=tokens,
            held=held_tokens,
            tokenizer=np.frombuffer(json_text, np.uint8),
            facts=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )


def unpack(path: Path, config: PretrainConfig) -> Packed:
    """What `pack` wrote. Raises UserError when the file is damaged, is another kind of file, or was made with
    another vocabulary, context or number of validation tokens.
    """
    repair = "Make it again with --pack."
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            missing = [name for name in ARRAYS if name not in found]
            if missing:
                raise UserError(f"{path} holds no tokenised text: it lacks {', '.join(missing)}. {repair}")
            tokens, held, tokenizer, facts = (found[name] for name in ARRAYS)
        about = json.loads(facts.tobytes())
        stated = about.pop("sha256")
        text = tokenizer.tobytes().decode()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}). {repair}") from error
    if stated != digest([tokens.tobytes(), held.tobytes()]):
        raise UserError(f"{path} is damaged: its checksum is not that of its tokens. {repair}")
    for name in DECIDING:
        if about[name] != getattr(config, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{path} was made with {flag} {about[name]}, asked was {flag} {getattr(config, name)}. "
                f"Change {flag}, or make the file again with --pack."
            )
    return Packed(tokens, held, text, about)
