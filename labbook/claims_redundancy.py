"""Rows about attention redundancy: what probes, training courses and removal say to the preprint's section 2 and tables 6 and 7."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from labbook.claims import NOT, PARTLY, REPRODUCED, UNTESTED, Finished, Row, figure_link, holds, show

# Table 6: R overall of GPT-2 124M and 355M, and the largest spread printed beside their layer groups
PAPER_R, PAPER_SPREAD = (0.84, 0.92), 0.05
# Table 7: validation loss at its first checkpoint; R goes from .52 there to .72 at the last
PAPER_FIRST_LOSS = 4.21


def probe_rows(run: Finished) -> Iterator[Row]:
    """R of Definition 1, the reading as a share of operations, and the head groups."""
    s = run.summary
    metrics, controls = s["metrics"], s["controls"]
    r = metrics["R"]
    figure = figure_link("redundancy_by_layer" if s["model"] == "embedded" else f"{s['model']}/redundancy_by_layer")
    low, high = PAPER_R
    if "paper" in s:
        stated, paper = s["paper"]["R"], f"R = {s['paper']['R']:.2f} (this model)"
        verdict = REPRODUCED if holds(r, stated, PAPER_SPREAD) else NOT
    else:
        stated, paper = (low + high) / 2, f"R = {stated_range()} (GPT-2 124M and 355M; mean .88)"
        verdict = REPRODUCED if any(holds(r, x, PAPER_SPREAD) for x in (low, stated, high)) else NOT
    yield Row(
        "Most of attention's output is predictable from the hidden state: R of Definition 1",
        paper,
        f"R = {show(r)}",
        f"training mean {show(controls['training_mean']['R'])}; random weights {show(controls['random_weights']['R'])}",
        run.scale,
        verdict,
        f"Of this R a constant earns a part: centred R² is {show(metrics['R2'])}, with random weights {show(controls['random_weights']['R2'])}."
        + (
            ""
            if "paper" in s
            else " This is another model than the preprint's, so its figure for GPT-2 itself is not refuted by it."
        ),
        f"{figure}, {run.link}",
        headline=True,
    )
    share = metrics["share_operations_error_below_0.2"]
    yield Row(
        "88 % of attention operations are redundant (the reading of the title figure as a share of operations)",
        ".88",
        f"{show(share)} of (token × head) operations predicted with an error below 20 %",
        f"training mean {show(controls['training_mean']['share_operations_error_below_0.2'])}",
        run.scale,
        REPRODUCED if holds(share, 0.88) else NOT,
        "The preprint's .88 is a mean of R, not a share of operations.",
        f"{figure_link('redundancy_distribution')}, {run.link}" if s["model"] == "embedded" else run.link,
    )
    groups, stated_groups = s["head_groups"][s["feature"]], (0.34, 0.41, 0.25)
    names = ("share_heads_R_above_0.8", "share_heads_R_0.5_to_0.8", "share_heads_R_below_0.5")
    same = [holds(groups[name], value) for name, value in zip(names, stated_groups, strict=True)]
    yield Row(
        "Heads fall into three groups, R > .8, .5 to .8, < .5",
        "34 % / 41 % / 25 % (model not said)",
        " / ".join(show(groups[name]) for name in names),
        "training mean " + " / ".join(show(s["head_groups"]["training_mean"][name]) for name in names),
        run.scale,
        REPRODUCED if all(same) else PARTLY if any(same) else NOT,
        "Most heads are in the lowest group." if groups[names[2]]["estimate"] > 0.5 else "The groups differ in size.",
        f"{figure_link('redundancy_by_head')}, {run.link}" if s["model"] == "embedded" else run.link,
    )


def stated_range() -> str:
    """The paper's two values of R."""
    return " and ".join(f"{value:.2f}" for value in PAPER_R)


