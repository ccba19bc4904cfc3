"""Metrics of hosts and services become points and alerts."""
