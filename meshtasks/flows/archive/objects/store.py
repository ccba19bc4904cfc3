"""What every object store does, and what both kinds share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from meshtasks.errors import SinkRejected

#: The sink's name in handlers, circuits and errors.
SINK = "objects"

_NAME_LIMIT_BYTES = 1024
_WORD_LIMIT_BYTES = 255


class ObjectInfo(NamedTuple):
    """A stored object.

    Attributes:
        name: its full name, with slashes.
        size_bytes: as stored, so compressed.
    """

    name: str
    size_bytes: int


class StoredObject(NamedTuple):
    """An object as it was read.

    Attributes:
        data: its content.
        metadata: what :meth:`ObjectStore.put` was given, where the store keeps it;
            else nothing.
    """

    data: bytes
    metadata: Mapping[str, str]


class DamagedObject(SinkRejected):
    """The object is not what was stored."""


class ObjectStore(Protocol):
    """Named, immutable byte strings.

    Every method raises :class:`~meshtasks.errors.SinkUnavailable` when the
    store cannot be reached, is overloaded, or is set up wrongly (the text then says
    what to fix), and :class:`~meshtasks.errors.SinkRejected` when it refuses
    this object or name for good. A call is bounded in time.
    """

    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object, replacing one of that name.

        When this returns the object is durable. At no time, not after a crash
        either, can a part of it be seen under its name. After
        :class:`~meshtasks.errors.SinkUnavailable` it may have been stored
        or not; :meth:`stat` tells.

        Args:
            name: words separated by slashes.
            data: the content.
            metadata: ASCII names and values, for people who browse the store. They
                are kept where the store has a place for them (S3 user metadata) and
                dropped where it has none (a directory); so the mesh never relies on
                them, and everything in them follows from name and content.
        """

    def stat(self, name: str) -> ObjectInfo | None:
        """The object of that name, or None."""

    def read(self, name: str) -> StoredObject:
        """The object's content and metadata.

        Raises:
            SinkRejected: there is no object of that name.
        """

    def get(self, name: str) -> bytes:
        """The object's content.

        Raises:
            SinkRejected: there is no object of that name.
        """
        return self.read(name).data

    def delete(self, name: str) -> None:
        """Remove the object of that name; there need not be one."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose names begin so, in order of their names."""

    def probe(self) -> None:
        """Ask the store for a sign of life, within a few seconds.

        Raises:
            SinkUnavailable: it gave none, or :meth:`put` would not work.
        """

    def close(self) -> None:
        """Release connections; the store is not used afterwards."""


def check_name(name: str) -> None:
    """Refuse a name that not every kind of store could keep.

    Raises:
        SinkRejected: it has more than 1024 bytes (the limit of S3), or one of the
            words between slashes is empty, begins with a dot, or has more than 255
            bytes (the limit of file systems).
    """
    words = name.split("/")
    if (
        len(name.encode()) > _NAME_LIMIT_BYTES
        or any(not word or word.startswith(".") for word in words)
        or any(len(word.encode()) > _WORD_LIMIT_BYTES for word in words)
    ):
        message = (
            f"object name {name[:100]!r}: expected words without a leading dot, of "
            f"at most {_WORD_LIMIT_BYTES} bytes, between single slashes, and at "
            f"most {_NAME_LIMIT_BYTES} bytes in all"
        )
        raise SinkRejected(message)


def no_such_object(name: str) -> SinkRejected:
    """The error of :meth:`ObjectStore.read` for a name without an object."""
    return SinkRejected(f"there is no object {name!r}")
