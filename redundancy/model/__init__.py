"""Models: loading them, finding their attention, reading it, replacing it."""
