"""Forks of a process wait while its threads use SQLite.

SQLite counts in memory which locks the process has on a file. A child that is forked
while another thread is in a transaction, or closes its connection, inherits that count,
but nobody who gives the locks back: it takes the file for locked as long as it lives
(https://www.sqlite.org/howtocorrupt.html, section 2.6).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: A fork waits no longer than this, so that a transaction without end, or one of the
#: very thread that forks, does not stop it.
_WAIT_SECONDS = 10.0

_idle = threading.Condition()
_running = 0


@contextmanager
def unforked() -> Iterator[None]:
    """Run the block while no other thread forks this process."""
    global _running  # noqa: PLW0603 - forks are of the process, and so is the count
    with _idle:
        _running += 1
    try:
        yield
    finally:
        with _idle:
            _running -= 1
            _idle.notify_all()


def _before_fork() -> None:
    _idle.acquire()
    _idle.wait_for(lambda: _running < 1, _WAIT_SECONDS)


def _in_parent() -> None:
    _idle.release()


def _in_child() -> None:
    # The other threads are not in the child.
    global _idle, _running
    _idle, _running = threading.Condition(), 0


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_in_parent,
    after_in_child=_in_child,
)
