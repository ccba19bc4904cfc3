"""Publishers of the mesh: ``python -m meshtasks.producers NAME``."""
