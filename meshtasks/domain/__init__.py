"""F0: the pure heart of the mesh. No I/O, no Celery, no vendor."""
