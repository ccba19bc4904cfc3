"""Check messages as the handler of their queue would; the messages stay as they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from itertools import islice

from meshtasks.amqp.dead_letters import DeadLetter, replay_messages, requeue_targets
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage, told
from meshtasks.flows.contract import Handler
from meshtasks.records.envelope import Envelope, envelope_of
from meshtasks.worker.decode import Decoder, Several

logger = logging.getLogger(__name__)

#: The broker's reason for a message that was delivered too often: it ended its worker.
_DELIVERY_LIMIT = "delivery_limit"
#: An array may contain half a million bad records.
_MOST_REASONS = 10


class Verdicts:
    """Checks messages as their handlers would.

    Args:
        handlers: handlers by queue.
    """

    def __init__(self, settings: Settings, handlers: Mapping[str, Handler]) -> None:
        self._settings = settings
        self._topology = settings.read(TOPOLOGY)
        self._handlers = handlers
        self._decoders = {
            queue: Decoder(handler, settings.read(QUEUES).for_queue(queue).max_records)
            for queue, handler in handlers.items()
        }

    def decoder(self, queue: str) -> Decoder:
        """The decoder of a queue's messages."""
        return self._decoders[queue]

    def largest_bytes(self, queue: str) -> int:
        """The size limit of a queue's messages, bytes."""
        return self._settings.read(QUEUES).for_queue(queue).max_message_bytes

    def faults(
        self, envelope: Envelope
    ) -> Iterator[tuple[int | None, InvalidMessage | str]]:
        """The faults of a message, in no order; nothing if its queue would accept it.

        Yields:
            The index of a record in its array, or None for the whole message; and the
            error, or the handler's reason.
        """
        decoder = self._decoders[envelope.queue]
        try:
            decoded = decoder.decode(envelope.body)
        except InvalidMessage as error:
            yield None, error
            return
        several = decoded.several or Several(envelope.body)
        members = several.members() if decoded.bad else ()
        for member, fault in decoded.bad:
            if several.lines and not members[member].startswith(b"{"):
                yield member, fault.reason
                continue
            try:
                decoder.decode_object(members[member])
            except InvalidMessage as error:
                yield member, error
        records = decoded.records
        try:
            refused = self._handlers[envelope.queue].validate(
                records, [envelope] * len(records), self._settings
            )
        except Exception as error:  # noqa: BLE001 - of a flow: the worker will judge
            text = "validate of the handler of %s failed: %s"
            logger.error(text, envelope.queue, told(error))  # noqa: TRY400 - says it all
            return
        for index, dead in sorted(refused.items()):
            yield decoded.indexes[index], dead.reason

    def of_replay(
        self, delivery: Delivery, letter: DeadLetter, body: bytes | None = None
    ) -> list[str]:
        """The first reasons why a replay of a dead letter would fail again.

        The list is empty if none is found. A sink may still reject the message.

        Args:
            delivery: the dead letter's message.
            letter: its reason and origin.
            body: replayed in place of the message's own body.
        """
        queues = requeue_targets(letter, self._topology)
        if isinstance(queues, str):
            return [queues]
        (message, *_) = replay_messages(
            delivery, letter, queues, replayed_at="now", body=body
        )
        again = Delivery(
            0,
            message.body,
            letter.exchange,
            letter.routing_key,
            {**(message.properties or {}), "application_headers": message.headers},
            redelivered=False,
            received_at=letter.failed_at or time.time(),
        )
        for queue in queues:
            if len(again.body) > (most := self.largest_bytes(queue)):
                return [f"{queue} takes messages of {most:,} bytes at most"]
        faults = (
            str(fault) if index is None else f"record {index + 1}: {fault}"
            for queue in queues
            if queue in self._handlers
            for index, fault in self.faults(envelope_of(again.to_wire(), queue))
        )
        return list(islice(faults, _MOST_REASONS))

    def refusal(self, delivery: Delivery, letter: DeadLetter) -> str | None:
        """Why a replay of all that would succeed omits a dead letter; None if it does
        not."""
        if letter.kind == _DELIVERY_LIMIT:
            return "it ended its worker; replay it by its id"
        return "it would fail again" if self.of_replay(delivery, letter) else None
