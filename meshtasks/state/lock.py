"""Locks between the processes of a host that read or rewrite the dataset."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from meshtasks.config.private_files import make_private_directory, private_opener
from meshtasks.errors import Transient


class DatasetLock:
    """Who may delete files of the dataset, and who compacts it.

    A process that dies lets go of its locks.

    Args:
        directory: for the lock files; made if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def reading(self) -> Iterator[None]:
        """No file that is listed now is deleted by this host meanwhile."""
        with self._open("analytics.lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody on this host reads; then nobody begins to, meanwhile."""
        with self._open("analytics.lock") as file:
            yield _locks(file)

    @contextmanager
    def compacting(self) -> Iterator[None]:
        """Be the one process of this host that compacts.

        Raises:
            Transient: there is one already.
        """
        with self._open("analytics-compact.lock") as file:
            if not _locks(file):
                raise Transient("another process of this host compacts the dataset")
            yield

    def _open(self, name: str) -> IO[str]:
        make_private_directory(self._directory)
        path = self._directory / name
        return open(path, "a", opener=private_opener)


def _locks(file: IO[str]) -> bool:
    """Try to take the lock; it is let go when the file is closed."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
