"""A decay fit as text, JSON, LaTeX and BibTeX."""

import importlib.metadata
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consolidation.decay import humans
from consolidation.decay.analysis import Analysis, exponent_rows
from consolidation.decay.curve import Curve
from consolidation.decay.forms import FORMS
from consolidation.fit.short import short
from labbook import escape
from labbook.console import UserError
from labbook.report import Report
from labbook.run import digest

SCHEMA = 3
# figure 4A of arXiv:2602.12204: P_episodic(k) = .89 k^-.43
PAPER_LINE = (0.89, 0.43)


def data_hash(curve: Curve) -> str:
    """SHA-256 of x, y, trials and units."""
    parts = [np.ascontiguousarray(a).tobytes() for a in (curve.x, curve.y, curve.count) if a is not None]
    return digest([*parts, *([] if curve.unit is None else [str(u).encode() for u in curve.unit])])


def summary(found: Analysis) -> str:
    """The report on the terminal: data, rival forms, exponents, multiverse, units, humans, and what could not
    be done.
    """
    curve = found.curve
    points = len(np.unique(curve.x))
    lines = [
        f"[[Data]] {curve.name}: {len(curve.x)} observations at {points} x; clock {curve.clock}; window "
        f"{curve.window}; normalisation {curve.normalisation}",
        f"    {curve.source}",
        "[[Forms]] by AICc",
    ]
    for _, row in found.comparison.table.iterrows():
        fitted = found.comparison.fits[row["form"]]
        values = ", ".join(f"{k} = {v:.4g}" for k, v in fitted.parameters.items())
        note = "".join(f"  !! {said}" for said in (row["failures"], row["impossible"]) if said)
        lines.append(
            f"    {row['form']:<22} {row['error']:<9} AICc {row['aicc']:9.2f} (+{row['delta_aicc']:.2f}, "
            f"weight {row['weight']:.2f})  BIC {row['bic']:9.2f}  held out {row['held_out_rmse']:.4g}  "
            f"last decade {row['last_decade_rmse']:.4g}  {values}{note}"
        )
    lines.append(f"    {found.comparison.verdict}")
    if curve.name == humans.PAPER_SERIES:
        lines.append(f"    {drawn_line(curve)}")
        lines.append(f"    {with_asymptote(found)}")
    lines.append("[[Exponent]] 95 % intervals")
    for one in exponent_rows(found.exponents):
        note = "".join(f"  !! {said}" for said in (one.failures, one.impossible) if said)
        lines.append(
            f"    {one.form:<16} {one.estimator:<9} gamma = {one.number.text(n=True)}  {one.method} over "
            f"{one.unit}s{note}"
        )
    lines += [f"    !! {caution}." for caution in found.cautions]
    lines += ["[[Multiverse]]", f"    {found.multiverse.verdict}"]
    if found.together:
        lines.append(f"    {found.together.verdict}")
    if len(found.multiverse.by_clock) > 1:
        for clock, part in found.multiverse.by_clock.items():
            lines.append(
                f"    {clock}: median {part['median']:.2f}, quartiles {part['lower_quartile']:.2f} to "
                f"{part['upper_quartile']:.2f}, {part['fitted']} specifications, "
                f"{part['share_in_human_range']:.0%} in the human range"
            )
    if found.change:
        lines += ["[[Change point]]", f"    {found.change.verdict}"]
        if found.change.schedule:
            lines.append(f"    {found.change.schedule.verdict}")
    if found.overdispersion:
        lines += ["[[Overdispersion]]", f"    {found.overdispersion.verdict}"]
    if found.averaging:
        lines += ["[[Single units and their mean]]", f"    {found.averaging.verdict}"]
    if found.population:
        lines += ["[[Population]]", f"    {found.population.verdict}"]
        lines += [f"    !! {failure}." for failure in found.population.failures]
    if found.equivalences:
        lines += ["[[Humans]]", *(f"    {test.verdict}" for test in found.equivalences)]
    if found.missing:
        lines.append("[[Not done]]")
        lines += [f"    {name}: {reason}" for name, reason in found.missing.items()]
    return "\n".join(map(escape.plain, lines))


def with_asymptote(found: Analysis) -> str:
    """What the power law with an asymptote says by least squares: the reading of figure 4A that gives the
    paper's own number.
    """
    rows = [r for r in exponent_rows(found.exponents) if (r.form, r.estimator) == ("power_asymptote", "nls")]
    if not rows:
        return "the power law with an asymptote could not be fitted by nls."
    beyond = f" It {rows[0].impossible}." if rows[0].impossible else ""
    return (
        f"with an asymptote, c + a k^-gamma by nls, gamma = {rows[0].number.text(n=True)}: the paper's "
        f"{PAPER_LINE[1]} comes out of that form, which the line that it draws, without an asymptote, is not."
        f"{beyond}"
    )


