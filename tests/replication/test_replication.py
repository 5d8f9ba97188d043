"""Every claim is a predicate: made-up results bring out every verdict, and nothing missing or wide counts as
agreement.
"""

import itertools
import json
import math
import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labbook.console import UserError
from labbook.estimate import Estimate
from labbook.run import CHECKSUMS, opened, read_json, sealed
from redundancy.removal.config import ORDERS
from redundancy.removal.curve import Removable
from redundancy.removal.summary import RemovalSummary
from redundancy.removal.tables import Losses
from replication import __main__ as pages
from replication import paper, results
from replication.claims import beside, consolidation, decay, prediction, removal
from replication.results import experiment_section
from replication.rows import CONTEXT, PARTS, REPEAT, ROOT, Row, window
from replication.verdict import LEAST, Verdict, all_of, at_least, at_most, between, equals
from tests.planted import comes_out_each_way

REMOVAL = ROOT / "redundancy" / "data" / "runs" / "embedded" / "removal"
SMALL = ROOT / "consolidation" / "data" / "runs" / "small"
HOLDS, FAILS, UNDECIDED, PARTLY = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED, Verdict.PARTLY
NAN = Estimate(math.nan, math.nan, math.nan, 8)


def tight(value: float, n: int = 8, half: float = 0.001) -> Estimate:
    return Estimate(value, value - half, value + half, n)


def wide(value: float, n: int = 8) -> Estimate:
    return Estimate(value, value - 1e3, value + 1e3, n)


numbers = st.builds(
    lambda value, half, n: Estimate(value, value - half, value + half, n),
    st.floats(-2, 50),
    st.floats(0, 5),
    st.integers(1, 40),
)


def share(number: Estimate, kind: str = "interpolated") -> Removable:
    return Removable(number, within=0.0, beyond=1.0, kind=kind)


