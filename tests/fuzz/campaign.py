"""All kinds of input in turn, for a number of cases or for some minutes."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from tests.fuzz import corpora, models, runs, tables
from tests.fuzz.judge import OUTCOMES, Case, Verdict, judge

KINDS: dict[str, Callable[[Path, np.random.Generator], Iterator[Case]]] = {
    "csv": lambda folder, rng: tables.text_cases("csv", folder, rng),
    "tsv": lambda folder, rng: tables.text_cases("tsv", folder, rng),
    "xlsx": tables.excel_cases,
    "parquet": tables.parquet_cases,
    "jsonl": corpora.jsonl_cases,
    "corpus.parquet": corpora.corpus_parquet_cases,
    "folder of texts": corpora.folder_cases,
    "safetensors": models.safetensors_cases,
    "config.json": models.config_cases,
    "tokenizer": models.tokenizer_cases,
    "gguf": models.gguf_cases,
    "finished run": runs.finished_cases,
    "trajectory": runs.trajectory_cases,
    "state": runs.state_cases,
}


def campaign(seed: int, cases: int | None = None, seconds: float = float("inf")) -> Iterator[Verdict]:
    """Judge `cases` of each kind, or go on for `seconds`; the same seed gives the same cases in the same
    order.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as top:
        streams = {}
        for number, (kind, make) in enumerate(KINDS.items()):
            if kind == "gguf" and find_spec("gguf") is None:
                print("gguf is left out: the package gguf is not installed (pip install gguf)")
                continue
            folder = Path(top) / kind
            folder.mkdir()
            streams[kind] = make(folder, np.random.default_rng([seed, number]))
        for done in count():
            if (cases is not None and done >= cases) or time.monotonic() - began > seconds:
                break
            for kind, stream in streams.items():
                yield judge(next(stream))
                for book in (Path(top) / kind).glob("books-*"):
                    shutil.rmtree(book)


def counts(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row per kind of input: `cases` and how many ended in each way."""
    rows = []
    for kind in dict.fromkeys(v.case.kind for v in verdicts):
        ended = [v.outcome for v in verdicts if v.case.kind == kind]
        rows.append(
            {"kind": kind, "cases": len(ended), **{outcome: ended.count(outcome) for outcome in OUTCOMES}}
        )
    return pd.DataFrame(rows)
