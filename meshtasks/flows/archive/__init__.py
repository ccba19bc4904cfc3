"""The flow of the archive: records become compressed objects in the object store.

Both queues get every message of the exchange ``archive``. Each handler stores the
records of its class (config/archive.yaml) and acknowledges the others, so every record
is stored once, in the object of its class.

A batch becomes one object per domain and hour. Few large objects compress better and
are read faster than many small ones, and nothing waits for the archive, so a batch may
collect messages for half a minute (config/queues.yaml).

Followers of the archive (the analytics dataset) get each object before the journal
records it as stored, so they have every record that the archive has.

A rerun is harmless: the journal lists the records that are stored. Only a record of
another program without message id and timestamp cannot be recognised. It is stored
again, because two equal records of this kind may be different.
"""
