"""What the verdict page is made of: finished runs, rows, and the rules by which a row gets its verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not testable here"
RULES = {
    REPRODUCED: "the paper's number lies in our 95 % interval, widened by the spread that the paper gives; or a claim about a direction holds with an "
    "interval that excludes zero",
    PARTLY: "it holds for a part of what is claimed; the sentence says which",
    NOT: "neither, on the model that was run",
    UNTESTED: "no run of this claim exists, or it is about a model that was not run",
}


@dataclass(frozen=True)
class Finished:
    """A finished run folder: its kind, its summary, and where it is relative to the project."""

    kind: str
    folder: Path
    summary: dict[str, Any]

    @property
    def link(self) -> str:
        """The folder as a Markdown link."""
        inside = self.folder.is_relative_to(ROOT)
        place = self.folder.relative_to(ROOT).as_posix() if inside else self.folder.name
        return f"[run]({place})" if inside else f"`{place}`"

    @property
    def scale(self) -> str:
        """Model, tokens and documents."""
        tokens, documents = self.summary["tokens"], self.summary["documents"]
        return f"{self.summary['model']}, {tokens['evaluation']:,} held-out tokens of {documents['evaluation']} {self.summary['unit']}s"


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    claim: str
    paper: str
    ours: str
    control: str
    scale: str
    verdict: str
    sentence: str
    links: str
    headline: bool = False


def show(number: dict[str, Any], digits: int = 2) -> str:
    """Estimate with interval and n; a single unit has no interval."""
    interval = (
        "" if number["lower"] != number["lower"] else f" [{number['lower']:.{digits}f}, {number['upper']:.{digits}f}]"
    )
    return f"{number['estimate']:.{digits}f}{interval} (n = {number['n']:.0f})"


def holds(number: dict[str, Any], stated: float, spread: float = 0.0) -> bool:
    """Whether a stated number lies in an interval widened by the stated spread."""
    return bool(number["lower"] - spread <= stated <= number["upper"] + spread)


def figure_link(name: str) -> str:
    """A committed figure as a Markdown link."""
    return f"[figure](figures/{name}.png)"
