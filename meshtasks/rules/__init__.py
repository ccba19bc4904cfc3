"""Anomaly rules: what they watch, and when their alerts begin and end."""
