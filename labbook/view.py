"""Tables on a terminal: as wide as it is, with no number cut.

A table that is too wide for one line a row has its intervals on a second line; one that is too wide even then
is shown in parts, each with the names of the rows in front.
"""

import re
import textwrap
from collections.abc import Sequence

from rich import box
from rich.table import Table

from labbook.console import console
from labbook.escape import markup, plain

# what `box.SIMPLE` puts around a column, and around all of them
AROUND, EDGES = 3, 1
# lines of a verdict before the tables
MOST = 5
# columns of a cell of words where there is little room
WORDS = 32


def print_verdict(sentences: Sequence[str]) -> None:
    """Print what was found in at most MOST lines of 80 columns: the first sentence, and of the others as many
    as they hold.
    """
    lines: list[str] = []
    for sentence in sentences:
        wrapped = _wrapped(sentence)
        if lines and len(lines) + len(wrapped) > MOST:
            break
        lines += wrapped
    console.print("\n".join(map(markup, lines)))


def print_words(text: str) -> None:
    """Print a paragraph of plain text with its lines broken between words."""
    console.print("\n".join(map(markup, _wrapped(text))))


def _wrapped(text: str) -> list[str]:
    # an interval stays on one line
    whole = re.sub(r"\[[^\[\]]{1,24}\]", lambda found: found.group().replace(" ", "\0"), plain(text))
    lines = textwrap.wrap(whole, console.width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def print_table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str] | None], *, left: int = 1
) -> None:
    """Print a table that fits the terminal.

    Parameters
    ----------
    title, heads : words, wrapped where they do not fit.
    rows : cells, `estimate [lower, upper]` among them, of one line or several; None draws a line.
    left : how many columns hold words and stand to the left. The first column is in front of every part.
    """
    shown = [None if row is None else list(map(_plain, row)) for row in rows]
    if _width(heads, shown) > console.width:
        shown = [None if row is None else [*map(_narrow, row)] for row in shown]
    for number, places in enumerate(_parts(heads, shown)):
        # explanations after the first sentence stand once
        about = f"{title.split('. ')[0]} (continued)" if number else title
        said = textwrap.wrap(plain(about), console.width)
        table = Table(box=box.SIMPLE, title="\n".join(map(markup, said)), title_justify="left")
        for place in places:
            head = textwrap.wrap(heads[place], _column(heads, shown, place), break_long_words=False)
            table.add_column(
                "\n".join(map(markup, head)), justify="left" if place < left else "right", no_wrap=True
            )
        for row in shown:
            if row is None:
                table.add_section()
            else:
                table.add_row(*("\n".join(map(markup, row[place].split("\n"))) for place in places))
        console.print(table)


def _plain(cell: str) -> str:
    return "\n".join(map(plain, cell.split("\n")))


def _narrow(cell: str) -> str:
    """A cell with its interval on a second line, and words on as many as they need."""
    lines = cell.replace(" [", "\n[").split("\n")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WORDS, break_long_words=False))


Rows = Sequence[Sequence[str] | None]


def _column(heads: Sequence[str], rows: Rows, place: int) -> int:
    """The width of a column: of its longest line, and of the longest word over it."""
    lines = (line for row in rows if row is not None for line in row[place].split("\n"))
    return max(map(len, (*heads[place].split(), *lines)), default=1)


def _width(heads: Sequence[str], rows: Rows) -> int:
    return sum(_column(heads, rows, place) + AROUND for place in range(len(heads))) + EDGES


def _parts(heads: Sequence[str], rows: Rows) -> list[list[int]]:
    """The columns of every part: the first, and of the others as many as fit."""
    start = _column(heads, rows, 0) + AROUND + EDGES
    parts, width = [[0]], start
    for place in range(1, len(heads)):
        own = _column(heads, rows, place) + AROUND
        if width + own > console.width and len(parts[-1]) > 1:
            parts.append([0])
            width = start
        parts[-1].append(place)
        width += own
    return parts
