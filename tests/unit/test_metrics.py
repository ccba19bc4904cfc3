"""Metrics become points: types, names, tags, and the reasons of dead ones."""

from __future__ import annotations

from typing import Any

import pytest

from meshtasks.flows.pipeline import Transformed, metric_points
from meshtasks.records.envelope import Envelope
from meshtasks.rules.config import RuleBook

NOW = 1_795_440_000.0
EXPECTED = "expected a number, true, false or text"
INSIDE = "give each value inside a field of its own"
UNZONED = (
    "timestamp 2026-11-23T13:12:00 has no time zone; end it with Z for UTC or with an "
    "offset such as +01:00"
)


def transformed(*metrics: Any, rules: RuleBook | None = None) -> Transformed:
    envelope = Envelope(
        b"", "metrics", "metrics.system.nas", "metrics.system", None, None, NOW, {}
    )
    return metric_points(metrics, [envelope] * len(metrics), rules or RuleBook())


def written(**fields: Any) -> str:
    """The line of a metric, less its timestamp."""
    (line,) = transformed({"name": "m", **fields}).lines
    return line.rpartition(" ")[0]


def reason(**fields: Any) -> str:
    return transformed({"name": "m", **fields}).dead[0].reason


def test_a_metric_with_many_fields_is_one_point() -> None:
    metric = {
        "name": "disk",
        "fields": {"used_percent": 91.5, "free": 7, "ok": True, "health": "GOOD"},
        "tags": {"path": "/data", "host": "nas"},
        "timestamp": 1_795_439_520.123,
    }

    (line,) = transformed(metric).lines
    assert line == (
        "disk,host=nas,path=/data "
        'used_percent=91.5,free=7.0,ok=true,health="GOOD" 1795439520123'
    )


def test_a_single_value_is_the_field_value() -> None:
    assert written(value=0.5) == "m value=0.5"


def test_a_metric_without_a_timestamp_was_measured_when_it_was_received() -> None:
    (line,) = transformed({"name": "m", "value": 1}).lines

    assert line == "m value=1.0 1795440000000"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (21.0, "21.0"),
        (21, "21.0"),
        (2**63, "9.223372036854776e+18"),
        (1e22, "1e+22"),
        (False, "false"),
        (" 0:49", '" 0:49"'),
        ("two\nlines\tof text", '"two\\\\nlines\tof text"'),
        ('say "hi", a=b', r'"say \"hi\", a=b"'),
        ("C:\\", r'"C:\\"'),
        ("Küche", '"Küche"'),
    ],
)
def test_a_value_is_typed_as_influxdb_has_it(value: object, text: str) -> None:
    assert written(value=value) == f"m value={text}"


def test_null_is_no_value() -> None:
    fields = {"a": None, "b": 1}

    assert written(value=None, fields=fields, tags={"x": None}) == "m b=1.0"


@pytest.mark.parametrize("text", ["unavailable", "Unknown", "none", "", " ", "NaN"])
def test_a_text_that_says_that_there_is_no_value_is_none(text: str) -> None:
    """Stored as text, it would keep the numbers of its field out for a week."""
    assert written(fields={"celsius": text, "battery": 80}) == "m battery=80.0"


def test_names_and_tags_are_escaped() -> None:
    line = written(
        name="my disk,a=b", fields={"used %, a=b": 1}, tags={"ho st": "a,b = c"}
    )

    assert line == r"my\ disk\,a=b,ho\ st=a\,b\ \=\ c used\ %\,\ a\=b=1.0"


def test_a_number_as_a_tag_is_written_as_text() -> None:
    line = written(value=1, tags={"core": 3, "ok": True, "load": 0.5})

    assert line == "m,core=3,load=0.5,ok=true value=1.0"


def test_blank_tags_are_left_out() -> None:
    assert written(value=1, tags={"host": " ", "path": ""}) == "m value=1.0"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "value: this field is missing, and there are no fields either"),
        ({"value": 1, "fields": {"a": 1}}, "value: expected value or fields, not both"),
        ({"fields": {}}, "fields: expected at least one value"),
        ({"fields": {"a": None}}, "fields: expected at least one value"),
        (
            {"value": float("nan")},
            f"value: {EXPECTED}, got NaN",
        ),
        (
            {"fields": {"a": 1, "b": float("-inf")}},
            f"fields.b: {EXPECTED}, got -Infinity",
        ),
        (
            {"value": 10**400},
            f"value: {EXPECTED}, got a number with more than 308 digits",
        ),
        (
            {"fields": {"load": {"1m": 0.5}}},
            f"fields.load: {EXPECTED}, got an object; {INSIDE}",
        ),
        (
            {"value": [1]},
            f"value: {EXPECTED}, got an array; {INSIDE}",
        ),
        (
            {"value": "Unavailable"},
            'value: the text "Unavailable" is no value, and there is no other',
        ),
        ({"name": " ", "value": 1}, "name: is empty"),
        (
            {"name": "#1", "value": 1},
            'name: must not begin with "#", which makes a line a comment',
        ),
        (
            {"name": "_internal", "value": 1},
            'name: "_internal" must not begin with an underscore',
        ),
        ({"fields": {"": 1}}, "fields: is empty"),
        ({"fields": {"time": 1}}, 'fields: "time" is the name of the timestamp'),
        (
            {"value": 1, "tags": {"__name__": "x"}},
            'tags: "__name__" must not begin with an underscore',
        ),
        (
            {"value": 1, "tags": {"host": "a\x07"}},
            r"tags.host: must not contain '\x07'",
        ),
        (
            {"value": 1, "tags": {"host": ["nas"]}},
            "tags.host: expected text, got an array",
        ),
        (
            {"value": 1, "tags": {"port": 10**5000}},
            "tags.port: expected text, got a number too large",
        ),
        (
            {"value": 1, "timestamp": "2026-11-23T13:12:00"},
            UNZONED,
        ),
    ],
)
def test_a_metric_that_cannot_be_a_point_is_dead_with_a_reason(
    fields: dict[str, Any], expected: str
) -> None:
    assert reason(**fields) == expected


