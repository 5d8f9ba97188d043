"""The mathematics of the probe: moments, ridge, controls, scores. No input, no output."""
