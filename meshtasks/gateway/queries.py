"""Read access: ``/v1/status``, ``/v1/archive`` and ``/v1/query``.

These routes use the functions of the console, and return the same data.
"""

from __future__ import annotations

from contextlib import closing
from datetime import date
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from meshtasks.errors import ConfigError, MeshError, Transient
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.archive.reading import Period
from meshtasks.gateway.access import Caller, demand_sight
from meshtasks.gateway.context import InContext
from meshtasks.gateway.problems import Problem, documented, example
from meshtasks.observation.archived import calendar_of
from meshtasks.observation.query import Answered, QueryRefused

router = APIRouter(tags=["read access"])

_OF_READING = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class QueueStatus(BaseModel):
    """A queue. Without the management API, `unacked` and the rates are null."""

    name: str
    ready: Annotated[int, Field(description="Messages ready for delivery.")]
    consumers: int
    unacked: Annotated[
        int | None,
        Field(description="Messages that are delivered and not acknowledged."),
    ]
    in_per_second: float | None
    out_per_second: float | None


class WorkerStatus(BaseModel):
    """A worker that responds."""

    name: str
    consuming: Annotated[list[str], Field(description="Queues that it consumes.")]
    resting: Annotated[list[str], Field(description="Queues that are paused.")]
    down: Annotated[
        dict[str, str],
        Field(description="Sinks whose circuit is open, with the reason."),
    ]
    half_open: Annotated[
        list[str], Field(description="Sinks whose circuit is half-open.")
    ]


class Status(BaseModel):
    """The state of the mesh."""

    model_config = example(
        taken_at=1795435200.0,
        queues=[
            {
                "name": "sensors.temperature",
                "ready": 0,
                "consumers": 1,
                "unacked": 12,
                "in_per_second": 40.2,
                "out_per_second": 40.0,
            }
        ],
        retry={"5": 2},
        dead_letters=3,
        workers=[
            {
                "name": "celery@house",
                "consuming": ["sensors.temperature"],
                "resting": [],
                "down": {},
                "half_open": [],
            }
        ],
        attention=[],
    )

    taken_at: Annotated[float, Field(description="Unix time in seconds.")]
    queues: list[QueueStatus]
    retry: Annotated[
        dict[int, int],
        Field(description="Messages in retry queues, by their wait in seconds."),
    ]
    dead_letters: int
    workers: list[WorkerStatus]
    attention: Annotated[
        list[str], Field(description="What needs attention; empty if everything works.")
    ]


@router.get(
    "/v1/status",
    response_model=Status,
    summary="State of the mesh",
    responses=documented(*_OF_READING),
)
def show_status(context: InContext, caller: Caller) -> dict[str, Any]:
    """Return queues, workers and `attention`, as `meshtasks status --json`. This takes
    a second. Needs the scope `view` or `operate`."""
    # Imports Celery, which an idle gateway does not load.
    from meshtasks.observation.collect import (  # noqa: PLC0415
        Collector,
        ask_workers,
        attention,
    )

    demand_sight(caller)
    settings = context.looking
    try:
        answers = ask_workers(settings.env.amqp_url)
        with Collector(settings) as collector:
            snapshot = collector.snapshot()
    except (Transient, ConfigError) as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
    return {
        "taken_at": snapshot.taken_at,
        "queues": snapshot.queues,
        "retry": snapshot.retry,
        "dead_letters": snapshot.dead_letters,
        "workers": answers,
        "attention": attention(snapshot, answers),
    }


class ArchiveDay(BaseModel):
    """The archived objects of one domain and UTC date."""

    date: date
    domain: str
    objects: int
    size_bytes: Annotated[int, Field(description="Size as stored (compressed).")]
    hours: Annotated[list[int], Field(description="UTC hours with an object.")]


class Archive(BaseModel):
    """Content of the archive."""

    model_config = example(
        days=[
            {
                "date": "2026-11-23",
                "domain": "sensors",
                "objects": 24,
                "size_bytes": 183402,
                "hours": [0, 1, 2, 3],
            }
        ],
        gaps=["2026-11-24"],
        foreign=0,
    )

    days: list[ArchiveDay]
    gaps: Annotated[
        list[date],
        Field(description="Dates between the first and the last without objects."),
    ]
    foreign: Annotated[
        int, Field(description="Number of objects that do not belong to the mesh.")
    ]


@router.get(
    "/v1/archive",
    response_model=Archive,
    summary="Content of the archive, by UTC date",
    responses=documented(*_OF_READING, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def show_archive(
    context: InContext,
    caller: Caller,
    domain: Annotated[
        list[str] | None,
        Query(description="Only these domains.", examples=[["sensors"]]),
    ] = None,
) -> dict[str, Any]:
    """Return objects and bytes by domain and UTC date, and dates without objects. Needs
    the scope `view` or `operate`."""
    demand_sight(caller)
    try:
        with closing(open_store(context.settings.env)) as store:
            calendar = calendar_of(store, Period(), domain or ())
    except MeshError as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
    return {
        "days": [
            {
                "date": day,
                "domain": name,
                "objects": found.objects,
                "size_bytes": found.size_bytes,
                "hours": sorted(found.hours),
            }
            for day, domains in calendar.days.items()
            for name, found in domains.items()
        ],
        "gaps": calendar.gaps(),
        "foreign": calendar.foreign,
    }


class Question(BaseModel):
    """A query."""

    model_config = example(
        sql="SELECT location, avg(value) AS value FROM readings GROUP BY ALL", days=7
    ) | ConfigDict(extra="forbid")

    sql: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100_000,
            description="Query in DuckDB's SQL, over the views readings, metrics, "
            "events, archive.",
        ),
    ]
    days: Annotated[
        int | None,
        Field(ge=1, le=36_500, description="Read only the last N days (UTC)."),
    ] = None
    chart: Annotated[bool, Field(description="Draw a chart of the rows, too.")] = False


class Rows(BaseModel):
    """The result of a query."""

    model_config = example(
        columns=["location", "value"],
        rows=[["attic", 19.4], ["kitchen", 21.7]],
        more=False,
        chart="<svg …>",
        no_chart="",
        notes=[],
    )

    columns: list[str]
    rows: Annotated[list[list[Any]], Field(description="The first 1,000 rows.")]
    more: Annotated[bool, Field(description="True if there are more rows.")]
    chart: Annotated[str | None, Field(description="Chart as SVG, if requested.")]
    no_chart: Annotated[str, Field(description="Reason why there is no chart.")]
    notes: Annotated[list[str], Field(description="Damaged files that were left out.")]


@router.post(
    "/v1/query",
    response_model=Rows,
    summary="SQL query of the archive",
    responses=documented(*_OF_READING, HTTPStatus.UNPROCESSABLE_ENTITY),
)
async def ask(question: Question, context: InContext, caller: Caller) -> Answered:
    """Run a query of the archive and its dataset, as `meshtasks query`. It can only
    read, and is ended after 30 s or with more than 512 MB of memory. Needs the scope
    `view` or `operate`."""
    demand_sight(caller)
    try:
        return await context.queries.run(
            question.sql, question.days, drawn=question.chart
        )
    except QueryRefused as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
