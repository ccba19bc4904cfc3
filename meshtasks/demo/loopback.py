"""Ports and HTTP on this machine's loopback interface."""

from __future__ import annotations

import atexit
import base64
import http.client
import random
import socket
from contextlib import suppress

from meshtasks.errors import MeshError

HOST = "127.0.0.1"

#: Below Linux's ephemeral range (32768 on), so that no outgoing connection can
#: take a server's port while the server restarts.
_PORTS = range(15_000, 30_000)


class HTTPFailed(MeshError):
    """A loopback HTTP request was not answered with a 2xx status."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port now."""
    with socket.socket() as probe:
        # As servers do: connections that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None) -> int:
    """A TCP port that nobody listens on: ``preferred`` if it is one.

    It stays reserved while this process lives: no other demo or test gets it from here
    in the seconds that a server takes to listen on it.
    """
    draw = random.SystemRandom()
    port = draw.choice(_PORTS) if preferred is None else preferred
    while not (reserved := _reserve(port)):
        port = draw.choice(_PORTS)
    atexit.register(reserved.close)
    return port


def _reserve(port: int) -> socket.socket | None:
    """What holds the port's reservation, unless it is reserved or taken.

    It is a name that one process of this network can have at a time (abstract, so
    there is no file, and it ends with the process). A TCP socket bound to the port
    would not do: those of connections that linger keep it from being bound.
    """
    reserved = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        reserved.bind(f"\0meshtasks port {port}")
        if is_free(port):
            return reserved
    reserved.close()
    return None


def answers(port: int, path: str) -> bool:
    """Whether a GET of ``path`` is answered with a 2xx status within a second."""
    try:
        request("GET", port, path, timeout_seconds=1.0)
    except (OSError, HTTPFailed):
        return False
    return True


def request(
    method: str,
    port: int,
    path: str,
    *,
    body: bytes | None = None,
    content_type: str = "application/json",
    credentials: tuple[str, str] | None = None,
    timeout_seconds: float = 10.0,
) -> bytes:
    """Send one HTTP request to ``port`` of this machine; the response's body.

    Args:
        body: the request's body, if it has one.
        content_type: media type of the body.
        timeout_seconds: longest wait for the connection, and for the answer.
        credentials: user and password for basic authentication.

    Raises:
        HTTPFailed: it was answered with something other than 2xx.
        OSError: nothing listens there, or no answer within the timeout.
    """
    headers = {"Content-Type": content_type}
    if credentials is not None:
        token = base64.b64encode(":".join(credentials).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
    except http.client.HTTPException as error:
        message = f"{method} {path} on port {port}: {error!r}"
        raise ConnectionError(message) from error
    finally:
        connection.close()
    if response.status // 100 != 2:  # noqa: PLR2004 - HTTP's class of successes
        text = answer.decode(errors="replace").strip()[:500]
        message = f"{method} {path} on port {port}: {response.status} {text}"
        raise HTTPFailed(message)
    return answer
