"""What the pages say of the factorial follows from its contrasts: made-up runs bring out every state."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from consolidation.replicate import __main__ as replicate
from consolidation.replicate import cell_figures
from consolidation.replicate.contrasts import CELLS, analyse
from labbook.console import UserError
from labbook.estimate import Estimate
from replication import __main__ as pages
from replication.abstract import spared
from replication.claims import factorial as says
from replication.claims import finding
from replication.claims.consolidation import Experiments, experiment_rows
from replication.claims.decided import Decided
from replication.claims.varied import control
from replication.results import experiment_section, findings
from replication.rows import CONTROLS, LEARNED, ROOT, UNFAMILIAR, UNREWARDED, Finished
from replication.verdict import Verdict
from tests.planted_factorial import around, plant, plant_seed

SMALL = ROOT / "consolidation" / "data" / "runs" / "small"
READS = {"A": 0.2, "B": 0.6, "C": 0.21, "D": 0.6, "E": 0.6, "F": 0.1}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Finished:
    """B reads more than A, C as much, F less; A has not learnt."""
    by = {cell: around(mean) for cell, mean in READS.items()} | {"F": around(0.1)[:7]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_figures, "draw", lambda *_: [])
        folder = plant(tmp_path_factory.mktemp("runs") / "factorial", by, novel={"A": 0.5}, known={"D": 0.9})
    return pages.read_run(folder)


def the(run: Finished) -> Decided:
    """The factorial that a run is."""
    (decided,) = Decided.among([run])
    return decided


def changed(run: Finished, **reads) -> Decided:
    """The run with other P(attend | recurring) by cell."""
    of = the(run).of
    outcomes = of.outcomes.copy()
    for cell, values in reads.items():
        mine = outcomes["cell"] == cell
        outcomes.loc[mine, "attends"] = values[: int(mine.sum())]
    return Decided(run, replace(of, outcomes=outcomes, contrasts=analyse(outcomes)))


def test_the_run_is_told_from_the_papers_cells(run):
    assert run.kind == "experiments"
    assert Decided.among([pages.read_run(SMALL)]) == ()
    assert [decided.run for decided in Decided.among([pages.read_run(SMALL), run])] == [run]


def test_every_state_gives_its_verdict_and_its_sentence(run):
    rows = {row.claim.split(" (")[0]: row for row in says.contrast_rows(the(run))}
    assert [row.here for row in rows.values()] == [Verdict.HOLDS, Verdict.FAILS, Verdict.FAILS]
    more, same, fewer = rows.values()
    assert "without semantic memory reads more recurring queries" in more.sentence
    assert "without the consolidation loss reads as many recurring queries" in same.sentence
    assert "without q reads fewer recurring queries" in fewer.sentence
    assert "(n = 7)" in fewer.ours  # a seed that is missing is not in the pairs
    for row in rows.values():
        assert row.scale.startswith("fixed keys, 20 patterns, N = 64")
        assert "1,000 steps (cosine learning rate, attention priced at 0.5 from step 150" in row.scale
        assert "In 8 of 8 seeds" in row.sentence or "In 7 of 7 seeds" in row.sentence
        assert "Without them fewer than two seeds are left" in row.sentence
        assert row.verdict == "not tested on the paper's model"
        assert "With the semantic memory knocked out CRAM answers 0.90" in row.sentence
    # lambda_E + lambda_S q, of a control without a semantic memory lambda_E alone
    for row, there in zip(rows.values(), (0.5, 0.51, 0.54), strict=True):
        assert f"at the end 0.540 in CRAM and {there:.3f} in the other" in row.sentence
        assert ("may make CRAM read less" in row.sentence) == (there < 0.54)
    assert "with 80 patterns +0.00" in more.control and "(smaller)" in more.control
    wide = list(np.linspace(0, 1, 8))
    open_ = next(says.contrast_rows(changed(run, A=wide, B=wide[::-1])))
    assert open_.here is Verdict.UNDECIDED
    assert "is not told from CRAM's" in open_.sentence


@pytest.mark.parametrize(
    ("less", "more", "verdict"),
    [
        (around(0.2), around(0.9, spread=0.02), Verdict.HOLDS),
        (around(0.2), around(0.6, spread=0.02), Verdict.FAILS),
        (around(0.6), around(0.6, spread=0.02), Verdict.FAILS),
        (around(0.2), [0.0, 1.0] * 4, Verdict.UNDECIDED),
    ],
)
def test_memory_load_makes_the_difference_larger_or_not(run, less, more, verdict):
    (row,) = says.load_rows(changed(run, D=less, E=more))
    assert row.here is verdict
    assert "with 80 patterns by more than with 20 (fixed keys, attention priced at 0.5)" in row.claim
    (low, high), n = stats.ttest_1samp(np.subtract(more, less), 0).confidence_interval(0.95), 8
    assert (
        f"{np.mean(np.subtract(more, less)):+.2f} [{max(low, -1):+.2f}, {min(high, 1):+.2f}] (n = {n})"
        in row.ours
    )
    assert "each of 80 patterns is met 0.25 times as often" in row.sentence
    assert "knocked out changes by +0.00 [" in row.sentence
    of = changed(run, D=less, E=more).of
    unknown = of.outcomes.assign(known=np.where(of.outcomes["cell"] == "E", 0.3, of.outcomes["known"]))
    (row,) = says.load_rows(Decided(run, replace(of, outcomes=unknown)))
    assert row.here is Verdict.UNDECIDED
    assert "so this tests nothing" in row.sentence
    assert "not tested: it knows 0.30 |" in readme([Decided(run, replace(of, outcomes=unknown))])
    # less that is read at the other load is no more that is read at this one
    (row,) = says.load_rows(changed(run, A=around(0.9), B=around(0.2), D=around(0.5), E=around(0.5)))
    assert row.here is Verdict.FAILS
    few = of.outcomes[(of.outcomes["cell"] != "E") | (of.outcomes["seed"] < 2)]
    assert not list(says.load_rows(Decided(run, replace(of, outcomes=few, contrasts=analyse(few)))))


def test_learned_keys_are_read_beside_the_factorial(run):
    small = pages.read_run(SMALL)
    alone = {row.claim: row.sentence for row in experiment_rows(small)}
    beside = {row.claim: row.sentence for row in experiment_rows(small, [small, run])}
    control, fast = (next(c for c in alone if c.startswith(head)) for head in ("Without sem", "With a ten"))
    assert "no run here has others, so this decides nothing" in alone[control]
    head = "With fixed keys, 20 patterns, attention priced at 0.5, and 1,000 steps a router without semantic"
    assert f"{head} memory" in beside[control]
    assert beside[fast].endswith("no run of it has others.")
    # an ablation that attends at far more positions is told from CRAM
    shipped = Experiments.of(small)
    apart = {("table4", "control", "attention"): Estimate(0.167, 0.16, 0.17, 5)}
    assert "no variant is told from CRAM" in shipped.depends
    assert "no variant is told" not in replace(shipped, cells={**shipped.cells, **apart}).depends


def test_the_pages_hold_the_rows_of_the_factorial(run):
    rows = pages.rows_of([run])
    claims = [row.claim for row in rows if row.here is not Verdict.UNTESTED]
    assert sum(claim.startswith("Theorem 1") for claim in claims) == 2  # at both loads
    assert sum("optimum of eq 13" in claim for claim in claims) == 1
    optimum = next(row for row in rows if "optimum of eq 13" in row.claim)
    assert "Novel queries right: 0.50" in optimum.sentence and optimum.here is Verdict.FAILS
    theorem = next(row for row in rows if row.claim.startswith("Theorem 1"))
    assert theorem.here is Verdict.FAILS  # .03 of positions, and .05 are queries
    assert pages.page(rows)
    text = "\n".join(experiment_section(run))
    assert text.startswith("### Memory apart from its use")
    assert "| paired | B - A | P(attend \\| recurring) | +0.40 [" in text
    assert "| mixed model |" in text and "| change | A |" in text
    assert "| paired | B - A | share of novel queries answered |" in text
    for table in text.split("\n\n"):
        # a bar within a cell would be one more column
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines() if "|" in line}) <= 1
    for cell in CELLS:
        assert f"\n| {cell} | " in text


def changes_by(words: str) -> str:
    """What the README has of what a row says of a change."""
    return words.partition("): ")[2].partition(",")[0].rstrip(".")


def readme(decided) -> str:
    """What the README says of factorials."""
    return "\n".join(finding.finding(decided))


def test_the_readme_says_what_the_contrasts_say(run):
    small = pages.read_run(SMALL)
    (before,) = findings([small])
    assert "is still to be made, so nothing is claimed about the mechanism" in before
    after = "\n".join(findings([small, run]))
    assert "still to be made" not in after
    assert "| without semantic memory | +0.40 [+0.40, +0.40] (n = 8), larger |" in after
    assert "| the same, 4 × the patterns | +0.00 [+0.00, +0.00] (n = 8), equivalent; CRAM 0.6" in after
    assert "| without q | -0.10 [-0.10, -0.10] (n = 7), smaller |" in after
    assert "8 of 8 seeds of CRAM and 0 of the control answer fewer" in after
    # B: the weights answer all of them, and .6 are read
    assert "known to the weights, and read, at least: the same two | 0.20 [" in after
    assert "] (n = 8) / 0.60 [" in after
    assert "λ_S = 0" not in after
    least = changed(run, **{cell: [0.0] * 8 for cell in CELLS})
    assert "weights, and read, at least: the same two | 0.00 [" in readme([least])


def test_what_is_answered_by_chance_is_not_known(run):
    decided = the(run)
    rows = decided.of.outcomes.assign(known=0.5, attends=0.8)
    found = replace(decided, of=replace(decided.of, outcomes=rows)).known_and_read("A")
    # one of 8 values is guessed: (.5 - .125) / .875 are known, and .8 read
    assert found.estimate == pytest.approx(0.375 / 0.875 + 0.8 - 1)


def test_prices_are_compared_by_the_difference_of_their_differences(run):
    same, other = the(run), changed(run, B=around(0.05))
    alike, apart = (Decided(run, replace(one.of, price=0.1)) for one in (same, other))
    assert "not shown to depend on the price" in readme([same, alike])
    head = "From 0.5 to 0.1 the difference changes by"
    assert f"{head} -0.55 [-0.55, -0.55] (n = 8): it depends on the price" in readme([same, apart])
    assert all("the difference changes by" not in readme(one) for one in ([same], [same, other]))
    # a price at which retrieval is not learnt is told in words, where another is left
    learnt = replace(same.of, outcomes=same.of.outcomes.assign(learnt=True), price=0.1)
    said = readme([same, Decided(run, learnt)])
    assert "minus CRAM's | priced at 0.1 (the preprint's) |\n" in said
    assert "the control answer fewer than 90% of novel" in said
    assert "minus CRAM's | priced at 0.5 |\n" in readme([same])
    # seeds that one of them lacks say nothing
    (line,) = spared(same)
    assert line.startswith("fixed keys, price 0.5: +0.40 [") and line.endswith("], larger")
    assert spared(other)[0].endswith("], smaller")
    few = replace(other.of, outcomes=other.of.outcomes.query("seed < 2"))
    assert "0.5 the difference changes by" not in readme([same, Decided(run, few)])
    wide = list(np.linspace(0, 1, 8))
    change = finding.between_prices(same, changed(run, A=[0.0] * 8, B=wide))
    expected = stats.ttest_1samp(np.array(wide) - 0.4, 0).confidence_interval(0.95)
    np.testing.assert_allclose([change.lower, change.upper], [expected.low, expected.high], atol=0.02)


def test_the_reward_of_the_semantic_path_is_taken_apart_where_cell_a_was_made_without_it(run, tmp_path):
    first = shutil.copytree(run.folder, tmp_path / "factorial")
    here = pages.read_run(first)
    assert the(here).unrewarded_difference("B - A") is None
    beside = shutil.copytree(run.folder, tmp_path / f"factorial{UNREWARDED}")
    with pytest.raises(
        UserError, match="without the reward of the semantic path belongs, and differs from it in objective"
    ):
        the(here).besides("B - A")
    for path in beside.glob("factorial-*/seed-*/config.json"):
        config = json.loads(path.read_text())
        config["objective"]["semantic_reward"] = 0.0
        path.write_text(json.dumps(config))
    assert "λ_S = 0) the difference is +0.40 [" in the(here).besides("B - A")
    assert the(here).besides("B - A").count("the reward alone does not make it") == 1
    assert "the same, minus CRAM with λ_S = 0 | +0.40 [" in readme([the(here)])
    assert "λ_S" not in readme([the(run)])
    assert "λ_S = 0" not in the(here).besides("F - A")  # where reading costs the same


@pytest.mark.parametrize(
    ("reads", "state", "verdict"),
    [(0.6, "larger", Verdict.HOLDS), (0.2, "equivalent", Verdict.FAILS), (0.05, "smaller", Verdict.FAILS)],
)
def test_another_control_speaks_beside_that_of_the_design(run, tmp_path, reads, state, verdict):
    here = pages.read_run(shutil.copytree(run.folder, tmp_path / "factorial"))
    assert control(the(here), "control-network") is None
    assert list(says.control_rows(the(here))) == []
    beside = tmp_path / f"factorial{CONTROLS}"
    for seed, value in enumerate(around(reads, spread=0.02)):
        place = plant_seed(beside, "control-network", seed, value, novel=0.9).parent
    replicate.main(["tiny", "--tables", "controls", "--seeds", "0", "--no-report", "--out", str(beside)])
    found = control(the(here), "control-network")
    assert found.state == state
    gaps = np.array(around(reads, spread=0.02)) - np.array(around(READS["A"]))
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found.from_cram.number.lower == pytest.approx(low)
    assert found.from_cram.number.upper == pytest.approx(high)
    assert found.beyond["B"].number.estimate == pytest.approx(reads - READS["B"])
    assert found.beyond["F"].n == 7
    assert found.p_signs == pytest.approx(2 / 2**8 if reads != 0.2 else found.p_signs)
    (row,) = says.control_rows(the(here))
    assert row.here is verdict
    assert "whose router has a network of x as CRAM's has" in row.claim
    assert f"(n = 8), {state} |" in readme([the(here)])
    # the last seed is another model's, or of another price
    last = place / "seed-7" / "config.json"
    for here_is, there in (
        ('"control-network"', '"cram"'),
        ('"attention_penalty": 0.5', '"attention_penalty": 0.4'),
    ):
        text = last.read_text()
        assert here_is in text
        last.write_text(text.replace(here_is, there))
        with pytest.raises(UserError, match="and differs from it in"):
            control(the(here), "control-network")
        last.write_text(text)


@pytest.mark.parametrize(
    ("reads", "verdict", "words"),
    [
        (
            0.9,
            Verdict.HOLDS,
            "from +0.40 to +0.70, by +0.30 [+0.30, +0.30] (n = 8): it is larger there, where CRAM reads 0.2",
        ),
        (0.6, Verdict.HOLDS, "(n = 8): it does not turn on that, give or take 0.05, where CRAM reads 0.20."),
        (0.2, Verdict.FAILS, "(n = 8): it is smaller there, where CRAM reads 0.20."),
        (None, Verdict.UNDECIDED, "(n = 8): whether it turns on that is open, where CRAM reads 0.20."),
    ],
)
def test_novel_keys_that_cannot_be_known_by_heart_speak_beside_the_few(
    run, tmp_path, monkeypatch, reads, verdict, words
):
    here = pages.read_run(shutil.copytree(run.folder, tmp_path / "factorial"))
    assert the(here).unfamiliar is None and list(says.varied_rows(the(here))) == []
    monkeypatch.setattr(cell_figures, "draw", lambda *_: [])
    read = [0.0, 1.0] * 4 if reads is None else around(reads)
    beside = plant(tmp_path / f"factorial{UNFAMILIAR}", {"A": around(0.2), "B": read})
    with pytest.raises(UserError, match="with many more novel keys, and has 20, each bound 960 times"):
        list(says.varied_rows(the(here)))
    configs = sorted(beside.glob("factorial-*/seed-*/config.json"))
    for path in configs:
        path.write_text(path.read_text().replace('"novel_keys": 20', '"novel_keys": 20000'))
    (row,) = says.varied_rows(the(here))
    assert row.here is verdict and words in row.sentence
    # 1,000 steps of 16 sequences with 4 bindings, .3 of them novel
    assert "each bound 1.0 times instead of 960" in row.sentence
    assert "with 20,000 novel keys" in row.claim and "with 20 novel keys +0.40 [" in row.control
    assert "CRAM reads 0.20 there, so no model can read more by more than 0.80." in row.sentence
    assert row.sentence.count("CRAM's own reads change by +0.00 [") == 1
    assert ("expected a larger" in row.sentence) == (reads in (0.2, 0.6))
    assert ("expected that if" in row.sentence) == (reads == 0.9)
    said = readme([the(here)])
    assert (
        "With 20,000 novel keys, 1,000 steps, priced at 0.5, CRAM reads 0.20 [" in said
        and changes_by(words) in said
    )
    assert spared(the(here))[1].startswith("the same, 20,000 novel keys: +")
    assert words in next(says.contrast_rows(the(here))).sentence
    configs[-1].write_text(configs[-1].read_text().replace('"batch": 16', '"batch": 15'))
    with pytest.raises(UserError, match="differs from it in"):
        list(says.varied_rows(the(here)))


def test_more_novel_keys_say_where_retrieval_is_not_learnt_and_what_is_known(run, tmp_path, monkeypatch):
    here = pages.read_run(shutil.copytree(run.folder, tmp_path / "factorial"))
    monkeypatch.setattr(cell_figures, "draw", lambda *_: [])
    reads, failed = {"A": around(0.2), "B": around(0.6)}, {"A": 0.5}
    beside = plant(tmp_path / f"factorial{UNFAMILIAR}", reads, novel=failed, known={"A": 0.7})
    for path in beside.glob("factorial-*/seed-*/config.json"):
        path.write_text(path.read_text().replace('"novel_keys": 20', '"novel_keys": 20000'))
    (row,) = says.varied_rows(the(here))
    assert "8 of CRAM's 8 seeds have not learnt retrieval there." in row.sentence
    assert "right changes by +0.00 [+0.00, +0.00] (n = 8), CRAM's by -0.30 [" in row.sentence
    said = readme([the(here)])
    assert "8 of CRAM's 8 seeds have not learnt retrieval there." in said
    took = len(list(tmp_path.glob("factorial*/factorial-*/seed-*/summary.json")))
    assert f"all {took} " in said and took > 40 + 8


@pytest.mark.parametrize(
    ("cram", "control", "verdict", "words"),
    [
        (0.2, 0.9, Verdict.HOLDS, "from +0.40 to +0.70, by +0.30 [+0.30, +0.30] (n = 8): it is larger there"),
        (
            0.2,
            0.2,
            Verdict.FAILS,
            "from +0.40 to +0.00, by -0.40 [-0.40, -0.40] (n = 8): it is smaller there",
        ),
        (
            0.5,
            0.9,
            Verdict.HOLDS,
            "(n = 8): it does not turn on that, give or take 0.05, where CRAM reads 0.50",
        ),
        (0.2, None, Verdict.UNDECIDED, "(n = 8): whether it turns on that is open, where CRAM reads 0.20."),
    ],
)
def test_learned_keys_speak_beside_the_fixed_ones(run, tmp_path, monkeypatch, cram, control, verdict, words):
    here = pages.read_run(shutil.copytree(run.folder, tmp_path / "factorial"))
    assert the(here).learned is None
    monkeypatch.setattr(cell_figures, "draw", lambda *_: [])
    reads = {"a": around(cram), "b": [0.0, 1.0] * 4 if control is None else around(control)}
    beside = plant(tmp_path / f"factorial{LEARNED}", reads)
    assert the(here).learned.of.keys == "learned" and the(here).of.keys == "fixed"
    (row,) = says.varied_rows(the(here))
    assert row.here is verdict and words in row.sentence
    assert "with learned keys (table 4; learned keys, 20 patterns" in row.claim
    assert "With learned keys instead of fixed ones, the difference" in row.sentence
    assert row.sentence.count(f"CRAM's own reads change by {cram - 0.2:+.2f} [") == 1
    assert "with fixed keys +0.40 [" in row.control and "expected" not in row.sentence
    assert "learned keys, 20 patterns, N = 64" in row.scale
    said = readme([the(here)])
    assert (
        f"With learned keys, 1,000 steps, priced at 0.5, CRAM reads {cram:.2f} [" in said
        and changes_by(words) in said
    )
    assert spared(the(here))[1].startswith("the same, learned keys: ")
    assert words in next(says.contrast_rows(the(here))).sentence
    with pytest.raises(UserError, match="factorial-learned has the factorial's cells with learned keys"):
        pages.rows_of([pages.read_run(beside)])
    gone = (beside / "learned-control-20" / "seed-7").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="has the seeds 0, 1, 2, 3, 4, 5, 6, and its tables are of others"):
        list(says.varied_rows(the(here)))
    gone.rename(beside / "learned-control-20" / "seed-7")
    last = max(beside.glob("learned-*/seed-*/config.json"))
    last.write_text(last.read_text().replace('"learned"', '"fixed"'))
    with pytest.raises(UserError, match="where factorial with learned keys belongs, and differs from it in"):
        list(says.varied_rows(the(here)))


def test_the_two_tables_of_the_design_need_two_folders(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        replicate.main(["tiny", "--tables", "factorial", "learned", "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    assert "factorial and learned have the same cells" in capsys.readouterr().err


def test_what_cram_reads_may_leave_no_room_for_a_difference(run):
    assert says.room(the(run), "A").endswith("so no model can read more by more than 0.80.")
    full = says.room(changed(run, A=around(0.99)), "A")
    assert "not even one that reads every recurring query would be told from it" in full


def test_the_reward_alone_may_make_a_difference_or_not():
    said = [says.said_unrewarded(Estimate(e, e - 0.1, e + 0.1, 8)) for e in (0.3, 0.0, -0.3)]
    assert [text.rpartition(", ")[2] for text in said] == [
        "so the reward alone does not make it",
        "so whether the reward alone makes it is open",
        "the other way",
    ]
    # four seeds cannot have a p by signs below .125
    few = says.said_unrewarded(Estimate(0.3, 0.2, 0.4, 4))
    assert "by Student's t alone" in few and few.endswith("whether the reward alone makes it is open")
