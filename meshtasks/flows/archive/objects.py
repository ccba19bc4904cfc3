"""Stores of immutable objects (named byte strings): a directory, or an S3 bucket.

A store holds the archive, and the analytics dataset that is made from it.
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

#: Name of the sink in handlers, circuits and errors.
SINK = "objects"

_NAME_LIMIT_BYTES = 1024
#: Size of the largest header of a zstd frame (RFC 8878, section 3.1.1.1).
FRAME_HEADER_BYTES = 18
_WORD_LIMIT_BYTES = 255
#: Errors that mean: the disk is full, or a quota or the maximum file size is reached.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ObjectInfo(NamedTuple):
    """A stored object.

    Attributes:
        name: full name, with slashes.
        size_bytes: size as stored, that is compressed.
    """

    name: str
    size_bytes: int


class StoredObject(NamedTuple):
    """The content of a stored object.

    Attributes:
        data: its bytes.
        metadata: the metadata given to :meth:`ObjectStore.put`; empty if the store
            does not keep metadata.
    """

    data: bytes
    metadata: Mapping[str, str]


class DamagedObject(SinkRejected):
    """The object is not what was stored."""


class ObjectStore(Sink, Protocol):
    """A store of named, immutable byte strings.

    Every method raises :class:`~meshtasks.errors.SinkUnavailable` if the store cannot
    be reached, is overloaded, or is configured wrongly (the message says what to
    correct), and :class:`~meshtasks.errors.SinkRejected` if it rejects this object or
    name permanently. Every call has a time limit.
    """

    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object, replacing an object of that name.

        When this returns, the object is durable. A part of an object is never visible
        under its name, not even after a crash. After
        :class:`~meshtasks.errors.SinkUnavailable` the object may or may not have been
        stored; see :meth:`stat`.

        Args:
            name: words separated by slashes.
            metadata: ASCII names and values, for people who browse the store. A store
                that has no place for them (a directory) drops them; S3 keeps them as
                user metadata. So the mesh does not rely on them, and all of them can
                be derived from name and content.
        """

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object of that name, or None."""

    def read(self, name: str) -> StoredObject:
        """Return the object's content and metadata.

        Raises:
            SinkRejected: there is no object of that name.
        """

    def get(self, name: str) -> bytes:
        """Return the object's content.

        Raises:
            SinkRejected: there is no object of that name.
        """
        return self.read(name).data

    def delete(self, name: str) -> None:
        """Delete the object of that name, if there is one."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose names begin with the prefix, in order of names."""


def check_name(name: str) -> None:
    """Check that a name is valid for every kind of store.

    Raises:
        SinkRejected: the name has more than 1024 bytes (the limit of S3), or a word
            between slashes is empty, begins with a dot, or has more than 255 bytes (the
            limit of file systems).
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
    """Return the error of :meth:`ObjectStore.read` for a name without an object."""
    return SinkRejected(f"there is no object {name!r}")


class FileStore(ObjectStore):
    """Objects as files below ``root``. Each is written to a temporary file, which is
    then renamed.

    A process that is killed while writing leaves a file whose name begins with a dot;
    it is never listed and may be deleted.

    Args:
        root: the directory; created when the first object is stored.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        #: Size of an object for which there was no room. Until there is room for as
        #: much, smaller objects are not stored either: the next large one would fail.
        self._lacking_bytes = 0

    def path(self, name: str) -> Path:
        """Return the path of the object's file, for callers that read files directly.

        Raises:
            SinkRejected: the name is not valid for an object.
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
            try:  # only a write shows that a disk is full or read-only
                _write_durably(probe, secrets.token_bytes(max(1, self._lacking_bytes)))
            finally:
                probe.unlink(missing_ok=True)
        self._lacking_bytes = 0

    @override
    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _make_directory(self, path: Path) -> None:
        """Create a directory and its parents, each durable in the directory above it.

        Directories below the root belong to the archive, so others get no access to
        them. The root may be a directory that others use as well.
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
        """Yield the objects in a directory and those below it, in order of names.

        A directory is sorted with the slash after its name, as object stores sort:
        ``a-b`` comes before ``a/b``.
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
        """Raise SinkUnavailable for all errors of the file system, because all may be
        temporary (disk full, not mounted, read-only). Invalid names are rejected
        before."""
        try:
            yield
        except OSError as error:
            where, what = error.filename or self._root, error.strerror or error
            message = f"archive directory: {where}: {what} (is MESH_ARCHIVE_URL right?)"
            raise SinkUnavailable(SINK, message) from error


def _write_durably(target: Path, data: bytes) -> None:
    """Write the whole file or nothing, even if the process or the machine stops."""
    replace_file(target, data, 0o600)
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(env: Environment) -> ObjectStore:
    """Open the store that ``MESH_ARCHIVE_URL`` names, without contacting it.

    ``s3://bucket`` is a bucket of the service at ``MESH_MINIO_ENDPOINT``.
    ``file:///directory`` is a directory, which is created when it is needed
    (``file://directory`` is relative to the working directory).

    Raises:
        ConfigError: a variable is wrong; names it and the expected value.
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
    """Yield the objects of the archive, without the store's other objects, which are
    made from them.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    for archive_class in get_args(ArchiveClass):
        yield from store.list(f"{archive_class}/")


def compress(content: bytes, level: int) -> bytes:
    """Compress into one zstd frame with content size and checksum, so that readers
    detect damage.

    Args:
        level: 1 (fastest) to 19 (smallest).
    """
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(content, options=options)


def decompress(data: bytes) -> bytes:
    """Decompress the result of :func:`compress`.

    Raises:
        DamagedObject: the data has changed since.
    """
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        message = f"its content is damaged: {error}"
        raise DamagedObject(message) from error


def content_bytes(head: bytes) -> int | None:
    """The size of what :func:`decompress` returns; None if the data does not say it.

    Args:
        head: the first :data:`FRAME_HEADER_BYTES` of the data, or more.
    """
    try:
        return zstd.get_frame_info(head).decompressed_size
    except zstd.ZstdError:
        return None


#: The store of the archive.
OBJECTS = SinkKey(SINK, lambda sinks: open_store(sinks.settings.env))


class Follower(Sink, Protocol):
    """A sink that gets every object of the archive, to make something from it."""

    def add(self, name: str, content: bytes) -> object:
        """Process a stored object. The same object may be added again.

        Raises:
            SinkUnavailable: the object must be added again. It is not recorded as
                stored.
        """


#: Sinks of flows that process the archive's objects; these flows add their keys here.
FOLLOWERS: list[SinkKey[Follower]] = []
