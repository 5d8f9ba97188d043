"""A run is a folder: `config.json`, `provenance.json`, tidy tables, `summary.json`.

Files are replaced atomically, so a folder is readable at any moment: a killed run or a full disk leaves the last
complete version of every file. `summary.json` is written last; its presence means that the run is finished.
"""

import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from labbook import processes
from labbook.console import UserError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "pandas", "scikit-learn")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and move it into place at the end; on any error `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _defined(value: Any) -> Any:
    """`value` with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _defined(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, at full float precision; what is not defined (NaN, infinity) is null."""
    text = json.dumps(_defined(value), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV atomically, at full float precision."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, atomically. Raises OSError (ENOSPC) when the disk is full."""
    with replacing(path) as partial:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata)
        except SafetensorError as error:  # safetensors reports a full disk as its own error
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote. Raises UserError when the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or is not a safetensors file ({error}). Remove it to start again, or restore it from a copy."
        ) from error


def read_finished(folder: Path, tables: Iterable[str], kind: str) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Summary and tables of a finished run. Raises UserError when `folder` is not a finished run of that kind."""
    names = {name: folder / f"{name}.csv" for name in tables}
    missing = [path.name for path in (folder / "summary.json", *names.values()) if not path.is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a finished {kind} run (no {', '.join(missing)}). Finish it with --resume, or name another folder."
        )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary, {name: pd.read_csv(path) for name, path in names.items()}


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over `parts` in order, as hexadecimal."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def commit() -> str | None:
    """The git commit of this source tree with `+changes` if it is modified; None outside a checkout."""
    here = Path(__file__).parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(status, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def provenance(**facts: Any) -> dict[str, Any]:
    """Versions, commit, machine and time of a run, with the caller's `facts` (hashes, seed, device) beside them."""
    versions = {}
    for name in PACKAGES:
        versions[name] = importlib.metadata.version(name)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": versions,
        **facts,
    }


class Run:
    """One run folder, written by rank 0 only when several processes share the run.

    Parameters
    ----------
    folder : where the run lives.
    config : frozen dataclass (or mapping) of everything that changes numbers, and nothing that does not.

    Raises
    ------
    UserError : when `folder` holds something else, or a run with another configuration; the text names the difference.
    """

    def __init__(self, folder: Path, config: Any):
        self.folder = folder
        wanted = (
            dataclasses.asdict(config)
            if dataclasses.is_dataclass(config) and not isinstance(config, type)
            else dict(config)
        )
        self.config: dict[str, Any] = json.loads(json.dumps(wanted, default=str))
        path = folder / "config.json"
        if processes.rank() > 0:
            return
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path} is not readable JSON ({error}). Choose another --out, or remove that folder."
                ) from error
            keys = sorted(k for k in {*found, *self.config} if found.get(k) != self.config.get(k))
            if keys:
                differences = "; ".join(f"{k}: there {found.get(k)!r}, asked {self.config.get(k)!r}" for k in keys)
                raise UserError(
                    f"{folder} holds a run with another configuration ({differences}). "
                    "Choose another --out, or repeat the command with the configuration that is there."
                )
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not a run folder (it has no config.json). Choose another --out.")
        else:
            write_json(path, self.config)

    @property
    def finished(self) -> bool:
        """Whether the run has its `summary.json`."""
        return processes.agree((self.folder / "summary.json").exists())

    def finish(self, tables: dict[str, pd.DataFrame], summary: dict[str, Any]) -> None:
        """Write all tables, then `summary.json`, whose presence says that the run is finished."""
        for name, table in tables.items():
            self.table(f"{name}.csv", table)
        self.json("summary.json", summary)

    def json(self, name: str, value: Any) -> None:
        """Write `name` (a .json file) into the folder."""
        if processes.rank() == 0:
            write_json(self.folder / name, value)

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write `name` (a .csv file) into the folder."""
        if processes.rank() == 0:
            write_table(self.folder / name, table)
