"""What `consolidation.fit` reads: values that cannot be fitted are errors, and unusual ones are said."""

import math

import numpy as np
import pandas as pd
import pytest

from consolidation.decay import units
from consolidation.decay.curve import Clock, Curve
from consolidation.fit import source
from consolidation.fit.config import FitConfig
from consolidation.interface import fit_decay
from labbook.console import UserError

X = [1, 2, 4, 8, 16, 32, 64, 128]
FALLING = [0.6, 0.5, 0.3, 0.2, 0.1, 0.08, -0.05, -0.1]
MISSING = [math.nan] * len(X)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["x", "value"])
def test_a_column_without_any_number_is_an_error_that_names_it(tmp_path, ending, column):
    columns = {"x": X, "value": FALLING} | {column: MISSING}
    path = tmp_path / f"empty.{ending}"
    getattr(pd.DataFrame(columns), f"to_{ending}")(path, index=False)
    with pytest.raises(UserError, match=rf"no number in {column} but nothing \(8 rows in all\)"):
        source.read(FitConfig(str(path), clock="repetition"))
    with pytest.raises(UserError, match=rf"no number in {column}"):
        fit_decay(columns, clock="repetition")
    with pytest.raises(UserError, match="finite numbers"):
        Curve("c", *(np.array(v, dtype=float) for v in columns.values()), Clock("repetition", "count"))


def test_savings_below_0_are_kept_and_said(capsys):
    frame = pd.DataFrame({"x": X, "value": FALLING})
    found = source.given(frame, FitConfig(clock="repetition", measure="savings"))
    assert found.curve.y.min() == -0.1
    said = " ".join(capsys.readouterr().out.split())
    assert "savings below 0 kept, 2 of 8 (relearning took longer than learning" in said
    source.given(frame.assign(value=frame["value"].abs()), FitConfig(clock="repetition", measure="savings"))
    assert "below 0" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no recall is below 0"):
        source.given(frame, FitConfig(clock="repetition", measure="recall"))


def attention(tmp_path, monkeypatch, values):
    """The fit of a run whose attention at recurring queries is `values` at four evaluations."""
    table = pd.DataFrame({0: values}, index=pd.Index([1, 2, 4, 8], name="step"), dtype=float)
    monkeypatch.setattr(source.trajectory, "course", lambda *_: table)
    about = type("Summary", (), {"events": {}, "label": "Mamba"})()
    monkeypatch.setattr(source.trajectory, "summaries", lambda _: [about])
    return source.read(FitConfig(str(tmp_path)))


def test_a_run_without_recurring_queries_or_attention_is_an_error_and_no_warning(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"has no number at any evaluation.*--recurrence"):
        attention(tmp_path, monkeypatch, MISSING[:4])
    with pytest.raises(UserError, match="Mamba attends nowhere at recurring queries"):
        attention(tmp_path, monkeypatch, [0.0] * 4)


@pytest.mark.parametrize(
    ("written", "clocks"),
    [
        ("retention", ["retention interval"]),
        ("retetion interval", ["retention interval"]),
        ("Retention_Interval", ["retention interval"]),
        ("repetitions", ["repetition"]),
        ("steps", ["training step"]),
        ("training", ["repetitions over training", "training step"]),
    ],
)
def test_a_clock_that_is_a_misprint_or_a_part_of_a_known_one_is_asked_about(written, clocks):
    frame = pd.DataFrame({"x": X, "value": np.abs(FALLING)})
    question = rf"did you mean {' or '.join(map(repr, clocks))}\?.*clock=.*with no people"
    with pytest.raises(UserError, match=question):
        fit_decay(frame, clock=written, clock_unit="days")
    with pytest.raises(UserError, match=r"did you mean .*Correct the column"):
        fit_decay(frame.assign(clock=written), clock_unit="days")
    curve = Curve("c", np.array(X, dtype=float), np.abs(FALLING), Clock(written, "days"))
    with pytest.raises(UserError, match=r"the curve c: .*did you mean"):
        fit_decay(curve)


