"""Publishers of the mesh: ``python -m producers NAME``."""
