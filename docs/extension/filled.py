"""Blocks that are filled in when the documentation is built."""

from sphinx.util.docutils import SphinxDirective


class FilledIn(SphinxDirective):
    """What stands in the block is for those who read the page unbuilt: where the same is to be found."""

    has_content = True
