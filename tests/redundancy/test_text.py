"""Corpora, the split by document, and token windows."""

import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labbook.console import UserError
from redundancy.batches import Cut, cut_batches, token_table
from redundancy.corpus.documents import Document
from redundancy.overlap import RUN, overlap, require_apart
from redundancy.preparation import FEW_DOCUMENTS, FEW_VALIDATION, bytes_per_token
from redundancy.request import TextOptions
from redundancy.text import (
    DATA,
    Windows,
    bos_token,
    cut_windows,
    excerpts,
    read_corpus,
    require_sections,
    split_documents,
    unique,
)

DOCUMENTS = [Document(f"d{i}", f"text number {i} " * 20) for i in range(400)]


def membership(parts):
    return {d.id: split for split, documents in parts.items() for d in documents}


def test_the_split_does_not_depend_on_order_names_or_other_documents():
    whole = membership(split_documents(DOCUMENTS, 0))
    assert membership(split_documents(DOCUMENTS[::-1], 0)) == whole
    renamed = [Document("other", d.text) for d in DOCUMENTS]
    assert membership(split_documents(renamed, 0)) == whole
    half = membership(split_documents(DOCUMENTS[:200], 0))
    assert all(whole[identifier] == split for identifier, split in half.items())
    assert membership(split_documents(DOCUMENTS, 1)) != whole


def test_the_split_is_pinned():
    """The assignment of these texts must never change: published runs rest on it."""
    parts = split_documents(
        [Document("", t) for t in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")], 0
    )
    assert {s: sorted(d.text for d in documents) for s, documents in parts.items()} == PINNED


PINNED = {
    "train": ["delta", "epsilon"],
    "validation": ["beta"],
    "evaluation": ["alpha", "eta", "gamma", "theta", "zeta"],
}


@settings(max_examples=60, deadline=None)
@given(count=st.integers(8, 40), seed=st.integers(0, 50))
def test_every_small_corpus_can_be_split(count, seed):
    parts = split_documents(DOCUMENTS[:count], seed)
    assert len(parts["train"]) >= 2
    assert len(parts["validation"]) >= 1
    assert len(parts["evaluation"]) >= max(5, 2 * count / 5)
    assert sum(map(len, parts.values())) == count


def test_too_few_documents_is_an_error():
    with pytest.raises(UserError, match="7 documents; at least 8"):
        split_documents(DOCUMENTS[:7], 0)
    with pytest.raises(UserError, match="the corpus has 1 document; at least 8"):
        split_documents(DOCUMENTS[:1], 0)


def test_one_short_text_is_told_how_long_it_has_to_be(tmp_path):
    (tmp_path / "note.txt").write_text("one paragraph.\n\n" * 1000)
    with pytest.raises(
        UserError, match=r"a single text of 1\d,\d* characters.*makes 2 here.*96,000 characters"
    ):
        require_sections(read_corpus(str(tmp_path / "note.txt")))
    (tmp_path / "book.txt").write_text("one paragraph.\n\n" * 7000)
    require_sections(read_corpus(str(tmp_path / "book.txt")))


def test_copies_are_left_out_and_it_is_said(tmp_path, capsys):
    texts = [f"document {i}\n\n" + "second paragraph " * 20 for i in range(6)]
    for i, text in enumerate([*texts, texts[0], texts[1].upper().replace(" ", "\n ")]):
        (tmp_path / f"{i}.txt").write_text(text)
    assert [d.text for d in read_corpus(str(tmp_path)).documents] == texts
    assert "2 documents left out, 6 kept" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="the corpus has 1 document"):
        split_documents(unique([Document(str(i), texts[0]) for i in range(10)]), 0)


