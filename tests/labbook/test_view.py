"""What a terminal of 80 or 120 columns shows: tables with every number whole, bars with count and time."""

import io
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from consolidation.decay import humans
from consolidation.fit import __main__ as fit
from consolidation.replicate import __main__ as replicate
from consolidation.train import __main__ as train
from consolidation.train import trajectory
from labbook import console as terminal
from labbook.console import console, progress, stages
from labbook.estimate import Estimate
from labbook.view import MOST, print_table, print_verdict, print_words
from redundancy.probe.report import beside, headline, print_tables, reached
from redundancy.probe.tables import Tables
from redundancy.removal.config import NOT_DEPLOYABLE
from redundancy.removal.report import headline as removal_headline
from redundancy.removal.report import print_losses
from redundancy.removal.tables import Losses
from redundancy.text import DATA
from redundancy.training.tables import Course, print_course

RUNS, SMALL = DATA / "runs", humans.DATA / "runs" / "small"
SHOWN = {
    "probe": lambda: print_tables(Tables.read(RUNS / "embedded" / "probe")),
    "whole probe": lambda: print_tables(Tables.read(RUNS / "embedded" / "probe"), full=True),
    "larger probe": lambda: print_tables(Tables.read(RUNS / "smollm2-135m" / "probe")),
    "larger whole probe": lambda: print_tables(Tables.read(RUNS / "smollm2-135m" / "probe"), full=True),
    "training": lambda: print_course(Course.read(RUNS / "embedded" / "training")),
    "whole training": lambda: print_course(Course.read(RUNS / "embedded" / "training"), full=True),
    "removal": lambda: print_losses(Losses.read(RUNS / "embedded" / "removal")),
    "whole removal": lambda: print_losses(Losses.read(RUNS / "embedded" / "removal"), full=True),
    "train": lambda: train.show(trajectory.summaries(SMALL / "cram")),
    "replicate": lambda: replicate.show(pd.read_csv(SMALL / "cells.csv")),
}
NUMBER = re.compile(r"[+-]?\d*\.\d+")


@pytest.fixture
def width(monkeypatch):
    def set_to(columns: int) -> None:
        monkeypatch.setattr(console, "_width", columns)

    return set_to


@pytest.mark.parametrize("name", SHOWN)
def test_tables_fit_and_no_number_is_cut(name, width, capsys):
    found = {}
    for columns in (80, 120, 1000):
        width(columns)
        SHOWN[name]()
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= columns
        assert "…" not in text
        # what stands in front of every part is not counted twice
        found[columns] = set(NUMBER.findall(text))
    assert found[80] == found[120] == found[1000]


@pytest.mark.parametrize("name", SHOWN)
def test_the_verdict_comes_first_in_five_lines(name, width, capsys):
    width(80)
    SHOWN[name]()
    lines = capsys.readouterr().out.splitlines()
    rule = next(place for place, line in enumerate(lines) if "───" in line)
    first = next(place for place, line in enumerate(lines[:rule]) if not line.strip())
    assert first >= 1
    title = [line for line in lines[:first] if line.strip()]
    assert len(title) <= MOST + 4  # the title of the first table stands below the verdict


def test_names_of_metrics_are_whole_and_explained(width, capsys):
    width(80)
    SHOWN["larger whole probe"]()
    said = capsys.readouterr().out
    for name in ("share_operations_error_below_0.5", "R_position_0", "norm_ratio_position_0"):
        assert name in said
    for name in ("R_position_0", "norm_ratio_position_0", "R2_uncentred"):
        assert f"\n{name}: " in said


@pytest.mark.parametrize("name", ["probe", "larger probe", "training"])
def test_a_first_look_fits_a_screen(name, width, capsys):
    width(80)
    SHOWN[name]()
    lines = capsys.readouterr().out.splitlines()
    # with about eleven lines of choices before them and the folder after them, 45 or so
    assert len(lines) <= 37
    assert "--full" in lines[-1]


