"""A short round of the fuzzing with a fixed seed, what it found, and the page that reports the long one."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.train import trajectory
from labbook import reading as tables
from labbook.console import UserError
from labbook.run import Run, opened, read_finished, read_json, read_table, sealed, write_table
from redundancy.model.loading import load_config, load_model, locate
from redundancy.text import read_corpus
from replication.__main__ import read_run
from tests.conftest import TINY, build
from tests.fuzz.campaign import KINDS, campaign, counts
from tests.fuzz.judge import FAULTS, OUTCOMES, Case, judge, limited
from tests.fuzz.models import WEIGHT, folder_of
from tests.planted import write_gguf

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_short_round_ends_in_no_fault():
    verdicts = list(campaign(seed=1, cases=40))
    assert {v.case.kind for v in verdicts} == set(KINDS)
    wrong = [
        (v.case.kind, v.case.mutation, v.outcome, v.detail)
        for v in verdicts
        if v.outcome in FAULTS or v.needless
    ]
    assert wrong == []
    table = counts(verdicts)
    assert (table["cases"] == 40).all()
    assert (table[["clear error", "fine"]] > 0).all(axis=None), "every kind is both read and refused"


def test_the_judge_knows_every_outcome():
    def loop() -> None:
        while True:
            pass

    def refuse() -> None:
        raise UserError("no\nsuch thing")

    def fail() -> None:
        raise KeyError("x")

    cases = {
        "clear error": (refuse, None),
        "fine": (lambda: 1, lambda found: found == 1),
        "traceback": (fail, None),
        "hang": (loop, None),
        "silently wrong": (lambda: 1, None),
    }
    assert tuple(cases) == OUTCOMES
    for outcome, (read, right) in cases.items():
        assert judge(Case("k", "m", read, right, whole=True), seconds=1).outcome == outcome
    assert judge(Case("k", "m", lambda: 2, lambda found: found == 1)).outcome == "silently wrong"
    assert judge(Case("k", "m", refuse, None, whole=True)).needless


# what the fuzzing found


def test_a_damaged_page_of_a_table_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"x": [1.5, 2.5, 4.5], "y": [0.9, 0.8, 0.7]}),
        path,
        write_page_checksum=True,
        compression="none",
    )
    data = path.read_bytes()
    place = data.find(np.float64(2.5).tobytes())
    path.write_bytes(data[: place + 6] + b"\x08" + data[place + 7 :])
    with pytest.raises(UserError, match="is damaged"):
        tables.read(path)


def test_a_name_twice_in_json_is_refused(tmp_path):
    text = '{"text": "one", "text": "two"}'
    (tmp_path / "t.jsonl").write_text(text + "\n")
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match="'text' stands twice"):
        read_corpus(str(tmp_path / "t.jsonl"))
    with pytest.raises(UserError, match="'text' stands twice"):
        read_json(tmp_path / "t.json")
    place = folder_of(tmp_path / "model")
    config = (place / "config.json").read_text()
    (place / "config.json").write_text(config.replace('"n_head": 2', '"n_head": 4, "n_head": 2'))
    with pytest.raises(UserError, match="'n_head' stands twice"):
        load_config(locate(str(place)))


def load(place: Path) -> None:
    load_model(locate(str(place)), torch.device("cpu"), torch.float32, seed=0)


def test_truth_values_are_no_weights(tmp_path):
    place = folder_of(tmp_path / "model")
    tensors = load_file(place / "model.safetensors")
    for kind, name in ((torch.bool, "BOOL"), (torch.int32, "I32")):
        save_file(
            {**tensors, WEIGHT: tensors[WEIGHT].to(kind)}, place / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(UserError, match=rf"no real numbers \({WEIGHT} is {name}\)"):
            load(place)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"n_layer": 10**9}, "1,000,000,000 layers"), ({"model_type": "llama"}, "a llama of 32")],
)
def test_an_architecture_that_the_weights_cannot_fill_is_not_built(tmp_path, change, words):
    place = folder_of(tmp_path / "model")
    config = json.loads((place / "config.json").read_text())
    if "model_type" in change:
        config = {"vocab_size": 48}
    (place / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=rf"not those of its configuration.*{words}"):
        load(place)


@pytest.mark.parametrize("field", ["block_count", "embedding_length", "feed_forward_length"])
def test_a_gguf_file_that_describes_more_than_it_holds_is_refused(tmp_path, field):
    path = tmp_path / "m.gguf"
    write_gguf(path, build(TINY["llama"]))
    data = path.read_bytes()
    # a string ends, four bytes of type follow, and the number itself: its highest byte
    place = data.index(f"llama.{field}".encode()) + len(f"llama.{field}") + 4 + 3
    path.write_bytes(data[:place] + b"\x51" + data[place + 1 :])
    with limited(10), pytest.raises(UserError, match="not those of its configuration"):
        load_model(locate(str(path)), torch.device("cpu"), torch.float32, seed=0)


def test_a_summary_carries_its_checksum(tmp_path):
    table = pd.DataFrame({"layer": [0], "estimate": [0.1 + 0.2]})
    Run(tmp_path / "run", {"a": 1}).finish(
        {"t": table}, {"R": 0.25, "at": {0: np.float64(1.5), 10: float("nan")}}
    )
    summary, found = read_finished(tmp_path / "run", ("t",), "test")
    assert summary == {"R": 0.25, "at": {"0": 1.5, "10": None}}
    assert found["t"]["estimate"][0] == 0.1 + 0.2
    for name, old, new in (
        ("summary.json", "0.25", "0.35"),
        ("config.json", "1", "2"),
        ("t.csv", "0.3", "0.4"),
    ):
        path = tmp_path / "run" / name
        content = path.read_text()
        path.write_text(content.replace(old, new, 1))
        with pytest.raises(
            UserError, match=rf"{name} is not the (summary|configuration|table) that this run wrote"
        ):
            read_finished(tmp_path / "run", ("t",), "test")
        path.write_text(content)
    assert opened({"R": 0.5}, tmp_path) == {"R": 0.5}, "older summaries have none"
    with pytest.raises(UserError, match="not the summary"):
        opened({**sealed({"R": 0.5}), "R": 0.6}, tmp_path)
    with pytest.raises(UserError, match="not the summary"):
        opened({"R": 0.5, "checksun": sealed({"R": 0.5})["checksum"]}, tmp_path)


def test_pages_are_not_made_of_changed_runs(tmp_path):
    Run(tmp_path / "run", {"a": 1}).finish({"controls": pd.DataFrame({"layer": [0]})}, {"R": 0.25})
    assert read_run(tmp_path / "run").summary == {"R": 0.25}
    (tmp_path / "run" / "controls.csv").write_text("layer\n1\n")
    with pytest.raises(UserError, match=r"controls\.csv is not the table"):
        read_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path / "run")


def test_tables_are_read_to_the_last_digit(tmp_path):
    values = pd.DataFrame({"x": np.random.default_rng(0).random(500) * 10.0 ** np.arange(-250, 250)})
    write_table(tmp_path / "t.csv", values)
    assert read_table(tmp_path / "t.csv")["x"].tolist() == values["x"].tolist()


def test_a_summary_of_training_with_another_number_is_refused(tmp_path):
    source = next((ROOT / "consolidation" / "data" / "runs" / "small" / "cram").glob("seed-*"))
    place = shutil.copytree(source, tmp_path / source.name)
    summary = trajectory.read_summary(place).to_json()
    (place / "summary.json").write_text(json.dumps(sealed(summary)))
    assert trajectory.read_summary(place).to_json() == summary
    wrong = sealed(summary) | {"attention": {**summary["attention"], "all": 0.5}}
    (place / "summary.json").write_text(json.dumps(wrong))
    with pytest.raises(UserError, match="not the summary that this run wrote"):
        trajectory.read_summary(place)


# the page


def test_the_page_gives_the_numbers_of_the_table():
    table = pd.read_csv(ROOT / "figures" / "fuzz.csv")
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = [
        [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\|.*\d \|$", line)
    ]
    wanted = [[str(row[name]) for name in ("kind", "cases", *OUTCOMES)] for _, row in table.iterrows()]
    assert rows == wanted
    assert f"{table['survived'][0]} of {table['kills'][0]} kills" in page
    assert not table[list(FAULTS)].to_numpy().any()
    assert (table["survived"] == table["kills"]).all()
    assert set(table["kind"]) == {*KINDS, "all"}
