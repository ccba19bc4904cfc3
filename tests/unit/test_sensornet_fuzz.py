"""Whatever arrives, it is published, dead or passed over: nothing raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.base import MAX_ROUTING_KEY_BYTES
from producers.sensornet.normaliser import Normalised
from tests.support.devices import Devices, shipped

_KEYS = st.sampled_from(
    [
        *("temperature", "humidity", "occupancy", "contact", "voltage", "last_seen"),
        *("Time", "TempUnit", "AM2301", "Temperature", "Id", "ENERGY", "Power"),
        *("method", "params", "ts", "temperature:0", "tC", "switch:0", "aenergy"),
        *("motion", "timestamp", "stat_t", "dev_cla", "dev", "cmps", "p", "val_tpl"),
        *("ids", "name", "~", "StatusSNS"),
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


def says_what_became_of_it(normalised: Normalised) -> bool:
    return bool(normalised.messages or normalised.dead or normalised.skipped)


@pytest.mark.parametrize("topic", _SOURCES)
@settings(deadline=None)
@given(levels=_LEVELS, announced=_VALUES, body=_BODIES)
def test_every_message_has_a_fate(
    topic: str, levels: list[str], announced: object, body: bytes
) -> None:
    devices = Devices(timezone="Europe/Berlin")
    devices.publish("homeassistant/sensor/x/config", json.dumps(announced))
    fixed = topic.replace("+", levels[0] if levels else "x")
    tail = "".join(f"/{level}" for level in levels)
    normalised = devices.publish(fixed.replace("/#", tail), body)

    assert says_what_became_of_it(normalised)
    for message in normalised.messages:
        assert len(message.routing_key.encode()) <= MAX_ROUTING_KEY_BYTES
        json.loads(message.body)
