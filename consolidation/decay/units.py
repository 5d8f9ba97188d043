"""What an axis of a decay curve may count, and in which unit: checked and converted by pint, never guessed.

Repetitions, training steps and items are dimensions of their own, so that none of them passes for another or
for a time. `count` is accepted on each of these clocks. A clock in the user's own words may have any unit
that pint knows.
"""

import difflib
import re
from functools import cache

import pint

from labbook.console import UserError

# what is counted, and the unit in which the registry of human curves has it
CLOCKS = {
    "repetitions in sequence": "count",
    "repetitions in batch stream": "count",
    "repetitions over training": "count",
    "repetition": "count",
    "training step": "steps",
    "retention interval": "s",
    "intervening items": "items",
}
# the thing that a counting clock counts, as a unit; every other clock of the registry is physical
THINGS = {
    "repetitions in sequence": "repetition",
    "repetitions in batch stream": "repetition",
    "repetitions over training": "repetition",
    "repetition": "repetition",
    "training step": "step",
    "intervening items": "item",
}
EXAMPLES = {
    "repetition": "count, repetitions, exposures, presentations, trials",
    "step": "steps, kilosteps, count",
    "item": "items, count",
    "s": "s, min, hours, days, weeks",
}
COUNT = ("count", "counts")
# what a column of times may be called; other names that pint reads as a time (`a`, `cs`, `d`) are words first
TIMES = ("millisecond", "second", "minute", "hour", "day", "week", "month", "year")
# from here on difflib's ratio is that of a misprint; "repetition lag" and "repetition" are at .83
MISPRINT = 0.85


@cache
def _registry() -> "pint.UnitRegistry[float]":
    registry: pint.UnitRegistry[float] = pint.UnitRegistry()
    registry.define("repetition = [repetition] = _ = exposure = presentation = trial")
    registry.define("step = [step] = _ = update")
    registry.define("item = [item]")
    return registry


# every specification asks for the same few
@cache
def _parsed(counts: str, unit: str) -> pint.Unit:
    """`unit` as pint knows it. Raises UserError for what is no unit, or not one that is multiplied (a
    temperature in degrees Celsius).
    """
    thing = THINGS.get(counts, "repetition")
    try:
        found = _registry().Unit(thing if unit.strip() in COUNT else unit.strip())
        _registry().Quantity(2.0, found).to_base_units()
    except Exception as error:  # pint's parser raises whatever Python's tokenizer and evaluator do
        raise UserError(
            f"{unit!r} is no unit ({error}). For the clock {counts!r} there are for instance "
            f"{examples(counts)}. Change --clock-unit."
        ) from error
    if unit.strip() == "" or not _registry().Quantity(1.0, found)._is_multiplicative:
        raise UserError(
            f"{unit!r} is no unit in which a clock can count. Change --clock-unit, for instance to days or "
            "count."
        )
    return found


def examples(counts: str) -> str:
    """Units that a clock may have."""
    return (
        EXAMPLES[THINGS[counts]]
        if counts in THINGS
        else EXAMPLES["s"] + ("" if counts in CLOCKS else ", count")
    )


def check(counts: str, unit: str) -> None:
    """Raise UserError when a clock of the registry cannot have this unit, or when it is no unit at all."""
    found = _parsed(counts, unit)
    if counts in CLOCKS and found.dimensionality != _parsed(counts, CLOCKS[counts]).dimensionality:
        raise UserError(
            f"the clock {counts!r} cannot count in {unit!r}, which pint reads as {found}; it takes for "
            f"instance {examples(counts)}. "
            "Change --clock-unit or --clock."
        )


def factor(counts: str, first: str, second: str) -> float:
    """What a number in the unit `first` of a clock is multiplied by to be in `second`: 86,400 from days to s.

    Raises UserError when the two are of different dimensions.
    """
    registry = _registry()
    one, other = _parsed(counts, first), _parsed(counts, second)
    if one.dimensionality != other.dimensionality:
        raise UserError(
            f"{first!r} cannot be converted to {second!r} on the clock {counts!r}. Change --clock-unit."
        )
    return float(registry.Quantity(1.0, one).to(other).magnitude)


def time_named(name: str) -> str | None:
    """The unit of time that a name ends with ("days", "delay_hours", "delay (min)"); None for any other name
    and for single letters.
    """
    words = re.split(r"[^a-z]+", name.casefold().rstrip(" )]"))
    word = words[-1]
    if len(word) < 2 or not word.isalpha():
        return None
    try:
        found = str(_registry().Unit(word))
    except Exception:  # pint's parser raises whatever Python's tokenizer and evaluator do
        return None
    return found if found in TIMES else None


def other_time(first: str, second: str) -> bool:
    """Whether both are units of time, and not of the same length."""
    one, other = (_parsed("", unit) for unit in (first, second))
    if any(unit.dimensionality != _registry().Unit("s").dimensionality for unit in (one, other)):
        return False
    return bool(_registry().Quantity(1.0, one).to(other).magnitude != 1)


def meant(counts: str) -> tuple[str, ...]:
    """The clocks of the registry that `counts` is a misprint or a part of; none for a clock of the registry
    and for one of its own.
    """
    words = counts.casefold().replace("_", " ").replace("-", " ").split()
    if counts in CLOCKS or not words:
        return ()
    whole = difflib.get_close_matches(" ".join(words), CLOCKS, 1, MISPRINT)
    return tuple(whole) or tuple(
        clock
        for clock in CLOCKS
        if all(difflib.get_close_matches(word, clock.split(), 1, MISPRINT) for word in words)
    )


def of_practice(counts: str) -> bool:
    """Whether a clock counts repetitions, so that exponents on it are of practice and not of delay."""
    return THINGS.get(counts) == "repetition"


def one_count(counts: str, unit: str) -> float | None:
    """One repetition, step or item in the unit of a clock: 1 in counts, .001 in kilosteps; None for a clock
    that is no count.
    """
    for thing in dict.fromkeys(THINGS.values()):
        if _parsed(counts, unit).dimensionality == _registry().Unit(thing).dimensionality:
            return float(_registry().Quantity(1.0, thing).to(_parsed(counts, unit)).magnitude)
    return None
