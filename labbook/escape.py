"""One function per sink for text that we did not write: names of models, files, columns, series, headers,
messages of libraries.

| sink | function |
|---|---|
| a terminal | `plain` (control characters made visible) |
| rich markup, which `console.print` reads | `markup` |
| LaTeX source | `latex` |
| a BibTeX field | `bibtex` |
| a cell of a Markdown table | `cell` |
| a label of a Matplotlib figure | `mathtext` |
| text or an attribute of an HTML page | `html` |
| a value in a script of an HTML page | `script` |
"""

import html as pages
import json
import re
import unicodedata
from typing import Any

from rich.markup import escape

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
}


def plain(text: object) -> str:
    """`text` on one line, control and direction characters written out (ESC becomes \\x1b), so that none
    reaches a terminal.
    """

    def visible(character: str) -> str:
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return character
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")

    return "".join(map(visible, str(text)))


def markup(text: object) -> str:
    """`text` for `console.print`: neither control characters nor rich's own tags."""
    return escape(plain(text))


def latex(text: object) -> str:
    """`text` as literal LaTeX text: no character of it is a command."""
    return "".join(LATEX.get(character, character) for character in plain(text))


def bibtex(text: object) -> str:
    """`text` as the literal content of a BibTeX field; braces, which have to balance there, are left out."""
    return latex(re.sub(r"[{}]", "", plain(text)))


def cell(text: object) -> str:
    """`text` for one cell of a Markdown table: no column separator, no line break, no HTML."""
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", r"\|")


def mathtext(text: object) -> str:
    """`text` for a Matplotlib label: a dollar sign starts no formula."""
    return plain(text).replace("$", r"\$")


def html(text: object, *, lines: bool = False) -> str:
    """`text` between tags or in a quoted attribute of an HTML page; `lines` keeps line breaks."""
    parts = str(text).split("\n") if lines else [text]
    return "\n".join(pages.escape(plain(part)) for part in parts)


def script(value: Any) -> str:
    """`value` as a JavaScript expression inside a script element: JSON in which no tag begins or ends. Raises
    ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, allow_nan=False)  # ASCII only: no separator that ends a line of script
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
