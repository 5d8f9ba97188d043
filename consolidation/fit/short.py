"""A decay fit in a few lines: the best form, the exponent to cite, its rivals, the nearest human studies."""

import numpy as np

from consolidation.decay import humans
from consolidation.decay.analysis import Analysis
from consolidation.decay.comparison import NOISE, said_ahead
from consolidation.decay.curve import MEASURES
from consolidation.decay.equivalence import Equivalence, Exponent
from consolidation.decay.exponents import ExponentRow, exponent_rows, to_cite
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import ERRORS
from labbook import escape

# how many rivals and how many studies are named
NAMED = 3


def short(found: Analysis) -> list[str]:
    """Lines for a reader who wants one number: what fits, what to cite, what else fits, who is like it."""
    lines = [_best(found), _cited(found), _rivals(found), _units(found), _population(found), *_humans(found)]
    return [escape.plain(line) for line in lines if line]


def nothing_to_compare(found: Analysis) -> str:
    """Why the exponent says nothing about people, or nothing."""
    if why := withheld(found):
        return f"nothing is concluded, because {why}"
    if found.comparison.standing(found.headline.form).state == "does not survive":
        return "nothing is concluded, because the form is rejected"
    return ""


def _best(found: Analysis) -> str:
    comparison = found.comparison
    if comparison.best is None:
        return f"best form: none. {comparison.verdict}"
    row = comparison.table.set_index("form").loc[comparison.best]
    own = beside(found)
    failures = row["failures"] if own is None else own.failures
    note = f"; the fit reports: {failures}" if failures else ""
    note += f"; it {row['impossible']}" if row["impossible"] else ""
    if comparison.ahead:
        note += f"; undecided: {said_ahead(comparison.ahead)}"
    weight = f"AICc {row['aicc']:.2f}, weight {row['weight']:.2f}"
    weight += ", which says little for so few points" * bool(comparison.untested)
    exponent = "" if own is None else f"; its {_said(found, own)}"
    return f"best form: {comparison.best} with {comparison.noise(comparison.best)} ({weight}){exponent}{note}"


def beside(found: Analysis) -> ExponentRow | None:
    """The exponent of the best form, to stand beside that of the headline; None where it is the same, or the
    best form has none.
    """
    own, head = found.of_best, found.headline
    return None if own is None or own.fit == head.fit else own


def _said(found: Analysis, one: ExponentRow, of: str = "") -> str:
    how = f"{one.estimator}, {one.method} over {one.unit}s, n = {one.n}"
    return f"gamma = {one.number.text()}{of} ({how}{geometric(found, one)})"


def geometric(found: Analysis, one: ExponentRow) -> str:
    """That an exponent is of other numbers than the fit that is compared, and the exponent of that; else
    empty.
    """
    of_means = found.compared(one)
    return "" if of_means is None else f"; of geometric means, {of_means:.3f} of the means that are compared"


def withheld(found: Analysis) -> str:
    """What stands against citing an exponent besides its rivals; empty where nothing does."""
    if found.headline.gamma < 0:
        return "y rises with x"
    if found.apart is not None and found.apart.hangs:
        return f"it hangs on one observation, at {found.apart.place}"
    unchanging, state = found.comparison.unchanging, found.comparison.standing(found.headline.form).state
    if unchanging and state == "survives":
        return f"{unchanging}, which does not change, describes the data as well"
    return ""


def cited(found: Analysis) -> ExponentRow | None:
    """The exponent that a text may cite: what the forms allow, unless it is withheld."""
    return None if withheld(found) else to_cite(found.comparison, found.exponents, found.headline)


