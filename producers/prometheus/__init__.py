"""Metrics of services, as Prometheus reads them: ``python -m producers prometheus``."""
