"""``GET /v1/status``, what the mesh does; ``/v1/archive`` and ``/v1/query``, what it
keeps. They give what the console shows, by the same functions."""

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

router = APIRouter(tags=["looking"])

_OF_LOOKING = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class QueueStatus(BaseModel):
    """A queue. Without the management API `unacked` and rates are null."""

    name: str
    ready: Annotated[int, Field(description="Messages that wait.")]
    consumers: int
    unacked: Annotated[int | None, Field(description="Messages in work.")]
    in_per_second: float | None
    out_per_second: float | None


class WorkerStatus(BaseModel):
    """A worker that answers."""

    name: str
    consuming: Annotated[list[str], Field(description="Queues that it consumes.")]
    resting: Annotated[list[str], Field(description="Queues that are paused.")]
    down: Annotated[
        dict[str, str], Field(description="Sinks whose circuit is open, and why.")
    ]
    half_open: Annotated[list[str], Field(description="Those that are being tried.")]


class Status(BaseModel):
    """The mesh at one moment."""

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

    taken_at: Annotated[float, Field(description="Epoch seconds.")]
    queues: list[QueueStatus]
    retry: Annotated[
        dict[int, int], Field(description="Messages that wait, by the level's seconds.")
    ]
    dead_letters: int
    workers: list[WorkerStatus]
    attention: Annotated[
        list[str], Field(description="What wants attention; empty is all is well.")
    ]


@router.get(
    "/v1/status",
    response_model=Status,
    summary="What the mesh does",
    responses=documented(*_OF_LOOKING),
)
def show_status(context: InContext, caller: Caller) -> dict[str, Any]:
    """Show queues, workers and what wants attention, as `meshtasks status --json`;
    takes a second. Needs the scope `view` or `operate`."""
    # Celery, which an idle gateway does without
    from meshtasks.observation.collect import Collector  # noqa: PLC0415
    from meshtasks.observation.workers import ask_workers, attention  # noqa: PLC0415

    demand_sight(caller)
    settings = context.looking
    try:
        answers = ask_workers(settings.env.amqp_url)
        address = settings.env.management_url or None
        with Collector(settings, management_url=address) as collector:
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
    """What is archived of one domain and UTC date."""

    date: date
    domain: str
    objects: int
    size_bytes: Annotated[int, Field(description="As stored, so compressed.")]
    hours: Annotated[list[int], Field(description="UTC hours that have an object.")]


class Archive(BaseModel):
    """What is archived."""

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
        Field(description="Dates between the first and the last without anything."),
    ]
    foreign: Annotated[int, Field(description="Objects that are not the mesh's.")]


@router.get(
    "/v1/archive",
    response_model=Archive,
    summary="What is archived, by day",
    responses=documented(*_OF_LOOKING, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def show_archive(
    context: InContext,
    caller: Caller,
    domain: Annotated[
        list[str] | None,
        Query(description="Of these domains only.", examples=[["sensors"]]),
    ] = None,
) -> dict[str, Any]:
    """Show objects and bytes by domain and date, and the days that have none. Needs the
    scope `view` or `operate`."""
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
            description="DuckDB's SQL. Views: readings, metrics, events, archive.",
        ),
    ]
    days: Annotated[
        int | None, Field(ge=1, le=36_500, description="Only the last days (UTC).")
    ] = None
    chart: Annotated[bool, Field(description="Draw the rows, too.")] = False


class Rows(BaseModel):
    """What a query has given."""

    model_config = example(
        columns=["location", "value"],
        rows=[["attic", 19.4], ["kitchen", 21.7]],
        more=False,
        chart="<svg …>",
        no_chart="",
        notes=[],
    )

    columns: list[str]
    rows: Annotated[list[list[Any]], Field(description="The first 1,000 at most.")]
    more: Annotated[bool, Field(description="There are more rows.")]
    chart: Annotated[str | None, Field(description="SVG, if it was asked for.")]
    no_chart: Annotated[str, Field(description="Why there is none.")]
    notes: Annotated[
        list[str], Field(description="What was left out, because it is damaged.")
    ]


@router.post(
    "/v1/query",
    response_model=Rows,
    summary="Ask the archive in SQL",
    responses=documented(*_OF_LOOKING, HTTPStatus.UNPROCESSABLE_ENTITY),
)
async def ask(question: Question, context: InContext, caller: Caller) -> Answered:
    """Answer a query of the archive and its dataset, as `meshtasks query`. It can only
    read, and is ended after 30 s or with more than 512 MB of memory. Needs the scope
    `view` or `operate`."""
    demand_sight(caller)
    try:
        return await context.queries.run(
            question.sql, question.days, drawn=question.chart
        )
    except QueryRefused as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
