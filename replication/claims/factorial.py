"""What the factorial of `consolidation/design.md` says to table 4 and theorem 1 of the preprint, in rows."""

from collections.abc import Iterator

from consolidation.replicate.contrasts import (
    CELLS,
    FAMILY,
    LEAST_SEEDS,
    State,
)
from labbook.estimate import Estimate
from replication import paper
from replication.claims.decided import STATES, Decided, by_t_alone, said_unrewarded, tested, unconfirmed
from replication.claims.varied import control, variations
from replication.rows import CONTROLS, Row, show
from replication.verdict import Verdict

PREDICTED = {
    "B - A": "Without semantic memory the router reads more of what the weights know (the control that "
    "decides theorem 1)",
    "C - A": "Without the consolidation loss the router reads more of what the weights know",
    "F - A": "Without q the router reads more of what the weights know",
}
# the contrast that belongs to an ablation of table 4
OF_ABLATION = {CELLS[name[0]][0]: name for name in FAMILY}
# other controls, and what is said of them
CONTROL_WITH = {
    "control-network": "whose router has a network of x as CRAM's has, taught by its own gradient alone",
    "control-narrow": "whose feed-forward part is as wide as CRAM's",
}
# when the runs of each were decided
CONTROL_PLANNED = {
    "control-network": "and before its own runs",
    "control-narrow": "put off, and decided when the other control and two of its own seeds were known",
}
# seeds of every cell of the design
PLANNED_SEEDS = 8
# when the runs at a price were planned
PLANNED = {
    0.5: "The design was written before the runs",
    0.1: "This price was chosen after the runs at 0.5, and after pilots at it that showed this direction; "
    "what was to be run was written before any of its runs had ended",
}


def reads_more(state: State) -> Verdict:
    """The ablated model reads more recurring queries than the whole one; no more is shown by a difference
    that lies within the margin, or on the other side.
    """
    return {
        "larger": Verdict.HOLDS,
        "equivalent": Verdict.FAILS,
        "smaller": Verdict.FAILS,
        "undecided": Verdict.UNDECIDED,
    }[state]


def contrast_rows(decided: Decided) -> Iterator[Row]:
    """Table 4 with fixed keys: does what an ablation takes away make the router read less."""
    for name, claim in PREDICTED.items():
        ablated, whole = name[0], name[-1]
        if not (decided.ran(ablated) and decided.ran(whole)):
            continue
        one = decided.of.contrast(name)
        mixed, pairs = decided.of.contrast(name, "mixed model"), one.number.n > 1
        beside = [
            f"mixed model {show(mixed.number, sign=True)}" if mixed.number.n > 1 else "",
            _late(decided, name),
            f"with attention knocked out right {show(decided.mean(whole, 'known'))} in CRAM, "
            f"{show(decided.mean(ablated, 'known'))} in the other",
            _load(decided) if name == "B - A" else "",
        ]
        yield Row(
            f"{claim} (table 4; {decided.named(whole)})",
            f"{paper.ABLATED_ATTENTION} of positions read, CRAM {paper.ATTENTION}",
            _reads(decided.mean(ablated, "attends"), decided.mean(whole, "attends"), one.number)
            + (f", p = {one.p_holm:.2g} (Holm), p of equivalence {one.p_equivalence:.2g}" if pairs else ""),
            "; ".join(text for text in beside if text),
            decided.setting(f"{whole}{ablated}"),
            reads_more(one.state),
            own=False,
            sentence=_sentences(
                decided.said(name),
                decided.failed(one),
                decided.besides(name),
                *(part for one in variations(decided) for part in (one.said(name), one.own_reads(name))),
                _planned(decided.of.price),
            ),
            links=f"{decided.run.figure('factorial_memory_and_use')}{decided.run.link}",
            headline=name == "B - A",
        )


def _late(decided: Decided, name: str) -> str:
    """How what the two cells of a contrast read still changes at the end of training."""
    changes = ", ".join(
        f"{cell} {show(decided.of.contrast(cell, 'change').number, sign=True)}"
        for cell in (name[-1], name[0])
    )
    return f"change over the last quarter of training, while the learning rate goes to 0: {changes}"


def _planned(price: float) -> str:
    """When the runs at a price were planned; empty for one that the design does not name."""
    return f"{PLANNED[price]}: consolidation/design.md." if price in PLANNED else ""