def training_rows(run: Finished) -> Iterator[Row]:
    """Whether redundancy falls in training; only courses of more than two checkpoints say anything."""
    s = run.summary
    if len(s["checkpoints"]) < 3:
        return
    course = s["course"]
    late = [c for c in course if c["loss"]["estimate"] <= PAPER_FIRST_LOSS]
    overall = pd.read_csv(run.folder / "overall.csv").fillna({"against": ""})
    probe = overall[(overall["feature"] == s["feature"]) & (overall["metric"] == "R")]
    to_last = probe[probe["against"] == "last"].set_index("step")

    def rise(step: int) -> dict[str, Any]:
        row = to_last.loc[step]
        return {"estimate": -row["estimate"], "lower": -row["upper"], "upper": -row["lower"], "n": int(row["n"])}

    higher = [c for c in course if rise(c["step"])["upper"] < 0]
    last = course[-1]
    if len(late) < 2:
        verdict, change, ours = UNTESTED, None, f"R = {show(last[s['feature']]['R'])} at the last checkpoint"
    else:
        change = rise(late[0]["step"])
        ours = f"R {change['estimate']:+.3f} [{change['lower']:+.3f}, {change['upper']:+.3f}] (n = {change['n']}) from step {late[0]['step']:,} to {last['step']:,}"
        falls = change["upper"] < 0
        verdict = NOT if falls else PARTLY if higher else REPRODUCED
    top = max(course, key=lambda c: c[s["feature"]]["R"]["estimate"])
    yield Row(
        "Redundancy does not fall in training (table 7)",
        "R .52 to .72 from step 10K to 300K (loss 4.21 to 3.18)",
        ours,
        f"training mean at step {top['step']:,}: {show(top['training_mean']['R'])}",
        run.scale,
        verdict,
        f"From the paper's first loss on it {'rises' if change and change['lower'] > 0 else 'does not fall'}; but R is highest, {show(top[s['feature']]['R'])}, at step "
        f"{top['step']:,} (loss {top['loss']['estimate']:.2f}), where the training mean alone has {show(top['training_mean']['R'])}."
        if higher
        else "It rises from checkpoint to checkpoint.",
        f"{figure_link('training_course')}, {run.link}",
        headline=True,
    )


def removal_rows(run: Finished) -> Iterator[Row]:
    """What can be removed, against what can be predicted."""
    s = run.summary
    if s["removable"]:
        at = {order: values["0.05"] for order, values in s["removable"].items()}
        known = max((o for o in at if o.startswith("known")), key=lambda o: at[o]["estimate"])
        router = max((o for o in at if o.startswith("predicted")), key=lambda o: at[o]["estimate"])
        name = "removal_curve" if s["model"] == "embedded" else f"{s['model']}/removal_curve"
        yield Row(
            "What is redundant can be removed: 88 % of attention at no cost",
            ".88 (as R)",
            f"{show(at[known])} of operations at +.05 nats per token, knowing the outcome; {show(at[router])} for a router that sees the hidden state alone",
            f"random order {show(at['random'])}; order by R known after the fact {show(at['known_relative'])}",
            run.scale,
            REPRODUCED if holds(at[known], 0.88) or at[known]["lower"] > 0.88 else NOT,
            _guide(at),
            f"{figure_link(name)}, {run.link}",
            headline=True,
        )
    if s["all_layers"]:
        recovered = s["all_layers_recovered"].get("probe")
        yield Row(
            "The probe can stand for attention (implied by R)",
            "not measured",
            f"+{show(s['all_layers']['probe'])} nats per token with the probe in every layer"
            + (f"; {show(recovered)} of the loss between mean ablation and intact recovered" if recovered else ""),
            f"training mean +{show(s['all_layers']['training_mean'])}; nothing +{show(s['all_layers']['zero'])}",
            run.scale,
            NOT,
            f"The probe's R is {show(s['predictors']['resid_pre']['R'])}, but what it misses is what the model needs.",
            f"{figure_link('removal_by_layer')}, {run.link}" if s["model"] == "embedded" else run.link,
            headline=True,
        )


def _guide(at: dict[str, dict[str, Any]]) -> str:
    """Whether R says which operations can be spared, against chance and against displacement."""
    by_r, chance, moved = at["known_relative"], at["random"], at["known_displacement"]
    if by_r["upper"] < chance["lower"]:
        return "Replacing operations in the order of their R does worse than chance: what is predicted best is not what can be spared."
    better = "better than chance" if by_r["lower"] > chance["upper"] else "no better than chance"
    more = (
        "; ordering by how far the error moves the residual stream spares more"
        if moved["lower"] > by_r["upper"]
        else ""
    )
    return f"Replacing operations in the order of their R does {better}{more}."
