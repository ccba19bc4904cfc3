"""What a flow gives to the mesh: handlers of queues, commands and the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import Struct
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema
from typing_extensions import TypedDict, Unpack, override

from meshtasks.amqp.dead_letters import FailedMessage
from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.durations import Duration
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError, SchemaMismatch
from meshtasks.flows.diagnosis import Check, Detail, Doubt
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import explain

#: What a caller must be allowed: to put records into the mesh, to have it do work,
#: to look at the console, to change how it is operated (and look); to see the
#: gateway's metrics and nothing else.
Scope = Literal["publish", "trigger", "view", "operate", "metrics"]


#: Seconds, given as text.
Span = Annotated[
    Duration,
    Field(gt=0),
    WithJsonSchema({"type": "string", "examples": ["2h", "1h30m", "7d"]}),
]


#: Of the section of a docstring, up to the next of them.
_ATTRIBUTE = re.compile(r"^ {4}(?P<name>\w+): (?P<text>.*(?:\n {5,}.*)*)", re.MULTILINE)


def describe_properties(schema: dict[str, Any]) -> None:
    """Turn a docstring's section Attributes into descriptions of the properties.

    Args:
        schema: JSON schema of a class, with its docstring as ``description``.
    """
    # Python 3.13 takes the indentation out of docstrings, those before do not.
    text = cleandoc(schema["description"])
    summary, _, attributes = text.partition("\nAttributes:\n")
    schema["description"] = summary.rstrip().replace("``", "`")
    for found in _ATTRIBUTE.finditer(attributes):
        described = schema.get("properties", {}).get(found["name"])
        if described is not None:
            text = " ".join(found["text"].replace("``", "`").split())
            described.setdefault("description", text)


class Arguments(BaseModel):
    """Base of the arguments of commands; there are no others than those named.

    What a docstring says of an attribute stands in the JSON schema, which the gateway
    documents, and of which the console makes a form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    @override
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["description"] = cls.__doc__ or ""
        describe_properties(schema)
        return schema


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Command(Generic[A]):
    """A command.

    Attributes:
        name: of its Celery task.
        arguments: the model of its arguments.
        run: does it, and gives the answer, which is JSON. It is given its arguments,
            the process's sinks and the id of the call; called again with the same
            id, after its worker was killed, it does no more than called once.
        scopes: what a caller must be allowed, all of it.
    """

    name: str
    arguments: type[A]
    run: Callable[[A, Sinks, str], dict[str, Any]]
    scopes: frozenset[Scope]

    def call(
        self, arguments: Mapping[str, Any], sinks: Sinks, call_id: str
    ) -> dict[str, Any]:
        """Check the arguments and run the command.

        Raises:
            SchemaMismatch: an argument is missing, unknown or wrong.
            MeshError: what :attr:`run` raises.
        """
        try:
            checked = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise SchemaMismatch(explain(error)) from error
        return self.run(checked, sinks, call_id)


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """The valid records of one batch of messages, in order of arrival.

    Attributes:
        queue: the queue they were consumed from.
        records: the records; an array message gives several.
        envelopes: for each record, the message it came in (same length).
        indexes: for each record, its index in that message's array (same length);
            None if the message is no array.
    """

    queue: str
    records: list[R]
    envelopes: list[Envelope]
    indexes: list[int | None]


Handle = Callable[[Batch[Any], Sinks], list[Outcome]]

#: Valid records that a handler will find dead before it does anything, by index; given
#: the records, the message each came in, and the settings.
Validate = Callable[[Sequence[Any], Sequence[Envelope], Settings], Mapping[int, Dead]]


#: What is published beside the dead letter when the worker gives a message up; given
#: the message (its body is the JSON of the records that failed), why, and the settings.
OnExhausted = Callable[[Envelope, str, Settings], Sequence[Outgoing]]


#: The messages that are behind a dead one.
Originals = Callable[[FailedMessage], Sequence[FailedMessage]]


def _nothing(*_: object) -> tuple[()]:
    return ()


