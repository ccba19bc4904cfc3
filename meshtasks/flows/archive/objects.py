"""Named byte strings that never change: a directory, or an S3 bucket.

They hold the archive and the analytics dataset that follows from it.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol, get_args

from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.config.extras import require
from meshtasks.config.private_files import replace_file, tighten
from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.excerpts import ArchiveClass
from meshtasks.flows.sinks import Sink, SinkKey
from meshtasks.timing import timing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: The sink's name in handlers, circuits and errors.
SINK = "objects"

_NAME_LIMIT_BYTES = 1024
_WORD_LIMIT_BYTES = 255
#: The disk is full, or what this user or a file may have of it.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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


class ObjectStore(Sink, Protocol):
    """Named, immutable byte strings.

    Every method raises :class:`~meshtasks.errors.SinkUnavailable` when the
    store cannot be reached, is overloaded, or is set up wrongly (with what to fix
    in the text), and :class:`~meshtasks.errors.SinkRejected` when it refuses
    this object or name for good. A call is bounded in time.
    """

    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object, replacing one of that name.

        When this returns the object is durable. At no time, not after a crash
        either, can a part of it be seen under its name. After
        :class:`~meshtasks.errors.SinkUnavailable` it may have been stored
        or not; see :meth:`stat`.

        Args:
            name: words separated by slashes.
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


class FileStore(ObjectStore):
    """Objects below ``root``, each written aside and then renamed into place.

    A process killed in the midst of writing leaves a file whose name begins with a
    dot; it is never listed and may be deleted.

    Args:
        root: the directory; made when the first object is stored.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        #: Of an object that found no room. Before there is room for as much, smaller
        #: ones are not stored either: the next large one would fail again.
        self._lacking_bytes = 0

    def path(self, name: str) -> Path:
        """The file of that object, for those who read files themselves.

        Raises:
            SinkRejected: the name cannot be an object's.
        """
        check_name(name)
        return self._root / name

    @override
    @timing(SINK)
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        target = self.path(name)
        if self._lacking_bytes:
            self.probe()
        with self._faults():
            try:
                self._make_directory(target.parent)
                _write_durably(target, data)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._lacking_bytes = len(data)
                raise

    @override
    def stat(self, name: str) -> ObjectInfo | None:
        path = self.path(name)
        with self._faults():
            return ObjectInfo(name, path.stat().st_size) if path.is_file() else None

    @override
    def read(self, name: str) -> StoredObject:
        path = self.path(name)
        with self._faults():
            try:
                return StoredObject(path.read_bytes(), {})
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise no_such_object(name) from error

    @override
    def delete(self, name: str) -> None:
        path = self.path(name)
        with self._faults(), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync_directory(path.parent)

    @override
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        directory = prefix.rpartition("/")[0]
        if directory:
            check_name(directory)
        with self._faults():
            yield from self._below(directory, prefix)

    @override
    def probe(self) -> None:
        with self._faults():
            self._make_directory(self._root)
            probe = self._root / f".probe-{secrets.token_hex(8)}"
            try:  # a disk that is full or read-only shows only in writing
                _write_durably(probe, secrets.token_bytes(max(1, self._lacking_bytes)))
            finally:
                probe.unlink(missing_ok=True)
        self._lacking_bytes = 0

    @override
    def close(self) -> None:
        """Nothing is kept open."""

    def _make_directory(self, path: Path) -> None:
        """Make it and its parents; each is durable in the directory above it.

        Those below the root are the archive's own, so none stays open to others;
        the root may be a directory that others use as well.
        """
        if path.is_dir():
            if path != self._root and path.is_relative_to(self._root):
                tighten(path)
                self._make_directory(path.parent)
            return
        self._make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(path.parent)

    def _below(self, directory: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects in one directory and those below it, in order of their names.

        A directory is sorted with the slash that follows its name, as object
        stores sort: ``a-b`` comes before ``a/b``.
        """
        try:
            with os.scandir(self._root / directory) as listing:
                found = [(each.name + "/" * each.is_dir(), each) for each in listing]
        except (FileNotFoundError, NotADirectoryError):
            return
        for word, entry in sorted(found, key=lambda pair: pair[0]):
            name = f"{directory}/{word}" if directory else word
            if word.startswith(".") or not name.startswith(prefix):
                continue
            if word.endswith("/"):
                yield from self._below(name[:-1], prefix)
            else:
                yield ObjectInfo(name, entry.stat().st_size)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Every fault of the file system may pass: the disk is full, not mounted,
        read-only. What could be wrong with a name is refused beforehand."""
        try:
            yield
        except OSError as error:
            where, what = error.filename or self._root, error.strerror or error
            message = f"archive directory: {where}: {what} (is MESH_ARCHIVE_URL right?)"
            raise SinkUnavailable(SINK, message) from error


def _write_durably(target: Path, data: bytes) -> None:
    """All of the file or none of it, whenever the process or the machine stops."""
    replace_file(target, data, 0o600)
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(env: Environment) -> ObjectStore:
    """The store that ``MESH_ARCHIVE_URL`` names; nothing is contacted yet.

    ``s3://bucket`` is a bucket of the service at ``MESH_MINIO_ENDPOINT``;
    ``file:///directory`` a directory, which is made when it is needed
    (``file://directory`` is taken relative to the working directory).

    Raises:
        ConfigError: naming the variable and what was expected.
    """
    scheme, _, location = env.archive_url.partition("://")
    if scheme == "file" and location:
        return FileStore(location)
    if scheme == "s3" and location:
        require("s3", "an archive in S3")
        from meshtasks.flows.archive.s3 import S3Store  # noqa: PLC0415 - loads minio

        return S3Store(
            location,
            endpoint=env.minio_endpoint,
            access_key=env.minio_access_key.get_secret_value(),
            secret_key=env.minio_secret_key.get_secret_value(),
            secure=env.minio_secure,
            region=env.minio_region,
        )
    expected = f"s3://bucket or file:///directory, not {env.archive_url!r}"
    raise ConfigError("environment", "MESH_ARCHIVE_URL", expected)


def archived_objects(store: ObjectStore) -> Iterator[ObjectInfo]:
    """The objects of the archive; the store holds others too, made from them.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    for archive_class in get_args(ArchiveClass):
        yield from store.list(f"{archive_class}/")


def compress(content: bytes, level: int) -> bytes:
    """One zstd frame with content size and checksum, so that readers notice damage.

    Args:
        level: 1 (fastest) to 19 (smallest).
    """
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(content, options=options)


def decompress(data: bytes) -> bytes:
    """What :func:`compress` was given.

    Raises:
        DamagedObject: they are not that any more.
    """
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        message = f"its content is damaged: {error}"
        raise DamagedObject(message) from error


#: Holds the archive.
OBJECTS = SinkKey(SINK, lambda sinks: open_store(sinks.settings.env))


class Follower(Sink, Protocol):
    """A sink that makes something of every object of the archive."""

    def add(self, name: str, content: bytes) -> object:
        """Take an object that was stored; the same one may come again.

        Raises:
            SinkUnavailable: it has to come again; the object is not noted as stored.
        """


#: Flows that follow from the archive put their keys here.
FOLLOWERS: list[SinkKey[Follower]] = []
