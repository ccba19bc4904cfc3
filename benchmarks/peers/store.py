"""The time-series store over one kept connection, for blocking peers."""

from __future__ import annotations

import os
from functools import cache

import urllib3

from benchmarks.peers.reading import WRITE_PATH


class StoreRefusedError(Exception):
    """The store answered something other than 2xx."""


@cache
def _pool() -> urllib3.HTTPConnectionPool:
    """Opened on first use, which is after the fork."""
    return urllib3.connection_from_url(os.environ["BENCH_STORE_URL"])


def write(lines: str) -> None:
    """Write points; return when the store has taken them.

    Raises:
        StoreRefusedError: it has not.
    """
    response = _pool().request("POST", WRITE_PATH, body=lines)
    if response.status // 100 != 2:
        raise StoreRefusedError(response.status)
