"""What the user sees: messages, progress with time left, and errors that say what to do.

What a command says names its flags (`--tokens`); inside `keywords`, as the Python interface calls the same
code, it is put as Python writes them (`tokens=`).

A command wraps its body in `guarded`, so a `UserError` ends it with one paragraph and exit code 2, Ctrl-C and
SIGTERM end it, at the next point where the state is whole, with the way to resume. A full disk, refused
memory and refused paths are named as such. Nothing else is caught: a bug keeps its traceback.
"""

import errno
import inspect
import os
import re
import signal
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from labbook.escape import markup

# a terminal says how many columns it has, and so may COLUMNS; a pipe or a file takes any number
sized = sys.stdout.isatty() or "COLUMNS" in os.environ
console = Console(soft_wrap=True, highlight=False, width=None if sized else 120)
errors = Console(stderr=True, soft_wrap=True, highlight=False)
# columns of a terminal below which a bar is short, so that what it is of stays readable
NARROW = 100
# key of a provenance that holds what `call_of` says
CALL = "call"


class UserError(Exception):
    """A request that cannot be met. The text says what was asked, what is available, and which flag to
    change.
    """


class _Speech:
    """Whether what is said is read by somebody who wrote Python and no command line."""

    python = False


FLAG = re.compile(
    # but not of pip, which has no keywords
    r"(?<!pip install )(?<![\w-])--(?P<name>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?![\w>-])"
    # a value that stands behind it: a number, a tuple, a list, something quoted, a constant of Python, or one
    # of the words that are values
    r"(?: (?P<value>-?\d+(?:\.\d+)?(?:e[-+]?\d+)?\b|\([^():]*,[^():]*\)|\[[^\[\]]*\]|'[^']*'|"
    r"(?:None|True|False)\b|"
    r"(?P<word>auto|yes|no|lines|documents|cpu|float32|bfloat16|float16|float64)\b))?"
)
# the positional argument, but not in random:MODEL, which Python writes like the command line
POSITIONAL = re.compile(r"(?<![:\w])MODEL\b")


def in_python(text: str) -> str:
    """`text` with flags as keywords: `--eval-tokens 5` becomes `eval_tokens=5`, `--bos no` becomes
    `bos='no'`.
    """

    def keyword(found: re.Match[str]) -> str:
        value = found["value"] or ""
        return f"{found['name'].replace('-', '_')}={repr(value) if found['word'] else value}"

    return POSITIONAL.sub("model=", FLAG.sub(keyword, text))


@contextmanager
def keywords() -> Iterator[None]:
    """Inside, every choice, warning and `UserError` names keywords of Python where it would name flags."""
    before, _Speech.python = _Speech.python, True
    try:
        yield
    except UserError as error:
        error.args = (in_python(str(error)),)
        raise
    finally:
        _Speech.python = before


def worded(text: object) -> str:
    """`text` with flags, or inside `keywords` with the keywords of Python that they are there."""
    return in_python(str(text)) if _Speech.python else str(text)


def call_of(function: Callable[..., Any], asked: Mapping[str, Any], objects: Collection[str]) -> str:
    """The Python call that makes a run again, with a new folder; empty where nothing in it is an object.

    Parameters
    ----------
    function : a public function.
    asked : its arguments by name. Those that have their default value are left out.
    objects : the arguments that no command line can name; they stand by their own names.
    """
    if not objects:
        return ""
    said = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = asked[name]
        if name in objects:
            said.append(f"{name}={name}")
        elif name == "out":
            said.append("out='again'")
        elif repr(value) != repr(parameter.default):  # arrays compare by element
            said.append(f"{name}={(str(value) if isinstance(value, Path) else value)!r}")
    return f"{function.__name__}({', '.join(said)})"


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after the state was saved. The text says how to go on."""


def literal(text: object) -> str:
    """`text` as one paragraph of literal text for `print`: names and messages of others hold neither markup
    nor control characters.
    """
    return markup(re.sub(r"\s+", " ", str(text)).strip())


def counted(number: int, noun: str) -> str:
    """`1 document`, `2 documents`, `10,000 documents`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def choice(name: str, value: object, reason: str) -> None:
    """Print an automatic choice with its reason, so that no default stays hidden."""
    console.print(f"[dim]{literal(name)}[/dim] {literal(value)} [dim]({literal(worded(reason))})[/dim]")


def warn(text: str) -> None:
    """Print a warning on standard error; it never stops a run."""
    errors.print(f"[yellow]warning:[/yellow] {literal(worded(text))}")


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar with elapsed and remaining time. Yields `advance(steps=1, note="")`."""
    outer = _Stages.current
    if outer is not None:
        with outer.stage(description, total, done) as advance:
            yield advance
        return
    with Progress(*_columns(), console=errors, disable=console.quiet) as bar:
        task = bar.add_task(literal(description), total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=literal(note))

        yield advance


class _Short(TextColumn):
    """Text that gives way where the terminal is narrow: cut with an ellipsis, never on a second line."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _Times(ProgressColumn):
    """Time that has passed and time that is left, hours only where there are some."""

    def render(self, task: Task) -> Text:
        passed = task.finished_time if task.finished else task.elapsed
        return Text(f"{_clock(passed)}, {_clock(task.time_remaining)} left", style="progress.remaining")


