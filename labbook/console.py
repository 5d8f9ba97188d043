"""What the user sees: messages, progress with time left, and errors that say what to do.

A command wraps its body in `guarded`, so a `UserError` ends it with one paragraph and exit code 2, Ctrl-C and
SIGTERM end it, at the next point where the state is whole, with the way to resume, and a full disk is named as such. Nothing else is caught: a bug keeps its traceback.
"""

import errno
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# tables need about 110 columns; a terminal says how many it has, a pipe or a file takes any number
console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True, soft_wrap=True, highlight=False)


class UserError(Exception):
    """A request that cannot be met. The text says what was asked, what is available, and which flag to change."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after the state was saved. The text says how to go on."""


def choice(name: str, value: object, reason: str) -> None:
    """Print an automatic choice with its reason, so that no default stays hidden."""
    console.print(f"[dim]{name}[/dim] {value} [dim]({reason})[/dim]")


def warn(text: str) -> None:
    """Print a warning on standard error; it never stops a run."""
    errors.print(f"[yellow]warning:[/yellow] {text}")


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar with elapsed and remaining time. Yields `advance(steps=1, note="")`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=errors, disable=console.quiet) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


class _Signals:
    """Whether Ctrl-C or SIGTERM was received; loops ask at points where their state is whole."""

    received = False


def stopping() -> bool:
    """True once a command was asked to stop: save the state and raise `Interrupted`."""
    return _Signals.received


@contextmanager
def terminable() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM only ask for a stop, so that no update is cut in half; the second one ends at once."""

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


def guarded(body: Callable[[], None]) -> None:
    """Run a command body; exit with 2 on a `UserError` or a full disk, and with 130 when interrupted."""
    try:
        with terminable():
            body()
    except UserError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        errors.print(f"interrupted. {stop}")
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        errors.print(
            f"[red]error:[/red] no space left on the device while writing {error.filename or 'a result'}. "
            "What was written before is complete and readable; free some space or choose another --out, then run again."
        )
        sys.exit(2)
