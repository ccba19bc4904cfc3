"""The page that checks a message while it is typed, explains its path and publishes
it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from nicegui import ui
from pydantic_core import from_json

from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import ConfigError, InvalidMessage
from meshtasks.flows.analytics.rows import reading_of
from meshtasks.gateway.console.frame import (
    Console,
    bad,
    framed,
    notified,
    scrolling,
    status,
    text,
)
from meshtasks.gateway.problems import Problem
from meshtasks.observation.explain import (
    additions_for,
    exchanges_for,
    explain,
    fault_of_key,
    in_the_way,
    is_known,
)
from meshtasks.records.kinds import KINDS

_EXAMPLE_KEY, _EXAMPLE_BODY = (
    "sensors.temperature.attic",
    '{"value": 71.6, "unit": "°F"}',
)


def add_trying(console: Console) -> None:
    """Add the page."""

    @ui.page("/try")
    def trying() -> None:
        with framed(console, "/try"):
            _TryingPage(console)


class _TryingPage:
    """The page of one viewer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._key = ui.input("Routing key, or topic of MQTT", value=_EXAMPLE_KEY)
        self._key.classes("w-full").on_value_change(self._judge)
        self._body = ui.textarea("Message", value=_EXAMPLE_BODY).classes("w-full")
        self._body.props("outlined autogrow").on_value_change(self._judge)
        self._fate = status()
        self._way = scrolling("Its way")
        self._judge()
        button = ui.button("Publish", on_click=self._publish)
        if not self._may_publish():
            button.disable()

    def _may_publish(self) -> bool:
        viewer = self._console.viewer()
        return viewer is not None and bool(viewer.scopes & {"publish", "operate"})

    def _message(self) -> tuple[str, str, bytes]:
        """Exchange, routing key and body of the message."""
        routing_key = _routing_key(self._key.value)
        exchange = _exchange(self._console, routing_key)
        return exchange, routing_key, _bytes(self._body.value)

    def _judge(self) -> None:
        message = self._message()
        self._fate.set_content(_fate(self._console, *message))
        self._way.set_content(_way(self._console, *message))

    async def _publish(self) -> None:
        if not self._may_publish():
            return
        message = self._message()
        with notified(Problem), notified():
            self._console.context.validator.check(*message)
            outgoing = Outgoing(*message, new_message_id(), timestamp=time.time())
            await asyncio.to_thread(self._console.context.republisher.publish, outgoing)
            ui.notify("The broker has stored it.", type="positive")


def _fate(console: Console, exchange: str, routing_key: str, body: bytes) -> str:
    """The result for a message, as HTML: what would be stored, or why it would be a
    dead letter."""
    try:
        queues = console.context.validator.check(exchange, routing_key, body)
    except Problem as problem:
        faults = "".join(
            f"<li>{text(error.pointer)}: {text(error.detail)}</li>"
            for error in problem.errors[:10]
        )
        return f"<div class='mesh-bad'>{text(problem.detail)}<ul>{faults}</ul></div>"
    return as_stored(console, routing_key, body, queues)


def as_stored(
    console: Console, routing_key: str, body: bytes, queues: Iterable[str]
) -> str:
    """What is stored of a message that its queues accept, as HTML."""
    kinds = console.settings.read(KINDS)
    try:
        document = from_json(body)
        row = reading_of(document, routing_key, round(time.time() * 1000), kinds)
    except (InvalidMessage, ValueError):  # not a reading, or not one JSON object
        return f"<div class='mesh-good'>{text(', '.join(queues))} would take it.</div>"
    return (
        "<div class='mesh-good'>This would be stored as "
        f"{row.value:g} {text(row.unit or '')} of {text(row.sensor_id)}, by way of "
        f"{text(', '.join(queues))}.</div>"
    )


def _exchange(console: Console, routing_key: str) -> str:
    topology = console.settings.read(TOPOLOGY)
    return next(iter(exchanges_for(topology, routing_key)), "")


def _routing_key(text: str) -> str:
    """The routing key for a routing key or an MQTT topic. The broker replaces the
    slashes of a topic by dots."""
    return text.strip().replace("/", ".")


def _bytes(text: str) -> bytes:
    """The text as UTF-8; half of a surrogate pair is replaced."""
    return text.encode(errors="replace")


def _way(console: Console, exchange: str, routing_key: str, body: bytes) -> str:
    """The path of a message as HTML; if no queue takes it, what to add."""
    settings = console.settings
    topology = settings.read(TOPOLOGY)
    if fault := fault_of_key(routing_key):
        return bad(fault)
    if not exchange or not is_known(topology, exchange):
        said = f"No exchange takes {routing_key}."
    else:
        try:
            found = explain(settings, console.flows, exchange, routing_key)
        except ConfigError as error:
            return bad(error)
        said = "\n".join(found.lines(settings.env.receivers))
        if not found.unroutable:
            return f"<pre>{text(said)}</pre>"
    added = "".join(
        f"<h3 class='mesh-h2'>config/{text(each.file)}, "
        + (f"below <code>{text(each.below)}</code>" if each.below else "at the end")
        + f"</h3><pre>{text(chr(10).join(each.lines))}</pre>"
        for each in additions_for(settings, routing_key, body)
    )
    others = "".join(
        f"<p>Take out the binding of amq.topic for <code>{text(pattern)}</code>, which "
        "makes a dead letter of such a message of a device.</p>"
        for pattern in in_the_way(topology, routing_key)
    )
    return (
        f"<pre>{text(said)}</pre><p>To have it taken, add these lines, then run "
        "<code>meshtasks config check</code> and restart the workers and the gateway."
        f"</p>{added}{others}"
    )