def _clock(seconds: float | None) -> str:
    """`1:05`, `2:00:05`, or dashes where it is not known."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _columns() -> tuple[ProgressColumn, ...]:
    """What is done, on a second line where it is long, count and times keep their width; bar and note share
    what is left.
    """

    def kept() -> Column:
        return Column(no_wrap=True)

    narrow = errors.width < NARROW
    return (
        TextColumn("{task.description}", table_column=Column(min_width=24, overflow="fold")),
        BarColumn(bar_width=None, table_column=Column(min_width=4, max_width=8 if narrow else 24)),
        MofNCompleteColumn(table_column=kept()),
        _Times(table_column=kept()),
        _Short("{task.fields[note]}", table_column=Column()),
    )


class _Stages:
    """A run of several stages: one bar for all of them, above that of the current one."""

    current: ClassVar["_Stages | None"] = None

    def __init__(self, bar: Progress, description: str, total: int):
        self.bar, self.total = bar, total
        self.whole = bar.add_task(literal(description), total=total, note="stages")
        self.ended = 0

    @contextmanager
    def stage(self, description: str, total: int, done: int) -> Iterator[Callable[..., None]]:
        """The bar of one stage; the bar of all moves with it."""
        task = self.bar.add_task(literal(description), total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            self.bar.update(task, advance=steps, note=literal(note))
            part = self.bar.tasks[self.bar.task_ids.index(task)].percentage / 100
            self.bar.update(self.whole, completed=min(self.total, round(self.ended + part, 1)))

        try:
            yield advance
        finally:
            self.bar.remove_task(task)
        self.ended += 1
        self.bar.update(self.whole, completed=min(self.total, self.ended))


@contextmanager
def stages(description: str, total: int) -> Iterator[None]:
    """Inside, every `progress` is a stage of `total`, and a bar over all of them says how far the run is.

    The time left of all takes the stages for equally long. Stages that turn out not to be needed count as
    done at the end.
    """
    with Progress(*_columns(), console=errors, disable=console.quiet) as bar:
        _Stages.current = _Stages(bar, description, total)
        try:
            yield
            bar.update(_Stages.current.whole, completed=total)
        finally:
            _Stages.current = None


class _Signals:
    """Whether Ctrl-C or SIGTERM was received; loops ask at points where their state is whole."""

    received = False


def stopping() -> bool:
    """True once a command was asked to stop: save the state and raise `Interrupted`."""
    return _Signals.received


@contextmanager
def terminable() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM only ask for a stop, so that no update is cut in half; the second one
    ends at once.
    """

    def ask(signum: int, frame: types.FrameType | None) -> None:
        if _Signals.received:
            raise KeyboardInterrupt
        _Signals.received = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _Signals.received = False
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def at_once() -> Iterator[None]:
    """Inside `guarded`: the first Ctrl-C or SIGTERM ends the command, for work that has no state worth
    saving.
    """

    def end(signum: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt("No result was written; repeat the same command.")

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exhausted(error: BaseException) -> str | None:
    """Which of disk and memory ran out, with the way on, where `error` says so; None for everything else.

    Libraries report both in classes of their own, with the system's words in the text; NumPy only says how
    much it wrote.
    """
    text = str(error)
    place = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
    short = isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", text)
    if short or _number(error) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return (
            f"no space left on the device{place or ' while writing a result'}. What was written before is "
            "complete and readable; free some space or choose another --out, then run again."
        )
    refused = "allocate memory" in text or "can't start new thread" in text
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or refused:
        return (
            f"out of memory ({type(error).__name__}: {text or 'no message'}). Use smaller batches or a "
            "shorter text, or a machine with more memory; the same command with the same folder goes on "
            "where it stopped."
        )
    return None


def _number(error: BaseException) -> int | None:
    """The system's number of an error; libraries in Rust quote it."""
    quoted = re.search(r"\(os error (\d+)\)", str(error))
    return error.errno if isinstance(error, OSError) else int(quoted.group(1)) if quoted else None


# What the file system answers to a path that it cannot serve: no permission, read-only, no such or not a
# folder, a loop of links, too long.
REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


def guarded(body: Callable[[], None]) -> None:
    """Run a command body; exit with 2 on a `UserError` or when disk, memory or a path is refused, and with
    130 when interrupted.
    """
    try:
        with terminable():
            body()
    except UserError as error:
        errors.print(f"[red]error:[/red] {literal(error)}")
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        errors.print(f"interrupted. {literal(stop)}")
        sys.exit(130)
    except Exception as error:
        message = exhausted(error)
        if message is None and _number(error) in REFUSALS:
            message = f"{error}. Check the path and its permissions, or choose another --out."
        if message is None:
            raise
        errors.print(f"[red]error:[/red] {literal(message)}")
        sys.exit(2)
