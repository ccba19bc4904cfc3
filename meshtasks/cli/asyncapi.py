"""The mesh as an AsyncAPI document: where to publish, and what can be consumed.

The format is https://www.asyncapi.com/docs/reference/specification/v3.0.0 with the AMQP
bindings of version 0.3.0. Operations are named from the view of the mesh: clients
publish what it receives, and consume what it sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from meshtasks.amqp import headers
from meshtasks.amqp.entities import Queue, RetryQueue, topic_matches
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, Topology
from meshtasks.flows.contract import Handler, describe_properties
from meshtasks.flows.inference.messages import AI_EXCHANGE, InferenceRequest
from meshtasks.flows.pipeline import ALERTS_EXCHANGE

_BINDING_VERSION = "0.3.0"
_SCHEMAS = "#/components/schemas/"
#: Wildcards of topic exchanges → name of the parameter in an address, description.
_WILDCARDS = {
    "*": ("word", "One word, without dots."),
    "#": ("words", "Any number of words, separated by dots; may be none."),
}
#: Schema of the body of a dead letter, which need not be JSON.
_ANYTHING = {"description": "The bytes as first published."}

#: Messages that the mesh publishes itself to exchanges that are open to clients, too:
#: exchange → a routing key of the mesh, description.
_OWN = {
    ALERTS_EXCHANGE: ("alerts", "Alerts of the rules."),
    AI_EXCHANGE: ("ai.result.model", "Results of models."),
    ARCHIVE_EXCHANGE: ("archive", "Excerpts of messages, for the archive."),
}
#: Models of queues whose handlers validate more than the type of their records.
_RECORDS = {"ai.inference.requests": InferenceRequest}


class _Way(NamedTuple):
    """A channel to publish to: an exchange and a binding key, with the queues."""

    exchange: str
    routing_key: str
    queues: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the channel: only letters, digits, dots and hyphens."""
        key = self.routing_key.replace("*", "word").replace("#", "words")
        return f"{self.exchange}-{key}"


