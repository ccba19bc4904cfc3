"""The archive: excerpts of messages become compressed objects in the object store.

Both queues get every message of the exchange ``archive``; each handler stores the
records of its class (config/archive.yaml) and acknowledges the others, so every
record is stored once and in the right place.

The batch is the rotation: few large objects compress better and are read faster
than many small ones, and nobody waits for the archive, so a batch may gather for
half a minute (config/queues.yaml).

What follows from the archive (the analytics dataset) gets each object before the
journal notes it as stored, so that it has every record that the archive has.

A rerun is harmless: the journal knows the records that are stored already. Only a
foreign record without message id and timestamp cannot be recognised and is stored
again, rather than one of two that are alike being lost.
"""
