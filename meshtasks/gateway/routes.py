"""Routes of events, which publish a message, and of tasks, which call commands."""

from __future__ import annotations

import time
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pydantic_core import from_json, to_json

from meshtasks.amqp.calls import call_message
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.flows.alerts.handler import SilenceAlerts
from meshtasks.flows.commands import Publish
from meshtasks.flows.contract import Command
from meshtasks.gateway.access import (
    AUTHENTICATED,
    Accepted,
    Body,
    Caller,
    OnceOnly,
    count_alerts,
    demand,
)
from meshtasks.gateway.clients import Client
from meshtasks.gateway.config import GATEWAY
from meshtasks.gateway.context import Context, InContext
from meshtasks.gateway.problems import (
    OF_SUBMITTING,
    FieldError,
    Problem,
    documented,
    example,
)
from meshtasks.gateway.store import ENDED

events = APIRouter(tags=["events"])


class Published(BaseModel):
    """A message that the broker has confirmed."""

    model_config = example(
        message_id="019a1c3e-6f1d-7d0c-8000-5b2c1a9e4f10",
        queues=["sensors.temperature"],
    )

    message_id: str
    queues: Annotated[list[str], Field(description="Queues that have it.")]


_RECORDS = {
    "requestBody": {
        "required": True,
        "description": "A record, an array of records, or any other body that the "
        "queues of the routing key accept.",
        "content": {
            "application/json": {"schema": {}, "example": {"value": 21.5, "unit": "°C"}}
        },
    }
}


@events.post(
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
    """Publish a message, validated like by the handlers of its queues. 202: the broker
    has confirmed it. Needs the scope `publish`."""
    demand(caller, "publish")

    def publish(message_id: str) -> Accepted:
        try:
            queues = context.validator.check(exchange, routing_key, body)
        except Problem as problem:
            context.recorder.refused_here(routing_key, body, problem.sentence)
            raise
        count_alerts(context, caller, context.validator.alerts_in(queues, body))
        message = Outgoing(
            exchange, routing_key, body, message_id, timestamp=time.time()
        )
        context.republisher.publish(message)
        context.observations.published.labels(exchange).inc()
        return Accepted({"message_id": message_id, "queues": list(queues)})

    return once.answer(publish)


_POLL_SECONDS = 1


class Submitted(BaseModel):
    """A task that waits for a worker."""

    model_config = example(
        id="019a1c3e-6f1d-7d0c-8000-5b2c1a9e4f11",
        name="silence_alerts",
        state="pending",
    )

    id: Annotated[str, Field(description="Id for `GET /v1/tasks/{id}`.")]
    name: Annotated[str, Field(description="Name of the command.")]
    state: Annotated[
        str,
        Field(
            description="`pending` until a worker has the task, `started`, `retry` "
            "until the next attempt, `success`, `failure` or `revoked`."
        ),
    ]


class TaskState(Submitted):
    """The state of a task."""

    model_config = example(
        id="019a1c3e-6f1d-7d0c-8000-5b2c1a9e4f11",
        name="silence_alerts",
        state="success",
        result={"silence_id": "5b2c1a9e", "ends_at": 1795442400.0},
        submitted_at=1795435200.0,
        updated_at=1795435200.2,
    )

    result: Annotated[Any, Field(description="Result of a success.")] = None
    error: Annotated[
        str | None, Field(description="Reason of a failure, or of a retry.")
    ] = None
    submitted_at: Annotated[float, Field(description="Unix time in seconds.")]
    updated_at: Annotated[
        float, Field(description="Time of the last change, Unix time in seconds.")
    ]


def tasks(commands: Mapping[str, Command[Any]]) -> APIRouter:
    """The routes of tasks.

    Each command has a route of its own, so that OpenAPI shows its arguments.
    """
    router = APIRouter(tags=["tasks"])
    for command in commands.values():
        router.add_api_route(
            f"/v1/tasks/{command.name}",
            _submitting(command),
            methods=["POST"],
            name=command.name,
            summary=command.name,
            description=_description(command),
            status_code=HTTPStatus.ACCEPTED,
            response_model=Submitted,
            responses=documented(*OF_SUBMITTING),
        )
    router.add_api_route(
        "/v1/tasks/{name}",
        _refuse_unknown,
        methods=["POST"],
        dependencies=[AUTHENTICATED],
        include_in_schema=False,
    )
    router.add_api_route(
        "/v1/tasks/{task_id}",
        show_task,
        methods=["GET"],
        response_model=TaskState,
        responses=documented(
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
        ),
    )
    return router


def _description(command: Command[Any]) -> str:
    what = (command.run.__doc__ or "").partition("\n")[0]
    scopes = ", ".join(f"`{scope}`" for scope in sorted(command.scopes))
    return f"{what}\n\nNeeds the scopes: {scopes}."


def _submitting(command: Command[Any]) -> Callable[..., JSONResponse]:
    def submit(
        arguments: Any, context: InContext, caller: Caller, body: Body, once: OnceOnly
    ) -> JSONResponse:
        demand(caller, *command.scopes)
        try:
            given: dict[str, Any] = from_json(body.removeprefix(BOM_UTF8))
        except ValueError as error:  # FastAPI's parser accepts UTF-16 and "\ud800"
            detail = "The body is not JSON in UTF-8; see errors."
            fault = FieldError("#", str(error))
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, [fault]) from error
        given = checked(context, caller, arguments, given)
        return once.answer(partial(start, context, caller, command, given))

    # FastAPI validates the body by this model, and documents it.
    submit.__annotations__["arguments"] = command.arguments
    return submit


