"""The command line of every command: parse, guard, do the work, and print last where the result lies."""

import argparse
import dataclasses
import itertools
import json
import re
import shutil
import sys
import textwrap
import types
import typing
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tyro

from labbook import __version__
from labbook.console import CALL, UserError, console, guarded, literal
from labbook.escape import markup

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Output:
    """What is printed."""

    quiet: bool = False
    """Print nothing on standard output but where the result lies."""
    version: bool = False
    """Print the version and end."""


@dataclass(frozen=True)
class RunOutput(Output):
    """What is printed by a command that leaves a run folder, and the run that it repeats."""

    json: bool = False
    """Print nothing on standard output but summary.json (of several seeds, an object of them by folder)."""
    config: Path | None = None
    """The config.json of a run to repeat: its values are the defaults, and the other options override them.
    """


@dataclass(frozen=True)
class Start:
    """Where parsing begins: the command's `config` by default, the arguments left, what follows `prog`."""

    config: Any
    rest: list[str]
    usage: str = ""


@dataclass(frozen=True)
class Repeat:
    """What a `config.json` of a command holds beside the fields of its `config`.

    Attributes
    ----------
    derived : keys that are always there. They are how the command knows a file of its own.
    options : the command's other fields that the file decides, as a function of what it holds.
    retired : options that left, which files still hold at the only value that they ever had.
    """

    derived: Collection[str] = ()
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = field(default=lambda found: {})
    retired: Mapping[str, Any] = field(default_factory=dict)


def run_command(
    name: str,
    command: type[Asked],
    body: Callable[[Asked], Path | None],
    args: list[str] | None,
    *,
    start: Callable[[list[str]], Start] | None = None,
    repeat: Repeat | None = None,
) -> None:
    """Run `python -m NAME ARGS`.

    Parameters
    ----------
    name : dotted name of the command.
    command : dataclass whose fields are the options; the docstring below each is its help.
    body : does the work and returns the folder or file of the result, None on processes that print nothing.
    args : command-line arguments; None takes those of the process.
    start : arguments -> Start, where the first argument chooses the defaults.
    repeat : of commands that leave a run folder, whose field `config` is what `config.json` holds.

    Exits with 2 on a `UserError` and with 130 when interrupted, see `guarded`.
    """
    given = sys.argv[1:] if args is None else list(args)
    if "--version" in given:
        print(f"{name} {__version__}")
        return

    def work() -> None:
        asked, output = _parsed(name, command, given, start, repeat)
        of_run = output if isinstance(output, RunOutput) else RunOutput(output.quiet)
        if of_run.json and of_run.quiet:
            raise UserError("--json and --quiet were asked for; each is all that is printed. Choose one.")
        silent = of_run.json or of_run.quiet
        before, console.quiet = console.quiet, console.quiet or silent
        try:
            place = body(asked)
        finally:
            console.quiet = before
        if place is not None and of_run.json:
            print(json.dumps(read_summary(place), ensure_ascii=False, indent=1))
        elif place is not None:
            console.print(literal(place))

    guarded(work)


def read_summary(folder: Path) -> Any:
    """What `summary.json` of a run folder holds; of a folder of such folders, an object by their names."""
    path = folder / "summary.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    return {one.parent.name: read_summary(one.parent) for one in sorted(folder.glob("*/summary.json"))}


def _parsed(
    name: str,
    command: type[Asked],
    args: list[str],
    start: Callable[[list[str]], Start] | None,
    repeat: Repeat | None,
) -> tuple[Asked, Output]:
    """The command that the arguments ask for, and what it shall print."""
    prog, path = f"python -m {name}", None if repeat is None else _named(args)
    begun = Start(None, args)
    if start is not None:
        begun = start(args)
        if path is not None and len(begun.rest) < len(args):
            raise UserError(f"{args[0]} and --config were both given as defaults. Leave one of them out.")
    output = Output if repeat is None else RunOutput
    # a field more than the command itself has, so that its own options keep their names and headings
    kind: Any = tyro.conf.OmitArgPrefixes
    fields = [("output", kind[output], field(default_factory=output))]
    whole = make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    whole.__doc__ = command.__doc__
    default: dict[str, Any] = {}
    if path is not None and repeat is not None:
        default["default"] = _repeated(name, whole, path, repeat)
    elif begun.config is not None:
        default["default"] = _begun(whole, begun.config)
    if {"-h", "--help"} & set(begun.rest):
        print_help(prog + begun.usage, _parser(whole, default))
        sys.exit(0)
    _require_numbers(command, begun.rest)
    found = tyro.cli(whole, args=begun.rest, prog=prog + begun.usage, **default)
    return found, found.output


