"""The project's own part of the documentation: what the pages show is read from the code and from run folders.

`commands`   options of every command, from the parsers that the commands use
`results`    sections, figures and verdicts of RESULTS.md and REPLICATION.md, the shipped run folders
`registries` forms of decay and human curves
`formulas`   formulas as MathML
`docstrings` sections of docstrings as lists
"""

from sphinx.application import Sphinx

from extension import commands, docstrings, formulas, registries, results


def setup(app: Sphinx) -> dict[str, bool]:
    """Register every directive."""
    for part in (commands, docstrings, formulas, registries, results):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
