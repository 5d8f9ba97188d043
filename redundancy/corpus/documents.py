"""Documents from files, tables and data sets, and which rows of these make a document.

.txt              one document
.jsonl, .parquet  rows with a column of text: each a document, all of one value of --document-column, or
                  lines between headings or blank rows
hub data set      rows as of a table, streamed
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labbook.console import UserError, choice, counted
from labbook.run import unrepeated
from redundancy.corpus.hub import require_reachable
from redundancy.request import TextOptions


@dataclass(frozen=True)
class Document:
    """One independent text, the unit of splitting and of resampling.

    Attributes
    ----------
    ids : its token ids where these were given; `text` is then what they stand for, or empty where no
        tokenizer says so.
    """

    name: str
    text: str
    ids: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        """SHA-256 of the text, so equal texts are one document wherever they came from; of the token ids
        where these are all there is.
        """
        if self.ids is not None and not self.text:
            return hashlib.sha256(np.array(self.ids, dtype="<i8").tobytes()).hexdigest()
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


Row = tuple[str, str, str | None]
"""Name, text and document (the value of --document-column) of one row."""
# Rows that are looked at to tell lines from documents.
SAMPLE = 2000
# A document has at least about a paragraph; the median row of a data set of lines or sentences is shorter.
SHORTEST = 200
HEADING = re.compile(r"^\s*(= [^=\n]+ =|# [^#\n]+)\s*$")


def _decoded(content: bytes, place: str) -> str:
    """UTF-8 text. Raises UserError for another encoding and for what is not text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = (
            "UTF-16"
            if content[:2] in (b"\xff\xfe", b"\xfe\xff")
            else (
                f"another encoding, such as Latin-1, or damaged (byte {content[error.start]:#04x} at "
                f"{error.start})"
            )
        )
        raise UserError(
            f"{place} is not UTF-8 text: it is {kind}. Convert it (`iconv -f LATIN1 -t UTF-8`), or give "
            "--corpus another file."
        ) from error
    if "\0" in text:
        raise UserError(
            f"{place} holds NUL characters: it is binary or UTF-16. Convert it, or give --corpus a text file."
        )
    return text


def _regular(path: Path) -> Path:
    """`path`, which has to be a file that can be read. Raises UserError for dangling links, pipes, devices,
    missing permission.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing. Remove it, or give --corpus another file.")
    if not path.is_file():
        raise UserError(f"{path} is a pipe or device and no file. Remove it, or give --corpus another file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read (no permission). Change that, or give --corpus another file.")
    return path


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl or .parquet file. Raises UserError, with the line, for what is damaged."""
    if path.suffix == ".jsonl":
        # only line feeds end a line of JSON; str.splitlines would cut at U+2028 inside of strings too
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                yield json.loads(_decoded(line, f"{path}, line {number},"), object_pairs_hook=unrepeated)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path} is not JSON lines (line {number}: {error}). Give one JSON object with a text "
                    "field per line."
                ) from error
        return
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for batch in file.iter_batches(64):
            yield from batch.to_pylist()
    except MemoryError:  # Arrow's own is one of its other errors too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not a readable Parquet file ({error}). Get it again, or check the file given to "
            "--corpus."
        ) from error


def _row(record: Any, name: str, place: str, options: TextOptions) -> Row:
    """One row. Raises UserError when it lacks a column."""
    column, document = options.text_column, options.document_column
    if not isinstance(record, dict) or not isinstance(record.get(column), str):
        found = ", ".join(sorted(map(str, record))) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{place} has no string column `{column}` (it has: {found}). Rename the column that holds the "
            "text, or name it with --text-column."
        )
    text = record[column]
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(
            f"{place} holds half a surrogate pair, which is no character. Repair the text, or leave the row "
            "out."
        )
    if document is not None and record.get(document) is None:
        raise UserError(
            f"{place} has no column `{document}` (it has: {', '.join(sorted(map(str, record)))}). Change "
            "--document-column."
        )
    return str(record.get("title") or name), text, None if document is None else str(record[document])


def _rows(path: Path, options: TextOptions) -> Iterator[Row]:
    """The rows of a .jsonl or .parquet file."""
    for number, record in enumerate(_records(path)):
        yield _row(record, f"{path.stem}-{number}", f"{path}, row {number},", options)


