"""Text in, token windows out.

A corpus is a list of documents. Everything is split by document, with a keyed hash of the document's own text, so the
split does not depend on order, on the other documents or on the file the document came in, and two copies of one
text can never stand on both sides.

    document  "It was the best of times, it was ..."          one row, one file, or one section of a single file
    split     train | validation | evaluation                 sha256(seed, text) against fixed thresholds
    windows   [0 1 2 3 ... 255] [0 1 2 ... 255] [0 1 ... 97]  consecutive, no overlap; the last one may be shorter
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from labbook.console import UserError

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "validation", "evaluation")
# About half of the text is for evaluation: the number of evaluation documents sets the width of every interval.
SHARES = (0.40, 0.12, 0.48)
# Held-out documents below which no interval is given: see `labbook.estimate.Studentised`.
FEWEST_DOCUMENTS = 5
SUFFIXES = (".txt", ".parquet", ".jsonl")
SECTION_CHARACTERS = 12_000


@dataclass(frozen=True)
class Document:
    """One independent text, the unit of splitting and of resampling."""

    name: str
    text: str

    @property
    def id(self) -> str:
        """SHA-256 of the text, so equal texts are one document wherever they came from."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """Documents with the name of their source and what the documents are (`document`, or `section` of one file)."""

    source: str
    unit: str
    documents: tuple[Document, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted document ids: independent of their order."""
        return hashlib.sha256("".join(sorted(d.id for d in self.documents)).encode()).hexdigest()


def _rows(path: Path) -> Iterator[Document]:
    """The documents of one .txt, .parquet or .jsonl file; the two tables need a `text` column."""
    if path.suffix == ".txt":
        yield Document(path.name, path.read_text(encoding="utf-8", errors="replace"))
        return
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            records: Iterable[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path} is not JSON lines ({error}). Give one JSON object with a `text` field per line."
            ) from error
    else:
        try:
            file = pq.ParquetFile(path)
            columns = [c for c in ("text", "title") if c in file.schema_arrow.names]
            records = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(64, columns=columns or None))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{path} is not a readable Parquet file ({error}). Check the file given to --corpus."
            ) from error
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            found = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
            raise UserError(
                f"{path} has no string column `text` (row {number} has: {found}). Rename the column that holds the text."
            )
        yield Document(str(record.get("title") or f"{path.stem}-{number}"), record["text"])


def _hub(name: str) -> Iterator[Document]:
    """Stream `id` or `id:configuration` from the Hugging Face hub, split `train`."""
    from datasets import load_dataset  # a second to import, and only hub corpora need it

    identifier, _, configuration = name.partition(":")
    try:
        rows: Any = load_dataset(identifier, configuration or None, split="train", streaming=True)
        for number, row in enumerate(rows):
            if not isinstance(row.get("text"), str):
                raise UserError(
                    f"the dataset {name} has no `text` column (it has: {', '.join(row)}). Choose another --corpus."
                )
            yield Document(f"{name}-{number}", row["text"])
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the corpus {name!r} is neither a local file or folder nor a hub dataset that can be reached "
            f"({type(error).__name__}: {error}). Give --corpus a .txt, .parquet or .jsonl file or a folder of them, "
            "an id such as Skylion007/openwebtext, or leave it out to use the embedded text."
        ) from error


def _sections(document: Document) -> list[Document]:
    """Cut one long text at paragraph ends into sections of about 12,000 characters."""
    sections, start, text = [], 0, document.text
    while start < len(text):
        end = text.find("\n\n", start + SECTION_CHARACTERS)
        end = len(text) if end < 0 else end
        sections.append(Document(f"{document.name}, characters {start}-{end}", text[start:end]))
        start = end
    return sections


def read_corpus(source: str | None, characters: int | None = None) -> Corpus:
    """Read `source`: None (the embedded text), a .txt, .parquet or .jsonl file, a folder of them, or a hub dataset id.

    A single .txt file is cut into sections, and `unit` says so: intervals then describe variation within that
    text only. Exact duplicates are kept once. `characters` bounds how much is read of a streamed hub dataset.

    Raises UserError when there is nothing to read, when a file is damaged, or when a table has no `text` column.
    """
    path = DATA / "text.parquet" if source is None else Path(source)
    stream: Iterator[Document]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES)
        if not files:
            raise UserError(
                f"the folder {path} holds no .txt, .parquet or .jsonl file. Point --corpus at a folder with some."
            )
        stream = chain.from_iterable(_rows(f) for f in files)
    elif path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(
                f"{path} is not a .txt, .parquet or .jsonl file. Convert it, or give --corpus another file."
            )
        stream = _rows(path)
    elif path.suffix in SUFFIXES or str(source).startswith((".", "/", "~")):
        raise UserError(
            f"{source} does not exist. Give --corpus an existing file or folder, or leave it out for the embedded text."
        )
    else:
        stream = _within(_hub(str(source)), characters)
    unique = {d.id: d for d in stream if d.text.strip()}
    documents, unit = list(unique.values()), "document"
    if len(documents) == 1 and path.suffix == ".txt":
        documents, unit = _sections(documents[0]), "section"
    return Corpus("embedded" if source is None else str(source), unit, tuple(documents))


