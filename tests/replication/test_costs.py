"""The tables of docs/costs.md say what the benchmark files hold, in units that can be read."""

import pandas as pd
import pytest

from labbook.console import UserError
from replication.costs import costs


def files(tmp_path, ratio=1.5, seconds=0.0021, n=9):
    probe = {
        "model": ["m", "m"],
        "comparison": ["pass 1 / plain forward, seconds per batch", "peak memory, 10 / 1 tokens, bytes"],
        "ours": [2 * seconds, 3.0e9],
        "other": [seconds, 1.5e6],
        "ratio": [ratio, 2000.0],
        "lower_quartile": [1.25, 2000.0],
        "upper_quartile": [1.75, 2000.0],
        "n": [n, 1],
    }
    growing = ["one layer, cram, 64 positions", "one layer, cram: exponent of time from 4,096 positions on"]
    growing.append("one layer, cram: exponent of memory from 4,096 positions on")
    cram = {
        "what": ["step, a / b", *growing],
        "ratio": [0.5, None, 1.25, 1.0],
        "lower_quartile": [None] * 4,
        "upper_quartile": [None] * 4,
        "n": [1, 15, 3, 3],
        "target": ["at most 1", None, None, None],
        "numerator_seconds": [4.0, None, None, None],
        "denominator_seconds": [8.0, 0.5, None, None],
        "bytes": [None, 2.5e6, None, None],
    }
    pd.DataFrame(probe).to_csv(tmp_path / "probe.csv", index=False)
    pd.DataFrame(cram).to_csv(tmp_path / "cram.csv", index=False)
    return tmp_path / "probe.csv", tmp_path / "cram.csv"


def test_units_and_quartiles_are_those_of_the_files(tmp_path):
    text = "\n".join(costs(*files(tmp_path)))
    quartiles = "1.50 [quartiles 1.25, 1.75], n = 9 pairs"
    assert f"| pass 1 / plain forward, per batch | m | 4.20 ms | 2.10 ms | {quartiles} |" in text
    assert "| peak memory, 10 / 1 tokens | m | 3.00 GB | 1.50 MB | 2,000 |" in text
    assert "| step, a / b | 4.00 s | 8.00 s | 0.500 | at most 1 |" in text
    assert "| 64 positions | 500 ms | 2.50 MB |" in text
    assert "| length ^ 1.25 | length ^ 1.00 |" in text


def test_one_pair_has_no_quartiles(tmp_path):
    assert "1.50 |" in costs(*files(tmp_path, n=1))[1]


def test_another_measurement_is_another_page(tmp_path):
    assert costs(*files(tmp_path)) != costs(*files(tmp_path, seconds=0.0022))
    (tmp_path / "probe.csv").write_text("")
    with pytest.raises(UserError, match=r"probe\.csv"):
        costs(tmp_path / "probe.csv", tmp_path / "cram.csv")


def test_what_a_seed_took_is_that_of_its_summary(tmp_path):
    for cell, steps, seconds in (("a", 10, 60), ("b", 10, 300), ("c", 10, 120), ("d", 2000, 3600)):
        place = tmp_path / "runs" / cell / "seed-0"
        place.mkdir(parents=True)
        (place / "summary.json").write_text(f'{{"steps": {steps}, "seconds": {seconds}}}')
    text = costs(*files(tmp_path), trained=[tmp_path / "runs"])[-1]
    assert text.splitlines()[2:] == [
        "| runs | 10 | 3 | 2.0 (1.0 to 5.0) | 0.1 |",
        "| runs | 2,000 | 1 | 60.0 (60.0 to 60.0) | 1.0 |",
    ]
