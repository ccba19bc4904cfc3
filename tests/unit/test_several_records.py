"""Messages of several records in other forms than an array: JSON lines of any record,
and what Telegraf writes of metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.content import Origin
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.gateway.problems import Problem
from meshtasks.gateway.validation import Validator
from meshtasks.outcome import DONE, Dead, Outcome, Retry
from meshtasks.records.envelope import Envelope
from meshtasks.records.json_text import members_of
from meshtasks.records.models import Metric, Reading, SensorReading
from meshtasks.worker.results import BatchResult
from meshtasks.worker.runner import BatchRunner
from tests.support.handling import HANDLERS

SHIPPED = Path(__file__).parents[2] / "config"

Decide = Callable[[Any], Outcome]


class Seen:
    """Runs messages as the pool does, and keeps what the handler was given."""

    def __init__(self, decide: Decide = lambda _: DONE, **options: Any) -> None:
        self.records: list[Any] = []
        self.members: list[bytes] = []

        def handle(batch: Batch[Any], _sinks: Sinks) -> list[Outcome]:
            self.records += batch.records
            for envelope, place in zip(batch.envelopes, batch.indexes, strict=True):
                self.members.append(members_of(envelope.body)[place or 0])
            return [decide(record) for record in batch.records]

        fields = {"record": Metric, "telegraf": True, **options}
        handler = Handler("metrics.system", handle, sinks=(), **fields)
        self._run = BatchRunner(handler, Settings(Environment()))

    def __call__(self, *bodies: bytes) -> BatchResult:
        origin = Origin(None, None, {})
        return self._run([(body, "metrics", "k", origin, 0.0) for body in bodies])


def metric(name: str, **fields: Any) -> bytes:
    return json.dumps({"name": name, "fields": fields, "tags": {"host": "v"}}).encode()


KERNEL = metric("kernel", boot_time=1795826698)
SWAP = metric("swap", free=0)
FORMS = {
    "json lines": KERNEL + b"\n" + SWAP + b"\n",
    "json lines with blank ones": b"\r\n" + KERNEL + b"\r\n\n" + SWAP,
    "batch object": b'{"metrics": [' + KERNEL + b", " + SWAP + b"]}",
    "line protocol": b"kernel,host=v boot_time=1795826698i\nswap,host=v free=0i\n",
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_records_that_an_array_gives(body: bytes) -> None:
    array, other = Seen(), Seen()
    array(b"[" + KERNEL + b"," + SWAP + b"]")

    assert other(body).failures == ()
    assert other.records == array.records
    assert [json.loads(each) for each in other.members] == other.records


def broken(good: bytes, bad: bytes, form: str) -> bytes:
    if form == "batch object":
        return b'{"metrics":[' + b",".join([good, bad, good]) + b"]}"
    return b"\n".join([good, bad, good])


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("json lines", KERNEL, b'{"name":"x","fi'),
        ("json lines", KERNEL, b'{"name": 7 }'),
        ("json lines", KERNEL, b"Traceback (most recent call last):"),
        ("json lines", KERNEL, b'{"name":"x","value":NaN}'),
        ("batch object", KERNEL, b'{"name": 7 }'),
        ("batch object", KERNEL, b'{"name":"x","value": NaN}'),
        ("line protocol", b"kernel boot_time=1i 5", b"kernel boot_time=soon 5"),
    ],
)
def test_one_bad_member_is_dead_as_it_was_written_and_its_neighbours_are_done(
    form: str, good: bytes, bad: bytes
) -> None:
    seen = Seen()

    (failure,) = seen(broken(good, bad, form)).failures

    assert isinstance(failure.outcome, Dead)
    assert (failure.body, failure.record_index) == (bad, 1)
    assert [each["name"] for each in seen.records] == ["kernel", "kernel"]
    assert len(seen.members) == 2


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_what_the_handler_refuses_is_dead_as_it_was_written(body: bytes) -> None:
    (failure,) = Seen(lambda each: Dead("no") if each["name"] == "swap" else DONE)(
        body
    ).failures

    assert failure.body is not None
    assert failure.body in body
    assert b"swap" in failure.body
    assert b"kernel" not in failure.body


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_what_is_to_be_retried_comes_back_in_a_form_that_is_read(body: bytes) -> None:
    tried = Seen(lambda each: DONE if each["name"] == "mem" else Retry("later"))
    mem = b"mem,host=v free=1i" if body.startswith(b"kernel") else metric("mem", free=1)
    more = (
        body.replace(b"]}", b"," + mem + b"]}") if b"]}" in body else body + b"\n" + mem
    )
    (failure,) = tried(more).failures
    again = Seen()

    again(failure.body or b"")

    assert [each["name"] for each in again.records] == ["kernel", "swap"]


def test_readings_may_come_one_a_line_too() -> None:
    seen = Seen(record=SensorReading, struct=Reading, telegraf=False)

    result = seen(b'{"value": 21.5}\n{"value": "warm"}\n{"value": 22, "battery": 80}')

    assert [each.value for each in seen.records] == [21.5, 22.0]
    assert [(each.body, each.record_index) for each in result.failures] == [
        (b'{"value": "warm"}', 1)
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{\n "name": "x",\n "value": x\n}', "not JSON"),  # one object, over lines
        (b'{"name": "x", "fields": {\n{"a": 1}\n}', "not JSON"),
        (b'{"metrics": 5}', "name: this field is missing"),
        (b'{"metrics": []}', "the array is empty"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"<html>\n<p>Bad Gateway</p>\n</html>", "neither JSON nor line protocol"),
    ],
)
def test_what_is_in_no_form_is_one_dead_letter(body: bytes, reason: str) -> None:
    (failure,) = Seen()(body).failures

    assert failure.body is None
    assert reason in failure.outcome.reason


@pytest.mark.parametrize(
    "body",
    [b"m f=1\nm f=soon\nm f=2", KERNEL + b"\n{torn\n" + SWAP, b'[{"name":"m"},{},{}]'],
)
def test_the_gateway_names_the_bad_member_whatever_the_form(body: bytes) -> None:
    validator = Validator(Settings(Environment(config_dir=SHIPPED)), HANDLERS)

    with pytest.raises(Problem) as caught:
        validator.check("metrics", "metrics.system.vm", body)

    assert any(each.pointer.startswith("#/1") for each in caught.value.errors)


def test_line_protocol_is_no_form_of_other_records() -> None:
    (failure,) = Seen(telegraf=False)(b"swap free=0i").failures

    assert "not JSON" in failure.outcome.reason


def test_the_message_of_a_dead_letter_is_read_once_more() -> None:
    bad = b'm,host=v f="open'
    (failure,) = Seen()(b"m f=1\n" + bad).failures

    (again,) = Seen()(failure.body or b"").failures

    assert again.outcome == failure.outcome


def test_members_are_told_apart_by_their_envelopes_array() -> None:
    """Places are those of the message, bad members included."""
    envelopes: list[Envelope] = []
    places: list[int | None] = []

    def handle(batch: Batch[Any], _sinks: Sinks) -> list[Outcome]:
        envelopes.extend(batch.envelopes)
        places.extend(batch.indexes)
        return [DONE] * len(batch.records)

    handler = Handler("metrics.system", handle, Metric, (), telegraf=True)
    body = KERNEL + b"\n{torn\n" + SWAP

    BatchRunner(handler, Settings(Environment()))(
        [(body, "metrics", "k", Origin(None, None, {}), 0.0)]
    )

    assert places == [0, 2]
    assert envelopes[0].body == b"[" + KERNEL + b",null," + SWAP + b"]"


BAD = b'{"name": 5, "fields": {"value": 1}}'


def test_a_few_bad_records_are_a_dead_letter_each() -> None:
    failures = Seen()(b"[" + b",".join([KERNEL, BAD, BAD]) + b"]").failures
    assert [each.record_index for each in failures] == [1, 2]


@pytest.mark.parametrize("form", ["array", "lines"])
def test_many_bad_records_of_one_message_are_one_dead_letter(form: str) -> None:
    members = [BAD, KERNEL, *[BAD] * 200, SWAP]
    seen = Seen()

    (failure,) = seen(together(members, form)).failures

    assert len(seen.records) == 2
    assert failure.record_index is None
    assert failure.body == together([BAD] * 201, form)
    assert failure.outcome.reason.startswith("201 of 203 records")
    assert "[0] name: " in failure.outcome.reason
    assert "[2] name: " in failure.outcome.reason


def test_many_records_that_a_handler_finds_dead_are_one_dead_letter() -> None:
    seen = Seen(lambda record: Dead("too hot") if record["name"] == "kernel" else DONE)
    (failure,) = seen(together([SWAP, *[KERNEL] * 150], "array")).failures
    assert failure.outcome.reason.startswith("150 of 151 records")


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"0"] * 524_000) + b"]",
        b"[" + b",".join([b"[]"] * 300_000) + b"]",
        b"{}\n" * 300_000,
        b'{"metrics":[' + b",".join([b"0"] * 524_000) + b"]}",
        b"m v=1\n" * 170_000,
    ],
    ids=["numbers", "arrays", "lines", "batch object", "line protocol"],
)
def test_more_records_than_are_taken_are_one_dead_letter(body: bytes) -> None:
    (failure,) = Seen()(body).failures
    assert failure.body is None
    assert "at most 20,000 are taken" in failure.outcome.reason


def together(members: list[bytes], form: str) -> bytes:
    return b"\n".join(members) if form == "lines" else b"[" + b",".join(members) + b"]"
