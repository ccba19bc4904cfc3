"""A simulated house: rooms, weather, sensors with faults, and bad messages.

Everything except publishing is a pure function of the seed and the house's clock, so a
run can be repeated exactly.
"""