def _require_numbers(command: Any, args: list[str]) -> None:
    """Raise UserError where an option that takes several numbers is given something else, such as `1,2`,
    which the parser answers with its own words for types.
    """
    kinds = dict(_several(command))
    for place, arg in enumerate(args):
        flag, equals, given = arg.partition("=")
        if flag not in kinds:
            continue
        number, most = kinds[flag]
        rest = itertools.takewhile(lambda value: not re.match(r"--|-[a-z]", value), args[place + 1 :])
        values = [given] if equals else list(itertools.islice(rest, most))
        wrong = [value for value in values if not (_is(number, value) or value == "None")]
        if wrong:
            what, such = ("a whole number", "1 2") if number is int else ("a number", "0.1 0.2")
            parts = wrong[0].replace(",", " ").split()
            such = " ".join(parts) if len(parts) > 1 and all(_is(number, p) for p in parts) else such
            raise UserError(
                f"{flag} {' '.join(values)}: {wrong[0]!r} is not {what}. Write them with blanks between, "
                f"such as {flag} {such}."
            )


def _several(kind: Any) -> Iterator[tuple[str, tuple[Callable[[str], Any], int | None]]]:
    """The options of a command that take several numbers: flag, kind of number, and how many at most."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _several(hint)
        for part in (hint, *typing.get_args(hint)):
            inner = typing.get_args(part) if typing.get_origin(part) is tuple else ()
            if inner and inner[0] in (int, float):
                most = None if inner[-1] is Ellipsis else len(inner)
                yield f"--{name.replace('_', '-')}", (inner[0], most)


def _is(number: Callable[[str], Any], text: str) -> bool:
    """Whether `text` is written as such a number."""
    try:
        number(text)
    except ValueError:
        return False
    return True


def _parser(command: Any, default: dict[str, Any]) -> Any:
    """What tyro parses with: an argparse.ArgumentParser in all but its type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro would have its own completion used instead
        return tyro.extras.get_parser(command, **default)


def print_help(usage: str, parser: Any) -> None:
    """Print every option with its whole help, each a paragraph, never wider than the terminal."""
    given = [a for group in parser._action_groups for a in group._group_actions if not a.option_strings]
    places = "".join(f" [{_shown(action)}]" for action in given)
    about, *sketch = (parser.description or "").strip().split("\n\n", 1)
    parts = [f"usage: {usage.replace(' | ', '|')}{places} [OPTIONS]", _paragraph(about)]
    parts += [one.strip("\n") for one in sketch]
    console.print("\n\n".join(map(_lines, parts)))
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if "--help" not in action.option_strings]
        title = (group.description or group.title or "options").strip()
        if actions:
            console.print(f"\n[bold]{_lines(_paragraph(title))}[/bold]")
        for action in actions:
            name = _shown(action)
            text, _, default = (action.help or "").partition(" (default: ")
            known = {"True": "yes"}.get(default.removesuffix(")"), default.removesuffix(")"))
            # where nothing is the default the text says what happens then
            text += f" (default:\xa0{known})" * (known not in ("", "None", "False"))
            lines = _lines(_paragraph(f"{name}\xa0 {text}", "  ", "      "))
            console.print(lines.replace(markup(name), f"[bold]{markup(name)}[/bold]", 1))


