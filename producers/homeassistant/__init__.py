"""``python -m producers homeassistant``: what happens in Home Assistant."""
