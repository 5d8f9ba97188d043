"""What fitted curves say to sections 5 and 6 and figure 4A of the preprint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from consolidation.decay.analysis import HUMAN_RANGE
from consolidation.decay.comparison import NOISE, WORDS, state_of
from labbook.estimate import Estimate
from replication import paper
from replication.rows import Finished, Row, exponent, interval, number, show, window
from replication.verdict import Verdict, all_of, at_most, between, equals, known, states

# difference in AICc below which two forms cannot be told apart
ALIKE = WORDS[0][0]


def power_law(standing: str, gamma: Estimate | None) -> Verdict:
    """The power law survives the comparison with its rivals, and its exponent is the paper's."""
    survives = {"survives": True, "does not survive": False}.get(standing)
    return all_of([states(survives), equals(gamma, paper.GAMMA, paper.GAMMA_SPREAD)])


def unjudged(summary: Mapping[str, Any]) -> str:
    """Why the exponent of a fit says nothing about people's; empty where it may."""
    apart = summary.get("apart")
    if summary["gamma"]["gamma"] < 0:
        return "y rises with x"
    if apart and apart["hangs"]:
        return f"the exponent hangs on one observation, at x = {apart['x']:g}"
    if summary["standing"]["state"] == "does not survive":
        return f"the form {summary['gamma']['form']} is rejected for this curve"
    return ""


def matches_humans(why: str, tests: Sequence[tuple[Estimate | None, float | None]]) -> Verdict:
    """The exponent lies within the margin of the mean of the human studies; outside only if the whole
    interval does. What `unjudged` names is not judged, and neither is an exponent whose tests (difference,
    margin) against other sets of series come out otherwise.
    """
    found = {Verdict.UNDECIDED if margin is None else equals(gap, 0.0, margin) for gap, margin in tests}
    if why or len(found) != 1:
        return Verdict.UNDECIDED
    return found.pop()


def own_transition(preferred: str, slope: Estimate | None) -> Verdict:
    """Attention falls in a sharp transition (a step, not a ramp or a drift), and shifting the schedule does
    not shift it.
    """
    return all_of([states(preferred == "step"), at_most(slope, 0.5)])


def fit_rows(run: Finished) -> Iterator[Row]:
    """The exponent of a fitted curve, its change point, and humans."""
    s = run.summary
    head = s["gamma"]
    gamma = exponent(head)
    spread = s["multiverse"]
    scale = f"{s['curve']}, clock {s['clock']['counts']} ({s['clock']['unit']}), {window(s)}"
    own = of_the_preprint(run)
    others = _exponents(s["exponents"], head)
    yield Row(
        "The line .89 k^-.43 describes the paper's own figure 4A"
        if own
        else "P_episodic(k) falls as a power law with γ = .43 (eq 14)",
        f"γ = {paper.GAMMA} ± {paper.GAMMA_SPREAD}",
        f"the power law {s['standing']['state']} (best form "
        f"{_best(run)}); γ = {show(gamma)} by {head['estimator']}",
        f"{others}; the middle half of the {spread['fitted']:,} of {spread['specifications']:,} "
        "specifications that could be fitted, some of which change what γ means, "
        f"{spread['lower_quartile']:.2f} to {spread['upper_quartile']:.2f}",
        scale,
        power_law(s["standing"]["state"], gamma),
        own=own,
        sentence=f"{s['forms_verdict']} {_each_noise(s)} {'' if own else _same_clock(s)}".strip(),
        links=f"{run.figure('decay_fits' if own else 'decay_reference_fits')}{run.link}",
        headline=True,
    )
    change = s.get("change_point")
    if change:
        schedule = change["schedule"]
        slope = number(schedule["slope"]) if schedule else None
        moves = (
            f"its half-time moves by {show(slope)} steps per step of the schedule"
            if slope
            else "no shifted run"
        )
        yield Row(
            "Attention at recurring queries falls in a sharp transition that no schedule sets",
            "step 3100 of 10,000, when q crosses .83 (the end of the paper's temperature schedule)",
            f"at step {show(number(change['location']), 0)}, 10-90 % width "
            f"{show(number(change['width']), 0)} steps; preferred: {change['preferred']}",
            f"scheduled within that interval: {', '.join(change['events']) or 'nothing'}; {moves}",
            scale,
            own_transition(change["preferred"], slope),
            own=False,
            sentence=change["verdict"],
            links=f"{run.figure('consolidation_attention')}{run.link}",
        )
    for equal in s["equivalences"]:
        gap = number(equal["difference"])
        yield Row(
            f"The exponent matches human memory ({equal['measure']})",
            "γ .4 to .5 in humans",
            f"difference to {equal['difference']['n']} human studies {show(gap, 2, sign=True)}, margin "
            + ("none" if equal["margin"] is None else f"{equal['margin']:.2g}"),
            ("–" if equal["overlap"] is None else f"{equal['overlap']:.0%} of the human intervals overlap")
            + _their_mean(equal)
            + _with_every_series(equal),
            scale,
            matches_humans(unjudged(s), _tests(equal)),
            own=own,
            sentence=f"{_beside_humans(s, equal)} P(episodic) is none of the classes of human measure, so "
            "the class compared with is a choice.",
            links=f"{run.figure('decay_forest')}{run.link}",
        )


