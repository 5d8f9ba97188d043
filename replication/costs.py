"""The tables of docs/costs.md, from the files that the two benchmark commands write, and from the seeds that
are shipped.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from labbook.run import read_table
from replication.results import markdown
from replication.rows import ROOT, minutes

PROBE, CRAM = ROOT / "figures" / "benchmark.csv", ROOT / "figures" / "benchmark_consolidation.csv"
# folders of runs, each with a folder by cell and in it one by seed
TRAINED = (*sorted((ROOT / "consolidation/data/runs").glob("*")), ROOT / "consolidation/data/experiments")
LAYER = "one layer, "
# factor and unit of what is shown, from the largest unit down
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def costs(probe: Path = PROBE, cram: Path = CRAM, trained: Sequence[Path] = TRAINED) -> list[str]:
    """The page's tables as paragraphs: a table each with the sentence before it.

    Parameters
    ----------
    probe, cram : what `redundancy.benchmark` and `consolidation.benchmark` wrote.
    trained : folders of runs of `consolidation.replicate` and `consolidation.experiments`.

    Raises UserError where one of the tables, or a summary of a seed, cannot be read.
    """
    redundancy, consolidation = read_table(probe), read_table(cram)
    layers = consolidation["what"].str.startswith(LAYER)
    return [
        "The probe, in pairs a / b of the same work (`figures/benchmark.csv`):",
        _table(["a / b", "model", "a", "b", "ratio a / b"], map(_probe_row, redundancy.to_dict("records"))),
        "Consolidation and decay (`figures/benchmark_consolidation.csv`):",
        _table(
            ["a / b", "a", "b", "ratio a / b", "target"],
            map(_cram_row, consolidation[~layers].to_dict("records")),
        ),
        "One layer, 2 % of positions routed, by the length of the sequence:",
        _layers(consolidation[layers]),
        "Training runs that are shipped, wall time on two cores that several jobs shared (rather too much):",
        _table(
            ["runs", "steps", "seeds", "minutes a seed, median (least to most)", "hours, all"],
            [row for folder in trained for row in _seeds(folder)],
        ),
    ]


def _seeds(folder: Path) -> Iterator[list[str]]:
    """What the seeds of all cells of a folder took, by their number of steps."""
    for steps, each in sorted(minutes(folder).items()):
        middle, least, most = (f"{f(each):.1f}" for f in (median, min, max))
        count, hours = str(len(each)), f"{sum(each) / 60:.1f}"
        yield [folder.name, f"{steps:,}", count, f"{middle} ({least} to {most})", hours]


def _table(head: Sequence[str], rows: Any) -> str:
    return "\n".join(markdown(head, list(rows))).strip()


def _probe_row(row: dict[Any, Any]) -> list[str]:
    what, _, unit = str(row["comparison"]).rpartition(", ")
    if not unit.startswith(("seconds", "bytes")):
        what, unit = str(row["comparison"]), ""
    scales = BYTES if unit.startswith("bytes") else SECONDS if unit.startswith("seconds") else ()
    about = unit.removeprefix("seconds").removeprefix("bytes").strip()
    name = f"{what}, {about}" if about else what
    return [name, str(row["model"]), *(_scaled(row[c], scales) for c in ("ours", "other")), _ratio(row)]


def _cram_row(row: dict[Any, Any]) -> list[str]:
    parts = [_scaled(row[f"{name}_seconds"], SECONDS) for name in ("numerator", "denominator")]
    return [str(row["what"]), *parts, _ratio(row), "" if pd.isna(row["target"]) else str(row["target"])]


def _scaled(value: float, scales: Sequence[tuple[float, str]]) -> str:
    """Three digits in the largest unit that the value fills."""
    if math.isnan(value):
        return ""
    if not scales:
        return _digits(value)
    factor, unit = next((one for one in scales if value >= one[0]), scales[-1])
    return f"{_digits(value / factor)} {unit}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _ratio(row: dict[Any, Any]) -> str:
    """The ratio; of several pairs the median with its quartiles."""
    text = _digits(row["ratio"])
    if pd.isna(row["lower_quartile"]) or row["n"] < 2:
        return text
    quartiles = ", ".join(_digits(row[f"{name}_quartile"]) for name in ("lower", "upper"))
    return f"{text} [quartiles {quartiles}], n = {row['n']:.0f} pairs"


def _layers(rows: pd.DataFrame) -> str:
    """Time and memory of one layer of each model by length, and the exponents with which they grow."""
    found: dict[str, dict[str, list[str]]] = {}
    growth: dict[str, dict[str, str]] = {"time": {}, "memory": {}}
    since = ""
    for row in rows.to_dict("records"):
        rest = str(row["what"]).removeprefix(LAYER)
        if ": exponent of " in rest:
            model, what = rest.split(": exponent of ")
            measure, since = what.split(" from ")
            growth[measure][model] = f"length ^ {row['ratio']:.2f}"
        else:
            model, length = rest.split(", ", 1)
            cells = [_scaled(row["numerator_seconds"], SECONDS), _scaled(row["denominator_seconds"], SECONDS)]
            found.setdefault(length, {})[model] = ["".join(cells), _scaled(row["bytes"], BYTES)]
    models = list(growth["time"])
    head = ["length", *(f"{model}, {what}" for what in ("time", "memory") for model in models)]
    body = [
        [length, *(of[model][place] for place in (0, 1) for model in models)] for length, of in found.items()
    ]
    body.append(
        [
            f"grows as, from {since.replace(' positions', '')}",
            *(growth[what][m] for what in ("time", "memory") for m in models),
        ]
    )
    return _table(head, body)