def checked(
    context: Context, caller: Client, arguments: Any, given: dict[str, Any]
) -> dict[str, Any]:
    """Check the arguments of a command beyond what its model checks.

    Args:
        caller: the client that calls the command.
        arguments: the arguments as the command's model.
        given: the same arguments as JSON.

    Returns:
        The arguments to send; a silence also gets the name of the caller.

    Raises:
        Problem: a message to be published would be a dead letter, or exceeds a limit.
    """
    if isinstance(arguments, Publish):
        message = to_json(given["record"], inf_nan_mode="constants")
        exchange, routing_key = arguments.exchange, arguments.routing_key
        queues = context.validator.check(exchange, routing_key, message, "record")
        count_alerts(context, caller, context.validator.alerts_in(queues, message))
    if isinstance(arguments, SilenceAlerts):
        return {**given, "created_by": caller.name}
    return given


def start(
    context: Context,
    caller: Client,
    command: Command[Any],
    arguments: dict[str, Any],
    task_id: str,
) -> Accepted:
    """Call a command, and record its task.

    Raises:
        Problem: the caller lacks a scope.
        Transient: the broker did not confirm the call.
    """
    demand(caller, *command.scopes)
    topology = context.settings.read(TOPOLOGY)
    message = call_message(topology, command.name, arguments, task_id)
    context.store.submitted(task_id, command.name, caller.name, time.time())
    context.republisher.publish(message)
    context.observations.submitted.labels(command.name).inc()
    content = {"id": task_id, "name": command.name, "state": "pending"}
    return Accepted(content, f"/v1/tasks/{task_id}")


def _refuse_unknown(name: str, context: InContext) -> JSONResponse:
    known = ", ".join(sorted(context.commands))
    detail = f"There is no task {name[:100]}, only {known}."
    raise Problem(HTTPStatus.NOT_FOUND, detail)


def show_task(task_id: str, context: InContext, caller: Caller) -> JSONResponse:
    """Return the state of a task: your own, or with the scope `operate` any.
    `Retry-After` says when to ask again."""
    task = context.store.task(task_id)
    if task is None or not (task.client == caller.name or "operate" in caller.scopes):
        days = context.settings.read(GATEWAY).keep_tasks_days
        detail = (
            f"No task of yours has this id, or it ended more than {days:g} days ago."
        )
        raise Problem(HTTPStatus.NOT_FOUND, detail)
    state = TaskState(**task._asdict() | {"state": task.state.lower()})
    headers = {} if task.state in ENDED else {"Retry-After": str(_POLL_SECONDS)}
    return JSONResponse(state.model_dump(), headers=headers)
