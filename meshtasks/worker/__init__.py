"""Celery's worker, made to consume plain JSON in batches and lose nothing."""
