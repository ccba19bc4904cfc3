"""Shelly: one value per topic (first generation), or components with their status.

First generation (https://shelly-api-docs.shelly.cloud/gen1/): topics are below
``shellies/<id>/``. ``sensor/temperature`` has the unit that is set in the device; the
message does not contain it, but sensornet.yaml can. Motion sensors and radiator valves
also send their status as JSON, and buttons send events.

Later generations (https://shelly-api-docs.shelly.cloud/gen2/General/Notifications):
``<id>/events/rpc`` contains changes of several components, and
``<id>/status/<component>`` (off by default) one component. Other devices may also
publish to ``x/status/y``. Such a topic counts as Shelly's if its component is one of
Shelly's, and if the device's name begins with ``shelly`` or the body is an object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from meshtasks.producers.sensornet.payload import (
    REPEATED,
    UNAVAILABLE,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
    is_object,
    joined,
    meanings,
    object_of,
    value_at,
)
from meshtasks.text import clip

#: Topic after the id, with ``+`` for a number → meaning.
_TOPICS = meanings(
    {
        "temperature": "sensor/temperature",
        "temperature °C": "ext_temperature/+",
        "chip_temperature °C": "temperature",
        "humidity": "sensor/humidity ext_humidity/+",
        "battery": "sensor/battery",
        "illuminance": "sensor/lux",
        "motion": "sensor/motion",
        "water_leak": "sensor/flood",
        "smoke": "sensor/smoke",
        "gas": "sensor/gas",
        "open": "sensor/state",
        "vibration": "sensor/vibration",
        "voltage": "voltage adc/+ emeter/+/voltage",
        "power": "relay/power relay/+/power light/+/power roller/+/power "
        "emeter/+/power",
        "energy Wmin": "relay/energy relay/+/energy light/+/energy roller/+/energy",
        "energy Wh": "emeter/+/total",
        "current": "emeter/+/current",
        "position": "roller/+/pos",
    }
)


def _at_paths(names_by_kind: Mapping[str, str]) -> Mapping[Path, Meaning]:
    """Return meanings by path; the steps in the names are joined by dots."""
    found = meanings(names_by_kind)
    return {tuple(path.split(".")): meaning for path, meaning in found.items()}


#: Paths in ``status`` and ``info`` of the first generation. Radiator valves send short
#: paths in the one, and long paths in the other.
_STATUS = _at_paths(
    {
        "motion": "motion",
        "vibration": "vibration",
        "illuminance": "lux lux.value",
        "battery": "bat bat.value",
        "voltage": "bat.voltage",
        "temperature": "tmp.value thermostats.0.tmp.value",
        "humidity": "hum.value",
        "target_temperature": "target_t.value thermostats.0.target_t.value",
        "valve": "pos thermostats.0.pos",
    }
)
#: Topics of temperatures in Fahrenheit that are also published in Celsius.
_IN_FAHRENHEIT = frozenset({"temperature_f", "ext_temperature_f/+"})
#: Names that describe the value beside them.
_BESIDE_VALUE = frozenset({"units", "is_valid"})
#: Texts of the gas detector.
_GAS: Mapping[str, bool] = {"none": False, "mild": True, "heavy": True}
#: Last levels of topics without readings.
_OTHER_TOPICS = {
    **dict.fromkeys(("command", "set"), "command"),
    **dict.fromkeys(("announce", "settings"), "announcement"),
    "online": "availability",
}


def parse_gen1(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """Parse the value of a topic, or all values of a status.

    Raises:
        InvalidMessage: a status is not a JSON object, or a value is not UTF-8.
    """
    if len(levels) < 2:  # noqa: PLR2004 - shellies/announce, shellies/command
        return Ignored("announcement")
    device, *path = levels
    if path[-1] in _OTHER_TOPICS:
        return Ignored(_OTHER_TOPICS[path[-1]])
    part = _part(path)
    if path in (["status"], ["info"]):
        status = object_of(body)
        return Payload(device, status, partial(_judge_status, status))
    if path[0] == "input_event":
        # {"event": "S", "event_cnt": 3}: a short push, the third since the start
        def judge_input(path_in: Path, _raw: object) -> Judgement:
            return Meaning("action", part=part) if path_in == ("event",) else Passed()

        return Payload(device, object_of(body), judge_input)
    document = document_of(body)
    topic = "/".join("+" if level.isdecimal() else level for level in path)
    known = _TOPICS.get(topic)
    if topic == "sensor/gas" and isinstance(document, str):
        document = _GAS.get(document, document)

    def judge(path_in: Path, _raw: object) -> Judgement:
        if topic in _IN_FAHRENHEIT:
            return Passed(REPEATED)
        return known._replace(part=part) if known and not path_in else Passed()

    return Payload(device, document, judge, name=clip("/".join(path)))


def _judge_status(status: dict[str, Any], path: Path, _raw: object) -> Judgement:
    if path == ("timestamp",) or (len(path) > 1 and path[-1] in _BESIDE_VALUE):
        return None
    if value_at(status, (*path[:-1], "is_valid")) is False:
        return Passed(UNAVAILABLE)
    known = _STATUS.get(path)
    if known is None:
        return Passed()
    if known.kind == "motion":  # the timestamp is the time of the last motion
        return known._replace(stamp=status.get("timestamp"))
    unit = value_at(status, (*path[:-1], "units")) if len(path) > 1 else None
    return known._replace(unit=unit) if isinstance(unit, str) else known


def _part(path: Sequence[str]) -> str:
    """Return ``ext_0`` for a probe, ``1`` for the second channel, "" for the first."""
    number = next((level for level in path if level.isdecimal()), "")
    if number and path[0] in ("ext_temperature", "ext_humidity", "adc"):
        return f"{path[0].partition('_')[0]}_{number}"
    return "" if number == "0" else number


_METER = {
    "power": "apower",
    "voltage": "voltage",
    "current": "current",
    "energy Wh": "aenergy.total",
    "chip_temperature °C": "temperature.tC",
}
_PRESENCE = {"motion": "value"}
_THERMOSTAT = {
    "temperature °C": "current_C",
    "target_temperature °C": "target_C",
    "humidity": "current_humidity",
    "valve": "pos",
    "battery": "battery",
    "rssi": "rssi",
}
#: Type of a component → meanings of its values.
_COMPONENTS: Mapping[str, Mapping[Path, Meaning]] = {
    component: _at_paths(values)
    for component, values in {
        "temperature": {"temperature °C": "tC"},
        "humidity": {"humidity": "rh"},
        "illuminance": {"illuminance": "lux"},
        "devicepower": {"battery": "battery.percent", "voltage": "battery.V"},
        "voltmeter": {"voltage": "voltage"},
        **dict.fromkeys(("switch", "pm1", "light", "rgb", "rgbw", "cct"), _METER),
        "cover": _METER | {"position": "current_pos"},
        # Meters of three phases; the values of a phase are in _PHASE.
        "em": {"power": "total_act_power", "current": "total_current"},
        "emdata": {"energy Wh": "total_act"},
        "em1": {"power": "act_power", "voltage": "voltage", "current": "current"},
        "em1data": {"energy Wh": "total_act_energy"},
        "smoke": {"smoke": "alarm"},
        "flood": {"water_leak": "alarm"},
        **dict.fromkeys(("presence", "presencezone"), _PRESENCE),
        **dict.fromkeys(("thermostat", "trv", "blutrv"), _THERMOSTAT),
        "bthomedevice": {"battery": "battery", "rssi": "rssi"},
        "wifi": {"rssi": "rssi"},
    }.items()
}
#: Components that a device has in addition to another one with the same kinds.
_BESIDE = frozenset(
    {"voltmeter", "thermostat", "trv", "blutrv", "bthomedevice", "presencezone"}
)
#: Components without a number in their name.
_SINGLE = frozenset(
    {"wifi", "sys", "cloud", "mqtt", "ble", "bthome", "ws", "ui", "eth", "modbus"}
    | {"knx", "matter", "zigbee", "ht_ui", "plugs_ui", "presence", "dali"}
)
_COMPONENT = re.compile(r"[a-z][a-z0-9_]*:\d{1,5}")
#: Values of one phase of a meter, such as ``a_act_power``.
_OF_PHASE = re.compile(r"(?P<phase>[abcn])_(?P<value>\w+)")
_PHASE: Mapping[str, Mapping[str, Meaning]] = {
    "em": meanings({"power": "act_power", "voltage": "voltage", "current": "current"}),
    "emdata": meanings({"energy Wh": "total_act_energy"}),
}
#: Values that describe others: ids, addresses and times.
_DESCRIBING = frozenset({"id", "ts", "last_updated_ts", "minute_ts", "src", "dst"})
#: Time at which a component measured its value, if not the time of the message.
_OWN_TIME = "last_updated_ts"
#: Components that have buttons.
_BUTTONS = frozenset({"input", "bthomedevice", "bthomesensor", "blutrv"})
#: A tuple, because the method in a frame may be of any type, also an unhashable one.
_STATUS_METHODS = ("NotifyStatus", "NotifyFullStatus")


def parse_gen2(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """Parse the values of a notification, or of a component's status.

    Raises:
        InvalidMessage: the body of such a topic is not a JSON object.
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
    """Classify a value of one component."""
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
        known = _PHASE.get(kind, {}).get(of_phase["value"])
        part = joined(part, of_phase["phase"])
    stamp = status.get(_OWN_TIME)
    if known is None:
        return Passed(part=part, stamp=stamp)
    return known._replace(part=part, stamp=stamp)


def _judge_event(params: Mapping[str, Any], path: Path, _raw: object) -> Judgement:
    """Classify a value of a frame of events; a button's action is in ``event``."""
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