def control_rows(decided: Decided) -> Iterator[Row]:
    """The claim that decides theorem 1 with other controls: is it the control's fault."""
    for model, which in CONTROL_WITH.items():
        found = control(decided, model)
        if found is None:
            continue
        one = found.from_cram
        shown = (
            f", p = {one.p:.2g}, by signs {found.p_signs:.2g}, of equivalence {one.p_equivalence:.2g}"
            if one.n > 1
            else ""
        )
        others = {"B": "the design's control", "F": "CRAM without q in its router"}
        yield Row(
            f"{PREDICTED['B - A']}, with a control {which} (table 4; {decided.named('A')})",
            f"{paper.ABLATED_ATTENTION} of positions read, CRAM {paper.ATTENTION}",
            _reads(found.attends, decided.mean("A", "attends"), one.number) + shown,
            "; ".join(
                f"minus {said} {show(found.beyond[cell].number, sign=True)}"
                for cell, said in others.items()
                if cell in found.beyond
            )
            + f"; novel queries right {show(found.novel)}, in CRAM {show(decided.mean('A', 'novel'))}",
            decided.setting("A"),
            reads_more(found.state),
            own=False,
            sentence=f"A control {which} {STATES[found.state]}"
            + ("" if found.unrewarded is None else f"; {said_unrewarded(found.unrewarded)}")
            + ". p is not corrected. Added to the design after A and B were known, "
            f"{CONTROL_PLANNED[model]}.",
            links=decided.run.beside(CONTROLS).link,
        )


def varied_rows(decided: Decided) -> Iterator[Row]:
    """The same claims with one more choice changed, see `variations`."""
    for varied in variations(decided):
        there = varied.there
        for name, claim in PREDICTED.items():
            change, one = varied.change(name), there.of.contrast(name)
            if change is None:  # without shared seeds it varies nothing
                continue
            few = by_t_alone(one.state, one.number.n)
            yield Row(
                f"{claim}, with {varied.choice} (table 4; {there.named('A')})",
                f"{paper.ABLATED_ATTENTION} of positions read, CRAM {paper.ATTENTION}",
                _reads(there.mean(name[0], "attends"), there.mean("A", "attends"), one.number)
                + f", p = {one.p_holm:.2g} (Holm, over the three contrasts of the design), by signs "
                f"{one.p_signs:.2g}, of equivalence {one.p_equivalence:.2g}",
                f"with {varied.instead} {show(decided.of.contrast(name).number, sign=True)}; "
                f"positions {show(there.mean(name[0], 'attention'), 4)}, in CRAM "
                f"{show(there.mean('A', 'attention'), 4)}; {_late(there, name)}; "
                f"novel queries right {show(there.mean(name[0], 'novel'))}, in CRAM "
                f"{show(there.mean('A', 'novel'))}; recurring ones right with attention knocked out, in CRAM "
                "second: "
                + "; ".join(
                    f"{show(run.mean(name[0], 'known'))}, {show(run.mean('A', 'known'))} with {keys}"
                    for run, keys in ((there, varied.choice), (decided, varied.instead))
                ),
                f"{there.novel_keys:,} novel keys; {there.setting(f'A{name[0]}')}",
                Verdict.UNDECIDED if few else reads_more(one.state),
                own=False,
                sentence=_sentences(
                    there.said(name),
                    f"That is {unconfirmed(one.number.n)}." if few else "",
                    there.failed(one),
                    varied.said(name),
                    varied.own_reads(name),
                    varied.expected.get(change.state, ""),
                    "With attention knocked out the share of recurring queries that is right changes by "
                    f"{varied.changed(name[0], 'known')}, CRAM's by {varied.changed('A', 'known')}, which "
                    "mixes what is known with what is read.",
                    room(there, "A"),
                    varied.floor(),
                    there.besides(name),
                    varied.missing(),
                    varied.pairs,
                    varied.planned.get(name, ""),
                ),
                links=there.run.link,
                headline=name == "B - A",
            )


def room(decided: Decided, whole: str) -> str:
    """By how much a model can read more than CRAM does in its cell, at most."""
    reads, most = decided.mean(whole, "attends"), decided.ceiling(whole)
    if reads is None:
        return ""
    said = f"CRAM reads {reads.estimate:.2f} there, so no model can read more by more than "
    if most.state == "larger":
        return f"{said}{most.number.estimate:.2f}."
    return (
        f"{said}{show(most.number, sign=True)}: not even one that reads every recurring query would be told "
        "from it, so a larger difference could not have been found, and a change against another run says "
        "what CRAM itself reads."
    )