def test_the_probe_is_held_against_its_strongest_control():
    tables = Tables.read(RUNS / "embedded" / "probe")
    number = tables.headline.controls["token_mean"]["R"]

    def said(of_token: float, difference: Estimate | None) -> str:
        controls = dict(tables.headline.controls)
        half = number.upper - number.lower
        controls["token_mean"] = {"R": Estimate(of_token, of_token - half, of_token + half, number.n)}
        # what knows more than the probe, or reaches a mean by construction, is not asked
        controls["with_position"] = controls["shuffled"] = {"R": Estimate(0.99, 0.98, 1.0, number.n)}
        differences = dict(tables.headline.differences)
        differences["token_mean"] = {} if difference is None else {"R": difference}
        return headline(replace(tables.headline, controls=controls, differences=differences))[1]

    for of_token, difference, expected in (
        (0.60, Estimate(-0.03, -0.04, -0.02, 33), "it beats the probe (-0.030 [-0.040, -0.020])"),
        (0.573, Estimate(0.01, 0.005, 0.02, 33), "the probe beats it (+0.010"),
        (0.573, Estimate(0.0, -0.01, 0.01, 33), "not told apart from the probe"),
        (0.573, None, "their intervals overlap"),
        (0.573, Estimate(0.0, np.nan, np.nan, 33), "their intervals overlap"),
        (0.90, None, "it is above the probe"),
    ):
        found = said(of_token, difference)
        assert found.startswith("Strongest control: mean per token id, R = ")
        assert expected in found
    assert "mean per token id" not in said(0.1, None)
    low, high = Estimate(0.1, 0.05, 0.2, 9), Estimate(0.5, 0.4, 0.6, 9)
    assert beside(high, low, None) == "the probe is above it"


def test_layers_in_which_a_control_reaches_the_probe_are_counted():
    tables = Tables.read(RUNS / "embedded" / "probe")
    of_r = tables.controls["metric"] == "R"
    below = tables.controls.assign(difference_lower=0.1, difference_upper=0.2)
    assert reached(replace(tables, controls=below)) == "a control reaches the probe in none of 6 layers"
    # neither what knows more nor another score counts
    for name, value in (("feature", "with_position"), ("metric", "R2")):
        below.loc[below[name] == value, ["difference_lower", "difference_upper"]] = -1, -0.5

    def having(*cases):
        rows = below.copy()
        for feature, layers, *interval in cases:
            chosen = of_r & (rows["feature"] == feature) & rows["layer"].isin(layers)
            rows.loc[chosen, ["difference_lower", "difference_upper"]] = interval
        return reached(replace(tables, controls=rows))

    previous = ("previous_token", [1, 4], -0.1, 0.0)
    assert having(previous) == "a control reaches the probe in 2 of 6 layers (previous token in 2)"
    # a few seeds leave it open, and so does an undefined interval
    assert having(("random_weights", [4], -0.1, 0.29), ("token_mean", [4, 5], np.nan, np.nan)) == (
        "a control reaches the probe in none of 6 layers, and is not told from it in 2 more (mean per token "
        "id in 2, random weights in 1)"
    )
    assert having(previous, ("random_weights", [3, 4], -0.1, 0.29)) == (
        "a control reaches the probe in 2 of 6 layers (previous token in 2), and is not told from it in 1 "
        "more (random weights in 1)"
    )


def test_a_removal_run_shows_the_best_orders_beside_random(width, capsys):
    width(80)
    SHOWN["removal"]()
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= 42
    assert "--full" in lines[-1]
    assert "(n = 33 held-out documents)" in lines[0]
    assert "(continued)" not in text
    assert "loss_recovered: the share" in text
    losses = Losses.read(RUNS / "embedded" / "removal").headline
    # by what they spare, random last; an interval is on the next line
    orders = text.split("share of operations removable")[1].split("───")[-1]
    first = [float(found) for found in re.findall(r"  (0\.\d{3})\s*$", orders, re.MULTILINE)]
    assert len(first) == 6
    assert first[:5] == sorted(first[:5], reverse=True)
    spared = [shares[0.05].share.estimate for shares in losses.removable.values()]
    assert first[0] == pytest.approx(np.nanmax(spared), abs=1e-3)
    assert first[-1] == pytest.approx(losses.removable["random"][0.05].share.estimate, abs=1e-3)


def test_an_order_that_no_model_could_follow_is_marked(width, capsys):
    width(1000)
    SHOWN["removal"]()
    text = capsys.readouterr().out
    # three of the five go by the label, by attention's output, or by other tokens
    assert text.count("(not deployable)") == 3
    assert "known from the true label (not deployable) " in text
    assert "predicted by a small network (chosen" in text
    assert "not deployable: needs the label" in text
    losses = Losses.read(RUNS / "smollm2-135m" / "removal")
    assert not set(losses.headline.removable) & set(NOT_DEPLOYABLE)
    print_losses(losses)
    assert "not deployable" not in capsys.readouterr().out


