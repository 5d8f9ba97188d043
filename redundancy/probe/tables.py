"""From sums to tables: every score with its interval, its controls beside it, and the verdict in one
sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich import box
from rich.table import Table

from labbook.console import console
from labbook.estimate import Array, Estimate, Studentised
from labbook.run import Run, read_finished
from redundancy.aggregate import (
    CONTROL_NAMES,
    Metrics,
    Sampled,
    all_metrics,
    mean_over_layers,
    mean_over_seeds,
    part_of,
)
from redundancy.model.decoder import Decoder
from redundancy.passes import Task
from redundancy.regression.controls import RANDOM
from redundancy.regression.scores import EDGES, METRICS, LayerScores

# controls that reach what a mean reaches by construction: in the tables, not on the terminal
AS_THE_MEAN = ("shuffled", "aligned_shuffled")
# Table 6 of arXiv:2602.12204, by (layers, d_model) of GPT-2: R overall. Section 2 gives the head groups,
# model not said.
PAPER_R = {(12, 768): 0.84, (24, 1024): 0.92}
PAPER_VOCABULARY = 50257
PAPER_HEADS = {
    "share_heads_R_above_0.8": 0.34,
    "share_heads_R_0.5_to_0.8": 0.41,
    "share_heads_R_below_0.5": 0.25,
}
FRAMES = ("layers", "heads", "controls", "histogram", "distribution", "learning")
LEARNING = ("tokens", "model", "metric", "against", "estimate", "lower", "upper", "n")
# centred R2 may still change by this much with twice the training tokens where "converged" is said
CONVERGED = 0.01
COLUMNS = ("estimate", "lower", "upper", "n")


@dataclass(frozen=True)
class Tables:
    """The results of a probe run.

    Attributes
    ----------
    layers : layer, feature, metric, estimate, lower, upper, n; `feature` is the probe's feature or the name
        of a control.
    heads : the same with head.
    controls : per layer and control its scores, and `difference` (probe minus control, paired over documents)
        with its interval.
    histogram : layer, feature, left, right, share of tokens with R_t in [left, right) as estimate, lower,
        upper, n.
    distribution : the same shares as means over layers.
    learning : tokens, model (trained or random), metric, against, estimate, lower, upper, n: scores of the
        probe fitted to a part of the training text, and (`against` all) the same minus those with all of it;
        empty unless asked for.
    summary : the means over layers, head groups, text, penalties, and the verdict.
    folder : where all of it is stored.
    """

    summary: dict[str, Any]
    layers: pd.DataFrame
    heads: pd.DataFrame
    controls: pd.DataFrame
    histogram: pd.DataFrame
    distribution: pd.DataFrame
    learning: pd.DataFrame
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

    def __init__(self, bootstrap: Studentised):
        self.bootstrap, self.parts = bootstrap, list[pd.DataFrame]()

    def add(self, sampled: Sampled, keys: dict[str, Any]) -> None:
        """One row per element of the statistic, with the given key columns."""
        numbers = dict(zip(COLUMNS, map(np.atleast_1d, sampled.intervals(self.bootstrap)), strict=False))
        self.parts.append(pd.DataFrame({**keys, **numbers, "n": self.bootstrap.units}))

    def frame(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True)


def tabulate(
    decoder: Decoder,
    task: Task,
    trained: dict[int, LayerScores],
    twins: Sequence[dict[int, LayerScores]],
    penalties: dict[int, dict[str, float]],
    learning: pd.DataFrame,
    bootstrap: Studentised,
    facts: dict[str, Any],
) -> Tables:
    """All tables of a run, from the sums of the model and of its random twins."""
    layers, heads, controls, histogram, distribution = (_Rows(bootstrap) for _ in range(5))
    weights, feature = bootstrap.weights, task.feature
    over_layers: dict[str, list[Metrics]] = {}
    starts: dict[str, list[Metrics]] = {}
    head_scores: dict[str, list[Sampled]] = {}
    shares: dict[str, list[Sampled]] = {}
    bins = {"left": np.append(-np.inf, EDGES), "right": np.append(EDGES, np.inf)}
    for number, scores in trained.items():
        probe: Metrics = {}
        for name in [*_probe_first(scores, feature), RANDOM]:
            sources, key = ([twin[number] for twin in twins], feature) if name == RANDOM else ([scores], name)
            layer, head = all_metrics(sources, key, weights)
            probe = probe or layer
            over_layers.setdefault(name, []).append(layer)
            for metric, sampled in layer.items():
                layers.add(sampled, {"layer": number, "feature": name, "metric": metric})
                if name != feature:
                    difference = _difference(bootstrap, probe[metric] - sampled)
                    controls.parts.append(layers.parts[-1].assign(**difference))
            start = mean_over_seeds([one.start_metrics(key, weights) for one in sources])
            for metric, sampled in start.items():
                layers.add(sampled, {"layer": number, "feature": name, "metric": metric})
            if start:
                starts.setdefault(name, []).append(start)
            for metric in METRICS:
                keys = {
                    "layer": number,
                    "head": np.arange(decoder.n_heads),
                    "feature": name,
                    "metric": metric,
                }
                heads.add(head[metric], keys)
            head_scores.setdefault(name, []).append(head["R"])
            shares.setdefault(name, []).append(
                Sampled.over_seeds([one.histogram(key, weights) for one in sources], (0, 1))
            )
            histogram.add(shares[name][-1], {"layer": number, "feature": name, **bins})
    for name, parts in shares.items():
        distribution.add(Sampled.mean(parts), {"feature": name, **bins})
    means = {name: mean_over_layers(parts) for name, parts in over_layers.items()}
    groups = {name: _head_groups(parts, bootstrap) for name, parts in head_scores.items()}
    summary = _summarise(decoder, task, means, groups, penalties, bootstrap, facts, len(twins))
    summary["learning"] = converged(learning)
    for name, found in starts.items():
        at_zero = {m: vars(sampled.estimate(bootstrap)) for m, sampled in mean_over_layers(found).items()}
        summary.setdefault("at_position_0", {})[name] = at_zero
    return Tables(
        summary=summary,
        layers=layers.frame(),
        heads=heads.frame(),
        controls=controls.frame(),
        histogram=histogram.frame(),
        distribution=distribution.frame(),
        learning=learning,
    )


def tabulate_learning(
    by_tokens: Sequence[tuple[int, dict[str, dict[int, LayerScores]]]], feature: str, bootstrap: Studentised
) -> pd.DataFrame:
    """Scores of probes fitted to growing parts of the training text, means over layers: see
    `Tables.learning`.

    `by_tokens` holds (training tokens, model name -> layer -> scores) in growing order; the last one had all
    of them.
    """
    rows = []
    found = [
        {
            model: mean_over_layers(
                [all_metrics([s], feature, bootstrap.weights)[0] for s in scores.values()]
            )
            for model, scores in models.items()
        }
        for _, models in by_tokens
    ]
    for (tokens, models), metrics in zip(by_tokens, found, strict=True):
        for model in models:
            for metric in ("R", "R2"):
                own, last = metrics[model][metric], found[-1][model][metric]
                for against, sampled in (("", own), ("all", own - last)):
                    number = vars(sampled.estimate(bootstrap))
                    rows.append(
                        {"tokens": tokens, "model": model, "metric": metric, "against": against, **number}
                    )
    return pd.DataFrame(rows, columns=list(LEARNING))


def converged(learning: pd.DataFrame) -> dict[str, Any]:
    """Per model: by how much centred R2 changed with the last doubling of the tokens, and whether less than
    CONVERGED.
    """
    found = {}
    part = learning[(learning["metric"] == "R2") & (learning["against"] == "all")]
    for model, rows in part.groupby("model"):
        row = rows.sort_values("tokens").iloc[-2]
        gain = {
            "estimate": -row["estimate"],
            "lower": -row["upper"],
            "upper": -row["lower"],
            "n": int(row["n"]),
        }
        within = max(abs(gain["lower"]), abs(gain["upper"])) < CONVERGED
        found[str(model)] = {"from_tokens": int(row["tokens"]), "R2_gain": gain, "converged": bool(within)}
    return found


def _probe_first(scores: LayerScores, feature: str) -> list[str]:
    """Names of the predictors, the probe first."""
    return [feature, *(name for name in scores.names if name != feature)]


def _difference(bootstrap: Studentised, sampled: Sampled) -> dict[str, float]:
    difference = sampled.estimate(bootstrap)
    return {
        "difference": difference.estimate,
        "difference_lower": difference.lower,
        "difference_upper": difference.upper,
    }


HEAD_GROUPS: dict[str, Callable[[Array], npt.NDArray[np.bool_]]] = {
    "share_heads_R_above_0.8": lambda r: r > 0.8,
    "share_heads_R_0.5_to_0.8": lambda r: (r <= 0.8) & (r >= 0.5),
    "share_heads_R_below_0.5": lambda r: r < 0.5,
}


def _head_groups(by_layer: Sequence[Sampled], bootstrap: Studentised) -> dict[str, Estimate]:
    """Shares of all heads in the paper's three groups; of several seeds, of the mean R of each head over the
    seeds.

    A share of heads jumps when one crosses a threshold, so its interval is that of percentiles.
    """
    r = np.concatenate([bootstrap.replicates(sampled.values) for sampled in by_layer], axis=1)
    found = {}
    for name, member in HEAD_GROUPS.items():
        estimate, lower, upper = bootstrap.percentiles(member(r).mean(-1))
        found[name] = Estimate(float(estimate), float(lower), float(upper), bootstrap.units)
    return found


def _summarise(
    decoder: Decoder,
    task: Task,
    means: dict[str, Metrics],
    groups: dict[str, dict[str, Estimate]],
    penalties: dict[int, dict[str, float]],
    bootstrap: Studentised,
    facts: dict[str, Any],
    seeds: int,
) -> dict[str, Any]:
    """The machine-readable headline."""

    def numbers(values: Metrics) -> dict[str, Any]:
        return {metric: vars(v.estimate(bootstrap)) for metric, v in values.items()}

    feature = task.feature
    names = [name for name in means if name != feature]
    summary: dict[str, Any] = {
        "model": facts["model"],
        "feature": feature,
        "layers": list(task.layers),
        "depth": facts["depth"],
        "random_seeds": seeds,
        "heads_per_layer": decoder.n_heads,
        "aggregation": "mean over layers; intervals over held-out documents, "
        "of random weights over their seeds too",
        "tokens": facts["tokens"],
        "documents": {split: len(n) for split, n in facts["documents"].items()},
        "unit": facts["unit"],
        "position_0": "kept" if task.start_position == 0 else "excluded",
        "metrics": numbers(means[feature]),
        "controls": {name: numbers(means[name]) for name in names},
        "differences": {
            name: numbers({m: means[feature][m] - v for m, v in means[name].items()}) for name in names
        },
        "head_groups": {name: {share: vars(e) for share, e in g.items()} for name, g in groups.items()},
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
        gap = bootstrap.estimate(means[feature]["R"].values - stated)
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
        f"{part_of(summary)}R = {show(metrics, 'R')}; the previous token alone reaches "
        f"{show(controls['previous_token'], 'R')}, the training mean {show(controls['training_mean'], 'R')}, "
        f"the mean per position {show(controls['position_mean'], 'R')}, the token id "
        f"{show(controls['token_mean'], 'R')}, the same architecture with random weights "
        f"{show(controls[RANDOM], 'R')}. Centred R2 = {show(metrics, 'R2')}, with the position "
        f"{show(controls['with_position'], 'R2')}, with random weights {show(controls[RANDOM], 'R2')} (95 % "
        f"intervals over {metrics['R']['n']} held-out {summary['unit']}s; of random weights over "
        f"{summary['random_seeds']} seeds too)."
    )
    if "paper" in summary:
        gap = Estimate(**summary["paper"]["gap"])
        text += (
            f" The paper gives R = {summary['paper']['R']:.2f} for this model: the difference is "
            f"{gap.estimate:+.2f} [{gap.lower:+.2f}, {gap.upper:+.2f}]."
        )
    return text


def print_tables(tables: Tables) -> None:
    """The tables on the terminal: per layer with controls, the means over layers, and the verdict."""
    summary = tables.summary
    feature, controls = summary["feature"], [name for name in CONTROL_NAMES if name not in AS_THE_MEAN]
    columns = [feature, *controls]
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
            cells = [
                f"{row['estimate', feature]:.3f} [{row['lower', feature]:.3f}, {row['upper', feature]:.3f}]"
            ]
            table.add_row(str(layer), *cells, *(f"{row['estimate', name]:.3f}" for name in controls))
        every = [summary["metrics"], *(summary["controls"][name] for name in controls)]
        cells = [_cell(m[metric]) for m in every]
        table.add_section()
        table.add_row("mean", cells[0], *(c.replace(" [", "\n[") for c in cells[1:]))
        console.print(table)
    table = Table(
        box=box.SIMPLE,
        title=f"means over layers, n = {summary['metrics']['R']['n']} {summary['unit']}s",
        title_justify="left",
    )
    shown = (feature, "with_position", "training_mean", RANDOM)
    for name in ("score", f"probe ({feature})", *(CONTROL_NAMES[name] for name in shown[1:])):
        table.add_column(name, justify="left" if name == "score" else "right")
    scores = {feature: summary["metrics"], **summary["controls"]}
    for source in (scores, summary["head_groups"], summary.get("at_position_0", {})):
        if source:
            table.add_section()
            for metric in source[feature]:
                table.add_row(metric, *(_cell(source[name][metric]) for name in shown))
    console.print(table)
    for model, found in summary["learning"].items():
        gain = Estimate(**found["R2_gain"])
        state = "converged" if found["converged"] else "still rising with more training text"
        console.print(
            f"[dim]{model} weights:[/dim] {state}: centred R2 {gain.estimate:+.4f} \\[{gain.lower:+.4f}, "
            f"{gain.upper:+.4f}] from {found['from_tokens']:,} training tokens to "
            f"{summary['tokens']['train']:,}"
        )
    console.print(summary["verdict"])