GROUPS = dict(zip(paper.HEAD_GROUPS, map(tight, paper.HEAD_GROUPS.values()), strict=True))
# claim -> the made-up results that bring out each verdict; every claim has to have holds, does not hold and
# undecided
CASES = {
    "R of another model": (
        prediction.predictable,
        {
            HOLDS: [(tight(0.99), None), (tight(0.85), None)],
            FAILS: [(tight(0.3), None), (tight(-1), None)],
            UNDECIDED: [(wide(0.8), None), (NAN, None), (tight(0.99, n=2), None)],
        },
    ),
    "R of the paper's model": (
        prediction.predictable,
        {
            HOLDS: [(tight(0.84), 0.84)],
            FAILS: [(tight(0.6), 0.84), (tight(0.99), 0.84)],
            UNDECIDED: [(wide(0.84), 0.84), (NAN, 0.84)],
        },
    ),
    "head groups": (
        prediction.head_groups,
        {
            HOLDS: [(GROUPS,)],
            FAILS: [(dict.fromkeys(GROUPS, tight(2.0)),)],
            PARTLY: [(GROUPS | {next(iter(GROUPS)): tight(1.0)},)],
            UNDECIDED: [(dict.fromkeys(GROUPS, wide(0.3)),), ({},)],
        },
    ),
    "training": (
        prediction.does_not_fall,
        {
            HOLDS: [(tight(0.2), tight(0.2), tight(0.05))],
            FAILS: [(tight(-0.2), tight(-0.1), tight(-0.05))],
            PARTLY: [(tight(-0.2), tight(0.2), tight(-0.05))],
            UNDECIDED: [(wide(0.2), wide(0.2), wide(0.2)), (None, None, None)],
        },
    ),
    "removable": (
        removal.removable_share,
        {
            HOLDS: [(share(tight(0.95)),), (share(tight(1.0), "at least"),)],
            FAILS: [(share(tight(0.2)),), (share(Estimate(math.nan, 0.0, 0.05, 8), "less than"),)],
            UNDECIDED: [
                (share(wide(0.9)),),
                (share(tight(0.95, n=2)),),
                (share(Estimate(math.nan, 0.0, 0.95, 8), "less than"),),
            ],
        },
    ),
    "spares more": (
        removal.spares_more,
        {
            HOLDS: [(tight(0.1),)],
            FAILS: [(tight(-0.1),)],
            UNDECIDED: [(wide(0.1),), (NAN,), (None,), (tight(0.1, n=2),), (tight(0.0),)],
        },
    ),
    "attention before the MLP": (
        removal.cheaper_than_mlp,
        {
            HOLDS: [([tight(0.2), tight(0.1)],)],
            FAILS: [([tight(-0.2), tight(-0.1)],), ([tight(-0.2), wide(0.1)],)],
            PARTLY: [([tight(0.2), tight(-0.1)],)],
            UNDECIDED: [([wide(0.2)],), ([tight(0.2), NAN],), ([tight(0.2, n=2)],), ([],)],
        },
    ),
    "stands for attention": (
        removal.stands_for_attention,
        {
            HOLDS: [([tight(0.01), tight(3.0)],)],
            FAILS: [([tight(1.0)],)],
            UNDECIDED: [([wide(0.0)],)],
            Verdict.UNTESTED: [([],)],
        },
    ),
    "optimum": (
        consolidation.reaches_optimum,
        {
            HOLDS: [(tight(0.016), tight(0.999))],
            FAILS: [(tight(1.0), tight(0.1))],
            PARTLY: [(tight(0.016), tight(0.1)), (tight(1.0), tight(0.999))],
            UNDECIDED: [(wide(0.016), wide(1.0)), (None, None)],
        },
    ),
    "ablation": (
        consolidation.attention_stays,
        {
            HOLDS: [(tight(0.167), tight(0.016))],
            FAILS: [(tight(0.016), tight(0.016)), (tight(0.0), tight(0.016))],
            UNDECIDED: [(wide(0.1), tight(0.016)), (None, tight(0.016)), (tight(0.167, n=1), tight(0.016))],
        },
    ),
    "theorem 1": (
        lambda attention, retrieval: consolidation.theorem_1(attention, retrieval, 0.05),
        {
            HOLDS: [(tight(0.06), tight(0.99))],
            FAILS: [(tight(0.017), tight(0.99))],
            UNDECIDED: [(wide(0.05), tight(0.99)), (NAN, tight(0.99))],
        },
    ),
    "fall": (
        consolidation.attention_falls,
        {
            HOLDS: [(Estimate(1 / 37.8, 1 / 39, 1 / 37, 5),)],
            FAILS: [(Estimate(0.5, 0.4, 0.6, 5),)],
            UNDECIDED: [(Estimate(1 / 37.8, 0.001, 0.9, 5),), (None,), (Estimate(0.0, 0.0, 0.1, 5),)],
        },
    ),
    "rivals": (
        consolidation.rivals_retrieve,
        {
            HOLDS: [({"transformer": tight(0.68), "jamba": tight(0.0)},)],
            FAILS: [({"transformer": tight(1.0)},)],
            PARTLY: [({"transformer": tight(0.68), "mamba": tight(1.0)},)],
            # two seeds whose interval reaches from .27 to 1 agree with nothing
            UNDECIDED: [
                ({"seqboat": Estimate(0.94, 0.27, 1.0, 2)},),
                ({"seqboat": Estimate(0.68, 0.27, 1.0, 8)},),
            ],
        },
    ),
    "power law": (
        decay.power_law,
        {
            HOLDS: [("survives", tight(0.43))],
            FAILS: [("does not survive", tight(0.9))],
            PARTLY: [("survives", tight(0.9))],
            UNDECIDED: [("not compared", wide(0.43)), ("survives", NAN)],
        },
    ),
    "transition": (
        decay.own_transition,
        {
            HOLDS: [("step", tight(0.0))],
            FAILS: [("linear", tight(1.0))],
            PARTLY: [("ramp", tight(0.0))],
            UNDECIDED: [("step", None), ("step", wide(0.0))],
        },
    ),
}


@pytest.mark.parametrize("claim", CASES)
def test_every_claim_can_come_out_each_way(claim):
    comes_out_each_way(*CASES[claim])