def test_text_on_both_sides_of_the_split_is_found():
    ids = np.random.default_rng(0).integers(0, 5000, (40, 64))
    windows = Windows(ids, np.full(40, 64), np.arange(40) // 4, tuple(map(str, range(10))))
    new = replace(windows, ids=ids[::-1] + 1)
    assert overlap(windows, new) == 0
    assert overlap(windows, windows) == 1
    # two of the windows, shifted by a token as another first line would shift them
    part = ids[::-1].copy() + 1
    part[:10, 1:] = ids[:10, :-1]
    runs = 64 - RUN + 1
    assert overlap(windows, replace(windows, ids=part)) == pytest.approx(10 * (runs - 1) / (40 * runs))
    naive = {tuple(row[i : i + RUN]) for row in ids.tolist() for i in range(runs)}
    found = [tuple(row[i : i + RUN]) in naive for row in part.tolist() for i in range(runs)]
    assert overlap(windows, replace(windows, ids=part)) == pytest.approx(np.mean(found))
    # what pads a short window is no text
    short = replace(windows, lengths=np.full(40, RUN - 1))
    assert overlap(windows, short) == 0
    require_apart(windows, new, "document")
    with pytest.raises(
        UserError, match=r"100% of the held-out text \(16 tokens in a row\).*sections are versions"
    ):
        require_apart(windows, windows, "section")


def test_shared_text_below_half_is_said(capsys):
    ids = np.random.default_rng(0).integers(0, 5000, (40, 64))
    windows = Windows(ids, np.full(40, 64), np.arange(40) // 4, tuple(map(str, range(10))))
    other = ids + 1
    other[:10] = ids[:10]
    require_apart(windows, replace(windows, ids=other), "document")
    assert "25% of the held-out text" in capsys.readouterr().err


def test_the_embedded_text_has_what_the_readme_says():
    corpus = read_corpus(None)
    assert len(corpus.documents) == 78
    assert 1.7e6 < sum(len(d.text) for d in corpus.documents) < 1.75e6
    assert len(split_documents(corpus.documents, 0)["evaluation"]) >= 30


def test_files_folders_and_tables_read_alike(tmp_path):
    texts = [f"document {i}\n\n" + "second paragraph " * 20 for i in range(6)]
    for i, text in enumerate(texts):
        (tmp_path / "txt").mkdir(exist_ok=True)
        (tmp_path / "txt" / f"{i}.txt").write_text(text)
    pq.write_table(pa.table({"text": texts, "title": list("abcdef")}), tmp_path / "table.parquet")
    (tmp_path / "table.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    hashes = {read_corpus(str(tmp_path / name)).hash for name in ("txt", "table.parquet", "table.jsonl")}
    assert len(hashes) == 1
    assert read_corpus(str(tmp_path)).hash in hashes  # exact copies count once


def test_a_single_text_is_cut_into_sections_and_says_so(tmp_path):
    (tmp_path / "book.txt").write_text("\n\n".join(f"paragraph {i} " * 30 for i in range(400)))
    corpus = read_corpus(str(tmp_path / "book.txt"))
    assert corpus.unit == "section"
    assert len(corpus.documents) >= 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "does not exist"),
        ("broken.parquet", b"nonsense", "not a readable Parquet file"),
        ("broken.jsonl", b"{not json", "not JSON lines"),
        ("list.jsonl", b"[1, 2]", "no string column `text`"),
        (
            "utf8.jsonl",
            b'{"text": "fine"}\n{"text": "caf\xe9"}',
            r"utf8.jsonl, line 2, is not UTF-8 text.*0xe9 at 13",
        ),
        ("surrogate.jsonl", rb'{"text": "half \ud800 a pair"}', "half a surrogate pair"),
        ("deep.jsonl", b"[" * 100_000, "not JSON lines"),
        ("latin1.txt", "café, naïve, façade".encode("latin1"), "such as Latin-1"),
        ("utf16.txt", "a plain text".encode("utf-16"), "it is UTF-16"),
        ("utf16le.txt", "a plain text".encode("utf-16-le"), "binary or UTF-16"),
        ("binary.txt", bytes(range(32)) * 8, "NUL characters"),
        ("book.pdf", b"%PDF", "not a .txt, .parquet or .jsonl file"),
    ],
)
def test_bad_corpora_name_the_flag(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_corpus(str(tmp_path / name))


def test_a_table_without_text_lists_nothing_else_to_guess(tmp_path):
    pq.write_table(pa.table({"body": ["a", "b"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="Rename the column"):
        read_corpus(str(tmp_path / "t.parquet"))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no"):
        read_corpus(str(tmp_path))


def test_a_hub_corpus_without_network_names_the_ways_on(monkeypatch):
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("offline"))
    )
    with pytest.raises(UserError, match="leave it out to use the embedded text"):
        read_corpus("someone/books")


@pytest.mark.parametrize("name", ["books/", "a/b/c", "texts.csv", "me/texts.json", "me/texts.gz", "a--b"])
def test_what_is_written_like_a_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr("redundancy.text.hub_rows", lambda name, options: pytest.fail("it was looked for"))
    with pytest.raises(UserError, match=f"{name} does not exist. Give --corpus"):
        read_corpus(name)


def test_what_the_page_says_of_few_documents_is_so():
    """docs/howto/text.md: what is refused, what is warned of, and what is comfortable."""

    def splits(number, draws=100):
        for draw in range(draws):
            parts = split_documents([Document(str(i), f"{draw} {i}") for i in range(number)], 0)
            yield len(parts["evaluation"]), len(parts["validation"])

    with pytest.raises(UserError, match="at least 8"):
        next(splits(7))
    assert set(splits(8)) == {(5, 1)}
    assert min(splits(22))[0] < FEW_DOCUMENTS <= min(splits(23))[0]
    assert any(chosen < FEW_VALIDATION for _, chosen in splits(23))
    assert min(splits(50))[0] >= 20
    assert np.mean([chosen < FEW_VALIDATION for _, chosen in splits(50)]) < 0.15


@pytest.mark.parametrize("name", ["wikitext", "someone/books", "wikitext:wikitext-103-raw-v1", "me/c4.en"])
def test_what_may_be_a_data_set_is_looked_for(name, monkeypatch):
    asked = []
    monkeypatch.setattr("redundancy.text.hub_rows", lambda name, options: iter(asked.append(name) or []))
    read_corpus(name)
    assert asked == [name]


def test_a_hub_corpus_is_streamed_up_to_the_bound(monkeypatch):
    asked = {}

    def load(name, configuration, split, streaming):
        asked.update(name=name, configuration=configuration, split=split, streaming=streaming)
        return ({"text": f"row {i} " + "x" * 290} for i in range(10**9))

    monkeypatch.setattr("datasets.load_dataset", load)
    corpus = read_corpus("wikitext:wikitext-103-raw-v1", characters=3000)
    assert asked == {
        "name": "wikitext",
        "configuration": "wikitext-103-raw-v1",
        "split": "train",
        "streaming": True,
    }
    assert 10 <= len(corpus.documents) <= 12


class Letters:
    """A tokenizer of single characters."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(c) - 96 for c in text]}


def test_windows_keep_order_and_budget_and_every_document():
    documents = [Document("a", "abcdefgh"), Document("b", "xyz"), Document("c", "q"), Document("d", "mnopqr")]
    windows = cut_windows(documents, Letters(), 3, budget=100)
    assert windows.names == ("a", "b", "d")  # a single token predicts nothing
    assert windows.ids[windows.document == 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 0]]
    assert windows.lengths.tolist() == [3, 3, 2, 3, 3, 3]
    few = cut_windows(documents, Letters(), 3, budget=9)
    assert few.names == ("a", "b", "d")
    assert few.tokens == 9


def test_batches_mark_what_is_kept_and_where_donors_lie():
    windows = cut_windows([Document("a", "abcdefgh"), Document("b", "xyz")], Letters(), 3, 100)
    types = token_table(windows, 4)
    whole = next(cut_batches(windows, Cut(10, types, 1, 0), "cpu"))
    assert whole.keep.sum(1).tolist() == [2, 2, 1, 2]
    assert not whole.keep[:, 0].any()
    parts = list(cut_batches(windows, Cut(3, types, 1, 0), "cpu"))
    assert np.array_equal(np.concatenate([p.donor for p in parts]), whole.donor)
    # donors of window i are kept positions of window i - 1
    for number in range(1, 4):
        assert whole.donor[number].min() >= 1
        assert whole.donor[number].max() < windows.lengths[number - 1]
    assert (whole.slot[~whole.keep] == len(types)).all()


def test_excerpts_come_from_all_over_the_text_and_end_at_paragraphs():
    paragraphs = [f"paragraph {i}" for i in range(1000)]
    text = "\n\n".join(paragraphs)
    corpus = read_corpus(None)
    table = excerpts(type(corpus)("x", "document", (Document("t", text),)), 500)
    cut = table["text"][0].as_py()
    found = cut.split("\n\n")
    assert 500 <= len(cut) < 600
    assert set(found) <= set(paragraphs)  # whole paragraphs only
    places = [int(p.removeprefix("paragraph ")) for p in found]
    assert places == sorted(set(places))  # in order, none twice
    jumps = [b for a, b in itertools.pairwise(places) if b > a + 1]
    assert len(jumps) == 3  # four passages
    assert places[0] >= 90  # past the front matter
    assert places[-1] > 750


def write_tables(tmp_path, name, rows):
    """The same rows as Parquet and as JSON lines."""
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return tmp_path / f"{name}.parquet", tmp_path / f"{name}.jsonl"


def test_a_line_separator_inside_of_a_string_ends_no_line(tmp_path):
    texts = [f"{i} before\u2028after\u2029\x85\x0b" + "word " * 60 for i in range(6)]
    (tmp_path / "t.jsonl").write_text("\r\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts))
    assert [d.text for d in read_corpus(str(tmp_path / "t.jsonl")).documents] == texts


def test_a_damaged_page_of_a_parquet_file_is_an_error(tmp_path):
    texts = [f"document {i} " + "word " * 200 for i in range(50)]
    pq.write_table(
        pa.table({"text": texts}), tmp_path / "t.parquet", write_page_checksum=True, compression="none"
    )
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    place = content.index(b"document 20")
    content[place : place + 8] = b"\xff" * 8
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_corpus(str(tmp_path / "t.parquet"))


def test_what_is_no_file_is_named_and_hangs_nothing(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"a.txt is a link to nothing"):
        read_corpus(str(tmp_path))
    with pytest.raises(UserError, match=r"a.txt is a link to nothing"):
        read_corpus(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").unlink()
    for name in ("pipe.txt", "pipe.parquet", "pipe.jsonl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="is a pipe or device"):
            read_corpus(str(tmp_path))
        with pytest.raises(UserError, match="is a pipe or device"):
            read_corpus(str(tmp_path / name))
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="cannot be a path") as error:
        read_corpus("/" + "x" * 5000)
    assert len(str(error.value)) < 200


def test_one_text_in_the_place_of_a_path_is_named_shortly(tmp_path, monkeypatch):
    monkeypatch.setattr("redundancy.text.hub_rows", lambda name, options: pytest.fail("it was looked for"))
    for text in ("It was the best of times, it was " * 9, "one\ntwo", "x" * 5000, "/a\n" * 99, "a b"):
        with pytest.raises(UserError, match="is one text; give a list of texts") as error:
            read_corpus(text)
        assert len(str(error.value)) < 220
        assert repr(text[:60])[:-1] in str(error.value)
    # what is there, or is written like a path, is no text
    folder = tmp_path / "my books"
    folder.mkdir()
    (folder / "a b.txt").write_text("something\n")
    monkeypatch.chdir(tmp_path)
    assert read_corpus("my books").documents
    with pytest.raises(UserError, match="does not exist"):
        read_corpus("my books/c d.txt")


LONG = "a sentence of a document " * 12
LINES = [
    " = First = \n",
    "",
    f" {LONG}\n",
    " = = Section = = \n",
    f" {LONG}\n",
    "",
    " = Second = \n",
    f" {LONG}\n",
    "",
]


def test_lines_between_headings_are_one_document(tmp_path, capsys):
    for path in write_tables(tmp_path, "wiki", [{"text": t} for t in LINES]):
        corpus = read_corpus(str(path))
        assert [d.name for d in corpus.documents] == ["= First =", "= Second ="]
        assert corpus.documents[0].text.count(LONG) == 2
        assert "= = Section = =" in corpus.documents[0].text
        assert "lines of" in " ".join(capsys.readouterr().out.split())


def test_lines_between_blank_rows_are_one_document_when_asked_for(tmp_path):
    rows = [{"text": t} for t in ["one", "two", "", "three", " ", "", "four"]]
    for path in write_tables(tmp_path, "lines", rows):
        documents = read_corpus(str(path), options=TextOptions(rows="lines")).documents
        assert [d.text.split() for d in documents] == [["one", "two"], ["three"], ["four"]]
        assert len(read_corpus(str(path), options=TextOptions(rows="documents")).documents) == 4


def test_rows_that_are_neither_are_asked_about(tmp_path):
    for path in write_tables(tmp_path, "sentences", [{"text": f"sentence number {i}"} for i in range(30)]):
        with pytest.raises(
            UserError,
            match=r"look like lines or sentences.*--document-column.*--rows lines.*--rows documents",
        ):
            read_corpus(str(path))
    for path in write_tables(tmp_path, "blank", [{"text": LONG if i % 2 else ""} for i in range(30)]):
        with pytest.raises(UserError, match="15 blank"):
            read_corpus(str(path))


def test_columns_are_those_that_are_asked_for(tmp_path):
    rows = [{"body": f"line {i}", "article": f"a{i % 3}"} for i in range(12)]
    for path in write_tables(tmp_path, "columns", rows):
        with pytest.raises(UserError, match="--text-column"):
            read_corpus(str(path))
        options = TextOptions(text_column="body", document_column="article")
        documents = {d.name: d.text for d in read_corpus(str(path), options=options).documents}
        assert documents["a1"] == "line 1\nline 4\nline 7\nline 10"
        with pytest.raises(UserError, match=r"no column `chapter`.*--document-column"):
            read_corpus(str(path), options=TextOptions(text_column="body", document_column="chapter"))
        with pytest.raises(UserError, match="local corpus, which has no splits"):
            read_corpus(str(path), options=TextOptions(split="test"))


def test_split_and_columns_of_a_hub_data_set(monkeypatch):
    def load(name, configuration, split, streaming):
        if split != "test":
            raise ValueError(f'Bad split: {split}. Available splits: ["test"]')
        return ({"body": f"part {i} ", "page": i // 2} for i in range(8))

    monkeypatch.setattr("datasets.load_dataset", load)
    options = TextOptions(text_column="body", document_column="page", split="test")
    assert len(read_corpus("someone/books", options=options).documents) == 4
    with pytest.raises(UserError, match=r"no split 'train'.*Change --split"):
        read_corpus("someone/books")


def test_rows_gathered_by_document_are_streamed_up_to_the_bound(monkeypatch):
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda *args, **_: ({"text": f"part {i} of a page. ", "page": i // 5} for i in range(10**9)),
    )
    corpus = read_corpus("someone/books", characters=1000, options=TextOptions(document_column="page"))
    assert 8 <= len(corpus.documents) <= 12


class Marked(Letters):
    """Puts token 99 before a text."""

    bos_token_id = 99

    def __call__(self, text, add_special_tokens=True, **_):
        ids = super().__call__(text)["input_ids"]
        return {"input_ids": [99, *ids] if add_special_tokens else ids}


def test_windows_begin_with_the_bos_token_and_it_is_not_scored():
    documents = [Document("a", "abcdefgh"), Document("b", "xyz")]
    windows = cut_windows(documents, Marked(), 4, budget=100, bos=99)
    assert windows.ids.tolist() == [[99, 1, 2, 3], [99, 4, 5, 6], [99, 7, 8, 0], [99, 24, 25, 26]]
    assert windows.lengths.tolist() == [4, 4, 3, 4]
    batch = next(cut_batches(windows, Cut(10, token_table(windows, 4), 1, 0), "cpu", 0, 4))
    assert 99 not in batch.ids[batch.keep]
    assert batch.keep.sum(1).tolist() == [3, 3, 2, 3]


def test_the_bos_token_is_what_the_model_was_trained_with():
    assert bos_token(Marked(), "auto")[0] == 99
    assert bos_token(Marked(), "auto", stated=False)[0] is None
    assert bos_token(Marked(), "no")[0] is None

    class Silent(Letters):
        bos_token_id = 98

    assert bos_token(Silent(), "auto")[0] is None
    assert bos_token(Silent(), "auto", stated=True)[0] == 98
    assert bos_token(Silent(), "yes")[0] == 98
    with pytest.raises(UserError, match="Use --bos no"):
        bos_token(Letters(), "yes")


def test_bytes_per_token_are_of_the_text_without_the_bos_token():
    class Spelt:
        def decode(self, ids):
            return "".join("<begin>" if i == 99 else "ab" for i in ids)

    ids, lengths = np.array([[99, 1, 2, 3], [99, 1, 2, 0]]), np.array([4, 3])
    windows = Windows(ids, lengths, np.array([0, 0]), ("text",))
    assert bytes_per_token(windows, Spelt(), 99) == 2
    assert bytes_per_token(windows, Spelt()) == (5 * 2 + 2 * 7) / 7


def test_running_text_goes_on_where_the_first_passage_of_the_embedded_text_begins():
    passages = {d.name: d.text for d in read_corpus(None).documents}
    running = read_corpus(str(DATA / "running.parquet")).documents
    for document in running:
        # passages are cut at the first end of a paragraph after 5,000 characters
        first = 5_000
        assert document.text[:first] == passages[document.name][:first]
        assert len(document.text) > first
    parts = split_documents(running, seed=0)
    assert {part: len(found) for part, found in parts.items()} == {
        "train": 18,
        "validation": 6,
        "evaluation": 20,
    }
    assert max(len(d.text) for d in parts["evaluation"]) < min(len(d.text) for d in parts["train"])