@dataclass(frozen=True, slots=True)
class Timer:
    """Work that is due by the clock, not by a message.

    The worker runs it once a second, and after every batch of its handlers, in a
    thread of the consuming process; so it must not take much when nothing is due.

    Attributes:
        run: does what is due. A worker may be killed meanwhile, and those of one
            host run it side by side: what it does must stand both.
        check: refuses settings that :meth:`run` could not work with.
    """

    run: Callable[[Sinks], None]
    check: Callable[[Settings], None]


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler and what the worker must know of it.

    Attributes:
        queue: the queue it handles; also the name of its Celery task.
        handle: gives one outcome per record of the batch, in order.
        record: type that each JSON object is validated into (a pydantic model
            or anything else ``TypeAdapter`` takes).
        sinks: what it writes to; when the circuit of one of them
            opens, the queue is not consumed.
        bare_value: a body that is a bare JSON number stands for
            ``{"value": number}``.
        telegraf: a body may also be what Telegraf makes of metrics: an object whose
            member ``metrics`` is an array of them, or line protocol.
        timer: what else there is to do while its queue is consumed.
        gathers: a batch waits for its count, bytes or age even while its queue is idle,
            because each becomes one object; without it a message that meets an idle
            queue is handled at once.
        validate: the part of :attr:`handle` that finds bad records, for the gateway.
        struct: what :attr:`handle` is given instead of ``record``: a faster reader of
            the usual records, which must refuse whatever ``record`` would.
        on_exhausted: what else to publish for a message that is dead after its last
            retry. It runs in the consuming process and must not raise, whatever the
            body is.
        defers: a batch whose sink is away puts what is for it into the sink's queue
            (:attr:`~meshtasks.flows.sinks.SinkKey.waits_in`) and is done; its queue is
            paused only while that one takes no more, either. As
            :func:`~meshtasks.flows.pipeline.store_points` does.
        in_thread: its batches run in a thread of the consuming process, one at a time,
            and not in the pool, which they would hold up while their sink hangs.
        originals: of a message, or a part of it, that is dead: what to dead-letter in
            its place.
    """

    queue: str
    handle: Handle
    record: Any
    sinks: tuple[SinkKey[Any], ...]
    bare_value: bool = False
    telegraf: bool = False
    timer: Timer | None = None
    gathers: bool = False
    validate: Validate = lambda *_: {}
    struct: type[Struct] | None = None
    on_exhausted: OnExhausted = _nothing
    defers: bool = False
    in_thread: bool = False
    originals: Originals = lambda failing: (failing,)

    @property
    def sink_names(self) -> tuple[str, ...]:
        """Names of :attr:`sinks`, and of the queues where what is for them may wait."""
        names = [key.name for key in self.sinks]
        if self.defers:
            names += [key.waits_in for key in self.sinks if key.waits_in]
        return tuple(names)

    def __call__(self, batch: Batch[Any], sinks: Sinks) -> list[Outcome]:
        """Handle a batch."""
        return self.handle(batch, sinks)


class Options(TypedDict, total=False):
    """What :class:`Handler` has a default for."""

    bare_value: bool
    telegraf: bool
    timer: Timer | None
    gathers: bool
    validate: Validate
    struct: type[Struct] | None
    on_exhausted: OnExhausted
    defers: bool
    in_thread: bool
    originals: Originals


def handles(
    queue: str,
    *,
    record: Any,
    sinks: tuple[SinkKey[Any], ...],
    **options: Unpack[Options],
) -> Callable[[Handle], Handler]:
    """Make the decorated function the handler of ``queue``."""

    def made(handle: Handle) -> Handler:
        return Handler(queue, handle, record, sinks, **options)

    return made


@dataclass(frozen=True, slots=True)
class Flow:
    """What a flow gives to the mesh; one object a flow.

    Attributes:
        name: by which queues.yaml and messages call it.
        handlers: of the queues that it knows by itself.
        by_kind: makes the handler of a queue that queues.yaml gives to this flow,
            from the queue's name and its kind of kinds.yaml.
        files: files of config/ that it reads; read at the start.
        sinks: those that ``doctor`` probes; not those that
            :attr:`checks` look at.
        commands: for Flower, the gateway and scripts.
        validate: faults of the environment, found at the start.
        checks: for ``doctor``.
        doubts: warnings and notes for ``config check``; given the handlers of the
            mesh by queue. The files are without faults.
        explain: what a message meets, for ``config check --explain``; given the
            handler, which is of this flow, and the routing key.
    """

    name: str
    handlers: tuple[Handler, ...] = ()
    by_kind: Callable[[str, str], Handler] | None = None
    files: tuple[ConfigFile[Any], ...] = ()
    sinks: tuple[SinkKey[Any], ...] = ()
    commands: tuple[Command[Any], ...] = ()
    validate: Callable[[Settings], Iterable[ConfigError]] = _nothing
    checks: Callable[[Settings], Iterable[Check]] = _nothing
    doubts: Callable[[Settings, Mapping[str, Handler]], Iterable[Doubt]] = _nothing
    explain: Callable[[Settings, Handler, str], Iterable[Detail]] = _nothing
