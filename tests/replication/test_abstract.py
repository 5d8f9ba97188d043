"""Every sentence of the graphical abstract comes out each way on made-up numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labbook.estimate import Estimate
from replication.abstract import attended, compared, interval_by_step, predicted, removed


def number(lower: float, upper: float) -> Estimate:
    return Estimate((lower + upper) / 2, lower, upper, 5)


def test_the_strongest_control_is_named_whatever_it_reaches():
    assert predicted(0.4).endswith("40% of the probe's R or more")
    assert predicted(1.2).endswith("120% of the probe's R or more")


def test_an_order_is_better_than_chance_only_where_the_intervals_say_so():
    assert "spares 30%, chance 10%" in removed(number(0.2, 0.4), number(0.05, 0.15))
    assert "not told from chance" in removed(number(0.1, 0.4), number(0.05, 0.15))
    assert "not told from chance" in removed(number(0.0, 0.04), number(0.05, 0.15))


def test_memory_may_spare_attention_or_cost_it_or_neither():
    low, high = [0.01, 0.015, 0.02], [0.03, 0.035, 0.04]
    assert "lower with a memory" in attended({"cram": low, "control": high})
    assert "lower without a memory" in attended({"cram": high, "control": low})
    assert "in one range (n = 3, 2)" in attended({"cram": low, "control": [0.015, 0.04]})
    assert "one of the two" in attended({"cram": low})


def test_the_band_of_a_course_is_that_of_student_and_not_the_range_of_the_seeds():
    seeds = [0.2, 0.3, 0.4, 0.5, 0.6]
    found = interval_by_step(pd.DataFrame([seeds, [0.0, 0.0, 0.0, 0.0, 0.1]], index=[500, 1000]))
    low, high = stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert found.loc[500].tolist() == pytest.approx([np.mean(seeds), low, high])
    assert (found.loc[500, "lower"], found.loc[500, "upper"]) != (min(seeds), max(seeds))
    assert found.loc[1000, "lower"] == 0  # a share is not below nothing


def test_people_are_said_to_differ_only_where_their_means_do():
    apart, together = [number(0.1, 0.3), number(0.7, 1.1)], [number(0.1, 0.8), number(0.7, 1.1)]
    assert "depend on" in compared(apart)
    assert "depend on" not in compared(together)
    assert "depend on" not in compared(apart[:1])
