"""Bodies that are made to hurt: each is dead with its reason, and no other with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtasks.amqp.queues import DEFAULT_MAX_RECORDS
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage
from meshtasks.records.json_text import DEPTH_LIMIT, is_too_deep
from meshtasks.worker.decode import Decoder
from tests.contract.cases import CASES, Case
from tests.support.handling import HANDLERS, NOW, message

DECODERS = {name: Decoder(handler) for name, handler in HANDLERS.items()}
READINGS = DECODERS["sensors.temperature"]
SETTINGS = Settings(Environment(config_dir=Path(__file__).parents[2] / "config"))
CASE = {case.queue: case for case in CASES}


def nested(levels: int, inside: bytes = b"") -> bytes:
    return b"[" * levels + inside + b"]" * levels


#: What may stand in a field, and words of the reason.
VALUES = {
    "deep": (nested(DEPTH_LIMIT), "nested deeper than 64"),
    "deeper": (nested(250), "nested deeper than 64"),
    "deepest": (nested(100_000), "nested deeper than 64"),
    "deep objects": (b'{"a":' * 70 + b"0" + b"}" * 70, "nested deeper than 64"),
    "deep between texts": (nested(70, rb'"[\"{","]"'), "nested deeper than 64"),
    "a float too large": (b"1e400", "number 1e400 in the body is too large"),
    "a long float": (b"9" * 250 + b"e99", "too large"),
    "an integer too large": (b"9" * 310, "too large"),
    "many digits": (b"9" * 100_000, "not JSON"),
    "half a character": (rb'"\ud800"', "not JSON"),
    "not UTF-8": (b'"\xff"', "not UTF-8"),
    "NaN": (b"NaN", "NaN is not a number"),
}
each_value = pytest.mark.parametrize(("value", "reason"), VALUES.values(), ids=VALUES)


def with_field(value: bytes) -> bytes:
    return b'{"value": 21.5, "note": ' + value + b"}"


@each_value
def test_what_no_parser_behind_could_take_is_dead_with_its_reason(
    value: bytes, reason: str
) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        READINGS.decode_object(with_field(value))


@each_value
def test_the_neighbours_in_an_array_live(value: bytes, reason: str) -> None:
    good = b'{"value": 1}'

    decoded = READINGS.decode(b"[" + b",".join([good, with_field(value), good]) + b"]")

    assert list(decoded.indexes) == [0, 2]
    ((place, dead),) = decoded.bad
    assert place == 1
    assert reason in dead.reason


@pytest.mark.parametrize(
    "value",
    [nested(63), b"1e300", rb'"\u0000"', b'"' + b"[" * 500 + b'"', b"1e-400"],
)
def test_what_is_only_odd_is_taken(value: bytes) -> None:
    assert len(READINGS.decode(with_field(value)).records) == 1


@pytest.mark.parametrize("member", [b"0", b'{"value":1}', b'{"x":1}', b"NaN"])
def test_an_array_of_too_many_members_is_dead_as_one(member: bytes) -> None:
    body = b"[" + b",".join([member] * (DEFAULT_MAX_RECORDS + 1)) + b"]"

    with pytest.raises(InvalidMessage, match=r"20,001 records in one message"):
        READINGS.decode(body)


@pytest.mark.parametrize(
    "body",
    [b'[{"value": 1}, {"value": 2', b"[" + rb"\"" * 400_000, b'["' + rb"\"" * 400_000],
    ids=["torn", "quotes", "text"],
)
def test_an_array_that_has_no_end_is_dead_as_one(body: bytes) -> None:
    with pytest.raises(InvalidMessage, match="not JSON"):
        READINGS.decode(body)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(st.text('[]{}"\\,a'), st.lists, max_leaves=100), st.integers(60, 66)
)
def test_depth_is_told_exactly(content: Any, around: int) -> None:
    def depth(value: Any) -> int:
        if not isinstance(value, list):
            return 0
        return 1 + max(map(depth, value), default=0)

    body = nested(around, json.dumps(content).encode())

    assert is_too_deep(body) is (around + depth(content) > DEPTH_LIMIT)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
tensors = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["window", "score"]) | st.text(max_size=3),
            "shape": st.lists(st.integers(-1, 3), max_size=3)
            | st.just([2**31 - 1] * 500)
            | anything,
            "datatype": st.sampled_from(["FP32", "BYTES", "INT8", "BF16", ""]),
            "data": st.lists(anything, max_size=4),
        }
    ),
    max_size=2,
)
TENSORS = {"inputs": tensors, "outputs": tensors}
#: The shortest result, so that its outputs count.
RESULT = {"request_id": "r", "model": "temperature-anomaly", "latency_ms": 1}


def changed(case: Case) -> st.SearchStrategy[Any]:
    """Records of the shape of a good one, with anything in some of their fields."""
    good = RESULT if case.queue == "ai.inference.results" else case.good
    names = [*good, "timestamp", "starts_at", "labels", "tags", "fields", *TENSORS]
    change = st.one_of(
        [st.tuples(st.just(name), TENSORS.get(name, anything)) for name in names]
    )
    return st.lists(change, max_size=4).map(lambda changes: {**good, **dict(changes)})


@pytest.mark.parametrize("queue", sorted(HANDLERS))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_bad_data_is_refused_and_raises_nothing_else(
    queue: str, data: st.DataObject
) -> None:
    record = data.draw(changed(CASE[queue]))
    stamp = data.draw(st.sampled_from([None, 0, -1, 2**63, 10**12, NOW]))
    envelope = message(queue, CASE[queue].routing_key, record, timestamp=stamp)
    try:
        records = DECODERS[queue].decode(envelope.body).records
    except InvalidMessage:
        return

    dead = HANDLERS[queue].validate(records, [envelope] * len(records), SETTINGS)

    assert all(each.reason for each in dead.values())


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"shape": []}, "holds 1 values, got 2"),
        ({"shape": [], "data": []}, "holds 1 values, got 0"),
        ({"shape": [2**31 - 1] * 500}, "at most 32 items"),
        ({"shape": [3]}, "holds 3 values, got 2"),
        ({"datatype": "BF16"}, "one of the datatypes"),
        ({"data": [1.0, "x"]}, "expected a number"),
    ],
)
def test_a_result_that_is_no_tensor_is_dead_with_its_reason(
    output: dict[str, Any], reason: str
) -> None:
    queue = "ai.inference.results"
    fields = {"name": "score", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}
    envelope = message(queue, "ai.result.x", {**RESULT, "outputs": [fields | output]})

    try:
        records = DECODERS[queue].decode(envelope.body).records
        said = HANDLERS[queue].validate(records, [envelope], SETTINGS)[0].reason
    except InvalidMessage as error:
        said = str(error)

    assert reason in said


@pytest.mark.parametrize(
    "queue",
    ["sensors.temperature", "sensors.humidity", "sensors.motion", "metrics.system"],
)
def test_every_kind_has_a_limit_in_the_past(queue: str) -> None:
    record = {**CASE[queue].good, "timestamp": NOW - 365 * 86_400}
    envelope = message(queue, CASE[queue].routing_key, record)
    records = DECODERS[queue].decode(envelope.body).records

    dead = HANDLERS[queue].validate(records, [envelope], SETTINGS)

    assert "365 days before it was received" in dead[0].reason