def document(topology: Topology, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    """The AsyncAPI 3.0.0 document of a mesh, as values for JSON.

    Args:
        topology: the topology of the mesh.
        handlers: handlers by queue. Queues without a handler are left out, except those
            that the mesh publishes to.
    """
    ways = list(_ways_in(topology, handlers))
    types = topology.exchange_types
    dead = next(q for q in topology.queues if q.name == topology.dead_letter_queue)
    schemas: dict[str, Any] = {
        "PassedOn": _headers(PASSED_ON),
        "DeadLetter": _headers(PASSED_ON | DEAD_LETTER),
    }
    messages = {
        queue: _message(handlers[queue], schemas)
        for queue in sorted({name for way in ways for name in way.queues})
    }
    messages["dead-letter"] = {
        "summary": "A message that could not be processed: its bytes and the reason.",
        "headers": {"$ref": f"{_SCHEMAS}DeadLetter"},
        "payload": _ANYTHING,
    }
    messages["retry"] = {
        "summary": "A message that waits for another attempt in the queue in which it "
        "failed.",
        "headers": {"$ref": f"{_SCHEMAS}PassedOn"},
        "payload": _ANYTHING,
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "meshtasks",
            "version": version("meshtasks"),
            "description": "Publish what the mesh receives, persistent and mandatory. "
            "Consume what the mesh sends. A body is one record or an array of "
            "records.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{broker}",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ 3.10 or newer.",
                "variables": {
                    "broker": {
                        "default": "localhost:5672",
                        "description": "Host and port of MESH_BROKER_URL.",
                    }
                },
            }
        },
        "channels": {way.name: _way_channel(way, types[way.exchange]) for way in ways}
        | {dead.name: _queue_channel(dead)}
        | {each.name: _retry_channel(each) for each in topology.retry_queues},
        "operations": {
            f"receive-{way.name}": _receive(way, handlers, topology) for way in ways
        }
        | {
            f"send-{way.name}": _send(way.name, _OWN[way.exchange][1])
            for way in ways
            if way.exchange in _OWN
            and topic_matches(way.routing_key, _OWN[way.exchange][0])
        }
        | {
            "send-dead-letter": _send(
                dead.name, "Messages that could not be processed."
            )
        }
        | {
            f"send-{each.name}": _send(
                each.name, f"Messages that return after {each.seconds} s."
            )
            for each in topology.retry_queues
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _ways_in(topology: Topology, handlers: Mapping[str, Handler]) -> Iterator[_Way]:
    """Yield the exchanges and binding keys that lead to a queue with a handler.

    A fanout exchange ignores keys, so it has one channel for all its bindings.
    """
    fanouts = {each.name for each in topology.exchanges if each.type == "fanout"}
    found = sorted(
        (b.exchange, "#" if b.exchange in fanouts else b.routing_key, b.queue)
        for b in topology.bindings
        if b.queue in handlers and not b.exchange.startswith("amq.")
    )
    for (exchange, key), group in groupby(found, key=lambda each: each[:2]):
        yield _Way(exchange, key, tuple(str(queue) for _, _, queue in group))


def _way_channel(way: _Way, exchange_type: str) -> dict[str, Any]:
    address, parameters = _address(way.routing_key)
    channel: dict[str, Any] = {
        "address": address,
        "messages": {queue: _ref("components/messages", queue) for queue in way.queues},
        "bindings": _of_exchange(way.exchange, exchange_type),
    }
    return channel | ({"parameters": parameters} if parameters else {})


def _address(routing_key: str) -> tuple[str, dict[str, dict[str, str]]]:
    """The address of a binding key, and its parameters.

    For ``home.*.*.trigger`` it is ``home.{word1}.{word2}.trigger``.
    """
    words = routing_key.split(".")
    times, met = Counter(words), Counter[str]()
    address, parameters = [], {}
    for word in words:
        if word not in _WILDCARDS:
            address.append(word)
            continue
        met[word] += 1
        name, meaning = _WILDCARDS[word]
        if times[word] > 1:
            name += str(met[word])
        parameters[name] = {"description": meaning}
        address.append(f"{{{name}}}")
    return ".".join(address), parameters


def _queue_channel(queue: Queue) -> dict[str, Any]:
    entity = {
        "name": queue.name,
        "durable": True,
        "exclusive": False,
        "autoDelete": False,
    }
    return {
        "address": queue.name,
        "messages": {"dead-letter": _ref("components/messages", "dead-letter")},
        "bindings": _amqp({"is": "queue", "queue": entity}),
    }


def _retry_channel(retry: RetryQueue) -> dict[str, Any]:
    return {
        "address": "{queue}",
        "parameters": {"queue": {"description": "Queue to which the message returns."}},
        "messages": {"retry": _ref("components/messages", "retry")},
        "bindings": _of_exchange(retry.name, "fanout"),
    }


def _of_exchange(name: str, kind: str) -> dict[str, Any]:
    entity = {"name": name, "type": kind, "durable": True, "autoDelete": False}
    return _amqp({"is": "routingKey", "exchange": entity})


def _amqp(members: Mapping[str, Any]) -> dict[str, Any]:
    """The AMQP bindings of a channel or an operation."""
    return {"amqp": {**members, "bindingVersion": _BINDING_VERSION}}


def _receive(
    way: _Way, handlers: Mapping[str, Handler], topology: Topology
) -> dict[str, Any]:
    lines = (
        f"`{queue}`: {_summary(handlers[queue])}{_order(topology, queue)}"
        for queue in way.queues
    )
    return {
        "action": "receive",
        "channel": _ref("channels", way.name),
        "summary": f"Publish to exchange {way.exchange}.",
        "description": "\n\n".join(lines),
        "bindings": _amqp({"ack": True}),
    }


def _order(topology: Topology, queue: str) -> str:
    """Note for publishers about the order in a queue with partitions, else empty."""
    found = topology.partitioned.get(queue)
    if found is None:
        return ""
    return (
        f" Messages of one routing key are in one of {found.partitions} "
        "partitions, in order."
    )


def _send(channel: str, summary: str) -> dict[str, Any]:
    persistent = 2  # delivery mode of AMQP 0-9-1
    return {
        "action": "send",
        "channel": _ref("channels", channel),
        "summary": summary,
        "bindings": _amqp({"deliveryMode": persistent, "mandatory": True}),
    }


def _message(handler: Handler, schemas: dict[str, Any]) -> dict[str, Any]:
    """The message of a queue; the schema of its record is added to ``schemas``."""
    record = _RECORDS.get(handler.queue, handler.record)
    schema = TypeAdapter(record).json_schema(ref_template=_SCHEMAS + "{model}")
    name = schema.get("title", handler.queue)
    found = {**schema.pop("$defs", {}), name: schema}
    for each in found.values():
        if "description" in each:
            describe_properties(each)
    schemas |= found
    one = {"$ref": _SCHEMAS + name}
    bodies: list[dict[str, Any]] = [one, {"type": "array", "items": one}]
    if handler.bare_value:
        bodies.append({"type": "number"})
    return {
        "summary": _summary(handler),
        "contentType": "application/json",
        "headers": {"$ref": f"{_SCHEMAS}PassedOn"},
        "payload": {"anyOf": bodies},
    }


def _headers(meanings: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name: {"type": kind, "description": meaning}
            for name, (kind, meaning) in meanings.items()
        },
    }


