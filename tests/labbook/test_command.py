"""What every command takes: --quiet, --json, --version, and --config, which repeats a run."""

import importlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from extension.commands import commands, parser

from consolidation.fit import __main__ as fit
from consolidation.train import __main__ as train
from labbook import __version__
from labbook.command import Repeat, conform, read_summary, run_command
from labbook.console import UserError, call_of, console
from labbook.run import Run
from redundancy.probe import __main__ as probe
from redundancy.removal import __main__ as removal
from redundancy.text import DATA
from redundancy.training import __main__ as training
from tests.conftest import fails

PACKAGES = ("redundancy", "consolidation", "replication")
SHIPPED = DATA / "runs" / "embedded"


@dataclass(frozen=True)
class Inner:
    width: int = 3
    ends: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Config:
    name: str = "plain"
    layers: tuple[int, ...] | None = None
    kind: Literal["one", "two"] = "one"
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Command:
    """Leave a run."""

    config: Config
    out: Path


@dataclass(frozen=True)
class Numbers:
    """Takes numbers."""

    layers: tuple[int, ...] | None = None
    ends: tuple[float, float] = (0.0, 1.0)
    name: str = ""


def numbers(args: list[str]) -> Numbers:
    asked = []
    run_command("made.up", Numbers, asked.append, args)
    return asked[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--layers", "1,2"], "--layers 1,2: '1,2' is not a whole number. Write them with blanks between"),
        (["--layers=1,2,"], "such as --layers 1 2."),
        (["--layers", "0", "3,", "5"], "--layers 0 3, 5: '3,' is not a whole number"),
        (["--layers", "all", "--name", "a,b"], "--layers all: 'all' is not a whole number"),
        (["--name", "a,b", "--layers", "1.5"], "--layers 1.5: '1.5' is not a whole number"),
        (
            ["--ends", "0.1,0.5"],
            "'0.1,0.5' is not a number. Write them with blanks between, such as --ends 0.1 0.5.",
        ),
        (["--ends", "0.1", "0.5", "--layers", "0-3"], "--layers 0-3: '0-3' is not a whole number"),
    ],
)
def test_several_numbers_are_written_with_blanks(given, said, capsys):
    assert said in fails(numbers, capsys, given)


def test_numbers_with_blanks_and_other_options_are_left_to_the_parser():
    assert numbers(["--layers", "0", "-1"]).layers == (0, -1)
    asked = numbers(["--layers", "None", "--name", "1,2"])
    assert (asked.layers, asked.name) == (None, "1,2")
    asked = numbers(["--layers=3", "--ends", "-0.5", "1e3"])
    assert (asked.layers, asked.ends) == ((3,), (-0.5, 1000.0))


def test_numbers_are_asked_for_by_every_command(capsys):
    assert "such as --shares 0.1 0.25." in fails(removal.main, capsys, ["--shares", "0.1,0.25"])
    assert "such as --layers 1 2." in fails(probe.main, capsys, ["--layers", "1,2"])
    # the table stands behind the two numbers
    assert "--window 1,30 9:" in fails(fit.main, capsys, ["--window", "1,30", "9", "curve.csv"])


def run(args: list[str]) -> None:
    def work(command: Command) -> Path:
        console.print("a table")
        made = Run(command.out, {**vars(command.config), "inner": vars(command.config.inner), "hash": "h"})
        made.finish({}, {"name": command.config.name, "layers": command.config.layers})
        return command.out

    run_command("made.up", Command, work, args, repeat=Repeat({"hash"}))


def test_version(capsys):
    run(["--version"])
    assert capsys.readouterr().out == f"made.up {__version__}\n"


def test_quiet_prints_the_folder_only(tmp_path, capsys):
    run(["--out", str(tmp_path / "loud")])
    assert capsys.readouterr().out.splitlines() == ["a table", str(tmp_path / "loud")]
    run(["--out", str(tmp_path / "run"), "--quiet"])
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
    assert not console.quiet


