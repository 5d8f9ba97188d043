"""Typed summaries: what the shipped runs hold is read and written again as it was."""

import pytest

from labbook.console import UserError
from labbook.run import CHECKSUMS, opened, read_json, typed, write_json
from redundancy.probe.summary import ProbeSummary
from redundancy.removal.summary import RemovalSummary
from redundancy.text import DATA
from redundancy.training.summary import CourseSummary


@pytest.mark.parametrize(
    ("kind", "summary"),
    [("probe", ProbeSummary), ("training", CourseSummary), ("removal", RemovalSummary)],
)
def test_a_summary_survives_reading_and_writing(tmp_path, kind, summary):
    path = DATA / "runs" / "embedded" / kind / "summary.json"
    stored = {key: value for key, value in opened(read_json(path), path).items() if key != CHECKSUMS}
    write_json(tmp_path / "summary.json", summary.read(stored).json())
    again = read_json(tmp_path / "summary.json")
    if "layers" in stored:  # older runs do not say how many layers there are
        stored.setdefault("depth", len(stored["layers"]))
    assert again == stored


@pytest.mark.parametrize("summary", [ProbeSummary, CourseSummary, RemovalSummary])
def test_a_summary_that_lacks_a_part_is_an_error(summary):
    with pytest.raises(KeyError):
        summary.read({"model": "embedded", "layers": [0]})


def test_a_run_whose_summary_lacks_a_part_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"summary\.json lacks what this version reads \(KeyError: 'feature'\)"
    ):
        typed(ProbeSummary.read, {"model": "embedded"}, tmp_path)
