"""A running mesh as people watch it: collected into a snapshot, drawn with rich."""
