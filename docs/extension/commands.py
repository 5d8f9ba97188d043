"""Every command's options, from the parser that the command itself uses."""

import importlib
import re
import warnings
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import tyro
from docutils import nodes
from sphinx.application import Sphinx

from extension.filled import FilledIn

ROOT = Path(__file__).parents[2]


class Asked(Exception):
    """Stands for a parsed command line; holds what tyro was asked to parse."""


def _ask(command: Any, default: Any = None, prog: str = "", description: str | None = None, **_: Any) -> None:
    raise Asked(command, default, prog, description)


def commands(package: str) -> list[str]:
    """Modules of a package that are commands."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in files if "\ndef main(" in p.read_text()
    ]
    assert names, f"{package} holds no command"
    return names


def parser(module: str) -> ArgumentParser:
    """The parser that tyro builds for the command in `module`."""
    with mock.patch.object(tyro, "cli", _ask):
        try:
            importlib.import_module(module).main([])
        except Asked as asked:
            command, default, prog, description = asked.args
        else:
            raise AssertionError(f"{module}.main asks tyro for nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro would have its own completion used instead
        return tyro.extras.get_parser(
            command, prog=prog, description=description, **({} if default is None else {"default": default})
        )


def literal(text: str) -> str:
    """Help text as Markdown: names in backticks stay code, everything else is shown as it is written."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_{}\[\]<>#|$~])", r"\\\1", p) for p in parts)


def option(action: Action) -> Iterator[str]:
    """A term and its definition."""
    value = action.metavar if isinstance(action.metavar, str) else ""
    text, _, default = (action.help or "").partition(" (default: ")
    # {None}|INT: a number, or nothing, in which case the text says what happens
    value = value.replace("{None}|", "")
    name = action.option_strings[0] if action.option_strings else action.dest.split(".")[-1].upper()
    yield f"`{name} {value if action.option_strings else ''}".strip() + "`"
    known = default.removesuffix(")")
    # where nothing is the default the text says what then happens
    shown = f" Default: `{known}`." if known and known != "None" else ""
    yield f":   {literal(text)}{shown}"
    yield ""


class Commands(FilledIn):
    """The options of every command of a package: ```{commands} redundancy```."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """One section a command."""
        lines: list[str] = []
        for module in commands(self.arguments[0]):
            self.env.note_dependency(str(ROOT / Path(*module.split(".")).with_suffix(".py")))
            found = parser(module)
            lines += [f"### {module.removesuffix('.__main__')}", ""]
            about, *sketch = (found.description or "").strip().split("\n\n", 1)
            lines += [literal(about), ""]
            if sketch:
                lines += ["```text", sketch[0].strip("\n"), "```", ""]
            lines += ["```text", found.prog, "```", ""]
            for group in found._action_groups:
                actions = [a for a in group._group_actions if "--help" not in a.option_strings]
                if not actions:
                    continue
                title = (group.description or group.title or "options").strip()
                lines += [f"*{literal(title).rstrip('.:')}*", ""]
                for action in actions:
                    lines += option(action)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("commands", Commands)