def documents_of(path: Path, options: TextOptions) -> Iterator[Document]:
    """The documents of one .txt, .parquet or .jsonl file."""
    if path.suffix == ".txt":
        yield Document(path.name, _decoded(_regular(path).read_bytes(), str(path)))
    else:
        yield from joined(_rows(_regular(path), options), path.name, options)


def joined(rows: Iterator[Row], source: str, options: TextOptions) -> Iterator[Document]:
    """Documents of rows, by the rule that `options` ask for or that the first rows suggest; printed.

    Raises UserError when the rows are neither documents nor lines between headings or blank rows, as far as
    can be told.
    """
    if options.document_column is not None:
        parts: dict[str, list[str]] = {}
        for _, text, document in rows:
            assert document is not None
            parts.setdefault(document, []).append(text)
        choice(
            "documents",
            f"{len(parts):,} of {source}",
            f"rows of one {options.document_column}, --document-column",
        )
        yield from (Document(name, "\n".join(texts)) for name, texts in parts.items())
        return
    first = list(islice(rows, SAMPLE))
    whole = chain(first, rows)
    texts = [text for _, text, _ in first if text.strip()]
    headings, blank = sum(bool(HEADING.match(t)) for t in texts), len(first) - len(texts)
    median = float(np.median([len(t) for t in texts])) if texts else 0.0
    seen = (
        f"the first {counted(len(first), 'row')}: median {median:.0f} characters, "
        f"{counted(headings, 'heading')}, {blank} blank"
    )
    kind = options.rows
    if kind == "auto" and texts:
        if headings > 1 and headings + blank > len(first) // 20:
            kind = "lines"
        elif median < SHORTEST or blank > len(first) // 10:
            raise UserError(
                f"the rows of {source} look like lines or sentences and not like documents ({seen}). Name "
                "the column that says which document a row belongs to with --document-column, or say --rows "
                "lines (documents run from heading to heading, or from blank row to blank row) or --rows "
                "documents (each row is one)."
            )
        else:
            kind = "documents"
    if kind != "lines":
        if texts:
            choice("documents", f"rows of {source}", seen if options.rows == "auto" else "--rows documents")
        yield from (Document(name, text) for name, text, _ in whole)
        return
    between = "headings" if headings else "blank rows"
    choice(
        "documents",
        f"lines of {source}, between {between}",
        seen if options.rows == "auto" else "--rows lines",
    )
    yield from _runs(whole, source, bool(headings))


def _runs(rows: Iterable[Row], source: str, headings: bool) -> Iterator[Document]:
    """Documents that are runs of rows, each from a heading on, or between blank rows."""
    name, lines = source, list[str]()
    for number, (_, text, _) in enumerate(rows):
        ends = bool(HEADING.match(text)) if headings else not text.strip()
        if ends:
            if any(line.strip() for line in lines):
                yield Document(name, "\n".join(lines))
            name, lines = (text.strip() if headings else f"{source}, row {number}"), []
        lines.append(text.rstrip("\n"))
    if any(line.strip() for line in lines):
        yield Document(name, "\n".join(lines))


def hub_rows(name: str, options: TextOptions) -> Iterator[Row]:
    """Stream `id` or `id:configuration` from the Hugging Face hub."""
    from datasets import load_dataset  # a second to import, and only hub corpora need it

    identifier, _, configuration = name.partition(":")
    split = options.split or "train"
    choice(
        "split", split, "of the hub data set; --split" if options.split else "the default for a hub data set"
    )
    try:
        require_reachable(identifier, "dataset")
        rows: Any = load_dataset(identifier, configuration or None, split=split, streaming=True)
        for number, row in enumerate(rows):
            yield _row(row, f"{name}-{number}", f"the data set {name}, row {number},", options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if "split" in str(error).lower():
            raise UserError(
                f"the data set {name!r} has no split {split!r} ({error}). Change --split."
            ) from error
        raise UserError(
            f"the corpus {name!r} is neither a local file or folder nor a hub dataset that can be reached "
            f"({type(error).__name__}: {error}). Give --corpus a .txt, .parquet or .jsonl file or a folder "
            "of them, an id such as Skylion007/openwebtext, or leave it out to use the embedded text."
        ) from error
