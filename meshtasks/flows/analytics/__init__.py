"""The analytics dataset: Parquet beside the archive, in the same object store.

Whatever the archive stores is added as it is stored, an object at a time: that is a
batch of the archive. A rerun is harmless, since the same object makes the same files
under the same names. Compaction makes few large files of them.

Parquet is written and read by pyarrow and queried by DuckDB, which come with the
extra ``analytics``. Nothing of this package is loaded where it is not used.
"""

from __future__ import annotations

from meshtasks.flows.archive.objects import FOLLOWERS, OBJECTS, Follower
from meshtasks.flows.contract import Flow
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.records.kinds import KINDS


def _open_analytics(sinks: Sinks) -> Follower:
    from meshtasks.flows.analytics.dataset import DatasetWriter  # noqa: PLC0415

    settings = sinks.settings
    writes = settings.env.archive_dataset
    return DatasetWriter(sinks[OBJECTS], settings.read(KINDS), writes=writes)


#: Adds what is archived to the analytics dataset.
ANALYTICS = SinkKey("analytics", _open_analytics)
FOLLOWERS.append(ANALYTICS)

#: Its rows are made while the archive's handlers run, its work is done by commands.
FLOW = Flow("analytics", files=(KINDS,))
