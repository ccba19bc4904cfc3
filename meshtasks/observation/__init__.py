"""What the mesh does at this moment, as plain data; nothing is taken from any queue.

The commands, the live view and the gateway show the same facts.
"""