def _within(documents: Iterator[Document], characters: int | None) -> Iterator[Document]:
    """Stop a stream once `characters` have been read."""
    read = 0
    for document in documents:
        yield document
        read += len(document.text)
        if characters is not None and read >= characters:
            return


def split_documents(documents: Sequence[Document], seed: int) -> dict[str, list[Document]]:
    """Assign each document to train, validation or evaluation by a keyed hash of its text.

    The position u = sha256(seed, text) / 2^256 in [0, 1) is compared with fixed thresholds (40 / 12 / 48 %), so adding
    or reordering documents moves none of the others. Where chance leaves a small corpus with fewer than 2 training, 1
    validation, or max(FEWEST_DOCUMENTS, 40 %) evaluation documents, those nearest to the threshold move over; beyond a
    few dozen documents this does not happen.

    Raises UserError for fewer documents than that makes.
    """
    if len(documents) < FEWEST_DOCUMENTS + 3:
        raise UserError(
            f"the corpus has {len(documents)} documents; at least {FEWEST_DOCUMENTS + 3} are needed to split by document into training, "
            "validation and evaluation. Give --corpus more documents (a single .txt file is cut into sections)."
        )
    position = {d.id: int.from_bytes(hashlib.sha256(f"{seed}:{d.id}".encode()).digest()[:7]) / 2**56 for d in documents}
    ordered = sorted(documents, key=lambda d: position[d.id])
    first = sum(position[d.id] < SHARES[0] for d in ordered)
    second = sum(position[d.id] < SHARES[0] + SHARES[1] for d in ordered)
    n, least = len(ordered), max(FEWEST_DOCUMENTS, -(-2 * len(ordered) // 5))
    first = min(max(first, 2), n - least - 1)
    second = min(max(second, first + 1), n - least)
    return {"train": ordered[:first], "validation": ordered[first:second], "evaluation": ordered[second:]}


@dataclass(frozen=True)
class Windows:
    """Token windows of several documents.

    Attributes
    ----------
    ids : (window, position) int64, right-padded with 0; padding never influences earlier positions of a causal model.
    lengths : (window,) number of real tokens in each.
    document : (window,) index into `names`.
    names : document names.
    """

    ids: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    document: npt.NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return int(self.lengths.sum())

    def shuffled(self, seed: int) -> "Windows":
        """The same windows in a seeded random order."""
        order = np.random.default_rng(seed).permutation(len(self.lengths))
        return replace(self, ids=self.ids[order], lengths=self.lengths[order], document=self.document[order])

    def slice(self, start: int, stop: int) -> "Windows":
        """Windows `start` to `stop`."""
        part = slice(start, stop)
        return replace(self, ids=self.ids[part], lengths=self.lengths[part], document=self.document[part])


def cut_windows(documents: Sequence[Document], tokenizer: Any, context: int, budget: int) -> Windows:
    """Tokenise `documents` and cut them into windows of `context` tokens, about `budget` tokens in all.

    When there is more text than the budget, every document gives windows from its start in turn, so the number of
    documents, which the intervals rest on, stays as large as it can. Windows of fewer than 2 tokens are dropped.
    """
    per_document = []
    for document in documents:
        tokens = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
        cuts = [tokens[i : i + context] for i in range(0, len(tokens), context)]
        per_document.append([piece for piece in cuts if len(piece) >= 2])
    chosen: list[tuple[int, list[int]]] = []
    used, rounds = 0, max((len(p) for p in per_document), default=0)
    for number in range(rounds):
        for index, pieces in enumerate(per_document):
            if used >= budget:
                break
            for piece in islice(pieces, number, number + 1):
                chosen.append((index, piece))
                used += len(piece)
    chosen.sort(key=lambda item: item[0])
    width = max((len(piece) for _, piece in chosen), default=0)
    ids = np.zeros((len(chosen), width), dtype=np.int64)
    for row, (_, piece) in enumerate(chosen):
        ids[row, : len(piece)] = piece
    present = sorted({index for index, _ in chosen})
    return Windows(
        ids=ids,
        lengths=np.array([len(piece) for _, piece in chosen], dtype=np.int64),
        document=np.searchsorted(present, [index for index, _ in chosen]).astype(np.int64),
        names=tuple(documents[i].name for i in present),
    )


# An excerpt is a few stretches from all over a book, so that it stands for the book and not for one chapter.
STRETCHES = 4


def excerpts(corpus: Corpus, characters: int) -> pa.Table:
    """About `characters` from each document: STRETCHES passages at even distances from 10 % of its length on (past front matter).

    Passages begin and end at paragraphs and are joined by a blank line, so one token window in six or so (at 256 tokens and
    20,000 characters) spans a jump.
    """
    rows = []
    for document in corpus.documents:
        text, size = document.text, characters // STRETCHES
        passages, taken = [], 0
        for number in range(STRETCHES):
            wanted = len(text) * (0.1 + 0.9 * number / STRETCHES)
            start = max(text.find("\n\n", int(wanted)) + 2, taken)
            end = text.find("\n\n", start + size)
            taken = end if end > 0 else len(text)
            passages.append(text[start:taken].strip())
        rows.append({"title": document.name, "text": "\n\n".join(p for p in passages if p)})
    return pa.Table.from_pylist(rows)