def finding(runs: Sequence[Finished]) -> str:
    """The README's: whether the power law survives on each curve, and its exponent."""
    said = []
    for run in runs:
        s = run.summary
        head = s["gamma"]
        curve = "the preprint's figure 4A" if of_the_preprint(run) else "the rebuilt model's P(episodic)"
        said.append(
            f"to {curve} it {s['standing']['state']}{_hangs(s)} (γ {show(exponent(head))} {head['unit']}s "
            f"by {head['estimator']}; {_middle_half(s)}; best: {_best(run)})"
        )
    text = f"**Decay.** a x^-γ was fitted: {'; '.join(said)}. Specifications differ in what γ means."
    return f"{text} The clocks differ." if clocks_differ(runs) else text


def _hangs(summary: Mapping[str, Any]) -> str:
    """Under which noise the power law would stand otherwise; empty where it would not."""
    return "".join(f" (with {noise} alone it {state})" for noise, state in _otherwise(summary).items())


def of_the_preprint(run: Finished) -> bool:
    """Whether the curve is one of the preprint's own."""
    return str(run.summary["curve"]).startswith("cram2026")


def clocks_differ(runs: Sequence[Finished]) -> bool:
    """Whether the curves are on several clocks."""
    return len({str(run.summary["clock"]["counts"]) for run in runs}) > 1


def _middle_half(summary: Mapping[str, Any]) -> str:
    """Where half of all specifications put the exponent."""
    s = summary["multiverse"]
    return (
        f"middle half of {s['fitted']:,} of {s['specifications']:,} specifications "
        f"{s['lower_quartile']:.2f} to {s['upper_quartile']:.2f}"
    )


def _best(run: Finished) -> str:
    """The best form in words, and those that its AICc does not tell from it."""
    best = run.summary["best_form"]
    if best is None:
        return "not decided"
    forms = pd.read_csv(run.folder / "forms.csv").query("form != @best and delta_aicc < @ALIKE")
    return " or ".join(str(name).replace("_", " ") for name in (best, *forms["form"]))


def _beside_humans(summary: Mapping[str, Any], equal: Mapping[str, Any]) -> str:
    """Why an exponent does or does not match that of people: what `matches_humans` goes by, and no other
    test.
    """
    gap, margin = number(equal["difference"]), equal["margin"]
    if gap is None or margin is None:
        return str(equal["verdict"])
    verdict = equals(gap, 0.0, margin)
    if verdict is Verdict.UNDECIDED and not known(gap):
        return "The difference has no interval to judge by."
    said = {
        Verdict.HOLDS: "the interval of the difference lies within the margin",
        Verdict.FAILS: "the interval of the difference lies outside the margin",
    }.get(verdict, "the interval of the difference lies partly within the margin and partly outside")
    if verdict is Verdict.UNDECIDED and gap.excludes_zero:
        said += "; it excludes 0, so there is a difference, which may be smaller than the margin"
    new, gamma = equal["new_study"], summary["gamma"]
    inside = new["lower"] <= gamma["gamma"] <= new["upper"]
    head = ""
    if why := unjudged(summary):
        head = f"{why[:1].upper()}{why[1:]}, so its exponent is not judged. "
    elif matches_humans(why, _tests(equal)) is not verdict:
        head = "Which series are compared decides, so nothing is concluded. "
    said = f"{head}{said[:1].upper()}{said[1:]}"
    mean = number(equal["human_mean"])
    if mean is not None and known(mean) and (mean.upper - mean.lower) / 2 >= margin:
        said += (
            f", and none could be shown to lie within it, because the mean of {mean.n} studies is no surer"
        )
    return (
        f"{said} (the margin is {equal['margin_reason']}). The exponent of a new study is expected within "
        f"[{new['lower']:.2f}, {new['upper']:.2f}], and {gamma['gamma']:.2f} lies "
        f"{'inside' if inside else 'outside'}; form {gamma['form']}."
    )


