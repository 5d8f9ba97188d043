"""A decay fit in a few lines: the best form, the exponent to cite, its rivals, the nearest human studies."""

import numpy as np

from consolidation.decay.analysis import Analysis, ExponentRow, exponent_rows
from consolidation.decay.curve import MEASURES
from consolidation.decay.equivalence import Exponent
from labbook import escape

# how many rivals and how many studies are named
NAMED = 3


def short(found: Analysis) -> list[str]:
    """Lines for a reader who wants one number: what fits, what to cite, what else fits, who is like it."""
    lines = [_best(found), _cited(found), _rivals(found), *_humans(found)]
    return [escape.plain(line) for line in lines if line]


def rejected(found: Analysis) -> bool:
    """Whether the form of the exponent does not survive beside the best one."""
    return found.comparison.standing(found.headline.form).state == "does not survive"


def _best(found: Analysis) -> str:
    comparison = found.comparison
    if comparison.best is None:
        return f"best form: none. {comparison.verdict}"
    row = comparison.table.set_index("form").loc[comparison.best]
    note = f"; the fit reports: {row['failures']}" if row["failures"] else ""
    return f"best form: {comparison.best} (AICc {row['aicc']:.2f}, weight {row['weight']:.2f}){note}"


def _said(one: ExponentRow) -> str:
    how = f"{one.estimator}, {one.method} over {one.unit}s, n = {one.n}"
    return f"gamma = {one.number.text()} of {one.form} ({how})"


def survivor(found: Analysis) -> ExponentRow | None:
    """The exponent of the best surviving form that has one, where that of the power law is rejected."""
    rows = {
        one.form: one
        for one in reversed(exponent_rows(found.exponents))
        if np.isfinite([one.gamma, one.lower, one.upper]).all()
        and one.estimator == found.headline.estimator
        and not one.failures
        and found.comparison.standing(one.form).state == "survives"
    }
    return next((rows[form] for form in found.comparison.table["form"] if form in rows), None)


def _cited(found: Analysis) -> str:
    head, standing = found.headline, found.comparison.standing(found.headline.form)
    if standing.state == "does not survive":
        other = survivor(found)
        instead = "no form with an exponent survives" if other is None else f"cite {_said(other)}"
        return (
            f"{instead}. {head.form} is rejected (AICc {standing.gap:.1f} above {found.comparison.best}): "
            f"its gamma = {head.number.text()} describes a curve that the data do not follow"
        )
    state = {
        "survives": "; it survives beside its rivals",
        "is weakened": f"; weakened, AICc {standing.gap:.1f} above {found.comparison.best}",
        "not compared": "; compared with no other form",
    }[standing.state]
    return f"cite {_said(head)}{state}"


def _rivals(found: Analysis) -> str:
    table = found.comparison.table
    others = table[(table["form"] != found.comparison.best) & np.isfinite(table["delta_aicc"])]
    # a fit that failed is no rival
    sound = others[others["failures"] == ""]
    named = [f"{row['form']} +{row['delta_aicc']:.1f}" for _, row in sound.head(NAMED).iterrows()]
    more, failed = len(sound) - len(named), len(others) - len(sound)
    text = f"rivals (AICc): {', '.join(named)}{f' and {more} more' * bool(more)}" if named else "rivals: none"
    return text + f"; {failed} could not be fitted soundly" * bool(failed)


def _humans(found: Analysis) -> list[str]:
    """The nearest human studies, one line for each class of measure that the curve may be held against."""
    if rejected(found):
        return ["humans: not compared, because the form is rejected"]
    if not found.humans:
        return [f"humans: {found.missing['humans']}"] if "humans" in found.missing else []
    lines = []
    for measure in MEASURES:
        part = [human for human in found.humans if human.measure == measure]
        if part and found.curve.measure in ("", measure):
            near = sorted(part, key=lambda h: abs(h.number.estimate - found.headline.gamma))
            lines.append(f"humans, {measure}: {', '.join(map(_human, _one_each(near)[:NAMED]))}")
    return lines


def _one_each(series: list[Exponent]) -> list[Exponent]:
    """The first series of every study."""
    first: dict[str, Exponent] = {}
    for one in series:
        first.setdefault(one.study or one.name, one)
    return list(first.values())


def _human(one: Exponent) -> str:
    return f"{one.name} {one.number.text(2)}"
