"""What the probe costs beside other ways of the same work."""
