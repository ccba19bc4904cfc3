"""``POST /v1/events/…``: a message into the mesh."""

from __future__ import annotations

import time
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from meshtasks.amqp.publisher import Outgoing
from meshtasks.gateway.access import (
    Accepted,
    Body,
    Caller,
    OnceOnly,
    count_alerts,
    demand,
)
from meshtasks.gateway.context import InContext
from meshtasks.gateway.problems import OF_SUBMITTING, documented

router = APIRouter(tags=["events"])


class Published(BaseModel):
    """A message that the broker has stored.

    Attributes:
        message_id: its id.
        queues: that it went to.
    """

    message_id: str
    queues: list[str]


_RECORDS = {
    "requestBody": {
        "required": True,
        "description": "The record, an array of records, or what else the queues take.",
        "content": {
            "application/json": {"schema": {}, "example": {"value": 21.5, "unit": "°C"}}
        },
    }
}


@router.post(
    "/v1/events/{exchange}/{routing_key}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Published,
    openapi_extra=_RECORDS,
    responses=documented(*OF_SUBMITTING),
)
def publish_event(
    exchange: str,
    routing_key: str,
    context: InContext,
    caller: Caller,
    body: Body,
    once: OnceOnly,
) -> JSONResponse:
    """Publish a message, validated as the handlers of its queues will; 202 once the
    broker has stored it. Needs the scope `publish`."""
    demand(caller, "publish")

    def publish(message_id: str) -> Accepted:
        queues = context.validator.check(exchange, routing_key, body)
        count_alerts(context, caller, context.validator.alerts_in(queues, body))
        message = Outgoing(
            exchange, routing_key, body, message_id, timestamp=time.time()
        )
        context.republisher.publish(message)
        context.observations.published.labels(exchange).inc()
        return Accepted({"message_id": message_id, "queues": list(queues)})

    return once.answer(publish)
