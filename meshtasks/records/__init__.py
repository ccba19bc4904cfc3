"""Record types: envelope, readings, metrics, events, units, times, points."""
