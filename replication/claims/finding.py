"""What the README says of the factorial of `consolidation/design.md`: a sentence, a table, and more."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from consolidation.replicate.cells import PAPERS
from consolidation.replicate.contrasts import CELLS, FAMILY, LEARNT, LEAST_SEEDS
from labbook.estimate import Estimate
from replication.claims.decided import WITHOUT, Decided, stated, tested
from replication.claims.varied import Control, Varied, control, variations
from replication.rows import show, table


def finding(decided: Sequence[Decided]) -> tuple[str, str, str]:
    """The README's: by how much routers read more than CRAM's at every price of attention, and with other
    choices, and whether these differ; a sentence, a table, and what follows it. Prices at which most seeds of
    CRAM have not learnt retrieval have no column, unless all are like that.
    """
    setting = f"{decided[0].of.keys} keys and {decided[0].config['steps']:,} steps"
    lowest_first = sorted(decided, key=lambda one: one.of.price)
    shown = where_learnt(lowest_first)
    head = ["recurring queries read; signed: minus CRAM's", *map(_priced, shown)]
    columns = list(map(_column, shown))
    rows = [[name, *(column[name] or "–" for column in columns)] for name in columns[0]]
    text = (
        f"With {setting}, by models that lack parts of CRAM, paired by seed (no memory means no "
        "consolidation loss):"
    )
    after = [
        *filter(None, map(_not_learnt, lowest_first)),
        *_between(decided),
        *filter(None, map(_changes, lowest_first)),
        _took(decided),
    ]
    return text, "\n".join(table(head, [row for row in rows if set(row[1:]) != {"–"}])), " ".join(after)


def _priced(decided: Decided) -> str:
    """The head of a column."""
    published = " (the preprint's)" * (decided.of.price == PAPERS.objective.attention_penalty)
    return f"priced at {decided.of.price:g}{published}"


def _column(decided: Decided) -> dict[str, str]:
    """What a factorial comes to, by the names of the README's rows; empty where too few seeds are there."""

    def shown(number: Estimate | None, state: str = "", *, sign: bool = True) -> str:
        if number is None or number.n < LEAST_SEEDS:
            return ""
        return f"{show(number, sign=sign)}{state and f', {state}'}"

    def both(of: Callable[[str], Estimate | None]) -> str:
        """Of CRAM and of the control."""
        found = [shown(of(cell), sign=False) for cell in "AB" if decided.ran(cell)]
        return " / ".join(found) if len(found) == 2 and all(found) else ""

    def more(control: Control | None) -> str:
        """By how much another control reads more than CRAM."""
        return shown(control.from_cram.number, control.from_cram.state) if control else ""

    def load() -> str:
        """The first contrast at the other memory load, beside what CRAM reads there, and what the weights of
        the control know: what they do not has to be read.
        """
        if not (decided.ran("D") and decided.ran("E")):
            return ""
        one = decided.of.contrast("E - D")
        reads, known = decided.mean("D", "attends"), decided.mean("E", "known")
        if not (reads and known and (there := shown(one.number, one.state))):
            return ""
        if decided.load_unlearnt():
            return f"{shown(one.number)}, not tested: it knows {known.estimate:.2f}"
        return f"{there}; CRAM {reads.estimate:.2f}"

    found = {"CRAM": shown(decided.mean("A", "attends"), sign=False)}
    for name in FAMILY:
        one, label = decided.of.contrast(name), WITHOUT[CELLS[name[0]][0]]
        found[label] = shown(one.number, stated(one.state, one.number.n))
        if name == "B - A":
            found[f"the same, {CELLS['D'][1]} × the patterns"] = load()
            found["the same, minus CRAM with λ_S = 0"] = shown(decided.unrewarded_difference(name))
            found["the same, feed-forward as CRAM's"] = more(control(decided, "control-narrow"))
            network = control(decided, "control-network")
            found["the same, router with a network of x"] = more(network)
            found["that router, minus CRAM with λ_S = 0"] = shown(network.unrewarded if network else None)
            lacks = decided.between("B", "C") if decided.ran("B") and decided.ran("C") else None
            named = f"the same, minus that {WITHOUT['no-consolidation']}"
            found[named] = shown(lacks.number, lacks.state) if lacks else ""
    found[f"novel queries answered: CRAM / {WITHOUT['control']}"] = both(
        lambda cell: decided.mean(cell, "novel")
    )
    found["known to the weights, and read, at least: the same two"] = both(decided.known_and_read)
    return found


def _learnt(decided: Decided) -> bool:
    """Whether half of CRAM's seeds or more have learnt retrieval."""
    return 2 * decided.of.not_learnt("A") <= len(decided.of.seeds("A"))


def where_learnt(decided: Sequence[Decided]) -> Sequence[Decided]:
    """Those in which half of CRAM's seeds or more have learnt retrieval; all, where none is like that."""
    return [one for one in decided if _learnt(one)] or decided


def able_variations(decided: Decided) -> list[Varied]:
    """The runs beside with another choice, where enough seeds tell and half of CRAM's or more have learnt."""
    return [one for one in variations(decided) if one.change("B - A") and _learnt(one.there)]


def _changes(decided: Decided) -> str:
    """What other choices do to the first contrast."""
    return " ".join(filter(None, (varied.brief() for varied in variations(decided))))


def _not_learnt(decided: Decided) -> str:
    """What stands in the way of the first contrast; empty where all seeds have learnt."""
    one = decided.of.contrast("B - A")
    if not one.not_learnt:
        return ""
    return (
        f"At a price of {decided.of.price:g}, {decided.of.not_learnt('A')} of {one.number.n} seeds of CRAM "
        f"and {decided.of.not_learnt('B')} of the control answer fewer than {LEARNT:.0%} of novel or "
        "recurring queries: a router that gives up attention reads little too (difference "
        f"{show(one.number, sign=True)})."
    )


def _between(decided: Sequence[Decided]) -> Iterator[str]:
    """Whether the first contrast depends on the price."""
    for higher, lower in itertools.pairwise(decided):
        change = between_prices(higher, lower)
        if change.n < LEAST_SEEDS or higher.of.price == lower.of.price:
            continue
        said = "it depends on" if change.excludes_zero else "not shown to depend on"
        yield (
            f"From {higher.of.price:g} to {lower.of.price:g} the difference changes by "
            f"{show(change, 2, sign=True)}: {said} the price."
        )


def _took(decided: Sequence[Decided]) -> str:
    """What the seeds took."""
    minutes = [each for one in decided for each in one.minutes()]
    hours = sum(minutes) / 60
    return f"A run took {median(minutes):.1f} minutes (median), all {len(minutes)} {hours:.1f} hours."


def between_prices(higher: Decided, lower: Decided) -> Estimate:
    """By how much B - A in P(attend | recurring) is larger at the lower price of attention, over seeds that
    both runs have: equal seeds see the same sequences.
    """
    return tested(lower.gap("B") - higher.gap("B")).number
