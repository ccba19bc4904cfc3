"""Requests to servers whose final response is not the first."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest
from urllib3.exceptions import HTTPError

from meshtasks.http import pool_manager, request
from tests.support.liar import Liar, Lie

INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
)


def numbered() -> Lie:
    """Answers with the number of the request, after interim responses."""
    numbers = iter("123456789")

    def lie(client: socket.socket, _: threading.Event) -> None:
        final = f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{next(numbers)}"
        client.sendall(INTERIM + final.encode())

    return lie


def without_end(client: socket.socket, stopping: threading.Event) -> None:
    """Sends interim responses for ever."""
    with suppress(OSError):  # the client has enough
        while not stopping.is_set():
            client.sendall(INTERIM)


def test_interim_responses_are_no_answer() -> None:
    pool = pool_manager()
    with Liar(numbered()) as server:
        answers = [
            request(pool, "POST", server.url, timeout_seconds=60, body=b"{}")
            for _ in range(3)
        ]
    pool.clear()

    assert [(each.status, each.text) for each in answers] == [
        (200, "1"),
        (200, "2"),
        (200, "3"),
    ]


def test_interim_responses_without_end_are_a_fault() -> None:
    pool = pool_manager()
    with Liar(without_end) as server, pytest.raises(HTTPError, match="interim"):
        request(pool, "POST", server.url, timeout_seconds=60, body=b"{}")
    pool.clear()
