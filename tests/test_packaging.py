"""The package as others get it: one version, a core that needs no extra, and a wheel that works anywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

import consolidation
import labbook
import redundancy
from labbook.report import CITATION

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CITED = (ROOT / "CITATION.cff").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["mypy"]["packages"]


def test_every_place_says_the_same_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {labbook.__version__}\n" in citation
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first[1] == labbook.__version__
    assert redundancy.__version__ == consolidation.__version__ == labbook.__version__
    assert PYPROJECT["project"]["dynamic"] == ["version"]


def test_authors_are_those_of_the_citation():
    names = re.findall(r'^  - name: "(.+)"$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert [author["name"] for author in PYPROJECT["project"]["authors"]] == names


def test_one_entry_cites_the_software_wherever_it_is_cited():
    # CITATION.cff is YAML of one line a value here
    about = dict(re.findall(r'^(title|version|date-released): "?([^"\n]+)"?$', CITED, re.MULTILINE))
    entry = {name: value.strip("{}") for name, value in re.findall(r"(\w+) = \{(.+)\},?", CITATION)}
    assert entry["title"] == about["title"]
    assert entry["year"] == about["date-released"][:4]
    assert entry["note"] == f"version {about['version']}"
    assert f'  - name: "{entry["author"]}"\n' in CITED
    # @software is known to biblatex only
    assert CITATION.startswith("@misc{")
    assert f"```bibtex\n{CITATION}\n```" in (ROOT / "README.md").read_text()
    for path in (ROOT / "consolidation" / "data" / "runs" / "fits").glob("*/gamma.bib"):
        assert CITATION in path.read_text()


def test_the_lists_of_packages_agree():
    found = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert found == [f"{package}*" for package in PACKAGES]
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()


def test_dev_brings_every_extra():
    extras = PYPROJECT["project"]["optional-dependencies"]
    brought = re.fullmatch(r"attention-redundancy\[(.+)\]", extras["dev"][0])
    assert sorted(brought[1].split(",")) == sorted(set(extras) - {"dev"})


# imports every module named, where what the extras bring is not there
WITHOUT = """
import importlib, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in EXTRAS else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
for name in NAMES:
    importlib.import_module(name)
assert "torch" in sys.modules and not EXTRAS & set(sys.modules)
"""


def test_the_core_needs_no_extra():
    extras = {
        "sklearn",
        "transformer_lens",
        "lmfit",
        "ruptures",
        "jupyterlab",
        "sphinx",
        "gguf",
        "pytest",
        "lm_eval",
    }
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    look = f"EXTRAS, NAMES = {extras}, {names}\n{WITHOUT}"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, folder / "source" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder / "source")
    build = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        folder,
        folder / "source",
    ]
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, build)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_all_data(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        wanted = [p for p in (ROOT / package).rglob("*") if p.suffix == ".py" or p.name == "py.typed"]
        wanted += [p for p in (ROOT / package / "data").rglob("*") if p.is_file()]
        missing = {p.relative_to(ROOT).as_posix() for p in wanted} - inside
        assert not missing
    others = {name.split("/")[0] for name in inside} - set(PACKAGES)
    assert others == {f"attention_redundancy-{labbook.__version__}.dist-info"}


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Run a script of a fresh environment that holds the wheel, in another folder. The dependencies are those
    of this environment.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = ["--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, install)], check=True)
    # only now, so that pip sees nothing but the fresh environment
    own = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "elsewhere").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}

    def call(script, *args):
        return subprocess.run(
            [folder / "venv" / "bin" / script, *args],
            cwd=folder / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
        )

    return call


def test_the_wheel_works_in_a_fresh_environment(run):
    where = run("python", "-c", "import redundancy, labbook; print(redundancy.__file__, labbook.__version__)")
    assert "/fresh" in where.stdout, where
    assert "/venv/" in where.stdout
    assert run("redundancy", "--version").stdout == f"redundancy {version('attention-redundancy')}\n"
    told = run("redundancy", "probe", "--help")
    assert told.returncode == 0, told.stderr
    assert "--learning-curve" in told.stdout

    fitted = run(
        "consolidation",
        "fit",
        "cram2026_fig4a",
        "--bootstrap",
        "100",
        "--forms",
        "power",
        "constant",
        "--out",
        "fit",
    )
    assert fitted.returncode == 0, fitted.stderr
    folder = Path(run("python", "-c", "import os; print(os.getcwd())").stdout.strip())
    assert json.loads((folder / "fit" / "fit.json").read_text())["gamma"]

    few = ["--tokens", "3000", "--eval-tokens", "3000", "--layers", "0", "--random-seeds", "2"]
    probed = run("redundancy", "probe", *few, "--out", "probe")
    assert probed.returncode == 0, probed.stderr
    assert set(pd.read_csv(folder / "probe" / "layers.csv")["layer"]) == {0}


def test_the_pages_need_the_repository(run):
    done = run("python", "-m", "replication")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "the pages belong to the repository, and this is an installed package" in said
    assert "Traceback" not in said
