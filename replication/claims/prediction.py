"""What probe and training runs say to section 2 and tables 6 and 7 of the preprint: can attention be
predicted, and does training change it.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from labbook.console import UserError
from labbook.estimate import Estimate
from redundancy.probe.summary import ProbeSummary
from redundancy.training.summary import CourseSummary
from replication import paper
from replication.rows import Finished, Row, show
from replication.verdict import Verdict, all_of, at_least, equals


def predictable(r: Estimate, stated: float | None) -> Verdict:
    """R is the paper's for this model, or, for another model (None), at least its smaller one less its
    spread.
    """
    if stated is None:
        return at_least(r, paper.R_SMALL - paper.R_SPREAD)
    return equals(r, stated, paper.R_SPREAD)


# shares of heads that are alike
GROUP_MARGIN = 0.05


def head_groups(shares: Mapping[str, Estimate]) -> Verdict:
    """Each group of heads has the share that the paper gives, to GROUP_MARGIN."""
    return all_of(
        [equals(shares.get(name), stated, GROUP_MARGIN) for name, stated in paper.HEAD_GROUPS.items()]
    )


def does_not_fall(whole: Estimate | None, late: Estimate | None, slope: Estimate | None) -> Verdict:
    """R does not fall: from the first step to the last, in the part of training that the paper covers, and as
    a trend.
    """
    return all_of([at_least(change, 0.0) for change in (whole, late, slope)])


def probe_rows(run: Finished) -> Iterator[Row]:
    """R of Definition 1, the reading as a share of operations, and the head groups."""
    s = ProbeSummary.read(run.summary)
    r, controls = s.metrics["R"], s.controls
    _require_own_tables(run, s.feature, r)
    stated = None if s.paper is None else s.paper.R
    yield Row(
        "Attention's output is predictable from the hidden state: R of Definition 1 as high as stated (for "
        f"another model: at least the smaller value less its spread, {paper.R_SMALL - paper.R_SPREAD:.2f})",
        f"R = {stated:.2f} (this model)"
        if stated
        else f"R = {paper.R_SMALL} and {paper.R_MEDIUM} (GPT-2 124M and 355M; mean {paper.REDUNDANT})",
        f"R = {show(r)}; centred R² {show(s.metrics['R2'])}",
        f"training mean {show(controls['training_mean']['R'])}; mean per position "
        f"{show(controls['position_mean']['R'])}; random weights ({s.random_seeds} seeds) "
        f"{show(controls['random_weights']['R'])}, centred R² {show(controls['random_weights']['R2'])}",
        run.scale,
        predictable(r, stated),
        own=stated is not None,
        sentence=f"Knowing the position too, R is {show(controls['with_position']['R'])}. R is not "
        "centred, so a constant earns a part of it.",
        links=f"{run.figure('redundancy_by_layer')}{run.link}",
        headline=True,
    )
    share = "share_operations_error_below_0.2"
    yield Row(
        "88 % of attention operations are redundant (the reading of the title figure as a share of "
        "operations)",
        f"{paper.REDUNDANT}",
        f"{show(s.metrics[share])} of (token × head) operations predicted with an error below 20 %",
        f"hidden state and position {show(controls['with_position'][share])}; training mean "
        f"{show(controls['training_mean'][share])}",
        run.scale,
        at_least(s.metrics[share], paper.REDUNDANT),
        own=stated is not None,
        sentence="The preprint's .88 is a mean of R, not a share of operations; the limit of 20 % is ours "
        f"(below 50 %: {show(s.metrics['share_operations_error_below_0.5'])}).",
        links=f"{run.figure('redundancy_distribution')}{run.link}",
    )
    groups, constant = s.head_groups[s.feature], s.head_groups["training_mean"]
    heads = len(s.layers) * s.heads_per_layer
    yield Row(
        "Heads fall into three groups, R > .8, .5 to .8, < .5",
        " / ".join(f"{value:.0%}" for value in paper.HEAD_GROUPS.values()) + " (model not said)",
        " / ".join(show(groups[name]) for name in paper.HEAD_GROUPS),
        "training mean " + " / ".join(show(constant[name]) for name in paper.HEAD_GROUPS),
        run.scale,
        head_groups(groups),
        own=False,  # the paper does not say which model
        sentence=f"{heads} heads, so shares go in steps of {1 / heads:.2g}; intervals are over documents, "
        f"for these heads. Alike means within {GROUP_MARGIN}.",
        links=f"{run.figure('redundancy_by_head')}{run.link}",
    )


def _require_own_tables(run: Finished, feature: str, r: Estimate) -> None:
    """Raise UserError when the headline of a summary is not the mean of the run's own table."""
    layers = pd.read_csv(run.folder / "layers.csv")
    rows = layers[(layers["feature"] == feature) & (layers["metric"] == "R")]
    if not abs(float(rows["estimate"].mean()) - r.estimate) < 1e-6:
        raise UserError(
            f"{run.folder}: summary.json says R = {r.estimate:.4f}, layers.csv has a mean of "
            f"{rows['estimate'].mean():.4f}. One of them was changed; restore it from a copy, or make the "
            "run again."
        )


def training_rows(run: Finished) -> Iterator[Row]:
    """Whether redundancy falls in training; only courses of more than two checkpoints say anything."""
    s = CourseSummary.read(run.summary)
    if len(s.checkpoints) < 3:
        return
    overall = pd.read_csv(run.folder / "overall.csv").fillna({"against": ""})
    probe = overall[(overall["feature"] == s.feature) & (overall["metric"] == "R")]
    to_last = probe[probe["against"] == "last"].set_index("step").to_dict("index")
    trained = [place for place in s.course if place.step > 0]
    last = trained[-1]
    # the paper's first checkpoint comes at 1 / 30 of its training; its loss in nats cannot be compared across
    # tokenizers
    part = paper.COURSE_STEPS[1] / paper.COURSE_STEPS[0]
    start = next(place.step for place in trained if place.step >= last.step / part)
    slope = next((trend.slope for trend in s.trend if trend.metric == "R"), None)
    whole, late = (-Estimate.read(to_last[step]) for step in (trained[0].step, start))
    top = max(trained, key=lambda place: place.scores[s.feature]["R"].estimate)
    square = [show(place.scores[s.feature]["R2"]) for place in (trained[0], last)]
    yield Row(
        "Redundancy does not fall in training (table 7)",
        f"R {paper.COURSE_R[0]} to {paper.COURSE_R[1]} from step 10K to 300K",
        f"R {show(whole, 3, sign=True)} from step {trained[0].step:,} to {last.step:,}; "
        f"{show(late, 3, sign=True)} from step {start:,}, the first after 1/{part:.0f} of training; trend "
        f"{show(slope, 3, sign=True)} per tenfold of steps",
        f"training mean {show(top.scores['training_mean']['R'])} at step {top.step:,}, where R is highest, "
        f"{show(top.scores[s.feature]['R'])}",
        run.scale,
        does_not_fall(whole, late, slope),
        own=False,
        sentence="The answer depends on where one starts and on the score: centred R² goes from "
        f"{square[0]} to {square[1]}. At step {top.step:,} the model has {top.bits_per_byte:.2f} bits per "
        f"byte, at the end {last.bits_per_byte:.2f}.",
        links=f"{run.figure('training_course')}{run.link}",
        headline=True,
    )
