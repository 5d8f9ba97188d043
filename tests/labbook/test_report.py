"""The page of a run: what it holds, what it never does, and that it works in a browser where there is one."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from labbook import escape
from labbook.report import LARGEST, ROWS, Report
from labbook.run import write_json
from redundancy.probe import report as probe
from redundancy.probe.tables import Tables
from redundancy.text import DATA

RUN = DATA / "runs" / "embedded" / "probe"
HOSTILE = '</script><script>document.title="owned"</script>"\'&\x1b[31m'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# collects what goes wrong, points at a head, sorts a table, and leaves what it saw in the page
LOOK = """
<script>
const wrong = [];
addEventListener("error", e => wrong.push(e.message));
addEventListener("unhandledrejection", e => wrong.push(String(e.reason)));
addEventListener("securitypolicyviolation", e => wrong.push(e.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...said) => wrong.push(said.join(" "));
addEventListener("load", () => setTimeout(() => {
  const cell = document.querySelector("#chart-0 .mark-rect path");
  const box = cell.getBoundingClientRect();
  const at = {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
  for (const kind of ["pointerover", "mouseover", "pointermove", "mousemove"])
    cell.dispatchEvent(new PointerEvent(kind, at));
  const table = document.querySelector("table.sorts");
  const head = [...table.tHead.rows[0].cells].find(one => one.textContent === "estimate");
  head.firstChild.click();
  const sorted = [...table.tBodies[0].rows].map(row => +row.cells[head.cellIndex].dataset.value);
  setTimeout(() => {
    const seen = {wrong, title: document.title, sorted,
      tip: document.querySelector("#vg-tooltip-element")?.textContent ?? ""};
    const out = document.createElement("pre");
    out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
  }, 300);
}, 500));
</script>
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The shipped run with one figure, under a hostile name."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(RUN, folder)
    about = json.loads((folder / "provenance.json").read_text())
    write_json(folder / "provenance.json", {**about, "model": HOSTILE})
    figure = plt.figure()
    figure.savefig(folder / "a_figure.png")
    plt.close(figure)
    return folder


@pytest.fixture(scope="module")
def tables():
    found = Tables.read(RUN)
    named = replace(found.headline, model=HOSTILE, verdict=f"{HOSTILE}: {found.headline.verdict}")
    return replace(found, headline=named)


@pytest.fixture(scope="module")
def page(run, tables):
    return probe.report(tables).write(run).read_text(encoding="utf-8")


def test_the_verdict_comes_first_and_everything_is_there(page, tables):
    body = page[page.index("<body>") :]
    places = [
        body.index(part)
        for part in (
            html.escape(tables.headline.verdict.split(": ", 1)[1]),
            "Every head",
            "<h2>Figures</h2>",
            'src="data:image/png;base64,',
            "<h2>Tables</h2>",
            "<h2>Provenance</h2>",
            "<h2>Make it again</h2>",
            "python -m redundancy.probe --config config.json",
            "<h2>How to cite</h2>",
            "@misc{attention_redundancy",
        )
    ]
    assert places == sorted(places)
    for name in ("weight_hash", "data_hash", "commit", "learning_curve"):
        assert name in body


def test_a_hostile_name_is_text(page):
    assert "<script>document.title" not in page
    assert "&lt;/script&gt;&lt;script&gt;" in page
    assert "\x1b" not in page
    assert page.count("<script") == page.count("</script>") == 1


def test_nothing_is_fetched(page):
    assert "default-src 'none'" in page
    tags = re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    sources = re.findall(r"""(?:src|href|srcset|action|data)=["']([^"']*)""", tags)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in tags
    assert "url(" not in tags


def test_it_is_small_enough(page, run, tables):
    assert len(page.encode()) <= LARGEST
    noise = np.random.default_rng(0)
    for number in range(3):  # figures that do not fit are named
        (run / f"b_large_{number}.png").write_bytes(noise.bytes(600_000))
    try:
        large = probe.report(tables).page(run)
    finally:
        for path in run.glob("b_large_*.png"):
            path.unlink()
    assert len(large.encode()) <= LARGEST
    assert "b_large_2.png" in large
    assert large.count("data:image/png") < 4


def test_a_long_table_is_named_and_missing_numbers_are_empty(run):
    tables = {
        "long": pd.DataFrame({"x": range(ROWS + 1)}),
        "short": pd.DataFrame({HOSTILE: [1.23456789, float("nan")], "n": [1234, 5], "said": [HOSTILE, None]}),
        "truth": pd.DataFrame({"learnt": [True, False]}),
    }
    page = Report("made.up", "t", ["v"], tables).page(run)
    assert f"{ROWS + 1} rows: in the run folder" in page
    assert '<td class="number" data-value="1.23456789">1.235</td>' in page
    assert '<td class="number" data-value="1234">1,234</td>' in page
    assert page.count('<td class="number" data-value=""></td>') == 2
    assert "<td>yes</td>" in page
    assert "<td>no</td>" in page
    assert "<td>False</td>" not in page
    assert "vegaEmbed" not in page  # nothing to point at, no scripts for it


def test_a_value_in_a_script_ends_no_script():
    text = escape.script({"name": "</script><!--&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--&\u2028"}
    with pytest.raises(ValueError, match="JSON"):
        escape.script(float("nan"))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here")
def test_in_a_browser_a_head_answers_the_pointer(page, tmp_path, tables):
    path = tmp_path / "page.html"
    path.write_text(page.replace("<body>", "<body>" + LOOK, 1), encoding="utf-8")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    done = subprocess.run(
        [BROWSER, *options, "--virtual-time-budget=10000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found.group(1)))
    assert seen["wrong"] == []
    assert "owned" not in seen["title"].replace('="owned"', "")
    first = tables.heads.query("metric == 'R' and feature == 'resid_pre'").iloc[0]
    for part in (
        "layer",
        "head",
        "training mean",
        "random weights",
        *(f"{first[c]:.3f}" for c in ("estimate", "lower", "upper")),
    ):
        assert part in seen["tip"]
    assert seen["sorted"] == sorted(seen["sorted"])
    assert len(seen["sorted"]) > 10
