"""Text that is not ours reaches each sink as text: nothing in it is a command there."""

import re

import matplotlib.pyplot as plt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from labbook import escape

HOSTILE = (
    "o[red]x",
    "[/dim]",
    "a\x1b[31mb",
    "a\nb\u2028c",
    r"\write18{ls}",
    "50 % & {x",
    "a|b",
    "$\\bad{$",
    "\u202eabc",
    "\\[b]",
    "\ud800",
)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_no_control_character_is_left(text):
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", escape.plain(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_is_printed_as_it_stands(text):
    console = Console(force_terminal=False, width=200)
    with console.capture() as seen:
        console.print(escape.markup(text), highlight=False)
    assert seen.get().rstrip("\n") == escape.plain(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_holds_no_command_but_its_own(text):
    left = escape.latex(text)
    for written in sorted(escape.LATEX.values(), key=len, reverse=True):
        left = left.replace(written, "")
    assert not set(left) & set("\\{}$&#%_^~")


def test_bibtex_braces_balance_and_cells_stay_cells():
    assert escape.bibtex("a{b & c}") == r"ab \& c"
    assert escape.cell("a|b\nc<br>") == r"a\|b\nc&lt;br>"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_figure_shows_it(text):
    figure, axes = plt.subplots()
    axes.set_title(escape.mathtext(text))
    figure.canvas.draw()
    plt.close(figure)