def drawn_line(curve: Curve) -> str:
    """How far the line that the examined paper draws, .89 k^-.43, passes from the points of its own figure
    4A.
    """
    line = PAPER_LINE[0] * curve.x ** -PAPER_LINE[1]
    worst = int(np.argmax(np.abs(line / curve.y - 1)))
    return (
        f"the drawn line {PAPER_LINE[0]} k^-{PAPER_LINE[1]} misses the points of its figure by "
        f"{np.sqrt(np.mean((line - curve.y) ** 2)):.3f} (root mean square over {len(curve.x)} points), most "
        f"at k = {curve.x[worst]:g}, where it is {line[worst]:.3f} and the point {curve.y[worst]:.3f}."
    )


def to_json(found: Analysis) -> dict[str, Any]:
    """Every number with interval, n, form, clock, window, normalisation, estimator, unit of resampling, seed,
    versions and data hash.
    """
    curve = found.curve
    return {
        "schema": SCHEMA,
        "curve": curve.name,
        "source": curve.source,
        "clock": {"counts": curve.clock.counts, "unit": curve.clock.unit},
        "window": curve.window,
        "normalisation": curve.normalisation,
        "data_hash": data_hash(curve),
        "gamma": asdict(found.headline),
        "exponents": found.exponents.to_dict("records"),
        "best_form": found.comparison.best,
        "forms_verdict": found.comparison.verdict,
        "standing": vars(found.comparison.standing(found.headline.form)),
        "error_model": found.comparison.error(found.comparison.best),
        "error_models": found.comparison.alone(found.headline.form),
        "cautions": list(found.cautions),
        "multiverse": found.multiverse.summary,
        "together": None if found.together is None else found.together.to_json(),
        "averaging": None
        if found.averaging is None
        else {"simulated": found.averaging.simulated, "verdict": found.averaging.verdict},
        "overdispersion": None if found.overdispersion is None else found.overdispersion.to_json(),
        "population": None if found.population is None else found.population.to_json(),
        "equivalences": [test.to_json() for test in found.equivalences],
        "humans": [
            {"series": h.name, "study": h.study, "measure": h.measure, **vars(h.number)} for h in found.humans
        ],
        "shown": [{"series": h.name, "clock": str(h.clock), **vars(h.number)} for h in found.shown],
        "by_clock": found.multiverse.by_clock,
        "change_point": None if found.change is None else found.change.to_json(),
        "missing": found.missing,
        "seed": found.seed,
        "replicates": found.replicates,
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "pandas")},
    }


