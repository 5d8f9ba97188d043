"""The claims, each a predicate over finished runs, and the rows of the pages that they become."""
