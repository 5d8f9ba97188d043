"""What `redundancy.probe` is asked. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass

import tyro

from redundancy.request import Feature, Request, Settings, Target


@dataclass(frozen=True)
class ProbeConfig(Request):
    """Everything that changes a number of a probe run. `None` means chosen automatically, and the choice is
    printed.
    """

    feature: Feature = "resid_pre"
    """What predicts: the residual stream before the block, after its first norm (ln1), or the embedding. Of
    an MLP behind attention, resid_pre stands for the stream that enters it, and is called resid_mid.
    """
    target: Target = "attention"
    """What is predicted: the attention output, what the MLP adds to the stream, or what the whole block
    adds.
    """
    learning_curve: bool = False
    """Fit the probe, and that of one random network, to a quarter and to half of the training text too, and
    say whether more text would change them.
    """


@dataclass(frozen=True)
class ProbeSettings(Settings):
    """What changes no number."""

    probes: bool = True
    """Keep the fitted probes: probes.safetensors in the run folder, 8 bytes per layer and squared column of
    the hidden state.
    """
    full: bool = False
    """Print every table: centred R2 by layer, the controls with their intervals, and all scores."""


@dataclass(frozen=True)
class Command:
    """Measure how much of attention's output a linear map of the hidden state predicts, beside its
    controls.
    """

    config: tyro.conf.OmitArgPrefixes[ProbeConfig]
    settings: tyro.conf.OmitArgPrefixes[ProbeSettings]
