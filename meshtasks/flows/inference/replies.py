"""Answers to those who asked models, published and confirmed together."""

from __future__ import annotations

from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.queues import QUEUES
from meshtasks.errors import InvalidMessage, MeshError, SinkRejected
from meshtasks.flows.inference.requests import Origin
from meshtasks.flows.inference.results import (
    ResultMessage,
    error_message,
    result_message,
)
from meshtasks.flows.inference.stacking import Inference
from meshtasks.flows.sinks import PUBLISHER, Sinks
from meshtasks.outcome import DONE, Outcome, outcome_of

RESULTS_QUEUE = "ai.inference.results"


class Answers:
    """Collects answers until they are published.

    Args:
        sinks: the process's sinks.
        outcomes: by place in the batch; of a request that is answered, only once
            its answer is confirmed.
    """

    def __init__(self, sinks: Sinks, outcomes: dict[int, Outcome]) -> None:
        self._sinks = sinks
        self._outcomes = outcomes
        results = sinks.settings.read(QUEUES).for_queue(RESULTS_QUEUE)
        self._limit_bytes = results.max_message_bytes
        self._messages: list[ResultMessage] = []
        self._answered: dict[int, Outcome] = {}

    def give(self, place: int, origin: Origin, inference: Inference) -> None:
        """Answer a request with what the model made of it."""
        try:
            message = result_message(origin, inference, self._limit_bytes)
        except SinkRejected as error:
            self.refuse(place, origin, error)
        else:
            self._messages.append(message)
            self._answered[place] = DONE

    def refuse(
        self, place: int, origin: Origin | None, error: InvalidMessage | SinkRejected
    ) -> None:
        """Say that there is no answer, and why; the request is dead.

        Args:
            place: of the request in the batch.
            origin: whom to tell; None where nobody can be told.
            error: why.
        """
        dead = outcome_of(error)
        if origin is not None:
            reason = error_message(origin, dead.reason, self._limit_bytes)
            self._messages.append(reason)
        self._answered[place] = dead

    def publish(self) -> None:
        """Publish what was collected; if that fails, the requests are for later."""
        answered, messages = self._answered, self._messages
        self._answered, self._messages = {}, []
        try:
            if messages:
                outgoing = [Outgoing(*message) for message in messages]
                self._sinks[PUBLISHER].publish(outgoing)
        except MeshError as error:
            answered = dict.fromkeys(answered, outcome_of(error))
        self._outcomes |= answered
