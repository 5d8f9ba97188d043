"""The model in people's experiments: verdicts and figures, from the shipped tables."""

from pathlib import Path

import pandas as pd
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from extension.results import figure

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "consolidation" / "data" / "experiments"
CONDITIONS = {
    "cram": "CRAM",
    "control": "the control",
    "cram-rate": "CRAM at half the learning rate",
    "cram-load": "CRAM with 64 instead of 8 new patterns",
}


class Experiment(SphinxDirective):
    """Figure and claims of an experiment: ```{memory-experiment} practice``` with the caption below it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The figure, and a table of the claims."""
        name = self.arguments[0]
        path = SHIPPED / name / "claims.csv"
        self.env.note_dependency(str(path))
        lines = [figure(f"experiments_{name}", " ".join(self.content)), ""]
        lines += ["| people | model | number [95 % interval] | verdict |", "| --- | --- | --- | --- |"]
        for row in pd.read_csv(path).to_dict("records"):
            said = str(row["people"]).removeprefix("People: ")
            number = f"{row['measured']} {row['estimate']:.2f}"
            if pd.notna(row["lower"]):
                number += f"\u00a0[{row['lower']:.2f},\u00a0{row['upper']:.2f}]"
            out = f" ({row['left_out']} left out)" if row["left_out"] else ""
            note = f" {row['note']}" if pd.notna(row["note"]) else ""
            cells = (
                f"{row['name']}. {said}",
                CONDITIONS[str(row["condition"])],
                f"{number}, n = {row['n']}{out}",
                f"**{row['verdict']}**.{note}" if note else f"**{row['verdict']}**",
            )
            lines.append("| " + " | ".join(c.replace("|", "¦").replace("<", "&lt;") for c in cells) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


class Router(SphinxDirective):
    """The control minus CRAM at the last probe: what is known, and whether it is read."""

    def run(self) -> list[nodes.Node]:
        """A table by cohort."""
        path = SHIPPED / "practice" / "against_first.csv"
        self.env.note_dependency(str(path))
        lines = ["| cohort | known without attention | P(episodic) |", "| --- | --- | --- |"]
        for role, rows in pd.read_csv(path).groupby("role", sort=False):
            by = rows.set_index("measure")
            form = "{estimate:+.2f}\u00a0[{lower:+.2f},\u00a0{upper:+.2f}], n = {n:.0f}"
            cells = [form.format(**by.loc[measure].to_dict()) for measure in ("knowledge", "probability")]
            lines.append(f"| {role} | {cells[0]} | {cells[1]} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("memory-experiment", Experiment)
    app.add_directive("memory-router", Router)
