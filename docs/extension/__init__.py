"""The project's own part of the documentation: pages show what is read from the code and from run folders.

`commands`   options of every command, from the parsers that the commands use
`results`    sections, figures and verdicts of RESULTS.md and REPLICATION.md, the shipped run folders
`registries` human curves, orders of the removal curve
`formulas`   formulas as MathML
`docstrings` sections of docstrings as lists
`filled`     blocks that are filled in
"""

import zlib
from pathlib import Path

from sphinx.application import Sphinx

from extension import commands, docstrings, formulas, registries, results


def setup(app: Sphinx) -> dict[str, bool | int]:
    """Register every directive."""
    for part in (commands, docstrings, formulas, registries, results):
        part.setup(app)
    # pages that were built by an older state of these files are built again
    state = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    return {"env_version": state, "parallel_read_safe": True, "parallel_write_safe": True}
