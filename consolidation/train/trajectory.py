"""What a training run leaves: Parquet tables with a version, and how they are read.

`trajectory.parquet`, one row per number:

| column | meaning |
|---|---|
| step | optimiser steps done |
| layer | 0 ... L - 1, or -1 for the whole model |
| kind | positions it is about: `all`, `recurring` and `novel` queries, `query` (both), `other` |
| metric | see METRICS |
| value | the number |
| n | positions, queries or pairs behind it |

`patterns.parquet`, P_episodic of eq 14, one row per layer, clock, pattern and bin of k (log-spaced, at most 8
per decade):

| column | meaning |
|---|---|
| layer, clock, pattern | clock: one of `config.EXPOSURE_CLOCKS` |
| k_first, k_last, k | the bin, and the mean k in it |
| queries | queries that fell into it, in training |
| routed | of these, how many the router would send to attention at inference (no noise) |
| probability | mean probability of the episodic path, which is the share that does read in training |

`knowledge.parquet`, of runs with cohorts, one row per probe and pattern (new in version 3); a probe asks for
all patterns that were introduced, on held-out sequences, at log-spaced ages and lags:

| column | meaning |
|---|---|
| step, cohort, pattern | cohort: its place in `cohorts` |
| age | steps since the cohort was introduced |
| k | exposures before the probe, over training |
| lag, others | steps, and exposures to other patterns, since the last exposure; -1: never shown |
| queries | queries for the pattern in the probe |
| right, known | of these, how many are right, and how many are right with attention knocked out |
| routed | share that the router sends to attention, mean over layers |
| probability | mean probability of the episodic path, mean over layers |
| recall | mean probability of the right answer with attention knocked out |
"""

import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from labbook.console import UserError
from labbook.escape import plain
from labbook.run import digest, opened, replacing, unrepeated

SCHEMA = "consolidation-trajectory"
VERSION = 3


