"""The commands: what Flower, the gateway and scripts may ask the mesh to do.

They come one by one on a queue of their own, as Celery tasks that are called with
named arguments. A rerun is harmless: whatever a command makes has an id that follows
from that of the call.
"""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import from_json, to_json

from meshtasks.amqp.connecting import subscribed
from meshtasks.amqp.dead_letters import Selection, requeue_targets
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.replay import Replay
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import Duration
from meshtasks.errors import NoAnswer, SchemaMismatch, SinkRejected
from meshtasks.flows.alerts.matchers import parse_matcher
from meshtasks.flows.alerts.muting import Silence
from meshtasks.flows.alerts.silencing import begin
from meshtasks.flows.alerts.store import ALERT_STATE
from meshtasks.flows.command import Arguments, Command
from meshtasks.flows.inference.requests import ModelName, RequestId, Version
from meshtasks.flows.inference.results import AI_EXCHANGE
from meshtasks.flows.inference.tensors import JsonTensor
from meshtasks.flows.sinks import PUBLISHER, Sinks

#: Longest wait of ``infer``; it occupies a process of the worker meanwhile.
LONGEST_WAIT_SECONDS = 120.0
_SILENCE_ID_BYTES = 4

#: Seconds, given as text.
Span = Annotated[
    Duration,
    Field(gt=0),
    WithJsonSchema({"type": "string", "examples": ["2h", "1h30m", "7d"]}),
]


class Publish(Arguments):
    """Publish one message.

    Attributes:
        exchange: of the domain, e.g. ``sensors``.
        routing_key: e.g. ``sensors.temperature.attic``.
        record: the message: an object, an array of them, or what else the queues
            behind the routing key take.
    """

    exchange: Annotated[str, Field(min_length=1, max_length=255)]
    routing_key: Annotated[str, Field(min_length=1, max_length=255)]
    record: JsonValue


