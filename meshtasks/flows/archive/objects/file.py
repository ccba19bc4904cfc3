"""Objects as files below a directory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import override

from meshtasks.config.private_files import private_opener, tighten
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.archive.objects.store import (
    SINK,
    ObjectInfo,
    ObjectStore,
    StoredObject,
    check_name,
    no_such_object,
)
from meshtasks.timing import timed


class FileStore(ObjectStore):
    """Objects below ``root``, each written aside and then renamed into place.

    A process killed in the midst of writing leaves a file whose name begins with a
    dot; it is never listed and may be deleted.

    Args:
        root: the directory; made when the first object is stored.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def path(self, name: str) -> Path:
        """The file of that object, for those who read files themselves.

        Raises:
            SinkRejected: the name cannot be an object's.
        """
        check_name(name)
        return self._root / name

    @override
    @timed(SINK)
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        target = self.path(name)
        with self._faults():
            self._make_directory(target.parent)
            _write_durably(target, data)

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
                _write_durably(probe, b"probe")
            finally:
                probe.unlink(missing_ok=True)

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
    aside = target.with_name(f".{secrets.token_hex(16)}")
    try:
        with open(aside, "xb", opener=private_opener) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)  # it is still there only after a fault
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