def load_rows(decided: Decided) -> Iterator[Row]:
    """Whether memory load makes the difference larger, as the design expected; nothing before LEAST_SEEDS."""
    if not (decided.ran("D") and decided.ran("E")):
        return
    one, there = decided.of.contrast("(E - D) - (B - A)"), decided.of.contrast("E - D")
    if one.number.n < LEAST_SEEDS:
        return
    few, many = decided.patterns("A"), decided.patterns("D")
    known = {cell: show(decided.mean(cell, "known")) for cell in "ABDE"}
    same = tested(decided.gap("B").reindex(decided.gap("E").dropna().index)).number
    unknown = decided.load_unlearnt()
    # by more, and more: the first alone may come from less that is read at the smaller load
    verdict = reads_more(there.state) if one.state == "larger" else reads_more(one.state)
    reads = _reads(decided.mean("E", "attends"), decided.mean("D", "attends"), there.number)
    yield Row(
        "A semantic memory makes the more difference the more patterns there are: without it more is read, "
        f"with {many} patterns by more than with {few} ({decided.named('A', load=False)})",
        "not said",
        f"with {many} patterns {reads}{'' if unknown else f' ({there.state})'}; minus that with {few} "
        f"{show(one.number, sign=True)}, p = {one.p:.2g}, by signs {one.p_signs:.2g}",
        f"with {few} patterns {show(decided.of.contrast('B - A').number, sign=True)}, over the same seeds "
        f"{show(same, sign=True)}; recurring queries "
        f"right with attention knocked out, in CRAM second: {known['E']}, {known['D']} with {many} patterns; "
        f"{known['B']}, {known['A']} with {few}; novel queries right with {many} "
        f"{show(decided.mean('E', 'novel'))}, in CRAM {show(decided.mean('D', 'novel'))}",
        decided.setting("ADE"),
        Verdict.UNDECIDED if unknown else verdict,
        own=False,
        sentence=f"The design expected it, if what ordinary weights hold is the reason. {_cut(decided)}In as "
        f"many steps each of {many} patterns is met {few / many:.2g} times as often as each of {few}, so "
        "exposures change with the load: what the model without semantic memory "
        f"answers with attention knocked out changes by {show(decided.load_known(), sign=True)}"
        + (
            ", and what it does not know it has to read, so this tests nothing; what CRAM's memory knows "
            "cannot be told, because queries that are read have no semantic path then"
            if unknown
            else ""
        )
        + f". {room(decided, 'D')} p is not corrected.",
        links=decided.run.link,
        claimed=False,
    )


def _cut(decided: Decided) -> str:
    """How the number of seeds of the other load came about."""
    there = len(decided.of.seeds("E"))
    if there < PLANNED_SEEDS:
        return (
            f"{there} of the {PLANNED_SEEDS} seeds planned were trained, and ended when outcomes of the "
            "first were known (consolidation/design.md). "
        )
    return (
        "The runs were ended after four seeds, and taken up again when these were known "
        "(consolidation/design.md). "
    )


def _reads(other: Estimate | None, cram: Estimate | None, difference: Estimate) -> str:
    """P(attend | recurring) of a model and of CRAM, and how far apart they are."""
    shown = f"P(attend | recurring) {show(other)}, CRAM {show(cram)}"
    return f"{shown}; paired difference {show(difference, sign=True)}"


def _sentences(*said: str) -> str:
    """Those that say something, one after the other."""
    return " ".join(filter(None, said))


def _load(decided: Decided) -> str:
    """Whether memory load changes the first contrast."""
    if not decided.ran("D"):
        return ""
    more, change = decided.of.contrast("E - D"), decided.of.contrast("(E - D) - (B - A)")
    if decided.load_unlearnt():
        return (
            f"with {decided.patterns('D')} patterns {show(more.number, sign=True)}, not tested: the control "
            "knows less there"
        )
    return (
        f"with {decided.patterns('D')} patterns {show(more.number, sign=True)} ({more.state}), which differs "
        f"by {show(change.number, sign=True)} ({change.state})"
    )
