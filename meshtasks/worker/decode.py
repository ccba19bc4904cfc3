"""Decodes bytes to valid records; a bad record does not affect the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import FailFast, TypeAdapter, ValidationError

from meshtasks.amqp.queues import DEFAULT_MAX_RECORDS
from meshtasks.errors import (
    InvalidMessage,
    SchemaMismatch,
    Transient,
    UndecodableMessage,
    told,
)
from meshtasks.flows.contract import Handler
from meshtasks.outcome import Dead, dead_of
from meshtasks.records.json_text import (
    DEPTH_LIMIT,
    array_members,
    is_too_deep,
    object_member,
    objects_one_a_line,
    refusal_of,
)
from meshtasks.records.lineprotocol import read_lines
from meshtasks.records.models import explain
from meshtasks.text import described

#: Splits an array without decoding its members.
_MEMBERS = msgspec.json.Decoder(list[msgspec.Raw])
#: First characters of bodies that are only a value, or text that is not JSON.
_VALUE_STARTS = frozenset(range(0x21, 0x7F)) - frozenset(b"{[")
_COMMA = 0x2C


class BadMember(NamedTuple):
    """A record of an array message that is not valid."""

    record_index: int
    dead: Dead


class Several(NamedTuple):
    """The members of a message that is neither one object nor a valid array.

    Attributes:
        array: the same records as a JSON array, so that later code need not know other
            forms. Members that are not valid may be null in it.
        lines: each member as it was written, if the message has one per line.
        parts: each member as it was written, if the message is an array that is not
            valid.
    """

    array: bytes
    lines: Sequence[bytes] = ()
    parts: Sequence[bytes] = ()

    def members(self) -> Sequence[bytes]:
        """Return each member as it was written."""
        return self.lines or self.parts or array_members(self.array)

    def message_of(self, members: Sequence[bytes]) -> bytes:
        """Return some of the members as a message of the same form."""
        if self.lines:
            return b"\n".join(members)
        return b"[" + b",".join(members) + b"]"


class Decoded(NamedTuple):
    """The records of one message.

    Attributes:
        records: valid records.
        indexes: for each record, its index in the message; None if it is the whole
            message.
        bad: members that are not valid.
        several: form of the message if it is neither an object nor a valid array.
    """

    records: list[Any]
    indexes: Sequence[int | None]
    bad: Sequence[BadMember] = ()
    several: Several | None = None


class _StructReader:
    """Decodes the usual bodies of a handler; pydantic decodes the others."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self._struct = struct
        self._one = msgspec.json.Decoder(struct)
        self._many = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type]

    def one(self, body: bytes) -> msgspec.Struct | None:
        """Return the record of a usual body, or None."""
        try:
            return self._one.decode(body)
        except Exception:  # noqa: BLE001 - of msgspec, or of a flow's own class
            return None

    def many(self, body: bytes) -> list[msgspec.Struct]:
        """Return the records of a usual array, or none."""
        try:
            return self._many.decode(body)
        except Exception:  # noqa: BLE001 - as above
            return []

    def of_record(self, record: Mapping[str, Any]) -> msgspec.Struct:
        """Return a record that pydantic has validated as an instance of the class."""
        return self._struct(*map(record.get, self._struct.__struct_fields__))


