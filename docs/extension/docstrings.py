"""Docstrings as they are written here, `name : what it is` under an underlined heading, for Sphinx."""

import re
from collections.abc import Iterator

from sphinx.application import Sphinx

ENTRY = re.compile(r"^(\S.*?) : (.*)$")


def fields(lines: list[str]) -> Iterator[str]:
    """`lines` with every underlined section as a list of its entries; what stands outside is left alone."""
    title, inside = None, False  # a section; one of its entries
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line and re.fullmatch("-{3,}", after) and len(after) == len(line):
            title, inside = line, False
            yield from ("", f".. rubric:: {title}", "")
        elif title and re.fullmatch("-{3,}", line):
            pass
        elif title and not line.startswith(">>>") and (entry := ENTRY.match(line)):
            inside = True
            names = ", ".join(f"``{name}``" for name in entry[1].split(", "))
            yield from ("", f"* {names}: {entry[2]}")
        elif inside and line:
            yield "  " + line.strip()
        else:
            yield line


def convert(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    lines[:] = list(fields(list(lines)))


def setup(app: Sphinx) -> None:
    """Listen for docstrings."""
    app.connect("autodoc-process-docstring", convert)
