"""Files and directories that only their owner may read, or that everybody may,
whatever the umask; and locks between the processes of a host.
"""

from __future__ import annotations

import fcntl
import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_opener(path: str, flags: int) -> int:
    """An ``opener`` for `open`: a file that is made is of mode 0600; a regular one
    that exists and is ours becomes so.

    Not for a file that SQLite has open: closing any descriptor of it drops the locks
    that this process holds on it.
    """
    descriptor = os.open(path, flags, 0o600)
    tighten(Path(path))
    return descriptor


def write_private(path: Path, text: str) -> None:
    """Write a text file of mode 0600.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "w", encoding="utf-8", opener=private_opener) as file:
        file.write(text)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Make or replace a file, on the disk itself; a reader, and whoever interrupts
    this, sees the old or the new one, also of several that do so at once.

    Raises:
        OSError: it cannot be written.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as draft:
        try:
            draft.write(content)
            os.fchmod(draft.fileno(), mode)
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink()
            raise


def replace_private(path: Path, text: str) -> None:
    """:func:`replace_file` with a text, of mode 0600."""
    replace_file(path, text.encode(), 0o600)


def make_private_database(path: Path) -> None:
    """Before SQLite opens it: make an empty file, which is an empty database, or
    tighten the one there is. SQLite gives its -wal and -shm files the same mode.

    Raises:
        OSError: it cannot be made.
    """
    make_private_directory(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for suffix in ("", "-wal", "-shm"):
        tighten(path.with_name(path.name + suffix))


def make_private_directory(path: Path) -> None:
    """Make it and its missing parents, each of mode 0700.

    One that exists keeps its mode: it may be shared with something else, as /tmp is.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def share(directory: Path) -> None:
    """Let everybody read what is in a directory that holds no secrets: containers do
    so under uids of their own. What is not ours, and links, are left as they are."""
    for path in (directory, *directory.rglob("*")):
        with suppress(OSError):  # who reads it will say what cannot be read
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                continue
            readable = 0o755 if path.is_dir() else 0o644
            path.chmod(stat.S_IMODE(path.stat().st_mode) | readable)


def tighten(path: Path) -> None:
    """Take the rights of others from a regular file or a directory of ours; anything
    else, and what does not exist, is left as it is."""
    # The rights are a second fence: what can be used is used although they stay wide,
    # as on a file system that is mounted read-only or that has no rights.
    with suppress(OSError):
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        is_ours = status.st_uid == os.geteuid()
        is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        if is_ours and is_plain and mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)


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
