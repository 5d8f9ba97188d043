"""The console script `consolidation`; every command is there as `python -m consolidation.COMMAND` too."""

from labbook.entry import dispatch

COMMANDS = {
    "fit": ("consolidation.fit.__main__", "fit a decay curve in every way that applies"),
    "humans": ("consolidation.humans", "human curves with their sources and exponents"),
    "train": ("consolidation.train.__main__", "train CRAM, its ablations and its rivals"),
    "experiments": ("consolidation.experiments.__main__", "the model in people's memory experiments"),
    "replicate": ("consolidation.replicate.__main__", "the preprint's tables as one experiment"),
    "benchmark": ("consolidation.benchmark.__main__", "what the models and the fits cost"),
    "coverage": ("consolidation.coverage.__main__", "how often the intervals hold the truth, by simulation"),
}


def start() -> None:
    """The console script."""
    dispatch("consolidation", COMMANDS)


if __name__ == "__main__":
    start()
