"""``python -m meshtasks.producers homeassistant``: what happens in Home Assistant."""
