"""How proportions, units and specifications vary about a curve."""
