"""The contract of flows: handlers of queues, commands, timers and checks."""

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

#: What a caller may do: publish records, call commands that do work, read the console,
#: change how the mesh runs (and read), read only the gateway's metrics.
Scope = Literal["publish", "trigger", "view", "operate", "metrics"]


#: A duration in seconds, written as text such as ``2h``.
Span = Annotated[
    Duration,
    Field(gt=0),
    WithJsonSchema({"type": "string", "examples": ["2h", "1h30m", "7d"]}),
]


#: One entry of the section Attributes of a docstring, continuation lines included.
_ATTRIBUTE = re.compile(r"^ {4}(?P<name>\w+): (?P<text>.*(?:\n {5,}.*)*)", re.MULTILINE)


def describe_properties(schema: dict[str, Any]) -> None:
    """Move the section Attributes of a docstring into descriptions of the properties.

    Args:
        schema: JSON schema of a class, with its docstring as ``description``.
    """
    # Python 3.13 removes the indentation of docstrings, older versions do not.
    text = cleandoc(schema["description"])
    summary, _, attributes = text.partition("\nAttributes:\n")
    schema["description"] = summary.rstrip().replace("``", "`")
    for found in _ATTRIBUTE.finditer(attributes):
        described = schema.get("properties", {}).get(found["name"])
        if described is not None:
            text = " ".join(found["text"].replace("``", "`").split())
            described.setdefault("description", text)


class Arguments(BaseModel):
    """Base class of the arguments of commands; unknown arguments are invalid.

    The docstring's section Attributes gives the descriptions in the JSON schema. The
    gateway documents the schema, and the console makes a form of it.
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
        name: name of its Celery task.
        arguments: model of its arguments.
        run: runs it, and returns the answer, which is JSON. It gets the arguments, the
            sinks of the process and the id of the call. If the worker was killed, it is
            called again with the same id; that must have no further effect.
        scopes: scopes that a caller needs, all of them.
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
            SchemaMismatch: an argument is missing, unknown or invalid.
            MeshError: :attr:`run` raised it.
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
        queue: queue from which they were consumed.
        records: the records; a message that is an array has several.
        envelopes: the message of each record (same length as ``records``).
        indexes: index of each record in the array of its message (same length); None if
            the message is not an array.
    """

    queue: str
    records: list[R]
    envelopes: list[Envelope]
    indexes: list[int | None]


Handle = Callable[[Batch[Any], Sinks], list[Outcome]]

#: Finds the records that the handler would declare dead before it does anything.
#: Arguments: records, the message of each, settings. Result: reasons by index.
Validate = Callable[[Sequence[Any], Sequence[Envelope], Settings], Mapping[int, Dead]]


#: Gives messages to publish besides the dead letter of a message whose retries are
#: exhausted. Arguments: the message (its body has the failed records), the reason, the
#: settings.
OnExhausted = Callable[[Envelope, str, Settings], Sequence[Outgoing]]


#: Gives the original messages of a message that is dead.
Originals = Callable[[FailedMessage], Sequence[FailedMessage]]


def _nothing(*_: object) -> tuple[()]:
    return ()


@dataclass(frozen=True, slots=True)
class Timer:
    """Work that depends on the time, not on a message.

    The worker runs it every second and after every batch of its handlers, in a thread
    of the consuming process. So it must be fast if nothing is due.

    Attributes:
        run: does the work that is due. The worker may be killed while it runs, and
            several workers may run it at the same time; it must tolerate both.
        check: raises ConfigError for settings with which :attr:`run` cannot work.
    """

    run: Callable[[Sinks], None]
    check: Callable[[Settings], None]


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler of a queue, and how the worker must treat it.

    Attributes:
        queue: name of the queue; also the name of its Celery task.
        handle: handles a batch; returns one outcome per record, in order.
        record: type into which each JSON object is validated: a pydantic model, or
            another type that ``TypeAdapter`` accepts.
        sinks: sinks that it uses. While the circuit of one is open, the queue is
            paused.
        bare_value: whether a body that is a JSON number means ``{"value": number}``.
        telegraf: whether a body may also have Telegraf's formats: an object whose
            member ``metrics`` is an array, or line protocol.
        timer: other work to do while the queue is consumed.
        gathers: whether a batch always waits for its count, bytes or age, because each
            batch becomes one object. Otherwise a message of an idle queue is handled
            at once.
        validate: the part of :attr:`handle` that finds bad records, for the gateway.
        struct: type of the records that :attr:`handle` gets instead of ``record``: a
            faster decoder for the usual records. It must reject every record that
            ``record`` rejects.
        on_exhausted: gives messages to publish for a message that is dead after its
            last retry. It runs in the consuming process and must not raise for any
            body.
        defers: whether a batch whose sink is unavailable publishes its data to the
            sink's queue (:attr:`~meshtasks.flows.sinks.SinkKey.waits_in`) and is done,
            like :func:`~meshtasks.flows.pipeline.store_points`. Its queue is paused
            only while that queue accepts no messages either.
        in_thread: whether its batches run one at a time in a thread of the consuming
            process. In the pool they would block processes while their sink hangs.
        originals: gives the messages to dead-letter instead of a message, or of a part
            of it, that is dead.
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
        """Names of :attr:`sinks`, and of the queues in which their data may wait."""
        names = [key.name for key in self.sinks]
        if self.defers:
            names += [key.waits_in for key in self.sinks if key.waits_in]
        return tuple(names)

    def __call__(self, batch: Batch[Any], sinks: Sinks) -> list[Outcome]:
        """Handle a batch."""
        return self.handle(batch, sinks)


class Options(TypedDict, total=False):
    """Attributes of :class:`Handler` that have a default."""

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
    """Make the decorated function the :class:`Handler` of a queue.

    Args:
        queue: see :class:`Handler`, like all other arguments.
        record: type of the records.
        sinks: sinks that the function uses.
        options: attributes that have a default.
    """

    def made(handle: Handle) -> Handler:
        return Handler(queue, handle, record, sinks, **options)

    return made


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow, as the composition root gets it.

    Attributes:
        name: its name in queues.yaml and in texts.
        handlers: handlers of its own queues.
        by_kind: makes the handler of a queue that queues.yaml assigns to this flow,
            from the name of the queue and its kind in kinds.yaml.
        files: files of config/ that it uses; they are read at the start.
        sinks: sinks that ``doctor`` probes, except those that :attr:`checks` test.
        commands: its commands, for Flower, the gateway and scripts.
        validate: gives errors of the environment at the start.
        checks: gives checks for ``doctor``.
        doubts: gives warnings and notes for ``config check``, from the settings and
            all handlers by queue. It is called only if the files have no errors.
        explain: gives details of how a message is handled, for ``config check
            --explain``, from the settings, a handler of this flow and a routing key.
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
