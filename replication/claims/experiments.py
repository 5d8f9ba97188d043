"""What people's experiments on the model say, from `python -m consolidation.experiments`: claims about
people, which are this project's, and what the preprint claims of familiarity (eq 14, table 4), each for the
model and for its control.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from consolidation.experiments.outcome import QUICK, Claim, Outcome
from consolidation.experiments.practice import ALL, ATTENDING, ROLE
from consolidation.experiments.readings import standing, unconverged_ahead
from consolidation.experiments.spacing import LAG
from consolidation.schedule import schedule
from labbook.estimate import Estimate
from labbook.run import read_json
from replication import paper
from replication.claims.decay import power_law
from replication.rows import Finished, Row, figure, show, table
from replication.verdict import Verdict, all_of, at_least, at_most, equals

Judge = Callable[[Estimate | None], Verdict]
CONDITIONS = {
    "cram": "CRAM",
    "control": "control without semantic memory",
    "cram-rate": "CRAM at half the learning rate",
    "cram-load": "CRAM with 64 instead of 8 new patterns",
}
# a change of a share per factor of ten, or a difference of shares, below which nothing has changed
NOTICEABLE = 0.05
# cohorts that came when attention already had its price
COHORTS = (ROLE, "frequency", "later", "new")
# the claims of every experiment, and those of them that stand for a claim of the preprint
CLAIMS: dict[str, tuple[str, ...]] = {
    "practice": (
        "error falls with people's exponent",
        "single items follow an exponential rather than a power law",
        "averaging makes a power law",
        "knowing comes before relying on it",
    ),
    "retention": (
        "what is not repeated is forgotten",
        "forgetting slows down, as a power law and not an exponential",
        "the exponent is people's",
        "new material makes one forget more",
    ),
    "savings": (
        "relearning is faster than first learning of new patterns",
        "relearning is faster than its own first",
    ),
    "spacing": (
        "spread study is remembered better (shown at the same steps)",
        "spread study is remembered better (tested at the same step)",
        "the longer the delay, the more spread study helps",
    ),
    "frequency": (
        "the frequent is known better",
        "at equal exposures the rare is known better",
    ),
}
MATCH = "The preprint: γ .4 to .5 as in human memory, of P(episodic); here on a measure that people share."
OF_PREPRINT = {"error falls with people's exponent": MATCH, "the exponent is people's": MATCH}
# claims that were made when numbers had been seen
SEEN = "Claimed after two of the eight seeds had been seen."
LATE = {
    "error falls with people's exponent": SEEN,
    "the longer the delay, the more spread study helps": SEEN,
}
CAPTIONS = {
    "practice": (
        "What is known without attention and P(episodic) by exposures, for cohorts that came at different "
        "steps, and what exposures and training time change apart."
    ),
    "retention": (
        "What is known of retired cohorts by exposures to other patterns since, and people's recall by "
        "intervening items."
    ),
    "savings": (
        "What is known of a cohort that comes back, of new patterns from the same step on, and of the cohort "
        "when it was new; and savings beside people's."
    ),
    "spacing": "What is known after equal numbers of massed and spread exposures, by steps since the last.",
    "frequency": (
        "What is known without attention and P(episodic) by frequency, at one step and at equal exposures."
    ),
}


def judged(claim: Claim | None) -> Verdict:
    """What an experiment says to one of its claims: it holds where the model is as people are."""
    if claim is None:
        return Verdict.UNTESTED
    return {"as people": Verdict.HOLDS, "unlike people": Verdict.FAILS, "undecided": Verdict.UNDECIDED}[
        claim.verdict
    ]


def grows(effect: Estimate | None) -> Verdict:
    """A share rises noticeably per factor of ten in exposures."""
    return at_least(effect, NOTICEABLE)


def falls(effect: Estimate | None) -> Verdict:
    """A share falls noticeably per factor of ten in exposures."""
    return at_most(effect, -NOTICEABLE)


def stays(effect: Estimate | None) -> Verdict:
    """A share does not fall noticeably per factor of ten in exposures."""
    return at_least(effect, -NOTICEABLE)


def of_exposures_alone(effect: Estimate | None) -> Verdict:
    """At equal exposures training time changes nothing noticeable, either way."""
    return equals(effect, 0.0, NOTICEABLE)


def reads_more(differences: Sequence[Estimate | None]) -> Verdict:
    """In every cohort the control attends noticeably more than the model."""
    return all_of([at_least(one, NOTICEABLE) for one in differences])


def power_law_of(fitted: pd.DataFrame) -> tuple[Verdict, Estimate | None, str]:
    """Whether P(episodic) is the preprint's power law, gamma, and which form is the best, from a table of
    `readings.fit_forms`.
    """
    rows = fitted[fitted["form"] == "power"]
    if rows.empty or rows[["delta_aicc", "rejected_in_seeds"]].isna().to_numpy().any():
        return power_law("not compared", None), None, "The power law could not be compared with other forms."
    row = rows.iloc[0]
    gamma = Estimate.read({key: row[f"gamma_{key}"] for key in ("estimate", "lower", "upper", "n")})
    best = ", ".join(fitted.loc[fitted["delta_aicc"] == 0, "form"]).replace("_", " ")
    note = (
        f"For the mean over seeds the best form is {best}, and the power law's AICc lies "
        f"{row['delta_aicc']:.1f} above it."
    )
    if ahead := unconverged_ahead(fitted):
        note += f" But {ahead}, so which form is best is undecided."
    return power_law(standing(fitted)[0], gamma), gamma, note


@dataclass(frozen=True)
class Finding:
    """What the runs of one condition say to one claim.

    Attributes
    ----------
    claim, condition : of whom; conditions are those of CONDITIONS.
    source : who claims it, people or the preprint, in words.
    measured, said : what the number is, and the number.
    note : what the number lacks, or what it is beside.
    claimed : whether the preprint makes the claim.
    """

    claim: str
    condition: str
    source: str
    measured: str
    said: str
    verdict: Verdict
    note: str = ""
    claimed: bool = False


def findings_of(outcome: Outcome) -> list[Finding]:
    """Every claim of an experiment and condition, those of the preprint first; none of a toy run."""
    if outcome.quick:
        return []
    by = {(claim.name, claim.condition): claim for claim in outcome.claims}
    found = list(_of_familiarity(outcome)) if outcome.name == "practice" else []
    for name in CLAIMS[outcome.name]:
        for condition in CONDITIONS:
            claim = by.get((name, condition))
            if claim is not None:
                notes = (claim.note, LATE.get(name, ""), _elsewhere(outcome, name, condition))
                found.append(
                    Finding(
                        name,
                        condition,
                        f"{OF_PREPRINT.get(name, '')} {claim.people}".strip(),
                        claim.measured.rstrip(":"),
                        claim.said(),
                        judged(claim),
                        " ".join(filter(None, notes)),
                        claimed=name in OF_PREPRINT,
                    )
                )
    return found


def _of_familiarity(outcome: Outcome) -> Iterator[Finding]:
    """What practice says to the preprint: does familiarity lower the use of attention, and is it the semantic
    memory that does it?
    """
    tables, eq_14 = outcome.tables, "The preprint: P_episodic(k) falls with k alone (eq 14)."

    def effect(condition: str, measure: str, of: str, seeds: str = ALL) -> Estimate | None:
        return _number(tables["identification"], condition=condition, measure=measure, effect=of, seeds=seeds)

    def finding(condition: str, claim: str, source: str, judge: Judge, measure: str, of: str) -> Finding:
        apart = "exposures, at equal step" if of == "k given step" else "steps, at equal exposures"
        number, others = (effect(condition, measure, of, seeds) for seeds in (ALL, ATTENDING))
        return Finding(
            claim,
            condition,
            source,
            f"Change of {measure.replace('probability', 'P(episodic)')} per factor of ten in {apart}",
            show(number, sign=True),
            judge(number),
            f"Without seeds whose router has given up attention: {show(others, sign=True)}.",
            claimed=measure == "probability",
        )

    by_k, by_step = ("probability", "k given step"), ("probability", "step given k")
    for condition in [name for name in CONDITIONS if name in set(tables["identification"]["condition"])]:
        yield finding(condition, "familiarity lowers the use of attention", eq_14, falls, *by_k)
        if condition == "control":
            claim = "without semantic memory familiarity does not lower the use of attention"
            source = "The preprint: without semantic memory attention stays (table 4, theorem 1)."
            yield finding(condition, claim, source, stays, *by_k)
        claim = "the use of attention depends on exposures and not on training time"
        yield finding(condition, claim, eq_14, of_exposures_alone, *by_step)
        fitted = tables["forms"]
        verdict, gamma, note = power_law_of(
            fitted[(fitted["condition"] == condition) & (fitted["measure"] == "P(episodic)")]
        )
        yield Finding(
            "P(episodic) falls with exposures as a power law with γ = .43",
            condition,
            f"The preprint: γ = {paper.GAMMA} ± {paper.GAMMA_SPREAD} (eq 14).",
            "γ of P(episodic) = a k^-γ, a cohort that comes when attention works",
            show(gamma),
            verdict,
            note,
            claimed=True,
        )
        source = "People: practice improves what is practised (Newell and Rosenbloom 1981)."
        yield finding(condition, "knowledge grows with exposures", source, grows, "knowledge", "k given step")
    differences, others = (
        {
            role: _number(
                tables["against_first"], condition="control", role=role, measure="probability", seeds=seeds
            )
            for role in COHORTS
        }
        for seeds in (ALL, ATTENDING)
    )
    if any(differences.values()):
        yield Finding(
            "the model stops attending where the control goes on",
            "cram",
            "The preprint: without semantic memory attention stays (table 4).",
            "P(episodic) at the last probe, control minus CRAM",
            _listed(differences),
            reads_more(list(differences.values())),
            f"Without seeds whose router has given up attention: {_listed(others)}. Looked at after the runs "
            "had ended.",
            claimed=True,
        )


def _elsewhere(outcome: Outcome, name: str, condition: str) -> str:
    """The number of a claim at other lags or exposures than those at which it is judged."""
    if outcome.name == "spacing" and name.startswith("spread"):
        against = "all massed groups" if "shown" in name else "the last massed group"
        rows = outcome.tables["contrasts"]
        chosen = (rows["against"] == against) & (rows["measure"] == "knowledge")
        rows = rows[chosen & (rows["condition"] == condition) & (rows["lag"] != LAG)]
        return _also("steps", {int(row["lag"]): Estimate.read(row) for row in rows.to_dict("records")})
    if outcome.name == "frequency" and name.startswith("at equal exposures"):
        rows = outcome.tables["effects"]
        at = {k: f"knowledge at {k} exposures" for k in (30, 300)}
        found = {k: _number(rows, condition=condition, measure=measure) for k, measure in at.items()}
        return _also("exposures", {k: e for k, e in found.items() if e is not None})
    return ""


def _also(unit: str, found: Mapping[int, Estimate]) -> str:
    said = "; ".join(f"{at} {unit} {show(e, sign=True)}" for at, e in found.items())
    return f"After {said}." if said else ""


def _number(rows: pd.DataFrame, **where: str) -> Estimate | None:
    """The estimate in the row of a table that is meant; None where it was not run."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    found = [Estimate.read(row) for row in rows.to_dict("records")]
    return found[0] if found and found[0].n else None


