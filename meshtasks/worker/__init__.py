"""Celery's worker, adapted to consume plain JSON in batches without losing messages."""