def test_the_floor_is_said_where_it_was_measured():
    losses = Losses.read(RUNS / "embedded" / "removal").headline
    alone = replace(losses, all_layers={})
    assert any("one token trained here costs 1.04 [" in said for said in removal_headline(alone))
    assert not any("one token" in said for said in removal_headline(replace(alone, floor={})))


def test_a_verdict_keeps_whole_sentences(width, capsys):
    width(40)
    print_verdict(["word " * 20, "other " * 10, "left out " * 20])
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= MOST
    assert "other" in said
    assert "left out" not in said


def test_an_interval_stays_on_one_line(width, capsys):
    width(30)
    print_words("the word before the number is 0.5 [0.25, 0.75] and here [again]")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 30
    assert any("[0.25, 0.75]" in line for line in lines)
    assert any("[again]" in line for line in lines)


def test_a_wide_table_comes_in_parts_with_its_names(width, capsys):
    width(30)
    rows = [["first [row]", *(f"{i}.500 [{i}.250, {i}.750]" for i in range(4))], None, ["x\x1b[31m", *"abcd"]]
    print_table("a title. And more", ["name", *(f"column {i}" for i in range(4))], rows)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 30
    assert text.count("continued") >= 1
    assert text.count("And more") == 1
    assert text.count("first") == 1 + text.count("continued")
    assert "\x1b" not in text
    for i in range(4):
        assert f"{i}.500" in text
        assert f"[{i}.250, {i}.750]" in text


@pytest.mark.parametrize("columns", [80, 120])
def test_bars_keep_count_and_times(columns, monkeypatch):
    out = io.StringIO()
    screen = Console(file=out, width=columns, force_terminal=True, color_system=None, soft_wrap=True)
    monkeypatch.setattr(terminal, "errors", screen)
    with stages("a run of several stages", 7):
        with progress("a description that is far too long for a terminal: held-out errors", 12345) as advance:
            advance(1234, "a note that is far too long for a terminal as well")
            time.sleep(0.3)  # the screen is drawn ten times a second
        with progress("next", 0):
            pass
    lines = [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[a-zA-Z]", out.getvalue()) if "left" in line]
    assert any("1234/12345" in line for line in lines)
    assert any("7/7" in line for line in lines)
    for line in lines:
        assert len(line.rstrip()) <= columns
        assert re.search(r"\d+/\d+\s+\d+:\d\d, (\d+:\d\d|-:--) left", line), line
    said = " ".join(out.getvalue().split())
    for word in ("description", "terminal:", "held-out", "errors"):
        assert word in said
    assert "held-out…" not in said


def test_a_failed_stage_leaves_no_bar_behind(monkeypatch):
    monkeypatch.setattr(terminal, "errors", Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="stop"), stages("run", 2), progress("one", 3):
        raise ValueError("stop")
    assert terminal._Stages.current is None


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The arguments of a finished fit; a command with the same ones shows it again."""
    args = ["cram2026_fig4a", "--bootstrap", "100", "--out", str(tmp_path_factory.mktemp("fit") / "run")]
    fit.main(args)
    return args


@pytest.mark.parametrize("columns", [80, 120])
def test_a_fit_prints_what_is_needed_first(columns, width, fitted, capsys):
    width(columns)
    fit.main(fitted)
    found = capsys.readouterr()
    lines = found.out.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("best form"))
    assert max(map(len, lines[begin:-1])) <= columns
    said = " ".join(found.out.split())
    assert said.index("best form") < said.index("cite") < said.index("rivals") < said.index("humans")
    assert "power is rejected" in said
    assert "nothing is concluded, because the form is rejected" in said
    assert "--full" in said
    assert "[[Multiverse]]" not in said


def test_a_fit_prints_everything_when_asked(fitted, capsys):
    fit.main([*fitted, "--full"])
    said = capsys.readouterr().out
    assert "[[Multiverse]]" in said
    page = (Path(fitted[-1]) / "report.html").read_text()
    assert "power is rejected" in page
    assert "seed-" not in page.split("Make it again")[1][:200]


def test_times_are_short_and_hours_are_said():
    assert [terminal._clock(s) for s in (None, 0, 65.9, 3600, 36_005)] == [
        "-:--",
        "0:00",
        "1:05",
        "1:00:00",
        "10:00:05",
    ]