def _tests(equal: Mapping[str, Any]) -> list[tuple[Estimate | None, float | None]]:
    """Difference and margin of a test, and of the one with every series where there is one."""
    every = equal.get("whole")
    return [(number(one["difference"]), one["margin"]) for one in (equal, every) if one is not None]


def _their_mean(equal: Mapping[str, Any]) -> str:
    """The mean exponent of people, and whether it lies in the preprint's range."""
    mean = number(equal["human_mean"])
    if mean is None or not known(mean):
        return ""
    low, high = HUMAN_RANGE
    return f"; people's mean {show(mean)}: {low:g} to {high:g} {between(mean, low, high)}"


def _with_every_series(equal: Mapping[str, Any]) -> str:
    """The same test with the series of which DOI, number of subjects or licence are not known; empty where
    there is none, or too few studies.
    """
    every = equal.get("whole")
    if every is None or every["margin"] is None:
        return ""
    new = every["new_study"]
    return (
        f"; with {every['series'] - equal['series']} more series of which DOI, number of subjects or licence "
        f"is not known {show(number(every['difference']), 2, sign=True)}, margin {every['margin']:.2g}, a "
        f"new study within [{new['lower']:.2f}, {new['upper']:.2f}], {every['overlap']:.0%} overlap"
    )


def _exponents(rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> str:
    """The same curve's exponent under the other forms and estimators."""
    shown = []
    for row in rows:
        same = (row["form"], row["estimator"]) == (head["form"], head["estimator"])
        if same or row["lower"] is None or row["failures"]:
            continue
        shown.append(f"{row['form'].replace('_', ' ')} by {row['estimator']} {interval(exponent(row))}")
    return "; ".join(shown)


def _each_noise(summary: Mapping[str, Any]) -> str:
    """How far the power law is behind were each error model the only one, and whether the verdict hangs on
    it; empty in older fits.
    """
    alone = [
        f"{gap:.1f} above {best.replace('_', ' ')} with {noise} alone" for noise, gap, best in _alone(summary)
    ]
    if not alone:
        return ""
    hangs = " and ".join(f"with {noise} alone it {state}" for noise, state in _otherwise(summary).items())
    said = f"The AICc of the power law is {' and '.join(alone)}."
    return f"{said} So the verdict hangs on the noise: {hangs}." if hangs else said


def _alone(summary: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Every error model in words, how far the power law is behind were it the only one, and what is ahead."""
    return [
        (NOISE[error], found["delta_aicc"], found["best_form"])
        for error, found in (summary.get("error_models") or {}).items()
        if error in NOISE and found["best_form"] and found["delta_aicc"] is not None
    ]


def _otherwise(summary: Mapping[str, Any]) -> dict[str, str]:
    """The error models under which alone the power law would stand otherwise, and how."""
    own = summary["standing"]["state"]
    if own not in ("survives", "is weakened", "does not survive"):
        return {}
    states = {noise: state_of(gap) for noise, gap, _ in _alone(summary)}
    return {noise: state for noise, state in states.items() if state != own}


def _same_clock(summary: Mapping[str, Any]) -> str:
    """What a curve over training says when every pattern is seen equally often from the start."""
    return (
        "All patterns are met equally often from step 0, so this clock counts training steps under another "
        "name; the curve says nothing about familiarity apart from the schedule."
        if summary["clock"]["counts"] == "repetitions over training"
        else ""
    )
