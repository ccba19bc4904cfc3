"""Refuses messages that the handlers of their queues would dead-letter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import islice

from pydantic import ValidationError

from meshtasks.amqp.entities import SHORT_STRING_LIMIT_BYTES
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage
from meshtasks.flows.contract import Handler
from meshtasks.gateway.problems import (
    MOST_ERRORS,
    FieldError,
    Problem,
    pointer,
)
from meshtasks.observation.verdicts import Verdicts
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import faults


class Validator:
    """Validates messages by the topology and by the handlers.

    Args:
        settings: the settings of the process.
        handlers: handlers by queue.

    Attributes:
        verdicts: validates messages by their handlers.
    """

    def __init__(self, settings: Settings, handlers: Mapping[str, Handler]) -> None:
        self._settings = settings
        self._handlers = handlers
        self.verdicts = Verdicts(settings, handlers)

    def check(
        self, exchange: str, routing_key: str, body: bytes, *above: str
    ) -> Sequence[str]:
        """Validate a message for every queue that it would reach.

        Args:
            above: location of the message in the request, if it is only a part of it.

        Returns:
            The queues, sorted by name.

        Raises:
            Problem: 404 if no queue of a domain would get the message, 413 if it is too
                large for one, 422 if it would be a dead letter.
        """
        if len(routing_key.encode()) > SHORT_STRING_LIMIT_BYTES:
            detail = f"The routing key has more than {SHORT_STRING_LIMIT_BYTES} bytes."
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
        queues = self._settings.read(TOPOLOGY).handled_queues(exchange, routing_key)
        if not queues:
            detail = self._unroutable(exchange, routing_key)
            raise Problem(HTTPStatus.NOT_FOUND, detail)
        for queue in queues:
            limit = self.verdicts.largest_bytes(queue)
            if len(body) > limit:
                detail = f"Queue {queue} takes messages of {limit} bytes at most."
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        found = dict.fromkeys(
            error
            for queue in sorted(queues & self._handlers.keys())
            for error in islice(
                self._errors(_envelope(exchange, routing_key, queue, body), above),
                MOST_ERRORS,  # an array of 1 MiB may have half a million errors
            )
        )
        if found:
            detail = (
                "The message would be a dead letter; see errors (the first hundred)."
            )
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, list(found))
        return sorted(queues)

    def alerts_in(self, queues: Iterable[str], body: bytes) -> int:
        """The number of alerts in a message that :meth:`check` has accepted."""
        queue = next((each for each in queues if each.startswith("alerts.")), None)
        return (
            0
            if queue is None
            else len(self.verdicts.decoder(queue).decode(body).records)
        )

    def _errors(self, envelope: Envelope, above: Sequence[str]) -> Iterator[FieldError]:
        for place, fault in self.verdicts.faults(envelope):
            where = (*above, *(() if place is None else (place,)))
            if isinstance(fault, str):
                yield FieldError(pointer(where), fault)
            else:
                yield from _field_errors(fault, where)

    def _unroutable(self, exchange: str, routing_key: str) -> str:
        topology = self._settings.read(TOPOLOGY)
        open_to_all = {
            binding.exchange
            for binding in topology.bindings
            if binding.queue in topology.domain_queues
        }
        if exchange not in open_to_all:
            names = ", ".join(sorted(open_to_all))
            return f"There is no exchange {exchange} to publish to, only {names}."
        keys = ", ".join(
            binding.routing_key
            for binding in topology.bindings
            if binding.exchange == exchange
        )
        return (
            f"No queue is bound to exchange {exchange} for {routing_key}; the bindings "
            f"are {keys}."
        )


def _envelope(exchange: str, routing_key: str, queue: str, body: bytes) -> Envelope:
    now = time.time()
    return Envelope(body, exchange, routing_key, queue, None, now, now, {})


def _field_errors(
    error: InvalidMessage, above: Sequence[str | int]
) -> list[FieldError]:
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        found = cause.errors(include_url=False)
        if found[0]["type"] != "json_invalid":
            return [
                FieldError(pointer((*above, *fault.place)), fault.reason)
                for fault in faults(found)
            ]
    return [FieldError(pointer(above), str(error))]