def _listed(found: Mapping[str, Estimate | None]) -> str:
    return ", ".join(f"{name} {show(e, sign=True)}" for name, e in found.items())


def setting(run: Finished) -> str:
    """Keys, load and schedule of the runs, on which every number depends."""
    config = read_json(run.folder / "config.json")["conditions"]["cram"]
    benchmark, cram = config["benchmark"], config["cram"]
    plan = schedule(tuple(benchmark["cohorts"]))
    shown = [int(np.count_nonzero(plan.weights(step))) for step in range(config["steps"])]
    constant = config["pressure_start"] + config["pressure_ramp"]
    return (
        f"{cram['keys']} keys, {benchmark['patterns']} patterns in cohorts, {min(shown)} to {max(shown)} of "
        f"them shown at a step, N = {benchmark['length']}, d = {cram['width']}, {cram['layers']} layer, "
        f"{config['steps']:,} steps, {config['learning_rate_schedule']} learning rate, routing pressure "
        f"constant from step {constant} on"
    )


def people_rows(run: Finished) -> Iterator[Row]:
    """One row per claim; those that no run decides are there as not tested."""
    outcome = Outcome.read(run.folder)
    title, scale = outcome.name.capitalize(), f"CRAM with {setting(run)}; n seeds"
    found = findings_of(outcome)
    links = f"{run.figure(f'experiments_{outcome.name}')}{run.link}"
    for claim in dict.fromkeys([*(one.claim for one in found), *CLAIMS[outcome.name]]):
        by = {one.condition: one for one in found if one.claim == claim}
        # what is claimed of one condition only is judged there
        main = next((by[c] for c in CONDITIONS if c in by), None)
        if main is None:
            why = QUICK if outcome.quick else "No seed of it has been run."
            source, claimed, here = OF_PREPRINT.get(claim, "none"), claim in OF_PREPRINT, judged(None)
            words = (f"{title}: {claim}", source, "none", "none", scale)
            yield Row(*words, here, own=False, sentence=why, links=links, claimed=claimed)
            continue
        others = [one for one in by.values() if one is not main]
        whose = f" ({CONDITIONS[main.condition]})" if main.condition.startswith("cram-") else ""
        yield Row(
            f"{title}{whose}: {claim}",
            main.source,
            f"{main.measured}: {main.said}",
            "; ".join(f"{CONDITIONS[one.condition]} {one.said}, {one.verdict}" for one in others) or "none",
            scale,
            main.verdict,
            own=False,
            sentence=" ".join(filter(None, (main.note, _shared(main, by.get("control"))))),
            links=links,
            headline=main.claimed and claim not in OF_PREPRINT,
            claimed=main.claimed,
        )


