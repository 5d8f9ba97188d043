"""How much of what attention computes could be predicted from the hidden state alone?"""

from labbook import __version__
from redundancy.interface import measure_training, probe_model, remove_attention
from redundancy.probe.kept import Probes

__all__ = ["Probes", "__version__", "measure_training", "probe_model", "remove_attention"]
