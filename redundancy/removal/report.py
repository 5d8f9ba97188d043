"""The report of a removal run."""

from labbook.report import Report
from redundancy.removal.tables import Losses


def report(losses: Losses) -> Report:
    """What the run folder's page holds."""
    every = losses.substitution[losses.substitution["part"] == "all"]
    tables = {
        "every layer replaced": every.drop(columns=["part", "layer", "head"]),
        "one layer replaced": losses.substitution[losses.substitution["part"] == "layers"],
        "share of attention operations removable": losses.removable,
        "cost against the intact model": losses.cost,
        "how well each map predicts": losses.predictors,
    }
    return Report(
        command="redundancy.removal",
        title=f"{losses.headline.model}: attention replaced by what the hidden state predicts",
        verdict=[losses.headline.verdict],
        tables={name: table for name, table in tables.items() if len(table)},
    )
