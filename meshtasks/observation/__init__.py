"""What the mesh does now, as plain data; no message is taken from a queue.

The commands, the live view and the gateway show the same facts.
"""
