"""``meshtasks publish``: publish messages to an exchange, with confirms."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

import typer
from amqp.exceptions import IrrecoverableChannelError, NotFound
from pydantic_core import from_json

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.entities import SHORT_STRING_LIMIT_BYTES
from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli.terminal import EXIT_INTERRUPTED, counting, fail, say
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import (
    ConfigError,
    PublishUnconfirmed,
    Transient,
    Unroutable,
)
from meshtasks.timing import Backoff

_EXIT_UNROUTABLE = 1
_READ_BYTES = 256 * 1024


def publish(
    exchange: Annotated[str, typer.Argument(help="Exchange, such as sensors.")],
    routing_key: Annotated[
        str, typer.Argument(help="Routing key, such as sensors.temperature.kitchen.")
    ],
    document: Annotated[
        str,
        typer.Argument(
            metavar="JSON|-",
            help="Message; - reads one JSON document per line from standard input.",
        ),
    ] = "-",
    *,
    array: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Publish N lines as one message with an array."
        ),
    ] = 1,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Publish the argument, or all of standard input, as one body without "
            "parsing it.",
        ),
    ] = False,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="AMQP header. Can be repeated."),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Time to keep trying if the connection to the broker is lost.",
        ),
    ] = 30.0,
) -> None:
    """Publish messages and wait for the broker's confirms.

    Lines are published as they arrive, in confirmed batches. If a line is bad, nothing
    of its batch is published. A message that is published again after a lost connection
    keeps its message id.

    Exit codes: 0 all confirmed; 1 some messages matched no binding and are dead
    letters, or the broker rejected them; 65 not JSON; 69 the broker cannot be reached.

    Example: meshtasks publish sensors sensors.temperature.kitchen '{"value": 21.5}'
    """
    from_stdin = document == "-"
    if len(routing_key.encode()) > SHORT_STRING_LIMIT_BYTES:
        message = f"is longer than {SHORT_STRING_LIMIT_BYTES} bytes"
        raise typer.BadParameter(message, param_hint="ROUTING_KEY")
    if array > 1 and (raw or not from_stdin):
        message = "packs lines of standard input"
        raise typer.BadParameter(message, param_hint="--array")
    settings = load_settings()
    route = Route(exchange, routing_key, _headers(header or ()), settings)
    job = Job(route, patience)
    try:
        if from_stdin and not raw:
            _publish_lines(job, sys.stdin.buffer, array)
        else:
            job.send([_body(document, raw=raw)])
    except KeyboardInterrupt:
        fail(f"interrupted; {job.done}", EXIT_INTERRUPTED)
    finally:
        job.close()
    say(job.done)
    if job.unbound:
        raise typer.Exit(_EXIT_UNROUTABLE)


def _body(document: str, *, raw: bool) -> bytes:
    """The body of a single message: the exact bytes of the command line, or all of
    standard input.

    Raises:
        typer.Exit: it is not JSON, although it should be.
    """
    if document == "-":
        return sys.stdin.buffer.read()
    body = os.fsencode(document)
    if not raw and (fault := _json_fault(body)):
        fail(f"not JSON: {fault}. Nothing was published.", os.EX_DATAERR)
    return body


def _publish_lines(job: Job, source: BinaryIO, array: int) -> None:
    """Publish each line, or each ``array`` lines, as a message.

    Raises:
        typer.Exit: a line is not JSON, or :meth:`Job.send` failed.
    """
    number = 0
    waiting: list[tuple[int, bytes]] = []  # line number and document
    job.next_line = 1
    read_bytes, size_bytes = 0, _size_bytes(source)
    with counting("publishing", shown=not source.isatty()) as bar:
        for lines in _lines_as_they_come(source):
            for line in lines:
                number += 1
                document = line.strip()
                if not document:
                    continue
                if fault := _json_fault(document):
                    fail(
                        f"line {number} is not JSON: {fault}. {job.rest}",
                        os.EX_DATAERR,
                    )
                waiting.append((number, document))
            if whole := len(waiting) - len(waiting) % array:
                job.send(_packed(waiting[:whole], array))
                del waiting[:whole]
            job.next_line = waiting[0][0] if waiting else number + 1
            read_bytes += sum(map(len, lines)) + len(lines)
            bar.update(read_bytes, size_bytes, job.done)
        if waiting:
            job.send(_packed(waiting, array))


def _packed(waiting: Sequence[tuple[int, bytes]], array: int) -> list[bytes]:
    documents = [document for _, document in waiting]
    if array == 1:
        return documents
    return [
        b"[" + b",".join(documents[start : start + array]) + b"]"
        for start in range(0, len(documents), array)
    ]


def _json_fault(body: bytes) -> str | None:
    """Why a body is not JSON; None if it is JSON."""
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        return str(error)
    return None


def _headers(pairs: Sequence[str]) -> dict[str, object]:
    headers: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            message = f"{pair!r} is not NAME=VALUE"
            raise typer.BadParameter(message, param_hint="--header")
        headers[name] = value
    return headers


def _lines_as_they_come(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines that are available, without waiting for more.

    A fast source is read in large parts, and a line of a slow one is published at once.
    """
    rest = b""
    read: Any = getattr(source, "read1", source.read)
    while part := read(_READ_BYTES):
        *lines, rest = (rest + part).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def _size_bytes(source: BinaryIO) -> int | None:
    """Size of a file; None for a pipe or terminal."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True, slots=True)
class Route:
    """Where to publish, and the headers to set."""

    exchange: str
    routing_key: str
    headers: Mapping[str, object]
    settings: Settings

    def message(self, body: bytes) -> Outgoing:
        """Make a message with this body."""
        return Outgoing(
            self.exchange,
            self.routing_key,
            body,
            message_id=new_message_id(),
            timestamp=time.time(),
            headers=dict(self.headers) or None,
        )

    def unbound(self) -> str | None:
        """Text for the case that no binding matches; None if one does.

        The broker confirms such a message, and routes it to the dead-letter queue.
        """
        topology = self._topology()
        if topology is None:
            return None
        dead_letter_queue = topology.dead_letter_queue
        reached = topology.queues_reached(self.exchange, self.routing_key)
        meant = any(
            binding.exchange == self.exchange and binding.queue == dead_letter_queue
            for binding in topology.bindings
        )
        if meant or reached != {dead_letter_queue}:
            return None
        return (
            f"no binding of exchange {self.exchange!r} matches "
            f"{self.routing_key!r}; it goes to {dead_letter_queue}.\n"
            f"{self._bindings()}\n"
            "Publish with a key that one of them matches, or add a binding there and "
            "run `meshtasks topology apply`."
        )

    def hint(self) -> str:
        """Text about the configured bindings of the exchange."""
        topology = self._topology()
        if topology is None:
            return "Is the routing key right?"
        names = [each.name for each in topology.all_exchanges]
        if self.exchange not in names:
            return f"The mesh has these exchanges: {', '.join(names)}."
        return f"{self._bindings()}\n`meshtasks topology apply` puts them in place."

    def _bindings(self) -> str:
        topology = self.settings.read(TOPOLOGY)
        lines = [
            f"  {binding.routing_key} -> {binding.queue or binding.to_exchange}"
            for binding in topology.all_bindings
            if binding.exchange == self.exchange
        ]
        head = f"Bindings of {self.exchange!r} in topology.yaml:"
        return "\n".join([head, *(lines or ["  (none)"])])

    def _topology(self) -> Topology | None:
        """The topology; None without a valid configuration, which only hints need."""
        try:
            return self.settings.read(TOPOLOGY)
        except ConfigError:
            return None


class Job:
    """Publishes the batches of one command.

    Attributes:
        confirmed: number of confirmed messages.
        unbound: warning if no binding matches, else None.
    """

    def __init__(self, route: Route, patience_seconds: float) -> None:
        self.confirmed = 0
        #: Number of the first line of standard input that is not confirmed.
        self.next_line: int | None = None
        self._route = route
        self._patience_seconds = patience_seconds
        self._backoff = Backoff()
        url = route.settings.env.amqp_url
        self._publisher = Publisher(url)
        try:
            with connected(url):
                pass  # report a failed connection before reading any input
        except Transient as error:
            fail(
                f"{error}. Nothing was published. Is it running, and is "
                "MESH_BROKER_URL right?",
                os.EX_UNAVAILABLE,
            )
        self.unbound = route.unbound()
        if self.unbound:
            say(f"warning: {self.unbound}", err=True)

    @property
    def done(self) -> str:
        """Text with the number of confirmed messages."""
        noun = "message" if self.confirmed == 1 else "messages"
        return f"{self.confirmed} {noun} confirmed"

    @property
    def rest(self) -> str:
        """The same, and how to continue after a failure."""
        if self.next_line is None:
            return f"{self.done}."
        return (
            f"{self.done}: all before line {self.next_line}. Go on with it: "
            f"tail -n +{self.next_line} FILE | meshtasks publish …"
        )

    def send(self, bodies: Sequence[bytes]) -> None:
        """Publish messages and wait for their confirms.

        Raises:
            typer.Exit: the messages are not confirmed; the reason is printed.
        """
        messages = [self._route.message(body) for body in bodies]
        deadline = time.monotonic() + self._patience_seconds
        attempt = 0
        while True:
            try:
                self._publisher.publish(messages)
            except Unroutable as error:
                fail(f"{error}.\n{self._route.hint()}\n{self.rest}", _EXIT_UNROUTABLE)
            except PublishUnconfirmed as error:
                cause = error.__cause__
                if isinstance(cause, NotFound):
                    hint = self._route.hint()
                    fail(f"{error}.\n{hint}\n{self.rest}", _EXIT_UNROUTABLE)
                if isinstance(cause, IrrecoverableChannelError):
                    fail(f"rejected: {error}. {self.rest}", _EXIT_UNROUTABLE)
                if time.monotonic() >= deadline:
                    fail(
                        f"{error}. {self.rest} What was sent last may have been "
                        "stored too.",
                        os.EX_UNAVAILABLE,
                    )
                say(f"meshtasks: {error}; trying again", err=True)
                time.sleep(self._backoff.delay_seconds(attempt))
                attempt += 1
            else:
                self.confirmed += len(messages)
                return

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()
