"""``meshtasks tap``: show copies of messages as they are published."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer
from amqp.exceptions import ChannelError

from meshtasks.amqp.entities import PREDECLARED_EXCHANGES
from meshtasks.amqp.headers import as_json
from meshtasks.amqp.peek import every_exchange, pattern_fault, tapped
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli.terminal import EXIT_USAGE, fail, say, span_of, stopping_on_signals
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import Transient
from meshtasks.records.json_text import body_text
from meshtasks.text import clip, did_you_mean
from meshtasks.timing import Backoff

_POLL_SECONDS = 0.5
#: Most characters of a line that is written to a file or a pipe.
_WIDTH_CHARS = 100_000


def _pattern(text: str) -> str:
    if fault := pattern_fault(text):
        raise typer.BadParameter(fault)
    return text


def tap(
    pattern: Annotated[
        str,
        typer.Argument(
            callback=_pattern,
            help="Pattern of routing keys: * is one word, # is any number of words.",
        ),
    ] = "#",
    *,
    exchange: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Show only messages of this exchange. Can be repeated. Default: all "
            "exchanges of the mesh, and amq.topic, which receives MQTT messages.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after this number of messages.")
    ] = None,
    lasts: Annotated[
        str, typer.Option("--for", metavar="TIME", help="End after this time: 30s, 5m.")
    ] = "",
    pretty: Annotated[
        bool, typer.Option("--pretty", help="Show complete bodies, as indented JSON.")
    ] = False,
    with_headers: Annotated[
        bool,
        typer.Option("--headers", help="Show the AMQP headers below each message."),
    ] = False,
    as_lines: Annotated[
        bool,
        typer.Option("--json", help="Print complete messages, one JSON object a line."),
    ] = False,
) -> None:
    """Show copies of messages as they are published, until Ctrl-C.

    No message is removed from a queue. Messages that are not read in time are dropped
    from the view, not delayed. Retries and replays are not shown, because they are
    published directly to a queue.

    Exit codes: 0; 1 fewer than --count messages came within --for; 2 unknown exchange;
    69 the broker cannot be reached; 78 bad configuration.

    Example: meshtasks tap "sensors.temperature.#" --pretty
    """
    settings = load_settings()
    exchanges = _exchanges(settings.read(TOPOLOGY), exchange or [])
    ends_at = time.monotonic() + span_of(lasts, "--for") if lasts else math.inf
    show = _as_line if as_lines else _for_people(pretty, with_headers)
    seen = 0
    with (
        stopping_on_signals() as stopping,
        closing(_copies(settings, pattern, exchanges, stopping, ends_at)) as copies,
    ):
        for message in islice(copies, count):
            show(message, time.time())
            seen += 1
    if count is not None and seen < count and not stopping.is_set():
        fail(f"{seen} of {count} messages passed in {lasts}", 1)


def _copies(
    settings: Settings,
    pattern: str,
    exchanges: list[str],
    stopping: threading.Event,
    ends_at: float,
) -> Generator[Message, None, None]:
    """Yield copies until ``stopping`` is set, or ``ends_at`` of the monotonic clock. A
    lost connection is opened again.

    Raises:
        Transient: the first connection cannot be opened.
        typer.Exit: the broker refuses; the reason is printed.
    """

    def is_over() -> bool:
        return stopping.is_set() or time.monotonic() >= ends_at

    url, topology = settings.env.amqp_url, settings.read(TOPOLOGY)
    was_open, attempt = False, 0
    while not is_over():
        try:
            with tapped(url, topology, pattern, exchanges) as copies:
                say(f"listening on {', '.join(exchanges)} for {pattern}", err=True)
                was_open, attempt = True, 0
                while not is_over():
                    if message := copies.next(_POLL_SECONDS):
                        yield message
        except ChannelError as error:
            fail(f"the broker refuses: {error.reply_text}", os.EX_UNAVAILABLE)
        except Transient as error:
            if not was_open:
                raise
            say(f"meshtasks: {error}; trying again", err=True)
            stopping.wait(Backoff().delay_seconds(attempt))
            attempt += 1


def _exchanges(topology: Topology, named: list[str]) -> list[str]:
    known = [item.name for item in topology.exchanges]
    for name in named:
        if name not in {*known, *PREDECLARED_EXCHANGES}:
            close = did_you_mean(name, known)
            fail(f"topology.yaml has no exchange {name}{close}", EXIT_USAGE)
    return named or every_exchange(topology)


def _as_line(message: Message, at: float) -> None:
    document: dict[str, Any] = {
        "at": at,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "message_id": message.properties.get("message_id"),
        "headers": as_json(message.headers),
    }
    try:
        document["body"] = message.body.decode()
    except UnicodeDecodeError:
        document["body_base64"] = base64.b64encode(message.body).decode()
    say(json.dumps(document))


def _for_people(
    pretty: bool,  # noqa: FBT001 - an option
    with_headers: bool,  # noqa: FBT001 - an option
) -> Callable[[Message, float], None]:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_CHARS

    def show(message: Message, at: float) -> None:
        clock = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
        head = f"{clock} {message.exchange} {message.routing_key}"
        if pretty:
            say(f"{head}\n{body_text(message.body)}")
        else:
            text = message.body.decode(errors="backslashreplace")
            line = f"{head} {' '.join(text.split())}"
            say(clip(line, width - 1))
        if with_headers:
            for name, value in sorted(message.headers.items()):
                say(f"    {name}: {json.dumps(as_json(value))}")

    return show
