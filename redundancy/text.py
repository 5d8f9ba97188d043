"""Text in, token windows out.

A corpus is a list of documents. Everything is split by document, with a keyed hash of the document's own
text, so the split does not depend on order, on the other documents or on the file the document came in, and
two copies of one text can never stand on both sides.

    document   "It was the best of times, it was ..."           rows (see TextOptions), one file, or one
                                                                section of a single file
    split      train | validation | evaluation                  sha256(seed, text) against fixed thresholds
    windows    [0 1 2 3 ... 255] [0 1 2 ... 255] [0 1 ... 97]   consecutive, no overlap; the last one may be
                                                                shorter
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labbook.console import UserError, choice, counted
from redundancy.corpus.documents import Document, Row, documents_of, hub_rows, joined
from redundancy.corpus.hub import is_id
from redundancy.request import TextOptions

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "validation", "evaluation")
# About half of the text is for evaluation: the number of evaluation documents sets the width of every
# interval.
SHARES = (0.40, 0.12, 0.48)
# Held-out documents below which no interval is given: see `labbook.estimate.Studentised`.
FEWEST_DOCUMENTS = 5
SUFFIXES = (".txt", ".parquet", ".jsonl")
# of files that hold text too, and are not read: who names one means no hub data set
OTHER_SUFFIXES = (".csv", ".tsv", ".json", ".md", ".html", ".xml", ".pdf", ".docx", ".epub", ".zip", ".gz")
SECTION_CHARACTERS = 12_000
# characters of a name on a hub, and of what an error quotes of a text
LONGEST_NAME, QUOTED = 255, 60


@dataclass(frozen=True)
class Corpus:
    """Documents with the name of their source and what the documents are (`document`, or `section` of one
    file).
    """

    source: str
    unit: str
    documents: tuple[Document, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted document ids: independent of their order."""
        return hashlib.sha256("".join(sorted(d.id for d in self.documents)).encode()).hexdigest()


def _sections(document: Document) -> list[Document]:
    """Cut one long text at paragraph ends into sections of about 12,000 characters."""
    sections, start, text = [], 0, document.text
    while start < len(text):
        end = text.find("\n\n", start + SECTION_CHARACTERS)
        end = len(text) if end < 0 else end
        sections.append(Document(f"{document.name}, characters {start}-{end}", text[start:end]))
        start = end
    return sections


def unique(documents: Iterable[Document]) -> list[Document]:
    """The documents, of each text once; how many were dropped is printed.

    Texts are equal when they differ in nothing but white space and case. Of token ids without a text the
    ids are compared.
    """
    found, copies = dict[str, Document](), 0
    for document in documents:
        key = document.id
        if document.text:
            plain = " ".join(document.text.casefold().split())
            key = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
        copies += key in found
        found.setdefault(key, document)
    if copies:
        choice(
            "copies",
            f"{counted(copies, 'document')} left out, {len(found):,} kept",
            "equal to another but for white space and case",
        )
    return list(found.values())


