"""From sums to tables: every score with its interval, its controls beside it, and the verdict in one sentence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from labbook.console import console
from labbook.estimate import Array, Bootstrap, Estimate
from labbook.run import Run, read_finished
from redundancy.controls import RANDOM
from redundancy.measure import Task
from redundancy.models import Decoder
from redundancy.scores import EDGES, METRICS, THRESHOLDS, LayerScores

# Table 6 of arXiv:2602.12204, by (layers, d_model) of GPT-2: R overall. Section 2 gives the head groups, model not said.
PAPER_R = {(12, 768): 0.84, (24, 1024): 0.92}
PAPER_VOCABULARY = 50257
PAPER_HEADS = {"share_heads_R_above_0.8": 0.34, "share_heads_R_0.5_to_0.8": 0.41, "share_heads_R_below_0.5": 0.25}
FRAMES = ("layers", "heads", "controls", "histogram", "distribution")
COLUMNS = ("estimate", "lower", "upper", "n")
CONTROL_NAMES = {
    "training_mean": "training mean",
    "position_mean": "mean per position",
    "token_mean": "mean per token id",
    "previous_token": "previous token",
    "shuffled": "shuffled target",
    RANDOM: "random weights",
}


@dataclass(frozen=True)
class Tables:
    """The results of a probe run.

    Attributes
    ----------
    layers : layer, feature, metric, estimate, lower, upper, n; `feature` is the probe's feature or the name of a control.
    heads : the same with head.
    controls : per layer and control its scores, and `difference` (probe minus control, paired over documents) with its interval.
    histogram : layer, feature, left, right, share of tokens with R_t in [left, right) as estimate, lower, upper, n.
    distribution : the same shares as means over layers.
    summary : the means over layers, head groups, text, penalties, and the verdict.
    folder : where all of it is stored.
    """

    summary: dict[str, Any]
    layers: pd.DataFrame
    heads: pd.DataFrame
    controls: pd.DataFrame
    histogram: pd.DataFrame
    distribution: pd.DataFrame
    folder: Path = Path()

    def write(self, run: Run) -> None:
        """Write all tables into the run folder, `summary.json` last."""
        run.finish({name: getattr(self, name) for name in FRAMES}, self.summary)

    @staticmethod
    def read(folder: Path) -> "Tables":
        """Read a finished run. Raises UserError when `folder` is not one."""
        summary, frames = read_finished(folder, FRAMES, "probe")
        return Tables(summary=summary, folder=folder, **frames)


class _Rows:
    """Tidy rows in the making."""

    def __init__(self, bootstrap: Bootstrap):
        self.bootstrap, self.parts = bootstrap, list[pd.DataFrame]()

    def add(self, values: Array, keys: dict[str, Any]) -> None:
        """One row per element of values (1 + replicates, rows...), with the given key columns."""
        numbers = dict(zip(COLUMNS, map(np.atleast_1d, self.bootstrap.intervals(values)), strict=False))
        self.parts.append(pd.DataFrame({**keys, **numbers, "n": self.bootstrap.units}))

    def frame(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True)


def all_metrics(scores: LayerScores, name: str, weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Scores of a layer and of its heads under document weights, the shares of its operations among those of the layer."""
    layer, head = scores.metrics(name, weights)
    for c in THRESHOLDS:
        layer[f"share_operations_error_below_{round(1 - c, 1)}"] = head[f"share_R_above_{c}"].mean(-1)
    return layer, head