def test_a_bad_metric_does_not_touch_its_neighbours() -> None:
    good = {"name": "m", "value": 1}

    result = transformed(good, {"name": "m"}, good)

    assert result.indices == [0, 2]
    assert list(result.dead) == [1]
    assert len(result.lines) == 2


# --- what rules see


def rules(**changes: Any) -> RuleBook:
    rule = {
        "name": "full",
        "type": "threshold",
        "routing_key": "metrics.#",
        "metric": "disk",
        "field": "used_percent",
        "above": 90,
        "severity": "warning",
        "title": "t",
        "message": "m",
        **changes,
    }
    return RuleBook.model_validate({"rules": [rule]})


def test_a_rule_sees_the_field_it_names_of_each_series() -> None:
    disks = [
        {"name": "disk", "fields": {"used_percent": 50 + n}, "tags": {"path": path}}
        for n, path in enumerate(["/", "/data", "/"])
    ]

    root, data = transformed(*disks, rules=rules()).watched

    assert root.series.key == "disk,path=/ used_percent="
    assert root.samples == [(NOW, 50.0), (NOW + 0.001, 52.0)]
    assert data.samples == [(NOW, 51.0)]


@pytest.mark.parametrize(
    "metric",
    [
        {"name": "mem", "fields": {"used_percent": 95}},
        {"name": "disk", "fields": {"free": 1}},
        {"name": "disk", "value": 95},
        {"name": "disk", "fields": {"used_percent": "95"}},
        {"name": "disk", "fields": {"used_percent": None, "free": 1}},
    ],
)
def test_a_rule_does_not_see_other_metrics_fields_and_texts(metric: Any) -> None:
    assert transformed(metric, rules=rules()).watched == []


def test_a_rule_that_names_no_field_sees_a_single_value() -> None:
    book = RuleBook.model_validate(
        {"rules": [rules().rules[0].model_dump(exclude={"field"}, exclude_unset=True)]}
    )

    (seen,) = transformed({"name": "disk", "value": 95}, rules=book).watched

    assert seen.samples == [(NOW, 95.0)]


def test_true_and_false_are_one_and_zero_to_a_rule() -> None:
    metric = {"name": "disk", "fields": {"used_percent": True}}

    (seen,) = transformed(metric, rules=rules()).watched

    assert seen.samples == [(NOW, 1.0)]


@pytest.mark.parametrize(
    ("tags", "is_seen"),
    [({"path": "/data1"}, True), ({"path": "/"}, False), ({}, False)],
)
def test_a_rule_may_be_narrowed_by_tags(tags: dict[str, str], is_seen: bool) -> None:
    metric = {"name": "disk", "fields": {"used_percent": 1}, "tags": tags}

    result = transformed(metric, rules=rules(tags={"path": "/data*"}))

    assert bool(result.watched) == is_seen


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"battery_percent": 87, "illuminance_lux": 4}, "battery", 87.0),
        ({"battery_low": True}, "battery_low", 1.0),
    ],
)
def test_what_devices_say_of_their_batteries_is_noted(
    fields: dict[str, Any], kind: str, value: float
) -> None:
    tags = {"sensor_id": "door", "location": "hall"}
    metric = {"name": "device", "fields": fields, "tags": tags}

    (seen,) = transformed(metric).batteries.values()

    assert seen
    assert seen[:6] == (
        *("metrics.system.nas", "door", kind, "hall"),
        *("%" if kind == "battery" else "", value),
    )


@pytest.mark.parametrize("level", ["full", None, 255, -1, 10**200])
def test_a_battery_without_a_level_is_not_noted(level: object) -> None:
    fields = {"battery_percent": level, "x": 1}

    found = transformed({"name": "device", "fields": fields}).batteries
    assert [*found.values()] == [None]


def test_a_battery_is_noted_beside_the_routing_key_of_its_metric() -> None:
    key = "metrics.system.door.device"
    envelope = Envelope(b"", "metrics", key, "metrics.system", None, None, NOW, {})
    metric: Any = {"name": "device", "fields": {"battery_percent": 9}}

    seen = metric_points([metric], [envelope], RuleBook()).seen([envelope])

    assert [each[:3] for each in seen] == [
        (key, "", ""),
        (key, "door.device", "battery"),
    ]
