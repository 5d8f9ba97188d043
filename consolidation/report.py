"""A decay fit as text, JSON, LaTeX and BibTeX."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from consolidation import humans
from consolidation.analysis import DecayFit, analyse
from consolidation.decay import Curve
from labbook.console import UserError
from labbook.run import digest


class DecayReport(DecayFit):
    """A decay fit that can show itself."""

    def summary(self) -> str:
        """The report as text."""
        return summary(self)

    def to_latex(self) -> str:
        """Macros and a sentence for a paper."""
        return latex(self)

    def plot(self) -> Figure:
        """The data with their fits."""
        from consolidation.figures import data_and_fits  # plotting libraries are slow to import

        return data_and_fits(self)


def fit_decay(curve: Curve, **options: Any) -> DecayReport:
    """Fit a curve in every way that applies to it, as `python -m consolidation.fit` does; `options` are those of `analysis.analyse`.

    Raises UserError when no form, or no power law, can be fitted.
    """
    return DecayReport(**vars(analyse(curve, **options)))


SCHEMA = 2
# figure 4A of arXiv:2602.12204: P_episodic(k) = .89 k^-.43
PAPER_LINE = (0.89, 0.43)


def _number(row: dict[str, Any]) -> str:
    return f"{row['gamma']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}] (n = {row['n']:.0f})"


def data_hash(curve: Curve) -> str:
    """SHA-256 of x, y, trials and units."""
    parts = [np.ascontiguousarray(a).tobytes() for a in (curve.x, curve.y, curve.count) if a is not None]
    return digest([*parts, *([] if curve.unit is None else [str(u).encode() for u in curve.unit])])


def summary(found: DecayFit) -> str:
    """The report on the terminal: data, rival forms, exponents, multiverse, units, humans, and what could not be done."""
    curve = found.curve
    points = len(np.unique(curve.x))
    lines = [
        f"[[Data]] {curve.name}: {len(curve.x)} observations at {points} x; clock {curve.clock}; window {curve.window}; normalisation {curve.normalisation}",
        f"    {curve.source}",
        "[[Forms]] by AICc",
    ]
    for _, row in found.comparison.table.iterrows():
        fitted = found.comparison.fits[row["form"]]
        values = ", ".join(f"{k} = {v:.4g}" for k, v in fitted.parameters.items())
        note = f"  !! {row['failures']}" if row["failures"] else ""
        lines.append(
            f"    {row['form']:<22} AICc {row['aicc']:9.2f} (+{row['delta_aicc']:.2f}, weight {row['weight']:.2f})  BIC {row['bic']:9.2f}  held out {row['held_out_rmse']:.4g}  "
            f"last decade {row['last_decade_rmse']:.4g}  {values}{note}"
        )
    lines.append(f"    {found.comparison.verdict}")
    if curve.name == humans.PAPER_SERIES:
        lines.append(f"    {drawn_line(curve)}")
    lines.append("[[Exponent]] 95 % intervals")
    for _, row in found.exponents.iterrows():
        note = f"  !! {row['failures']}" if row["failures"] else ""
        lines.append(
            f"    {row['form']:<16} {row['estimator']:<9} gamma = {_number(dict(row))}  {row['method']} over {row['unit']}s{note}"
        )
    lines += ["[[Multiverse]]", f"    {found.multiverse.verdict}"]
    if len(found.multiverse.by_clock) > 1:
        for clock, part in found.multiverse.by_clock.items():
            lines.append(
                f"    {clock}: median {part['median']:.2f}, quartiles {part['lower_quartile']:.2f} to {part['upper_quartile']:.2f}, {part['fitted']} specifications, "
                f"{part['share_in_human_range']:.0%} in the human range"
            )
    if found.change:
        lines += ["[[Change point]]", f"    {found.change.verdict}"]
    if found.averaging:
        lines += ["[[Single units and their mean]]", f"    {found.averaging.verdict}"]
    if found.equivalence:
        lines += ["[[Humans]]", f"    {found.equivalence.verdict}"]
    if found.missing:
        lines.append("[[Not done]]")
        lines += [f"    {name}: {reason}" for name, reason in found.missing.items()]
    return "\n".join(lines)


def drawn_line(curve: Curve) -> str:
    """How far the line that the examined paper draws, .89 k^-.43, passes from the points of its own figure 4A."""
    line = PAPER_LINE[0] * curve.x ** -PAPER_LINE[1]
    worst = int(np.argmax(np.abs(line / curve.y - 1)))
    return (
        f"the drawn line {PAPER_LINE[0]} k^-{PAPER_LINE[1]} misses the points of its figure by {np.sqrt(np.mean((line - curve.y) ** 2)):.3f} (root mean square over {len(curve.x)} points), "
        f"most at k = {curve.x[worst]:g}, where it is {line[worst]:.3f} and the point {curve.y[worst]:.3f}."
    )


def to_json(found: DecayFit) -> dict[str, Any]:
    """Every number with interval, n, form, clock, window, normalisation, estimator, unit of resampling, seed, versions and data hash."""
    curve = found.curve
    return {
        "schema": SCHEMA,
        "curve": curve.name,
        "source": curve.source,
        "clock": {"counts": curve.clock.counts, "unit": curve.clock.unit},
        "window": curve.window,
        "normalisation": curve.normalisation,
        "data_hash": data_hash(curve),
        "gamma": found.headline,
        "exponents": found.exponents.to_dict("records"),
        "best_form": found.comparison.best,
        "forms_verdict": found.comparison.verdict,
        "multiverse": found.multiverse.summary,
        "averaging": None
        if found.averaging is None
        else {"simulated": found.averaging.simulated, "verdict": found.averaging.verdict},
        "equivalence": None
        if found.equivalence is None
        else {
            "difference": vars(found.equivalence.difference),
            "p": found.equivalence.p_equivalence,
            "overlap": found.equivalence.overlap,
            "verdict": found.equivalence.verdict,
        },
        "humans": [{"series": h.name, **vars(h.number)} for h in found.humans],
        "shown": [{"series": h.name, "clock": str(h.clock), **vars(h.number)} for h in found.shown],
        "by_clock": found.multiverse.by_clock,
        "change_point": None
        if found.change is None
        else {
            "location": vars(found.change.location),
            "width": vars(found.change.width),
            "events": found.change.events,
            "verdict": found.change.verdict,
        },
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
            f"{path} cannot be read as a fit ({error}). Name the fit.json of a run of `python -m consolidation.fit`."
        ) from error
    if not isinstance(found, dict) or "schema" not in found or "gamma" not in found:
        raise UserError(f"{path} is JSON but no fit: it has no `schema` and `gamma`.")
    if found["schema"] > SCHEMA:
        raise UserError(f"{path} has version {found['schema']}; this code reads up to {SCHEMA}. Update it.")
    # version 1 knew one clock and no change points
    return {"shown": [], "by_clock": {}, "change_point": None, **found}


def _macro(name: str) -> str:
    """The part of a name before its first comma, in letters only: LaTeX macros have no digits."""
    words = "".join(c if c.isalnum() else " " for c in name.split(",")[0]).split()
    digits = dict(
        zip("0123456789", ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"), strict=True)
    )
    words = [word if word.isupper() else word.capitalize() for word in words]
    return "".join("".join(digits.get(c, c) for c in word) for word in words)


def latex(found: DecayFit) -> str:
    """`gamma.tex`: macros for the exponent, its interval and n, and a sentence with form, clock, window and interval."""
    head, curve = found.headline, found.curve
    name = _macro(curve.name)
    over = f"{head['n']:.0f} {head['unit']}s"
    return "\n".join(
        [
            f"\\newcommand{{\\gamma{name}}}{{{head['gamma']:.3f}}}",
            f"\\newcommand{{\\gamma{name}Lower}}{{{head['lower']:.3f}}}",
            f"\\newcommand{{\\gamma{name}Upper}}{{{head['upper']:.3f}}}",
            f"\\newcommand{{\\gamma{name}Sentence}}{{A power law $a\\,x^{{-\\gamma}}$ fitted by {head['estimator']} to {curve.name.replace('_', chr(92) + '_')} against "
            f"{curve.clock} (window: {curve.window}; normalisation: {curve.normalisation}) has $\\gamma = {head['gamma']:.3f}$ "
            f"(95\\,\\% interval {head['lower']:.3f} to {head['upper']:.3f}, {head['method']} over {over}); "
            f"the best of the rival forms is {found.comparison.best.replace('_', ' ')}.}}",
            "",
        ]
    )


def bibtex(found: DecayFit) -> str:
    """`gamma.bib`: this software, the examined paper, and the source of every human curve used."""
    version = importlib.metadata.version("attention-redundancy")
    entries = [
        f"@software{{attention_redundancy,\n  title = {{attention-redundancy}},\n  version = {{{version}}}\n}}",
        "@misc{cram2026,\n  title = {Learning to Forget Attention: Memory Consolidation for Adaptive Compute Reduction},\n"
        "  author = {Shihab and Akter and Sharma},\n  year = {2026},\n  eprint = {2602.12204},\n  archivePrefix = {arXiv}\n}",
    ]
    table = humans.list_series().set_index("series")
    for exponent in (*found.humans, *found.shown):
        row = table.loc[exponent.name]
        year: str = "" if pd.isna(row["year"]) else f"\n  year = {{{str(row['year']).removesuffix('.0')}}},"
        doi: str = "" if pd.isna(row["doi"]) else f"\n  doi = {{{row['doi']}}},"
        entries.append(
            f"@misc{{{exponent.name},\n  title = {{{row['study']}}},{year}{doi}\n  note = {{{row['measure']}; {row['how_read']}}}\n}}"
        )
    return "\n\n".join(entries) + "\n"
