"""What it costs to put the prediction in the place of attention: `python -m redundancy.removal`."""
