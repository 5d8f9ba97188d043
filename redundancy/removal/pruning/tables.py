"""What the methods cost, in rows: losses, differences between methods and between targets, budgets, seconds,
and whether attention or the MLP can lose more layers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from labbook.estimate import Array, Estimate, Studentised
from labbook.run import read_table
from labbook.view import print_table
from redundancy.aggregate import NUMBER, Sampled, TableRow, table_row
from redundancy.facts import Facts, bits_per_byte
from redundancy.removal.curve import BUDGETS, Removable, measures, removable
from redundancy.removal.pruning.experiment import Measured, Point
from redundancy.removal.pruning.methods import METHODS, Removes

COLUMNS = {
    "methods": ("method", "source", "target", "removed", "units", "share", "metric", *NUMBER),
    "method_differences": ("method", "target", "other_method", "other_target", "removed", "share", *NUMBER),
    "method_removable": ("method", "target", "budget", *NUMBER, "within", "beyond", "kind"),
    "method_seconds": ("method", "target", "step", "runs", "seconds"),
}
# fewest documents that a verdict rests on
LEAST = 3

Answer = Literal["yes", "no", "depends", "undecided"]


@dataclass(frozen=True)
class MethodTables:
    """The tables of the part `methods`; all empty where it was not run.

    Attributes
    ----------
    methods : method, source, target (attention, mlp, block, or sublayers: attention and mlp together),
        removed (a number of units), units (which, in their order), share of the units of that target, metric,
        estimate, lower, upper, n. `recovered_of_nothing` and `recovered_of_mean`: which share a replacement
        wins back of what it costs to leave the same units out, or to put the mean of their updates there.
    method_differences : loss increase of `method` on `target` minus that of `other_method` on `other_target`
        with as many units removed, nats per token, paired.
    method_removable : share of the units of a target that a method can remove within a budget, see
        `curve.removable`.
    method_seconds : wall time of every step, and how often it ran the calibration text, or the held-out text,
        through the model.
    """

    methods: pd.DataFrame
    method_differences: pd.DataFrame
    method_removable: pd.DataFrame
    method_seconds: pd.DataFrame

    @staticmethod
    def none() -> "MethodTables":
        """The tables of a run without methods."""
        return MethodTables(**{name: pd.DataFrame(columns=list(COLUMNS[name])) for name in COLUMNS})

    @staticmethod
    def read(folder: Path) -> "MethodTables":
        """The tables in a run folder; empty ones where it holds none, as runs of an older version do."""
        if not (folder / "methods.csv").is_file():
            return MethodTables.none()
        return MethodTables(**{name: read_table(folder / f"{name}.csv") for name in COLUMNS})

    def files(self) -> dict[str, pd.DataFrame]:
        """What the run folder holds of them, by name; nothing where there is nothing."""
        return {field.name: getattr(self, field.name) for field in fields(self)} if len(self.methods) else {}

    def headed(self) -> dict[str, pd.DataFrame]:
        """The tables by the headings of a report."""
        return {
            "layers, MLPs and blocks removed whole: loss increase, nats per token": self.methods[
                self.methods["metric"] == "loss_increase"
            ],
            "share of layers, MLPs and blocks that can go whole": self.method_removable,
            "the same method on the MLP and on attention: difference of the losses": _targets(self),
            "seconds of the methods": self.method_seconds,
        }


def tabulate_methods(measured: Measured, bootstrap: Studentised, facts: Facts) -> MethodTables:
    """All tables, from the sums of the intact model and of every way to run it."""
    changes = measures(measured.intact, measured.changed, bootstrap.weights)
    changes["bits_per_byte_increase"] = bits_per_byte(changes["loss_increase"], facts.bytes_per_token)
    loss = {(p.removes, p.method, p.count): _over_draws(changes["loss_increase"], p) for p in measured.points}
    totals = {p.removes: p.total for p in measured.points}
    rows = {
        "methods": [row for point in measured.points for row in _point_rows(point, changes, bootstrap)],
        "method_differences": list(_differences(loss, totals, bootstrap)),
        "method_removable": list(_removable(loss, totals, bootstrap)),
        "method_seconds": [{**row, "target": row["removes"]} for row in measured.seconds],
    }
    frames = {name: pd.DataFrame(rows[name], columns=list(columns)) for name, columns in COLUMNS.items()}
    return MethodTables(**frames)


def _over_draws(values: Array, point: Point) -> Sampled:
    """A statistic of a point, (1 + documents,); of several random orders their mean."""
    return Sampled.over_seeds([values[place] for place in point.places], (-np.inf, np.inf))


def _point_rows(point: Point, changes: Mapping[str, Array], bootstrap: Studentised) -> Iterator[TableRow]:
    keys = {
        "method": point.method,
        "source": METHODS[point.method].source,
        "target": point.removes,
        "removed": point.count,
        "units": ", ".join(map(str, point.units)),
        "share": point.count / point.total,
    }
    for metric in ("loss_increase", "bits_per_byte_increase", "kl", "top1_agreement"):
        yield table_row(_over_draws(changes[metric], point), bootstrap, **keys, metric=metric)
    for metric, reference in (("recovered_of_nothing", point.nothing), ("recovered_of_mean", point.mean)):
        if reference is None:
            continue
        lost, own = changes["loss_increase"][reference], changes["loss_increase"][point.places[0]]
        # where leaving the units out costs nothing that can be told from zero, there is nothing to recover
        if bootstrap.estimate(lost).lower > 0:
            yield table_row((lost - own) / lost, bootstrap, **keys, metric=metric)


Losses = Mapping[tuple[Removes, str, int], Sampled]


def _differences(loss: Losses, totals: Mapping[Removes, int], bootstrap: Studentised) -> Iterator[TableRow]:
    """Every two methods on one target, and every method on the MLP against itself on attention."""
    for (removes, method, count), own in loss.items():
        for (other_removes, other, other_count), rival in loss.items():
            if count != other_count:
                continue
            names = list(METHODS)
            methods = removes == other_removes and names.index(method) > names.index(other)
            targets = (removes, other_removes) == ("mlp", "attention") and method == other
            if methods or targets:
                yield table_row(
                    own - rival,
                    bootstrap,
                    method=method,
                    target=removes,
                    other_method=other,
                    other_target=other_removes,
                    removed=count,
                    share=count / totals[removes],
                )


def _removable(loss: Losses, totals: Mapping[Removes, int], bootstrap: Studentised) -> Iterator[TableRow]:
    for removes, method in dict.fromkeys((removes, method) for removes, method, _ in loss):
        counts = sorted(count for r, m, count in loss if (r, m) == (removes, method))
        increases = np.stack([loss[removes, method, count].values for count in counts], 1)
        shares = np.tile(np.array(counts) / totals[removes], (len(increases), 1))
        for budget in BUDGETS:
            found = removable(shares, increases, budget, bootstrap, discrete=True)
            yield {"method": method, "target": removes, "budget": budget, **found.json()}


def more_redundant(differences: Sequence[Estimate]) -> Answer:
    """Whether attention can go more cheaply than the MLP, from losses of the MLP minus losses of attention.

    `yes` where every interval lies above zero, `no` where every one lies below, `depends` where some lie
    above and some below; else, without an interval, or from fewer than LEAST documents, `undecided`.
    """
    known = all(d.n >= LEAST and all(map(math.isfinite, (d.estimate, d.lower, d.upper))) for d in differences)
    if not differences or not known:
        return "undecided"
    if all(d.lower > 0 for d in differences):
        return "yes"
    if all(d.upper < 0 for d in differences):
        return "no"
    both = any(d.lower > 0 for d in differences) and any(d.upper < 0 for d in differences)
    return "depends" if both else "undecided"


def _targets(tables: MethodTables) -> pd.DataFrame:
    """Differences between MLP and attention, by method and number removed."""
    rows = tables.method_differences
    return rows[(rows["target"] == "mlp") & (rows["other_target"] == "attention")]


@dataclass(frozen=True)
class AgainstMlp:
    """Attention layers against as many MLPs, about half of each, by every method but the random order.

    Attributes
    ----------
    removed : how many of each.
    answer : which can go more cheaply, see `more_redundant`.
    differences : of the losses by method, MLP minus attention.
    each : the same in words.
    otherwise : the same differences with other numbers removed, by these.
    """

    removed: int
    answer: Answer
    differences: tuple[Estimate, ...]
    each: str
    otherwise: dict[int, tuple[Estimate, ...]]


def against_mlp(tables: MethodTables) -> AgainstMlp | None:
    """What the tables say; None where nothing was compared."""
    rows = _targets(tables)
    rows = rows[rows["method"] != "random"]
    if rows.empty:
        return None
    found: dict[int, dict[str, Estimate]] = {}
    for row in rows.sort_values("removed", kind="stable").to_dict("records"):
        found.setdefault(row["removed"], {})[row["method"]] = Estimate.read(row)
    nearest = (rows["share"] - 0.5).abs()
    removed = int(rows[nearest == nearest.min()]["removed"].min())
    differences = {count: tuple(by_method.values()) for count, by_method in found.items()}
    return AgainstMlp(
        removed,
        more_redundant(differences[removed]),
        differences[removed],
        "; ".join(f"{METHODS[name].label} {e.text(2, sign=True)}" for name, e in found[removed].items()),
        {count: each for count, each in differences.items() if count != removed},
    )


def sentences(tables: MethodTables) -> list[str]:
    """What was found, each sentence with its numbers: attention against the MLP; one budget."""
    said, compared = list[str](), against_mlp(tables)
    if compared is not None:
        first = {
            "yes": "Attention is more redundant than the MLP",
            "no": "Attention is less redundant than the MLP",
            "depends": "Whether attention or the MLP is more redundant depends on the method",
            "undecided": "Whether attention or the MLP is more redundant is undecided",
        }[compared.answer]
        n = compared.removed
        others = ", ".join(f"{count}: {more_redundant(each)}" for count, each in compared.otherwise.items())
        said.append(
            f"{first}: without {n} MLPs the loss is higher than without {n} attention layers by, in nats per "
            f"token, {compared.each}" + (f" (with other numbers removed, {others})." if others else ".")
        )
    for target, told in (("attention", "attention layers"), ("block", "blocks")):
        within = tables.method_removable
        within = within[(within["target"] == target) & (within["budget"] == BUDGETS[1])]
        if len(within):
            most = within["estimate"].max()
            names = [METHODS[str(name)].label for name in within[within["estimate"] == most]["method"]]
            rest = f" ({', '.join(names)})" if most > 0 else ": the cheapest one costs more"
            said.append(
                f"Within +{BUDGETS[1]} nats per token, by the best of {len(within)} methods on these "
                f"documents, a share of {most:.2f} of the {told} can go whole{rest}."
            )
    return said


def print_methods(tables: MethodTables) -> None:
    """Every method at about half of the units, and the share that it can remove, on the terminal."""
    rows = tables.methods[tables.methods["metric"] == "loss_increase"]
    if not len(rows):
        return
    budgets = {
        (row["target"], row["method"], row["budget"]): Removable.read(row)
        for row in tables.method_removable.to_dict("records")
    }
    shown = list[list[str] | None]()
    for target, of_target in rows.groupby("target", sort=False):
        distance = (of_target["share"] - 0.5).abs()
        for name in of_target["method"].unique():
            own = of_target[of_target["method"] == name]
            row = own.loc[distance[own.index].idxmin()].to_dict()
            within = budgets[target, name, BUDGETS[1]]
            cells = [str(row["removed"]), Estimate.read(row).text(), within.text()]
            shown.append([f"{target}: {METHODS[name].label}", *cells])
        shown.append(None)
    heads = ["target: method", "removed", "loss increase", f"share at +{BUDGETS[1]} nats"]
    print_table("methods of the field, about half removed, nats per token", heads, shown[:-1])
