"""Commands killed at random moments, repeated, and compared with uninterrupted ones."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import GPT2TokenizerFast

from consolidation.train import trajectory
from redundancy.text import DATA, read_corpus
from tests.conftest import TINY, build

LONGEST = 300


@dataclass(frozen=True)
class Kill:
    """One kill: of which command, by which signal, after how many seconds; `survived` when the tables are
    equal.
    """

    command: str
    number: int
    after: float
    survived: bool
    detail: str


def commands(folder: Path) -> dict[str, list[str]]:
    """Tiny runs of each command, by module."""
    model, texts = folder / "tiny-gpt2", folder / "texts"
    build(TINY["gpt2"]).save_pretrained(model)
    GPT2TokenizerFast.from_pretrained(DATA / "model").save_pretrained(model)
    texts.mkdir()
    for number, document in enumerate(read_corpus(None).documents[:16]):
        (texts / f"{number:02d}.txt").write_text(document.text[:6000])
    tokens = ["--corpus", str(texts), "--context", "32", "--tokens", "8000", "--eval-tokens", "8000"]
    return {
        "redundancy.probe": [str(model), *tokens],
        "redundancy.training": ["--checkpoints", f"random:{model}", str(model), *tokens],
        "redundancy.removal": [
            str(model),
            *tokens,
            "--parts",
            "layers",
            "all",
            "curve",
            "--shares",
            "0.25",
            "0.5",
        ],
        "consolidation.train": ["tiny", "--steps", "60", "--evaluations", "6", "--evaluation", "8"],
    }


def start(module: str, args: list[str], out: Path) -> subprocess.Popen[str]:
    """A command in a process of its own, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *args, "--out", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command. Raises RuntimeError with its words when it fails."""
    said = process.communicate(timeout=LONGEST)[1]
    if process.returncode != 0:
        raise RuntimeError(f"exit {process.returncode}: {said[-2000:]}")
    return said


def differences(one: Path, other: Path) -> list[str]:
    """Tables that are not the same, byte for byte; in trajectories, value for value without those that are
    wall-clock times.
    """
    names = {
        p.relative_to(folder)
        for folder in (one, other)
        for p in folder.rglob("*")
        if p.suffix in (".csv", ".parquet")
    }
    return [str(name) for name in sorted(names) if not _equal(one / name, other / name)]


def _equal(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    if one.name != "trajectory.parquet":
        return one.read_bytes() == other.read_bytes()
    tables = [trajectory.read(path)[0].query("metric != 'seconds'") for path in (one, other)]
    pd.testing.assert_index_equal(*(t.columns for t in tables))
    return bool(tables[0].equals(tables[1]))


def kills(tiny: dict[str, list[str]], folder: Path, rng: np.random.Generator, rounds: int) -> Iterator[Kill]:
    """Each command of `tiny` killed `rounds` times, by SIGKILL and SIGTERM in turn."""
    for module, args in tiny.items():
        whole = folder / module / "whole"
        began = time.monotonic()
        finish(start(module, args, whole))
        lasted = time.monotonic() - began
        for number in range(rounds):
            out, sent = folder / module / str(number), (signal.SIGKILL, signal.SIGTERM)[number % 2]
            # most of a tiny run is imports, in which nothing can be lost: the later three quarters
            after = float(rng.uniform(0.25, 0.98)) * lasted
            process = start(module, args, out)
            time.sleep(after)
            process.send_signal(sent)
            process.communicate(timeout=LONGEST)
            try:
                finish(start(module, args, out))
                unequal = differences(whole, out)
            except RuntimeError as error:
                unequal = [str(error)]
            yield Kill(module, int(sent), after, not unequal, "; ".join(unequal))
            shutil.rmtree(out, ignore_errors=True)