@given(number=numbers, low=st.floats(-2, 2), width=st.floats(0, 2))
def test_a_quantity_is_inside_outside_or_not_known(number, low, width):
    high = low + width
    verdict = between(number, low, high)
    if number.n < LEAST:
        assert verdict is UNDECIDED
    elif verdict is HOLDS:
        assert low <= number.lower
        assert number.upper <= high
    elif verdict is FAILS:
        assert number.upper < low or number.lower > high
    else:
        assert number.lower <= high
        assert number.upper >= low


@given(number=numbers, stated=st.floats(-2, 2), margin=st.floats(0, 1))
def test_a_wider_interval_never_turns_no_agreement_into_agreement(number, stated, margin):
    wider = Estimate(number.estimate, number.lower - 0.5, number.upper + 0.5, number.n)
    for judge in (
        lambda e: equals(e, stated, margin),
        lambda e: at_least(e, stated),
        lambda e: at_most(e, stated),
    ):
        if judge(number) is not HOLDS:
            assert judge(wider) is not HOLDS
        if judge(number) is not FAILS:
            assert judge(wider) is not FAILS


def test_nothing_known_is_no_verdict():
    for number in (
        None,
        NAN,
        tight(0.84, n=2),
        Estimate(0.84, math.nan, 0.9, 8),
        Estimate(0.84, -math.inf, 0.9, 8),
    ):
        assert equals(number, 0.84, 0.05) is UNDECIDED
        assert at_least(number, 0) is UNDECIDED
    assert all_of([]) is Verdict.UNTESTED


@given(st.lists(st.sampled_from([HOLDS, FAILS, UNDECIDED, PARTLY]), min_size=1, max_size=4))
def test_parts_make_a_whole_in_any_order(parts):
    verdicts = {all_of(order) for order in itertools.permutations(parts)}
    assert len(verdicts) == 1
    verdict = verdicts.pop()
    if verdict is HOLDS:
        assert set(parts) == {HOLDS}
    if verdict is FAILS:
        assert FAILS in parts
        assert not {HOLDS, PARTLY} & set(parts)
    if {HOLDS, FAILS} <= set(parts):
        assert verdict is PARTLY


def test_a_claim_about_another_model_stays_untested_whatever_was_seen():
    for here in (HOLDS, PARTLY, FAILS, UNDECIDED):
        row = Row("c", "p", "o", "k", "s", here, False, "s", "")
        assert row.verdict == "not tested on the paper's model"
        assert Row("c", "p", "o", "k", "s", here, True, "s", "").verdict == here.value


def test_names_from_outside_do_not_break_the_page():
    row = Row("c", "p", "a|b\n<script>", "k", "model `x`|y", HOLDS, True, "s|t\nu", "")
    shown = pages.page([row])
    (line,) = [line for line in shown.splitlines() if line.startswith("| [1](#claim-1) ")]
    assert line.count(" | ") == 4
    below = shown.partition("\n## Claim 1\n")[2].strip().splitlines()
    assert below[0] == "**c**" and [part.split(":")[0] for part in below[4:]] == [
        f"- *{part}*" for part in PARTS
    ]
    assert "<script>" not in shown


def test_the_difference_of_two_means_is_that_of_welch():
    """Against scipy, from two samples of different spread."""
    import numpy as np
    from scipy import stats

    g = np.random.default_rng(0)
    samples = g.normal(0.2, 0.05, 6), g.normal(0.1, 0.2, 9)

    def student(x):
        low, high = stats.ttest_1samp(x, 0).confidence_interval(0.95)
        return Estimate(float(x.mean()), float(low), float(high), len(x))

    ours = consolidation.difference(*map(student, samples))
    expected = stats.ttest_ind(*samples, equal_var=False).confidence_interval(0.95)
    assert (ours.lower, ours.upper) == pytest.approx((expected.low, expected.high))


def test_a_damaged_summary_is_an_error_that_names_it(tmp_path):
    (tmp_path / "controls.csv").write_text("layer\n")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        pages.read_run(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="lack what the page needs"):
        pages.rows_of([pages.read_run(tmp_path)])


def of_orders(chosen: str | None, **shares: float) -> RemovalSummary:
    """A removal run with made-up shares at the budget."""
    made = RemovalSummary.read(json.loads((REMOVAL / "summary.json").read_text()))
    removable = {o: {removal.BUDGET: share(tight(value))} for o, value in shares.items()}
    return replace(made, removable=removable, chosen={removal.BUDGET: chosen} if chosen else {})


