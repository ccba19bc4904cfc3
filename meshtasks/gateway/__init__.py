"""The mesh over HTTP, for those who speak nothing else: events in, commands started,
their outcomes asked for. Whatever it accepts with 202 the broker has confirmed."""
