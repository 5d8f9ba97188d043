"""What stands beside an exponent: the mean of units is not its units, and counted trials are whole."""

import re

import numpy as np
import pandas as pd
import pytest

from consolidation import fit_decay
from consolidation.decay.units import time_named
from labbook.console import UserError

X = np.array([1.0, 2, 3, 5, 8, 13, 21, 34])
ASKED = {"x": "trial", "clock": "repetition", "bootstrap": 100}
FORMS = ("power", "power_asymptote", "exponential", "constant")


def of_units(rows, **more):
    frame = pd.DataFrame(rows, columns=["subject", "trial", "seconds"])
    asked = {**ASKED, "y": "seconds", "unit": "subject", "measure": "time", "forms": FORMS, **more}
    return fit_decay(frame, **asked)


def test_units_that_follow_a_law_are_not_said_to_leave_it_where_their_mean_does():
    g = np.random.default_rng(1)
    exponents = (0.05, 0.1, 0.6, 0.9, 1.2, 1.5)
    rows = [(u, x, 9 * x**-e * np.exp(0.05 * g.normal())) for u, e in enumerate(exponents) for x in X]
    found = of_units(rows)
    assert found.comparison.standing("power").state == "does not survive"
    shown = repr(found)
    assert "describes a curve that the mean of the units does not follow" in shown
    assert "units: the power law describes 100% of 6 single units better than the exponential" in shown
    # the AICc is of the mean at each x, the exponent by loglog of geometric means, whose law holds here
    stated = re.search(r"loglog; of geometric means, (\S+) of the means that are compared", shown)
    fitted = found.comparison.fits["power"]
    own = found.exponent("power", "loglog")
    assert own.gamma == pytest.approx(np.mean(exponents), abs=0.05)
    assert fitted.estimator == "loglog" and f"{fitted.exponent:.3f}" == stated[1]
    assert fitted.exponent < 0.7 * own.gamma
    assert stated[0].partition("; ")[2] in found.to_latex()


@pytest.mark.parametrize("same", [True, False])
def test_units_at_different_x_are_told(same):
    """Three slow subjects at the early trials and three fast ones at the late: nobody changes."""
    g = np.random.default_rng(2)
    early, late = (X, X) if same else (X[:4], X[4:])
    rows = [
        (u, x, (10 if u < 3 else 3) * (1 + 0.03 * g.normal()))
        for u in range(6)
        for x in (early if u < 3 else late)
    ]
    found = of_units(rows, forms=("power", "exponential", "constant"))
    said = "units were observed at different x" in " ".join(found.cautions)
    assert said is not same


@pytest.mark.parametrize("copies", [True, False])
def test_counted_rows_that_are_there_twice_are_told(copies):
    k = np.array([16, 13, 11, 10, 8, 6, 5, 4])
    frame = pd.DataFrame({"trial": X, "recall": k / 20, "n": 20})
    frame = pd.concat([frame, frame]) if copies else frame
    asked = {**ASKED, "y": "recall", "count": "n", "measure": "recall", "forms": ("power", "exponential")}
    said = " ".join(fit_decay(frame, **asked).cautions)
    assert ("every row is there more than once" in said) is copies
    assert ("16 rows are pooled, with their trials, at each of the 8 x" in said) is copies


@pytest.mark.parametrize(
    ("recall", "trials", "wrong"),
    [
        ([0.8, 0.65, 0.55, 0.5, 0.4, 0.3, 0.25, 0.2], [16, 13, 11, 10, 8, 6, 5, 4], True),
        ([0.8, 0.65, 0.55, 0.5, 0.4, 0.3, 0.25, 0.2], [20] * 8, False),
        ([0.33, 0.67, 0.33, 0.33, 0.33, 0.33, 0.0, 0.0], [3] * 8, False),  # rounded
        ([1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 0.0, 0.0], [3] * 8, False),
        ([1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 0.0, 0.0], [4] * 8, True),
    ],
)
def test_trials_that_a_proportion_cannot_be_of_are_an_error(recall, trials, wrong):
    frame = pd.DataFrame({"trial": X, "recall": recall, "n": trials})
    asked = {**ASKED, "y": "recall", "count": "n", "measure": "recall", "forms": ("power", "exponential")}
    if wrong:
        with pytest.raises(UserError, match=r"row \d.*recall is .* of .* trials, which would be"):
            fit_decay(frame, **asked)
    else:
        fit_decay(frame, **asked)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n": 0}, "n is 0, and a proportion needs trials"),
        ({"trial": -1}, "trial is -1, and no clock counts"),
    ],
)
def test_a_row_that_counts_nothing_is_named(changed, said):
    frame = pd.DataFrame({"trial": X, "recall": 0.5, "n": 20})
    for column, value in changed.items():
        frame.loc[3, column] = value
    with pytest.raises(UserError, match=f"row 3.*{said}"):
        fit_decay(frame, **ASKED, y="recall", count="n", measure="recall")


def test_a_window_without_points_enough_is_named():
    frame = pd.DataFrame({"trial": X, "seconds": X**-0.3})
    with pytest.raises(UserError, match="leaves 3 different x of seconds, and a fit needs 4 or more"):
        fit_decay(frame, **ASKED, y="seconds", window=(1, 4))
    with pytest.raises(UserError, match=r"it takes 2 values \(a number each\)"):
        fit_decay(frame, **ASKED, y="seconds", window=(5,))


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("delay_hours", "hour"),
        ("delay (min)", "minute"),
        ("Days", "day"),
        ("retention-interval [s]", None),  # one letter may be anything
        ("days_of_practice", None),
        ("trial", None),
        ("7", None),
    ],
)
def test_a_column_is_called_after_the_unit_it_ends_with(name, unit):
    assert time_named(name) == unit