def test_the_answer_is_the_order_that_was_chosen_on_other_documents():
    shares = {"known_fisher": 0.6, "predicted_fisher": 0.3, "predicted_relative": 0.4, "past_fisher": 0.9}
    found = removal.compared(of_orders("predicted_fisher", **shares))
    assert found.main == "predicted_fisher"
    assert found.ours.startswith("0.30 [0.30, 0.30] (n = 8) of operations")
    assert "spared most on the validation documents" in found.ours
    assert "0.60 [0.60, 0.60] in the best on these documents" in found.ours
    assert "0.40 [0.40, 0.40] for a router" in found.ours
    assert "chosen on other documents than those it is scored on; the best of all" in found.how
    # one order is all three: named once, and nothing favours the claim
    found = removal.compared(of_orders("predicted_relative", predicted_relative=0.4, predicted_fisher=0.3))
    assert found.ours.count("[") == 1
    assert "favours" not in found.how
    # nothing was chosen
    found = removal.compared(of_orders(None, **shares))
    assert found.main == "known_fisher"
    assert "best of 4 orders" in found.ours
    assert "chosen on the documents it is scored on, which favours" in found.how


def test_a_run_made_again_speaks_in_the_same_row_and_turns_its_verdict(tmp_path, monkeypatch):
    first, again = tmp_path / "removal", tmp_path / f"removal{REPEAT}1"
    shutil.copytree(REMOVAL, first)
    shutil.copytree(REMOVAL.with_name(f"removal{REPEAT}1"), again)
    run = pages.read_run(first)
    [(seed, losses)] = beside.repeats(run)
    assert seed == 1
    share, loss_aware = list(removal.removal_rows(run))[:2]
    assert removal.compared(losses.headline).ours in share.sentence
    assert share.here is FAILS and loss_aware.here is HOLDS and "With seed 1: +0." in loss_aware.sentence
    # a second seed that says the opposite
    opposite = replace(losses, paired=losses.paired.assign(estimate=0.2, lower=0.1, upper=0.3))
    with monkeypatch.context() as patch:
        patch.setattr(removal, "repeats", lambda run: [(1, opposite)])
        assert list(removal.removal_rows(run))[1].here is PARTLY
    summary = opened(json.loads((again / "summary.json").read_text()), again)
    (again / "summary.json").write_text(json.dumps(sealed(summary | {"model": "another"})))
    with pytest.raises(UserError, match="of another instead of embedded"):
        beside.repeats(run)


def rewrite(folder, change) -> None:
    """Another summary, which knows of no checksums of other files."""
    path = folder / "summary.json"
    found = opened(json.loads(path.read_text()), path)
    path.write_text(json.dumps(sealed(change({k: v for k, v in found.items() if k != CHECKSUMS}))))


def configured(folder, **changed) -> None:
    """Another configuration, of which the summary has no checksum."""
    rewrite(folder, lambda found: found)
    path = folder / "config.json"
    path.write_text(json.dumps(read_json(path) | changed))


