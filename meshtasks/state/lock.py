"""Locks between the processes of a host."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshtasks.config.private_files import make_private_directory, private_opener

_POLL_SECONDS = 0.02


@contextmanager
def file_lock(
    path: Path, *, shared: bool = False, timeout_seconds: float = math.inf
) -> Iterator[bool]:
    """Hold a lock for the block; a process that dies releases it.

    Args:
        path: the lock file; it and its directory are made if missing.
        shared: others may hold it shared as well.
        timeout_seconds: longest wait; with 0 the lock is tried once.

    Yields:
        Whether the lock is held.

    Raises:
        OSError: the file cannot be opened.
    """
    make_private_directory(path.parent)
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    deadline = time.monotonic() + timeout_seconds
    with open(path, "a", opener=private_opener) as file:
        while True:
            try:
                fcntl.flock(file, operation)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(_POLL_SECONDS)
            else:
                yield True
                return
        yield False
