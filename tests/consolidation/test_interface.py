"""The commands as functions: the numbers of the command line, from data frames, arrays and keywords."""

import doctest
import html
import inspect
import json
import re
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from consolidation import fit_decay, interface, train_cram
from consolidation.config import VARIANTS, CRAMConfig, Objective, SRCDConfig
from consolidation.decay.curve import Clock, Curve
from consolidation.fit import __main__ as fit_command
from consolidation.fit.config import FitConfig
from consolidation.fit.report import read_fit
from consolidation.train import __main__ as train_command
from consolidation.train.config import Command, Settings, TrainConfig
from consolidation.train.presets import PRESETS, preset
from consolidation.train.result import TrainingRun
from labbook import console
from labbook.console import UserError

FORMS = ("power", "exponential")
QUICK = {
    "forms": FORMS,
    "bootstrap": 100,
    "x": "days",
    "y": "recall",
    "clock": "retention interval",
    "clock_unit": "days",
}
TINY = {"steps": 12, "batch": 4, "evaluation": 8, "evaluations": 2}


@pytest.fixture(scope="module")
def frame():
    g = np.random.default_rng(3)
    days = np.tile([1.0, 2, 4, 8, 16, 32, 64], 4)
    recall = 0.9 * days**-0.3 * np.exp(0.05 * g.standard_normal(len(days)))
    return pd.DataFrame({"days": days, "recall": recall, "subject": np.repeat([1, 2, 3, 4], 7)})


@pytest.fixture(scope="module")
def found(frame):
    return fit_decay(frame, **QUICK, unit="subject")


@pytest.mark.slow
def test_a_data_frame_is_fitted_like_the_file_that_holds_it(frame, found, tmp_path):
    frame.to_csv(tmp_path / "recall.csv", index=False)
    flags = ["--x", "days", "--y", "recall", "--clock", "retention interval", "--clock-unit", "days"]
    flags += ["--unit", "subject", "--bootstrap", "100", "--forms", *FORMS, "--out", str(tmp_path / "run")]
    fit_command.main([str(tmp_path / "recall.csv"), *flags])
    command = read_fit(tmp_path / "run" / "fit.json")
    ours = found.summary
    assert ours["data_hash"] == command["data_hash"]
    assert ours["gamma"] == command["gamma"]
    assert [row["gamma"] for row in ours["exponents"]] == pytest.approx(
        [row["gamma"] for row in command["exponents"]], rel=0, abs=0, nan_ok=True
    )
    saved = found.save(tmp_path / "saved")
    page = html.unescape((saved / "report.html").read_text())
    assert "from consolidation import fit_decay\n\nfit_decay(data=data, x='days', y='recall'" in page
    assert "--config" not in page
    with pytest.raises(SystemExit):
        fit_command.main(["--config", str(saved / "config.json")])
    assert {p.name for p in saved.iterdir()} == {p.name for p in (tmp_path / "run").iterdir()}
    for name in ("forms", "exponents", "multiverse", "units"):
        assert (saved / f"{name}.csv").read_text() == (tmp_path / "run" / f"{name}.csv").read_text()
        assert len(found.tables[name]) == len(pd.read_csv(saved / f"{name}.csv"))
    assert read_fit(saved / "fit.json")["gamma"] == ours["gamma"]
    with pytest.raises(UserError, match="is not empty"):
        found.save(saved)


def test_a_fit_shows_itself(found):
    assert len(repr(found).splitlines()) == 2
    assert found.headline.number.text() in repr(found)
    assert "gamma = " in found.fit_report()
    assert found.headline.number.text() in found._repr_html_()
    assert "<table" in found._repr_html_()
    assert len(found.plot().axes) == 3
    with pytest.raises(UserError, match="there are decay_fits, decay_specifications, decay_forest"):
        found.plot("other")


@pytest.mark.slow
def test_arrays_a_mapping_and_a_curve_are_the_same_data(frame, found):
    x, y, unit = (frame[name].to_numpy() for name in frame)
    order = np.argsort(x, kind="stable")
    clock = Clock("retention interval", "days")
    curve = Curve("recall", x[order], y[order], clock, unit=unit[order].astype(str))
    options = {"forms": FORMS, "bootstrap": 100}
    of_curve = fit_decay(curve, unit="subject", **options)
    of_mapping = fit_decay({"days": x, "recall": list(y), "subject": unit}, **QUICK, unit="subject")
    assert vars(of_curve.headline) == vars(of_mapping.headline) == vars(found.headline)
    without = fit_decay(replace(curve, unit=None), **options)
    assert vars(fit_decay((x, y), **QUICK).headline) == vars(without.headline)


