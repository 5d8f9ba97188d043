"""The commands as functions: `fit_decay`, `train_cram`.

Nothing heavy is imported before one of them is called: `import consolidation` takes no time.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from labbook.console import UserError, call_of, keywords
from labbook.estimate import REPLICATES

if TYPE_CHECKING:
    from consolidation.fit.given import Data
    from consolidation.fit.result import DecayReport
    from consolidation.train.config import TrainConfig
    from consolidation.train.result import TrainingRun

ModelName: TypeAlias = Literal[
    "cram",
    "control",
    "control-narrow",
    "control-network",
    "no-consolidation",
    "no-quality",
    "fast-semantic",
    "transformer",
    "mamba",
    "jamba",
    "seqboat",
]


def fit_decay(
    data: "Data | str | Path",
    *,
    x: str = "x",
    y: str = "value",
    series: str | None = None,
    unit: str | None = None,
    count: str | None = None,
    clock: str | None = None,
    clock_unit: str | None = None,
    on_clock: str | None = None,
    on_clock_factor: float | None = None,
    measure: Literal["time", "error", "recall", "savings"] | None = None,
    margin: float | None = None,
    window: tuple[float, float] | None = None,
    forms: Sequence[str] | None = None,
    human: Sequence[str] | None = None,
    bootstrap: int = REPLICATES,
    hierarchical: bool = False,
    seed: int = 0,
) -> "DecayReport":
    """Fit a decay curve in every way that applies, compare the forms, and hold the exponent against humans.

    The same numbers as `python -m consolidation.fit` gives for the same data. Nothing is written before
    `save` is called.

    Parameters
    ----------
    data : a DataFrame; arrays by name, {"days": ..., "recall": ...}; a pair of arrays (x, y); a
        `consolidation.decay.curve.Curve`; or a name as on the command line: a table file, the folder of a
        training run, a shipped human series, or "reference", the shipped reference run. Frames and arrays are
        read as strictly as files: what is missing or no number is an error that names its row, from 0 on.
    x, y : columns: what is counted, and what decays. A pair of arrays gets these names.
    series : which series, where a column `series` holds several.
    unit : column of independent units (seed, pattern, list, subject), resampled as wholes. Of a Curve, which
        holds its units, what they are.
    count : column of the trials behind each proportion, for binomial likelihood.
    clock : what x counts: a clock of the registry ("repetition", "retention interval", ...), or your own
        words; needed unless a column `clock` says it.
    clock_unit : unit of x ("days", "count", ...); needed for a clock that is no count, unless a column
        `clock_unit` says it. It is never guessed.
    on_clock, on_clock_factor : read x on this clock of the registry, of which one unit of x is so many units.
    measure : what y is, so that it is held against human measures of that class only; None: against every
        class, one at a time.
    margin : difference of exponents that is too small to matter; None: the standard deviation between human
        studies.
    window : first and last x that are used; None: all, and of a training run the part from the largest value
        on.
    forms : rival forms, by name; None is all of them.
    human : human series to compare with; None is all on the same clock.
    bootstrap : replicates, at least 100.
    hierarchical : fit all units by one hierarchical model too; needs `unit` and the extra `hierarchical`.
    seed : of the bootstrap and of the simulations.

    Returns
    -------
    DecayReport : `headline`, the exponent of the power law with its interval, and `of_best`, that of the
        best form where it has one; `summary["cited"]`, the one that may be cited, or None; `comparison` of
        the forms; `exponents` and `tables` as DataFrames; `cautions`; `summary`, a dict of everything;
        `fit_report()`, the same as text; `to_latex()`, `plot()`, `save(folder)`.

    Raises
    ------
    UserError : with what was asked, what is available, and the keyword to change; when no form, or no power
        law, can be fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> from consolidation import fit_decay
    >>> frame = pd.DataFrame({"days": [1, 2, 4, 7, 15, 30], "recall": [0.80, 0.66, 0.56, 0.48, 0.38, 0.31]})
    >>> found = fit_decay(frame, x="days", y="recall", clock="retention interval", clock_unit="days")
    >>> print(found.headline.form, found.headline.number.text(2))
    power 0.27 [0.26, 0.29]
    """
    asked = dict(locals())
    from consolidation.fit.config import FitConfig
    from consolidation.fit.experiment import fit_source
    from consolidation.fit.source import given, read

    with keywords():
        chosen = {} if forms is None else {"forms": _names(forms)}
        config = FitConfig(
            # the kind and not the name of a curve, which may be that of a shipped series
            source=str(data) if isinstance(data, str | Path) else type(data).__name__,
            x=x,
            y=y,
            series=series,
            clock=clock,
            clock_unit=clock_unit,
            on_clock=on_clock,
            on_clock_factor=on_clock_factor,
            measure=measure,
            margin=margin,
            unit=unit,
            count=count,
            window=window,
            bootstrap=bootstrap,
            human=("all",) if human is None else _names(human),
            hierarchical=hierarchical,
            seed=seed,
            **chosen,
        )
        source = read(config) if isinstance(data, str | Path) else given(data, config)
        call = call_of(fit_decay, asked, [] if isinstance(data, str | Path) else ["data"])
        return replace(fit_source(source, config), call=call)


def train_cram(
    preset: "Literal['tiny', 'small', 'base', 'paper'] | TrainConfig" = "tiny",
    *,
    model: ModelName | None = None,
    seeds: int = 1,
    first_seed: int = 0,
    out: str | Path | None = None,
    trained: Literal["all", "heads"] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    warmup: int | None = None,
    temperature: tuple[float, float] | None = None,
    temperature_steps: int | None = None,
    pressure_start: int | None = None,
    pressure_ramp: int | None = None,
    evaluation: int | None = None,
    evaluations: int | None = None,
    precision: Literal["auto", "no", "bf16"] | None = None,
    length: int | None = None,
    queries: float | None = None,
    recurrence: float | None = None,
    patterns: int | None = None,
    bindings: float | None = None,
    novel: Literal["disjoint", "shared"] | None = None,
    novel_keys: int | None = None,
    values: int | None = None,
    width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    buffer: int | None = None,
    keys: Literal["learned", "fixed"] | None = None,
    semantic_rank: int | None = None,
    quality: Literal["oracle", "predicted"] | None = None,
    routing: Literal["hard", "soft"] | None = None,
    attention_penalty: float | None = None,
    semantic_reward: float | None = None,
    consolidation: float | None = None,
    tracker: str | None = None,
    report: bool = True,
) -> "TrainingRun":
    """Train the reference model or a rival on SRCD, and return what its seeds left.

    The same numbers as `python -m consolidation.train` gives for the same request. Every keyword that is None
    has the value of the preset.

    Parameters
    ----------
    preset : tiny (under a minute on two cores), small (minutes a seed), base, paper; or a
        `consolidation.train.config.TrainConfig`, for what has no keyword here.
    model : cram, one of its ablations, or a rival.
    seeds, first_seed : how many, and the first; each fixes the patterns, the sequences, the weights and the
        routing noise.
    out : folder of the run; None: runs/train-<model>-<time> in the current folder, which is printed. The same
        call with the same folder goes on where it stopped, and trains no finished seed again.
    trained : "heads" trains the two output maps only.
    steps, batch : optimiser steps, and sequences per step.
    learning_rate, warmup : peak of AdamW's, and steps of its linear warm-up.
    temperature, temperature_steps : of the Gumbel-softmax, first and last, and steps of its schedule.
    pressure_start, pressure_ramp : step at which the routing pressure sets in, and steps over which it grows.
    evaluation, evaluations : held-out sequences of every evaluation, and evaluations over training.
    precision : "auto" is bf16 autocast on GPUs and float32 on CPUs.
    length, queries, bindings : positions of a sequence, and the shares of them that are queries and bindings.
    recurrence, patterns : share of bindings that come from the fixed patterns, and how many these are.
    novel, novel_keys, values : where novel keys come from, how many there are, and how many values.
    width, layers, heads, buffer : of the model; `buffer` counts the entries of the episodic memory.
    keys : whether the embedding of the keys is learned.
    semantic_rank : r of eq 4.
    quality, routing : how the router knows q_t, and whether a path is chosen or mixed.
    attention_penalty, semantic_reward, consolidation : lambda_E, lambda_S and gamma of eq 8.
    tracker : also log to tensorboard, wandb or trackio.
    report : write report.html, the run on one page.

    Returns
    -------
    TrainingRun : `seeds`, the numbers of each; `by_seed`, `trajectory` and `patterns` as DataFrames;
        `summary`, a dict of the seeds; `folder` of the run; `plot()`, `save(folder)`.

    Raises
    ------
    UserError : with what was asked, what is available, and the keyword to change.

    Examples
    --------
    >>> from consolidation import train_cram
    >>> run = train_cram("tiny", steps=20, evaluation=8, evaluations=2, out="cram")
    >>> sorted(run.summary), run.seeds[0].steps
    (['seed-0'], 20)
    """
    from consolidation.train.config import Command, Settings, TrainConfig
    from consolidation.train.experiment import execute
    from consolidation.train.presets import preset as named
    from consolidation.train.result import TrainingRun
    from labbook.command import conform

    with keywords():
        if not isinstance(preset, str | TrainConfig):
            raise UserError(
                f"--preset {preset!r} is neither the name of a preset nor a TrainConfig. Change it."
            )
        begun = named(preset) if isinstance(preset, str) else preset
        benchmark = _given(
            length=length,
            queries=queries,
            recurrence=recurrence,
            patterns=patterns,
            bindings=bindings,
            novel=novel,
            novel_keys=novel_keys,
            values=values,
        )
        cram = _given(
            width=width,
            layers=layers,
            heads=heads,
            buffer=buffer,
            keys=keys,
            semantic_rank=semantic_rank,
            quality=quality,
            routing=routing,
        )
        objective = _given(
            attention_penalty=attention_penalty,
            semantic_reward=semantic_reward,
            consolidation=consolidation,
        )
        training = _given(
            model=model,
            trained=trained,
            steps=steps,
            batch=batch,
            learning_rate=learning_rate,
            warmup=warmup,
            temperature=temperature,
            temperature_steps=temperature_steps,
            pressure_start=pressure_start,
            pressure_ramp=pressure_ramp,
            evaluation=evaluation,
            evaluations=evaluations,
            precision=precision,
        )
        config = replace(
            begun,
            benchmark=replace(begun.benchmark, **benchmark),
            cram=replace(begun.cram, **cram),
            objective=replace(begun.objective, **objective),
            **training,
        )
        place: Any = out
        command = Command(config, Settings(tracker, report), seeds, first_seed, place)
        conform(command)
        folder, summaries = execute(command)
        return TrainingRun.read(folder, [one.seed for one in summaries])


def _given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _names(given: Any) -> Any:
    """Several names; one alone is not taken apart into its letters."""
    return (given,) if isinstance(given, str) else given
