"""A decay fit as text, JSON and a page."""

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consolidation.decay import humans
from consolidation.decay.analysis import Analysis
from consolidation.decay.curve import Curve
from consolidation.decay.exponents import exponent_rows
from consolidation.fit.citation import bibtex
from consolidation.fit.short import cited, nothing_to_compare, short
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
            f"weight {row['weight']:.2f})  BIC {row['bic']:9.2f}  error held out "
            f"{_known(row['held_out_rmse'])}, in the last decade {_known(row['last_decade_rmse'])}  "
            f"{values}{note}"
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
        lines.append("[[Humans]]")
        if nothing := nothing_to_compare(found):
            lines.append(f"    {nothing}; what follows is of the form that is named there")
        for test in found.equivalences:
            lines.append(f"    {test.verdict}")
            if test.whole is not None:
                lines.append(f"    with series of which not everything is known, too: {test.whole.verdict}")
    if found.missing:
        lines.append("[[Not done]]")
        lines += [f"    {name}: {reason}" for name, reason in found.missing.items()]
    return "\n".join(map(escape.plain, lines))


def _known(error: float) -> str:
    return "not known" if np.isnan(error) else f"{error:.4g}"


def with_asymptote(found: Analysis) -> str:
    """What the power law with an asymptote says by least squares: the reading of figure 4A that gives the
    paper's own number.
    """
    rows = [r for r in exponent_rows(found.exponents) if r.fit == ("power_asymptote", "nls")]
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
        "cited": None if (may := cited(found)) is None else asdict(may),
        "gamma_of_best_form": None if found.of_best is None else asdict(found.of_best),
        "exponents": found.exponents.to_dict("records"),
        "best_form": found.comparison.best,
        "forms_verdict": found.comparison.verdict,
        "standing": vars(found.comparison.standing(found.headline.form)),
        "error_model": found.comparison.error(found.comparison.best),
        "error_models": found.comparison.alone(found.headline.form),
        "apart": None if found.apart is None else found.apart.to_json(),
        "cautions": list(found.cautions),
        "said": short(found),
        "report": summary(found),
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
    # version 1 knew one clock and no change points, version 2 no classes of measures and no cautions; what is
    # said on the terminal came later
    return {
        "shown": [],
        "by_clock": {},
        "change_point": None,
        "equivalences": [],
        "together": None,
        "overdispersion": None,
        "population": None,
        "apart": None,
        "cautions": [],
        "said": [],
        "report": "",
        "standing": None,
        "error_model": None,
        "error_models": {},
        "gamma_of_best_form": None,
        "cited": None,
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
        sources=bibtex(found).partition("\n\n")[2],
    )
