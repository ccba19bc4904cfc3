"""Clients that do not finish what they began."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from meshtasks.gateway.app import PromptProtocol
from tests.support.waiting import wait_until


class _Impatient(PromptProtocol):
    head_seconds = 0.2


async def _hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/", _hello)])
    server = uvicorn.Server(uvicorn.Config(app, http=_Impatient, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: server.started, 30, "the server")
    yield listener.getsockname()
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_head_that_does_not_end_is_hung_up_on(
    address: tuple[str, int], begun: bytes
) -> None:
    with socket.create_connection(address, timeout=300) as client:
        client.sendall(begun)
        assert client.recv(1024) == b""


def test_so_is_the_second_one_of_a_connection(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=300) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = client.recv(4096)
        while not answer.endswith(b"hello"):
            answer += client.recv(4096)
        client.sendall(b"GET /")
        assert client.recv(1024) == b""
