"""A simulated house: rooms, weather, sensors with faults, and bad messages.

Everything but the publishing is a pure function of the seed and the house's
clock, so that a run can be repeated reading for reading.
"""
