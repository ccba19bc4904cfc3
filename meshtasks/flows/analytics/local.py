"""Objects as files that DuckDB can read.

DuckDB's own S3 client is an extension that it downloads, so not for a machine
without a way out, and would be a second place for keys, timeouts and error texts.
Objects of a bucket are fetched through our own store instead and kept: objects of
the archive and the dataset never change, so each is fetched once. Those of a
directory are read where they are.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meshtasks.config.private_files import make_private_directory, private_opener
from meshtasks.errors import SinkRejected, Transient
from meshtasks.flows.analytics.layout import ANALYTICS_PREFIX
from meshtasks.flows.archive.objects import FileStore, ObjectStore

#: Directory of fetched objects in the state directory.
CACHE = "analytics-cache"
#: Small objects cost a round trip each, and several can be under way.
_FETCHES_AT_ONCE = 8


class ObjectGone(Transient):
    """Another host has compacted the dataset meanwhile; look again."""


def fetched(store: ObjectStore, name: str) -> bytes:
    """The content of an object that was listed a moment ago.

    Raises:
        SinkUnavailable: the store cannot be read.
        ObjectGone: it is no longer there.
    """
    try:
        return store.get(name)
    except SinkRejected as error:
        raise ObjectGone from error


class LocalFiles:
    """Files with the content of objects.

    Args:
        store: holds the objects.
        cache: directory for those of a bucket; made if missing. Anything in it may
            be deleted while no process uses it.
    """

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self._store = store
        self._cache = cache

    def paths(self, names: Collection[str]) -> list[str]:
        """A file for each object; those that are missing are fetched.

        Raises:
            SinkUnavailable: the store cannot be read.
            ObjectGone: an object is no longer there.
        """
        store = self._store
        if isinstance(store, FileStore):
            return [str(store.path(name)) for name in names]
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as fetches:
            return list(fetches.map(self._fetched, names))

    def forget(self, name: str) -> None:
        """Delete what is kept of an object."""
        (self._cache / name).unlink(missing_ok=True)

    def forget_deleted(self) -> None:
        """Delete the kept files of the dataset whose objects are gone.

        Raises:
            SinkUnavailable: the store cannot be read.
        """
        kept = [
            path
            for path in (self._cache / ANALYTICS_PREFIX).rglob("*")
            if path.is_file()
        ]
        if kept:
            there = {each.name for each in self._store.list(ANALYTICS_PREFIX)}
            for path in kept:
                if str(path.relative_to(self._cache)) not in there:
                    path.unlink()

    def _fetched(self, name: str) -> str:
        path = self._cache / name
        if not path.exists():
            data = fetched(self._store, name)
            make_private_directory(path.parent)
            aside = path.with_name(f".{secrets.token_hex(16)}")
            with open(aside, "xb", opener=private_opener) as file:
                file.write(data)
            aside.rename(path)
        return str(path)