def test_json_prints_the_summary_only(tmp_path, capsys):
    run(["--out", str(tmp_path / "run"), "--json", "--config.name", "other"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert printed["name"] == "other"
    assert read_summary(tmp_path) == {"run": printed}


def test_quiet_and_json_are_one_too_many(tmp_path, capsys):
    assert "Choose one" in fails(run, capsys, ["--out", str(tmp_path), "--json", "--quiet"])


def test_config_repeats_a_run_and_other_flags_override(tmp_path, capsys):
    wanted = ["--config.name", "mine", "--config.layers", "1", "2", "--config.inner.ends", "2", "3"]
    run(["--out", str(tmp_path / "first"), *wanted])
    path = tmp_path / "first" / "config.json"
    run(["--out", str(tmp_path / "again"), "--config", str(path)])
    assert (tmp_path / "again" / "config.json").read_bytes() == path.read_bytes()
    run(["--out", str(tmp_path / "other"), f"--config={path}", "--config.kind", "two"])
    changed = json.loads((tmp_path / "other" / "config.json").read_text())
    assert changed == {**json.loads(path.read_text()), "kind": "two"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no configuration"),
        ('{"name": "a"}', "lacks hash"),
        ('{"hash": "h", "colour": 1}', "it has colour"),
        ('{"hash": "h", "name": 1}', "name is 1, which that option does not take"),
        ('{"hash": "h", "kind": "three"}', "kind is 'three'"),
        ('{"hash": "h", "layers": [true]}', "layers is [True]"),
        ('{"hash": "h", "inner": {"ends": [1]}}', "ends is [1]"),
        ('{"hash": "h", "inner": {"depth": 1}}', "inner has no depth"),
        ('{"hash": "h", "inner": 1}', "inner is 1"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(tmp_path, capsys, content, said):
    path = tmp_path / "config.json"
    path.write_text(content)
    assert said in fails(run, capsys, ["--out", str(tmp_path / "run"), "--config", str(path)])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [probe, removal, training])
@pytest.mark.parametrize("other", ["probe", "removal", "training"])
def test_a_config_of_another_command_is_an_error(command, other, capsys, monkeypatch):
    name = command.__name__.split(".")[1]

    def stop(asked):
        raise UserError(f"asked for {asked.config.tokens} tokens")

    monkeypatch.setattr(command, "work", stop)
    said = fails(command.main, capsys, ["--config", str(SHIPPED / other / "config.json")])
    assert ("asked for 100000 tokens" if other == name else "is of another command") in said


@pytest.mark.slow
def test_a_seed_is_trained_again(tmp_path):
    first = tmp_path / "first"
    train.main(["tiny", "--steps", "2", "--evaluations", "1", "--first-seed", "3", "--out", str(first)])
    path = first / "seed-3" / "config.json"
    train.main(["--config", str(path), "--out", str(tmp_path / "again"), "--quiet"])
    assert (tmp_path / "again" / "seed-3" / "config.json").read_bytes() == path.read_bytes()


def test_a_preset_and_a_config_are_one_default_too_many(tmp_path, capsys):
    said = fails(train.main, capsys, ["tiny", "--config", str(tmp_path / "config.json")])
    assert "were both given" in said


@pytest.mark.slow
def test_a_fit_is_repeated(tmp_path, capsys):
    first = tmp_path / "first"
    fit.main(["cram2026_fig4a", "--bootstrap", "100", "--out", str(first)])
    capsys.readouterr()
    fit.main(["--config", str(first / "config.json"), "--out", str(tmp_path / "again"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    there = json.loads((first / "summary.json").read_text())
    assert printed["gamma"] == there["gamma"]


@pytest.mark.parametrize("name", [name for package in PACKAGES for name in commands(package)])
def test_help_fits_the_terminal_and_holds_every_word(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    said = " ".join(told.split())
    found = parser(name)
    for group in found._action_groups:
        for action in group._group_actions:
            if "--help" in action.option_strings:
                continue
            text, _, default = (action.help or "").partition(" (default: ")
            assert " ".join(text.split()) in said
            if action.option_strings:
                assert re.search(rf"--(\[no-\])?{action.option_strings[0].removeprefix('--')}\b", said)
            if default not in ("", ")", "None)", "False)", "True)"):
                assert f"(default: {' '.join(default.split())}" in said
    assert "{None}" not in said


def test_help_of_the_longest_command_is_no_book(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) < 180


def test_a_call_names_objects_and_what_is_not_the_default(tmp_path):
    def measure(model, corpus=None, *, layers=None, bos="auto", out=None, place=None):
        """Stand for a public function."""

    asked = {"model": object(), "corpus": None, "layers": np.arange(2), "bos": "auto", "out": "x"}
    call = call_of(measure, {**asked, "place": Path("a") / "b"}, ["model"])
    assert call == "measure(model=model, layers=array([0, 1]), out='again', place='a/b')"
    assert call_of(measure, {**asked, "place": None}, []) == ""


def test_a_run_of_objects_is_no_configuration_of_a_command(tmp_path, capsys):
    run(["--config.name", "mine", "--out", str(tmp_path / "first")])
    (tmp_path / "first" / "provenance.json").write_text(json.dumps({"call": "measure(model=model)"}))
    said = fails(run, capsys, ["--config", str(tmp_path / "first" / "config.json"), "--out", "x"])
    assert "objects of a Python program" in said
    assert "with the same objects: measure(model=model)" in said


@dataclass(frozen=True)
class Typed:
    """One option of every kind."""

    steps: int = 1
    rate: float = 0.5
    rough: bool = False
    kind: Literal["one", "two"] = "one"
    ends: tuple[float, float] = (0.0, 1.0)
    layers: tuple[int, ...] | None = None
    penalty: float | Literal["auto"] = "auto"
    place: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        conform(self)


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("steps", np.int64(3), 3),
        ("steps", 2e4, 20_000),
        ("rate", 2, 2.0),
        ("rate", np.float32(0.5), 0.5),
        ("rough", np.bool_(True), True),
        ("ends", [1, 2.5], (1.0, 2.5)),
        ("ends", np.array([1, 2]), (1.0, 2.0)),
        ("layers", range(2), (0, 1)),
        ("layers", (np.int64(0), 1.0), (0, 1)),
        ("layers", (), ()),
        ("penalty", 1, 1.0),
        ("penalty", "auto", "auto"),
        ("place", "a/b", Path("a/b")),
    ],
)
def test_options_have_the_type_of_their_annotation(name, given, taken):
    found = getattr(Typed(**{name: given}), name)
    assert found == taken and type(found) is type(taken)
    if isinstance(taken, tuple):
        assert list(map(type, found)) == list(map(type, taken))


@pytest.mark.parametrize(
    ("name", "given", "takes"),
    [
        ("steps", "3", "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", 2.5, "a whole number"),
        ("steps", float("inf"), "a whole number"),
        ("steps", None, "a whole number"),
        ("rate", "0.5", "a number"),
        ("rate", False, "a number"),
        ("rough", "no", "True or False"),
        ("rough", 0, "True or False"),
        ("kind", "three", "one of 'one', 'two'"),
        ("kind", ["one"], "one of 'one', 'two'"),
        ("ends", (1.0,), "2 values (a number each)"),
        ("ends", "12", "2 values (a number each)"),
        ("layers", 3, "a list (a whole number each) or None"),
        ("layers", "3", "a list (a whole number each) or None"),
        ("layers", [0.5], "a list (a whole number each) or None"),
        ("penalty", "none", "a number or 'auto'"),
        ("place", 3, "a path or None"),
        ("name", Path("a"), "a text"),
    ],
)
def test_another_type_is_an_error_that_says_what_is_taken(name, given, takes):
    with pytest.raises(UserError) as error:
        Typed(**{name: given})
    assert str(error.value) == f"--{name} {given!r} was asked for; it takes {takes}. Change --{name}."
