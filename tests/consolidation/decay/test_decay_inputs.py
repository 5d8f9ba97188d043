"""What a decay fit is given: units, clocks, tables, outputs. Nothing wrong passes in silence, and nothing is
left half-written.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from consolidation import humans as humans_command
from consolidation.decay import humans, units
from consolidation.decay.analysis import Choices, analyse
from consolidation.decay.comparison import compare
from consolidation.decay.curve import Clock, Curve
from consolidation.decay.equivalence import Exponent, Margin, equivalence
from consolidation.decay.exponents import human_exponents
from consolidation.decay.forms import FORMS
from consolidation.decay.variation.multiverse import multiverse
from consolidation.fit import __main__ as fit_command
from consolidation.fit import experiment
from consolidation.fit.citation import bibtex, latex
from consolidation.fit.report import summary, to_json
from consolidation.fit.source import FitConfig, read
from labbook.console import UserError
from labbook.estimate import Estimate
from labbook.run import CHECKSUMS
from tests.conftest import fails

X = np.geomspace(1, 100, 13)
DAYS = np.array([0.5, 1, 2, 4, 7, 14, 30, 60])
REPETITIONS = Clock("repetition", "count")
FEW = ["--forms", "power", "exponential", "constant", "--bootstrap", "100"]


def table(path: Path, **columns) -> str:
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def forgetting(path: Path, **more) -> str:
    return table(path, delay_days=DAYS, value=0.6 * DAYS**-0.2, **more)


RETENTION = ["--x", "delay_days", "--clock", "retention interval"]


# units


@pytest.mark.slow
def test_a_physical_clock_without_a_unit_is_an_error_and_the_unit_given_is_kept(tmp_path, capsys):
    path = forgetting(tmp_path / "forget.csv")
    said = fails(fit_command.main, capsys, [path, *RETENTION])
    assert (
        "does not say in which unit delay_days measures the clock 'retention interval'. Say it with "
        "--clock-unit" in said
    )
    fit_command.main([path, *RETENTION, "--clock-unit", "days", *FEW, "--out", str(tmp_path / "run")])
    assert "clock unit days (--clock-unit)" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert found["clock"] == {"counts": "retention interval", "unit": "days"}
    assert "retention interval (days)" in (tmp_path / "run" / "gamma.tex").read_text()
    # set beside retention in the same unit, never beside practice
    assert {h["measure"] for h in found["humans"]} == {"recall", "savings"}
    assert found["shown"] == []
    days = pd.read_csv(tmp_path / "run" / "multiverse.csv")
    assert set(days["offset"]) == {"x"}
    assert "1 + x is left out on retention interval (days)" in summary(
        analyse(read_days(path), Choices(forms=("power", "constant")))
    )


def read_days(path: str) -> Curve:
    return read(FitConfig(source=path, x="delay_days", clock="retention interval", clock_unit="days")).curve


def test_units_change_no_exponent_and_no_specification(tmp_path):
    days = read_days(forgetting(tmp_path / "forget.csv"))
    seconds = days.in_unit("s")
    assert seconds.x == pytest.approx(86_400 * days.x)
    assert "x rescaled by 86400" in seconds.normalisation
    one, other = (multiverse({"x": c}, (0.4, 0.5)).table for c in (days, seconds))
    keys = ["form", "normalisation", "floor", "window", "estimator"]
    both = one.merge(other, on=keys, suffixes=("", "_s")).dropna(subset=["gamma", "gamma_s"])
    plain = both[both["form"] == "power"]
    assert len(plain) > 5
    assert plain["gamma"].to_numpy() == pytest.approx(plain["gamma_s"].to_numpy(), rel=1e-5)
    exponents, _ = human_exponents(days.clock)
    assert {e.clock.unit for e in exponents} == {"days"}
    by_seconds, _ = human_exponents(seconds.clock)
    assert [e.number.estimate for e in exponents] == pytest.approx(
        [e.number.estimate for e in by_seconds], rel=1e-6
    )


@pytest.mark.slow
def test_one_more_count_is_one_count_in_any_unit():
    steps = Curve("c", X, 0.9 * (1 + X) ** -0.5, Clock("training step", "steps"))
    kilo = steps.in_unit("kilosteps")
    assert units.one_count("training step", "kilosteps") == pytest.approx(0.001)
    for curve in (steps, kilo):
        t = multiverse({"c": curve}, (0.4, 0.5)).table
        shifted = t.query(
            "form == 'power' and offset == '1 + x' and normalisation == 'as given' and floor == 'none' and "
            "window == 'all'"
        )
        assert shifted["gamma"].dropna().to_numpy() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "unit", "words"),
    [
        ("repetition", "days", "cannot count in 'days'"),
        ("repetition", "steps", "cannot count in 'steps'"),
        ("training step", "repetitions", "cannot count in 'repetitions'"),
        ("retention interval", "count", "cannot count in 'count'"),
        ("retention interval", "m", "cannot count in 'm', which pint reads as meter"),
        ("repetition", "percent", "cannot count in 'percent'"),
        ("retention interval", "fortnightlies", "is no unit"),
        ("retention interval", "3 days", "is no unit"),
        ("retention interval", "\\write18{x}", "is no unit"),
        ("warmth", "degC", "no unit in which a clock can count"),
        ("cups of tea", "", "no unit in which a clock can count"),
    ],
)
def test_units_are_checked_against_the_clock(counts, unit, words):
    with pytest.raises(UserError, match=re.escape(words)):
        units.check(counts, unit)


def test_what_a_clock_may_have():
    for counts, unit in (
        ("repetition", "trials"),
        ("retention interval", "weeks"),
        ("cups of tea", "count"),
        ("sleep", "hours"),
    ):
        units.check(counts, unit)
    assert units.factor("retention interval", "days", "min") == 1440
    Clock("retention interval", "seconds").require_same(Clock("retention interval", "s"))
    with pytest.raises(UserError, match="different clocks"):
        Clock("retention interval", "days").require_same(Clock("retention interval", "s"))


def test_columns_and_flags_that_disagree_are_errors(tmp_path, capsys):
    path = forgetting(tmp_path / "f.csv", clock="retention interval", clock_unit="days")
    base = [path, "--x", "delay_days"]
    assert "--clock-unit says 'hours'" in fails(fit_command.main, capsys, [*base, "--clock-unit", "hours"])
    assert "--clock says 'repetition'" in fails(fit_command.main, capsys, [*base, "--clock", "repetition"])
    assert read(FitConfig(source=path, x="delay_days")).curve.clock == Clock("retention interval", "days")
    assert "clock unit days (column clock_unit)" in capsys.readouterr().out
    mixed = forgetting(tmp_path / "m.csv", clock=["retention interval"] * 7 + ["repetition"])
    said = fails(fit_command.main, capsys, [mixed, "--x", "delay_days", "--clock-unit", "days"])
    assert "the column 'clock' holds 2 different values" in said
    mixed = forgetting(tmp_path / "u.csv", clock="retention interval", clock_unit=["days"] * 7 + ["s"])
    assert "the column 'clock_unit' holds 2 different values" in fails(
        fit_command.main, capsys, [mixed, "--x", "delay_days"]
    )


def test_another_clock_needs_a_factor(tmp_path, capsys):
    steps = table(tmp_path / "s.csv", x=1000 * X, value=X**-0.4, clock="training step")
    assert "--on-clock-factor" in fails(fit_command.main, capsys, [steps, "--on-clock", "repetition"])
    curve = read(FitConfig(source=steps, on_clock="repetition", on_clock_factor=0.05)).curve
    assert curve.x == pytest.approx(50 * X)
    assert "x rescaled by 0.05 from training step (steps)" in curve.normalisation
    assert "Name that clock with --on-clock" in fails(
        fit_command.main, capsys, [steps, "--on-clock-factor", "2"]
    )
    assert "positive number" in fails(
        fit_command.main, capsys, [steps, "--on-clock", "repetition", "--on-clock-factor", "0"]
    )
    days = forgetting(tmp_path / "d.csv", clock="retention interval", clock_unit="days")
    known = read(FitConfig(source=days, x="delay_days", on_clock="retention interval")).curve
    assert known.clock == Clock("retention interval", "s")
    assert known.x == pytest.approx(86_400 * DAYS)


@pytest.mark.parametrize(
    ("source", "flags"),
    [("mack", ["--clock", "repetition"]), ("mack", ["--x", "k"]), ("reference", ["--clock-unit", "count"])],
)
def test_flags_that_a_source_does_not_read_are_refused(source, flags, capsys):
    assert f"Leave {flags[0]} out" in fails(fit_command.main, capsys, [source, *flags])


# tables


def curve_of(path: Path, text: str | bytes, **options) -> Curve:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(FitConfig(source=str(path), clock="repetition", **options)).curve


ROWS = [(1, 0.9), (2, 0.7), (4, 0.5), (8, 0.4)]


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.tsv", "t.txt"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_are_found(name, mark, tmp_path, capsys):
    text = "\n".join(mark.join(map(str, row)) for row in [("x", "value"), *ROWS])
    found = curve_of(tmp_path / name, text)
    assert (found.x.tolist(), found.y.tolist()) == tuple(map(list, zip(*ROWS, strict=True)))
    said = {",": "commas", ";": "semicolons", "\t": "tabs"}[mark]
    shown = capsys.readouterr().out
    assert (f"separator {said}" in shown) == (
        {".csv": ",", ".tsv": "\t"}.get(Path(name).suffix.lower()) != mark
    )


def test_other_ways_to_write_a_table(tmp_path, capsys):
    wanted = ([1, 2, 4, 8], [0.9, 0.7, 0.5, 0.4])
    blanks = curve_of(tmp_path / "b.txt", "x   value\n 1 0.9\n2   0.7\n\n4 0.5\n8 .4\n")
    assert (blanks.x.tolist(), blanks.y.tolist()) == wanted
    commas = curve_of(tmp_path / "c.csv", "x;value\n1;0,9\n2;0,7\n4;0,5\n8;0,4\n")
    assert (commas.x.tolist(), commas.y.tolist()) == wanted
    assert "decimal mark comma" in capsys.readouterr().out
    marked = curve_of(tmp_path / "bom.csv", b"\xef\xbb\xbfx,value\r\n1,9e-1\r\n2,.7\r\n4,0.50\r\n8,+0.4\r\n")
    assert (marked.x.tolist(), marked.y.tolist()) == wanted
    quoted = curve_of(tmp_path / "q.csv", 'x,value,"note, long"\n1,0.9,"a, b"\n2,0.7,\n4,0.5,\n8,0.4,\n')
    assert (quoted.x.tolist(), quoted.y.tolist()) == wanted
    frame = pd.DataFrame({"x": wanted[0], "value": wanted[1]})
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.xlsx", "t.parquet"):
        found = read(FitConfig(source=str(tmp_path / name), clock="repetition")).curve
        assert (found.x.tolist(), found.y.tolist()) == wanted


BAD = {
    "a third field in every row": (
        "x,value\n1,2,0.9\n2,2,0.7\n",
        "line 2 of the file (data row 1) has 3 fields and the header 2",
    ),
    "a comma at the end of every row": (
        "x,value\n1,0.9,\n2,0.7,\n",
        "line 2 of the file (data row 1) has 3 fields and the header 2",
    ),
    "decimal commas between commas": ("x,value\n1,0,9\n2,0,7\n", "separate the columns by semicolons"),
    "one short row": ("x,value\n1,0.9\n2\n4,0.5\n", "line 3 of the file (data row 2) has 1 fields"),
    "thousands or decimals": ("x;value\n1;1,234\n2;1,111\n", "may be decimal marks or separate thousands"),
    "both decimal marks": ("x;value\n1;0,9\n2;0.7\n4;0,5\n", "Decimal commas and points are mixed"),
    "truth values": (
        "x,value\n1,True\n2,False\n",
        "line 2 of the file (data row 1) has no number in value but 'True'",
    ),
    "nan": ("x,value\n1,0.9\n2,nan\n", "line 3 of the file (data row 2) has no number in value but 'nan'"),
    "nothing": ("x,value\n1,0.9\n2,\n", "line 3 of the file (data row 2) has no number in value but nothing"),
    "too large": ("x,value\n1,1e999\n2,1\n", "line 2 of the file (data row 1) has no number"),
    "underscores": ("x,value\n1_0,0.9\n2,1\n", "line 2 of the file (data row 1) has no number in x"),
    "other digits": ("x,value\n١,0.9\n2,1\n", "line 2 of the file (data row 1) has no number in x"),
    "a negative x": ("x,value\n-1,0.9\n2,0.7\n3,0.5\n", "x is -1, and no clock counts below 0"),
    "an empty file": ("", "is empty"),
    "blank lines": ("\n \n", "is empty"),
    "a header only": ("x,value\n", "has a header and no rows"),
    "no header": ("1,0.9\n2,0.7\n", "has no header"),
    "two equal names": ("x,value,x\n1,2,3\n", "the name 'x' twice"),
    "an unnamed column": (",x,value\n0,1,0.9\n", "no name in column 1"),
    "one column": ("value\n0.9\n", "has one column"),
    "an open quote": ('x,value\n1,"0.9\n2,0.7\n', "cannot be read as a row"),
    "binary": (b"\x00\x01\x02", "is a binary file or UTF-16"),
    "UTF-16": ("x,value\n1,0.9\n".encode("utf-16"), "is UTF-16"),
    "UTF-16 without a mark": ("x,value\n1,0.9\n".encode("utf-16-le"), "is a binary file or UTF-16"),
    "Latin-1": ("x,value,größe\n1,0.9,1\n".encode("latin-1"), "is not UTF-8: byte 11"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("main", ["fit", "humans"])
def test_bad_tables_are_one_paragraph(case, main, tmp_path, capsys):
    text, words = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if main == "fit":
        said = fails(
            fit_command.main, capsys, [str(path), "--clock", "repetition", "--out", str(tmp_path / "run")]
        )
        assert words in said
    else:
        fails(humans_command.main, capsys, [str(path)])
    assert not (tmp_path / "run").exists()


def test_files_that_are_none(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    (tmp_path / "text.dat").write_text("x,value\n1,2\n")
    (tmp_path / "no.xlsx").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        for sheet in ("a", "b"):
            pd.DataFrame({"x": [1], "value": [2]}).to_excel(book, sheet_name=sheet, index=False)
    cases = {
        "pipe.csv": "is no regular file",
        "link.csv": "does not exist",
        "text.dat": "is no table that can be read",
        "no.xlsx": "is damaged or is no Excel",
        "no.parquet": "is damaged or is no Parquet",
        "two.xlsx": "has 2 sheets with content",
    }
    for name, words in cases.items():
        assert words in fails(fit_command.main, capsys, [str(tmp_path / name), "--clock", "repetition"]), name
    assert "cannot be read" in fails(fit_command.main, capsys, ["x" * 5000])


@pytest.mark.slow
def test_a_million_rows_end_in_seconds(tmp_path, capsys):
    n = 1_000_000
    x = np.tile(np.arange(1, 101), n // 100)
    table(tmp_path / "large.csv", x=x, value=np.round(0.9 * x**-0.4, 6))
    began = time.monotonic()
    said = fails(fit_command.main, capsys, [str(tmp_path / "large.csv"), "--clock", "repetition"])
    assert "1,000,000 rows at 100 different x" in said
    assert "Average y per x and unit first" in said
    assert time.monotonic() - began < 60


# curves that are no decay


@pytest.mark.slow
def test_rising_curves_say_so(tmp_path, capsys):
    path = table(tmp_path / "up.csv", x=X, value=0.1 * X**0.3)
    fit_command.main([path, "--clock", "repetition", *FEW, "--out", str(tmp_path / "run")])
    assert "y rises with x (gamma is negative): this is growth and no decay" in capsys.readouterr().err
    assert "this is growth and no decay" in (tmp_path / "run" / "gamma.tex").read_text()
    assert any("y rises" in c for c in json.loads((tmp_path / "run" / "fit.json").read_text())["cautions"])


def test_four_points_compare_no_forms():
    found = compare(Curve("four", X[:4], np.array([0.9, 0.62, 0.5, 0.38]), REPETITIONS), tuple(FORMS))
    assert found.best is None
    assert "the forms cannot be compared: 4 points" in found.verdict
    assert found.standing("power").state == "not compared"
    assert "undefined" in found.reasons["power"]
    whole = analyse(Curve("four", X[:4], np.array([0.9, 0.62, 0.5, 0.38]), REPETITIONS))
    assert to_json(whole)["best_form"] is None
    assert "the forms cannot be compared" in latex(whole)
    assert "the form is compared with no other" in whole.cautions


def test_few_points_have_no_vuong():
    g = np.random.default_rng(0)
    for n, known in ((9, False), (40, True)):
        x = np.geomspace(1, 100, n)
        found = compare(
            Curve("c", x, np.exp(-x / 20) + 0.01 * g.standard_normal(n), REPETITIONS),
            ("power", "exponential", "logarithmic"),
        )
        assert found.table["vuong_p"].notna().any() == known


def test_zero_among_x_takes_the_form_that_is_defined_there(tmp_path):
    x = np.array([0.0, 1, 2, 4, 7, 12, 20])
    found = analyse(Curve("zero", x, 0.9 * (1 + x / 3) ** -0.5, Clock("intervening items", "items")))
    assert found.headline.form == "shifted_power"
    assert found.headline.gamma == pytest.approx(0.5, abs=1e-3)
    assert "x = 0 is among the data" in " ".join(found.cautions)
    assert "(1 + x / \\tau)" in latex(found)
    assert found.shown == []


@pytest.mark.slow
@pytest.mark.parametrize("series", humans.names())
def test_every_shipped_series_runs_through_the_command(series, tmp_path, monkeypatch):
    if not series.startswith(("rubin", "cram")):
        # drawing is the slow part, and the same for all but the odd ones
        monkeypatch.setattr("consolidation.fit.figures.draw", lambda found, folder: None)
    fit_command.main(
        [
            series,
            "--forms",
            "power",
            "shifted_power",
            "exponential",
            "constant",
            "--bootstrap",
            "100",
            "--out",
            str(tmp_path / "run"),
        ]
    )
    found = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert np.isfinite(found["gamma"]["gamma"])
    assert (tmp_path / "run" / "gamma.tex").exists()


# for papers

NASTY = "a&b_100%\\write18{rm}$x^{2}#~[red]\x1b[31m{"


@pytest.fixture(scope="module")
def nasty():
    curve = Curve(NASTY, X, np.exp(-X / 20), Clock("cups_of %tea & more", "count"), source=NASTY)
    return analyse(curve, Choices(forms=("power", "exponential", "constant")))


def uncovered(text: str, characters: str) -> list[str]:
    return re.findall(rf"(?<!\\)[{re.escape(characters)}]", text)


def test_the_sentence_carries_the_rejection_and_no_foreign_command(nasty):
    text = latex(nasty)
    assert "This form is rejected: a power law" in text
    assert "the best of the rival forms is exponential" in text
    assert "\\write18" not in text
    assert "\\textbackslash{}write18" in text
    assert not uncovered(text, "&%#_~")
    assert len(uncovered(text, "{")) == len(uncovered(text, "}"))
    assert "\x1b" not in text
    survived = analyse(
        Curve("c", X, 0.9 * X**-0.4, REPETITIONS), Choices(forms=("power", "exponential", "constant"))
    )
    assert "rejected" not in latex(survived)


@pytest.mark.slow
def test_every_entry_has_an_author_and_a_year():
    found = analyse(Curve("c", X, 0.9 * X**-0.4, REPETITIONS), Choices(forms=("power", "constant")))
    text = bibtex(found)
    entries = re.findall(r"@misc\{(.*?)\n\}", text, re.DOTALL)
    assert len(entries) > 15
    for entry in entries:
        assert re.search(r"\n  author = \{.+\}", entry), entry
        assert re.search(r"\n  year = \{\d{4}\}", entry), entry
        assert not uncovered(entry, "&%#"), entry
    assert text.count("@") == len(entries)


@pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("bibtex")), reason="pdflatex and bibtex are not installed"
)
def test_latex_and_bibtex_compile_them(nasty, tmp_path):
    (tmp_path / "gamma.tex").write_text(latex(nasty), encoding="utf-8")
    (tmp_path / "gamma.bib").write_text(
        bibtex(analyse(Curve("c", X, 0.9 * X**-0.4, REPETITIONS), Choices(forms=("power",)))),
        encoding="utf-8",
    )
    macro = re.search(r"\\newcommand\{(\\gamma\w+Sentence)\}", latex(nasty))[1]
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\begin{document}\\input{gamma.tex}"
        + macro
        + "\\nocite{*}\\bibliographystyle{plain}\\bibliography{gamma}\\end{document}"
    )
    for command in (
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper"],
        ["bibtex", "paper"],
    ) * 2:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Warning--empty" not in done.stdout


def test_names_break_neither_figures_nor_the_terminal(nasty, tmp_path):
    from consolidation.fit.figures import draw

    assert len(draw(nasty, tmp_path)) == 6
    assert "\x1b" not in summary(nasty)


@pytest.mark.slow
def test_the_band_of_the_exponent_belongs_to_the_line_that_is_drawn():
    from consolidation.fit.figures import drawn_power

    found = analyse(humans.load("mack"), Choices(forms=("power", "constant")))
    line, row = found.comparison.fits["power"], drawn_power(found)
    assert row is not None and row.estimator == line.estimator
    assert row.gamma == pytest.approx(line.exponent, rel=1e-3)
    # an exponent of units need not be that of their mean, which is drawn
    moved = found.exponents.assign(gamma=found.exponents["gamma"] + 0.1)
    assert drawn_power(replace(found, exponents=moved)) is None


# beside people


def human(name: str, value: float, study: str = "", measure: str = "time") -> Exponent:
    return Exponent(
        name, Estimate(value, value - 0.01, value + 0.01, 9), "power", REPETITIONS, "all", study, measure
    )


TIGHT = [human(f"h{i}", v, f"s{i}") for i, v in enumerate((0.40, 0.41, 0.39, 0.42, 0.38, 0.40, 0.41, 0.39))]
WIDE = [human(f"h{i}", v, f"s{i}") for i, v in enumerate((0.1, 0.9, 0.4))]


@pytest.mark.parametrize(
    ("value", "studies", "margin", "state"),
    [
        (0.40, TIGHT, Margin(0.05, "given"), "equivalent"),
        (0.55, TIGHT, Margin(0.05, "given"), "different"),
        (0.50, WIDE, Margin(0.05, "given"), "undecided"),
        (0.40, TIGHT[:2], Margin(0.05, "given"), "too few studies"),
        (0.40, [], None, "too few studies"),
        (0.40, TIGHT, Margin(1e-4, "given"), "undecided"),
    ],
)
def test_equivalence_can_come_out_each_way(value, studies, margin, state):
    found = equivalence(human("model", value, measure=""), studies, margin)
    assert found.state == state
    assert state.split()[0] in found.verdict


def test_an_exponent_at_the_human_mean_is_equivalent_within_the_spread_of_the_studies():
    sure = Exponent("model", Estimate(0.4, 0.399, 0.401, 9), "power", REPETITIONS, "all")
    found = equivalence(sure, TIGHT)
    assert (found.state, found.margin) == (
        "equivalent",
        pytest.approx(np.std([h.number.estimate for h in TIGHT], ddof=1)),
    )
    assert "the standard deviation between the 8 studies" in found.verdict


def test_series_of_the_same_subjects_count_once_and_a_new_study_has_its_own_interval():
    twice = [*TIGHT, *(human(f"again{i}", h.number.estimate, h.study) for i, h in enumerate(TIGHT))]
    one, two = (
        equivalence(human("model", 0.4, measure=""), h, Margin(0.05, "given")) for h in (TIGHT, twice)
    )
    assert (one.difference, one.p_equivalence) == (two.difference, two.p_equivalence)
    assert one.mean.n == 8
    width = one.new_study.upper - one.new_study.lower
    assert width == pytest.approx((one.mean.upper - one.mean.lower) * 3)  # sqrt(1 + 1/8) / sqrt(1/8)


@pytest.mark.slow
def test_measures_are_not_pooled():
    with pytest.raises(UserError, match="different measures cannot be compared"):
        equivalence(human("model", 0.4), [human("h", 0.4, "s", "error")] * 3)
    with pytest.raises(UserError, match="different measures cannot be compared"):
        equivalence(human("model", 0.4, measure=""), [*TIGHT, human("h", 0.4, "s", "error")])
    with pytest.raises(UserError, match="has to be a positive number"):
        Margin(0.0, "given")
    found = analyse(humans.load("sense_error"), Choices(forms=("power", "constant")))
    assert [e.measure for e in found.equivalences] == ["error"]
    assert "of the same subjects as the curve itself" in found.missing["human sense_error"]
    assert {h.study for h in found.humans}.isdisjoint({"Sense et al. 2016"})


def test_every_shipped_series_has_subjects_and_a_class_of_measure():
    for name in humans.names():
        curve = humans.load(name)
        assert (name == humans.PAPER_SERIES) == (curve.measure == "") == (curve.study == "")


# output and interruption


def out_cases(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "there")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("")
    return {
        "below a file": tmp_path / "file" / "run",
        "too long": tmp_path / ("x" * 300),
        "something else": tmp_path / "full",
        "a file": tmp_path / "file",
    }


@pytest.mark.parametrize("case", ["below a file", "too long", "something else", "a file"])
def test_the_output_is_checked_before_the_analysis(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "fit_source", lambda *_, **__: pytest.fail("the analysis began"))
    assert "Choose another --out" in fails(
        fit_command.main, capsys, ["mack", "--out", str(out_cases(tmp_path)[case])]
    )


def test_an_analysis_that_fails_leaves_nothing(tmp_path, capsys):
    path = table(tmp_path / "t.csv", x=[1, 2, 3], value=[3, 2, 1])
    assert "no power law could be fitted" in fails(
        fit_command.main, capsys, [path, "--clock", "repetition", "--out", str(tmp_path / "run")]
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bootstrap", "0"], "at least 100 replicates"),
        (["--seed", "-1"], "--seed -1 has to be 0 or more"),
        (["--margin", "nan"], "has to be a positive number"),
        (["--forms"], "--forms names no form"),
    ],
)
def test_settings_out_of_range_are_named(flags, words, capsys):
    assert words in fails(fit_command.main, capsys, ["mack", *flags])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_ends_a_fit_at_once(number, tmp_path):
    started = subprocess.Popen(
        [sys.executable, "-m", "consolidation.fit", "kolers1976_inverted", "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    started.send_signal(number)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert time.monotonic() - began < 4
    assert "interrupted. No result was written" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.full(8, 0.5), "what does not change has no exponent"),
        (1e150 * DAYS**-0.4, "Choose another unit of y"),
        (1e-150 * DAYS**-0.4, "Choose another unit of y"),
    ],
)
def test_what_has_no_exponent_is_refused(y, words, tmp_path, capsys):
    path = table(tmp_path / "t.csv", x=DAYS, value=y)
    out = tmp_path / "run"
    assert words in fails(fit_command.main, capsys, [path, "--clock", "repetition", "--out", str(out)])
    assert not out.exists()


def test_wide_ranges_of_x_overflow_in_no_fit():
    x = np.geomspace(1e-6, 1e6, 5)
    found = analyse(
        Curve("wide", x, np.array([-1.1, -0.9, 0.1, -0.5, 0.4]), REPETITIONS),
        Choices(forms=("power", "constant")),
    )
    assert found.headline.form == "power"


def test_damaged_workbooks_are_one_paragraph(tmp_path, capsys):
    pd.DataFrame({"x": DAYS, "value": DAYS**-0.4}).to_excel(tmp_path / "t.xlsx", index=False)
    whole = (tmp_path / "t.xlsx").read_bytes()
    g = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in g.integers(len(data), size=3):
            data[place] = int(g.integers(256))
        (tmp_path / "t.xlsx").write_bytes(bytes(data))
        try:
            curve = read(FitConfig(source=str(tmp_path / "t.xlsx"), clock="repetition")).curve
        except UserError:
            continue
        assert np.array_equal(curve.x, DAYS)


def write_curve(path, y, **columns):
    rows = pd.DataFrame({"k": np.arange(1, len(y) + 1), "p": y, **columns})
    rows.to_csv(path, index=False)
    return [str(path), "--x", "k", "--y", "p", "--clock", "repetition", "--bootstrap", "100"]


def test_an_exact_power_law_is_not_rejected_for_its_last_digits():
    """Fits that agree to the rounding of the data are told apart by their number of parameters alone."""
    x = np.arange(1.0, 13.0)
    table = compare(
        Curve("exact", x, 0.8 * x**-0.4, Clock("repetition", "count")),
        ("power", "power_asymptote", "logistic"),
    )
    assert table.best == "power"
    assert table.standing("power").state == "survives"


@pytest.mark.parametrize(
    ("y", "columns", "more", "message"),
    [
        (-0.8 * np.arange(1.0, 13.0) ** -0.4, {}, [], "no value lies above 0"),
        (0.8 * np.arange(1.0, 13.0) ** -0.4, {"u": "one"}, ["--unit", "u"], "all rows are of one unit"),
        (0.8 * np.arange(1.0, 13.0) ** -0.4, {"n": 10.5}, ["--count", "n"], "trials are whole numbers"),
    ],
)
def test_curves_that_cannot_be_what_was_asked_for(capsys, tmp_path, y, columns, more, message):
    text = fails(
        fit_command.main,
        capsys,
        [*write_curve(tmp_path / "c.csv", y, **columns), *more, "--out", str(tmp_path / "o")],
    )
    assert message in text
    assert not (tmp_path / "o").exists()


def test_a_clock_that_is_nearly_one_of_the_registry_is_asked_about(capsys, tmp_path):
    args = write_curve(tmp_path / "c.csv", 0.8 * np.arange(1.0, 13.0) ** -0.4)
    args[args.index("repetition")] = "repetitions"
    text = fails(fit_command.main, capsys, [*args, "--clock-unit", "count", "--out", str(tmp_path / "o")])
    assert "did you mean 'repetition'?" in text


@pytest.mark.slow
def test_a_finished_fit_is_left_as_it_is_and_knows_its_tables(tmp_path, capsys):
    path = table(tmp_path / "t.csv", k=X, p=0.9 * X**-0.4)
    args = [path, "--x", "k", "--y", "p", "--clock", "repetition", *FEW, "--out", str(tmp_path / "run")]
    fit_command.main([*args, "--no-report"])
    first = capsys.readouterr().out
    assert not (tmp_path / "run" / "report.html").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["gamma"] == json.loads((tmp_path / "run" / "fit.json").read_text())["gamma"]
    assert set(found[CHECKSUMS]) == {
        "config.json",
        "forms.csv",
        "exponents.csv",
        "multiverse.csv",
        "units.csv",
    }
    fit_command.main(args)
    again = capsys.readouterr().out
    assert "nothing is fitted again" in again
    assert first[first.index("best form") :] == again[again.index("best form") :]
    fit_command.main([*args, "--full"])
    assert "[[Forms]] by AICc" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == before


def test_what_a_source_says_of_its_first_trial_is_heeded():
    table = humans.registry()
    limits = table["how_read"].str.extract(r"use k >= (\d+)")[0].astype(float)
    assert set(table["series"][limits.notna()]) == {"sense_error", "sense_rt"}
    assert (table["x"] >= limits.fillna(0)).all()
