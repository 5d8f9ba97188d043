"""One case, run and judged."""

import faulthandler
import io
import signal
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labbook.console import guarded

OUTCOMES = ("clear error", "fine", "traceback", "hang", "silently wrong")
# the first two are how a case may end
FAULTS = OUTCOMES[2:]
SECONDS = 20
Right = Callable[[object], bool]


@dataclass(frozen=True)
class Case:
    """A mutated input.

    Attributes
    ----------
    kind : of input, a row of the table.
    mutation : what was done to it.
    read : what the project makes of it; a comparable result.
    right : whether a result is right; None when the input has to be refused.
    whole : whether nothing was damaged, so that an error would be a needless refusal.
    """

    kind: str
    mutation: str
    read: Callable[[], object]
    right: Right | None
    whole: bool = False


@dataclass(frozen=True)
class Verdict:
    """How a case ended, with what was printed or raised."""

    case: Case
    outcome: str
    detail: str

    @property
    def needless(self) -> bool:
        """Whether sound input was refused."""
        return self.case.whole and self.outcome == "clear error"


class Hang(BaseException):
    """The time of a case is up; no `except Exception` of a library may take it for an error."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `Hang` after `seconds`; where Python cannot be interrupted, end the process with its stack."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(10 * seconds, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def judge(case: Case, seconds: int = SECONDS) -> Verdict:
    """Run a case as a command would, and say how it ended."""
    said, found = io.StringIO(), []
    try:
        with limited(seconds), redirect_stdout(io.StringIO()), redirect_stderr(said):
            guarded(lambda: found.append(case.read()))
    except Hang:
        return Verdict(case, "hang", f"no end after {seconds} s")
    except SystemExit as stop:
        # progress bars and warnings stand before the error, on lines of their own
        _, mark, text = said.getvalue().rpartition("error: ")
        if stop.code == 2 and mark and "\n" not in text.strip() and "Traceback" not in said.getvalue():
            return Verdict(case, "clear error", text.strip())
        return Verdict(case, "traceback", f"exit {stop.code}: {said.getvalue()}")
    except BaseException:
        return Verdict(case, "traceback", traceback.format_exc())
    if case.right is None:
        return Verdict(case, "silently wrong", "accepted, and should have been refused")
    if not case.right(found[0]):
        return Verdict(case, "silently wrong", "the result is not what the input says")
    return Verdict(case, "fine", "")


def equal(wanted: object) -> Right:
    """Whether a result equals `wanted`, bit for bit."""
    return lambda found: _same(found, wanted)


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


def damaged(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """`data` with one random fault, and its name."""
    place = int(rng.integers(len(data)))
    fault = str(rng.choice(["bit", "byte", "cut", "drop", "insert", "zeros", "swap"]))
    if fault == "bit":
        changed = data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
    elif fault == "byte":
        changed = data[:place] + rng.bytes(1) + data[place + 1 :]
    elif fault == "cut":
        changed = data[:place]
    elif fault == "drop":
        changed = data[:place] + data[place + int(rng.integers(1, 9)) :]
    elif fault == "insert":
        changed = data[:place] + rng.bytes(int(rng.integers(1, 9))) + data[place:]
    elif fault == "zeros":
        n = min(int(rng.integers(1, 65)), len(data) - place)
        changed = data[:place] + bytes(n) + data[place + n :]
    else:
        other = int(rng.integers(len(data)))
        first, last = sorted((place, other))
        changed = data[last:] + data[first:last] + data[:first]
    return f"{fault} at {place}", changed


def damage(path: Path, rng: np.random.Generator) -> str:
    """Give a file one random fault; its name."""
    fault, changed = damaged(path.read_bytes(), rng)
    path.write_bytes(changed)
    return f"{path.name}: {fault}"
