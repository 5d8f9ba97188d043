"""Parts of RESULTS.md and REPLICATION.md, and the run folders behind them, as parts of a page.

Both files are written by `python -m replication` from run folders, and a test compares them. Their links lead
into the repository; here they lead to the page where the same thing is shown.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from extension.filled import FilledIn
from replication.rows import ABOUT, HERE, PARTS, verdicts

ROOT = Path(__file__).parents[2]
RESULTS, CLAIMS = "RESULTS.md", "REPLICATION.md"
PAGES = {RESULTS: "/results/index.md", CLAIMS: "/results/claims.md"}
INTERVAL = re.compile(r"(?<=\d) \[([-+\d.,]+), ([-+\d.,]+)\]")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:]+)\)")
FIGURE = re.compile(
    r"^!\[(?P<caption>[^\]]*)\]\(figures/(?P<name>[^)]+)\.png\)\n\n\*(?P=caption)\*$", re.MULTILINE
)
# files of a run folder that are offered for download
LARGEST = 1_000_000


def anchor(kind: str, path: str) -> str:
    """Name of the place where a run or a figure is shown."""
    return f"{kind}-{path}".replace("/", "-")


def relinked(text: str) -> str:
    """`text` with its links into the repository leading to places of the documentation."""

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        if target in PAGES:
            return f"[{words}]({PAGES[target]})"
        if target.startswith("figures/"):
            return f"[{words}](#{anchor('figure', target.removeprefix('figures/').removesuffix('.png'))})"
        if (ROOT / target).is_file():  # a file of the repository that is no page
            return f"{words} (`{target}`)"
        assert (ROOT / target).is_dir(), target
        return f"[{words}](#{anchor('run', target)})"

    # a number stays on one line with its interval
    return LINK.sub(link, INTERVAL.sub("\u00a0[\\1,\u00a0\\2]", text))


def figure(name: str, caption: str, again: bool = False) -> str:
    """A figure with its caption and its PDF; `again` where the page that explains it is another one."""
    pdf = (
        f" {{download}}`PDF </../figures/{name}.pdf>`" if (ROOT / "figures" / f"{name}.pdf").exists() else ""
    )
    place = [] if again else [f":name: {anchor('figure', name)}"]
    lines = [
        f"```{{figure}} /../figures/{name}.png",
        f":alt: {caption}",
        *place,
        "",
        f"{caption}{pdf}",
        "```",
    ]
    return "\n".join(lines)


def captions() -> dict[str, str]:
    """Caption of every figure of the results page."""
    text = (ROOT / RESULTS).read_text(encoding="utf-8")
    return {match["name"]: match["caption"] for match in FIGURE.finditer(text)}


def section(title: str) -> str:
    """What the results page says under a heading, one level up. Raises ValueError when there is none such."""
    text = (ROOT / RESULTS).read_text(encoding="utf-8")
    parts = dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:])
    if title not in parts:
        raise ValueError(f"{RESULTS} has no section {title!r}; there are {', '.join(parts)}")
    shown = FIGURE.sub(lambda m: figure(m["name"], m["caption"]), parts[title])
    return relinked(re.sub(r"^###", "##", shown, flags=re.MULTILINE))


def claims() -> Iterator[str]:
    """Every claim of the page of claims: its text, and what is written below it."""
    text = (ROOT / CLAIMS).read_text(encoding="utf-8")
    yield from (part.strip() for part in re.split(r"^## Claim \d+$", text, flags=re.MULTILINE)[1:])


def rows(file: str) -> Iterator[dict[str, str]]:
    """The rows of the first table of a page, cell by cell as they are written."""
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    head, _, *body = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    for cells in body:
        if len(cells) != len(head):
            break  # the next table
        yield dict(zip(head, cells, strict=True))


class Section(FilledIn):
    """A section of the results page: ```{results-section} Consolidation```."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Its text, tables and figures."""
        self.env.note_dependency(str(ROOT / RESULTS))
        try:
            text = section(self.arguments[0])
        except ValueError as error:
            raise self.error(str(error)) from error
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Shown(FilledIn):
    """One figure: ```{shown-figure} decay_forest```. The caption of another run's figure names the run."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"again": directives.flag}

    def run(self) -> list[nodes.Node]:
        """The figure with the caption that it has on the results page."""
        self.env.note_dependency(str(ROOT / RESULTS))
        name = self.arguments[0]
        run, _, short = name.rpartition("/")
        caption = f"{run}: {captions()[short]}" if run else captions()[short]
        return self.parse_text_to_nodes(figure(name, caption, "again" in self.options))


class Claims(FilledIn):
    """Claims with their verdicts, of REPLICATION.md, or of RESULTS.md where only the headlines are wanted."""

    option_spec: ClassVar[dict[str, Any]] = {"headlines": directives.flag}

    def run(self) -> list[nodes.Node]:
        """One box a claim: a row of seven columns fits no screen."""
        file = RESULTS if "headlines" in self.options else CLAIMS
        self.env.note_dependency(str(ROOT / file))
        boxes = map(_of_row, rows(file)) if file == RESULTS else map(_of_claim, claims())
        return self.parse_text_to_nodes(relinked("\n\n".join(boxes)))


def _of_row(row: dict[str, str]) -> str:
    """A claim of the headlines."""
    here, about = (row[column].strip("*") for column in (HERE, ABOUT))
    parts = [f":{name}: {row[name]}" for name in PARTS]
    return _box(row["claim"], here, "\n".join([verdicts(here, about), "", *parts]))


def _of_claim(text: str) -> str:
    """A claim with all that its section says."""
    claim, said = re.match(r"\*\*(.*)\*\*\n\n(.*)", text, re.DOTALL).groups()
    here = re.match(r"\*\*([a-z ]+)\*\*", said)[1]
    parts = re.sub(r"^- \*([a-z ]+)\*: ", r":\1: ", said, flags=re.MULTILINE)
    return _box(claim, here, parts if ":ours: none" not in parts else parts.split("\n:paper:")[0])


def _box(claim: str, here: str, said: str) -> str:
    return "\n".join(
        [f"````{{admonition}} {claim}", f":class: claim verdict-{here.replace(' ', '-')}", "", said, "````"]
    )


class Rules(FilledIn):
    """What the verdicts mean, from the list at the top of REPLICATION.md."""

    def run(self) -> list[nodes.Node]:
        """The list."""
        self.env.note_dependency(str(ROOT / CLAIMS))
        lines = (ROOT / CLAIMS).read_text(encoding="utf-8").splitlines()
        return self.parse_text_to_nodes("\n".join(line for line in lines if line.startswith("- **")))


def folders() -> list[Path]:
    """The run folders that come with the project."""
    places = ("runs/*/*/summary.json", "runs/*/summary.json", "runs/*/*/fit.json", "experiments/*/claims.csv")
    return sorted({path.parent for place in places for path in ROOT.glob(f"*/data/{place}")})


class Runs(FilledIn):
    """Every shipped run folder with its files."""

    def run(self) -> list[nodes.Node]:
        """One section a folder."""
        lines: list[str] = []
        for folder in folders():
            path = folder.relative_to(ROOT).as_posix()
            lines += [
                f"({anchor('run', path)})=",
                f"## {re.split('/data/(?:runs/)?', path)[-1]}",
                "",
                f"`{path}`",
                "",
            ]
            about = folder / "provenance.json"
            if about.is_file():
                self.env.note_dependency(str(about))
                found = json.loads(about.read_text(encoding="utf-8"))
                versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
                lines += [f"Started {found['started']}, commit `{found['commit'][:12]}`, {versions}.", ""]
            files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.stat().st_size < LARGEST]
            lines += [", ".join(f"{{download}}`{p.name} </../{path}/{p.name}>`" for p in files), ""]
            inner = [p.name for p in sorted(folder.iterdir()) if p.is_dir()]
            if inner:
                lines += [f"One folder each: {', '.join(f'`{name}`' for name in inner)}.", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("results-section", Section)
    app.add_directive("shown-figure", Shown)
    app.add_directive("claims", Claims)
    app.add_directive("verdict-rules", Rules)
    app.add_directive("shipped-runs", Runs)
