"""The same at every checkpoint of a training run: `python -m redundancy.training`."""
