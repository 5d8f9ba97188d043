"""How much of what attention computes could be predicted from the hidden state alone?"""

from labbook import __version__
from redundancy.interface import measure_training, probe_model, remove_attention
from redundancy.probe.kept import Probes
from redundancy.replaced.interface import load_replaced, remove

__all__ = [
    "Probes",
    "__version__",
    "load_replaced",
    "measure_training",
    "probe_model",
    "remove",
    "remove_attention",
]
