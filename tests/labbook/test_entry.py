import subprocess
import sys

import pytest
from extension.commands import commands

from consolidation.__main__ import COMMANDS as CONSOLIDATION
from labbook import __version__
from labbook.entry import dispatch
from redundancy.__main__ import COMMANDS as REDUNDANCY


@pytest.mark.parametrize(("package", "there"), [("redundancy", REDUNDANCY), ("consolidation", CONSOLIDATION)])
def test_the_console_script_knows_every_command(package, there):
    assert sorted(module for module, _ in there.values()) == commands(package)
    for name, (module, about) in there.items():
        assert module.removesuffix(".__main__") == f"{package}.{name}"
        assert len(f"  {name:<9}  {about}") <= 80


def test_what_follows_the_command_is_its_own(capsys):
    with pytest.raises(SystemExit) as stop:
        dispatch("consolidation", CONSOLIDATION, ["fit", "--bootstrap", "many"])
    assert stop.value.code == 2
    assert "consolidation.fit" in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(args, capsys):
    dispatch("redundancy", REDUNDANCY, args)
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in REDUNDANCY)


def test_an_unknown_command_is_an_error_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        dispatch("redundancy", REDUNDANCY, ["prob"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "'prob' is no command of redundancy" in said
    assert "probe, training" in said


def test_version(capsys):
    dispatch("redundancy", REDUNDANCY, ["--version"])
    assert capsys.readouterr().out == f"redundancy {__version__}\n"


@pytest.mark.parametrize("package", ["redundancy", "consolidation"])
def test_help_imports_nothing_heavy(package):
    look = (
        f"import sys; sys.argv = ['{package}', '--help']; from {package}.__main__ import start; start(); "
        "heavy = {'torch', 'transformers', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
