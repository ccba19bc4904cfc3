"""``meshtasks gateway``: serve the HTTP API and the console."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from typing import Annotated

import typer

from meshtasks.cli.terminal import fail, say
from meshtasks.config.extras import installed, require
from meshtasks.config.settings import load_settings

#: Time for requests in progress when the gateway is stopped.
_STOP_SECONDS = 30


def _without_token(record: logging.LogRecord) -> bool:
    """Mask the token of a login link in a line of the access log."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    record.args = tuple(
        re.sub(r"(?<=[?&]token=)[^&]+", "***", item) if isinstance(item, str) else item
        for item in arguments
    )
    return True


def gateway(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all addresses.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65_535, help="Port to listen on; 0 is any free port."),
    ] = 8780,
) -> None:
    """Serve the HTTP API and, with the extra "console", the web pages of the console.

    Tokens and their scopes are in MESH_API_TOKENS, or in the file that
    MESH_API_TOKENS_FILE names; limits are in config/gateway.yaml. The API is documented
    at /docs. On an untrusted network, put a proxy with TLS in front of the gateway.

    Exit codes: 0 stopped by a signal; 69 the address is in use; 78 bad configuration,
    or no token.
    """
    require("gateway", "`meshtasks gateway`")
    # Imported here: it takes half a second, and other commands do not need it.
    import uvicorn  # noqa: PLC0415

    from meshtasks.flows.loading import load_flows  # noqa: PLC0415
    from meshtasks.gateway.app import PromptProtocol, create_gateway  # noqa: PLC0415
    from meshtasks.gateway.context import Context  # noqa: PLC0415

    settings, flows = load_settings(), load_flows()
    handlers = flows.handlers(settings)
    context = Context.from_settings(settings, handlers, flows.commands)
    listener = _listen(host, port)
    application = create_gateway(context)
    if installed("console"):
        from meshtasks.gateway.console.mounting import mount_console  # noqa: PLC0415

        mount_console(application, context, flows)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("uvicorn.access").addFilter(_without_token)
    config = uvicorn.Config(
        application,
        timeout_graceful_shutdown=_STOP_SECONDS,
        server_header=False,
        http=PromptProtocol,
    )
    # After a clean stop uvicorn raises the signal again for earlier handlers. It is
    # ignored, since the command ends anyway.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    address = "{}:{}".format(*listener.getsockname())
    say(f"Serving http://{address}/v1 (described at http://{address}/docs)", err=True)
    if installed("console"):
        say(f"The console is http://{address}/", err=True)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket of the gateway.

    Raises:
        typer.Exit: the address is in use, or not one of this machine.
    """
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        fail(
            f"cannot listen on {host}:{port}: {error.strerror}. Is another gateway "
            "running? --port chooses another port.",
            os.EX_UNAVAILABLE,
        )
    # Every connection inherits this. asyncio sets it only on sockets that name their
    # protocol. Without it a response waits 40 ms for the acknowledgement of its
    # headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
