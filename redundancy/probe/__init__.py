"""How much of attention's output is predictable: `python -m redundancy.probe`."""
