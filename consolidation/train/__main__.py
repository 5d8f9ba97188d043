"""The command line of `python -m consolidation.train`; the experiment itself is `experiment.execute`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consolidation.train.config import RETIRED, Command
from consolidation.train.presets import begin
from labbook.command import Repeat, run_command
from labbook.view import print_table, print_verdict

if TYPE_CHECKING:
    from consolidation.train.trajectory import SeedSummary


def show(summaries: list["SeedSummary"]) -> None:
    """How many seeds succeeded, and one line for each."""
    from consolidation.train.experiment import succeeded

    print_verdict([succeeded(summaries)])
    first = summaries[0]
    title = (
        f"{first.label}, {first.parameters:,} parameters, {first.steps:,} steps. Right answers by "
        "kind of query, error of the dynamics, share of positions that attend: all, at both kinds of "
        f"query, elsewhere; query-key pairs per position (causal attention: {first.pairs_dense:.0f}); "
        f"optimum (eq 13) {first.optimum:.3f}, best static routing {first.static:.3f}"
    )
    heads = ["seed", "right, recurring", "right, novel", "MSE", "attend"]
    heads += [
        "attend, recurring",
        "attend, novel",
        "attend, other",
        "pairs",
        "learnt",
        "consolidated",
        "minutes",
    ]
    rows = [
        [
            str(s.seed),
            _number(s.accuracy["recurring"]),
            _number(s.accuracy["novel"]),
            f"{s.dynamics_mse:.4f}",
            f"{s.attention['all']:.4f}",
            _number(s.attention["recurring"]),
            _number(s.attention["novel"]),
            f"{s.attention['other']:.4f}",
            f"{s.pairs:.2f}",
            _yes(s.learnt),
            _yes(s.consolidated),
            f"{s.seconds / 60:.1f}",
        ]
        for s in summaries
    ]
    print_table(title, heads, rows, left=0)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def work(command: Command) -> Path | None:
    """Train every seed and print a line for each."""
    # torch takes seconds to import: --help and errors of the options do not wait for it
    from consolidation.train.experiment import execute
    from labbook.training import joined

    out, summaries = execute(command)
    if not joined().is_main_process:
        return None
    show(summaries)
    return out


def of_seed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the command that trains the seed of this configuration again."""
    if found.get("start") is not None:
        raise ValueError("the run started from the weights of another, which consolidation.replicate does")
    return {"first_seed": found["seed"]}


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command(
        "consolidation.train",
        Command,
        work,
        args,
        start=begin,
        repeat=Repeat({"seed", "start"}, of_seed, RETIRED),
    )


if __name__ == "__main__":
    main()