def tabulate(
    decoder: Decoder,
    task: Task,
    trained: dict[int, LayerScores],
    twin: dict[int, LayerScores],
    penalties: dict[int, dict[str, float]],
    bootstrap: Bootstrap,
    facts: dict[str, Any],
) -> Tables:
    """All tables of a run, from the sums of the model and of its random twin."""
    layers, heads, controls, histogram, distribution = (_Rows(bootstrap) for _ in FRAMES)
    weights, feature = bootstrap.weights, task.feature
    over_layers: dict[str, dict[str, list[Array]]] = {}
    starts: dict[str, dict[str, list[Array]]] = {}
    head_scores: dict[str, list[Array]] = {}
    shares: dict[str, list[Array]] = {}
    bins = {"left": np.append(-np.inf, EDGES), "right": np.append(EDGES, np.inf)}
    for number, scores in trained.items():
        probe: dict[str, Array] = {}
        for name in [*_probe_first(scores, feature), RANDOM]:
            source, key = (twin[number], feature) if name == RANDOM else (scores, name)
            layer, head = all_metrics(source, key, weights)
            probe = probe or layer
            for metric, values in layer.items():
                layers.add(values, {"layer": number, "feature": name, "metric": metric})
                over_layers.setdefault(name, {}).setdefault(metric, []).append(values)
                if name != feature:
                    difference = _difference(bootstrap, probe[metric] - values)
                    controls.parts.append(layers.parts[-1].assign(**difference))
            for metric, values in source.start_metrics(key, weights).items():
                layers.add(values, {"layer": number, "feature": name, "metric": metric})
                starts.setdefault(name, {}).setdefault(metric, []).append(values)
            for metric in METRICS:
                keys = {"layer": number, "head": np.arange(decoder.n_heads), "feature": name, "metric": metric}
                heads.add(head[metric], keys)
            head_scores.setdefault(name, []).append(head["R"])
            shares.setdefault(name, []).append(source.histogram(key, weights))
            histogram.add(shares[name][-1], {"layer": number, "feature": name, **bins})
    for name, parts in shares.items():
        distribution.add(np.mean(parts, axis=0), {"feature": name, **bins})
    means = {
        name: {m: np.mean(values, axis=0) for m, values in metrics.items()} for name, metrics in over_layers.items()
    }
    groups = {name: _head_groups(np.concatenate(values, axis=1)) for name, values in head_scores.items()}
    summary = _summarise(decoder, task, means, groups, penalties, bootstrap, facts)
    for name, metrics in starts.items():
        at_zero = {m: vars(bootstrap.estimate(np.mean(values, axis=0))) for m, values in metrics.items()}
        summary.setdefault("at_position_0", {})[name] = at_zero
    return Tables(summary, layers.frame(), heads.frame(), controls.frame(), histogram.frame(), distribution.frame())


def _probe_first(scores: LayerScores, feature: str) -> list[str]:
    """Names of the predictors, the probe first."""
    names = [key.removeprefix("layer/") for key in scores.sums if key.startswith("layer/")]
    return [feature, *(name for name in names if name != feature)]


def _difference(bootstrap: Bootstrap, values: Array) -> dict[str, float]:
    difference = bootstrap.estimate(values)
    return {
        "difference": difference.estimate,
        "difference_lower": difference.lower,
        "difference_upper": difference.upper,
    }


def _head_groups(r: Array) -> dict[str, Array]:
    """Shares of all heads in the paper's three groups: r is (replicate, head)."""
    return {
        "share_heads_R_above_0.8": (r > 0.8).mean(-1),
        "share_heads_R_0.5_to_0.8": ((r <= 0.8) & (r >= 0.5)).mean(-1),
        "share_heads_R_below_0.5": (r < 0.5).mean(-1),
    }