def scored(folder, seed: int) -> None:
    """Other names for the documents that were scored."""
    path = folder / "provenance.json"
    found = read_json(path)
    names = [f"{name} {seed}" for name in found["documents"]["evaluation"]]
    path.write_text(json.dumps(found | {"documents": found["documents"] | {"evaluation": names}}))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (tight(0.1), "as of independent samples: less can go there"),
        (tight(0.9), "more can go there"),
        (Estimate(0.3, 0.1, 0.5, 32), "the two are not told apart"),
    ],
)
def test_windows_of_another_length_speak_in_the_same_row(tmp_path, monkeypatch, there, said):
    run = pages.read_run(shutil.copytree(REMOVAL, tmp_path / "removal"))
    folder = shutil.copytree(REMOVAL, tmp_path / f"removal{CONTEXT}1024")
    with pytest.raises(UserError, match="has the same context, 256"):
        beside.contexts(run)
    configured(folder, context=512)
    [(tokens, losses)] = beside.contexts(run)
    assert tokens == 512  # what the configuration says, not the name
    twice = shutil.copytree(folder, tmp_path / f"removal{CONTEXT}1024-seed-1")
    with pytest.raises(UserError, match="has context 512 as removal-context-1024 has"):
        beside.contexts(run)
    configured(twice, context=1024, layers=[0, 1], weight_hash="0")
    with pytest.raises(UserError, match="differs in layers, weight_hash, too"):
        beside.contexts(run)
    # in another precision the weights have another hash
    configured(twice, layers=read_json(run.folder / "config.json")["layers"], dtype="bfloat16")
    assert [n for n, _ in beside.contexts(run)] == [512, 1024]
    shutil.rmtree(twice)
    own = run.folder / "config.json"
    text = own.read_text()
    own.write_text(re.sub('"data_hash": "[0-9a-f]+"', '"data_hash": "0"', text))
    with pytest.raises(UserError, match="is of another text"):
        beside.contexts(run)
    own.write_text(text)
    main = removal.compared(losses.headline).main
    made = losses.headline
    of = replace(made, removable=made.removable | {main: {removal.BUDGET: share(there)}})
    monkeypatch.setattr(removal, "contexts", lambda run: [(1024, replace(losses, headline=of))])
    row = next(iter(removal.removal_rows(run)))
    assert "In windows of 1,024 tokens" in row.sentence and said in row.sentence
    assert "the model in" not in row.sentence
    configured(folder, dtype="bfloat16")
    row = next(iter(removal.removal_rows(run)))
    assert "tokens, the model in bfloat16; longer windows reach later text." in row.sentence
    assert row.here is (PARTLY if there.estimate > 0.88 else FAILS)
    # a limit has no difference with an interval
    least = replace(made, removable=made.removable | {main: {removal.BUDGET: share(there, "at least")}})
    monkeypatch.setattr(removal, "contexts", lambda run: [(1024, replace(losses, headline=least))])
    row = next(iter(removal.removal_rows(run)))
    assert "the same order replaces at least 0." in row.sentence and "independent" not in row.sentence
    configured(folder, context=1024)
    monkeypatch.setattr(results, "contexts", lambda run: [(1024, replace(losses, headline=of))])
    table = "\n".join(results.removal_section(run)).partition("by the length of the windows")[2]
    [one, other] = [line.split(" | ") for line in table.splitlines()[-2:]]
    assert (one[0], other[0]) == ("| 256", "| 1,024") and (one[1], other[1]) == ("float32", "bfloat16")
    assert one[2] == other[2] and one[5] == made.removable[main][removal.BUDGET].text()
    assert other[5] == share(there).text() and other[4] == "–"


def test_windows_longer_than_a_passage_of_the_embedded_text_say_so(tmp_path):
    folder = shutil.copytree(REMOVAL, tmp_path / "removal")
    losses = Losses.read(folder)
    passage = 5000 / losses.headline.bytes_per_token  # of four passages in 20,000 characters
    assert beside.crosses(int(passage) - 1, losses) == ""
    assert "beyond the first passage of a document" in beside.crosses(int(passage) + 1, losses)
    path = folder / "provenance.json"
    path.write_text(path.read_text().replace('"corpus": "embedded"', '"corpus": "books"'))
    assert beside.crosses(10**6, losses) == ""


