"""The flow of sensor readings."""
