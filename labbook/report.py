"""`report.html` of a run: one file that needs no network, with the verdict first.

It is made from what the run folder holds: the verdict, a chart to point at where the command has one, the
figures, the tables (a click on a head sorts), the provenance, the command that makes the run again, and how
to cite. Text from outside is escaped for where it stands (`labbook/escape.py`), and the page forbids itself
to fetch anything.
"""

import base64
import html
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from labbook import __version__, escape
from labbook.console import CALL, UserError, counted
from labbook.escape import plain
from labbook.run import Run, defined, read_json, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A report is read on a phone and sent by mail. What does not fit stays in the run folder, and is named.
LARGEST = 2_000_000
# Rows of a table that a reader still scrolls through.
ROWS = 400
CITATION = f"""@misc{{attention_redundancy,
  title = {{attention-redundancy}},
  author = {{{{The attention-redundancy developers}}}},
  year = {{2026}},
  note = {{version {__version__}}}
}}"""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
)
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.verdict { border-left: 4px solid #0173b2; padding: .2rem 1rem; background: #8882; }
figure { margin: 1rem 0; } img { max-width: 100%; background: white; }
figcaption, .note { color: #777; font-size: .9rem; }
.wide { overflow: auto; max-height: 30rem; border: 1px solid #8886; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
td, th { padding: .2rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #8886; }
td.number { text-align: right; }
th button { all: unset; cursor: pointer; font-weight: bold; } th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: .6rem; }
.chart { overflow-x: auto; background: white; color: black; }
"""
SORT = """
document.querySelectorAll("table.sorts").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is missing comes last either way
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
});
"""


@dataclass(frozen=True)
class Report:
    """What a command says of its run.

    Attributes
    ----------
    command : its dotted name, `redundancy.probe`.
    title : what was measured, of what.
    verdict : paragraphs.
    tables : heading -> table; longer ones than ROWS are named and not shown.
    charts : heading -> Vega-Lite specification, as `altair.Chart.to_dict` gives it.
    config : the `config.json` that the command repeats the run from, below the run folder.
    sources : BibTeX entries to cite beside this software.
    """

    command: str
    title: str
    verdict: Sequence[str]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    charts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    config: str = "config.json"
    sources: str = ""

    def write(self, folder: Path) -> Path:
        """Write `report.html` into the run folder, beside its figures and tables. Raises UserError where that
        cannot be written.
        """
        path = folder / "report.html"
        with replacing(path) as partial:
            partial.write_text(self.page(folder), encoding="utf-8")
        return path

    def page(self, folder: Path) -> str:
        """The page as HTML: at most LARGEST bytes, as long as its tables and charts take less."""
        title = escape.html(self.title)
        before = [
            f"<h1>{title}</h1>",
            '<div class="verdict">',
            *(f"<p>{escape.html(text)}</p>" for text in self.verdict),
            "</div>",
            *(part for number, name in enumerate(self.charts) for part in _place(number, name)),
        ]
        after = ["<h2>Tables</h2>", *(part for name in self.tables for part in self._table(name))]
        after += [*self._provenance(folder), *self._again(folder)]
        cited = f"{CITATION}\n\n{self.sources}".strip()
        after += ["<h2>How to cite</h2>", f"<pre>{escape.html(cited, lines=True)}</pre>"]
        after += [f"<script>{_scripts(self.charts)}{SORT}</script>"]
        room = LARGEST - sum(len(part.encode()) + 1 for part in (STYLE, *before, *after)) - 2000
        body = "\n".join([*before, "<h2>Figures</h2>", *_figures(folder, room), *after])
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n'
            f"<body>\n{body}\n</body>\n</html>\n"
        )

    def _table(self, name: str) -> list[str]:
        table = self.tables[name]
        heading = f"<h3>{escape.html(name)}</h3>"
        if len(table) > ROWS:
            return [
                heading,
                f'<p class="note">{counted(len(table), "row")}: in the run folder, not shown here.</p>',
            ]
        heads = "".join(
            f'<th scope="col"><button>{escape.html(column)}</button></th>' for column in table.columns
        )
        rows = (
            "<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.itertuples(index=False, name=None)
        )
        return [
            heading,
            f'<div class="wide"><table class="sorts"><thead><tr>{heads}</tr></thead><tbody>',
            *rows,
            "</tbody></table></div>",
        ]

    def _provenance(self, folder: Path) -> list[str]:
        path = (folder / self.config).parent / "provenance.json"
        if not path.is_file():
            return []
        rows = (
            f"<tr><th>{escape.html(name)}</th><td>{escape.html(_short(value))}</td></tr>"
            for name, value in read_json(path).items()
        )
        return ["<h2>Provenance</h2>", '<div class="wide"><table>', *rows, "</table></div>"]

    def _again(self, folder: Path) -> list[str]:
        asked = json.dumps(read_json(folder / self.config), indent=1, ensure_ascii=False)
        about = (folder / self.config).parent / "provenance.json"
        call = str(read_json(about).get(CALL, "")) if about.is_file() else ""
        package, function = self.command.split(".")[0], call.split("(")[0]
        if call:
            how = "In Python, with the same objects, which no command line can name:"
            line = f"from {package} import {function}\n\n{call}"
        else:
            how = "In this run folder; --out says where the new run goes:"
            line = f"python -m {self.command} --config {self.config} --out again"
        return [
            "<h2>Make it again</h2>",
            f"<p>{how}</p>",
            f"<pre>{escape.html(line, lines=True)}</pre>",
            "<details><summary>what was asked</summary>",
            f"<pre>{escape.html(asked, lines=True)}</pre></details>",
        ]


def _figures(folder: Path, room: int) -> list[str]:
    """Every PNG of the run folder that fits into `room` bytes, the others by name."""
    parts = []
    for path in sorted(folder.glob("*.png")):
        caption = escape.html(path.stem.replace("_", " "))
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
        room -= len(encoded) + 300
        if room < 0:
            parts.append(f'<p class="note">{caption}: in the run folder, as {escape.html(path.name)}</p>')
            room += len(encoded)
            continue
        parts.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{encoded}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return parts


def _cell(value: Any) -> str:
    """A cell that shows a number rounded and sorts by all of it."""
    if isinstance(value, float) or (value is not None and pd.api.types.is_float(value)):
        shown = "" if pd.isna(value) else f"{value:.4g}"
        return f'<td class="number" data-value="{"" if pd.isna(value) else repr(float(value))}">{shown}</td>'
    if pd.api.types.is_integer(value) and not isinstance(value, bool):
        return f'<td class="number" data-value="{value}">{value:,}</td>'
    if isinstance(value, bool | np.bool_):
        return f"<td>{'yes' if value else 'no'}</td>"
    return f"<td>{'' if pd.isna(value) else escape.html(value)}</td>"


def _short(value: Any) -> str:
    """A value of the provenance on one line; long lists by their length."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_short(one)}" for name, one in value.items())
    if isinstance(value, list):
        return f"{len(value)} names" if len(value) > 8 else ", ".join(map(_short, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _place(number: int, name: str) -> list[str]:
    return [f"<h2>{escape.html(name)}</h2>", f'<div class="chart" id="chart-{number}"></div>']


def _scripts(charts: Mapping[str, dict[str, Any]]) -> str:
    """Vega's own code once, and what draws every chart; nothing where there is none."""
    if not charts:
        return ""
    from vl_convert import javascript_bundle  # starts an engine of its own, which takes a second

    # a canvas of its own colours, whatever the browser's theme; no menu, which would lead to other sites
    options = escape.script({"actions": False, "theme": None, "renderer": "svg"})
    drawn = (
        f'vegaEmbed("#chart-{number}", {escape.script(defined(chart))}, {options});'
        for number, chart in enumerate(charts.values())
    )
    bundle = javascript_bundle()  # type: ignore[call-arg]  # the stub asks for what may be left out
    bundle = bundle.replace("</script", "<\\/script")
    return "\n".join([bundle, *drawn])


def drawn(results: Any, figures: "Mapping[str, Callable[[Any], Figure]]", name: str | None) -> "Figure":
    """One of the figures of `results`, the first unless it is named; the theme of the session stays as it is.

    Raises UserError for a name that there is not.
    """
    import matplotlib as mpl  # half a second to import, and only figures need it
    import matplotlib.pyplot as plt

    from labbook import style

    chosen = next(iter(figures), "") if name is None else name
    if chosen not in figures:
        raise UserError(f"there is no figure {name!r}; there are {', '.join(figures) or 'none'}.")
    with mpl.rc_context():
        style.apply()
        figure = figures[chosen](results)
    plt.close(figure)  # a notebook would show it twice
    return figure


def new_folder(folder: str | Path) -> Path:
    """`folder`, which must not hold anything. Raises UserError when it does."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; nothing is written over. Name a new folder.")
    return folder


def as_html(verdict: str, table: pd.DataFrame, place: Path | None) -> str:
    """A verdict, a table and where the rest lies; what stands in them is text, never markup."""
    where = f"<p><small>{html.escape(plain(place))}</small></p>" if place is not None else ""
    return f"<p>{html.escape(plain(verdict))}</p>{table.to_html(escape=True, border=0)}{where}"


def said(name: str, verdict: str, tables: Iterable[str], place: Path | None) -> str:
    """What Python shows of a result: what was found, and where the rest is; never whole tables."""
    lines = [f"{name}: {plain(verdict)}", f"tables: {', '.join(tables)}"]
    lines += [f"folder: {plain(place)}"] if place is not None else []
    return "\n  ".join(lines)


class RunResult(ABC):
    """The result of a run, with the folder that it is stored in."""

    folder: Path

    def __init_subclass__(cls) -> None:
        # results are dataclasses, whose own repr would print every table whole
        cls.__repr__ = RunResult.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        tables = [name for name, value in vars(self).items() if isinstance(value, pd.DataFrame)]
        return said(type(self).__name__, self._shown()[0], tables, self.folder)

    @abstractmethod
    def _figures(self) -> "Mapping[str, Callable[[Any], Figure]]":
        """Figures by name, the most telling first."""

    @abstractmethod
    def _shown(self) -> tuple[str, pd.DataFrame]:
        """The verdict, and the table that a notebook shows."""

    def plot(self, name: str | None = None) -> "Figure":
        """A figure of the run; `name` is the name of its file without the ending, None the first one.

        Raises UserError for a name that there is not.
        """
        return drawn(self, self._figures(), name)

    def save(self, folder: str | Path) -> Path:
        """Copy the run folder to `folder`, a new one, draw every figure into it, and return it.

        Raises UserError when `folder` is not empty.
        """
        from labbook import style

        target = new_folder(folder)
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        style.draw(self, self._figures(), target)
        return target

    def _repr_html_(self) -> str:
        return as_html(*self._shown(), self.folder)


class TableResult(RunResult):
    """The result of a run that is a headline and tables, each table a file of its name."""

    headline: Any
    FILES: ClassVar[tuple[str, ...]]

    @property
    def summary(self) -> dict[str, Any]:
        """The headline as `summary.json` holds it."""
        found: dict[str, Any] = self.headline.json()
        return found

    def write(self, run: Run) -> None:
        """Write all tables into the run folder, `summary.json` last."""
        run.finish({name: getattr(self, name) for name in self.FILES}, self.summary)
