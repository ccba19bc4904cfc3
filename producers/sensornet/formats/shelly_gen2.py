"""Shelly's second generation and later: components with their status.

Notifications on ``<id>/events/rpc`` hold what changed of several components, and
``<id>/status/<component>`` (off by default) one component.
https://shelly-api-docs.shelly.cloud/gen2/General/Notifications

Anybody may publish to ``x/status/y``: such a topic is Shelly's if its component is one
of theirs, and the body an object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from producers.sensornet.payload import (
    REPEATED,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    is_object,
    object_of,
    value_at,
)

_METER: Mapping[Path, Meaning] = {
    ("apower",): Meaning("power"),
    ("voltage",): Meaning("voltage"),
    ("current",): Meaning("current"),
    ("aenergy", "total"): Meaning("energy", unit="Wh"),
    ("temperature", "tC"): Meaning("chip_temperature", unit="°C"),
}
_THERMOSTAT: Mapping[Path, Meaning] = {
    ("current_C",): Meaning("temperature", unit="°C"),
    ("target_C",): Meaning("target_temperature", unit="°C"),
    ("current_humidity",): Meaning("humidity"),
    ("pos",): Meaning("valve"),
    ("battery",): Meaning("battery"),
    ("rssi",): Meaning("rssi"),
}

#: Type of a component → its values.
_COMPONENTS: Mapping[str, Mapping[Path, Meaning]] = {
    "temperature": {("tC",): Meaning("temperature", unit="°C")},
    "humidity": {("rh",): Meaning("humidity")},
    "illuminance": {("lux",): Meaning("illuminance")},
    "devicepower": {
        ("battery", "percent"): Meaning("battery"),
        ("battery", "V"): Meaning("voltage"),
    },
    "voltmeter": {("voltage",): Meaning("voltage")},
    "switch": _METER,
    "pm1": _METER,
    "light": _METER,
    "rgb": _METER,
    "rgbw": _METER,
    "cct": _METER,
    "cover": {**_METER, ("current_pos",): Meaning("position")},
    # Of three phases; _PHASE knows the rest.
    "em": {
        ("total_act_power",): Meaning("power"),
        ("total_current",): Meaning("current"),
    },
    "emdata": {("total_act",): Meaning("energy", unit="Wh")},
    "em1": {
        ("act_power",): Meaning("power"),
        ("voltage",): Meaning("voltage"),
        ("current",): Meaning("current"),
    },
    "em1data": {("total_act_energy",): Meaning("energy", unit="Wh")},
    "smoke": {("alarm",): Meaning("smoke")},
    "flood": {("alarm",): Meaning("water_leak")},
    "presence": {("value",): Meaning("motion")},
    "presencezone": {("value",): Meaning("motion")},
    "thermostat": _THERMOSTAT,
    "trv": _THERMOSTAT,
    "blutrv": _THERMOSTAT,
    "bthomedevice": {("battery",): Meaning("battery"), ("rssi",): Meaning("rssi")},
    "wifi": {("rssi",): Meaning("rssi")},
}
#: Components whose values stand beside those of another one of the device.
_BESIDE = frozenset(
    {"voltmeter", "thermostat", "trv", "blutrv", "bthomedevice", "presencezone"}
)
#: Components without readings, and without a number in their name.
_SINGLE = frozenset(
    {"wifi", "sys", "cloud", "mqtt", "ble", "bthome", "ws", "ui", "eth", "modbus"}
    | {"knx", "matter", "zigbee", "ht_ui", "plugs_ui", "presence", "dali"}
)
_COMPONENT = re.compile(r"[a-z][a-z0-9_]*:\d{1,5}")

#: Values of one phase of a meter: ``a_act_power``.
_OF_PHASE = re.compile(r"(?P<phase>[abcn])_(?P<value>\w+)")
_PHASE: Mapping[tuple[str, str], Meaning] = {
    ("em", "act_power"): Meaning("power"),
    ("em", "voltage"): Meaning("voltage"),
    ("em", "current"): Meaning("current"),
    ("emdata", "total_act_energy"): Meaning("energy", unit="Wh"),
}

#: Values that describe others: which component it is, and when it spoke.
_DESCRIBING = frozenset({"id", "ts", "last_updated_ts", "minute_ts", "src", "dst"})
#: When a component's value was measured, where that is not when the message was sent.
_OWN_TIME = "last_updated_ts"

#: Components with buttons.
_BUTTONS = frozenset({"input", "bthomedevice", "bthomesensor", "blutrv"})

#: A tuple: what a frame says may be of any type, hashable or not.
_STATUS_METHODS = ("NotifyStatus", "NotifyFullStatus")


def parse(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """The values of a notification or of a component's status.

    Raises:
        InvalidMessage: the body of such a topic is no JSON object.
    """
    match list(levels):
        case [*device, "events", "rpc"]:
            return _notification("/".join(device), object_of(body))
        case [*device, "status", component]:
            return _component("/".join(device), component, body)
        case [*_, "online"]:
            return Ignored("availability")
        case _:
            return Ignored("no reading")


def _component(device: str, component: str, body: bytes) -> Payload | Ignored:
    known = component in _SINGLE or _COMPONENT.fullmatch(component)
    is_shelly = device.casefold().startswith("shelly")
    if not known or not (is_shelly or is_object(body)):
        return Ignored("no Shelly")
    status = object_of(body)
    return Payload(device, status, partial(_judge, component, status))


def _notification(device: str, frame: dict[str, Any]) -> Payload | Ignored:
    params = frame.get("params")
    method = frame.get("method")
    if not isinstance(params, dict):
        return Ignored("event")
    if method == "NotifyEvent" and params.get("events"):
        return Payload(device, frame, partial(_judge_event, params), params.get("ts"))
    if method not in _STATUS_METHODS:
        return Ignored("event")

    def judge(path: Path, raw: object) -> Judgement:
        match path:
            case ("params", component, *inner) if inner:
                status = params[component]
                status = status if isinstance(status, dict) else {}
                return _judge(component, status, tuple(inner), raw)
            case ("params", "ts") | ("src" | "dst" | "method",):
                return None
            case _:
                return Passed()

    elsewhere = {
        f"{device.replace('/', '.')}.status.{component}": ("params", component)
        for component in params
    }
    return Payload(device, frame, judge, params.get("ts"), elsewhere=elsewhere)


def _judge(
    component: str, status: Mapping[str, Any], path: Path, _raw: object
) -> Judgement:
    """A value of one component."""
    kind, _, number = component.partition(":")
    if path[-1] in _DESCRIBING:
        return None
    if path[-1] == "tF" or (kind == "thermostat" and path[-1].endswith("_F")):
        return Passed(REPEATED)
    known = _COMPONENTS.get(kind, {}).get(path)
    part = "" if number in ("", "0") else number
    if kind in _BESIDE:
        part = f"{kind}_{number}" if number else kind
    if known is None and (of_phase := _OF_PHASE.fullmatch(path[0])) and len(path) == 1:
        known = _PHASE.get((kind, of_phase["value"]))
        part = "/".join(each for each in (part, of_phase["phase"]) if each)
    stamp = status.get(_OWN_TIME)
    if known is None:
        return Passed(part=part, stamp=stamp)
    return known._replace(part=part, stamp=stamp)


def _judge_event(params: Mapping[str, Any], path: Path, _raw: object) -> Judgement:
    """A value of a frame of events: what a button was stands in ``event``."""
    match path:
        case ("params", "ts") | ("src" | "dst" | "method",):
            return None
        case ("params", "events", index, "event"):
            event = value_at(params, ("events", index))
            event = event if isinstance(event, dict) else {}
            component = event.get("component")
            if isinstance(component, str) and component.partition(":")[0] in _BUTTONS:
                return Meaning(
                    "action", part=component.replace(":", "_"), stamp=event.get("ts")
                )
            return Passed("event")
        case ("params", "events", _, *inner):
            return (
                None if inner and inner[-1] in (*_DESCRIBING, "component") else Passed()
            )
        case _:
            return Passed()
