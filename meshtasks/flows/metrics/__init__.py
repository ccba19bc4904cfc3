"""Metrics of hosts and services."""