def _cited(found: Analysis) -> str:
    """The exponent, with the word `cite` only where its form survives and y falls."""
    head, standing = found.headline, found.comparison.standing(found.headline.form)
    name, other = "power law" if head.form == "power" else head.form, cited(found)
    if why := withheld(found):
        return f"nothing to cite: {why}; {name}: {_said(found, head)}"
    if standing.state == "does not survive":
        none = "no form with an exponent survives"
        standings = found.comparison.standing
        impossible = [one.form for one in exponent_rows(found.exponents) if one.impossible]
        if any(standings(name).state == "survives" for name in impossible):
            none += " that tends to what y can be"
        elif any(standings(one.form).state == "survives" for one in exponent_rows(found.exponents)):
            none += " with a sound fit and a closed interval"
        if found.comparison.ahead:
            none = f"no form can be cited, because {said_ahead(found.comparison.ahead)}"
        instead = none if other is None else f"cite {_said(found, other, f' of {other.form}')}"
        who = "the mean of the units does" if found.averaging else "the data do"
        return (
            f"{instead}. {head.form} is rejected: {_said(found, head)}{_gaps(found)}; it describes a curve "
            f"that {who} not follow"
        )
    if standing.state == "survives" and other == head:
        return (
            f"cite {_said(found, head, f' of {head.form}')}; it survives beside {_asked(found)}"
            f"{_by_noise(found)}"
        )
    if standing.state == "survives":
        form = "" if other is None else f" of {other.form}"
        instead = "nothing to cite" if other is None else f"cite {_said(found, other, form)}"
        gap = found.comparison.behind(head.form, ERRORS[head.estimator])
        return (
            f"{instead}; it survives beside {_asked(found)}, but not with {NOISE[ERRORS[head.estimator]]}: "
            f"{_said(found, head)}, AICc {gap:.1f} above that"
        )
    if standing.state == "is weakened":
        return f"nothing to cite: {name} is not the best form; {_said(found, head)}{_gaps(found)}"
    state = {
        "not compared": "compared with no other form",
        "undecided": f"undecided beside its rivals ({standing.why})",
        "not tested": f"not tested beside its rivals ({standing.why})",
    }[standing.state]
    return f"nothing to cite: {name} is {state}; {_said(found, head)}"


def _asked(found: Analysis) -> str:
    """The rivals of the headline: all, or by name where others were not asked for."""
    asked = [*found.comparison.table["form"], *found.comparison.reasons]
    rivals = [name for name in FORMS if name in asked and name != found.headline.form]
    left = len(set(FORMS) - set(asked))
    return f"{', '.join(rivals)} ({left} other forms were not asked for)" if left else "its rivals"


def _gaps(found: Analysis) -> str:
    """How far the fit behind the headline is above the best form, and the same of its form with the noise
    that suits it best where that is another: every difference beside the gamma of its own fit.
    """
    head, comparison = found.headline, found.comparison
    gap, standing = comparison.behind(head.form, ERRORS[head.estimator]), comparison.standing(head.form)
    text = f", AICc {gap:.1f} above {comparison.best}" if np.isfinite(gap) else ""
    if standing.error is None or standing.error == ERRORS[head.estimator]:
        return text
    own = _by_other_noise(found)
    noise = f"{NOISE[standing.error]}{own and f' {own},'}"
    return f"{text}; with {noise} AICc {standing.gap:.1f} above {comparison.best}"


def _by_noise(found: Analysis) -> str:
    """The noise with which the form of the headline survives, where its estimator takes another."""
    error = found.comparison.standing(found.headline.form).error
    if error is None or error == ERRORS[found.headline.estimator]:
        return ""
    own = _by_other_noise(found)
    return f" with {NOISE[error]}{own and f', by which {own}'}"


def _by_other_noise(found: Analysis) -> str:
    """The exponent of the headline's form with the noise that suits it best; empty where there is none."""
    other = found.of_other_noise
    if other is None:
        return ""
    return f"gamma = {other.number.text()} ({other.estimator}{geometric(found, other)})"


