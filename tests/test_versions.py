"""The versions of torch and transformers that the package was tried with."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
# torch, transformers, Python: the core of the suite and a rehearsal of `make gpu` ran with each
TRIED = (("2.11.0", "5.17.0", "3.12"), ("2.13.0", "5.23.0", "3.11"))


def ranges() -> dict[str, Requirement]:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {one.name: one for one in map(Requirement, listed)}


def test_every_version_that_was_tried_is_allowed_and_documented():
    page = (ROOT / "docs" / "howto" / "gpu.md").read_text()
    for torch, transformers, python in TRIED:
        assert ranges()["torch"].specifier.contains(torch)
        assert ranges()["transformers"].specifier.contains(transformers)
        assert f"torch {torch} with transformers {transformers} on Python {python}" in page


def test_this_environment_is_no_older_than_the_oldest_that_was_tried():
    for place, name in enumerate(("torch", "transformers")):
        installed = Version(importlib.metadata.version(name))
        assert installed >= min(Version(tried[place]) for tried in TRIED)
    assert sys.version_info >= (3, 11)
