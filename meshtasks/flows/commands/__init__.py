"""Commands: work that Flower, the gateway and scripts start by name. Those of the mesh
itself are here; a command of a flow stands in its folder.

Commands come one by one, on a queue of their own, as Celery tasks with named arguments:
each has a caller that waits for its result.

A rerun is harmless: what a command makes has an id that follows from that of the call.
"""
