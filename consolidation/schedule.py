"""When, and how often, every pattern is shown: cohorts of patterns, each written as a text.

    text                 step 0        500       1000       1500       2000
                              |         |          |          |          |
    40                        ############################################   from the start on
    10@500                    ..........##################################   introduced
    10@500-1000,1500          ..........###########...........############   retired, brought back
    4@500-1000                ..........###########.......................   massed exposures ...
    4@500-1500/2              ..........# # # # # # # # # # #.............   ... and as many, spread
    20@500^1                  ..........##################################   the i-th of the 20 is shown i^-1
                                                                             times as often as the first

`PATTERNS[@FROM[-TO][,FROM[-TO] ...]][/EVERY][^EXPONENT]`: the cohort is shown at steps FROM <= s < TO, at
every EVERY-th of them from FROM on, with frequencies by Zipf's law of that exponent. The cohorts number the
patterns in their order. Bindings draw their patterns among those that are shown at a step, in proportion to
their weights and without repetition within a sequence; the weights of a cohort have mean 1, so that a cohort
is shown as often whatever its exponent. All of it is a function of the step, without any state.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from labbook.console import UserError

TEXT = re.compile(
    r"(?P<patterns>\d+)"
    r"(?:@(?P<shown>\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*))?"
    r"(?:/(?P<every>\d+))?"
    r"(?:\^(?P<exponent>\d+(?:\.\d*)?|\.\d+))?"
)
# ages and lags at which memory is looked at: log-spaced, so many per factor of ten
PER_DECADE = 4


@dataclass(frozen=True)
class Cohort:
    """Patterns that are shown at the same steps.

    Attributes
    ----------
    text : as it was asked.
    patterns : how many they are.
    shown : first step, and first step after, of every time they are shown; the last may be open (None).
    every : they are shown at every `every`-th step of these.
    exponent : of Zipf's law within the cohort, 0 for equal frequencies.
    """

    text: str
    patterns: int
    shown: tuple[tuple[int, int | None], ...]
    every: int
    exponent: float

    @classmethod
    def parse(cls, text: str) -> "Cohort":
        """A cohort from its text. Raises UserError for what is no cohort, is never shown, or comes back
        before it was retired.
        """
        found = TEXT.fullmatch(text)
        if found is None:
            raise UserError(
                f"--cohorts {text!r} is not PATTERNS[@FROM[-TO][,FROM[-TO] ...]][/EVERY][^EXPONENT], such as "
                "40, 10@500, 10@500-1000,1500, 4@500-1500/2 or 20@500^1. Change it."
            )
        spans = []
        for span in (found["shown"] or "0").split(","):
            start, _, end = span.partition("-")
            spans.append((int(start), int(end) if end else None))
        patterns, every = int(found["patterns"]), int(found["every"] or 1)
        if patterns < 1 or every < 1:
            raise UserError(f"--cohorts {text}: at least 1 pattern and every 1st step are needed.")
        for start, end in spans:
            if end is not None and end <= start:
                raise UserError(
                    f"--cohorts {text}: it is retired at step {end} and introduced at step {start}, so it is "
                    "never active. Give a later step after the hyphen."
                )
        for (_, end), (start, _) in pairwise(spans):
            if end is None or start <= end:
                said = "it is never retired" if end is None else f"it is retired at step {end}"
                raise UserError(
                    f"--cohorts {text}: it returns at step {start}, but before that {said}. Retire it "
                    "earlier, or let it return later."
                )
        return cls(text, patterns, tuple(spans), every, float(found["exponent"] or 0))

    @property
    def introduced(self) -> int:
        """The first step that shows it."""
        return self.shown[0][0]

    def active(self, step: int) -> bool:
        """Whether it is shown at a step."""
        return any(
            start <= step and (end is None or step < end) and (step - start) % self.every == 0
            for start, end in self.shown
        )

    def weights(self) -> list[float]:
        """Relative frequencies of its patterns, of mean 1."""
        law = [(rank + 1) ** -self.exponent for rank in range(self.patterns)]
        return [w * self.patterns / sum(law) for w in law]


@dataclass(frozen=True)
class Schedule:
    """All cohorts of a benchmark, in the order of their patterns."""

    cohorts: tuple[Cohort, ...]

    @property
    def patterns(self) -> int:
        """Patterns of all cohorts."""
        return sum(cohort.patterns for cohort in self.cohorts)

    def cohort_of(self) -> list[int]:
        """(patterns,) the cohort of every pattern."""
        return [number for number, cohort in enumerate(self.cohorts) for _ in range(cohort.patterns)]

    def weights(self, step: int) -> tuple[float, ...]:
        """(patterns,) how often every pattern is shown at a step, relative to the others; 0 for those that
        are not shown.
        """
        return _weights(self, tuple(cohort.active(step) for cohort in self.cohorts))

    def known(self, step: int) -> tuple[float, ...]:
        """(patterns,) 1 for every pattern that is introduced at this step or was before, retired or not."""
        return tuple(
            float(cohort.introduced <= step) for cohort in self.cohorts for _ in range(cohort.patterns)
        )

    def events(self) -> list[int]:
        """Steps at which a cohort comes or goes, ascending."""
        return sorted({step for c in self.cohorts for span in c.shown for step in span if step is not None})

    def fewest(self) -> tuple[int, int]:
        """The smallest number of patterns that are shown at any step, and the first step at which it is."""
        events, cycle = sorted({0, *self.events()}), math.lcm(*(c.every for c in self.cohorts))
        least = []
        # between two events the cohorts take turns in a cycle
        for start, end in zip(events, [*events[1:], events[-1] + cycle], strict=True):
            for step in range(start, min(end, start + cycle)):
                least.append((sum(c.patterns for c in self.cohorts if c.active(step)), step))
        return min(least)

    def marks(self, last: int) -> set[int]:
        """Steps up to `last` at log-spaced ages and lags: 0, 1, 2, 3, 6, 10, 18, ... after every event; of
        cohorts that take turns, after the first of them.
        """
        ages = {round(10 ** (i / PER_DECADE)) for i in range(PER_DECADE * 12)}
        turns, events = max((c.every for c in self.cohorts), default=1), [0]
        for event in self.events():
            if event - events[-1] >= turns:
                events.append(event)
        return {event + age for event in events for age in {0, *ages} if event + age <= last}


@lru_cache(maxsize=256)
def _weights(schedule: Schedule, active: tuple[bool, ...]) -> tuple[float, ...]:
    return tuple(
        weight if shown else 0.0
        for cohort, shown in zip(schedule.cohorts, active, strict=True)
        for weight in cohort.weights()
    )


@lru_cache(maxsize=256)
def schedule(texts: tuple[str, ...]) -> Schedule:
    """The schedule of several cohorts. Raises UserError, see `Cohort.parse`."""
    return Schedule(tuple(map(Cohort.parse, texts)))
