"""What a run says about its model, its text and its machine."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from labbook.escape import mathtext
from labbook.estimate import Array
from redundancy.model.gguf_file import GgufFile

Amount = TypeVar("Amount", float, Array)


def bits_per_byte(nats: Amount, bytes_per_token: float) -> Amount:
    """A loss, or a difference of losses, in nats per token, as bits per byte of UTF-8."""
    return nats / math.log(2) / bytes_per_token


@dataclass(frozen=True)
class Facts:
    """What goes into the provenance of a run, and from there into its tables.

    Attributes
    ----------
    model : its name as tables show it.
    gguf : what its file says about itself, if it is one and its weights are used.
    weight_hash, data_hash : SHA-256 of the weights and of the text.
    corpus, unit : where the text comes from, and what a piece of it is called.
    bos : token id that every window begins with, or None.
    documents, tokens : names of the documents, and number of tokens, of each split.
    depth : layers of the model.
    bytes_per_token : UTF-8 bytes per token of the held-out text.
    """

    model: str
    gguf: GgufFile | None
    weight_hash: str
    data_hash: str
    corpus: str
    unit: str
    bos: int | None
    device: str
    processes: int
    documents: dict[str, tuple[str, ...]]
    tokens: dict[str, int]
    depth: int
    bytes_per_token: float
    seed: int

    @property
    def document_counts(self) -> dict[str, int]:
        """Number of documents of each split."""
        return {split: len(names) for split, names in self.documents.items()}

    def json(self) -> dict[str, Any]:
        """As `provenance.json` holds them: what a file says about itself comes after the name."""
        own = {} if self.gguf is None else self.gguf.facts
        rest = {name: value for name, value in vars(self).items() if name not in ("model", "gguf")}
        return {"model": self.model, **own, **rest}


class _Headline(Protocol):
    @property
    def model(self) -> str: ...


class Shown(Protocol):
    """The tables of any command of this wing."""

    @property
    def headline(self) -> _Headline:
        """What names the model."""

    @property
    def folder(self) -> Path:
        """Where they are stored."""


def subject(run: Shown) -> str:
    """Model and text of a run as titles name them; the text only where its folder says which."""
    model = run.headline.model
    try:
        corpus = json.loads((run.folder / "provenance.json").read_text(encoding="utf-8")).get("corpus")
    except (OSError, ValueError, AttributeError):
        corpus = None
    shown = "embedded model" if model == "embedded" else model
    if not corpus:
        return mathtext(shown)
    return mathtext(f"{shown} on {'embedded text' if corpus == 'embedded' else Path(str(corpus)).name}")