@pytest.mark.parametrize(
    ("longest", "said"),
    [
        (tight(0.1), "as of independent samples: less can go there."),
        (tight(0.9), "as of independent samples: more can go there."),
        (
            Estimate(0.3, 0.1, 0.5, 32),
            "as of independent samples: the two are not told apart, which does not make",
        ),
        (None, "in windows of 256 tokens."),
    ],
)
def test_running_text_speaks_in_the_same_row(tmp_path, longest, said):
    run = pages.read_run(shutil.copytree(REMOVAL, tmp_path / "removal"))
    assert beside.running(run) == {}
    short = shutil.copytree(REMOVAL, tmp_path / "removal-running")
    long = shutil.copytree(REMOVAL, tmp_path / "removal-running-context-2048")
    with pytest.raises(UserError, match="and is of the same text"):
        beside.running(run)
    configured(short, data_hash="running")
    configured(long, data_hash="running", context=2048, dtype="bfloat16")
    with pytest.raises(UserError, match="more differs than the length of the windows"):
        beside.running(run)
    configured(long, dtype="float32")
    made = Losses.read(short).headline
    main = removal.compared(made).main
    others = {order: shares for order, shares in made.removable.items() if order != main}
    chosen = {main: {beside.BUDGET: share(longest)}} if longest else {}
    changed = replace(made, removable=others | chosen, chosen={beside.BUDGET: main} if longest else {})
    rewrite(long, lambda found: found | changed.json())
    assert [n for n, _ in beside.running(run)[0]] == [256, 2048]
    row = next(iter(removal.removal_rows(run)))
    assert "In one passage of running text of each of" in row.sentence and said in row.sentence
    assert row.here is (PARTLY if longest == tight(0.9) else FAILS)
    if longest:
        # by the other measures both are one run, and so alike
        (same, again), *_ = re.findall(
            r"model is (\S+ \[.+?\]) \(n = 33\) against (\S+ \[.+?\])", row.sentence
        )
        assert same == again
    rewrite(long, lambda found: found | {"tokens": made.tokens | {"evaluation": 5}})
    with pytest.raises(UserError, match="not of the same text in windows of different lengths"):
        beside.running(run)
    rewrite(long, lambda found: found | {"tokens": made.tokens})
    scored(long, 7)
    with pytest.raises(UserError, match="of other documents, so they are not of the same text"):
        beside.running(run)
    shutil.copy(short / "provenance.json", long / "provenance.json")
    configured(short, keep_position_0=True)
    with pytest.raises(UserError, match="differs from it in keep_position_0, too"):
        beside.running(run)
    configured(short, keep_position_0=False)
    rewrite(short, lambda found: found | {"model": "another"})
    with pytest.raises(UserError, match="is of another instead of embedded"):
        beside.running(run)


@pytest.mark.parametrize(
    ("moved", "said", "here"),
    [
        (-0.2, "All 2 splits say so", FAILS),
        (0.2, "The 2 splits contradict each other", FAILS),
        (0.65, "The 2 splits contradict each other", PARTLY),
        (-0.01, "The lengths are told apart in 1 of 2 splits", FAILS),
        (None, "One split was measured", FAILS),
    ],
)
def test_another_split_of_running_text_speaks_in_the_same_row(tmp_path, moved, said, here):
    run = pages.read_run(shutil.copytree(REMOVAL, tmp_path / "removal"))
    made = Losses.read(REMOVAL).headline
    main = removal.compared(made).main
    at = made.removable[main][beside.BUDGET].share
    # name of the folder, seed, tokens of a window, by how much the share differs from the first one's
    for name, seed, context, by in (
        ("removal-running", 0, 256, 0.0),
        ("removal-running-context-2048", 0, 2048, -0.2),
        ("removal-running-seed-1", 1, 256, 0.0),
        ("removal-running-seed-1-context-2048", 1, 2048, moved),
    ):
        if by is None:
            continue
        folder = shutil.copytree(REMOVAL, tmp_path / name)
        configured(folder, data_hash="running", seed=seed, context=context)
        one = share(Estimate(at.estimate + by, at.lower + by, at.upper + by, at.n))
        changed = replace(
            made, removable=made.removable | {main: {beside.BUDGET: one}}, chosen={beside.BUDGET: main}
        )
        rewrite(folder, lambda found, changed=changed: found | changed.json())
        if seed and context == 256:
            with pytest.raises(UserError, match="scored the same documents"):
                beside.running(run)
        if seed:
            scored(folder, seed)
    assert {seed: [n for n, _ in of] for seed, of in beside.running(run).items()} == {
        0: [256, 2048],
        1: [256, 2048] if moved else [256],
    }
    row = next(iter(removal.removal_rows(run)))
    assert said in row.sentence and "With another split of the same passages (seed 1)" in row.sentence
    assert row.here is here
    _, table, again = results.findings([run])
    assert table.count("running text") == 2
    assert again.startswith(
        f"Another split (n = {made.loss_intact.n}, 0 in both), +0.05 nats: {at.text(2)} (256"
    )
    assert ("(2,048 tokens)" in again) is (moved is not None)
    configured(tmp_path / "removal-running-seed-1", dtype="bfloat16", weight_hash="rounded")
    if moved:
        with pytest.raises(UserError, match="more differs than the length of the windows"):
            beside.running(run)


