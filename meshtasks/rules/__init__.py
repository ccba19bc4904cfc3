"""Rules: what they watch, and when they say that something is wrong."""