@dataclass(frozen=True, kw_only=True)
class SeedSummary:
    """The numbers of a finished seed; its fields, in their order, are those of `summary.json`.

    Attributes
    ----------
    accuracy, attention : right answers, and share of positions that attend, by kind of position, at the end.
    attention_first, attention_peak : share at the first training steps, and the largest of all evaluations.
    knock_outs : right answers by "part, kind" with that part knocked out.
    optimum, static : shares of eq 13 and of the best static routing.
    events : steps of the schedules, by name.
    seconds : wall-clock time of training.
    config_digest : of the configuration that it belongs to; summaries of older runs have none.
    """

    model: str
    label: str
    seed: int
    parameters: int
    steps: int
    accuracy: dict[str, float]
    dynamics_mse: float
    attention: dict[str, float]
    attention_first: float
    attention_peak: float = math.nan
    pairs: float
    pairs_dense: float
    flops: float = math.nan
    flops_dense: float = math.nan
    semantic: float = math.nan
    knock_outs: dict[str, float]
    optimum: float
    static: float
    learnt: bool
    consolidated: bool
    events: dict[str, float]
    seconds: float
    config_digest: str | None = None

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "SeedSummary":
        """From the fields of a `summary.json`, where null is what is not defined."""

        def number(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: number(inner) for key, inner in value.items()}
            return math.nan if value is None else value

        known = {field.name for field in fields(cls)}
        return cls(**{name: number(value) for name, value in found.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        """As it is written to `summary.json`; a digest that is not known is left out."""
        found = asdict(self)
        if self.config_digest is None:
            del found["config_digest"]
        return found


# what a summary has to say, and which of it are numbers; older ones say no more
NUMBERS = tuple(
    f.name
    for f in fields(SeedSummary)
    if f.type in (int, float) and f.name != "seed" and f.default is MISSING
)
SUMMARY = tuple(f.name for f in fields(SeedSummary) if f.default is MISSING)
TABLES = {
    "trajectory": {
        "step": "int64",
        "layer": "int16",
        "kind": "string",
        "metric": "string",
        "value": "float64",
        "n": "int64",
    },
    "patterns": {
        "layer": "int16",
        "clock": "string",
        "pattern": "int16",
        "k_first": "int64",
        "k_last": "int64",
        "k": "float64",
        "queries": "int64",
        "routed": "int64",
        "probability": "float64",
    },
    "knowledge": {
        "step": "int32",
        "cohort": "int16",
        "pattern": "int16",
        "age": "int32",
        "k": "int64",
        "lag": "int32",
        "others": "int64",
        "queries": "int32",
        "right": "int32",
        "known": "int32",
        "routed": "float32",
        "probability": "float32",
        "recall": "float32",
    },
}
METRICS = {
    "attention": "share of positions routed to attention (the paper's measure), held-out sequences, no noise",
    "semantic": "share of positions routed to the semantic memory",
    "pairs": "query-key pairs computed per position",
    "pairs_dense": "query-key pairs per position of causal attention everywhere",
    "accuracy": "answers that are right",
    "dynamics_mse": "mean squared error of the predicted process; the least possible is noise^2",
    "quality": "mean q_t (eq 6), computed everywhere for this purpose",
    "quality_q10, quality_q50, quality_q90": "quantiles of q_t",
    "quality_predicted": "mean of the q_t that the router sees",
    "held": "queries whose binding is in the episodic buffer",
    "accuracy_without_<part>": (
        "answers that are right with a part knocked out in every layer; `all`: attention, semantic, "
        "working and feed_forward"
    ),
    "flops, flops_dense": (
        "forward operations per position by torch's counter, with skipping, and with attention computed "
        "everywhere"
    ),
    "loss_<term>": "terms of the objective (eq 8), mean over the training steps since the last evaluation",
    "attention_in_training": (
        "share of positions that took the episodic path in training, noise included, since the last "
        "evaluation"
    ),
    "temperature, penalty, learning_rate": "the schedules at this step",
    "seconds": "wall-clock time of training so far, evaluations left out",
}


def config_digest(config: Any) -> str:
    """SHA-256 of a configuration as JSON, whatever the order of its fields."""
    return digest([json.dumps(config, sort_keys=True, default=str).encode()])


def _checksum(table: pd.DataFrame, columns: dict[str, str]) -> str:
    """SHA-256 of the values of a table in the types of its schema, independent of how Parquet packs them."""
    parts = [
        "\n".join(table[name].astype(str)).encode()
        if kind == "string"
        else np.ascontiguousarray(table[name].to_numpy(kind)).tobytes()
        for name, kind in columns.items()
    ]
    return digest(parts)


def write(path: Path, table: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write a table of this schema, atomically, with its version, the run's facts (seed, configuration and
    its digest) and a checksum in the metadata.
    """
    columns = TABLES[path.stem]
    arrow = pa.table({name: pa.array(table[name]).cast(kind) for name, kind in columns.items()})
    about = {
        "schema": SCHEMA,
        "version": str(VERSION),
        "table": path.stem,
        "facts": json.dumps(facts, default=str),
        "config_digest": config_digest(facts.get("config")),
        "checksum": _checksum(arrow.to_pandas(), columns),
    }
    # few different values as a dictionary, counts by their differences, measured numbers byte by byte
    few = [field.name for field in arrow.schema if field.type in (pa.string(), pa.int16())]
    packed = {
        field.name: "BYTE_STREAM_SPLIT" if pa.types.is_floating(field.type) else "DELTA_BINARY_PACKED"
        for field in arrow.schema
        if field.name not in few
    }
    with replacing(path) as partial:
        pq.write_table(
            arrow.replace_schema_metadata(about),
            partial,
            compression="zstd",
            compression_level=9,
            use_dictionary=few,
            column_encoding=packed,
        )


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table and the facts of its run.

    Raises UserError when the file is missing, is no Parquet, is damaged, is not of this schema or another
    table of it, is of a newer version, or lacks columns. Version 1 had no checksum.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Name the folder of a run that `python -m consolidation.train` made, or "
            "restore the file: a finished seed without its trajectory can be read, and not tabulated again."
        )
    repair = "Restore it, or run the training again."
    try:
        arrow = pq.read_table(path)
        about = {k.decode(): v.decode() for k, v in (arrow.schema.metadata or {}).items()}
        table: pd.DataFrame = arrow.to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or is not a Parquet file ({plain(error)}). {repair}") from error
    if about.get("schema") != SCHEMA or about.get("table") not in TABLES:
        raise UserError(
            f"{path} is a Parquet file but no trajectory: its schema is "
            f"{about.get('schema', 'not named')!r}, asked was {SCHEMA!r}."
        )
    if path.stem in TABLES and about["table"] != path.stem:
        raise UserError(f"{path} holds the table {about['table']!r} and not {path.stem!r}. {repair}")
    try:
        version, facts = int(about["version"]), json.loads(about["facts"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: its metadata cannot be read ({plain(error)}). {repair}"
        ) from error
    if version > VERSION:
        raise UserError(
            f"{path} has version {version} of the schema; this code reads up to {VERSION}. Update it."
        )
    columns = TABLES[about["table"]]
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(arrow.column_names)}."
        )
    if not isinstance(facts, dict):
        raise UserError(f"{path} is damaged: its metadata name no run. {repair}")
    if version > 1:
        try:
            sound = about.get("checksum") == _checksum(table, columns)
        except (TypeError, ValueError):  # values that are not of the type of their column
            sound = False
        if not sound or about.get("config_digest") != config_digest(facts.get("config")):
            raise UserError(f"{path} is damaged: its checksum is not that of its content. {repair}")
    return table, facts


def differences(there: Any, asked: Any, name: str = "") -> list[str]:
    """What two configurations disagree about, by dotted name."""
    if isinstance(there, dict) and isinstance(asked, dict):
        keys = dict.fromkeys((*asked, *there))
        return [
            d
            for k in keys
            for d in differences(there.get(k), asked.get(k), f"{name}.{k}" if name else str(k))
        ]
    return [] if there == asked else [f"{name}: there {there!r}, asked {asked!r}"]


def unlike(folder: Path, recorded: dict[str, Any]) -> list[str]:
    """What the configuration of a seed and that of `TrainConfig.recorded` disagree about, whatever the seed
    and what it started from.
    """
    there = read_config(folder)
    asked = json.loads(json.dumps(recorded, default=str))
    return differences(there, {**asked, "seed": there["seed"], "start": there.get("start")})


def seeds(run: Path) -> list[Path]:
    """The finished seeds of a run folder. Raises UserError when there is none."""
    found = sorted(p.parent for p in run.glob("seed-*/summary.json"))
    if not found:
        raise UserError(
            f"{run} holds no finished seed (seed-*/summary.json). Finish the run, or name another folder."
        )
    return found


def _json(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object with the needed keys. Raises UserError for what is missing, unreadable, or something
    else.
    """
    repair = f"Restore it, or remove {path.parent} and train that seed again."
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unrepeated)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({plain(error)}). {repair}") from error
    missing = [key for key in needed if not isinstance(found, dict) or key not in found]
    if missing:
        raise UserError(f"{path} is not that of a training run: it has no {', '.join(missing)}. {repair}")
    return dict(found)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of one seed.

    Raises UserError when it is missing or damaged, and when it is that of another seed than the folder's name
    says.
    """
    config = _json(folder / "config.json", ("model", "seed", "steps", "evaluation", "benchmark", "cram"))
    named = folder.name.removeprefix("seed-")
    if folder.name.startswith("seed-") and named != str(config["seed"]):
        raise UserError(
            f"{folder} holds seed {config['seed']!r} by its config.json. Give the folder the name of its "
            "seed, or train that seed again."
        )
    return config


def read_summary(folder: Path) -> SeedSummary:
    """The summary of one finished seed.

    Raises UserError when it is missing or damaged, and when it is not that of the configuration beside it.
    """
    path = folder / "summary.json"
    config, found = read_config(folder), _json(path, SUMMARY)
    # summaries of older runs carry no digest, but seed, model and steps
    wrong = [
        f"{key}: {found[key]!r}, its config.json {config[key]!r}"
        for key in ("seed", "model", "steps")
        if found[key] != config[key]
    ]
    if found.get("config_digest", config_digest(config)) != config_digest(config):
        wrong.append("the digest of its configuration")
    groups = [found[key] for key in ("accuracy", "attention", "knock_outs", "events")]
    numbers = [found[key] for key in NUMBERS] + [
        v for group in groups if isinstance(group, dict) for v in group.values()
    ]
    if not all(isinstance(group, dict) for group in groups) or any(
        v is not None and not isinstance(v, int | float) for v in numbers
    ):
        wrong.append("something that is no number where one belongs")
    if wrong:
        raise UserError(
            f"{folder / 'summary.json'} does not belong to its run ({'; '.join(wrong)}). Restore it, or "
            "train that seed again."
        )
    return SeedSummary.of_json(opened(found, path))


def load(run: Path, table: str) -> pd.DataFrame:
    """A table of all finished seeds of a run, with a column `seed`. Raises UserError when one does not belong
    to its seed.
    """
    return pd.concat(
        [_belonging(folder, table).assign(seed=read_config(folder)["seed"]) for folder in seeds(run)],
        ignore_index=True,
    )


def _belonging(folder: Path, name: str) -> pd.DataFrame:
    """A table of one seed. Raises UserError when its metadata, or its own numbers, are of another seed or
    configuration.
    """
    path, config = folder / f"{name}.parquet", read_config(folder)
    table, facts = read(path)
    wrong = [d for d in differences(facts.get("config"), config) if d] or (
        []
        if facts.get("seed") == config["seed"]
        else [f"seed: there {facts.get('seed')!r}, asked {config['seed']!r}"]
    )
    if not wrong and name == "trajectory":
        positions = config["evaluation"] * config["benchmark"]["length"]
        counted = set(table.loc[(table["metric"] == "attention") & (table["kind"] == "all"), "n"])
        last = int(table["step"].max()) if len(table) else -1
        if counted != {positions} or last != config["steps"]:
            wrong = [
                f"positions: there {sorted(counted)}, asked {positions}; last step: there {last}, asked "
                f"{config['steps']}"
            ]
    elif not wrong and len(table):
        patterns = int(table["pattern"].max())
        if patterns >= config["benchmark"]["patterns"]:
            wrong = [f"patterns: there {patterns + 1}, asked at most {config['benchmark']['patterns']}"]
    if wrong:
        raise UserError(
            f"{path} is not of the run that it lies in ({'; '.join(wrong[:6])}). Restore it, or train that "
            "seed again."
        )
    return table


def course(run: Path, metric: str, kind: str = "all", layer: int = -1) -> pd.DataFrame:
    """One metric over training: index step, one column per seed."""
    rows = load(run, "trajectory").query("metric == @metric and kind == @kind and layer == @layer")
    return rows.pivot(index="step", columns="seed", values="value")


def summaries(run: Path) -> list[SeedSummary]:
    """The summary of every finished seed. Raises UserError when one is damaged or of another run."""
    return [read_summary(folder) for folder in seeds(run)]


def tidy(rows: Iterable[tuple[int, int, str, str, float, int]]) -> pd.DataFrame:
    """Rows (step, layer, kind, metric, value, n) as the table of this module's docstring."""
    return pd.DataFrame(rows, columns=list(TABLES["trajectory"]))
