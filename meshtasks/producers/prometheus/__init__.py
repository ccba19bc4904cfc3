"""Publishes metrics of services that have a page for Prometheus or OpenMetrics."""