def _summary(handler: Handler) -> str:
    return (handler.handle.__doc__ or handler.queue).partition("\n")[0]


def _ref(place: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/{place}/{name}"}


#: Headers of messages that the mesh republishes: type, description. Clients need not
#: set them.
PASSED_ON = {
    headers.EXCHANGE: ("string", "Exchange of first publication."),
    headers.ROUTING_KEY: ("string", "Routing key of first publication."),
    headers.RECEIVED_AT: ("number", "First receipt, Unix time in seconds."),
    headers.QUEUE: ("string", "Queue in which the message failed."),
    headers.ATTEMPT: ("integer", "Number of retries that count."),
    headers.FIRST_FAILED_AT: ("number", "First failure, Unix time in seconds."),
    headers.SINGLE: ("integer", "1: processed alone."),
    headers.REPLAYS: ("integer", "Number of replays as a dead letter."),
    headers.REPLAYED_AT: ("number", "Last replay, Unix time in seconds."),
    headers.HISTORY: ("array", "Reasons of earlier dead letters, the latest last."),
    headers.ARCHIVED: ("string", "Id in the archive from which it was replayed."),
    headers.EXCERPTS: ("integer", "1: excerpts that the mesh made for the archive."),
    headers.QUIET: ("integer", "1: no alerts, no webhooks."),
    headers.OMITTED: (
        "string",
        (
            "Names of the publisher's headers that were dropped: all headers must fit "
            "into one frame (128 KiB), and those of the mesh come first."
        ),
    ),
}

#: Additional headers of dead letters.
DEAD_LETTER = {
    headers.REASON: ("string", "Reason, as a sentence."),
    headers.ERROR_TYPE: ("string", "Class of the error, such as UnknownUnit."),
    headers.ERROR_MESSAGE: ("string", "Message of the error."),
    headers.TRACEBACK: ("string", "The end of the traceback; may be empty."),
    headers.RETRIES: ("integer", "Number of retries that counted."),
    headers.TASK: ("string", "Name of the Celery task in which it failed."),
    headers.TASK_ID: ("string", "Id of that task, one per batch."),
    headers.FAILED_AT: ("string", "Time of failure, RFC 3339."),
    headers.WORKER: ("string", "Name of the Celery worker in which it failed."),
    headers.RECORD_INDEX: ("integer", "Index of the record in its array."),
}
