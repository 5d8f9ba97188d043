"""The cells of the experiments: what differs between them, which share a run, and their figure."""

import math

import pandas as pd

from consolidation.config import CRAMConfig
from consolidation.replicate import cell_figures
from consolidation.replicate.cells import PUBLISHED, cells
from consolidation.train.presets import PRESETS
from consolidation.train.trajectory import differences

SMALL = PRESETS["small"]
FIELDS = {
    "price of attention": {"objective.attention_penalty"},
    "onset of pressure": {"pressure_start", "pressure_ramp"},
    "temperature": {"temperature", "temperature_steps"},
    "semantic rank": {"cram.semantic_rank"},
}


def test_the_published_settings_are_put_back_one_at_a_time():
    listed = {cell.name: cell.config.recorded() for cell in cells(SMALL, ("published",))}
    whole = listed["all published"]
    assert (whole["objective"]["attention_penalty"], whole["pressure_start"], whole["pressure_ramp"]) == (
        0.1,
        0,
        0,
    )
    assert CRAMConfig(**whole["cram"]).rank == SMALL.cram.width // 16
    assert whole["temperature"] == (1.0, 0.1)
    assert whole["temperature_steps"] / whole["steps"] == 0.3  # 3,000 of the paper's 10,000

    def changed(name, there):
        return {text.partition(":")[0] for text in differences(there, listed[name])}

    assert changed("all ours", SMALL.recorded()) == set()
    assert changed("ours, no semantic reward", SMALL.recorded()) == {"objective.semantic_reward"}
    assert set(PUBLISHED) == set(FIELDS)
    for name, fields in FIELDS.items():
        assert changed(f"ours, {name} published", SMALL.recorded()) == fields
        assert changed(f"published, {name} ours", whole) == fields
    pair = changed("published, onset of pressure and temperature ours", whole)
    assert pair == FIELDS["onset of pressure"] | FIELDS["temperature"]
    assert changed("all published, learning rate", whole) == {"learning_rate"}
    assert changed("all published, learning rate and batch", whole) == {"learning_rate", "batch"}
    assert listed["all published, learning rate and batch"]["batch"] == PRESETS["paper"].batch


def test_a_cell_that_two_tables_have_is_one_run():
    by = {}
    for cell in cells(SMALL, ("published", "schedule")):
        assert by.setdefault(cell.folder, cell.config) == cell.config
    assert by["cram"] == SMALL
    assert by["schedule-pressure-from-the-start"].objective.attention_penalty == 0.5
    # at the published size nothing is left to change, and everything is one run
    assert {
        c.folder for c in cells(PRESETS["paper"], ("published",)) if "temperature over" not in c.name
    } == {
        "cram",
        "published-ours-no-semantic-reward",
    }


def test_the_way_from_the_papers_settings_is_drawn_where_it_was_run(tmp_path):
    head = ["table", "cell", "metric", "estimate", "lower", "upper", "n", "paper", "optimum"]
    rows = [
        ("published", cell.name, metric, 0.5, 0.4, 0.6, 8, math.nan, 0.015)
        for cell in cells(SMALL, ("published",))
        for metric in cell_figures.SHOWN
    ]
    table = pd.DataFrame(rows, columns=head)
    names = [name.get_text() for name in cell_figures.published(table).axes[0].get_yticklabels()]
    assert names[0] == "all published (n = 8)" and names[-1] == "all ours (n = 8)"
    assert len(names) == len(cells(SMALL, ("published",)))
    assert cell_figures.draw(table.assign(table="table1"), None, tmp_path) == []
    # a cell that has no seed yet is left out
    some = table[table["cell"] != "all published"]
    assert len(cell_figures.published(some).axes[0].get_yticks()) == len(names) - 1
