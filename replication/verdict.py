"""Verdicts, and the predicates that give them: every one can come out each way, and a missing interval is no
agreement.

holds          the interval lies where the claim puts it
does not hold  the interval lies outside
undecided      it lies on both sides, is missing, or rests on fewer than LEAST units; or what it rests on is
               rejected, not learnt or a choice that turns it, as the row says
partly         of several parts some hold and some do not
not tested     no run of it exists
"""

import math
from collections.abc import Sequence
from enum import StrEnum

from labbook.estimate import Estimate

LEAST = 3


class Verdict(StrEnum):
    """What a run says to a claim."""

    HOLDS = "holds"
    PARTLY = "partly"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    UNTESTED = "not tested"


def known(number: Estimate | None) -> bool:
    """Whether there is an interval to judge by."""
    return (
        number is not None
        and number.n >= LEAST
        and all(math.isfinite(v) for v in (number.estimate, number.lower, number.upper))
    )


def between(number: Estimate | None, low: float, high: float) -> Verdict:
    """Whether a quantity lies from `low` to `high`."""
    if number is None or not known(number):
        return Verdict.UNDECIDED
    if low <= number.lower and number.upper <= high:
        return Verdict.HOLDS
    return Verdict.FAILS if number.upper < low or number.lower > high else Verdict.UNDECIDED


def equals(number: Estimate | None, stated: float, margin: float) -> Verdict:
    """Whether a quantity is `stated`, give or take a margin: agreement has to be shown, a wide interval is
    none.
    """
    return between(number, stated - margin, stated + margin)


def at_least(number: Estimate | None, low: float) -> Verdict:
    """Whether a quantity is at least `low`."""
    return between(number, low, math.inf)


def at_most(number: Estimate | None, high: float) -> Verdict:
    """Whether a quantity is at most `high`."""
    return between(number, -math.inf, high)


def states(flag: bool | None) -> Verdict:
    """A fact that is true, false, or not known (None)."""
    return Verdict.UNDECIDED if flag is None else Verdict.HOLDS if flag else Verdict.FAILS


def all_of(parts: Sequence[Verdict]) -> Verdict:
    """A claim of several parts."""
    if not parts:
        return Verdict.UNTESTED
    if Verdict.PARTLY in parts or (Verdict.HOLDS in parts and Verdict.FAILS in parts):
        return Verdict.PARTLY
    if Verdict.FAILS in parts:  # no part is known to hold, and the whole cannot
        return Verdict.FAILS
    return Verdict.HOLDS if all(part is Verdict.HOLDS for part in parts) else Verdict.UNDECIDED
