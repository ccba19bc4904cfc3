"""Publish to, count and drain queues, message by message and byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from meshtasks.amqp.receiving import ReceivingConnection
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message taken from a queue.

    Attributes:
        properties: AMQP properties by their protocol names, headers left out.
    """

    body: bytes
    exchange: str
    routing_key: str
    redelivered: bool
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)


def has_registered(node: RabbitMQ, queue: str) -> bool:
    """Whether a quorum queue of this name would be found after a crash of the node.

    RabbitMQ confirms the declaration before the queue's name is on disk, half a second
    or so ahead.
    """
    registries = node.directory.glob("mnesia/*/quorum/*/names.dets")
    return any(queue.encode() in registry.read_bytes() for registry in registries)


@contextmanager
def open_channel(url: str) -> Iterator[amqp.Channel]:
    """A channel with publisher confirms on a connection of its own."""
    parts = urlsplit(url)
    with ReceivingConnection(
        f"{parts.hostname}:{parts.port}",
        userid=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        virtual_host=unquote(parts.path[1:]),
        confirm_publish=True,
    ) as connection:
        yield connection.channel()


def publish_raw(
    url: str,
    exchange: str,
    routing_key: str,
    *bodies: bytes,
    headers: dict[str, Any] | None = None,
    mandatory: bool = True,
    **properties: Any,
) -> None:
    """Publish bodies as they are; returns when the broker has confirmed each.

    Args:
        url: AMQP URL of the virtual host.
        exchange: exchange to publish to; the default one is ``""``.
        routing_key: their routing key.
        bodies: one message each.
        headers: AMQP headers of each.
        mandatory: fail if no queue would get a message.
        properties: AMQP properties by their protocol names (``content_type``,
            ``message_id``, ``timestamp``, …). Messages are persistent JSON
            unless they say otherwise.

    Raises:
        AssertionError: a mandatory message could not be routed to any queue.
    """
    values = {"content_type": "application/json", "delivery_mode": 2, **properties}
    returned: list[str] = []
    with open_channel(url) as channel:
        channel.events["basic_return"].add(
            lambda _exception, exchange, key, _message: returned.append(
                f"{exchange}/{key}"
            )
        )
        for body in bodies:
            message = amqp.Message(body, application_headers=headers or {}, **values)
            channel.basic_publish_confirm(
                message, exchange=exchange, routing_key=routing_key, mandatory=mandatory
            )
    assert not returned, f"unroutable: {returned}"


def drain(url: str, queue: str, at_most: int = 1_000_000) -> list[Delivery]:
    """Take and acknowledge every message that is ready in a queue, in order.

    Args:
        at_most: so many; for a queue that somebody keeps publishing to.
    """
    deliveries: list[Delivery] = []
    with open_channel(url) as channel:
        while len(deliveries) < at_most:
            message = channel.basic_get(queue, no_ack=False)
            if message is None:
                break
            deliveries.append(_delivery(message))
            channel.basic_ack(message.delivery_tag)
    return deliveries


def take(
    url: str, queue: str, count: int, within_seconds: float = 20.0
) -> list[Delivery]:
    """Drain a queue until ``count`` messages were taken from it.

    Raises:
        AssertionError: fewer arrived in time.
    """
    taken: list[Delivery] = []

    def enough() -> bool:
        taken.extend(drain(url, queue))
        return len(taken) >= count

    wait_until(enough, within_seconds, f"{count} messages in {queue}")
    return taken


def queue_depth(url: str, queue: str) -> int:
    """Messages ready in a queue, by passive declaration.

    Right after a restart of the broker it may be 0 although messages are
    there: count those with :func:`take`.
    """
    with open_channel(url) as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def _delivery(message: amqp.Message) -> Delivery:
    properties = dict(message.properties)
    headers = properties.pop("application_headers", {})
    info = message.delivery_info
    return Delivery(
        body=message.body,
        exchange=info["exchange"],
        routing_key=info["routing_key"],
        redelivered=bool(info["redelivered"]),
        headers=headers,
        properties=properties,
    )
