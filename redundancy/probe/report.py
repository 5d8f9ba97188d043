"""What a probe run says: its headline, tables on a terminal, and the report, with a heat map of
every head that answers a pointer.
"""

import math
from typing import Any

import altair as alt
import pandas as pd

from labbook.console import console
from labbook.escape import markup
from labbook.estimate import Estimate
from labbook.report import Report
from labbook.view import print_table, print_verdict, print_words
from redundancy.aggregate import CONTROL_NAMES, NUMBER, UPDATES, part_of, spread
from redundancy.probe.summary import ProbeSummary
from redundancy.probe.tables import Tables
from redundancy.regression.controls import RANDOM

# controls that reach what a mean reaches by construction: in the tables, not on the terminal
AS_THE_MEAN = ("shuffled", "aligned_shuffled")
# controls that know less than the probe, so that it should be better
LESS = ("previous_token", "position_mean", "token_mean", "training_mean", RANDOM)
# when `reached` says what it says
RULE = "reaches: paired 95 % interval of probe minus control <= 0; not told: 0 within it"
# what names of scores that are no textbook's mean
MEANINGS = {
    "R": "mean over tokens of 1 - |error| / |attention output| (Definition 1 of the preprint)",
    "R_ratio_of_sums": "1 - sum |error| / sum |attention output|",
    "R2": "1 - sum |error|^2 / sum |attention output - its mean|^2",
    "R2_uncentred": "the same without taking off the mean",
    "cosine": "mean cosine between attention output and prediction",
    "share_R_above_0.8": "share of tokens whose own R is above .8; likewise .5 and .9",
    "share_operations_error_below_0.2": "share of (token, head) operations predicted with an error below .2 "
    "of their norm; likewise .5 and .1",
    "R_position_0": "R at the first position of a window, where attention can only go to itself, and which "
    "is left out of all other scores",
    "norm_ratio_position_0": "mean norm of the attention output at that position, over its mean elsewhere",
}
# controls of a head that the pointer shows
SHOWN = ("training_mean", "position_mean", "previous_token", RANDOM)


