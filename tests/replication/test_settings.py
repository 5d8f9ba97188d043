"""The table of settings has one row for every pair that was trained, each of its own seeds."""

import pandas as pd
import pytest

from consolidation.replicate import cell_figures
from replication import __main__ as pages
from replication.claims.settings import HEAD, by_setting
from replication.rows import CONTROLS, ROOT, UNREWARDED, Finished
from tests.planted_factorial import around, plant, plant_seed

SMALL = ROOT / "consolidation" / "data" / "runs" / "small"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Finished:
    """B reads more than A, E as much as D and knows little; CRAM without the reward reads more than B."""
    out = tmp_path_factory.mktemp("runs") / "factorial"
    reads = {"A": around(0.2), "B": around(0.6, 6), "D": around(0.9), "E": around(0.9)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_figures, "draw", lambda *_: [])
        plant(out, reads, known={"E": 0.3}, novel={"A": 0.5})
    for seed, value in enumerate(around(0.8, 4)):
        plant_seed(out.with_name(out.name + UNREWARDED), "A", seed, value)
        plant_seed(out.with_name(out.name + CONTROLS), "control-network", seed, 0.1 + value / 100)
    return pages.read_run(out)


def rows(runs: list[Finished]) -> pd.DataFrame:
    """The table, by the names of its head."""
    lines = [line for line in by_setting(runs) if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert tuple(cells[0]) == HEAD
    return pd.DataFrame(cells[2:], columns=list(HEAD))


def test_each_state_comes_out_of_the_seeds_of_its_pair(run):
    found = rows([run])
    assert list(found["state"]) == ["larger", "not tested", "smaller by t alone", "smaller by t alone"]
    assert [text.split("(n = ")[1] for text in found["difference"]] == ["6)", "8)", "4)", "4)"]
    assert list(found["patterns"]) == ["20", "80", "20", "20"]
    assert ["network of x" in text for text in found.iloc[:, 5]] == [False, False, True, False]
    assert ["without the reward" in text for text in found.iloc[:, 5]] == [False, False, False, True]
    assert found["CRAM reads"].iloc[3].startswith("0.80 [")
    known = found["right with attention knocked out, control"]
    assert list(known) == ["1.00 [1.00, 1.00]", "0.30 [0.30, 0.30]", "1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]"]
    assert found.iloc[0, -1] == "8 of 8, 0 of 6"


def test_theorem_1_is_judged_by_the_positions_of_the_control(run):
    # a planted router reads a twentieth of what it reads of recurring queries, of positions
    assert set(rows([run])["theorem 1"]) == {"does not hold"}


def test_runs_of_the_papers_tables_stand_with_their_keys(run):
    found = rows([run, pages.read_run(SMALL)])
    assert list(found["keys"]) == ["learned", *["fixed"] * 4]
    cells = pd.read_csv(SMALL / "cells.csv").set_index(["table", "cell", "metric"])
    for of, column in (("cram", "CRAM reads"), ("control", "control reads")):
        mean = cells.loc[("table4", of, "at_recurring"), "estimate"]
        assert found[column].iloc[0].startswith(f"{mean:.2f} [")


def test_without_a_pair_there_is_no_table(run):
    assert not list(by_setting([])) and not list(by_setting([Finished("fit", run.folder, {})]))