def _shared(main: Finding, control: Finding | None) -> str:
    """Whether what the model shows is a sign of its semantic memory, by the verdict on the control."""
    if control is None or control is main or main.verdict is not Verdict.HOLDS:
        return ""
    return {
        Verdict.HOLDS: "It holds without semantic memory too, so it is no sign of that memory.",
        Verdict.FAILS: "It does not hold without semantic memory.",
    }.get(control.verdict, "Without semantic memory it is undecided.")


def people_section(run: Finished) -> Iterator[str]:
    """The claims of one experiment by condition, and its figure."""
    outcome = Outcome.read(run.folder)
    yield f"### {outcome.name.capitalize()}"
    yield ""
    said = setting(run)
    yield f"{said[0].upper()}{said[1:]}; {run.link}."
    yield ""
    found = findings_of(outcome)
    if not found:
        yield QUICK if outcome.quick else "No claim has been tested."
        return
    conditions = [c for c in CONDITIONS if any(one.condition == c for one in found)]
    rows = []
    for claim in dict.fromkeys(one.claim for one in found):
        by = {one.condition: one for one in found if one.claim == claim}
        first = next(iter(by.values()))
        cells = (f"**{by[c].verdict}**, {by[c].said}" if c in by else "–" for c in conditions)
        whose = "the preprint" if first.claimed else "people"
        if claim in OF_PREPRINT:
            whose += ", of another measure"
        rows.append((whose, f"{claim} ({_lower(first.measured)})", *cells))
    yield from table(("whose claim", "claim", *(CONDITIONS[c] for c in conditions)), rows)
    yield ""
    yield from figure(f"experiments_{outcome.name}", CAPTIONS[outcome.name])[:-1]


def _lower(text: str) -> str:
    """The start of a sentence within one; a symbol keeps its case."""
    return text if text[1:2].isupper() or text.startswith(("P(", "γ")) else text[:1].lower() + text[1:]
