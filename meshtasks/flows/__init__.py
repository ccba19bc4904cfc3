"""What the mesh does, a folder a flow: records in, outcomes out; no Celery here."""
