"""What travels through the mesh: envelope, records, units, times, points."""