def _rivals(found: Analysis) -> str:
    table = found.comparison.table
    others = table[(table["form"] != found.comparison.best) & np.isfinite(table["delta_aicc"])]
    # a fit that failed is no rival
    sound = others[others["failures"] == ""]
    noise = table.set_index("form")["error"].get(found.comparison.best)
    named = [
        f"{row['form']} +{row['delta_aicc']:.1f}"
        + (f" with {NOISE[row['error']]}" if row["error"] != noise else "")
        for _, row in sound.head(NAMED).iterrows()
    ]
    more, failed = len(sound) - len(named), len(others) - len(sound)
    text = f"rivals (AICc): {', '.join(named)}{f' and {more} more' * bool(more)}" if named else "rivals: none"
    text += f"; {failed} could not be fitted soundly" * bool(failed)
    none = [name for name in found.comparison.reasons if name not in set(others["form"])]
    return text + f"; not compared: {', '.join(none)} (`missing` in fit.json says why)" * bool(none)


def _units(found: Analysis) -> str:
    """What single units follow, which their mean need not."""
    if found.averaging is None:
        return ""
    return f"units: {found.averaging.verdict.removeprefix(f'{found.curve.name}: ').rstrip('.')}"


def _population(found: Analysis) -> str:
    """What all units say together, where that was asked for."""
    if found.population is None:
        return ""
    said = found.population.verdict.removeprefix(f"{found.curve.name}: ")
    return "; ".join((f"population: {said}".rstrip("."), *found.population.failures))


def _humans(found: Analysis) -> list[str]:
    """What is known of people, one line for each class of measure that the curve may be held against: the
    outcome of the test, and the nearest studies.
    """
    if not found.humans:
        return [f"humans: {found.missing['humans']}"] if "humans" in found.missing else []
    lines, tested = list[str](), {test.measure: test for test in found.equivalences}
    if "measure" in found.missing:
        lines.append(f"humans: {found.missing['measure']}")
    for measure in MEASURES:
        part = [human for human in found.humans if human.measure == measure]
        if not part or found.curve.measure not in ("", measure):
            continue
        near = _one_each(sorted(part, key=lambda h: abs(h.number.estimate - found.headline.gamma)))
        named = "; ".join(map(_human, near[:NAMED]))
        if len(near) > NAMED:
            which = f"the {NAMED} nearest of {len(near)} studies"
        else:
            which = "the one study" if len(near) == 1 else f"all {len(near)} studies"
        several = ", each by its nearest series" * (len(part) > len(near))
        lines.append(
            f"humans, {measure}: {_outcome(found, tested[measure])}; gamma of {near[0].form} in {which}"
            f"{several}: {named}"
        )
    left = [name for name in found.missing if name.startswith("human ")]
    if left:
        lines.append(
            f"humans: {len(left)} more series are not compared; `missing` in fit.json says which, and why"
        )
    return lines


def _outcome(found: Analysis, test: Equivalence) -> str:
    """Whether the exponent is that of people, in words."""
    nothing = nothing_to_compare(found)
    if nothing:
        return nothing
    if test.state == "too few studies":
        n = test.difference.n
        return f"only {n} {'study' if n == 1 else 'studies'}, so no comparison"
    verb = {
        "equivalent": "equivalent to",
        "different": "different from",
        "undecided": "undecided whether like",
    }
    difference = test.difference.text(2, sign=True)
    text = (
        f"{verb[test.state]} the mean of {test.mean.n} studies (difference {difference}, margin "
        f"{test.margin:.2g})"
    )
    if test.whole is None or test.whole.state == test.state:
        return text
    more = test.whole.series - test.series
    return f"{text}, but {verb[test.whole.state]} it with {more} more series whose sources are incomplete"


def _one_each(series: list[Exponent]) -> list[Exponent]:
    """The first series of every study: of series by nearness, the nearest."""
    first: dict[str, Exponent] = {}
    for one in series:
        first.setdefault(one.study or one.name, one)
    return list(first.values())


def _human(one: Exponent) -> str:
    return f"{humans.title(one.name)} {one.number.text(2)} ({one.number.n} points)"
