"""How the documentation is built: `make docs`, offline, with warnings as errors."""

import sys
import tomllib
from pathlib import Path

from labbook import __version__

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

about = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = about["name"]
author = about["authors"][0]["name"]
copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "extension",  # beside this file: options from the parsers, results from the result pages
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Headings can be linked, $formulas$ are formulas, and lists of terms are lists of terms.
myst_enable_extensions = ["dollarmath", "deflist", "fieldlist"]
myst_heading_anchors = 3
# Notebooks are shown as they are stored, with the outputs that they hold; a build computes nothing.
nb_execution_mode = "off"

# `name` in a docstring is code
default_role = "code"
autodoc_typehints_format = "short"
# there are no lists of other projects' names offline
nitpick_ignore_regex = [
    (
        "py:class",
        r"(pandas|numpy|pathlib|collections|matplotlib|torch|typing"
        r"|redundancy\.(\w+\.)+(kept|summary|tables))\..*",
    ),
    # as they stand in signatures whose imports wait until they are called
    (
        "py:class",
        r"Data|Path|Feature|Target|Figure|TrainConfig|TrainingRun|PartName|Tensor|Any|optional"
        r"|Tables|Course|Losses",
    ),
]
autodoc_member_order = "bysource"
html_math_renderer = "mathml"  # by docutils: no script and nothing fetched when a page is opened

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
