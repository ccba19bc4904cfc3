"""``python -m meshtasks.producers homeassistant``: events of Home Assistant."""