def _summarise(
    decoder: Decoder,
    task: Task,
    means: dict[str, dict[str, Array]],
    groups: dict[str, dict[str, Array]],
    penalties: dict[int, dict[str, float]],
    bootstrap: Bootstrap,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The machine-readable headline."""

    def numbers(values: dict[str, Array]) -> dict[str, Any]:
        return {metric: vars(bootstrap.estimate(v)) for metric, v in values.items()}

    feature = task.feature
    names = [name for name in means if name != feature]
    summary: dict[str, Any] = {
        "model": facts["model"],
        "feature": feature,
        "layers": list(task.layers),
        "heads_per_layer": decoder.n_heads,
        "aggregation": "mean over layers; intervals resample held-out documents",
        "tokens": facts["tokens"],
        "documents": {split: len(n) for split, n in facts["documents"].items()},
        "unit": facts["unit"],
        "position_0": "kept" if task.start_position == 0 else "excluded",
        "metrics": numbers(means[feature]),
        "controls": {name: numbers(means[name]) for name in names},
        "differences": {name: numbers({m: means[feature][m] - v for m, v in means[name].items()}) for name in names},
        "head_groups": {name: numbers(g) for name, g in groups.items()},
        "penalties": {str(n): p for n, p in penalties.items()},
    }
    depth, width = len(decoder.layers), decoder.d_model
    is_paper = (
        decoder.model.config.model_type == "gpt2"
        and (depth, width) in PAPER_R
        and decoder.vocabulary == PAPER_VOCABULARY
    )
    if is_paper and not facts["model"].startswith("random:") and len(task.layers) == depth:
        stated = PAPER_R[depth, width]
        gap = bootstrap.estimate(means[feature]["R"] - stated)
        summary["paper"] = {
            "R": stated,
            "source": "arXiv:2602.12204, table 6",
            "gap": vars(gap),
            "head_groups": PAPER_HEADS,
        }
    summary["verdict"] = _verdict(summary)
    return summary


def _cell(number: dict[str, Any]) -> str:
    """Estimate and interval for the terminal; undefined ones show as nan."""
    estimate, lower, upper = (float("nan") if number[c] is None else number[c] for c in COLUMNS[:3])
    return f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]"


def _verdict(summary: dict[str, Any]) -> str:
    """One sentence: the score, and how much of it the controls reach."""

    def show(source: dict[str, Any], metric: str) -> str:
        e = Estimate(**source[metric])
        return f"{e.estimate:.2f} [{e.lower:.2f}, {e.upper:.2f}]"

    metrics, controls = summary["metrics"], summary["controls"]
    text = (
        f"R = {show(metrics, 'R')}, of which {show(controls['training_mean'], 'R')} is already reached by the training mean, "
        f"{show(controls['position_mean'], 'R')} by the position and {show(controls['token_mean'], 'R')} by the token id alone; random weights reach {show(controls[RANDOM], 'R')}. "
        f"Centred R2 = {show(metrics, 'R2')} against {show(controls[RANDOM], 'R2')} with random weights "
        f"(95 % intervals over {metrics['R']['n']} held-out {summary['unit']}s)."
    )
    if "paper" in summary:
        gap = Estimate(**summary["paper"]["gap"])
        text += f" The paper gives R = {summary['paper']['R']:.2f} for this model: the difference is {gap.estimate:+.2f} [{gap.lower:+.2f}, {gap.upper:+.2f}]."
    return text


def print_tables(tables: Tables) -> None:
    """The tables on the terminal: per layer with controls, the means over layers, and the verdict."""
    summary = tables.summary
    feature, columns = summary["feature"], [summary["feature"], *CONTROL_NAMES]
    for metric, title in (("R", "R of Definition 1"), ("R2", "centred R2")):
        table = Table(
            box=box.SIMPLE,
            title=f"{title} of {summary['model']} by layer, position 0 {summary['position_0']}",
            title_justify="left",
        )
        table.add_column("layer", justify="right")
        for name in columns:
            table.add_column(CONTROL_NAMES.get(name, f"probe ({name})"), justify="right")
        chosen = tables.layers[tables.layers["metric"] == metric]
        wide = chosen.pivot(index="layer", columns="feature", values=["estimate", "lower", "upper"])
        for layer, row in wide.iterrows():
            cells = [f"{row['estimate', feature]:.3f} [{row['lower', feature]:.3f}, {row['upper', feature]:.3f}]"]
            table.add_row(str(layer), *cells, *(f"{row['estimate', name]:.3f}" for name in CONTROL_NAMES))
        every = [summary["metrics"], *(summary["controls"][name] for name in CONTROL_NAMES)]
        cells = [_cell(m[metric]) for m in every]
        table.add_section()
        table.add_row("mean", cells[0], *(c.replace(" [", "\n[") for c in cells[1:]))
        console.print(table)
    table = Table(
        box=box.SIMPLE,
        title=f"means over layers, n = {summary['metrics']['R']['n']} {summary['unit']}s",
        title_justify="left",
    )
    for name in ("score", f"probe ({feature})", "training mean", "random weights"):
        table.add_column(name, justify="left" if name == "score" else "right")
    sources = (summary["metrics"], summary["controls"]["training_mean"], summary["controls"][RANDOM])
    for metric in summary["metrics"]:
        table.add_row(metric, *(_cell(s[metric]) for s in sources))
    table.add_section()
    groups = summary["head_groups"]
    for metric in PAPER_HEADS:
        table.add_row(metric, *(_cell(groups[name][metric]) for name in (feature, "training_mean", RANDOM)))
    if "at_position_0" in summary:
        at_zero = summary["at_position_0"]
        table.add_section()
        for metric in at_zero[feature]:
            table.add_row(metric, *(_cell(at_zero[name][metric]) for name in (feature, "training_mean", RANDOM)))
    console.print(table)
    console.print(summary["verdict"])
