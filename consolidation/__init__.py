"""Can a model learn to need less attention, and does it do so as people forget?"""

from consolidation.interface import fit_decay, train_cram
from labbook import __version__

__all__ = ["__version__", "fit_decay", "train_cram"]
