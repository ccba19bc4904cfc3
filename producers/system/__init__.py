"""Metrics of the machine this runs on: ``python -m producers system``."""
