"""The report of a probe run: every head in a heat map that answers a pointer."""

from typing import Any

import altair as alt

from labbook.report import Report
from redundancy.aggregate import CONTROL_NAMES, NUMBER, UPDATES
from redundancy.probe.tables import Tables
from redundancy.regression.controls import RANDOM

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
