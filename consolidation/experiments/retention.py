"""Retention: a cohort that is shown no more, against steps and against exposures to other patterns since.

What is matched: the share recalled against intervening items (Rubin, Hinton and Wenzel 1999). For people an
item is another word of a continuous list; for the model it is a position that shows another pattern.
Retention intervals in seconds have no counterpart in the model and are not compared.
"""

import math
from collections.abc import Mapping

import pandas as pd

from consolidation.decay import humans
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.inference import fit
from consolidation.experiments.outcome import Claim, Outcome, direction, inside
from consolidation.experiments.readings import course, difference, entry, estimates, numbers, over_seeds
from labbook.console import UserError
from labbook.estimate import Estimate

ROLES = ("retained", "relearnt")
CLOCK = Clock("intervening items", "items")
# a loss below this share of the answers is no forgetting
SMALL = 0.05


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Both cohorts that are retired together, from then on until one of them comes back, by seed and step."""
    paused = table[table["role"].isin(ROLES) & table["pause"].notna()]
    last = paused.loc[paused["role"] == "relearnt", "step"].max()
    return course(paused[paused["step"] <= last], ROLES)


def kept(found: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: knowledge when the cohort is retired and at the last probe, their difference and
    ratio, and the exposures to others in between.
    """
    rows = []
    for seed, of_seed in found.groupby("seed"):
        first, last = of_seed.iloc[0], of_seed.iloc[-1]
        ratio = last["knowledge"] / first["knowledge"] if first["knowledge"] > 0 else math.nan
        rows.append(
            {
                "seed": seed,
                "at_first": first["knowledge"],
                "at_last": last["knowledge"],
                "change": last["knowledge"] - first["knowledge"],
                "ratio": ratio,
                "lag": last["lag"],
                "others": last["others"],
            }
        )
    return pd.DataFrame(rows)


def exponents(found: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: gamma of recall = a items^-gamma, and AICc of the exponential minus that of the power
    law.
    """
    rows = []
    for seed, of_seed in found.groupby("seed"):
        shown = of_seed[of_seed["others"] > 0]
        curve = Curve(
            f"seed {seed}",
            numbers(shown["others"]),
            numbers(shown["recall"]),
            CLOCK,
            normalisation="as measured",
            measure="recall",
        )
        rows.append({"seed": seed, **_exponent(curve)})
    return pd.DataFrame(rows)


def _exponent(curve: Curve) -> dict[str, float]:
    try:
        power, exponential = (fit(curve, name) for name in ("power", "exponential"))
    except UserError:
        return {"gamma": math.nan, "advantage": math.nan}
    return {"gamma": power.exponent, "advantage": exponential.aicc - power.aicc}


def people() -> pd.DataFrame:
    """People's series of recall by intervening items: exponent, and advantage of the power law."""
    rows = []
    for name in humans.names():
        curve = humans.load(name)
        if curve.clock.counts == CLOCK.counts:
            rows.append({"series": name, **_exponent(curve)})
    return pd.DataFrame(rows)


def forgets(change: Estimate) -> str:
    """Whether anything is forgotten, in words: from the change of knowledge and its interval alone."""
    if math.isnan(change.lower):
        return "is undecided"
    if change.upper < -SMALL:
        return "forgets"
    if change.lower > -SMALL:
        return "forgets nothing that matters"
    return "is undecided"


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition; the first is what factors are compared with."""
    series = people()
    low, high = float(series["gamma"].min()), float(series["gamma"].max())
    claims, kepts, fits = [], {}, []
    for condition, table in runs.items():
        found = curves(table)
        kepts[condition] = kept(found)
        fitted = exponents(found)
        fits.append(fitted.assign(condition=condition))
        change = over_seeds(kepts[condition]["change"])
        better = over_seeds(
            (fitted["advantage"] > 0).astype(float).where(fitted["advantage"].notna()).to_numpy()
        )
        gamma = over_seeds(fitted["gamma"])
        claims += [
            Claim(
                "what is not repeated is forgotten",
                condition,
                f"People forget (Ebbinghaus 1885). The model {forgets(change)}.",
                "Change of the share known without attention, from retirement to the last probe:",
                change,
                direction(change, "below"),
            ),
            Claim(
                "forgetting slows down, as a power law and not an exponential",
                condition,
                "People: the power law is better for single subjects too (Wixted and Ebbesen 1991), and for "
                f"{int((series['advantage'] > 0).sum())} of {len(series)} series by intervening items here.",
                "Share of seeds that the power law describes better:",
                better,
                direction(better, "above", 0.5),
            ),
            Claim(
                "the exponent is people's",
                condition,
                f"People: {low:.2f} to {high:.2f} in {len(series)} series by intervening items (Rubin, "
                "Hinton and Wenzel 1999), items of another kind.",
                "gamma of recall = a items^-gamma:",
                gamma,
                inside(gamma, low, high),
            ),
        ]
    if "cram-load" in kepts and "cram" in kepts:
        load = difference(_ratio(kepts["cram-load"]), _ratio(kepts["cram"]))
        claims.append(
            Claim(
                "new material makes one forget more",
                "cram-load",
                "People: learning new material in between lowers recall (McGeoch 1932).",
                "Retained share with 64 instead of 8 new patterns, difference:",
                load,
                direction(load, "below"),
            )
        )
    tables = {
        "courses": pd.concat(
            [estimates(curves(t), "others").assign(condition=name) for name, t in runs.items()],
            ignore_index=True,
        ),
        "kept": pd.concat([t.assign(condition=name) for name, t in kepts.items()], ignore_index=True),
        "factors": factors(kepts),
        "exponents": pd.concat(fits, ignore_index=True),
        "people": series,
    }
    return Outcome("retention", tuple(claims), tables)


def factors(kepts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per condition but the first: retained share minus that of the first, at the same lag, paired by
    seed.
    """
    first, *others = kepts
    return pd.DataFrame(
        [
            {
                "condition": name,
                "against": first,
                **entry(difference(_ratio(kepts[name]), _ratio(kepts[first]))),
            }
            for name in others
        ],
        columns=["condition", "against", "estimate", "lower", "upper", "n"],
    )


def _ratio(table: pd.DataFrame) -> "pd.Series[float]":
    return table.set_index("seed")["ratio"]