def read_fit(path: Path) -> dict[str, Any]:
    """A `fit.json` of this or an older version; what an older one does not have is empty.

    Raises UserError when the file is missing, is no fit, or is of a newer version.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a fit ({error}). Name the fit.json of a run of `python -m "
            "consolidation.fit`."
        ) from error
    if not isinstance(found, dict) or "schema" not in found or "gamma" not in found:
        raise UserError(f"{path} is JSON but no fit: it has no `schema` and `gamma`.")
    if found["schema"] > SCHEMA:
        raise UserError(f"{path} has version {found['schema']}; this code reads up to {SCHEMA}. Update it.")
    # version 1 knew one clock and no change points, version 2 no classes of measures and no cautions
    return {
        "shown": [],
        "by_clock": {},
        "change_point": None,
        "equivalences": [],
        "together": None,
        "overdispersion": None,
        "population": None,
        "cautions": [],
        "standing": None,
        "error_model": None,
        "error_models": {},
        **found,
    }


def report(found: Analysis, tables: dict[str, pd.DataFrame]) -> Report:
    """What the page of the run folder holds."""
    humans_beside = [
        {"series": h.name, "study": h.study, "measure": h.measure, "clock": str(h.clock), **vars(h.number)}
        for h in (*found.humans, *found.shown)
    ]
    said = [*short(found), *(f"Caution: {caution}." for caution in found.cautions)]
    return Report(
        command="consolidation.fit",
        title=f"Decay of {found.curve.name} over {found.curve.clock}",
        verdict=said,
        tables={
            "forms": tables["forms"],
            "exponents": tables["exponents"],
            "human exponents": pd.DataFrame(humans_beside),
            "units": tables["units"],
        },
        sources=bibtex(found).split("\n\n", 1)[1],
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


def latex(found: Analysis) -> str:
    """`gamma.tex`: macros for the exponent, its interval and n, and a sentence with form, clock, window,
    interval and what speaks against citing it. Macros of a rising curve are `undefined`.
    """
    head, curve, comparison = found.headline, found.curve, found.comparison
    name = _macro(curve.name)
    gamma = f"$\\gamma = {_tex_number(head.gamma)}$"
    # what rises has no exponent of decay, so its macros hold no number that a text could cite
    citable = (head.gamma, head.lower, head.upper) if head.gamma >= 0 else (np.nan,) * 3
    estimate, lower, upper = map(_tex_number, citable)
    interval = "no interval"
    if np.isfinite(head.lower) or np.isfinite(head.upper):
        interval = f"95\\,\\% interval {_tex_number(head.lower)} to {_tex_number(head.upper)}"
    standing = comparison.standing(head.form)
    if comparison.best is None:
        rivals = escape.latex(comparison.verdict.removeprefix(f"{curve.name}: ").rstrip("."))
    else:
        best = escape.latex(comparison.best.replace("_", " "))
        rivals = f"the best of the rival forms is {best} with {comparison.noise(comparison.best)}"
        if comparison.best != head.form:
            rivals += f", AICc {standing.gap:.1f} lower" if np.isfinite(standing.gap) else ""
    openings = {
        "does not survive": "This form is rejected: a",
        "is weakened": "This form is not the best: a",
        "undecided": f"Whether this form survives is undecided, because {escape.latex(standing.why)}: a",
        "not tested": f"This form is not tested, because {standing.why}, none with an asymptote: a",
    }
    opening = openings.get(standing.state, "A")
    if head.gamma < 0:
        opening = "Nothing to cite, because y rises with x: a"
    caution = "".join(f" Caution: {escape.latex(text)}." for text in found.cautions)
    failures = f" The fit reports: {escape.latex(head.failures)}." if head.failures else ""
    return "\n".join(
        [
            f"\\newcommand{{\\gamma{name}}}{{{estimate}}}",
            f"\\newcommand{{\\gamma{name}Lower}}{{{lower}}}",
            f"\\newcommand{{\\gamma{name}Upper}}{{{upper}}}",
            f"\\newcommand{{\\gamma{name}Sentence}}{{{opening} power law ${FORMS[head.form].latex}$ "
            f"fitted by {head.estimator} to "
            f"{escape.latex(curve.name)} against {escape.latex(curve.clock)} (window: "
            f"{escape.latex(curve.window)}; normalisation: "
            f"{escape.latex(curve.normalisation)}) has {gamma} "
            f"({interval}, {head.method} over {head.n:.0f} "
            f"{escape.latex(head.unit)}s); "
            f"{rivals}.{caution}{failures}}}",
            "",
        ]
    )


def bibtex(found: Analysis) -> str:
    """`gamma.bib`: this software, the examined paper, and the source of every human curve used of which the
    registry names author and year.
    """
    version = importlib.metadata.version("attention-redundancy")
    entries = [
        "@misc{attention_redundancy,\n  title = {attention-redundancy},\n  author = {{The "
        "attention-redundancy developers}},\n"
        f"  year = {{2026}},\n  note = {{version {escape.bibtex(version)}}}\n}}",
        "@misc{cram2026,\n  title = {Learning to Forget Attention: Memory Consolidation for Adaptive "
        "Compute Reduction},\n  author = {Shihab and Akter and Sharma},\n  year = {2026},\n  eprint = "
        "{2602.12204},\n  archivePrefix = {arXiv}\n}",
    ]
    table = humans.list_series().set_index("series")
    for exponent in (*found.humans, *found.shown):
        row, known = table.loc[exponent.name], humans.bibliography(exponent.name)
        key = re.sub(r"[^A-Za-z0-9_]", "_", exponent.name)
        if known is None:
            # text outside of entries is a comment in BibTeX
            entries.append(
                f"{key} has no entry: the registry does not name its author and year "
                f"({escape.bibtex(row['study']).replace('@', ' at ')})."
            )
            continue
        doi: str = "" if pd.isna(row["doi"]) else f"\n  doi = {{{escape.bibtex(row['doi'])}}},"
        entries.append(
            f"@misc{{{key},\n  title = {{{escape.bibtex(row['study'])}}},\n"
            f"  author = {{{escape.bibtex(known[0])}}},\n  year = {{{known[1]}}},{doi}\n"
            f"  note = {{{escape.bibtex(row['measure'])}; {escape.bibtex(row['how_read'])}}}\n}}"
        )
    return "\n\n".join(entries) + "\n"