def publish(arguments: Publish, sinks: Sinks, call_id: str) -> dict[str, Any]:
    """Publish one message, confirmed.

    Raises:
        SchemaMismatch: no queue of a domain is bound for it.
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


class Infer(Arguments):
    """Ask a model.

    Attributes:
        model: its name.
        inputs: its inputs.
        request_id: comes back with the result; the id of the call if not given.
        version: of the model; the server's choice if not given.
        wait_seconds: how long to wait for the result; not at all if not given.
    """

    model: ModelName
    inputs: Annotated[list[JsonTensor], Field(min_length=1)]
    request_id: RequestId | None = None
    version: Version | None = None
    wait_seconds: Annotated[float, Field(gt=0, le=LONGEST_WAIT_SECONDS)] | None = None


def infer(arguments: Infer, sinks: Sinks, call_id: str) -> dict[str, Any]:
    """Publish a request to a model, and wait for its result if told to.

    Raises:
        SinkRejected: the model's result is an error.
        NoAnswer: there was no result in time; the request goes on.
        Transient: the broker is away.
    """
    request_id = arguments.request_id or call_id
    record = arguments.model_dump(exclude={"wait_seconds"}, exclude_none=True)
    request = Outgoing(
        AI_EXCHANGE,
        f"ai.model.{arguments.model}",
        to_json({**record, "request_id": request_id}),
        call_id,
        timestamp=time.time(),
    )
    if arguments.wait_seconds is None:
        sinks[PUBLISHER].publish([request])
        return {"request_id": request_id}
    answers = f"ai.result.{arguments.model}"
    with subscribed(sinks.settings.env.amqp_url, AI_EXCHANGE, answers) as listener:
        sinks[PUBLISHER].publish([request])
        body = listener.first(
            lambda body: _is_answer(body, request_id), arguments.wait_seconds
        )
    if body is None:
        message = (
            f"model {arguments.model} gave no result within "
            f"{arguments.wait_seconds:g} s; the request goes on, and its result is "
            f"published to exchange {AI_EXCHANGE} as {answers}"
        )
        raise NoAnswer(message)
    result: dict[str, Any] = from_json(body)
    if (reason := result.get("error")) is not None:
        raise SinkRejected(str(reason))
    return result


def _is_answer(body: bytes, request_id: str) -> bool:
    try:
        result = from_json(body)
    except ValueError:
        return False
    return isinstance(result, dict) and result.get("request_id") == request_id


def _matcher(text: str) -> str:
    return str(parse_matcher(text))


class SilenceAlerts(Arguments):
    """Hear nothing of some alerts for a while.

    Attributes:
        matchers: conditions that must all hold, as of ``meshtasks alerts silence``.
        lasts: how long, such as ``2h`` or ``1h30m``.
        comment: why.
        created_by: who.
    """

    matchers: Annotated[
        list[Annotated[str, AfterValidator(_matcher)]], Field(min_length=1)
    ]
    lasts: Span
    comment: str = ""
    created_by: str = "a command"


def silence_alerts(
    arguments: SilenceAlerts, sinks: Sinks, call_id: str
) -> dict[str, Any]:
    """Silence alerts, on the host of the worker that runs this.

    Raises:
        Transient: the state of alerts is being written by somebody else.
        SinkUnavailable: it cannot be written.
    """
    now = time.time()
    digest = hashlib.blake2b(call_id.encode(), digest_size=_SILENCE_ID_BYTES)
    silence = Silence(
        digest.hexdigest(),
        tuple(arguments.matchers),
        now,
        now + arguments.lasts,
        arguments.created_by,
        arguments.comment,
    )
    with sinks[ALERT_STATE].transaction() as tables:
        begin(tables, silence)
    return {"silence_id": silence.id, "ends_at": silence.ends_at}


class ReplayDeadLetters(Arguments):
    """Give dead letters back; a selection as of ``meshtasks dlq replay``.

    Attributes:
        ids: these, by the beginnings of their ids.
        reason: those that died of this.
        queue: those that died in it.
        older_than: those that died longer ago, such as ``2h``.
        newer_than: those that died since then.
        every: all of them, where nothing else is given.
        rate: messages a second, at most.
    """

    ids: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{4,12}$")], ...] = ()
    reason: str = ""
    queue: str = ""
    older_than: Span | None = None
    newer_than: Span | None = None
    every: bool = False
    rate: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _selects_something(self) -> Self:
        spans = self.older_than, self.newer_than
        if not (self.ids or self.reason or self.queue or any(spans) or self.every):
            message = (
                "which? Expected ids, reason, queue, older_than, newer_than or "
                "every: true"
            )
            raise ValueError(message)
        return self


def replay_dead_letters(
    arguments: ReplayDeadLetters, sinks: Sinks, _call_id: str
) -> dict[str, Any]:
    """Give dead letters back to the queues they failed in, and to no others.

    Raises:
        Transient: the broker went away, or somebody else is looking at the queue.
    """
    env, topology = sinks.settings.env, sinks.settings.read(TOPOLOGY)
    now = time.time()
    selection = Selection(
        ids=arguments.ids,
        reason=arguments.reason,
        queue=arguments.queue,
        failed_before=_ago(now, arguments.older_than),
        failed_after=_ago(now, arguments.newer_than),
    )
    result = Replay(
        env.amqp_url,
        topology.dead_letter_queue,
        selection,
        lambda letter: requeue_targets(letter, topology),
        rate=arguments.rate,
    ).run()
    return {"given_back": dict(result.requeued), "kept": dict(result.kept)}


def _ago(now: float, span_seconds: float | None) -> float | None:
    return None if span_seconds is None else now - span_seconds


_ALL: tuple[Command[Any], ...] = (
    Command("publish", Publish, publish, frozenset({"publish", "trigger"})),
    Command("infer", Infer, infer, frozenset({"trigger"})),
    Command(
        "replay_dead_letters",
        ReplayDeadLetters,
        replay_dead_letters,
        frozenset({"operate"}),
    ),
    Command("silence_alerts", SilenceAlerts, silence_alerts, frozenset({"operate"})),
)

#: By name.
COMMANDS = {command.name: command for command in _ALL}
