"""The analytics dataset: Parquet beside the archive, in the same object store.

Parquet is written and read by pyarrow and queried by DuckDB, which come with the
extra ``analytics``. Nothing of this package is loaded where it is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.records.kinds import KINDS

if TYPE_CHECKING:
    from meshtasks.flows.analytics.dataset import DatasetWriter


from importlib.util import find_spec

from meshtasks.errors import ConfigError

_MODULES = ("pyarrow", "duckdb")


def require_extra() -> None:
    """Make sure that what reads the dataset is installed.

    Raises:
        ConfigError: it is not; says how to install it.
    """
    for module in _MODULES:
        if find_spec(module) is None:
            expected = "is not installed: pip install 'meshtasks[analytics]'"
            raise ConfigError("the Python environment", module, expected)


def _open_analytics(sinks: Sinks) -> DatasetWriter:
    from meshtasks.flows.analytics.dataset import DatasetWriter  # noqa: PLC0415

    return DatasetWriter(sinks[OBJECTS], sinks.settings.read(KINDS))


#: Adds what is archived to the analytics dataset.
ANALYTICS = SinkKey("analytics", _open_analytics)
