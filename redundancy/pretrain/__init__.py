"""A small GPT-2 of one's own, with checkpoints: `python -m redundancy.pretrain`."""
