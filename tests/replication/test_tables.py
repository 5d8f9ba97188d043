"""Transfer, recurrence and mode on the verdict page: made-up cells bring out every verdict, and differences
are paired by seed.
"""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from consolidation.replicate.cells import cells as listed_cells
from consolidation.replicate.cells import put_back
from consolidation.train import trajectory
from consolidation.train.presets import PRESETS
from labbook.console import UserError
from labbook.estimate import Estimate
from replication import __main__ as pages
from replication.claims import tables
from replication.claims.consolidation import experiment_rows
from replication.rows import ROOT, Finished
from replication.verdict import Verdict
from tests.planted import comes_out_each_way

SMALL = ROOT / "consolidation" / "data" / "runs" / "small"
HOLDS, FAILS, UNDECIDED, PARTLY = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED, Verdict.PARTLY
COLUMNS = ["table", "cell", "metric", "estimate", "lower", "upper", "n", "paper", "optimum"]
TRANSFER = "Transfer from SRCD to Copy and Associative recall (tables 2 and 3)"


def tight(value: float, n: int = 8) -> Estimate:
    return Estimate(value, value - 0.001, value + 0.001, n)


def wide(value: float, n: int = 8) -> Estimate:
    return Estimate(value, value - 9, value + 9, n)


CASES = {
    "transfer": (
        lambda right, gain, reduction: tables.transfers(right, 0.941, gain, reduction, 0.51),
        {
            HOLDS: [(tight(0.95), tight(0.5), tight(0.51)), (tight(1.0), tight(0.1), tight(0.5))],
            FAILS: [(tight(0.1), tight(0.0), tight(0.0))],
            PARTLY: [(tight(0.95), tight(0.5), tight(0.0)), (tight(0.95), tight(0.0), tight(0.51))],
            UNDECIDED: [
                (tight(0.95), None, tight(0.51)),
                (tight(0.95), tight(0.5), wide(0.51)),
                (tight(0.95, 2), tight(0.5, 2), tight(0.51, 2)),
            ],
        },
    ),
    "transfer to a task whose accuracy is not printed": (
        lambda gain, reduction: tables.transfers(None, None, gain, reduction, 0.49),
        {
            HOLDS: [(tight(0.5), tight(0.49))],
            FAILS: [(tight(-0.5), tight(0.0))],
            UNDECIDED: [(tight(0.5), None), (wide(0.5), tight(0.49))],
        },
    ),
    "optimum": (
        lambda *cells: tables.at_optimum(cells),
        {
            HOLDS: [((tight(0.05), tight(0.999), 0.05), (tight(0.001), tight(0.999), 0.0))],
            FAILS: [((tight(0.5), tight(0.3), 0.05),)],
            PARTLY: [((tight(0.05), tight(0.999), 0.05), (tight(0.05), tight(0.999), 0.0))],
            UNDECIDED: [((wide(0.05), tight(0.999), 0.05),), ((None, tight(0.999), 0.05),)],
            Verdict.UNTESTED: [()],
        },
    ),
    "a choice": (
        tables.makes_no_difference,
        {
            HOLDS: [(tight(0.0), tight(0.0))],
            FAILS: [(tight(0.1), tight(0.3)), (tight(-0.1), tight(-0.3)), (tight(0.1), tight(0.0))],
            UNDECIDED: [(wide(0.0), tight(0.0)), (None, None)],
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_claim_can_come_out_each_way(name):
    comes_out_each_way(*CASES[name])


def made_up(folder, cells, seeds=None) -> Finished:
    """A finished run with cells {(table, cell): {metric: value}}, and copies of shipped seeds by folder; the
    cells are of so many.
    """
    n = 5 if seeds else 8
    rows = [
        {
            "table": table,
            "cell": cell,
            "metric": metric,
            **{key: getattr(tight(value, n), key) for key in ("estimate", "lower", "upper", "n")},
            "paper": math.nan,
            "optimum": optimum if metric == "attention" else math.nan,
        }
        for (table, cell), (optimum, metrics) in cells.items()
        for metric, value in metrics.items()
    ]
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "cells.csv", index=False)
    for name, source in (seeds or {}).items():
        for seed in sorted((SMALL / source).glob("seed-*"))[:n]:
            place = folder / name / seed.name
            place.mkdir(parents=True)
            for file in ("config.json", "summary.json"):
                shutil.copy(seed / file, place)
    summary = json.loads((SMALL / "summary.json").read_text())
    return Finished("experiments", folder, summary)


def cell(right: float, attention: float, optimum: float = math.nan):
    return optimum, {"retrieval": right, "attention": attention}


@pytest.mark.parametrize(
    ("trained", "random", "scratch", "copy", "other"),
    [
        ((0.95, 0.1), (0.1, 0.3), (0.99, 0.2), HOLDS, HOLDS),
        ((0.1, 0.2), (0.1, 0.3), (0.99, 0.2), FAILS, FAILS),
        ((0.7, 0.1), (0.1, 0.3), (0.99, 0.2), PARTLY, HOLDS),
        ((0.95, 0.1), (0.1, 0.3), (0.99, 0.0), UNDECIDED, UNDECIDED),
        # what a model from scratch attends that has not learnt the task is no measure
        ((0.95, 0.1), (0.1, 0.3), (0.05, 0.2), UNDECIDED, UNDECIDED),
    ],
)
def test_transfer_is_judged_by_its_controls(tmp_path, monkeypatch, trained, random, scratch, copy, other):
    by = {"trained": trained, "random": random, "from scratch": scratch}
    cells = {("transfer", f"{task}, {name}"): cell(*v) for task in tables.TASKS for name, v in by.items()}

    def seeds(_, table, cell, metric):
        assert table == "transfer"
        value = by[cell.split(", ")[1]][metric == "attention"]
        # less noise where the value is none, so that nothing is divided by it
        return pd.Series(np.full(5, value) + (value > 0) * 1e-4 * np.arange(5))

    monkeypatch.setattr(tables, "of_seeds", seeds)
    run = made_up(tmp_path, cells)
    first, second = tables.table_rows(run)
    assert (first.here, second.here) == (copy, other)
    assert first.verdict == "not tested on the paper's model"
    assert first.paper == "0.941 right, 51% less attention"
    assert second.paper == "49% less attention"
    assert first.scale.startswith("CRAM with learned keys, 100 patterns")
    assert "random frozen: 0.100" in first.control
    assert TRANSFER not in [row.claim for row in pages.rows_of([run])]


def test_transfer_without_its_controls_is_undecided(tmp_path):
    cells = {("transfer", "copy, trained"): cell(0.95, 0.1)}
    (row,) = tables.table_rows(made_up(tmp_path, cells))
    assert row.here is UNDECIDED
    assert "random frozen: – right" in row.control
    run = made_up(tmp_path, {("table1", "cram"): cell(1.0, 0.016)})
    assert list(tables.table_rows(run)) == []
    assert TRANSFER in [row.claim for row in pages.rows_of([run])]


def test_differences_are_paired_by_seed(tmp_path):
    names = {"trained": "cram", "random": "control", "from scratch": "no-quality"}
    cells = {("transfer", f"copy, {name}"): cell(1.0, 0.016) for name in names}
    folders = {f"transfer-copy-{name.replace(' ', '-')}": source for name, source in names.items()}
    run = made_up(tmp_path, cells, folders)
    found = {
        name: [
            json.loads((SMALL / source / f"seed-{seed}" / "summary.json").read_text())
            for seed in (0, 1, 2, 3, 4)
        ]
        for name, source in names.items()
    }
    gain = stats.ttest_1samp(
        [
            a["accuracy"]["query"] - b["accuracy"]["query"]
            for a, b in zip(found["trained"], found["random"], strict=True)
        ],
        0,
    )
    (row,) = tables.table_rows(run)
    low, high = gain.confidence_interval(0.95)
    assert f"[{low:+.3f}, {high:+.3f}] (n = 5)" in row.ours
    x, y = (
        np.array([one["attention"]["all"] for one in found[name]]) for name in ("trained", "from scratch")
    )
    less = tables.reduced(pd.Series(x), pd.Series(y))
    assert less.estimate == pytest.approx(1 - x.mean() / y.mean())
    for limit in (less.lower, less.upper):
        # the ratio at a limit is just not rejected
        assert stats.ttest_1samp(x - (1 - limit) * y, 0).pvalue == pytest.approx(0.05)
    assert f"{less.text(2)[:4]}" in row.ours


def test_a_reduction_needs_something_to_reduce_and_every_seed():
    more = pd.Series([0.2, 0.21, 0.19, 0.2])
    assert tables.reduced(0.5 * more, more).lower == pytest.approx(0.5)
    assert tables.reduced(more, pd.Series([0.0, 0.0, 0.0, 0.2])) is None
    assert tables.reduced(more.iloc[:3], more) is None
    assert tables.reduced(more.iloc[:1], more.iloc[:1]) is None


@pytest.mark.parametrize(
    ("attention", "verdict"), [((0.05, 0.015, 0.0), HOLDS), ((0.05, 0.05, 0.05), PARTLY)]
)
def test_eq_13_has_to_be_reached_at_every_recurrence(tmp_path, attention, verdict):
    optima = {"0%": 0.05, "70%": 0.015, "100%": 0.0}
    cells = {
        ("recurrence", name): cell(0.999, a, optimum)
        for (name, optimum), a in zip(optima.items(), attention, strict=True)
    }
    (row,) = tables.table_rows(made_up(tmp_path, cells))
    assert row.here is verdict
    assert "70%:" in row.ours
    wrong = "; does not hold with 70%, 100%" if attention[1] == 0.05 else ""
    assert f"Attention alone: holds with 0%{'' if wrong else ', 70%, 100%'}{wrong}. Alike" in row.sentence
    assert "which no attention at all is with 100%, and complete 99%. Attention is priced at" in row.sentence
    assert "(n = 8) for 0.0150" in row.ours
    missing = "Eq 13 is reached at every recurrence"
    assert missing not in [one.claim for one in pages.rows_of([made_up(tmp_path, cells)])]
    assert missing in [one.claim for one in pages.rows_of([])]


@pytest.mark.parametrize(
    ("published", "back", "verdict"),
    [
        ((0.68, 0.0), (0.999, 0.015), FAILS),
        ((0.999, 0.015), (0.68, 0.3), HOLDS),
        ((0.68, 0.015), (0.68, 0.3), PARTLY),
    ],
)
def test_the_published_settings_can_work_and_fail_and_every_step_is_named(tmp_path, published, back, verdict):
    ends = {
        "all ours": (0.999, 0.015),
        "all published": published,
        "published, temperature ours": back,
        "published, onset of pressure ours": (0.68, 0.3),
        "published, onset of pressure and temperature ours": (0.999, 0.015),
        "ours, price of attention published": (0.999, 0.015),
    }
    cells = {("published", name): cell(*v, 0.015) for name, v in ends.items()}
    (row,) = tables.table_rows(made_up(tmp_path, cells))
    # by `at_optimum` of a single cell: attention within .005 of .015, and all answers right
    assert row.here is verdict
    works = back == (0.999, 0.015)
    assert ("holds with temperature ours" in row.sentence) is works
    assert "does not hold with" in row.sentence
    assert "onset of pressure ours" in row.sentence
    assert "those were seen: holds with onset of pressure and temperature ours." in row.sentence
    assert "With one changed of ours: holds with price of attention published." in row.sentence
    assert row.ours.startswith(f"{published[1]:.4f} ")
    # 4,000 of its 10,000 steps, and so on
    assert "What else is not the preprint's, in all of them: benchmark.length," in row.sentence
    assert " learning_rate," in row.sentence
    slower = {("published", "all published, learning rate"): cell(0.999, 0.015, 0.015)}
    (row,) = tables.table_rows(made_up(tmp_path / "slower", cells | slower))
    assert "and another choice: holds with learning rate." in row.sentence
    assert " learning_rate," not in row.sentence and " batch," in row.sentence
    assert "; published, onset of pressure and temperature ours: 0.0150 [" in row.control


def test_a_cell_that_is_undecided_shows_its_seeds_and_one_without_any_is_named(tmp_path):
    back = put_back("onset of pressure")
    folder = next(c.folder for c in listed_cells(PRESETS["small"], ("published",)) if c.name == back)
    ends = {("published", name): cell(0.999, 0.015, 0.015) for name in ("all ours", "all published")}
    run = made_up(tmp_path, ends | {("published", back): cell(0.999, 0.015, 0.015)}, {folder: "cram"})
    table = pd.read_csv(run.folder / "cells.csv")
    open_end = table["cell"] == back
    table.loc[open_end, ["lower", "upper"]] = [-1.0, 2.0]
    table.to_csv(run.folder / "cells.csv", index=False)
    (row,) = tables.table_rows(run)
    values = [s.attention["all"] for s in trajectory.summaries(SMALL / "cram")]
    seeds = ", ".join(f"{value:.4f}" for value in values)
    assert f"undecided with onset of pressure ours (by seed {seeds})." in row.sentence
    assert "Not run: published, price of attention ours; " in row.sentence
    shutil.rmtree(run.folder / folder / "seed-4")
    with pytest.raises(UserError, match="has 4 seeds and the table beside it is of 5"):
        list(tables.table_rows(run))


def test_a_metric_of_a_seed_is_read_from_the_folder_of_its_cell(tmp_path):
    run = made_up(tmp_path, {}, {"cram": "cram", "schedule-pressure-from-the-start": "control"})
    ours, alone = (
        tables.of_seeds(run, "published", cell, "attention")
        for cell in ("all ours", "ours, onset of pressure published")
    )
    whole = [s.attention["all"] for s in trajectory.summaries(SMALL / "control")]
    assert list(alone) == whole
    assert list(ours) != whole
    with pytest.raises(UserError, match="holds no finished seed"):
        tables.of_seeds(run, "published", "all published", "attention")


def test_a_choice_that_the_preprint_leaves_open_is_no_claim_of_it(tmp_path):
    cells = {("mode", name): cell(1.0, 0.016) for name in ("q predicted", "q oracle", "keys fixed")}
    # the predicted quality is the preset's, so its cell is the run of CRAM
    run = made_up(tmp_path, cells, {"cram": "cram", "mode-q-oracle": "cram"})
    (row,) = tables.table_rows(run)
    assert (row.here, row.verdict) == (HOLDS, "not one of its claims")
    assert "+0.0000 [+0.0000, +0.0000] (n = 5) of positions" in row.ours
    assert f"by seed {', '.join(['+0.0000'] * 5)} of positions" in row.sentence
    assert "Attention is priced at 0.5." in row.sentence and "may turn this" not in row.sentence
    beside = [pages.read_run(SMALL.with_name("factorial"))]
    (row,) = tables.table_rows(run, beside)
    assert "With fixed keys, that price and 8,000 steps CRAM reads 0.07 [" in row.sentence
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="holds no finished seed"):
        list(tables.table_rows(made_up(tmp_path / "other", cells)))


def test_runs_older_than_a_correction_are_counted(tmp_path):
    run = made_up(tmp_path, {("table1", "seqboat"): cell(0.94, 0.0)}, {"seqboat": "seqboat"})
    seeds = sorted((tmp_path / "seqboat").iterdir())
    for seed in seeds:
        day = "22" if seed == seeds[0] else "29"
        (seed / "provenance.json").write_text(json.dumps({"started": f"2026-11-{day}T00:00:00Z"}))
    (row,) = experiment_rows(run)
    assert f"1 of {len(seeds)} runs of seqboat are older than a correction: its shut gates" in row.sentence
    (seeds[0] / "provenance.json").write_text(json.dumps({"started": "2026-11-29T00:00:00Z"}))
    (row,) = experiment_rows(run)
    assert "correction" not in row.sentence
