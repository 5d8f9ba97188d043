"""From a training run to curves: the only bridge between the model's trajectories and the decay analysis."""

from pathlib import Path

from consolidation.config import EXPOSURE_CLOCKS
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.units import CLOCKS as UNITS
from consolidation.train.trajectory import load, summaries
from labbook.console import UserError


def episodic_curve(
    run: Path, clock: str = EXPOSURE_CLOCKS[2], measure: str = "probability", least: int = 20
) -> Curve:
    """P_episodic(k) of a run as a curve that can be fitted; the independent units are the seeds.

    Parameters
    ----------
    clock : one of `config.EXPOSURE_CLOCKS`.
    measure : `probability` of the episodic path, or `routed`, the share sent to attention at inference.
    least : queries that a bin must hold in every seed, or it is left out.

    Raises UserError for an unknown clock or measure, and when no bin holds enough.
    """
    if clock not in EXPOSURE_CLOCKS or measure not in ("probability", "routed"):
        raise UserError(
            f"asked for the clock {clock!r} and the measure {measure!r}; there are "
            f"{', '.join(EXPOSURE_CLOCKS)}, and probability, routed."
        )
    table = load(run, "patterns").query("clock == @clock")
    table["sum"] = table["routed"] if measure == "routed" else table["probability"] * table["queries"]
    table["k_sum"] = table["k"] * table["queries"]
    by = table.groupby(["seed", "k_first"])[["queries", "sum", "k_sum"]].sum().reset_index()
    by = by[by["queries"] >= least]
    complete = by.groupby("k_first")["seed"].transform("nunique") == by["seed"].nunique()
    by = by[complete].sort_values(["k_first", "seed"])
    if by.empty:
        raise UserError(
            f"{run}: no bin of k on the clock {clock!r} holds {least} queries in every seed. Train longer."
        )
    k = (by["k_sum"] / by["queries"]).groupby(by["k_first"]).transform("mean")
    return Curve(
        name=f"{summaries(run)[0].label}, P(episodic)",
        x=k.to_numpy(dtype=float),
        y=(by["sum"] / by["queries"]).to_numpy(dtype=float),
        clock=Clock(clock, UNITS[clock]),
        unit=by["seed"].astype(str).to_numpy(dtype=str),
        normalisation="as measured",
        source=(
            f"{measure} of the episodic path at recurring queries, mean over layers and patterns, "
            f"{by['seed'].nunique()} seeds"
        ),
    )
