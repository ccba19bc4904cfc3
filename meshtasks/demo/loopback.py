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

#: Below Linux's ephemeral ports (from 32768), so that no outgoing connection takes a
#: server's port while the server restarts.
_PORTS = range(15_000, 30_000)


class HTTPFailed(MeshError):
    """The response to a loopback HTTP request has no 2xx status."""


def is_free(port: int) -> bool:
    """Return whether a server can listen on this TCP port now."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None) -> int:
    """Return a free TCP port: ``preferred`` if that is free.

    The port is reserved for this process until it ends, so that no other demo or test
    gets it in the seconds before a server listens on it.
    """
    draw = random.SystemRandom()
    port = draw.choice(_PORTS) if preferred is None else preferred
    while not (reserved := _reserve(port)):
        port = draw.choice(_PORTS)
    atexit.register(reserved.close)
    return port


def _reserve(port: int) -> socket.socket | None:
    """Return the reservation of a port, or None if it is reserved or in use.

    The reservation is an abstract Unix socket: only one process can bind its name, and
    it ends with the process. A TCP socket would not work, because connections in
    TIME_WAIT prevent binding.
    """
    reserved = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        reserved.bind(f"\0meshtasks port {port}")
        if is_free(port):
            return reserved
    reserved.close()
    return None


def answers(port: int, path: str) -> bool:
    """Return whether GET of ``path`` returns a 2xx status within a second."""
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
    """Send an HTTP request to a port of this machine and return the response's body.

    Args:
        body: body of the request, if it has one.
        content_type: media type of the body.
        credentials: user and password for basic authentication.
        timeout_seconds: for the connection, and for each read of the response.

    Raises:
        HTTPFailed: the status is not 2xx.
        OSError: no connection, or no response in time.
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