def _paragraph(text: str, first: str = "", others: str = "") -> str:
    """`text` filled to the width of the terminal; a no-break space stays a space on its line."""
    filled = textwrap.fill(
        " ".join(re.split(r"[ \n]+", text)),
        max(40, min(shutil.get_terminal_size().columns, 100)),
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace("\xa0", " ")


def _lines(text: str) -> str:
    """Several lines of literal text for `console.print`."""
    return "\n".join(map(markup, text.split("\n")))


def _shown(action: argparse.Action) -> str:
    """An option as it is typed, with the kind of its value."""
    kind = action.metavar if isinstance(action.metavar, str) else ""
    # nothing as a value: the text says what happens then; one or several of a kind
    kind = re.sub(r"\{?\[(\w+) \[\1 \.\.\.\]\]\}?", r"\1 ...", kind.replace("{None}|", ""))
    if not action.option_strings:
        return action.dest.split(".")[-1].upper()
    first, *others = action.option_strings
    if any(other.startswith("--no-") for other in others) and action.default:
        return f"--[no-]{first.removeprefix('--')}"
    return f"{first} {kind}".strip()


def _named(args: list[str]) -> Path | None:
    """What follows --config, which decides the defaults before the rest is parsed."""
    for place, arg in enumerate(args):
        if arg == "--config" and place + 1 < len(args):
            return Path(args[place + 1])
        if arg.startswith("--config="):
            return Path(arg.removeprefix("--config="))
    return None


def _begun(command: Any, config: Any, **options: Any) -> Any:
    """The command with this `config`, everything else as it is when not given."""
    for other in dataclasses.fields(command):
        kind: Any = _plain(typing.get_type_hints(command)[other.name])
        if other.name not in ("config", *options) and _needed(other):
            made = isinstance(kind, type) and dataclasses.is_dataclass(kind)
            options[other.name] = kind() if made else tyro.MISSING
    return command(config=config, **options)


def _needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _plain(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _repeated(name: str, command: Any, path: Path, repeat: Repeat) -> Any:
    """The command that left `path`. Raises UserError when it is no config.json of this command."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--config {path} cannot be read ({error}). Name the config.json of a run of python -m {name}."
        ) from error
    _require_names(path)
    kind = _plain(typing.get_type_hints(command)["config"])
    fields = {one.name for one in dataclasses.fields(kind)}
    if not isinstance(found, dict):
        raise UserError(f"--config {path} holds no configuration. Name the config.json of a run.")
    left = {key for key, value in repeat.retired.items() if found.get(key, value) == value}
    foreign = sorted(set(found) - fields - set(repeat.derived) - left)
    absent = set(repeat.derived) - set(found)
    absent |= {one.name for one in dataclasses.fields(kind) if _needed(one)} - set(found)
    if foreign or absent:
        told = [f"it has {', '.join(foreign)}"] * bool(foreign)
        told += [f"it lacks {', '.join(sorted(absent))}"] * bool(absent)
        raise UserError(
            f"--config {path} is of another command than python -m {name} ({'; '.join(told)}). Name the "
            "config.json of one of its runs."
        )
    own = {key: value for key, value in found.items() if key in fields}
    try:
        return _begun(command, restored(kind, own), **repeat.options(found))
    except (ValueError, TypeError) as error:
        raise UserError(f"--config {path}: {error}. Restore it from a copy, or name another.") from error


def _require_names(path: Path) -> None:
    """Raise UserError where the run of this config.json was made of objects of a Python program."""
    try:
        call = json.loads((path.parent / "provenance.json").read_text(encoding="utf-8")).get(CALL)
    except (OSError, ValueError, AttributeError):
        return  # what names no call is repeated from its configuration
    if call:
        raise UserError(
            f"--config {path} is of a run whose model, text or data were objects of a Python program, which "
            f"no command line can name. Repeat it in Python, with the same objects: {call}"
        )


def restored(kind: Any, found: Any, name: str = "") -> Any:
    """A dataclass from what JSON holds of it. Raises ValueError for a value of another type."""
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {found!r}, and has to be an object")
    hints = _hints(kind)
    if unknown := sorted(set(found) - set(hints)):
        raise ValueError(f"{name} has no {', '.join(unknown)}")
    return kind(**{key: _value(hints[key], value, key) for key, value in found.items() if key in hints})


def conform(options: Any) -> None:
    """Bring every field of a frozen dataclass of options to the type of its annotation, which Python does not
    ask for: a list becomes a tuple, a number of NumPy one of Python, and a whole number stands for a number.

    Raises UserError with the flag, what was given, and what it takes.
    """
    of: Any = type(options)
    hints = _hints(of)
    for one in dataclasses.fields(of):
        given, kind = getattr(options, one.name), hints[one.name]
        try:
            taken = _value(kind, given, one.name)
        except ValueError as error:
            flag, shown = f"--{one.name.replace('_', '-')}", repr(given)
            if len(shown) > 60 or "\n" in shown:
                shown = f"an object of type {type(given).__name__}"
            raise UserError(
                f"{flag} {shown} was asked for; it takes {_takes(kind)}. Change {flag}."
            ) from error
        if taken is not given:
            object.__setattr__(options, one.name, taken)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    """The annotations of a dataclass; a training step makes one, so they are read once."""
    return typing.get_type_hints(kind)


def _takes(kind: Any) -> str:
    """What an option of this type takes, in words."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_takes, parts))
    if origin is typing.Annotated:
        return _takes(parts[0])
    if origin is typing.Literal:
        return f"{'one of ' * (len(parts) > 1)}{', '.join(map(repr, parts))}"
    if origin is tuple:
        one = _takes(parts[0])
        return f"a list ({one} each)" if parts[-1] is Ellipsis else f"{len(parts)} values ({one} each)"
    said = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}
    return "None" if kind is type(None) else said.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _value(kind: Any, value: Any, name: str) -> Any:
    """`value` as this type has it. Raises ValueError where it is of another."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if hasattr(value, "tolist"):
        value = value.tolist()  # a scalar or an array of NumPy
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, typing.cast(type, kind)) else restored(kind, value, name)
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            with suppress(ValueError):
                return _value(part, value, name)
    elif origin is typing.Annotated:
        return _value(parts[0], value, name)
    elif origin is typing.Literal:
        if any(type(value) is type(part) and value == part for part in parts):
            return value
    elif origin is tuple and isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        values = tuple(value)
        kinds = parts[:1] * len(values) if parts[-1] is Ellipsis else parts
        if len(kinds) == len(values):
            return tuple(_value(part, one, name) for part, one in zip(kinds, values, strict=True))
    elif kind is float and number:
        return float(value)
    elif kind is int and number and value == value // 1:
        return int(value)
    elif kind is Path and isinstance(value, str | Path):
        return Path(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{name} is {value!r}, which that option does not take")