def read_corpus(
    source: str | None, characters: int | None = None, options: TextOptions | None = None
) -> Corpus:
    """Read `source`: None (the embedded text), a .txt, .parquet or .jsonl file, a folder of them, or a hub
    dataset id.

    A single .txt file is cut into sections, and `unit` says so: intervals then describe variation within
    that text only. Copies are left out, which is said. `characters` bounds how much is read of a streamed hub
    dataset. `options` say how documents are made of the rows of tables and data sets.

    Raises UserError when there is nothing to read, when a file is damaged or is not UTF-8 text, when a table
    lacks a column, and when it cannot be told what its rows are.
    """
    if source is not None:
        _require_no_text(source)
    path = DATA / "text.parquet" if source is None else Path(source)
    options = options or TextOptions()
    stream: Iterator[Document]
    try:
        folder, exists = path.is_dir(), path.exists() or path.is_symlink()
    except OSError as error:
        raise UserError(
            f"--corpus {_beginning(str(source))} cannot be a path ({error.strerror}). Give an existing file "
            "or folder."
        ) from error
    local = exists or _path_like(str(source))
    if local and options.split is not None:
        raise UserError(
            f"--split {options.split} was given, but {path} is a local corpus, which has no splits. Leave "
            "--split out."
        )
    if folder:
        files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and not f.is_dir())
        if not files:
            raise UserError(
                f"the folder {path} holds no .txt, .parquet or .jsonl file. Point --corpus at a folder with "
                "some."
            )
        stream = chain.from_iterable(documents_of(f, options) for f in files)
    elif exists:
        if path.suffix not in SUFFIXES:
            raise UserError(
                f"{path} is not a .txt, .parquet or .jsonl file. Convert it, or give --corpus another file."
            )
        stream = documents_of(path, options)
    elif local:
        raise UserError(
            f"{source} does not exist. Give --corpus an existing file or folder, the id of a hub data set "
            "such as Skylion007/openwebtext, or leave it out for the embedded text."
        )
    else:
        rows = hub_rows(str(source), options)
        if options.document_column is not None:
            rows = _rows_within(rows, characters)
        stream = _within(joined(rows, str(source), options), characters)
    documents, unit = unique(d for d in stream if d.text.strip()), "document"
    if len(documents) == 1 and path.suffix == ".txt":
        documents, unit = _sections(documents[0]), "section"
    return Corpus("embedded" if source is None else str(source), unit, tuple(documents))


def _path_like(source: str) -> bool:
    """Whether a name that nothing has is written like a path, so that the hub need not be asked."""
    if source.startswith((".", "/", "~")) or source.endswith((*SUFFIXES, *OTHER_SUFFIXES)):
        return True
    return not is_id(source.partition(":")[0])


def _require_no_text(source: str) -> None:
    """Raise UserError where what should name a corpus is a text: there is no such path, and it has more than
    one line, or, without looking like a path, white space or more characters than a name.
    """
    path_like = source.endswith(SUFFIXES) or source.startswith((".", "/", "~"))
    words = re.search(r"\s", source.strip()) is not None or len(source) > LONGEST_NAME
    if "\n" not in source and (path_like or not words):
        return
    try:
        if Path(source).exists():
            return
    except (OSError, ValueError):  # longer than a path can be, or with a null byte
        pass
    raise UserError(
        f"--corpus is one text; give a list of texts (in Python), or a file or folder that exists. It begins "
        f"{_beginning(source)}."
    )


def _beginning(source: str) -> str:
    return repr(source if len(source) <= QUOTED else f"{source[:QUOTED]}...")


def _within(documents: Iterator[Document], characters: int | None) -> Iterator[Document]:
    """Stop a stream of documents once `characters` have been read."""
    read = 0
    for document in documents:
        yield document
        read += len(document.text)
        if characters is not None and read >= characters:
            return


def _rows_within(rows: Iterator[Row], characters: int | None) -> Iterator[Row]:
    """Stop a stream of rows once `characters` have been read: documents that rows are gathered for have no
    earlier end.
    """
    read = 0
    for row in rows:
        yield row
        read += len(row[1])
        if characters is not None and read >= characters:
            choice(
                "rows",
                f"the first {read:,} characters",
                "of the hub data set; what follows of its documents is not read",
            )
            return


def require_sections(corpus: Corpus) -> None:
    """Raise UserError where a single text is too short to be cut into enough sections."""
    least = FEWEST_DOCUMENTS + 3
    if corpus.unit != "section" or len(corpus.documents) >= least:
        return
    characters = sum(len(d.text) for d in corpus.documents)
    raise UserError(
        f"{corpus.source} is a single text of {counted(characters, 'character')}. One text is cut into "
        f"sections of about {SECTION_CHARACTERS:,} characters, which makes {len(corpus.documents)} here; at "
        f"least {least} are needed for training, validation and evaluation. Give --corpus a text of about "
        f"{least * SECTION_CHARACTERS:,} characters or more, or a folder of {least} files or more."
    )


