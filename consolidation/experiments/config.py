"""What `consolidation.experiments` is asked, and the runs that its experiments read. Imports nothing heavy,
so that --help is quick.

One schedule serves all experiments; at every step from 600 to 1,199 one massed and one spread group are
shown, so that both compete with as many other patterns, and every cohort that is compared at an age or lag
has the same company:

    cohort          text              step 0    600     900     1200         2200     3000
                                           |     |       |       |            |        |
    first           24                     #############################################  with attention
    frequency       16@600^1               ......#######################################  Zipf's law
    practised       8@600                  ......#######################################
    relearnt        8@600-1200,2200        ......###############..............##########  savings
    retained        8@600-1200             ......###############........................  retention
    later           8@1200                 .....................########################  another step
    massed 1 ... 4  4@600-750 ...          ......####...................................  150 steps in a row
    spread 1 ... 4  4@600-1200/4 ...       ......# # # # # # # #........................  150 of 600 steps
    new             8@2200                 ...................................##########  beside `relearnt`

Learning rate, temperature and routing pressure are constant from step 600 on, when the first cohort is known
and the second comes, so that step, age, exposures and schedule come apart.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from consolidation.config import SRCDConfig
from consolidation.schedule import schedule
from consolidation.train.config import TrainConfig
from consolidation.train.presets import preset

# in the order of the patterns
ROLES = (
    "first",
    "frequency",
    "practised",
    "relearnt",
    "retained",
    "later",
    "massed 1",
    "massed 2",
    "massed 3",
    "massed 4",
    "spread 1",
    "spread 2",
    "spread 3",
    "spread 4",
    "new",
)


@dataclass(frozen=True)
class Times:
    """Steps of the schedule: when cohorts come, are retired and return, and the last step."""

    come: int
    retired: int
    back: int
    end: int

    def cohorts(self, *, returning: bool = True, later: int = 8) -> tuple[str, ...]:
        """Their texts, in the order of ROLES.

        Parameters
        ----------
        returning : whether a cohort comes back, and a new one with it; else training ends at `back`.
        later : patterns that are introduced when others are retired.
        """
        a, b, quarter = self.come, self.retired, (self.retired - self.come) // 4
        massed = [f"4@{a + i * quarter}-{a + (i + 1) * quarter}" for i in range(4)]
        spread = [f"4@{a + i}-{b}/4" for i in range(4)]
        relearnt = f"8@{a}-{b},{self.back}" if returning else f"8@{a}-{b}"
        new = [f"8@{self.back}"] if returning else []
        return (
            "24",
            f"16@{a}^1",
            f"8@{a}",
            relearnt,
            f"8@{a}-{b}",
            f"{later}@{b}",
            *massed,
            *spread,
            *new,
        )


@dataclass(frozen=True)
class Condition:
    """Runs that an experiment reads: the folder they lie in, and how they are trained."""

    folder: str
    config: TrainConfig


def times_of(quick: bool) -> Times:
    """The steps of the experiments, and those of a toy run."""
    return Times(20, 40, 73, 100) if quick else Times(600, 1200, 2200, 3000)


def conditions(name: str, quick: bool = False) -> list[Condition]:
    """The runs of an experiment, those that decide it first.

    Retention has two factors beside the model: `cram-rate`, half the learning rate, and `cram-load`, 64
    instead of 8 new patterns that come when others are retired.
    """
    times, base = times_of(quick), _base(quick)

    def trained(cohorts: tuple[str, ...], steps: int, **changes: object) -> TrainConfig:
        benchmark = replace(base.benchmark, patterns=schedule(cohorts).patterns, cohorts=cohorts)
        return replace(base, benchmark=benchmark, steps=steps, **changes)  # type: ignore[arg-type]

    whole, short = times.cohorts(), times.cohorts(returning=False)
    found = [
        Condition("cram", trained(whole, times.end)),
        Condition("control", trained(whole, times.end, model="control")),
    ]
    if name == "retention":
        rate = trained(short, times.back, learning_rate=base.learning_rate / 2)
        load = trained(times.cohorts(returning=False, later=64), times.back)
        found += [
            Condition("cram-rate", rate),
            Condition("cram-load", load),
        ]
    return found


def _base(quick: bool) -> TrainConfig:
    """The preset `small` with shorter sequences of denser events: a step takes a third of the time."""
    small = preset("small")
    benchmark = SRCDConfig(length=64, bindings=0.125, queries=0.125, novel_keys=60)
    chosen = replace(
        small,
        benchmark=benchmark,
        cram=replace(small.cram, buffer=16),
        batch=8,
        learning_rate_schedule="constant",
        pressure_start=300,
        pressure_ramp=300,
        evaluation=96,
        evaluations=10,
    )
    if not quick:
        return chosen
    return replace(
        chosen,
        cram=replace(chosen.cram, width=16, semantic_rank=8),
        batch=4,
        pressure_start=10,
        pressure_ramp=10,
        evaluation=32,
        evaluations=2,
    )


@dataclass(frozen=True)
class Config:
    """An experiment."""

    name: Annotated[Literal["practice", "retention", "savings", "spacing", "frequency"], tyro.conf.Positional]
    """practice: knowledge and use of attention against repetitions. retention: a retired cohort. savings: a
    cohort brought back. spacing: massed against spread exposures. frequency: Zipf's law within a cohort.
    """
    quick: bool = False
    """A hundred steps of a tiny model, which learn nothing: does it run."""


@dataclass(frozen=True)
class Command:
    """Put the model through an experiment that psychologists make with people.

    All five read the same training runs; the next in the same --out trains little.
    """

    config: tyro.conf.OmitArgPrefixes[Config]
    seeds: int = 8
    """Seeds of every condition that have to be finished; 0 only analyses what is there."""
    out: Path | None = None
    """Folder; default: runs/experiments-<time>. Finished seeds in it are skipped; the experiment's own folder
    within it has its name.
    """
