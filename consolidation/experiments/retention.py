"""Retention: a cohort that is shown no more, against steps and against exposures to other patterns since.

What is matched: the share recalled against intervening items (Rubin, Hinton and Wenzel 1999). For people an
item is another word of a continuous list; for the model it is a position that shows another pattern.
Retention intervals in seconds have no counterpart in the model and are not compared.
"""

import math
from collections.abc import Mapping

import pandas as pd

from consolidation.decay.curve import Clock, Curve
from consolidation.experiments.outcome import LEAST_SEEDS, Claim, Outcome, direction, inside
from consolidation.experiments.readings import (
    advantage,
    course,
    difference,
    entry,
    estimates,
    exponent,
    fit_forms,
    numbers,
    objection,
    of_studies,
    over_seeds,
    people,
    share_over_seeds,
)
from labbook.estimate import Estimate

ROLES = ("retained", "relearnt")
CLOCK = Clock("intervening items", "items")
FORMS = ("general_power", "power", "exponential", "exponential_asymptote", "logarithmic", "constant")
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


def forgetting(found: pd.DataFrame, name: str) -> Curve:
    """Recall against exposures to other patterns, of rows by step."""
    shown = found[found["others"] > 0].sort_values("others")
    x, y = numbers(shown["others"]), numbers(shown["recall"])
    return Curve(name, x, y, CLOCK, normalisation="as measured", measure="recall")


def exponents(found: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: gamma of recall = a items^-gamma, and AICc of the exponential minus that of the power
    law.
    """
    rows = []
    for seed, of_seed in found.groupby("seed"):
        curve = forgetting(of_seed, f"seed {seed}")
        rows.append({"seed": seed, "gamma": exponent(curve), "advantage": advantage(curve)})
    return pd.DataFrame(rows)


def forms(found: pd.DataFrame) -> pd.DataFrame:
    """Rival forms of the forgetting curve, see `fit_forms`."""
    seeds = [forgetting(rows, f"seed {seed}") for seed, rows in found.groupby("seed")]
    return fit_forms(seeds, forgetting(found.groupby("step").mean(), "mean"), FORMS)


def forgets(change: Estimate) -> str:
    """Whether anything is forgotten, in words: from the change of knowledge and its interval alone."""
    if math.isnan(change.lower) or change.n < LEAST_SEEDS:
        return "is undecided"
    if change.upper < -SMALL:
        return "forgets"
    if change.lower > -SMALL and change.upper < 0:
        return f"forgets less than {SMALL:.0%} of the answers"
    if change.lower > -SMALL:
        return "forgets nothing that matters"
    return "is undecided"


def analyse(runs: Mapping[str, pd.DataFrame]) -> Outcome:
    """The outcome of the runs, by condition; the first is what factors are compared with."""
    series = people(clock=CLOCK.counts)
    low, high = float(series["gamma_estimate"].min()), float(series["gamma_estimate"].max())
    claims, kepts, fits, rivals = [], {}, [], []
    for condition, table in runs.items():
        found = curves(table)
        kepts[condition] = kept(found)
        fitted = exponents(found)
        fits.append(fitted.assign(condition=condition))
        rivals.append(forms(found).assign(condition=condition))
        change = over_seeds(kepts[condition]["change"], -1, 1)
        forgotten = direction(change, "below")
        # a law and its exponent are of forgetting: where there is none, noise alone picks the form
        flat = "" if forgotten == "as people" else "No forgetting is shown, so its law is not judged."
        why_not = flat or objection(rivals[-1])
        better = share_over_seeds(
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
                forgotten,
            ),
            Claim(
                "forgetting slows down, as a power law and not an exponential",
                condition,
                "People: the power law is better for single subjects too (Wixted and Ebbesen 1991), and for "
                f"{int((series['advantage'] > 0).sum())} of {of_studies(series)} by intervening items here.",
                "Share of seeds that the power law describes better, each form with the "
                "noise that suits it best:",
                better,
                "undecided" if flat else direction(better, "above", 0.5),
                len(fitted) - better.n,
                flat,
            ),
            Claim(
                "the exponent is people's",
                condition,
                f"People: {low:.2f} to {high:.2f} in {of_studies(series)} by intervening items (Rubin, "
                "Hinton and Wenzel 1999), items of another kind.",
                "gamma of recall = a items^-gamma:",
                gamma,
                "undecided" if why_not else inside(gamma, low, high),
                len(fitted) - gamma.n,
                why_not,
            ),
        ]
    if "cram-load" in kepts and "cram" in kepts:
        load = difference(_ratio(kepts["cram-load"]), _ratio(kepts["cram"]), largest=math.inf)
        claims.append(
            Claim(
                "new material makes one forget more",
                "cram-load",
                "People: learning new material in between lowers recall (McGeoch 1932).",
                "Retained share with 64 instead of 8 new patterns, difference:",
                load,
                direction(load, "below"),
                int(kepts["cram-load"]["seed"].isin(kepts["cram"]["seed"]).sum()) - load.n,
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
        "forms": pd.concat(rivals, ignore_index=True),
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
                **entry(difference(_ratio(kepts[name]), _ratio(kepts[first]), largest=math.inf)),
            }
            for name in others
        ],
        columns=["condition", "against", "estimate", "lower", "upper", "n"],
    )


def _ratio(table: pd.DataFrame) -> "pd.Series[float]":
    return table.set_index("seed")["ratio"]
