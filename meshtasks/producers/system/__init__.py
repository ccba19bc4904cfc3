"""Metrics of the machine this runs on: ``python -m meshtasks.producers system``."""
