"""What devices announce of their values decides what those are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtasks.producers.sensornet.announcements import (
    MAX_TOPICS,
    Announcements,
    SavedAnnouncements,
)
from meshtasks.producers.sensornet.discovery import Announced
from meshtasks.producers.sensornet.template import parse
from tests.support.devices import NOW, Devices, records, values

ANNOUNCED = [
    {"topic": "homeassistant/#", "format": "discovery"},
    {"topic": "#", "format": "announced"},
]


def announced(component: str = "sensor", **config: Any) -> Devices:
    """Devices of which one announced an entity with its state on ``x/y``."""
    devices = Devices(sources=ANNOUNCED)
    announce(devices, component, **{"stat_t": "x/y", **config})
    return devices


def announce(devices: Devices, component: str, name: str = "it", **config: Any) -> None:
    devices.publish(f"homeassistant/{component}/{name}/config", json.dumps(config))


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "celsius"),
        [
            ("{{ value_json.a.b }}", 215),
            ("{{ value_json['a']['b'] }}", 215),
            ('{{ value_json["a"].b }}', 215),
            ("{{value_json.a.get('b')}}", 215),
            ("{{ value_json.a.b | is_defined }}", 215),
            ("{{ value_json.a.b | float }}", 215),
            ("{{ value_json.a.b | float(0) | round(1) }}", 215),
            ("{{ value_json.a.b | int(default=0) }}", 215),
            ("{{ value_json.a.b|default(0) }}", 215),
            ("{{ value_json.a.b | default(None) }}", 215),
            ("{{ value_json.a.b / 10 }}", 21.5),
            ("{{ (value_json.a.b | float * 0.1) | round(1) }}", 21.5),
            ("{{ value_json.a.b | multiply(0.1) }}", 21.5),
            ("{{ float(value_json.a.b) - 200 }}", 15),
            ("{{ value_json.a.b if value_json.a.b is defined else 0 }}", 215),
            ("{{ value_json.a.b if 'a' in value_json else none }}", 215),
            ("{% if value_json.a.b is defined %}{{ value_json.a.b }}{% endif %}", 215),
        ],
    )
    def test_one_value_is_taken_out_and_perhaps_calculated_with(
        self, template: str, celsius: float
    ) -> None:
        devices = announced(dev_cla="temperature", val_tpl=template)
        found = devices.publish("x/y", '{"a": {"b": 215}}')

        assert values(found) == {"sensors.temperature.x.y.it": (celsius, "°C")}

    @pytest.mark.parametrize(
        "template",
        [
            "{{ value_json.a + value_json.b }}",
            "{{ value_json.a | int(base=16) }}",
            "{{ value_json.a ** 2 }}",
            "{{ value_json.a | random_filter }}",
            "{{ value_json.a }} and more",
            "{% for each in value_json.a %}{{ each }}{% endfor %}",
        ],
    )
    def test_what_is_not_understood_is_counted_by_the_name_of_its_value(
        self, template: str
    ) -> None:
        devices = announced(dev_cla="temperature", val_tpl=template)
        found = devices.publish("x/y", '{"a": 3}')

        assert not found.messages
        assert found.counted == {("computed by a template", "a"): 1}

    @pytest.mark.parametrize(
        "text", ["{{", "{{ " + "(" * 400 + "1", "x" * 5_000, "{{ 1 }}", "{{ now() }}"]
    )
    def test_no_template_is_ever_run(self, text: str) -> None:
        assert parse(text).compute is None

    def test_a_default_invents_no_reading(self) -> None:
        devices = announced(
            dev_cla="temperature", val_tpl="{{ value_json.t|float(0) }}"
        )

        assert not devices.publish("x/y", '{"other": 1}').messages
        assert devices.publish("x/y", '{"t": null}').skipped == {"unavailable": 1}
        assert devices.publish("x/y", '{"t": "unknown"}').skipped == {"unavailable": 1}

    def test_a_division_by_zero_is_a_dead_letter(self) -> None:
        devices = announced(dev_cla="temperature", val_tpl="{{ 1 / value_json.t }}")
        found = devices.publish("x/y", '{"t": 0}')

        assert found.dead is not None
        assert found.dead.reason == "t: its template divides 1 by zero"

    def test_a_calculated_value_has_the_announced_unit_not_the_messages(self) -> None:
        devices = Devices()
        announce(
            devices,
            "sensor",
            stat_t="plug/status/switch:0",
            dev_cla="energy",
            unit_of_meas="kWh",
            val_tpl="{{ value_json.aenergy.total | float / 1000 }}",
        )
        found = devices.publish("plug/status/switch:0", '{"aenergy": {"total": 1500}}')

        assert values(found) == {"metrics.system.plug.device": {"energy_kwh": 1.5}}


class TestBinarySensors:
    @pytest.mark.parametrize(
        ("on", "off", "value", "is_open"),
        [
            (True, False, "true", True),
            (True, False, "false", False),
            (False, True, "true", False),
            (False, None, "true", False),
            (None, True, "true", False),
            (None, None, "true", True),
            (1, 0, "1", True),
            (0, 1, "1", False),
            ("1", "0", "1.0", True),
            (22, 23, "23", False),
            ("open", "closed", '"open"', True),
            ("Closed", "Open", '"closed"', True),
            ("ON", "OFF", '"off"', False),
            (None, "ON", '"ON"', True),  # the usual one for on comes first
            ("2", None, '"OFF"', False),
            (1, 0, "true", True),
            ("ON", "OFF", "false", False),
            (False, True, '"ON"', False),
        ],
    )
    def test_payloads_of_any_type_say_what_is_on(
        self, on: object, off: object, value: str, *, is_open: bool
    ) -> None:
        payloads = {"payload_on": on, "payload_off": off}
        devices = announced(
            "binary_sensor",
            device_class="window",
            value_template="{{ value_json.contact }}",
            **{key: each for key, each in payloads.items() if each is not None},
        )
        found = devices.publish("x/y", f'{{"contact": {value}}}')

        assert values(found) == {"metrics.system.x.y.it.device": {"open": is_open}}

    def test_what_is_neither_on_nor_off_is_counted(self) -> None:
        devices = announced("binary_sensor", dev_cla="door", pl_on="1", pl_off="2")
        found = devices.publish("x/y", "3")

        assert found.counted == {("neither payload_on nor payload_off", "y"): 1}

    def test_a_template_may_say_what_is_on(self) -> None:
        devices = announced(
            "binary_sensor",
            dev_cla="moisture",
            val_tpl="{{ 'ON' if value_json.level > 3 else 'OFF' }}",
        )
        said = [devices.publish("x/y", f'{{"level": {level}}}') for level in (4, 2)]

        assert [values(each) for each in said] == [
            {"metrics.system.x.y.it.device": {"water_leak": state}}
            for state in (True, False)
        ]

    def test_a_lock_that_is_on_is_not_locked(self) -> None:
        devices = announced("binary_sensor", dev_cla="lock")

        assert values(devices.publish("x/y", "ON")) == {
            "metrics.system.x.y.it.device": {"locked": False}
        }

    @pytest.mark.parametrize("device_class", ["power", "problem", "connectivity", ""])
    def test_one_of_no_known_class_is_no_number(self, device_class: str) -> None:
        devices = Devices()
        topic = "den/binary_sensor/main_power/state"
        announce(devices, "binary_sensor", stat_t=topic, dev_cla=device_class)
        found = devices.publish(topic, "ON")

        assert not found.messages
        assert found.dead is None
        assert found.counted.total() == 1


class TestKinds:
    @pytest.mark.parametrize(
        ("device_class", "unit", "field", "value"),
        [
            ("pressure", "psi", "pressure_hpa", 689.475729),
            ("pressure", "inHg", "pressure_hpa", 338.638816),
            ("energy", "GJ", "energy_kwh", 2777.777778),
            ("power", "mW", "power_watts", 0.01),
            ("voltage", "kV", "voltage_volts", 10_000),
            ("pm25", "µg/m³", "pm25_ug_per_m3", 10),
            ("pm25", "ug/m3", "pm25_ug_per_m3", 10),
            ("volatile_organic_compounds_parts", "ppm", "tvoc_ppb", 10_000),
            ("carbon_monoxide", "ppm", "co_ppm", 10),
            ("moisture", "%", "soil_moisture_percent", 10),
        ],
    )
    def test_class_and_unit_give_field_and_factor(
        self, device_class: str, unit: str, field: str, value: float
    ) -> None:
        devices = announced(dev_cla=device_class, unit_of_meas=unit)

        assert values(devices.publish("x/y", "10")) == {
            "metrics.system.x.y.it.device": {field: value}
        }

    @pytest.mark.parametrize(
        ("name", "config"),
        [
            ("power", {"dev_cla": "apparent_power", "unit_of_meas": "VA"}),
            ("power", {"dev_cla": "reactive_power", "unit_of_meas": "var"}),
            ("pulse_power", {"unit_of_meas": "pulses/min"}),
            ("move_energy", {"unit_of_meas": "%"}),
            ("indoor_humidity", {"dev_cla": "absolute_humidity"}),
            ("temperature", {"dev_cla": "temperature_delta", "unit_of_meas": "K"}),
        ],
    )
    def test_a_name_is_never_believed_against_what_is_announced(
        self, name: str, config: dict[str, str]
    ) -> None:
        devices = Devices()
        topic = f"den/sensor/{name}/state"
        announce(devices, "sensor", stat_t=topic, **config)
        found = devices.publish(topic, "57")

        assert not found.messages
        assert found.dead is None
        assert found.counted.total() == 1

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("chip_temperature", "metrics.system.den.chip_temperature.device"),
            ("esp32_temperature", "metrics.system.den.esp32_temperature.device"),
            ("target_temperature", "metrics.system.den.target_temperature.device"),
            ("bath_temperature", "sensors.temperature.den.bath_temperature"),
        ],
    )
    def test_a_name_distinguishes_a_room_a_chip_and_a_target(
        self, name: str, key: str
    ) -> None:
        found = Devices().publish(f"den/sensor/{name}/state", "41")

        assert list(values(found)) == [key]

    def test_a_thermostat_measures_one_temperature_and_aims_at_another(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        announce(
            devices,
            "climate",
            "bath",
            **{"~": "trv", "curr_temp_t": "~/state", "temp_stat_t": "~/state"},
            curr_temp_tpl="{{ value_json.is }}",
            temp_stat_tpl="{{ value_json.wish }}",
            temp_unit="F",
        )
        found = devices.publish("trv/state", '{"is": 68, "wish": 70, "mode": "heat"}')

        assert values(found) == {
            "sensors.temperature.trv.state.bath_current": (68, "°F"),
            "metrics.system.trv.state.bath_target.device": {
                "target_celsius": pytest.approx(21.111111)
            },
        }
        assert found.counted == {("not announced", "mode"): 1}

    @pytest.mark.parametrize("component", ["climate", "humidifier"])
    def test_a_thermostat_may_measure_humidity(self, component: str) -> None:
        devices = Devices(sources=ANNOUNCED)
        announce(devices, component, "bath", curr_hum_t="trv/rh", temp_unit="C")

        assert values(devices.publish("trv/rh", "48")) == {
            "sensors.humidity.trv.rh.bath_current": (48, "%")
        }

    def test_a_degree_sign_may_be_latin_1(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        body = b'{"stat_t": "x", "dev_cla": "temperature", "unit_of_meas": "\xb0F"}'
        devices.publish("homeassistant/sensor/it/config", body)

        assert values(devices.publish("x", "70")) == {
            "sensors.temperature.x.it": (70, "°F")
        }

    def test_units_belong_to_entities_not_to_their_topic(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        for name, unit in (("day", "Wh"), ("total", "kWh")):
            announce(
                devices,
                "sensor",
                name,
                stat_t="meter",
                dev_cla="energy",
                unit_of_meas=unit,
                val_tpl=f"{{{{ value_json.{name} }}}}",
            )
        found = devices.publish("meter", '{"day": 1500, "total": 8123.4}')

        assert values(found) == {
            "metrics.system.meter.day.device": {"energy_kwh": 1.5},
            "metrics.system.meter.total.device": {"energy_kwh": 8123.4},
        }

    def test_what_a_gateway_passes_on_is_known_in_its_notifications_too(self) -> None:
        devices = Devices()
        announce(
            devices,
            "sensor",
            "203",
            stat_t="gate/status/bthomesensor:203",
            dev_cla="humidity",
            unit_of_meas="%",
            val_tpl="{{ value_json.value }}",
            dev={"cns": [["bluetooth", "11:22"]], "name": "BLU HT"},
        )
        body = {
            "method": "NotifyStatus",
            "params": {
                "ts": NOW,
                "bthomesensor:203": {"value": 41, "last_updated_ts": NOW - 60},
                "bthomesensor:204": {"value": 7},
            },
        }
        found = devices.publish("gate/events/rpc", json.dumps(body))

        assert records(found)["sensors.humidity.blu_ht.203"]["timestamp"] == NOW - 60
        assert found.counted == {("kind unknown", "params.bthomesensor:204.value"): 1}

    def test_a_vendor_knows_a_kind_more_narrowly_than_its_class(self) -> None:
        devices = Devices()
        announce(
            devices,
            "sensor",
            stat_t="zigbee2mqtt/pot",
            dev_cla="humidity",
            unit_of_meas="%",
            val_tpl="{{ value_json.soil_moisture }}",
        )
        found = devices.publish("zigbee2mqtt/pot", '{"soil_moisture": 31}')

        assert values(found) == {
            "metrics.system.pot.device": {"soil_moisture_percent": 31}
        }


class TestTopics:
    @pytest.mark.parametrize("state_topic", ["x/y", "+/y", "x/#", "#", "+/+"])
    def test_a_state_topic_is_a_topic_filter(self, state_topic: str) -> None:
        devices = announced(stat_t=state_topic, dev_cla="temperature")

        assert len(devices.publish("x/y", "21").messages) == 1

    def test_a_withdrawn_filter_matches_no_more(self) -> None:
        devices = announced(stat_t="+/y", dev_cla="temperature")
        devices.publish("homeassistant/sensor/it/config", b"")

        assert devices.publish("x/y", "21").skipped == {"not announced": 1}

    def test_a_vendors_topic_that_its_module_does_not_know_may_be_announced(
        self,
    ) -> None:
        devices = Devices()
        announce(devices, "sensor", stat_t="pump/status/heat", dev_cla="temperature")

        assert values(devices.publish("pump/status/heat", "41")) == {
            "sensors.temperature.pump.status.heat.it": (41, "°C")
        }

    def test_a_wide_filter_makes_no_reading_of_a_last_will(self) -> None:
        devices = Devices()
        template = "{{ value_json.t }}"
        announce(
            devices,
            "sensor",
            stat_t="tele/shed/#",
            dev_cla="temperature",
            val_tpl=template,
        )
        found = devices.publish("tele/shed/LWT", "Online")

        assert found.skipped == {"availability": 1}
        assert found.dead is None


class TestDevices:
    def names(self, *device_blocks: dict[str, Any]) -> set[str]:
        """The sensors of devices that announce one entity each, all by one name."""
        devices = Devices(sources=ANNOUNCED)
        for number, block in enumerate(device_blocks):
            announce(
                devices,
                "sensor",
                f"e{number}",
                stat_t=f"t/{number}",
                dev_cla="temperature",
                dev={"name": "Bad oben", **block},
            )
        return {
            key
            for number in range(len(device_blocks))
            for key in values(devices.publish(f"t/{number}", "21"))
        }

    def test_a_device_is_one_by_any_identifier_that_its_entities_share(self) -> None:
        address = [["mac", "40:F5"]]

        assert self.names(
            {"ids": ["a"]},
            {"ids": ["a", "b"]},
            {"ids": "b", "cns": address},
            {"cns": address},
        ) == {f"sensors.temperature.bad_oben.e{number}" for number in range(4)}

    def test_devices_without_one_in_common_do_not_share_a_name(self) -> None:
        assert self.names({"ids": ["a"]}, {"cns": [["mac", "a"]]}) == {
            "sensors.temperature.t.0.e0",
            "sensors.temperature.t.1.e1",
        }

    def test_two_entities_by_one_name_are_two_sensors(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        for node in ("inside", "outside"):
            announce(
                devices,
                "sensor",
                f"{node}/temperature",
                stat_t=f"station/{node}",
                dev_cla="temperature",
                dev={"ids": "s", "name": "Station"},
            )
        names = {
            key
            for node in ("inside", "outside")
            for key in values(devices.publish(f"station/{node}", "21"))
        }

        assert len(names) == 2
        assert all(each.startswith("sensors.temperature.station.") for each in names)

    def test_an_area_that_no_point_can_hold_does_not_cost_the_reading(self) -> None:
        devices = announced(
            dev_cla="temperature",
            dev={"ids": "i", "name": "n", "sa": "a\\b\n" + "x" * 999},
        )
        (record,) = records(devices.publish("x/y", "21")).values()

        assert record["location"].startswith("a b xxx")
        assert len(record["location"]) <= 100

    def test_an_entity_may_name_its_device_by_an_identifier(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        for name, device in (
            ("flow", {"ids": ["b1"], "name": "Boiler", "sa": "cellar"}),
            ("outside", {"ids": ["b1"]}),
            ("other", {"ids": ["b2"]}),
        ):
            template = f"{{{{ value_json.{name} }}}}"
            entity = {"stat_t": "ems/data", "val_tpl": template, "dev": device}
            announce(devices, "sensor", name, dev_cla="temperature", **entity)
        found = devices.publish("ems/data", '{"flow": 45, "outside": 4, "other": 20}')

        assert {
            key: record.get("location") for key, record in records(found).items()
        } == {
            "sensors.temperature.boiler.flow": "cellar",
            "sensors.temperature.boiler.outside": "cellar",
            "sensors.temperature.ems.data.other": None,
        }

    def test_entities_of_one_name_and_device_stay_apart(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        for node, device in (
            ("a", {"ids": "b1", "name": "Boiler"}),
            ("b", {"ids": "b1"}),
        ):
            announce(
                devices,
                *("sensor", f"{node}/flow"),
                stat_t=f"ems/{node}",
                dev=device,
                dev_cla="temperature",
            )
        keys = [
            key
            for node in ("a", "b")
            for key in values(devices.publish(f"ems/{node}", "40"))
        ]

        assert keys == [
            "sensors.temperature.boiler.flow",
            "sensors.temperature.boiler.homeassistant_sensor_b_flow_flow",
        ]


class TestSavedAnnouncements:
    def test_what_an_earlier_version_has_kept_is_understood(self) -> None:
        old = {
            "state_topic": "x/y",
            "kind": "temperature",
            "unit": "°F",
            "path": ["a", "b"],
            "entity": "it",
            "device_id": "i",
            "device": "Bad",
            "area": "First floor",
        }
        (entity,) = SavedAnnouncements.model_validate({"k": [old]}).root["k"]

        assert entity == Announced(
            state_topic="x/y",
            component="sensor",
            device_class="temperature",
            unit="°F",
            value_template="{{ value_json['a']['b'] }}",
            entity="it",
            device_ids=("i",),
            device="Bad",
            area="First floor",
        )

    def test_there_is_an_end_to_what_is_kept(self) -> None:
        entity = Announced(state_topic="x", component="sensor", entity="e")
        full = {str(number): (entity,) for number in range(MAX_TOPICS)}
        announcements = Announcements(full)

        assert not announcements.put("one more", (entity,))
        assert announcements.put("1", ())
        assert announcements.put("one more", (entity,))
