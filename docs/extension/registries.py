"""Human curves with their sources and exponents, from the shipped tables and a shipped fit; the orders of the
removal curve in words.
"""

import json
from pathlib import Path

import pandas as pd
from docutils import nodes
from sphinx.application import Sphinx

from extension.filled import FilledIn
from redundancy.removal.config import ORDERS

ROOT = Path(__file__).parents[2]
HUMAN = ROOT / "consolidation" / "data" / "human"
# the fit that holds the exponents of the human curves on the clock of repetitions
EXPONENTS = ROOT / "consolidation" / "data" / "runs" / "fits" / "figure4a" / "fit.json"


class People(FilledIn):
    """The registry of human curves with the exponents that a shipped fit gives them."""

    def run(self) -> list[nodes.Node]:
        """A table for each clock."""
        for path in (EXPONENTS, *HUMAN.glob("*.csv")):
            self.env.note_dependency(str(path))
        table = pd.concat([pd.read_csv(HUMAN / f"{name}.csv") for name in ("practice", "retention")])
        names = pd.read_csv(HUMAN / "classes.csv", dtype=str).set_index("series")["name"]
        fitted = {row["series"]: row for row in json.loads(EXPONENTS.read_text(encoding="utf-8"))["humans"]}
        lines: list[str] = []
        for clock, series in table.groupby("clock", sort=False):
            lines += [f"## Clock: {clock}", ""]
            lines += ["| series | task | subjects | measure | points | γ, pure power law | source |"]
            lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
            for name, points in series.groupby("series", sort=False):
                first = points.iloc[0]
                source = f"[{first['doi']}](https://doi.org/{first['doi']})" if pd.notna(first["doi"]) else ""
                if pd.notna(first["republished_in"]):
                    source += f" (of {first['republished_in']})"
                source = "; ".join(
                    x for x in (source, f"{first['how_read']} (confidence: {first['confidence']})") if x
                )
                found = fitted.get(str(name))
                gamma = (
                    ""
                    if found is None
                    else "{estimate:.3f}\u00a0[{lower:.3f},\u00a0{upper:.3f}]".format(**found)
                )
                subjects = "" if pd.isna(first["n_subjects"]) else f"{first['n_subjects']:.0f}"
                cells = (
                    f"{names[name]} (`{name}`)",
                    f"{first['material']}",
                    subjects or "not known",
                    f"{first['measure']}",
                    f"{len(points)}",
                    gamma or "not compared",
                    source,
                )
                lines.append(
                    "| " + " | ".join(c.replace("|", "¦").replace("<", "&lt;") for c in cells) + " |"
                )
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Orders(FilledIn):
    """Orders of the removal curve: the name in tables and options, and the words of sentences and figures."""

    def run(self) -> list[nodes.Node]:
        """One row per order."""
        rows = [f"| `{name}` | {words} |" for name, words in ORDERS.items()]
        return self.parse_text_to_nodes("\n".join(["| in tables | in words |", "| --- | --- |", *rows]))


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("human-curves", People)
    app.add_directive("removal-orders", Orders)
