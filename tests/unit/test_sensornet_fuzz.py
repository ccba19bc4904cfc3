"""Whatever arrives, every value of it is published, dead or counted: nothing raises,
and nothing vanishes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtasks.producers.base import MAX_ROUTING_KEY_BYTES
from meshtasks.producers.sensornet.normaliser import Normalised
from meshtasks.producers.sensornet.payload import document_of, values_of
from tests.support.devices import Devices, shipped

_KEYS = st.sampled_from(
    [
        *("temperature", "humidity", "occupancy", "contact", "voltage", "last_seen"),
        *("Time", "TempUnit", "AM2301", "Temperature", "Id", "ENERGY", "Power"),
        *("method", "params", "ts", "temperature:0", "tC", "switch:0", "aenergy"),
        *("motion", "timestamp", "stat_t", "dev_cla", "dev", "cmps", "p", "val_tpl"),
        *("ids", "name", "~", "StatusSNS", "ZbReceived", "Address", "presence"),
        *("local_temperature", "temperature_2", "tmp", "value", "units", "events"),
        *("em:0", "a_voltage", "total_act_power", "payload_on", "pl_off", "ent_cat"),
        *("unit_of_meas", "cns", "action", "thermostat:0", "current_C", "event"),
    ]
) | st.text(max_size=5)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            *("NotifyStatus", "sensor", "temperature", "unavailable", "C", "F", "°C"),
            *("1970-01-01T00:00:00", "9999-12-31T23:59:59", "0001-01-01T00:00:00"),
            *("{{ value_json.a[0] }}", "a/sensor/b/state", "half a pair: \ud83d"),
            *("{{ value_json.temperature * 0.1 }}", "{{ value }}", "+/#", "#", "-127"),
            *("{{ value_json.a / value_json.b }}", "binary_sensor", "kWh", "-1"),
            *("NotifyEvent", "{{ 'ON' if value_json.motion else 'OFF' }}", "input:0"),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=6)
    ),
    max_leaves=20,
)
_BODIES = st.binary(max_size=40) | _VALUES.map(lambda value: json.dumps(value).encode())
_LEVELS = st.lists(
    st.sampled_from(
        [
            *("config", "sensor", "device", "SENSOR", "STATUS10", "0", "status"),
            *("bridge", "set", "temperature", "state", "events", "rpc", ""),
        ]
    )
    | st.text(max_size=4),
    max_size=4,
)
_SOURCES = [source.topic for source in shipped().sources]


#: Topics of an announcement that may be those of the message, and where its value is.
_ANNOUNCED = _VALUES | st.fixed_dictionaries(
    {
        "stat_t": st.sampled_from(
            ["#", "+/#", "zigbee2mqtt/#", "x/status/+", "tele/#"]
        ),
        "val_tpl": st.sampled_from(
            [
                *("", "{{ value }}", "{{ value_json.temperature }}"),
                *("{{ value_json.a * 0.1 }}", "{{ value_json.a + value_json.b }}"),
                *("{{ value_json['AM2301'].Temperature | float(0) }}", "{{ now() }}"),
            ]
        ),
        "dev_cla": st.sampled_from(["", "temperature", "power", "door", "aqi", "enum"]),
        "unit_of_meas": st.none() | st.sampled_from(["°F", "W", "furlong"]),
        "pl_on": _VALUES,
        "dev": st.sampled_from([{}, {"ids": ["a"], "name": "A", "sa": "\\ x"}]),
    }
)
_WITH_ANNOUNCED = [
    *shipped().model_dump(include={"sources"})["sources"],
    {"topic": "announced/#", "format": "announced"},
]
_COMPONENTS = st.sampled_from(["sensor", "binary_sensor", "device", "climate"])


def accounted(normalised: Normalised) -> int:
    """The values that something became of, or that are counted."""
    found = normalised.faults + normalised.described + normalised.counted.total()
    for message in normalised.messages:
        record = json.loads(message.body)
        found += len(record["fields"]) if "fields" in record else 1
    return found


def is_whole(normalised: Normalised) -> bool:
    """Whether the message was passed over, or is dead, without a look at its values."""
    names = {name for _reason, name in normalised.counted}
    return names == {""} or (normalised.dead is not None and not normalised.faults)


def values_in(body: bytes) -> int:
    """How many values a body holds; one, if it is no JSON object or array."""
    return sum(1 for _ in values_of(document_of(body)))


@pytest.mark.parametrize("topic", [*_SOURCES, "announced/#"])
@settings(deadline=None, max_examples=40)
@given(levels=_LEVELS, component=_COMPONENTS, announced=_ANNOUNCED, body=_BODIES)
def test_every_value_is_accounted_for_once(
    topic: str, levels: list[str], component: str, announced: object, body: bytes
) -> None:
    devices = Devices(timezone="Europe/Berlin", sources=_WITH_ANNOUNCED)
    devices.publish(f"homeassistant/{component}/x/config", json.dumps(announced))
    fixed = topic.replace("+", levels[0] if levels else "x")
    tail = "".join(f"/{level}" for level in levels)
    normalised = devices.publish(fixed.replace("/#", tail), body)

    assert is_whole(normalised) or accounted(normalised) == values_in(body)
    assert normalised.dead is None or "unforeseen" not in normalised.dead.reason
    for message in normalised.messages:
        assert len(message.routing_key.encode()) <= MAX_ROUTING_KEY_BYTES
        record = json.loads(message.body)
        assert all(part for part in message.routing_key.split("."))
        assert "\\" not in record.get("location", "")
    keys = [
        (message.routing_key, json.loads(message.body)["timestamp"])
        for message in normalised.messages
    ]
    assert len(set(keys)) == len(keys)