class Decoder:
    """Validates message bodies for one handler.

    Args:
        handler: handler whose records are decoded.
        max_records: maximum number of records of a message. They are counted before
            they are decoded: a megabyte may contain half a million, and the reason for
            each bad one needs a kilobyte.
    """

    def __init__(
        self, handler: Handler, max_records: int = DEFAULT_MAX_RECORDS
    ) -> None:
        self._max_records = max_records
        self._one: TypeAdapter[Any] = TypeAdapter(handler.record)
        members: Any = list[handler.record]  # type: ignore[name-defined]
        self._many: TypeAdapter[list[Any]] = TypeAdapter(Annotated[members, FailFast()])
        self._bare_value = handler.bare_value
        self._telegraf = handler.telegraf
        self._structs = _StructReader(handler.struct) if handler.struct else None

    def decode_object(self, body: bytes) -> Any:
        """Return the record of a body that is one JSON object.

        Raises:
            InvalidMessage: it is not JSON, or not such a record.
        """
        if self._structs and (struct := self._structs.one(body)) is not None:
            return struct
        try:
            return self._validated(body)
        except ValidationError as error:
            raise _as_invalid(body, error) from error
        except (InvalidMessage, MemoryError, Transient):
            raise
        except Exception as error:  # a validator may be code of a flow
            message = f"what validates the record failed: {told(error)}"
            raise SchemaMismatch(message) from error

    def _decode_value(self, body: bytes) -> Any:
        """Return the record of a body that is only its value.

        Raises:
            InvalidMessage: it is not one JSON value, or not such a value.
        """
        try:
            record = self.decode_object(b'{"value":' + body + b"}")
        except UndecodableMessage:
            record = None
        if record is not None and _COMMA not in body:  # else it has further members
            return record
        got = described(body.decode(errors="replace"))
        message = f"the body is not JSON: expected an object or a number, got {got}"
        raise UndecodableMessage(message)

    def _validated(self, body: bytes) -> Any:
        record = self._one.validate_json(body)
        if (refusal := refusal_of(body)) is not None:
            raise UndecodableMessage(refusal)
        return self._as_handled(record)

    def decode(self, body: bytes) -> Decoded:
        """Return the records of any body: object, array, objects one per line, a bare
        number if the handler accepts one, or Telegraf's formats if it accepts these.

        Raises:
            InvalidMessage: the whole body is invalid.
        """
        stripped = body.strip()
        if not stripped:
            message = "the body is empty; expected a JSON object or array"
            raise UndecodableMessage(message)
        if stripped[:1] == b"[":
            return self._decode_array(body)
        if self._bare_value and stripped[0] in _VALUE_STARTS:
            return Decoded([self._decode_value(stripped)], [None])
        if self._telegraf and stripped[:1] != b"{":
            return self._decode_line_protocol(stripped)
        try:
            return Decoded([self.decode_object(stripped)], [None])
        except InvalidMessage as error:
            return self.decode_several(stripped, error)

    def decode_several(self, body: bytes, error: InvalidMessage) -> Decoded:
        """Return the records of a body that begins as an object but is not a record.

        Raises:
            InvalidMessage: it is not several records either; this is ``error``.
        """
        if isinstance(error, SchemaMismatch):  # so it is JSON
            if self._telegraf and (array := _array_in(body, "metrics")):
                return self._decode_array(array)._replace(several=Several(array))
        elif lines := objects_one_a_line(body):
            decoded = self._decode_one_by_one(lines)
            several = Several(_as_array(lines, decoded.bad), lines)
            return decoded._replace(several=several)
        raise error

    def _limit(self, count: int) -> None:
        if count > self._max_records:
            message = (
                f"{count:,} records in one message; at most {self._max_records:,} are "
                "taken (max_records in queues.yaml)"
            )
            raise SchemaMismatch(message)

    def _decode_array(self, body: bytes) -> Decoded:
        if body.count(b",") >= self._max_records:  # only then may it have too many
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._limit(len(_MEMBERS.decode(body)))
        if self._structs and (structs := self._structs.many(body)):
            return Decoded(structs, range(len(structs)))
        records: list[Any] | None = None
        try:
            records = [*map(self._as_handled, self._many.validate_json(body))]
        except ValidationError as error:
            if _is_syntax(error):
                return self._decode_damaged(body, _as_invalid(body, error))
        except Exception:  # noqa: BLE001, S110 - found again at its record below
            pass
        if records is None or refusal_of(body) is not None:
            return self._decode_one_by_one(array_members(body))
        if not records:
            message = "the array is empty; expected at least one record"
            raise SchemaMismatch(message)
        return Decoded(records, range(len(records)))

    def _decode_damaged(self, body: bytes, error: InvalidMessage) -> Decoded:
        """Return the records of an array with members that are not JSON.

        Raises:
            InvalidMessage: it has no end, no valid record (this is ``error``), or too
                many members.
        """
        try:
            members = array_members(body)
        except ValueError:
            raise error from None
        decoded = self._decode_one_by_one(members)
        if not decoded.records:
            raise error
        several = Several(_as_array(members, decoded.bad), parts=members)
        return decoded._replace(several=several)

    def _as_handled(self, record: Any) -> Any:
        return self._structs.of_record(record) if self._structs else record

    def _decode_one_by_one(self, members: Sequence[bytes]) -> Decoded:
        self._limit(len(members))
        records: list[Any] = []
        indexes: list[int | None] = []
        bad: list[BadMember] = []
        for index, member in enumerate(members):
            try:
                records.append(self.decode_object(member))
            except InvalidMessage as error:
                bad.append(BadMember(index, dead_of(error)))
            else:
                indexes.append(index)
        return Decoded(records, indexes, bad)

    def _decode_line_protocol(self, body: bytes) -> Decoded:
        self._limit(body.count(b"\n") + 1)
        lines = read_lines(body)
        metrics = [(index, each.metric) for index, each in enumerate(lines)]
        good = [(index, metric) for index, metric in metrics if metric is not None]
        if not good:
            raise UndecodableMessage(lines[0].fault)
        bad = [
            BadMember(index, Dead(each.fault, UndecodableMessage.__name__))
            for index, each in enumerate(lines)
            if each.metric is None
        ]
        return Decoded(
            [metric for _, metric in good],
            [index for index, _ in good],
            bad,
            Several(
                msgspec.json.encode([each.metric for each in lines]),
                [each.source for each in lines],
            ),
        )


def _array_in(body: bytes, name: str) -> bytes:
    """Return the array in a member of an object; empty if it is not an array."""
    member = object_member(body, name) if body[:1] == b"{" else b""
    return member if member[:1] == b"[" else b""


def _as_array(members: Sequence[bytes], bad: Sequence[BadMember]) -> bytes:
    """Return a JSON array of members, with null for each that is not valid."""
    invalid = {each.record_index for each in bad}
    texts = (b"null" if n in invalid else each for n, each in enumerate(members))
    return b"[" + b",".join(texts) + b"]"


def _is_syntax(error: ValidationError) -> bool:
    return error.errors(include_url=False)[0]["type"] == "json_invalid"


def _as_invalid(body: bytes, error: ValidationError) -> InvalidMessage:
    if not _is_syntax(error):
        return SchemaMismatch(explain(error))
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as fault:
        message = (
            f"the body is not UTF-8: byte 0x{body[fault.start]:02x} at position "
            f"{fault.start}"
        )
        return UndecodableMessage(message)
    if b"\0" in body[:2]:
        message = "the body is UTF-16 or UTF-32; expected JSON in UTF-8"
        return UndecodableMessage(message)
    detail = str(error.errors(include_url=False)[0]["ctx"]["error"])
    if detail.startswith("recursion limit") and is_too_deep(body):
        detail = f"it is nested deeper than {DEPTH_LIMIT} levels"
    return UndecodableMessage(f"the body is not JSON: {detail}")
