"""The console script `redundancy`; every command is there as `python -m redundancy.COMMAND` too."""

from labbook.entry import dispatch

COMMANDS = {
    "probe": ("redundancy.probe.__main__", "how much of attention a linear map of the hidden state predicts"),
    "training": ("redundancy.training.__main__", "the same at every checkpoint of a training run"),
    "removal": ("redundancy.removal.__main__", "the loss with the prediction in the place of attention"),
    "pretrain": ("redundancy.pretrain.__main__", "train a small GPT-2 with checkpoints"),
    "benchmark": ("redundancy.benchmark.__main__", "what the probe costs beside other ways of the same work"),
    "coverage": ("redundancy.coverage.__main__", "how often the intervals hold the truth, by simulation"),
}


def start() -> None:
    """The console script."""
    dispatch("redundancy", COMMANDS)


if __name__ == "__main__":
    start()
