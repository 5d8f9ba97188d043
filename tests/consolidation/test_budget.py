"""Runs that are chosen by the time there is: order, resume, and what is said of the rest."""

from dataclasses import replace

import pandas as pd
import pytest

from consolidation.replicate import __main__ as replicate
from consolidation.replicate import budget, experiment
from consolidation.replicate.cells import TABLES, cells
from consolidation.replicate.config import Command
from consolidation.srcd import generate
from consolidation.train.config import Settings
from consolidation.train.presets import PRESETS, preset
from tests.conftest import fails

QUICK = replace(preset("tiny"), steps=6, evaluations=1, evaluation=4, batch=2)


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_the_comparison_that_decides_comes_first_and_paired():
    runs = {c.folder: c for c in sorted(cells(QUICK, tuple(TABLES)), key=budget.priority, reverse=True)}
    planned = budget.plan(list(runs.values()), 2)
    assert len(planned) == 2 * len(runs)
    first = ["cram", "control", "mode-keys-fixed", "keys-control-keys-fixed"]
    assert {(p.cell.folder, p.seed) for p in planned[:4]} == {(name, 0) for name in first}
    assert {(p.cell.folder, p.seed) for p in planned[4:8]} == {(name, 1) for name in first}
    fixed = next(p.cell for p in planned if p.cell.folder == "keys-control-keys-fixed")
    assert (fixed.config.model, fixed.config.cram.keys) == ("control", "fixed")
    order = [p.cell.folder for p in planned]
    assert order.index("no-quality") < order.index("transformer") < order.index("transfer-copy-trained")
    assert [p.priority for p in planned] == sorted(p.priority for p in planned)


@pytest.mark.slow
def test_minutes_are_kept_and_the_next_call_goes_on(tmp_path, monkeypatch, capsys):
    command = Command(QUICK, Settings(), ("keys",), seeds=1, minutes=0.3, out=tmp_path)
    clock = Clock()
    monkeypatch.setattr("labbook.training.time", clock)
    monkeypatch.setattr("consolidation.replicate.experiment.time", clock)
    seen = []
    for _ in range(40):
        began = clock.now
        experiment.execute(command)
        # one step, with its reading of the clock, may be begun before the end
        assert clock.now - began <= 18 + 5
        seen.append(pd.read_csv(tmp_path / "runs.csv"))
        if (tmp_path / "summary.json").exists():
            break
    shares = [list(table["state"]) for table in seen]
    assert shares[0].count("finished") < len(shares[0]) and shares[-1].count("finished") == len(shares[0])
    for states in shares:  # in order: what is finished, at most one that was begun, and the rest
        ranks = [("finished", "begun", "not run").index(state) for state in states]
        assert ranks == sorted(ranks) and ranks.count(1) <= 1
    assert list(seen[0]["run"])[:2] == ["cram", "control"]
    said = capsys.readouterr().out
    assert "not run (seeds in brackets)" in said and "The same command goes on." in said
    assert "what was run" in (tmp_path / "report.html").read_text()
    whole = Command(QUICK, Settings(), ("keys",), seeds=1, out=tmp_path / "whole")
    _, table = experiment.execute(whole)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "cells.csv"), table, check_exact=False)


def test_minutes_that_cannot_be_are_refused(capsys, tmp_path):
    for minutes in ("0", "-1", "nan"):
        said = fails(replicate.main, capsys, ["tiny", "--minutes", minutes, "--out", str(tmp_path / "r")])
        assert "give how long to train" in said


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_cell_of_every_size_can_be_generated(name):
    for cell in cells(PRESETS[name], tuple(TABLES)):
        batch = generate(cell.config.benchmark, 0, 0, 1)
        assert int(batch.key.max()) <= PRESETS[name].benchmark.keys or cell.table in (
            "novel",
            "recurrence",
            "factorial",
        )
