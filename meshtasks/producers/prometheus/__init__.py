"""Metrics of services, as Prometheus reads them: the producer prometheus."""
