"""The archive: excerpts become objects."""