def bad(frame):
    """What cannot be fitted, and what is said of it."""
    text = frame.astype({"recall": object})
    text.loc[3, "recall"] = "0.5x"
    gap, twice = frame.copy(), frame.copy()
    gap.loc[5, "days"] = np.nan
    twice.columns = ["days", "days", "recall"]
    masked = np.ma.masked_array([0.9, 0.8, 0.7], [False, True, False])
    return {
        "unknown column": (
            frame,
            {"y": "savings"},
            "no column 'savings'; it has days, recall, subject. .* y=",
        ),
        "no unit": (frame, {"clock_unit": None}, "in which unit days .* Say it with clock_unit="),
        "no clock": (frame, {"clock": None}, "does not say what days counts. Say it with clock="),
        "text": (text, {}, r"the data frame: row 3 \(counted from 0\) has no number in recall but '0.5x'"),
        "missing": (gap, {}, r"row 5 \(counted from 0\) has no number in days but nothing"),
        "masked": (([1, 2, 3], masked), {}, r"row 1 \(counted from 0\) has no number in recall but nothing"),
        "truth": (([1, 2], [True, False]), {}, "no number in recall but 'True'"),
        "twice": (twice, {}, "the name 'days' twice"),
        "no names": (pd.DataFrame(np.ones((3, 2))), {}, "called 0. Columns need names"),
        "empty": (frame[:0], {}, "no rows"),
        "lengths": ({"days": [1, 2], "recall": [1]}, {}, "different lengths .days 2, recall 1"),
        "dimensions": (([[1, 2]], [1]), {}, "days is of the kind list and no array of one dimension"),
        "kind": (3, {}, "of the kind int; there can be"),
        "option": (frame, {"bootstrap": 3}, "^bootstrap=3: at least 100"),
        "form": (frame, {"forms": "powr"}, "powr"),
        "window": (frame, {"window": (100.0, 200.0)}, "^window=.* leaves 0 different x of recall"),
        "series": (frame, {"series": "a"}, "so series='a' chooses nothing"),
        "file": ("nowhere.csv", {}, "nowhere.csv does not exist"),
    }


@pytest.mark.parametrize("case", list(bad(pd.DataFrame({"days": [1.0] * 8, "recall": 1.0, "s": 1}))))
def test_bad_input_is_named(case, frame):
    data, options, message = bad(frame)[case]
    with pytest.raises(UserError, match=message) as caught:
        fit_decay(data, **QUICK | options)
    assert "--" not in str(caught.value)


def test_a_curve_says_itself_what_tables_are_asked_for(frame):
    curve = Curve("mine", np.arange(1.0, 9), 1 / np.arange(1.0, 9), Clock("repetition", "count"))
    with pytest.raises(
        UserError, match=r"x= is for tables; of Curve the curve itself says it\. Leave x= out"
    ):
        fit_decay(curve, x="days")


def test_training_is_that_of_the_command(tmp_path):
    flags = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    train_command.main(["tiny", *flags, "--seeds", "2", "--out", str(tmp_path / "command")])
    expected = TrainingRun.read(tmp_path / "command")
    run = train_cram("tiny", **TINY, seeds=2, out=tmp_path / "given")
    assert [replace(one, seconds=0) for one in run.seeds] == [replace(s, seconds=0) for s in expected.seeds]
    for name in ("trajectory", "patterns"):
        ours, theirs = (getattr(r, name) for r in (run, expected))
        if name == "trajectory":
            ours, theirs = (t[t["metric"] != "seconds"].reset_index(drop=True) for t in (ours, theirs))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert set(run.summary) == {"seed-0", "seed-1"}
    assert (
        run.summary["seed-1"]["accuracy"]
        == json.loads((run.folder / "seed-1" / "summary.json").read_text())["accuracy"]
    )
    assert "of 2 seeds learnt retrieval" in run._repr_html_()
    assert len(run.plot().axes) == 3
    with pytest.raises(UserError, match="there are train_progress, train_exposure"):
        run.plot("other")
    saved = TrainingRun.read(run.save(tmp_path / "saved"), [1])
    assert saved.seeds == run.seeds[1:]
    assert set(saved.patterns["seed"]) == {1}
    with pytest.raises(UserError, match="no finished seed 7; there are 0, 1"):
        TrainingRun.read(run.folder, [7])
    # a configuration of one's own is the same run, which is finished
    own = replace(preset("tiny"), **TINY)
    assert train_cram(own, seeds=2, out=run.folder).seeds == run.seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "no preset 'huge'; there are tiny, small, base, paper"),
        ({"model": "gru"}, "no model 'gru'.*Change model="),
        ({"steps": 0}, "^steps=0 has to be at least 1"),
        ({"buffer": 1}, "Increase buffer="),
        ({"seeds": 0}, "^seeds=0: at least one seed"),
        ({"seeds": "2"}, "^seeds='2' was asked for; it takes a whole number"),
        ({"keys": "random"}, "^keys='random' was asked for; it takes one of 'learned', 'fixed'"),
        ({"report": "no"}, "^report='no' was asked for; it takes True or False"),
        (
            {"model": "control", "semantic_reward": 0.2},
            "^model=.* semantic_reward=0.2 was asked for",
        ),
        ({"width": 30, "heads": 4}, "^width=30 is not divisible by heads=4"),
    ],
)
def test_training_names_keywords(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train_cram(**options, out=tmp_path / "run")


def test_every_keyword_is_an_option_and_described():
    fit = {f.name: f.default for f in fields(FitConfig)}
    parameters = inspect.signature(fit_decay).parameters
    assert set(parameters) - {"data"} == set(fit) - {"source"}
    for name, parameter in parameters.items():
        if name not in ("data", "forms", "human"):
            assert parameter.default == fit[name], name
    parts = (TrainConfig, SRCDConfig, CRAMConfig, Objective, Settings, Command)
    assert set(inspect.signature(train_cram).parameters) - {"preset"} <= {
        f.name for c in parts for f in fields(c)
    }
    for function in (fit_decay, train_cram):
        described = re.findall(r"^    ([a-z_0-9, ]+) : ", function.__doc__, re.MULTILINE)
        named = {name for part in described for name in part.split(", ")}
        assert set(inspect.signature(function).parameters) <= named
    assert set(interface.ModelName.__args__) == set(VARIANTS)
    assert all(name in inspect.signature(train_cram).parameters["preset"].annotation for name in PRESETS)


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # choices are printed beside the results; the examples are about the results
    monkeypatch.setattr(console.console, "quiet", True)
    results = doctest.testmod(interface, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 6
    assert not results.failed