@pytest.mark.parametrize("own", ["delay", "sessions", "repetition lag", "exposure", "days since study"])
def test_a_clock_in_own_words_is_read(own):
    frame = pd.DataFrame({"x": X, "value": np.abs(FALLING)})
    assert source.given(frame, FitConfig(clock=own, clock_unit="days")).curve.clock == Clock(own, "days")


def test_clocks_of_the_registry_are_never_asked_about():
    assert not any(units.meant(clock) for clock in units.CLOCKS)


def test_a_column_that_is_called_after_another_unit_of_time_is_an_error(tmp_path):
    frame = pd.DataFrame({"days": X, "value": np.abs(FALLING)})
    delay = {"x": "days", "clock": "retention interval"}
    for unit in ("days", "day"):
        assert source.given(frame, FitConfig(**delay, clock_unit=unit)).curve.clock.unit == unit
    said = r"'days' is called after the unit 'day', and clock_unit= says 'hours'\. Correct clock_unit="
    with pytest.raises(UserError, match=said):
        fit_decay(frame, **delay, clock_unit="hours")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match="and --clock-unit says 'hours'"):
        source.read(FitConfig(str(tmp_path / "t.csv"), **delay, clock_unit="hours"))
    with pytest.raises(UserError, match="and its column `clock_unit` says 'hours'"):
        fit_decay(frame.assign(clock_unit="hours"), **delay)
    # days that count as repetitions are no times
    assert source.given(frame, FitConfig(x="days", clock="repetition", clock_unit="count"))
    # a column that is called otherwise says nothing
    for name in ("delay", "d", "s", "cs", "a"):
        other = frame.rename(columns={"days": name})
        assert source.given(other, FitConfig(**delay | {"x": name}, clock_unit="hours"))


UNITS = {"trial": X, "recall": [0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1]}
SAID = {"x": "trial", "y": "recall", "clock": "repetition", "measure": "recall"}


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"unit": ["a"] * 4 + ["A"] * 4}, {"unit": "unit"}, "is called 'A', and another 'a'"),
        ({"unit": ["a", "b"] * 3 + ["Mean"] * 2}, {"unit": "unit"}, "is called 'Mean'. A summary is no unit"),
        ({}, {"unit": "trial"}, "both name the column 'trial'"),
        ({}, {"y": "trial"}, "both name the column 'trial'"),
        ({}, {"measure": "error"}, "is called after recall, and measure= says error"),
        (
            {"rt_seconds": X},
            {"y": "rt_seconds", "measure": "error"},
            "is called after the unit 'second', and measure=",
        ),
        ({"days": X}, {"x": "days"}, "'days' is called after the unit 'day', and 'repetition' is counted"),
        ({}, {"measure": "recal"}, "measure='recal' was asked for; it takes one of 'time', 'error',"),
        ({}, {"bootstrap": "500"}, "bootstrap='500' was asked for; it takes a whole number"),
        ({}, {"margin": "0.1"}, "margin='0.1' was asked for; it takes a number or None"),
        ({}, {"hierarchical": "no"}, "hierarchical='no' was asked for; it takes True or False"),
        ({}, {"window": [1]}, "window=[1] was asked for; it takes 2 values (a number each) or None"),
        ({}, {"forms": 3}, "forms=3 was asked for; it takes a list (a text each)"),
    ],
)
def test_what_means_something_else_is_an_error(columns, asked, message):
    with pytest.raises(UserError) as error:
        fit_decay({**UNITS, **columns}, **{**SAID, **asked})
    assert message in str(error.value)


def test_swapped_columns_are_asked_about():
    table = {"days": X, "recall": UNITS["recall"]}
    asked = {"x": "recall", "y": "days", "clock": "retention interval", "clock_unit": "days"}
    with pytest.raises(UserError, match=r"Are x= and y= swapped\?"):
        fit_decay(table, **asked, measure="error")