def split_documents(documents: Sequence[Document], seed: int) -> dict[str, list[Document]]:
    """Assign each document to train, validation or evaluation by a keyed hash of its text.

    The position u = sha256(seed, text) / 2^256 in [0, 1) is compared with fixed thresholds (40 / 12 / 48 %),
    so adding or reordering documents moves none of the others. Where chance leaves a small corpus with fewer
    than 2 training, 1 validation, or max(FEWEST_DOCUMENTS, 40 %) evaluation documents, those nearest to the
    threshold move over; beyond a few dozen documents this does not happen.

    Raises UserError for fewer documents than that makes.
    """
    if len(documents) < FEWEST_DOCUMENTS + 3:
        raise UserError(
            f"the corpus has {counted(len(documents), 'document')}; at least {FEWEST_DOCUMENTS + 3} are "
            "needed to split by document into training, validation and evaluation. Give --corpus more of "
            "them."
        )
    position = {
        d.id: int.from_bytes(hashlib.sha256(f"{seed}:{d.id}".encode()).digest()[:7]) / 2**56
        for d in documents
    }
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
    ids : (window, position) int64, right-padded with 0; padding never influences earlier positions of a
        causal model.
    lengths : (window,) number of real tokens in each, a BOS token at position 0 included.
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


def bos_token(
    tokenizer: Any, wanted: Literal["auto", "yes", "no"], stated: bool | None = None
) -> tuple[int | None, str]:
    """The token id that every window begins with, or None, and the reason.

    `auto` follows what the model was trained with: what its GGUF file states, else whether its tokenizer puts
    a special token before a text.

    Raises UserError when a token is asked for and the tokenizer has none.
    """
    bare, full = (tokenizer("The sea.", add_special_tokens=special)["input_ids"] for special in (False, True))
    first = full[0] if len(full) > len(bare) and full[1 : 1 + len(bare)] == bare else None
    token = getattr(tokenizer, "bos_token_id", None)
    token = first if token is None else token
    if wanted == "no":
        return None, "asked for"
    if wanted == "auto" and stated is False:
        return None, "the model's file says that texts begin without one"
    if wanted == "auto" and stated is None and first is None:
        return None, "the model's tokenizer puts none before a text"
    if token is None:
        raise UserError(
            "a BOS token was asked for (--bos yes, or by the model's file), but the tokenizer has none. Use "
            "--bos no."
        )
    if wanted == "yes":
        return int(token), "asked for"
    return int(token), "the model's file says so" if stated else "the model's tokenizer puts it before a text"


def _tokens(document: Document, tokenizer: Any, bos: int | None) -> list[int]:
    """The token ids of a document, without the BOS token that every window begins with anyway."""
    if document.ids is None:
        found: list[int] = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
        return found
    return list(document.ids[1:] if bos is not None and document.ids[:1] == (bos,) else document.ids)


def cut_windows(
    documents: Sequence[Document], tokenizer: Any, context: int, budget: int, bos: int | None = None
) -> Windows:
    """Tokenise `documents` and cut them into windows of `context` tokens, about `budget` tokens in all.

    With `bos` every window begins with that token, which takes position 0 and one of the `context` tokens:
    the text starts at position 1. Position 0 is never scored then, so no score is about the BOS token.

    When there is more text than the budget, every document gives windows from its start in turn, so the
    number of documents, which the intervals rest on, stays as large as it can. Windows of fewer than 2 tokens
    of text are dropped.
    """
    before = [] if bos is None else [bos]
    size = context - len(before)
    per_document = []
    for document in documents:
        tokens = _tokens(document, tokenizer, bos)
        cuts = [tokens[i : i + size] for i in range(0, len(tokens), size)]
        per_document.append([before + piece for piece in cuts if len(piece) >= 2])
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
# characters of each document of the embedded text, by `excerpts`
EXCERPT = 20_000


def excerpts(corpus: Corpus, characters: int) -> pa.Table:
    """About `characters` from each document: STRETCHES passages at even distances from 10 % of its length on
    (past front matter).

    Passages begin and end at paragraphs and are joined by a blank line, so one token window in six or so (at
    256 tokens and 20,000 characters) spans a jump.
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
