"""Commands: tasks that Flower, the gateway and scripts call by name. This module has
the commands of the mesh itself; a command of a flow is in the folder of the flow.

Commands are Celery tasks with named arguments, on a queue of their own. They run one
by one, not in batches, because each has a caller that waits for its result.

A rerun is harmless: the ids of the messages that a command publishes are derived from
the id of the call.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    JsonValue,
    model_validator,
)
from pydantic_core import to_json

from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import SchemaMismatch
from meshtasks.flows.contract import Arguments, Command, Flow, Span
from meshtasks.flows.sinks import PUBLISHER, Sinks


class Publish(Arguments):
    """Publish one message.

    Attributes:
        exchange: exchange of the domain, such as ``sensors``.
        routing_key: routing key, such as ``sensors.temperature.attic``.
        record: the body: a record, an array of records, or any other body that the
            queues of the routing key accept.
    """

    exchange: Annotated[str, Field(min_length=1, max_length=255)]
    routing_key: Annotated[str, Field(min_length=1, max_length=255)]
    record: JsonValue


def publish(arguments: Publish, sinks: Sinks, call_id: str) -> dict[str, Any]:
    """Publish one message, with a confirm.

    Raises:
        SchemaMismatch: no binding to a queue of a domain matches the routing key.
        Transient: the broker did not confirm it.
    """
    exchange, routing_key = arguments.exchange, arguments.routing_key
    queues = sinks.settings.read(TOPOLOGY).handled_queues(exchange, routing_key)
    if not queues:
        message = (
            f"routing_key: no binding of exchange {exchange!r} leads {routing_key!r} "
            "to a queue of a domain"
        )
        raise SchemaMismatch(message)
    body = to_json(arguments.record, inf_nan_mode="constants")
    sinks[PUBLISHER].publish(
        [Outgoing(exchange, routing_key, body, call_id, timestamp=time.time())]
    )
    return {"message_id": call_id, "queues": sorted(queues)}


class ReplayDeadLetters(Arguments):
    """Replay dead letters, selected as by ``meshtasks dlq replay``.

    Attributes:
        ids: ids of dead letters, or their beginnings.
        reason: select by reason: a kind (``SchemaMismatch``), or part of the text.
        queue: select by the queue in which they failed; also ``sensors.*``.
        routing_key: select by routing key: a pattern as in a binding.
        sensor: select by sensor; also ``attic-*``.
        older_than: select those that failed longer ago than this, such as ``2h``.
        newer_than: select those that failed more recently than this.
        every: select all dead letters, if nothing else is given.
        rate: maximum rate, in messages per second.
    """

    ids: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{4,12}$")], ...] = ()
    reason: str = ""
    queue: str = ""
    routing_key: str = ""
    sensor: str = ""
    older_than: Span | None = None
    newer_than: Span | None = None
    every: bool = False
    rate: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _selects_something(self) -> Self:
        texts = self.reason, self.queue, self.routing_key, self.sensor
        spans = self.older_than, self.newer_than
        if not (self.ids or any(texts) or any(spans) or self.every):
            raise ValueError(
                "which? Expected ids, reason, queue, routing_key, sensor, older_than, "
                "newer_than or every: true"
            )
        return self


def replay_dead_letters(
    arguments: ReplayDeadLetters, sinks: Sinks, _call_id: str
) -> dict[str, Any]:
    """Publish dead letters to the queue in which they failed, and to no other.

    Raises:
        Transient: the broker is unavailable, or another program is reading the queue.
    """
    from meshtasks.amqp.dead_letter_groups import Selection  # noqa: PLC0415 - seldom
    from meshtasks.amqp.replay import Replay  # noqa: PLC0415

    env, topology = sinks.settings.env, sinks.settings.read(TOPOLOGY)
    now = time.time()
    selection = Selection(
        ids=arguments.ids,
        reason=arguments.reason,
        queue=arguments.queue,
        routing_key=arguments.routing_key,
        sensor=arguments.sensor,
        failed_before=_ago(now, arguments.older_than),
        failed_after=_ago(now, arguments.newer_than),
    )
    result = Replay(
        env.amqp_url,
        topology.dead_letter_queue,
        selection,
        topology,
        rate=arguments.rate,
    ).run()
    done = {"given_back": dict(result.requeued), "kept": dict(result.kept)}
    if result.failed_again:
        done["failed_again"] = dict(result.failed_again)
    return done


def _ago(now: float, span_seconds: float | None) -> float | None:
    return None if span_seconds is None else now - span_seconds


COMMANDS: tuple[Command[Any], ...] = (
    Command("publish", Publish, publish, frozenset({"publish", "trigger"})),
    Command(
        "replay_dead_letters",
        ReplayDeadLetters,
        replay_dead_letters,
        frozenset({"operate"}),
    ),
)

FLOW = Flow("commands", commands=COMMANDS)
