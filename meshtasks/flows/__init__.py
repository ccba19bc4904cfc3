"""The flows: what the mesh does with records, one folder per flow, without Celery."""