def test_what_was_trained_in_place_is_said_by_what_is_there():
    run = of_orders(None, predicted_fisher=0.3)
    without = replace(run, all_layers={n: e for n, e in run.all_layers.items() if n == "probe"})
    with_it = replace(run, all_layers=without.all_layers | {"in_place": tight(1.0)})
    assert "was not trained in place" in removal._tried(without)
    assert "not trained in place" not in removal._tried(with_it)
    assert removal._replaced(without).endswith("not trained in place.") or without.floor
    assert "One replacement was trained together, in place" in removal._replaced(with_it)
    # a network that gained nothing falls back to the maps without it, and is not counted twice
    for network, same in ((tight(1.0), True), (tight(0.9), False)):
        both = replace(with_it, all_layers=with_it.all_layers | {"in_place_mlp": network})
        assert removal._gained_nothing(both) is same
        assert ("which gained nothing" in removal._replaced(both)) is same


def test_windows_are_rounded():
    count = {"clock": {"unit": "count"}}
    assert window(count | {"window": "491.488 to 4691.34 count"}) == "491 to 4,691"
    assert window(count | {"window": "0.012345 to 3.5 days"}) == "0.0123 to 3.5 days"
    assert window(count | {"window": "all"}) == "all"


def test_the_results_name_runs_that_several_tables_share_once():
    text = "\n".join(experiment_section(pages.read_run(SMALL)))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({tuple(row.split(" | ")[2:]) for row in rows}) == len(rows)
    assert "table4, cram (table1, cram)" in text
    assert "consolidated" not in text


def test_the_readme_names_what_can_go_beside_chance_and_how_the_order_was_chosen():
    run = pages.read_run(REMOVAL)
    text, table = results.findings([run])
    assert "in an order chosen on other documents" in text
    s = Losses.read(REMOVAL).headline
    order = s.order_for(beside.BUDGET)
    cells = table.splitlines()[-1].strip("| ").split(" | ")
    assert cells[0] == f"embedded, by {ORDERS[order]}, 256 tokens (n = {s.documents['evaluation']})"
    assert cells[1:4] == [s.removable[order][budget].text() for budget in (0.01, 0.05, 0.1)]
    assert cells[4] == s.removable["random"][beside.BUDGET].text()
    text, _ = results.findings([replace(run, summary=run.summary | {"chosen": {}})])
    assert "the best on these documents, which is optimistic" in text


def test_a_table_of_a_fit_that_was_changed_is_refused(tmp_path):
    folder = shutil.copytree(ROOT / "consolidation/data/runs/fits/figure4a", tmp_path / "fit")
    assert pages.read_run(folder).kind == "fit"
    forms = folder / "forms.csv"
    forms.write_text(forms.read_text().replace("logistic", "apex"))
    with pytest.raises(UserError, match=r"forms\.csv is not the table that this run wrote"):
        pages.read_run(folder)


def test_another_split_says_which_shares_it_moves(tmp_path):
    run = pages.read_run(REMOVAL)
    made = Losses.read(REMOVAL)
    order = made.headline.order_for(beside.BUDGET)
    at = made.headline.removable[order][beside.BUDGET].share

    def said(by: float) -> str:
        moved = Estimate(at.estimate + by, at.lower + by, at.upper + by, at.n)
        of = replace(made.headline, removable={order: {beside.BUDGET: share(moved)}})
        return beside.said_seeds(run, [(7, replace(made, headline=of))])

    assert "Of 1 orders 0 are told apart from the other split's with seed 7" in said(0.0)
    assert f"1 are told apart from the other split's ({ORDERS[order]} +0.50 [" in said(0.5)
    assert "for one fit of maps and router" in said(0.0)
    # three orders of the shipped run, of which training left two where the first was: one order
    shares = {o: made.headline.removable[o] for o in (beside.START, *beside.TRAINED)}
    again = replace(made, headline=replace(made.headline, removable=shares))
    told = beside.said_seeds(run, [(7, again)])
    assert "Of 1 orders 0 are told apart" in told and "left where they began are not counted" in told
