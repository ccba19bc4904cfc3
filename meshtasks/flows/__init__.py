"""F4: one handler per queue. No Celery, no vendor: records in, outcomes out."""
