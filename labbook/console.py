"""What the user sees: messages, progress with time left, and errors that say what to do.

A command wraps its body in `guarded`, so a `UserError` ends it with one paragraph and exit code 2, Ctrl-C and
SIGTERM end it with the way to resume, and a full disk is named as such. Nothing else is caught: a bug keeps its traceback.
"""

import errno
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(soft_wrap=True, highlight=False)
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
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that a killed run saves its state the way Ctrl-C does."""

    def stop(signum: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def guarded(body: Callable[[], None]) -> None:
    """Run a command body; exit with 2 on a `UserError` or a full disk, and with 130 when interrupted."""
    try:
        with terminable():
            body()
    except UserError as error:
        errors.print(f"[red]error:[/red] {error}", markup=True)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        errors.print(f"interrupted. {stop or 'Nothing was finished yet; run the same command again.'}")
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        errors.print(
            f"[red]error:[/red] no space left on the device while writing {error.filename or 'a result'}. "
            "What was written before is complete and readable; free some space or choose another --out, then run again."
        )
        sys.exit(2)
