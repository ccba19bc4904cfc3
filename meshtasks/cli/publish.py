"""``meshtasks publish``: put messages on an exchange, confirmed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, BinaryIO

import typer
from pydantic_core import from_json

from meshtasks.cli.publish_input import ReadingProgress, lines_as_they_come
from meshtasks.cli.publish_job import EXIT_UNROUTABLE, Job, Route
from meshtasks.cli.terminal import fail, say
from meshtasks.config.settings import load_settings

_EXIT_INTERRUPTED = 130
#: AMQP 0-9-1 carries a routing key as a short string.
_MAX_ROUTING_KEY_BYTES = 255


def publish(
    exchange: Annotated[str, typer.Argument(help="Exchange, e.g. sensors.")],
    routing_key: Annotated[
        str, typer.Argument(help="Routing key, e.g. sensors.temperature.kitchen.")
    ],
    document: Annotated[
        str,
        typer.Argument(
            metavar="JSON|-",
            help="The message; - reads one JSON document per line from standard input.",
        ),
    ] = "-",
    *,
    array: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Pack N lines into one array message."),
    ] = 1,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Send the argument, or the whole of standard input, as one body "
            "without looking at it.",
        ),
    ] = False,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="AMQP header; may be repeated."),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Try again for so long when the broker goes away meanwhile.",
        ),
    ] = 30.0,
) -> None:
    """Publish messages and wait until the broker has stored them.

    Lines are published as they come, in confirmed batches; nothing of a batch
    with a bad line is sent. What is sent again after a lost connection keeps its
    message id.

    Exit codes: 0 all confirmed; 1 no binding leads them to a queue, so they are dead
    letters, or refused; 65 not JSON; 69 the broker cannot be reached.

    Example: meshtasks publish sensors sensors.temperature.kitchen '{"value": 21.5}'
    """
    from_stdin = document == "-"
    if len(routing_key.encode()) > _MAX_ROUTING_KEY_BYTES:
        message = f"is longer than {_MAX_ROUTING_KEY_BYTES} bytes"
        raise typer.BadParameter(message, param_hint="ROUTING_KEY")
    if array > 1 and (raw or not from_stdin):
        message = "packs lines of standard input"
        raise typer.BadParameter(message, param_hint="--array")
    settings = load_settings()
    route = Route(exchange, routing_key, _headers(header or ()), settings)
    job = Job(route, patience)
    try:
        if raw:
            body = sys.stdin.buffer.read() if from_stdin else os.fsencode(document)
            job.send([body])
        elif from_stdin:
            _publish_lines(job, sys.stdin.buffer, array)
        else:
            body = os.fsencode(document)  # the very bytes of the command line
            if fault := _json_fault(body):
                fail(f"not JSON: {fault}. Nothing was published.", os.EX_DATAERR)
            job.send([body])
    except KeyboardInterrupt:
        fail(f"interrupted; {job.done}", _EXIT_INTERRUPTED)
    finally:
        job.close()
    say(job.done)
    if job.unbound:
        raise typer.Exit(EXIT_UNROUTABLE)


def _publish_lines(job: Job, source: BinaryIO, array: int) -> None:
    """Publish each line, or each ``array`` lines, as a message.

    Raises:
        typer.Exit: a line is not JSON, or :meth:`Job.send` failed.
    """
    number = 0
    waiting: list[tuple[int, bytes]] = []  # line number and document
    job.next_line = 1
    with ReadingProgress(source) as progress:
        for lines in lines_as_they_come(source):
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
            progress.update(sum(map(len, lines)) + len(lines), job.done)
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
    """What keeps a body from being JSON; None when it is JSON."""
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
