"""A corpus that Python hands over: paths, texts, or token ids."""

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from labbook.console import UserError, choice
from redundancy.corpus.documents import Document
from redundancy.request import TextOptions
from redundancy.text import SUFFIXES, Corpus, read_corpus, unique

KINDS = (
    "a path or hub data set (str), a list of paths (pathlib.Path), a list of texts (str), or a list of "
    "token-id sequences (int)"
)


def corpus_of(given: Iterable[Any], options: TextOptions) -> Corpus:
    """The corpus of several paths (`options` say how their tables are read), texts or sequences of token ids,
    each of them a document.

    Raises UserError for anything else, for mixtures, and for strings that are paths of files.
    """
    if isinstance(given, Mapping | Set) or hasattr(given, "columns"):
        raise UserError(
            f"corpus= is a {type(given).__name__}, whose items are no documents in an order; there can be "
            f"{KINDS}. Give its texts as a list."
        )
    items = list(given)
    if items and all(isinstance(item, Path) for item in items):
        return _files(items, options)
    if items and all(isinstance(item, str) for item in items):
        if all(len(item) < 1000 and item.endswith(SUFFIXES) and "\n" not in item for item in items):
            raise UserError(
                f"corpus= lists strings that look like files ({items[0]!r}). A list of strings is taken as "
                "texts: give paths as pathlib.Path, or one folder as a string."
            )
        documents = [Document(f"text {n}", text) for n, text in enumerate(items)]
        return _unique("texts", [d for d in documents if d.text.strip()])
    if not items or any(isinstance(item, str | bytes | Path) for item in items):
        kinds = ", ".join(sorted({type(item).__name__ for item in items})) or "nothing"
        raise UserError(f"corpus= lists {kinds}; there can be {KINDS}.")
    return _unique(
        "token ids", [Document(f"token ids {n}", "", _ids(item, n)) for n, item in enumerate(items)]
    )


def _ids(sequence: Any, number: int) -> tuple[int, ...]:
    """One document of token ids. Raises UserError for what are no whole numbers from 0."""
    try:
        ids = tuple(map(operator.index, sequence.tolist() if hasattr(sequence, "tolist") else sequence))
    except TypeError as error:
        raise UserError(
            f"document {number} of corpus= is no sequence of token ids ({error}). There can be {KINDS}."
        ) from error
    if min(ids, default=0) < 0:
        raise UserError(f"document {number} of corpus= holds the token id {min(ids)}; ids count from 0.")
    return ids


def _files(paths: Sequence[Path], options: TextOptions) -> Corpus:
    documents = list[Document]()
    for path in paths:
        read = read_corpus(str(path), options=options)
        if read.unit == "section":
            # of several files each is a document; sections are what a single one is cut into
            documents.append(Document(path.name, "".join(part.text for part in read.documents)))
        else:
            documents += read.documents
    return _unique(", ".join(map(str, paths)), documents)


def _unique(source: str, documents: Sequence[Document]) -> Corpus:
    """The corpus, with copies left out."""
    return Corpus(source, "document", tuple(unique(documents)))


def named(corpus: Corpus, tokenizer: Any) -> Corpus:
    """A corpus of token ids with the text that they stand for, so that it is split like that text."""
    if tokenizer is None:
        return corpus
    return _unique(corpus.source, [replace(d, text=_decoded(d.ids, tokenizer)) for d in corpus.documents])


def _decoded(ids: Sequence[int] | None, tokenizer: Any) -> str:
    try:
        text: str = tokenizer.decode(
            list(ids or ()), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    except (OverflowError, TypeError, IndexError):  # beyond any vocabulary; named by `require_known`
        return ""
    return text


def require_known(corpus: Corpus, vocabulary: int, name: str) -> None:
    """Raise UserError where token ids are beyond the vocabulary of the model."""
    for document in corpus.documents:
        if document.ids and max(document.ids) >= vocabulary:
            raise UserError(
                f"{document.name} of corpus= holds the id {max(document.ids)}; {name} knows {vocabulary} "
                f"ids, 0 to {vocabulary - 1}. Give ids of this model's own tokenizer."
            )


def say_tokenizer(tokenizer: Any) -> None:
    """Print what token ids without a tokenizer mean."""
    if tokenizer is None:
        choice(
            "tokenizer", "none", "token ids are given; there are no bits per byte, and no BOS token is added"
        )
