"""The project's own part of the documentation: what the pages show is read from the code and from run folders.

`commands`   options of every command, from the parsers that the commands use
`results`    sections, figures and verdicts of RESULTS.md and REPLICATION.md, the shipped run folders
`registries` forms of decay and human curves
`formulas`   formulas as MathML
"""

from sphinx.application import Sphinx

from extension import commands, formulas, registries, results


def setup(app: Sphinx) -> dict[str, bool]:
    """Register every directive."""
    for part in (commands, formulas, registries, results):
        part.setup(app)
    # a page that is read again depends on files outside the folder, so nothing here is safe to reuse blindly
    return {"parallel_read_safe": True, "parallel_write_safe": True}
