"""Shelly's second generation and later: components with their status.

Notifications on ``<id>/events/rpc`` hold what changed of several components, and
``<id>/status/<component>`` (off by default) one component.
https://shelly-api-docs.shelly.cloud/gen2/General/Notifications
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from producers.sensornet.payload import object_of
from producers.sensornet.report import Ignored, Report


class _Field(NamedTuple):
    """Where a value stands in a component's status, and what it is."""

    path: tuple[str, ...]
    kind: str
    unit: str | None = None


_METER = (
    _Field(("apower",), "power"),
    _Field(("voltage",), "voltage"),
    _Field(("current",), "current"),
    _Field(("aenergy", "total"), "energy", "Wh"),
    _Field(("temperature", "tC"), "chip_temperature", "°C"),
)

#: Type of a component → its values.
_COMPONENTS: Mapping[str, tuple[_Field, ...]] = {
    "temperature": (_Field(("tC",), "temperature", "°C"),),
    "humidity": (_Field(("rh",), "humidity"),),
    "illuminance": (_Field(("lux",), "illuminance"),),
    "devicepower": (
        _Field(("battery", "percent"), "battery"),
        _Field(("battery", "V"), "voltage"),
    ),
    "switch": _METER,
    "pm1": _METER,
    "cover": _METER,
    "light": _METER,
    "em": (_Field(("total_act_power",), "power"),),
    "em1": (
        _Field(("act_power",), "power"),
        _Field(("voltage",), "voltage"),
        _Field(("current",), "current"),
    ),
    "emdata": (_Field(("total_act",), "energy", "Wh"),),
    "em1data": (_Field(("total_act_energy",), "energy", "Wh"),),
    "smoke": (_Field(("alarm",), "smoke"),),
    "flood": (_Field(("alarm",), "water_leak"),),
    "wifi": (_Field(("rssi",), "rssi"),),
}

#: A tuple: what a frame says may be of any type, hashable or not.
_STATUS_METHODS = ("NotifyStatus", "NotifyFullStatus")
_ABSENT = object()


def parse(levels: Sequence[str], body: bytes) -> Report | Ignored:
    """The readings of a notification or of a component's status.

    Raises:
        InvalidMessage: the body of such a topic is no JSON object.
    """
    match list(levels):
        case [*device, "events", "rpc"]:
            return _notification("/".join(device), object_of(body))
        case [*device, "status", component]:
            report = Report("/".join(device))
            _add_component(report, component, object_of(body))
            return report
        case [*_, "online"]:
            return Ignored("availability")
        case _:
            return Ignored("no reading")


def _notification(device: str, frame: Mapping[str, Any]) -> Report | Ignored:
    params = frame.get("params")
    if frame.get("method") not in _STATUS_METHODS or not isinstance(params, dict):
        return Ignored("event")
    report = Report(device, stamp=params.get("ts"))
    for component, status in params.items():
        if isinstance(status, dict):
            _add_component(report, component, status)
    return report


def _add_component(report: Report, component: str, status: Mapping[str, Any]) -> None:
    kind, _, number = component.partition(":")
    part = "" if number in ("", "0") else number
    for field in _COMPONENTS.get(kind, ()):
        raw = _found(status, field.path)
        # A notification holds what changed only; an absent value is no null.
        if raw is not _ABSENT:
            place = ".".join((component, *field.path))
            report.add(field.kind, raw, place, unit=field.unit, part=part)


def _found(status: Mapping[str, Any], path: Sequence[str]) -> object:
    value: object = status
    for step in path:
        if not isinstance(value, dict) or step not in value:
            return _ABSENT
        value = value[step]
    return value
