"""The ground floor both packages share: estimates with intervals, run folders, console, figure style."""
