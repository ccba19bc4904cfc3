"""The errors that the mesh raises deliberately.

The class of an error decides the outcome of a message (see :mod:`meshtasks.outcome`):
:class:`InvalidMessage` and :class:`SinkRejected` make it a dead letter,
:class:`Transient` a retry. The first line of a class's docstring is its default
message.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from traceback import extract_tb
from typing import Any

from typing_extensions import override

from meshtasks.text import ends, masked

#: Most characters quoted of an exception from code outside this package.
_QUOTED_CHARS = 300
#: Beginnings of file names in tracebacks: this package, and Python's import system.
_OUR_CODE = (
    "<frozen",
    *(str(Path(each).parent) for each in (__file__, importlib.__file__)),
)


class MeshError(Exception):
    """Something in the mesh went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(masked(message or (self.__doc__ or "").partition("\n")[0]))


class ConfigError(MeshError):
    """The configuration cannot be used.

    Args:
        source: the file at fault, ``environment``, or a command.
        key: dotted path of the value in the file, or name of the variable or option.
        expected: what was expected, and what was found instead.
        line: line number in the file, counted from 1; None if there is none.
        more: further faults found with this one.
    """

    exit_code = 78  # EX_CONFIG of sysexits.h

    def __init__(
        self,
        source: str,
        key: str,
        expected: str,
        line: int | None = None,
        more: tuple[ConfigError, ...] = (),
    ) -> None:
        self.source, self.key, self.expected = source, key, expected
        self.line, self.more = line, more
        place = source if line is None else f"{source}:{line}"
        super().__init__(f"{place}: {key}: {expected}")

    @override
    def __reduce__(self) -> tuple[type[ConfigError], tuple[Any, ...]]:
        return type(self), (self.source, self.key, self.expected, self.line, self.more)


class InvalidMessage(MeshError):
    """The message cannot be processed, now or later."""


class UndecodableMessage(InvalidMessage):
    """The body is not UTF-8 JSON within the mesh's limits."""


class SchemaMismatch(InvalidMessage):
    """The record lacks a required field, or a field has the wrong type."""


class UnknownUnit(InvalidMessage):
    """The unit is not one the mesh can convert to the canonical unit."""


class Transient(MeshError):
    """A fault that may pass; the message is retried with backoff.

    Args:
        retry_after_seconds: wait that the other side requests; None without one.
    """

    retry_after_seconds: float | None = None

    def __init__(
        self, message: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PublishUnconfirmed(Transient):
    """The broker did not confirm a published message."""


class PublishRefused(PublishUnconfirmed):
    """Some messages cannot be published, although the broker answers.

    Args:
        refused: the refused messages, as the same objects that were passed to the
            call. All other messages of the call are confirmed.
        misfits: the refused messages that AMQP or the broker can never accept. The
            others lack an exchange, or the right to publish to it.
        routes: (exchange, routing key) pairs of confirmed messages that no queue got.
    """

    def __init__(
        self,
        message: str | None = None,
        refused: tuple[object, ...] = (),
        misfits: tuple[object, ...] = (),
        routes: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        super().__init__(message)
        self.refused = refused
        self.misfits = misfits
        self.routes = routes


class SinkUnavailable(Transient):
    """A sink could not be reached or is overloaded: refused, timeout, 429, 5xx.

    Args:
        sink: name of the sink, and of its circuit.
    """

    sink = ""

    def __init__(
        self,
        sink: str,
        message: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_seconds)
        self.sink = sink


class SinkRejected(MeshError):
    """A sink refused this data for good (a 4xx): sending it again cannot help."""


class NoAnswer(MeshError):
    """There was no answer in time."""


class Unroutable(MeshError):
    """No queue is bound for the exchange and routing key of a published message.

    Args:
        routes: the (exchange, routing key) pairs to which no queue is bound.
    """

    def __init__(self, routes: frozenset[tuple[str, str]]) -> None:
        self.routes = routes
        named = ", ".join(
            f"exchange {exchange!r} with routing key {routing_key!r}"
            for exchange, routing_key in sorted(routes)
        )
        super().__init__(f"no queue is bound for {named}")

    @override
    def __reduce__(self) -> tuple[type[Unroutable], tuple[frozenset[tuple[str, str]]]]:
        return type(self), (self.routes,)


def text_of(error: BaseException) -> str:
    """The text of an exception, without secrets.

    If ``str`` of the exception fails, the text says so.
    """
    try:
        return masked(str(error))
    except Exception as fault:  # noqa: BLE001 - a foreign __str__ may raise anything
        return f"its text cannot be made ({type(fault).__name__})"


def told(error: BaseException) -> str:
    """One line about an exception from code outside this package.

    It has the class, the text, and the last line of the traceback that is neither in
    this package nor in Python's import system.
    """
    says = ends(" ".join(text_of(error).split()), _QUOTED_CHARS)
    what = f"{type(error).__name__}: {says}" if says else type(error).__name__
    for frame in reversed(extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_OUR_CODE):
            return f"{what} ({Path(frame.filename).name}, line {frame.lineno})"
    return what
