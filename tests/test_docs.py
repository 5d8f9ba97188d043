"""The documentation builds offline without a warning, and shows what it has to show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```\{(?:results-section|commands|claims)\}.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "--nitpicky", "--fail-on-warning", "--keep-going", "-q"),
            *("-d", str(out / "doctrees"), str(DOCS), str(out / "html")),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_every_figure_notebook_and_command_has_its_place(site):
    pages = {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.html")}
    # a figure of another folder with the same name gets a number, so they are counted
    figures = sorted((ROOT / "figures").rglob("*.png"))
    # what notebooks hold is named by its content
    own = [p for p in (site / "_images").glob("*.png") if not re.fullmatch("[0-9a-f]{64}", p.stem)]
    assert len(own) == len(figures)
    shown = "".join(text for name, text in pages.items() if name.startswith("results/"))
    for figure in figures:
        assert f'alt="../_images/{figure.name}"' not in shown, f"{figure.name} has no description"
        assert figure.stem in shown
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.stem}.html" in pages
    for command in ("probe", "training", "removal", "pretrain", "benchmark", "coverage"):
        assert f"python -m redundancy.{command}" in pages["commands.html"]
    for command in ("fit", "train", "experiments", "replicate", "humans", "benchmark", "coverage"):
        assert f"python -m consolidation.{command}" in pages["commands.html"]
    for option in ("--learning-curve", "--on-clock-factor", "--ship-steps"):
        assert option in pages["commands.html"]


@pytest.mark.slow
def test_an_opened_page_fetches_nothing(site):
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert not re.search(r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//', text), path
        assert not re.search(r'<link[^>]*\shref="(?:https?:)?//', text), path
        assert "cdn." not in text, path


@pytest.mark.slow
def test_numbers_of_the_results_page_are_on_the_site(site):
    shown = {
        path.name: re.sub(r"<[^>]+>", "", path.read_text()) for path in (site / "results").glob("*.html")
    }
    text = " ".join("".join(shown.values()).replace("\u00a0", " ").split())
    intervals = re.findall(r"\S+ \[[-+\d.,]+, [-+\d.,]+\]", (ROOT / "RESULTS.md").read_text())
    assert len(intervals) > 100
    assert not [number for number in intervals if number.strip("|* ") not in text]


def test_no_result_is_typed_by_hand():
    for path in [
        *DOCS.glob("results/*.md"),
        *DOCS.glob("start/*.md"),
        *DOCS.glob("howto/*.md"),
        DOCS / "limits.md",
    ]:
        own = FENCE.sub("", path.read_text())
        assert not re.search(r"\d \[[-+\d.]+, [-+\d.]+\]|\bn = \d", own), path
