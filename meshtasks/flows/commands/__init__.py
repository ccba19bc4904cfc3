"""Commands that people and programs give the mesh."""
