"""The flow of analytics: the dataset of Parquet files beside the archive, in the same
object store.

Each object of the archive, which is one batch, is added to the dataset when it is
stored. A rerun is harmless, because the same object gives the same files with the same
names. Compaction makes few large files of them.

pyarrow reads and writes Parquet, and DuckDB queries it; both come with the extra
``analytics``. They are loaded only when they are used.
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


#: Adds archived objects to the analytics dataset.
ANALYTICS = SinkKey("analytics", _open_analytics)
FOLLOWERS.append(ANALYTICS)

#: The flow has no handlers: rows are made in the archive's handlers, the rest by the
#: command line.
FLOW = Flow("analytics", files=(KINDS,))