def heat_map(tables: Tables) -> dict[str, Any]:
    """R of every head as a Vega-Lite specification; the pointer shows layer, head, R, its interval and the
    controls.
    """
    chosen = tables.heads[tables.heads["metric"] == "R"]
    own = chosen[chosen["feature"] == tables.headline.feature][["layer", "head", *NUMBER[:3]]]
    wide = chosen.pivot(index=["layer", "head"], columns="feature", values="estimate")[[*SHOWN]]
    rows = own.rename(columns={"estimate": "R"}).join(wide, on=["layer", "head"]).to_dict("records")
    step = max(16, min(48, 720 // chosen["head"].nunique()))
    pointed = alt.selection_point(name="pointed", on="pointerover", clear="pointerout", empty=False)
    numbers = [alt.Tooltip(field=name, type="quantitative", format=".3f") for name in ("R", "lower", "upper")]
    controls = [
        alt.Tooltip(field=name, type="quantitative", format=".3f", title=CONTROL_NAMES[name])
        for name in SHOWN
    ]
    places = [alt.Tooltip(field=name, type="ordinal") for name in ("layer", "head")]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect(strokeWidth=2)
        .encode(
            x=alt.X(field="head", type="ordinal", axis=alt.Axis(labelAngle=0)),
            y=alt.Y(field="layer", type="ordinal"),
            color=alt.Color(
                field="R",
                type="quantitative",
                scale=alt.Scale(domain=[0, 1], clamp=True, scheme="viridis"),
                title="R (share of the norm)",
            ),
            stroke=alt.when(pointed).then(alt.value("black")).otherwise(alt.value("transparent")),
            tooltip=[*places, *numbers, *controls],
        )
        .properties(width=alt.Step(step), height=alt.Step(min(step, 32)))
        .add_params(pointed)
    )
    return chart.to_dict()


def report(tables: Tables) -> Report:
    """What the run folder's page holds."""
    summary = tables.headline
    r = tables.heads[(tables.heads["metric"] == "R") & (tables.heads["feature"] == summary.feature)]
    means = tables.layers.query("metric in ('R', 'R2')")
    return Report(
        command="redundancy.probe",
        title=f"{summary.model}: {UPDATES[summary.target]} predicted from {summary.feature}",
        verdict=[summary.verdict],
        charts={"Every head: R of the probe": heat_map(tables)},
        tables={"R and centred R2 by layer": means, "R of every head": r},
    )


def strongest(summary: ProbeSummary) -> str:
    """The control with the largest R among those that know less than the probe."""
    return max((n for n in LESS if n in summary.controls), key=lambda n: summary.controls[n]["R"].estimate)


def beside(probe: Estimate, control: Estimate, difference: Estimate | None) -> str:
    """Whether the probe is better than a control, in words.

    By the interval of their difference, paired by document; where there is none, by whether their own
    intervals overlap.
    """
    if difference is not None and math.isfinite(difference.lower) and math.isfinite(difference.upper):
        by = difference.text(3, sign=True)
        if difference.lower > 0:
            return f"the probe beats it ({by})"
        return (
            f"it beats the probe ({by})" if difference.upper < 0 else f"not told apart from the probe ({by})"
        )
    if probe.lower > control.upper:
        return "the probe is above it"
    return "it is above the probe" if control.lower > probe.upper else "their intervals overlap"


def reached(tables: Tables) -> str:
    """In how many layers a control that knows less reaches R of the probe, and in how many of the others one
    is not told from it, by RULE.
    """
    rows = tables.controls
    rows = rows[(rows["metric"] == "R") & rows["feature"].isin(LESS)]
    reaches, below = rows["difference_upper"] <= 0, rows["difference_lower"] > 0
    level = rows[reaches]
    # what an undefined interval is of is not told either
    untold = rows[~reaches & ~below & ~rows["layer"].isin(level["layer"])]
    counts = f"{level['layer'].nunique() or 'none'} of {len(tables.headline.layers)} layers{_which(level)}"
    more = f", and is not told from it in {untold['layer'].nunique()} more{_which(untold)}"
    return f"a control reaches the probe in {counts}{more if len(untold) else ''}"


def _which(rows: pd.DataFrame) -> str:
    """In how many layers each control stands in these rows, in brackets; empty for none."""
    each = rows.groupby("feature")["layer"].nunique().sort_values(ascending=False, kind="stable")
    named = ", ".join(f"{CONTROL_NAMES[str(name)]} in {count}" for name, count in each.items())
    return f" ({named})" if named else ""


def headline(summary: ProbeSummary) -> list[str]:
    """The verdict for a terminal: the scores, the strongest control, the paper."""
    over, top = summary.metrics["R"].n, strongest(summary)
    r = summary.controls[top]["R"]
    where = part_of(summary.layers, summary.depth) or f"mean over {summary.depth} layers: "
    where = f"{UPDATES[summary.target]}, {where}" if summary.target != "attention" else where
    return [
        f"{where}R = {summary.metrics['R'].text(2)}, centred R2 = {summary.metrics['R2'].text(2)} (95 % "
        f"intervals over {over} held-out {summary.unit}s).",
        f"Strongest control: {CONTROL_NAMES[top]}, R = {r.text(2)}; "
        f"{beside(summary.metrics['R'], r, summary.differences.get(top, {}).get('R'))}.",
        *(
            [f"The paper gives R = {summary.paper.R:.2f}: {summary.paper.gap.text(2, sign=True)} from it."]
            if summary.paper is not None
            else []
        ),
    ]


def print_tables(tables: Tables, *, full: bool = False) -> None:
    """The verdict on the terminal, then R by layer beside its controls and the means over layers; with `full`
    every score.
    """
    print_verdict(headline(tables.headline))
    if full:
        _print_layers(tables)
        _print_scores(tables.headline)
    else:
        _print_short(tables)
    for model, convergence in tables.headline.learning.items():
        state = "converged" if convergence.converged else "still rising with more training text"
        console.print(
            f"[dim]{model} weights:[/dim] {state}: centred R2 "
            f"{markup(convergence.R2_gain.text(4, sign=True))} from {convergence.from_tokens:,} training "
            f"tokens to {tables.headline.tokens['train']:,}",
            soft_wrap=False,
        )
    if not full:
        console.print("every score by layer and head: report.html, the CSV files, or --full")


def _print_short(tables: Tables) -> None:
    """A table of the layers (of many, some), and one of every predictor."""
    summary, controls = tables.headline, ("previous_token", "position_mean", RANDOM)
    columns = ["metric", "feature", "layer", *NUMBER]
    rows_of = tables.layers[columns].itertuples(index=False, name=None)
    layers = {(metric, name, layer): Estimate(*numbers) for metric, name, layer, *numbers in rows_of}
    feature, shown = summary.feature, spread(summary.layers)
    rows = [
        [
            str(layer),
            layers["R", feature, layer].text(),
            *(f"{layers['R', name, layer].estimate:.3f}" for name in controls),
            f"{layers['R2', feature, layer].estimate:.3f}",
        ]
        for layer in shown
    ]
    some = "" if len(shown) == len(summary.layers) else f"{len(shown)} of {len(summary.layers)} layers, "
    heads = ["layer", "R, probe", *(f"R, {CONTROL_NAMES[name]}" for name in controls), "centred R2, probe"]
    about = f"{some or 'by layer, '}position 0 {summary.position_0}; {reached(tables)}"
    print_table(about, heads, rows, left=0)
    print_words(RULE)
    names = {feature: f"probe ({feature})"} | {
        name: title for name, title in CONTROL_NAMES.items() if name not in AS_THE_MEAN
    }
    scores = {feature: summary.metrics, **summary.controls}
    rows = [[title, *(scores[name][m].text() for m in ("R", "R2"))] for name, title in names.items()]
    print_table(_means(summary), ["predictor", "R of Definition 1", "centred R2"], rows)


def _print_layers(tables: Tables) -> None:
    """R and centred R2 by layer with every control."""
    summary = tables.headline
    feature, controls = summary.feature, [name for name in CONTROL_NAMES if name not in AS_THE_MEAN]
    heads = ["layer", f"probe ({feature})", *(CONTROL_NAMES[name] for name in controls)]
    for metric, title in (("R", "R of Definition 1"), ("R2", "centred R2")):
        chosen = tables.layers[tables.layers["metric"] == metric]
        wide = chosen.pivot(index="layer", columns="feature", values=["estimate", "lower", "upper"])
        rows: list[list[str] | None] = []
        for layer, row in wide.iterrows():
            estimate, lower, upper = (row[c, feature] for c in NUMBER[:3])
            own = Estimate(estimate, lower, upper, summary.metrics[metric].n)
            rows.append([str(layer), own.text(), *(f"{row['estimate', name]:.3f}" for name in controls)])
        every = [summary.metrics, *(summary.controls[name] for name in controls)]
        cells = [numbers[metric].text() for numbers in every]
        rows += [None, ["mean", cells[0], *(c.replace(" [", "\n[") for c in cells[1:])]]
        about = f"{title} of {summary.model} by layer, position 0 {summary.position_0}"
        about += f"; {reached(tables)}" if metric == "R" else ""
        print_table(about, heads, rows, left=0)
        if metric == "R":
            print_words(RULE)


def _means(summary: ProbeSummary) -> str:
    """The title of a table of means, and what its intervals are over."""
    return (
        f"means over layers, n = {summary.metrics['R'].n} {summary.unit}s, of random weights over "
        f"{summary.random_seeds} seeds too"
    )


def _print_scores(summary: ProbeSummary) -> None:
    """Every score as the mean over layers, and what the names mean."""
    feature = summary.feature
    shown = (feature, "with_position", "training_mean", RANDOM)
    scores = {feature: summary.metrics, **summary.controls}
    rows = list[list[str] | None]()
    for source in (scores, summary.head_groups, summary.at_position_0):
        if source:
            rows += [None] * bool(rows)
            rows += [[metric, *(source[name][metric].text() for name in shown)] for metric in source[feature]]
    heads = ["score", f"probe ({feature})", *(CONTROL_NAMES[name] for name in shown[1:])]
    print_table(_means(summary), heads, rows)
    for name, meaning in MEANINGS.items():
        if name in scores[feature] or name in summary.at_position_0.get(feature, {}):
            print_words(f"{name}: {meaning}")
