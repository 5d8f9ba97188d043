"""The report of a training run."""

from labbook.report import Report
from redundancy.aggregate import UPDATES
from redundancy.training.tables import Course


def report(course: Course) -> Report:
    """What the run folder's page holds."""
    overall = course.overall[course.overall["against"].fillna("") == ""].drop(columns="against")
    target = course.headline.target
    of = "" if target == "attention" else f", {UPDATES[target]}"
    return Report(
        command="redundancy.training",
        title=f"{course.headline.model}: redundancy over training" + of,
        verdict=[course.headline.verdict],
        tables={
            "R and centred R2, means over layers": overall[overall["metric"].isin(["R", "R2"])],
            "loss on the held-out text": course.losses,
            "trend": course.trend,
            f"what explains the energy of the {UPDATES[target]}": course.drivers[
                course.drivers["layer"] == "mean"
            ],
        },
    )
