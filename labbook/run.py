"""A run is a folder: `config.json`, `provenance.json`, tidy tables, `summary.json`.

Files are replaced atomically, so a folder is readable at any moment: a killed run or a full disk leaves the
last complete version of every file. `summary.json` is written last; its presence means that the run is
finished.
"""

import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import secrets
import subprocess
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import pandas as pd

from labbook import processes
from labbook.console import REFUSALS, UserError, warn

if TYPE_CHECKING:
    import torch  # takes seconds to import: only what handles tensors waits for it

# Keys of the metadata that save_tensors adds, and of the summary that Run.finish adds.
CHECKSUM, BELONGS, CHECKSUMS = "sha256", "belongs", "sha256"
# Key of a summary that holds the checksum of everything else in it.
SEAL = "checksum"
# It begins so, wherever it stands: a summary whose key SEAL was damaged is none without a checksum.
SEALED = "SHA-256 of everything else: "
Summary = TypeVar("Summary")
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "pandas")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `path` and move it into place at the end; on any error `path` stays as
    it was.

    The name of the new file is random and it is opened exclusively, so that two writers never share one and
    no planted link is followed.

    Raises UserError where the place cannot be written to (permission, read-only, below a file, a dangling
    link, too long a name).
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield partial
        try:
            partial.replace(path)
        except OSError as error:
            raise _refused(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> Exception:
    """The error to raise when `path` cannot be written: a UserError for what another --out mends."""
    if error.errno not in REFUSALS:
        return error
    reason = error.strerror
    with suppress(OSError):  # too long a name cannot even be asked about
        for parent in (path, *path.parents):
            if parent.is_symlink() and not parent.exists():
                reason = f"{parent} is a link to nothing"
            elif parent != path and parent.exists() and not parent.is_dir():
                reason = f"{parent} is a file"
    return UserError(f"{path} cannot be written ({reason}). Choose another --out.")


def defined(value: Any) -> Any:
    """`value` with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: defined(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [defined(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, at full float precision; what is not defined (NaN, infinity) is null."""
    text = json.dumps(defined(value), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV atomically, at full float precision."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False)


def checksum(tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and values of all tensors, and over the metadata."""
    import torch

    def parts() -> Iterator[bytes]:
        yield json.dumps(sorted(metadata.items())).encode()
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()

    return digest(parts())


def save_tensors(
    path: Path, tensors: "dict[str, torch.Tensor]", metadata: dict[str, str], belongs: str | None = None
) -> None:
    """Write tensors as safetensors, atomically, with a checksum of the contents and what they belong to (see
    `owner`).

    Raises UserError where `path` cannot be written, OSError (ENOSPC) when the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    about = metadata if belongs is None else metadata | {BELONGS: belongs}
    with replacing(path) as partial:
        allowed = partial.stat().st_mode & 0o777
        try:
            save_file(tensors, partial, about | {CHECKSUM: checksum(tensors, about)})
            # safetensors puts a file of its own there, which nobody else may read
            partial.chmod(allowed)
        except SafetensorError as error:  # safetensors reports a full disk as its own error
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def readable(folder: Path) -> None:
    """Let everybody read the safetensors files in `folder` whom the umask lets read other files: what writes
    them for a library makes them private.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def load_tensors(path: Path, belongs: str | None = None) -> "tuple[dict[str, torch.Tensor], dict[str, str]]":
    """Read what `save_tensors` wrote: tensors, and the metadata that it was given.

    Raises UserError when the file is damaged, when its contents differ from their checksum, and, where
    `belongs` is given, when it belongs to something else or does not say to what.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            about = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or is not a safetensors file ({error}). Remove it to start again, or restore "
            "it from a copy."
        ) from error
    stated = about.pop(CHECKSUM, None)
    if stated is not None and stated != checksum(tensors, about):
        raise UserError(
            f"{path} is damaged: its contents are not those of its checksum. Remove it to start again, or "
            "restore it from a copy."
        )
    found = about.pop(BELONGS, None)
    if belongs is not None and (found != belongs or stated is None):
        raise UserError(
            f"{path} belongs to another run or another part of this one: its contents would not fit the "
            "configuration here. Remove it to start again, or choose another --out."
        )
    return tensors, about


def owner(path: Path) -> str:
    """What a file inside a run folder belongs to: SHA-256 over the configuration of the run and the file's
    place in its folder.
    """
    for folder in path.parents:
        config = folder / "config.json"
        if config.is_file():
            return digest([config.read_bytes(), path.relative_to(folder).as_posix().encode()])
    return digest([path.name.encode()])


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of json: an object. Raises ValueError when it holds a name twice, of which json
    would keep the last.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice in one object"
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError, naming the file, when it is damaged or holds something
    else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unrepeated)
    except (ValueError, RecursionError, OSError) as error:  # JSON's and UTF-8's own errors are ValueErrors
        raise UserError(
            f"{path} is not readable JSON ({error}). Restore it from a copy, choose another --out, or remove "
            "that folder."
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"{path} holds a {type(found).__name__} and no JSON object. Restore it from a copy, choose "
            "another --out, or remove that folder."
        )
    return found


def _content(summary: Mapping[str, Any]) -> str:
    """SHA-256 of a summary as it is read again, without its own checksum."""
    rest = {key: value for key, value in summary.items() if key != SEAL}
    written = json.loads(json.dumps(defined(rest), default=str))
    return SEALED + digest([json.dumps(written, sort_keys=True).encode()])


def sealed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with a checksum of its content, which `opened` compares."""
    return {**summary, SEAL: _content(summary)}


def opened(summary: dict[str, Any], path: Path) -> dict[str, Any]:
    """The summary without its checksum. Raises UserError, naming the file, when its content is not that of
    the checksum.

    Summaries of older runs have none.
    """
    elsewhere = any(isinstance(v, str) and v.startswith(SEALED) for k, v in summary.items() if k != SEAL)
    if elsewhere or summary.get(SEAL, _content(summary)) != _content(summary):
        raise UserError(
            f"{path} is not the summary that this run wrote: it was changed or is damaged. Restore it from a "
            "copy, or remove it and run again."
        )
    return {key: value for key, value in summary.items() if key != SEAL}


def read_table(path: Path) -> pd.DataFrame:
    """A table from a CSV file. Raises UserError, naming the file, when it is damaged."""
    try:
        return pd.read_csv(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:  # empty, ragged, not UTF-8
        raise UserError(
            f"{path} is not a readable table ({error}). Restore it from a copy, or remove the run's "
            "summary.json and run again."
        ) from error


def check_files(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of the run in `folder` without the checksums of the run's files, which are compared.

    Raises UserError, naming the file, when one is missing or is not what the summary was written with.
    """
    for name, stated in summary.get(CHECKSUMS, {}).items():
        path = folder / Path(name).name
        if not path.is_file() or stated != digest([path.read_bytes()]):
            raise UserError(
                f"{path} is not the {'configuration' if path.suffix == '.json' else 'table'} that this run "
                "wrote: it was changed, or comes from another run. Restore it from a copy, or remove the "
                "run's summary.json and run again."
            )
    return {key: value for key, value in summary.items() if key != CHECKSUMS}


def read_finished(
    folder: Path, tables: Iterable[str], kind: str
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Summary and tables of a finished run.

    Raises UserError when `folder` is not a finished run of that kind, when a file is damaged, and when a
    table is not the one that the summary was written with.
    """
    names = {name: folder / f"{name}.csv" for name in tables}
    missing = [path.name for path in (folder / "summary.json", *names.values()) if not path.is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a finished {kind} run (no {', '.join(missing)}). Finish it with --resume, or "
            "name another folder."
        )
    summary = check_files(folder, opened(read_json(folder / "summary.json"), folder / "summary.json"))
    return summary, {name: read_table(path) for name, path in names.items()}


def typed(read: Callable[[dict[str, Any]], Summary], summary: dict[str, Any], folder: Path) -> Summary:
    """The summary of the run in `folder` as `read` makes it. Raises UserError where it lacks a part."""
    try:
        return read(summary)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / 'summary.json'} lacks what this version reads ({type(error).__name__}: {error}). "
            "Make the run again."
        ) from error


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
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(status, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def provenance(**facts: Any) -> dict[str, Any]:
    """Versions, commit, machine and time of a run, with the caller's `facts` (hashes, seed, device) beside
    them.
    """
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


def require_same(
    folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Raise UserError where the configuration that `folder` holds differs from that asked for in one of
    `keys`; the text names each.
    """
    differences = "; ".join(
        f"{k}: there {found.get(k)!r}, asked {asked.get(k)!r}"
        for k in sorted(keys)
        if found.get(k) != asked.get(k)
    )
    if differences:
        raise UserError(
            f"{folder} holds a run with another configuration ({differences}). "
            "Choose another --out, or repeat the command with the configuration that is there."
        )


def _begun(folder: Path) -> bool:
    """Whether `folder` holds a run already. Raises UserError where it holds something else, or cannot be
    looked at.
    """
    path = folder / "config.json"
    try:
        there, occupied = path.exists(), folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise _refused(path, error) from error
    if occupied and not there:
        raise UserError(
            f"{folder} exists and is not a run folder (it has no config.json). Choose another --out."
        )
    return there


def unused(name: str) -> Path:
    """`runs/<name>-<time>`, with a number behind it where another run of this second has taken it."""
    first = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    others = (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))
    return next(folder for folder in itertools.chain([first], others) if not folder.exists())


def require_place(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raise UserError where `folder` cannot become the run of `asked`, the part of its configuration that is
    known before anything heavy is loaded.

    `Run` compares all of it later; what it would refuse after minutes of loading is refused here at once.
    """
    if _begun(folder):
        require_same(folder, read_json(folder / "config.json"), asked, asked)


class Busy(UserError):
    """Another process writes into the run folder."""


class _Lock:
    """An exclusive lock on a run folder, for as long as somebody in this process holds this object.

    It is the system's lock (flock) on the folder itself: it leaves no file, and it is gone when its process
    is killed.
    """

    held: ClassVar[WeakValueDictionary[tuple[int, int], "_Lock"]] = WeakValueDictionary()

    def __init__(self, folder: Path):
        self.handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self.handle)
            raise Busy(
                f"{folder} is being written by another process. Wait until that run ends, stop it, or choose "
                "another --out."
            ) from error
        except OSError as error:  # some network file systems lock no folders
            warn(f"{folder} cannot be locked ({error.strerror}): start no second run with the same --out.")
        weakref.finalize(self, os.close, self.handle)

    @classmethod
    def of(cls, folder: Path) -> "_Lock":
        """The lock of `folder`, which several parts of this process may hold. Raises Busy (a UserError) when
        another process has it.
        """
        try:
            status = folder.stat()
            key = (status.st_dev, status.st_ino)
            lock = cls.held.get(key)
            if lock is None:
                lock = cls.held[key] = cls(folder)
        except OSError as error:
            raise _refused(folder, error) from error
        return lock


class Run:
    """One run folder, written by rank 0 only when several processes share the run.

    Parameters
    ----------
    folder : where the run lives.
    config : frozen dataclass (or mapping) of everything that changes numbers, and nothing that does not.

    Raises
    ------
    UserError : when `folder` holds something else, or a run with another configuration (the text names the
        difference), when another process is writing into it, and when it cannot be written.
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
        there = _begun(folder)
        if there:
            found = read_json(path)
            require_same(folder, found, self.config, {*found, *self.config})
        else:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _refused(folder, error) from error
        if not (folder / "summary.json").exists():
            self._lock = _Lock.of(folder)
        if not there:
            write_json(path, self.config)

    @property
    def finished(self) -> bool:
        """Whether the run has its `summary.json`."""
        return processes.agree((self.folder / "summary.json").exists())

    def finish(self, tables: dict[str, pd.DataFrame], summary: dict[str, Any]) -> None:
        """Write all tables, then `summary.json` with their checksums, whose presence says that the run is
        finished.
        """
        for name, table in tables.items():
            self.table(f"{name}.csv", table)
        self.json("summary.json", self.sealed_with(tables, summary))

    def sealed_with(self, tables: Iterable[str], summary: Mapping[str, Any]) -> dict[str, Any]:
        """A summary with the checksums of the configuration and of written tables, and its own."""
        files = [self.folder / "config.json", *(self.folder / f"{name}.csv" for name in tables)]
        sums = {p.name: digest([p.read_bytes()]) for p in files if processes.rank() == 0 and p.is_file()}
        return sealed({**summary, CHECKSUMS: sums})

    def json(self, name: str, value: Any) -> None:
        """Write `name` (a .json file) into the folder."""
        if processes.rank() == 0:
            write_json(self.folder / name, value)

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write `name` (a .csv file) into the folder."""
        if processes.rank() == 0:
            write_table(self.folder / name, table)
