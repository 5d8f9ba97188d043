"""What a paper takes from a decay fit: LaTeX with the exponent, and BibTeX with its sources."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from consolidation.decay import humans
from consolidation.decay.analysis import Analysis
from consolidation.decay.comparison import NOISE
from consolidation.decay.exponents import ExponentRow
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import ERRORS
from consolidation.decay.units import of_practice
from consolidation.fit.short import beside, cited, geometric, withheld
from labbook import escape
from labbook.report import CITATION

CRAM = (
    "@misc{cram2026,\n  title = {Learning to Forget Attention: Memory Consolidation for Adaptive "
    "Compute Reduction},\n  author = {Shihab and Akter and Sharma},\n  year = {2026},\n  eprint = "
    "{2602.12204},\n  archivePrefix = {arXiv}\n}"
)


def _macro(name: str) -> str:
    """The part of a name before its first comma, in ASCII letters only: LaTeX macros have no digits, and no
    others without packages.
    """
    words = re.sub(r"[^A-Za-z0-9]", " ", name.split(",")[0]).split()
    digits = dict(
        zip(
            "0123456789",
            ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"),
            strict=True,
        )
    )
    words = [word if word.isupper() else word.capitalize() for word in words]
    return "".join("".join(digits.get(c, c) for c in word) for word in words) or "Curve"


def _tex_number(value: float) -> str:
    """A number as LaTeX text, also one that does not exist."""
    if np.isnan(value):
        return "undefined"
    return f"{value:.3f}" if np.isfinite(value) else r"\ensuremath{" + ("-" if value < 0 else "") + r"\infty}"


def _interval(one: ExponentRow) -> str:
    if not (np.isfinite(one.lower) or np.isfinite(one.upper)):
        return "no interval"
    return f"95\\,\\% interval {_tex_number(one.lower)} to {_tex_number(one.upper)}"


def _words(form: str) -> str:
    return escape.latex(form.replace("_", " "))


def _gamma(one: ExponentRow) -> str:
    return f"$\\gamma = {_tex_number(one.gamma)}$"


def _rivals(found: Analysis) -> str:
    """The best of the rival forms with its own exponent, and how far the fit behind the headline is above
    it; with another noise the same form has another exponent and another difference, which stand together.
    """
    head, comparison = found.headline, found.comparison
    if comparison.best is None:
        return escape.latex(comparison.verdict.removeprefix(f"{found.curve.name}: ").rstrip("."))
    taken, best = ERRORS[head.estimator], comparison.best
    text = f"the best of the rival forms is {_words(best)} with {comparison.noise(best)}"
    gap = comparison.behind(head.form, taken)
    if (best, comparison.error(best)) != (head.form, taken) and np.isfinite(gap):
        text += f", AICc {gap:.1f} lower"
    own = beside(found)
    if own is not None:
        failures = f"; the fit reports: {escape.latex(own.failures)}" if own.failures else ""
        text += f", its own {_gamma(own)} ({_interval(own)}{geometric(found, own)}{failures})"
    standing = comparison.standing(head.form)
    if standing.error in (None, taken) or best == head.form:
        return text
    other = found.of_other_noise
    exponent = "" if other is None else f"{_gamma(other)} ({_interval(other)}{geometric(found, other)}) and "
    return (
        f"{text}; with {NOISE[standing.error]} the form {_words(head.form)} has {exponent}an AICc "
        f"{standing.gap:.1f} above the best"
    )


def latex(found: Analysis) -> str:
    """`gamma.tex`: macros for the exponent to cite, its interval and form, and a sentence with form, clock,
    window, interval and what speaks against citing it. Where the form of the headline is rejected the
    macros are those of the form that is cited instead; they are `undefined` where no form is cited.
    """
    head, curve = found.headline, found.curve
    name = _macro(curve.name)
    standing = found.comparison.standing(head.form)
    taken, values = cited(found), ["undefined"] * 4
    if taken is not None:
        values = [*map(_tex_number, (taken.gamma, taken.lower, taken.upper)), _words(taken.form)]
    instead, whose = "", ""
    if standing.state == "does not survive":
        whose = ", of the form that is rejected"
        instead = "; no form is cited in its place"
    if taken is not None and taken.fit != head.fit:
        by = f" by {taken.estimator}" * (taken.form == head.form)
        instead = (
            f"; cited in its place is {_words(taken.form)}{by} with {_gamma(taken)} "
            f"({_interval(taken)}{geometric(found, taken)})"
        )
    macros = dict(zip(("", "Lower", "Upper", "Form"), values, strict=True))
    openings = {
        "does not survive": "This form is rejected: a",
        "is weakened": "This form is not the best: a",
        "undecided": f"Whether this form survives is undecided, because {escape.latex(standing.why)}: a",
        "not tested": f"This form is not tested, because {standing.why}: a",
        "not compared": "Nothing to cite, because this form is compared with no other: a",
    }
    opening = openings.get(standing.state, "A")
    if why := withheld(found):
        opening, instead = f"Nothing to cite, because {escape.latex(why)}: a", ""
    caution = "".join(f" Caution{whose}: {escape.latex(text)}." for text in found.cautions)
    failures = f" The fit reports: {escape.latex(head.failures)}." if head.failures else ""
    return "\n".join(
        [
            *(f"\\newcommand{{\\gamma{name}{what}}}{{{value}}}" for what, value in macros.items()),
            f"\\newcommand{{\\gamma{name}Sentence}}{{{opening} power law ${FORMS[head.form].latex}$ "
            f"fitted by {head.estimator} to "
            f"{escape.latex(curve.name)} against {escape.latex(curve.clock)} (window: "
            f"{escape.latex(curve.window)}; normalisation: "
            f"{escape.latex(curve.normalisation)}) has {_gamma(head)} "
            f"({_interval(head)}, {head.method} over {head.n:.0f} "
            f"{escape.latex(head.unit)}s); "
            f"{_rivals(found)}{instead}.{caution}{failures}}}",
            "",
        ]
    )


def bibtex(found: Analysis) -> str:
    """`gamma.bib`: this software, the examined paper where its range of exponents stands beside the curve,
    and the sources of the curve and of every human curve that it was compared with of which the registry
    names author and year.
    """
    entries = [CITATION]
    curve, table = found.curve, humans.list_series().set_index("series")
    if of_practice(curve.clock.counts):
        entries.append(CRAM)
    compared = [human.name for human in found.humans if curve.measure in ("", human.measure)]
    # only a curve of the registry knows its subjects
    own = [curve.name] if curve.study and curve.name in table.index else []
    entries += [_entry(name, table.loc[name].to_dict()) for name in (*own, *compared)]
    drawn = [human.name for human in (*found.humans, *found.shown) if human.name not in compared]
    if drawn:
        # text outside of entries is a comment in BibTeX
        studies = "; ".join(dict.fromkeys(escape.bibtex(table.loc[name, "study"]) for name in drawn))
        note = f"Drawn beside the curve and not compared, so without entries: {studies}."
        entries.append(note.replace("@", " at "))
    return "\n\n".join(entries) + "\n"


def _entry(series: str, row: Mapping[Any, Any]) -> str:
    """The source of one series of the registry."""
    key, known = re.sub(r"[^A-Za-z0-9_]", "_", series), humans.bibliography(series)
    if known is None:
        # a comment, see above
        return (
            f"{key} has no entry: the registry does not name its author and year "
            f"({escape.bibtex(row['study']).replace('@', ' at ')})."
        )
    doi, note = "", f"{row['measure']}; {row['how_read']}"
    if pd.notna(row["doi"]) and pd.notna(row["republished_in"]):
        note += f"; published again in {row['republished_in']}, doi {row['doi']}"
    elif pd.notna(row["doi"]):
        doi = f"\n  doi = {{{escape.bibtex(row['doi'])}}},"
    return (
        f"@misc{{{key},\n  title = {{{escape.bibtex(row['study'])}}},\n"
        f"  author = {{{escape.bibtex(known[0])}}},\n  year = {{{known[1]}}},{doi}\n"
        f"  note = {{{escape.bibtex(note)}}}\n}}"
    )
