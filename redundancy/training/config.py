"""What `redundancy.training` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass

import tyro

from redundancy.request import Request, Settings, Target


@dataclass(frozen=True)
class TrainingConfig(Request):
    """Everything that changes a number of a training run. `None` means chosen automatically, and the choice
    is printed.

    MODEL is the embedded model, a folder of checkpoints, or, with --revisions, a hub id.
    """

    revisions: tuple[str, ...] = ()
    """Hub revisions: step0 step512 ... (or with commas), or all of those whose names hold a step."""
    checkpoints: tuple[str, ...] = ()
    """A list of checkpoints: .gguf files, .safetensors files (with MODEL's configuration), folders, or any
    MODEL.
    """
    target: Target = "attention"
    """What is predicted: the attention output, what the MLP adds to the stream, or what the whole block
    adds.
    """


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """What changes no number."""

    full: bool = False
    """Print every table, and not only the course of R and the loss."""


@dataclass(frozen=True)
class Command:
    """Measure attention redundancy at every checkpoint of a training run, with all controls, on the same
    documents.
    """

    config: tyro.conf.OmitArgPrefixes[TrainingConfig]
    settings: tyro.conf.OmitArgPrefixes[TrainingSettings]
