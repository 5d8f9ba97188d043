"""Texts: .txt, .jsonl, .parquet and folders."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy.text import read_corpus
from tests.fuzz.judge import Case, Right, damage, equal


def documents(rng: np.random.Generator, count: int = 12) -> list[str]:
    """Documents of a few hundred characters, with more than ASCII in them."""
    words = [
        "sea",
        "naïve",
        "“quoted”",
        "line\u2028separator",
        "𝔘nicode",
        "ship",
        "the",
        "and",
        "of",
        "weather",
    ]
    return [" ".join(map(str, rng.choice(words, 80))) + f" {number}." for number in range(count)]


def read(path: Path) -> object:
    """The texts of a corpus, in any order."""
    return sorted(d.text for d in read_corpus(str(path)).documents)


def jsonl(texts: list[str]) -> bytes:
    """One object per line."""
    return b"".join(json.dumps({"text": t}, ensure_ascii=False).encode() + b"\n" for t in texts)


def by_json(path: Path) -> Right:
    """Whether a result is what Python's json module finds line by line."""

    def right(found: object) -> bool:
        try:
            # a byte-order mark may stand before every line
            lines = [line.removeprefix(b"\xef\xbb\xbf").strip() for line in path.read_bytes().split(b"\n")]
            texts = [json.loads(line.decode())["text"] for line in lines if line]
        except (ValueError, KeyError):
            return False
        return found == sorted({t for t in texts if t.strip()})

    return right


def jsonl_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Lines of JSON."""
    path, texts = folder / "t.jsonl", documents(rng)
    whole, wanted = jsonl(texts), sorted(texts)
    sound = {
        "as it is": whole,
        "rows reversed": jsonl(texts[::-1]),
        "byte-order mark": b"\xef\xbb\xbf" + whole,
        "blank lines": whole.replace(b"\n", b"\n\n") + b"\n",
        "CRLF": whole.replace(b"\n", b"\r\n"),
        "every row twice": whole + whole,
        "no last line feed": whole[:-1],
        "escapes": b"".join(json.dumps({"id": 1, "text": t}).encode() + b"\n" for t in texts),
    }
    unsound = {
        "a number": whole + b'{"text": 3}\n',
        "a null": whole + b'{"text": null}\n',
        "no text": whole + b'{"body": "x"}\n',
        "a list": whole + b"[1]\n",
        "Latin-1": whole + '{"text": "naïve"}\n'.encode("latin-1"),
        "UTF-16": whole.decode().encode("utf-16"),
        "half a pair": whole + b'{"text": "\\ud800"}\n',
        "half a line": whole[:-40],
        "one document, not lines": json.dumps([{"text": t} for t in texts], indent=1).encode(),
        "nesting": whole + b"[" * 100_000 + b"\n",
        "NUL": whole + b'{"text": "a\0b"}\n',
        "empty objects": b"{}\n" * 9,
        "the text twice in an object": whole + b'{"text": "one", "text": "two"}\n',
    }
    for name, content in (sound | unsound).items():
        path.write_bytes(content)
        yield Case(
            "jsonl", name, lambda: read(path), equal(wanted) if name in sound else None, whole=name in sound
        )
    while True:
        path.write_bytes(jsonl(documents(rng)))
        fault = damage(path, rng)
        yield Case("jsonl", fault, lambda: read(path), by_json(path))


def corpus_parquet_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Parquet with page checksums."""
    path, texts = folder / "t.parquet", documents(rng)
    wanted = sorted(texts)

    def write(columns: dict[str, list[object]]) -> bytes:
        pq.write_table(pa.table(columns), path, write_page_checksum=True, compression="none")
        return path.read_bytes()

    for name, columns in {
        "as it is": {"text": texts},
        "rows reversed": {"n": range(12), "text": texts[::-1]},
    }.items():
        write(columns)  # type: ignore[arg-type]
        yield Case("corpus.parquet", name, lambda: read(path), equal(wanted), whole=True)
    for name, column in {
        "numbers": range(12),
        "a null": [None, *texts],
        "lists": [[t] for t in texts],
    }.items():
        write({"text": column})  # type: ignore[dict-item]
        yield Case("corpus.parquet", name, lambda: read(path), None)
    whole = write({"text": texts})  # type: ignore[dict-item]
    page = whole.find(texts[3].encode()) + 20
    path.write_bytes(whole[:page] + b"X" + whole[page + 1 :])
    yield Case("corpus.parquet", "a damaged page", lambda: read(path), None)
    while True:
        path.write_bytes(whole)
        fault = damage(path, rng)
        yield Case("corpus.parquet", fault, lambda: read(path), equal(wanted))


def folder_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Folders of .txt files, with entries that do not belong there."""

    def fresh() -> tuple[Path, list[str]]:
        place, texts = folder / f"books-{int(rng.integers(2**62))}", documents(rng)
        place.mkdir()
        for number, text in enumerate(texts):
            (place / f"{number:02d}.txt").write_bytes(text.encode())
        return place, texts

    entries = (
        "as it is",
        "byte-order mark",
        "a folder named .txt",
        "another ending",
        "an empty file",
        "a copy",
    )
    for name in entries:
        place, texts = fresh()
        if name == "byte-order mark":
            (place / "03.txt").write_bytes(b"\xef\xbb\xbf" + texts[3].encode())
        elif name == "a folder named .txt":
            (place / "more.txt").mkdir()
        elif name == "another ending":
            (place / "notes.md").write_bytes(b"\xff\xfe")
        elif name == "an empty file":
            (place / "99.txt").touch()
        elif name == "a copy":
            (place / "99.txt").write_bytes(texts[3].encode())
        yield Case("folder of texts", name, lambda p=place: read(p), equal(sorted(texts)), whole=True)
    for name in ("dangling link", "FIFO", "UTF-16", "Latin-1", "binary", "damaged table", "loop of links"):
        place, _ = fresh()
        entry = place / "50.txt"
        if name == "dangling link":
            entry.symlink_to(place / "nothing")
        elif name == "loop of links":
            entry.symlink_to(entry)
        elif name == "FIFO":
            os.mkfifo(entry)
        elif name == "damaged table":
            (place / "50.parquet").write_bytes(b"PAR1 no table PAR1")
        else:
            content = {
                "UTF-16": "sea".encode("utf-16"),
                "Latin-1": "naïve".encode("latin-1"),
                "binary": bytes(99),
            }
            entry.write_bytes(content[name])
        yield Case("folder of texts", name, lambda p=place: read(p), None)
    while True:
        place, texts = fresh()
        path = place / f"{int(rng.integers(12)):02d}.txt"
        fault = damage(path, rng)
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
        texts = [content if f"{n:02d}.txt" == path.name else t for n, t in enumerate(texts)]
        right = equal(sorted({t for t in texts if t.strip()}))
        yield Case("folder of texts", fault, lambda p=place: read(p), right)
