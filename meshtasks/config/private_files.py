"""Files and directories with a mode that does not depend on the umask; file locks."""

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
    """An ``opener`` for `open` that creates files with mode 0600.

    If the file exists, is regular and belongs to this user, others lose access to it.

    Do not use it for a file that SQLite has open: closing any descriptor of the file
    releases the locks that this process holds on it.
    """
    descriptor = os.open(path, flags, 0o600)
    tighten(Path(path))
    return descriptor


def write_private(path: Path, text: str) -> None:
    """Write a text file with mode 0600.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "w", encoding="utf-8", opener=private_opener) as file:
        file.write(text)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Create or replace a file atomically; its content is synced to disk first.

    Readers see the old or the new content, even after an interruption and with several
    writers at once.

    Args:
        mode: permissions of the file.

    Raises:
        OSError: the file cannot be written.
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
    """:func:`replace_file` with a text and mode 0600."""
    replace_file(path, text.encode(), 0o600)


def make_private_database(path: Path) -> None:
    """Create an empty database file with mode 0600, or tighten an existing one.

    Call this before SQLite opens it. An empty file is an empty database, and SQLite
    gives the -wal and -shm files the same mode.

    Raises:
        OSError: the file cannot be created.
    """
    make_private_directory(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for suffix in ("", "-wal", "-shm"):
        tighten(path.with_name(path.name + suffix))


def make_private_directory(path: Path) -> None:
    """Create a directory and its missing parents, each with mode 0700.

    Existing directories keep their mode: they may be shared, as /tmp is.

    Raises:
        OSError: the directory cannot be created.
    """
    if path.is_dir():
        return
    make_private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def share(directory: Path) -> None:
    """Let everybody read a directory without secrets and the files in it.

    Containers read it with other uids. Links and files of other owners are unchanged.
    """
    for path in (directory, *directory.rglob("*")):
        with suppress(OSError):  # the reader reports what it cannot read
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                continue
            readable = 0o755 if path.is_dir() else 0o644
            path.chmod(stat.S_IMODE(path.stat().st_mode) | readable)


def tighten(path: Path) -> None:
    """Remove the permissions of group and others from a file or directory of this user.

    Anything else is left unchanged: what is missing, is of another owner, or is neither
    a regular file nor a directory.
    """
    # Permissions are a second protection. A failure is ignored, so that the file can be
    # used on a file system that is read-only or has no permissions.
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
    """Hold a lock during the block. The end of a process releases its locks.

    Args:
        path: the lock file; it and its directory are created if missing.
        shared: whether others may hold the lock at the same time, as shared.
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
