"""What the verdict page is made of: finished runs and rows."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labbook.estimate import Estimate
from labbook.run import read_json
from replication.verdict import Verdict

ROOT = Path(__file__).parent.parent
# the two columns of verdicts: on what was run, and on what the preprint speaks of
HERE, ABOUT = "on the model that was run", "about the preprint's model"
# a run made again with another seed, or in windows of another length, lies beside it; behind the name of its
# folder stand this and the seed, or the tokens; and one on running text
REPEAT, CONTEXT, RUNNING = "-seed-", "-context-", "-running"
# behind the name of a factorial: its cell A made again without the reward of the semantic path, lambda_S = 0
UNREWARDED = "-reward-0"
# likewise: other controls in the place of its cell B
CONTROLS = "-controls"
# likewise: its cells made again with so many novel keys that each is bound a few times
UNFAMILIAR = "-unfamiliar"
# likewise: with learned keys
LEARNED = "-learned"

# what a claim's own section says, in its order
PARTS = ("paper", "ours", "control", "model and scale")


def verdicts(here: str, about: str) -> str:
    """Both verdicts of a claim in a sentence."""
    return f"**{here}** {HERE}; {ABOUT}: {about}." if here != about else f"**{about}**."


@dataclass(frozen=True)
class Finished:
    """A finished run folder: its kind, its summary, and where it is relative to the project."""

    kind: str
    folder: Path
    summary: dict[str, Any]

    @property
    def link(self) -> str:
        """The folder as a Markdown link."""
        if not self.folder.is_relative_to(ROOT):
            return f"`{self.folder.name}`"
        return f"[run]({self.folder.relative_to(ROOT).as_posix()})"

    def beside(self, mark: str) -> "Finished":
        """What the name of this folder with `mark` behind it names, whether it is there or not."""
        return replace(self, folder=self.folder.with_name(f"{self.folder.name}{mark}"))

    @property
    def scale(self) -> str:
        """Model, tokens and documents."""
        tokens, documents = self.summary["tokens"], self.summary["documents"]
        text = (
            f"{tokens['evaluation']:,} held-out tokens of {documents['evaluation']} {self.summary['unit']}s"
        )
        return f"{self.summary['model']}, {text}"

    @property
    def figures(self) -> Path:
        """Where its committed figures are: in a folder of its own where there is one."""
        of = self.folder.parent if self.summary.get("model", "embedded") != "embedded" else self.folder
        own = ROOT / "figures" / of.name
        return own if own.is_dir() else ROOT / "figures"

    def figure(self, name: str) -> str:
        """A committed figure of this run as a Markdown link, empty where there is none."""
        path = self.figures / f"{name}.png"
        return f"[figure]({path.relative_to(ROOT).as_posix()}), " if path.is_file() else ""


@dataclass(frozen=True)
class Row:
    """One line of the page.

    Attributes
    ----------
    claim, paper, ours, control, scale, sentence, links : as printed.
    here : what the run says about the claim on its own model and scale.
    own : whether that is the model and scale of the claim; if not, the claim itself stays untested.
    headline : whether the results page shows it at the top.
    claimed : whether the preprint makes the claim; if not, it is one of this project's own tests.
    """

    claim: str
    paper: str
    ours: str
    control: str
    scale: str
    here: Verdict
    own: bool
    sentence: str
    links: str
    headline: bool = False
    claimed: bool = True

    @property
    def verdict(self) -> str:
        """The verdict on the preprint's claim."""
        if not self.claimed:
            return "not one of its claims"
        if self.own or self.here is Verdict.UNTESTED:
            return self.here.value
        return "not tested on the paper's model"


def table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(c)} |" for c in (head, ["---"] * len(head), *cells)]


def figure(name: str, caption: str) -> list[str]:
    """The lines of a committed figure with its caption, none where it is not drawn."""
    if not (ROOT / "figures" / f"{name}.png").is_file():
        return []
    return [f"![{caption}](figures/{name}.png)", "", f"*{caption}*", ""]


def minutes(folder: Path) -> dict[int, list[float]]:
    """What the shipped seeds of all cells in a folder took, by their number of steps.

    Raises UserError for a summary that cannot be read.
    """
    found = dict[int, list[float]]()
    for path in sorted(folder.glob("*/seed-*/summary.json")):
        summary = read_json(path)
        found.setdefault(int(summary["steps"]), []).append(float(summary["seconds"]) / 60)
    return found


def exponent(row: Mapping[str, Any]) -> Estimate | None:
    """gamma of a row of exponents with its interval; None where it has no end."""
    return number({"estimate": row["gamma"], **{k: row[k] for k in ("lower", "upper", "n")}})


def number(values: Mapping[Any, Any] | None) -> Estimate | None:
    """An estimate as a file holds it; None where it is missing, NaN where the file has null."""
    return None if values is None else Estimate.read(values)


def interval(values: Estimate | None, digits: int = 2) -> str:
    """Estimate and interval without n, where that is said elsewhere."""
    return "–" if values is None or math.isnan(values.estimate) else values.text(digits)


def show(values: Estimate | None, digits: int = 2, *, sign: bool = False) -> str:
    """Estimate with interval and n; without an interval if it has none."""
    if values is None:
        return "–"
    if math.isnan(values.lower):
        return f"{values.estimate:{'+' if sign else ''}.{digits}f} (n = {values.n})"
    return values.text(digits, sign=sign, n=True)


def window(fit: Mapping[str, Any]) -> str:
    """The window of a fit with its ends rounded: numbers from 100 on are whole, smaller ones have three
    figures. The unit is named only where it is another than that of the clock, which stands beside it.
    """
    text = re.sub(r"\d+\.\d+", lambda found: _rounded(float(found.group())), str(fit["window"]))
    return text.removesuffix(f" {fit['clock']['unit']}")


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
