"""What each vendor's messages become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtasks.producers.sensornet.normaliser import Normalised
from tests.support.devices import NOW, Devices, example, records, values


class TestZigbee2MQTT:
    def test_every_attribute_is_a_reading(self) -> None:
        topic, body = example("zigbee2mqtt", "climate")

        assert values(Devices().publish(topic, body)) == {
            "sensors.temperature.friendly_name": (27.34, "°C"),
            "sensors.humidity.friendly_name": (44.72, "%"),
        }

    def test_the_rest_of_a_device_is_one_metric(self) -> None:
        topic, body = example("zigbee2mqtt", "hue_motion")
        normalised = Devices().publish(topic, body)

        assert values(normalised) == {
            "sensors.motion.hue_motion_bad": True,
            "sensors.temperature.hue_motion_bad": (21.51, "°C"),
            "metrics.system.hue_motion_bad.device": {
                "battery_percent": 100,
                "illuminance_lux": 0,
            },
        }
        assert normalised.skipped == {"kind link_quality": 1}

    def test_lux_is_preferred_to_what_the_sensor_measured_raw(self) -> None:
        metric = values(Devices().publish(*example("zigbee2mqtt", "raw_and_lux")))[
            "metrics.system.bedroom.motion.device"
        ]

        assert metric == {"battery_percent": 100, "illuminance_lux": 49}

    def test_a_slash_in_a_friendly_name_is_a_level_of_the_name(self) -> None:
        found = records(Devices().publish(*example("zigbee2mqtt", "raw_and_lux")))

        assert (
            found["sensors.temperature.bedroom.motion"]["sensor_id"] == "bedroom.motion"
        )

    def test_a_battery_may_be_text_and_a_name_may_have_blanks(self) -> None:
        assert values(Devices().publish(*example("zigbee2mqtt", "text_battery"))) == {
            "sensors.motion.hallway_motion_sensor": False,
            "metrics.system.hallway_motion_sensor.device": {
                "battery_percent": 100,
                "illuminance_lux": 0,
            },
        }

    def test_nulls_and_nested_objects_are_passed_over(self) -> None:
        normalised = Devices().publish(*example("zigbee2mqtt", "aqara_p1"))

        assert normalised.dead is None
        assert "sensors.temperature.0x04cf8cdf3c8a82e0" in values(normalised)

    def test_the_millivolts_of_a_battery_differ_from_the_volts_of_the_mains(
        self,
    ) -> None:
        devices = Devices()
        battery = devices.publish("zigbee2mqtt/door", '{"voltage": 3045}')
        mains = devices.publish("zigbee2mqtt/plug", '{"voltage": 231}')

        assert values(battery)["metrics.system.door.device"] == {"voltage_volts": 3.045}
        assert values(mains)["metrics.system.plug.device"] == {"voltage_volts": 231}

    def test_contact_is_the_opposite_of_open(self) -> None:
        _, body = example("zigbee2mqtt", "contact")

        assert values(Devices().publish("zigbee2mqtt/window", body)) == {
            "metrics.system.window.device": {"open": False}
        }

    def test_endpoints_are_parts_of_the_device(self) -> None:
        found = values(Devices().publish("zigbee2mqtt/strip", '{"temperature_2": 21}'))

        assert found == {"sensors.temperature.strip.2": (21, "°C")}

    def test_an_attribute_may_have_a_topic_of_its_own(self) -> None:
        devices = Devices()

        assert values(devices.publish("zigbee2mqtt/hall/temperature", "21.5")) == {
            "sensors.temperature.hall": (21.5, "°C")
        }
        assert devices.publish("zigbee2mqtt/hall/state", "ON").counted == {
            ("kind unknown", "state"): 1
        }

    def test_two_temperatures_of_a_device_have_names_of_their_own(self) -> None:
        devices = Devices()
        names = {
            key
            for body in ('{"temperature": 21}', '{"local_temperature": 22}')
            for key in values(devices.publish("zigbee2mqtt/trv", body))
        }

        assert names == {
            "sensors.temperature.trv",
            "sensors.temperature.trv.local_temperature",
        }

    def test_a_radiator_valve_has_a_target_and_a_position(
        self,
    ) -> None:
        body = (
            '{"current_heating_setpoint": 21.5, "pi_heating_demand": 45, '
            '"child_lock": "UNLOCK", "schedule": {"monday": {"temperature": 19}}}'
        )
        normalised = Devices().publish("zigbee2mqtt/trv", body)

        assert values(normalised) == {
            "metrics.system.trv.device": {"target_celsius": 21.5, "valve_percent": 45}
        }
        assert normalised.counted == {
            ("kind unknown", "child_lock"): 1,
            ("setting", "schedule.monday.temperature"): 1,
        }

    def test_a_name_that_is_not_utf8_does_not_cost_the_temperature(self) -> None:
        body = b'{"friendly_name": "K\xfcche", "temperature": 20}'

        assert values(Devices().publish("zigbee2mqtt/x", body)) == {
            "sensors.temperature.x": (20, "°C")
        }

    @pytest.mark.parametrize(
        "body",
        ['{"gas": 1}', '{"vibration": 0.4}', '{"pressure": true}', '{"moving": "UP"}'],
    )
    def test_an_attribute_may_have_the_name_of_a_kind_and_measure_another(
        self, body: str
    ) -> None:
        found = Devices().publish("zigbee2mqtt/x", body)

        assert not found.messages
        assert found.dead is None
        assert found.skipped == {"kind unknown": 1}

    @pytest.mark.parametrize(
        ("topic", "body", "reason"),
        [
            ("bridge/state", '{"state": "online"}', "bridge"),
            ("bridge/logging", '{"level": "info", "message": "…"}', "bridge"),
            ("hall/availability", '{"state": "offline"}', "availability"),
            ("hall/set", '{"state": "ON"}', "command"),
            ("hall/set/state", "ON", "command"),
            ("hall", "", "cleared"),
        ],
    )
    def test_other_topics_are_passed_over_and_counted(
        self, topic: str, body: str, reason: str
    ) -> None:
        normalised = Devices().publish(f"zigbee2mqtt/{topic}", body)

        assert normalised.skipped == {reason: 1}
        assert not normalised.messages
        assert normalised.dead is None

    @pytest.mark.parametrize(
        "stamp",
        ['"2026-11-23T11:59:00Z"', '"2026-11-23T12:59:00+01:00"', "1795435140000"],
    )
    def test_last_seen_is_the_time_of_the_readings(self, stamp: str) -> None:
        body = f'{{"temperature": 21, "last_seen": {stamp}}}'
        (record,) = records(Devices().publish("zigbee2mqtt/hall", body)).values()

        assert record["timestamp"] == NOW - 60


class TestTasmota:
    def test_each_sensor_is_a_part_of_the_device(self) -> None:
        assert values(Devices().publish(*example("tasmota", "am2301"))) == {
            "sensors.temperature.tasmota.am2301": (24.6, "C"),
            "sensors.humidity.tasmota.am2301": (58.2, "%"),
        }

    def test_probes_are_known_by_their_ids_not_by_their_numbers(self) -> None:
        assert values(Devices().publish(*example("tasmota", "probes"))) == {
            "sensors.temperature.boiler.04173329beff": (17.2, "C"),
            "sensors.temperature.boiler.041752d93bff": (24.3, "C"),
        }

    def test_fahrenheit_stays_so_for_readings_and_is_converted_in_metrics(self) -> None:
        assert values(Devices().publish(*example("tasmota", "fahrenheit"))) == {
            "sensors.temperature.snifferbuddy.scd30": (71.8, "F"),
            "sensors.humidity.snifferbuddy.scd30": (61.6, "%"),
            "metrics.system.snifferbuddy.scd30.device": {
                "co2_ppm": 814,
                "eco2_ppm": 787,
                "dew_point_celsius": pytest.approx(14.388889),
            },
        }

    def test_pressure_is_converted_from_the_unit_that_the_message_names(self) -> None:
        metric = values(
            Devices().publish(*example("tasmota", "millimetres_of_mercury"))
        )["metrics.system.tasmota_bme280.bme280.device"]

        assert metric == {"pressure_hpa": pytest.approx(1013.2 * 1.33322368)}

    def test_sensors_that_do_not_answer_give_no_readings(self) -> None:
        _, body = example("tasmota", "no_sensor_answers")
        normalised = Devices().publish("tele/tasmota_49C88D/SENSOR", body)

        assert not normalised.messages
        assert normalised.dead is None
        assert normalised.skipped == {"unavailable": 6, "kind unknown": 3}

    @pytest.mark.parametrize(
        "sensors",
        [
            '{"RG-15": {"Active": 0.01, "Total": 26.8}}',
            '{"LD2410": {"Distance": [200.0], "Energy": [13, 100]}}',
            '{"AS3935": {"Event": 4, "Energy": 58622}}',
        ],
    )
    def test_only_a_meter_of_electricity_gives_energy(self, sensors: str) -> None:
        assert not Devices().publish("tele/roof/SENSOR", sensors).messages

    def test_a_clamp_gives_energy_under_another_name(self) -> None:
        body = '{"ANALOG": {"CTEnergy1": {"Energy": 0.5, "Power": 230}}}'

        assert values(Devices().publish("tele/box/SENSOR", body)) == {
            "metrics.system.box.analog.ctenergy1.device": {
                "energy_kwh": 0.5,
                "power_watts": 230,
            }
        }

    def test_a_lorawan_device_has_a_battery_of_volts(self) -> None:
        body = '{"LwReceived": {"0x4AD6": {"Name": "door", "Battery": 3.006}}}'

        assert values(Devices().publish("tele/gate/SENSOR", body)) == {
            "metrics.system.gate.door.device": {"voltage_volts": 3.006}
        }

    def test_what_a_zigbee_bridge_received_may_have_its_own_topic(self) -> None:
        body = '{"0xCB93": {"Name": "salon", "Temperature": 21.1, "LinkQuality": 90}}'

        assert values(Devices().publish("tele/gate/ZbReceived", body)) == {
            "sensors.temperature.gate.salon": (21.1, "°C")
        }

    def test_the_processors_temperature_is_none_of_a_room(self) -> None:
        body = '{"ESP32": {"Temperature": 53.3}, "TempUnit": "C"}'

        assert values(Devices().publish("tele/plug/SENSOR", body)) == {
            "metrics.system.plug.esp32.device": {"chip_celsius": 53.3}
        }

    def test_phases_of_a_meter_are_parts(self) -> None:
        body = '{"ENERGY": {"Total": 3.5, "Power": [12, 30]}}'

        assert values(Devices().publish("tele/plug/SENSOR", body)) == {
            "metrics.system.plug.energy.device": {"energy_kwh": 3.5},
            "metrics.system.plug.energy.1.device": {"power_watts": 12},
            "metrics.system.plug.energy.2.device": {"power_watts": 30},
        }

    def test_values_about_the_device_itself_are_counted_by_name(self) -> None:
        body = '{"Wifi": {"RSSI": 74}, "POWER": "ON"}'

        assert Devices().publish("tele/shed/STATE", body).counted == {
            ("state or result", "Wifi.RSSI"): 1,
            ("state or result", "POWER"): 1,
        }

    def test_seconds_since_1970_need_no_zone(self) -> None:
        body = (
            '{"Time": "2026-11-23T12:30:00", "Epoch": 1795435140, '
            '"AM2301": {"Temperature": 21}}'
        )
        (record,) = records(Devices().publish("tele/shed/SENSOR", body)).values()

        assert record["timestamp"] == NOW - 60

    def test_power_of_a_zigbee_device_is_whether_it_is_on(self) -> None:
        body = (
            '{"Lamp": {"Device": "0x1A", "Power": 1, "ActivePower": 7, '
            '"LinkQuality": 60}}'
        )
        normalised = Devices().publish("tele/bridge/SENSOR", body)

        assert values(normalised) == {
            "metrics.system.bridge.lamp.device": {"power_watts": 7}
        }
        assert normalised.counted["kind unknown", "Lamp.Power"] == 1

    def test_the_answer_to_status_10_holds_the_same(self) -> None:
        body = '{"StatusSNS": {"AM2301": {"Temperature": 24.6}, "TempUnit": "C"}}'

        assert values(Devices().publish("stat/shed/STATUS10", body)) == {
            "sensors.temperature.shed.am2301": (24.6, "C")
        }

    @pytest.mark.parametrize(
        ("topic", "body", "reason"),
        [
            ("tele/shed/LWT", "Offline", "availability"),
            ("tele/shed/STATE", '{"Wifi": {"RSSI": 74}}', "state or result"),
            ("stat/shed/RESULT", '{"POWER": "ON"}', "state or result"),
        ],
    )
    def test_other_topics_are_passed_over_and_counted(
        self, topic: str, body: str, reason: str
    ) -> None:
        assert Devices().publish(topic, body).skipped == {reason: 1}

    def test_a_local_time_is_not_used_without_a_zone(self) -> None:
        body = '{"Time": "2026-11-23T12:30:00", "AM2301": {"Temperature": 21}}'
        (record,) = records(Devices().publish("tele/shed/SENSOR", body)).values()

        assert record["timestamp"] == NOW

    def test_with_a_zone_the_local_time_is_the_time_of_the_readings(self) -> None:
        body = '{"Time": "2026-11-23T12:30:00", "AM2301": {"Temperature": 21}}'
        devices = Devices(timezone="Europe/Berlin")
        (record,) = records(devices.publish("tele/shed/SENSOR", body)).values()

        assert record["timestamp"] == NOW - 1_800


class TestShelly:
    def test_a_notification_holds_several_components(self) -> None:
        measured = 1680962879.62
        normalised = Devices().publish(*example("shelly", "plus_ht"), measured + 1)

        assert values(normalised) == {
            "sensors.temperature.shellyplusht-b8d61a8b17cc": (19.8, "°C"),
            "sensors.humidity.shellyplusht-b8d61a8b17cc": (42.2, "%"),
            "metrics.system.shellyplusht-b8d61a8b17cc.device": {
                "battery_percent": 0,
                "voltage_volts": 0.43,
            },
        }
        assert {r["timestamp"] for r in records(normalised).values()} == {measured}

    def test_a_component_may_have_a_topic_of_its_own(self) -> None:
        found = values(
            Devices().publish(
                "hall/status/temperature:101", '{"id": 101, "tC": 4.5, "tF": 40.1}'
            )
        )

        assert found == {"sensors.temperature.hall.101": (4.5, "°C")}

    def test_a_relays_own_temperature_is_none_of_a_room(self) -> None:
        body = (
            '{"id":0,"output":true,"apower":8.9,"aenergy":{"total":1500},'
            '"temperature":{"tC":45.1}}'
        )

        assert values(Devices().publish("boiler/status/switch:0", body)) == {
            "metrics.system.boiler.device": {
                "power_watts": 8.9,
                "energy_kwh": 1.5,
                "chip_celsius": 45.1,
            }
        }

    def test_a_probe_that_cannot_be_read_has_no_value(self) -> None:
        body = '{"id": 100, "tC": null, "tF": null, "errors": ["read"]}'

        assert Devices().publish("hall/status/temperature:100", body).counted == {
            ("unavailable", "tC"): 1,
            ("said in another unit, too", "tF"): 1,
            ("kind unknown", "errors.0"): 1,
        }

    @pytest.mark.parametrize(
        ("topic", "body", "reason"),
        [
            ("hall/online", "false", "availability"),
            ("hall/events/rpc", '{"method": "NotifyEvent", "params": {}}', "event"),
            ("hall/status/mqtt", '{"connected": true}', "kind unknown"),
            ("shellies/announce", '{"id": "shelly1-x"}', "announcement"),
            ("shellies/shelly1-x/online", "true", "availability"),
            ("shellies/shelly1-x/relay/0/command", "on", "command"),
            ("shellies/shelly1-x/relay/0", "on", "kind unknown"),
            (
                *("shellies/shelly1-x/temperature_f", "80.1"),
                "said in another unit, too",
            ),
            ("printer/status/state", "idle", "no Shelly"),
            ("printer/status/job", '{"progress": 12}', "no Shelly"),
            ("printer/status/wifi", "connected", "no Shelly"),
        ],
    )
    def test_other_topics_are_passed_over_and_counted(
        self, topic: str, body: str, reason: str
    ) -> None:
        assert Devices().publish(topic, body).skipped == {reason: 1}

    def test_the_first_generation_has_a_topic_for_each_value(self) -> None:
        devices = Devices()
        topic = "shellies/shellyht-3CBD1F/sensor"
        found = values(devices.publish(f"{topic}/temperature", "21.5"))
        found |= values(devices.publish(f"{topic}/humidity", "48.0"))
        found |= values(devices.publish(f"{topic}/battery", "87"))

        assert found == {
            "sensors.temperature.shellyht-3cbd1f": (21.5, "°C"),
            "sensors.humidity.shellyht-3cbd1f": (48, "%"),
            "metrics.system.shellyht-3cbd1f.device": {"battery_percent": 87},
        }

    def test_the_unit_that_the_first_generation_does_not_say_can_be_configured(
        self,
    ) -> None:
        devices = Devices(
            devices={
                "shellyht-3CBD1F": {
                    "name": "bathroom",
                    "location": "first floor",
                    "units": {"temperature": "°F"},
                }
            }
        )
        found = devices.publish("shellies/shellyht-3CBD1F/sensor/temperature", "70.7")

        assert records(found) == {
            "sensors.temperature.bathroom": {
                "sensor_id": "bathroom",
                "value": 70.7,
                "unit": "°F",
                "timestamp": NOW,
                "location": "first floor",
            }
        }

    def test_999_degrees_are_a_probe_that_is_not_there(self) -> None:
        topic = "shellies/shelly1-x/ext_temperature/0"

        assert Devices().publish(topic, "999").skipped == {"unavailable": 1}

    def test_a_radiator_valve_has_a_position(self) -> None:
        body = (
            '{"thermostats": [{"pos": 40, "tmp": {"value": 20.3, "units": "C", '
            '"is_valid": true}}], "bat": {"value": 99, "voltage": 4.1}}'
        )

        assert values(Devices().publish("shellies/trv/info", body)) == {
            "sensors.temperature.trv": (20.3, "C"),
            "metrics.system.trv.device": {
                "valve_percent": 40,
                "battery_percent": 99,
                "voltage_volts": 4.1,
            },
        }

    def test_the_time_of_the_last_motion_is_that_of_the_motion_alone(self) -> None:
        moved = 1757604717
        normalised = Devices().publish(*example("shelly", "motion_gen1"), moved + 600)
        name = "shellymotionsensor-60a423beb736"

        assert values(normalised) == {
            f"sensors.motion.{name}": True,
            f"metrics.system.{name}.device": {
                "vibration": False,
                "illuminance_lux": 70,
                "battery_percent": 67,
            },
        }
        times = {key: each["timestamp"] for key, each in records(normalised).items()}
        assert times == {
            f"sensors.motion.{name}": moved,
            f"metrics.system.{name}.device": moved + 600,
        }

    def test_watt_minutes_become_kilowatt_hours(self) -> None:
        found = Devices().publish("shellies/shelly1pm-x/relay/0/energy", "60000")

        assert values(found) == {"metrics.system.shelly1pm-x.device": {"energy_kwh": 1}}


class TestESPHome:
    def test_discovery_gives_kind_unit_and_name(self) -> None:
        devices = Devices()
        announced = devices.publish(*example("esphome", "garage_temperature"))
        found = devices.publish("garagedoor1/sensor/garage_temperature/state", "12.5")

        assert announced.skipped == {"discovery": 1}
        assert values(found) == {
            "sensors.temperature.garagedoor1.garage_temperature": (12.5, "°C")
        }

    def test_without_discovery_the_name_gives_the_kind(self) -> None:
        found = Devices().publish("node/sensor/bath_humidity/state", "61")

        assert values(found) == {"sensors.humidity.node.bath_humidity": (61, "%")}

    def test_a_sensor_of_no_known_kind_is_counted(self) -> None:
        found = Devices().publish("node/sensor/uptime/state", "465")

        assert found.skipped == {"kind unknown": 1}

    def test_nan_is_no_value(self) -> None:
        found = Devices().publish("node/sensor/bath_temperature/state", "nan")

        assert found.skipped == {"unavailable": 1}

    def test_binary_sensors_are_on_and_off(self) -> None:
        devices = Devices()
        devices.publish(
            "homeassistant/binary_sensor/node/pir/config",
            '{"stat_t": "node/binary_sensor/pir/state", "dev_cla": "occupancy"}',
        )

        assert values(devices.publish("node/binary_sensor/pir/state", "ON")) == {
            "sensors.motion.node.pir": True
        }


class TestNumbers:
    def test_a_source_defines_what_its_numbers_are(self) -> None:
        source = {
            "topic": "greenhouse/+/temp",
            "format": "number",
            "kind": "temperature",
            "unit": "°F",
        }
        found = Devices(sources=[source]).publish("greenhouse/north/temp", "71.5")

        assert values(found) == {"sensors.temperature.north": (71.5, "°F")}

    @pytest.mark.parametrize(
        ("payload", "celsius"),
        [
            *(("+21.5", 21.5), ("021.5", 21.5), (" 21.50\n", 21.5), (".5", 0.5)),
            *(("21.", 21), ("-0.5", -0.5), ("1e1", 10), ("21.5\0", 21.5)),
        ],
    )
    def test_numbers_are_read_however_sketches_write_them(
        self, payload: str, celsius: float
    ) -> None:
        assert self.values_of(payload) == [(celsius, "°C")]

    @pytest.mark.parametrize(
        "payload", ["21,5", "21.5 °C", "true", '"21.5"', "2_1", "0x15", "1e999"]
    )
    def test_what_is_no_number_is_a_dead_letter(self, payload: str) -> None:
        assert Devices(sources=[_GREENHOUSE]).publish("greenhouse/x", payload).dead

    @pytest.mark.parametrize(
        ("payload", "reason"),
        [
            *(("nan", "unavailable"), ("-inf", "unavailable"), ("null", "unavailable")),
            *(("-127.00", "unavailable"), ("999", "unavailable"), ("", "cleared")),
        ],
    )
    def test_what_stands_for_no_number_is_counted(
        self, payload: str, reason: str
    ) -> None:
        found = Devices(sources=[_GREENHOUSE]).publish("greenhouse/x", payload)

        assert found.skipped == {reason: 1}
        assert found.dead is None

    def test_85_degrees_may_be_a_boiler(self) -> None:
        assert self.values_of("85.0") == [(85, "°C")]

    def values_of(self, payload: str) -> list[object]:
        found = Devices(sources=[_GREENHOUSE]).publish("greenhouse/x", payload)
        return [*values(found).values()]


class TestJson:
    #: An uplink of a LoRaWAN network server: readings of a probe amid radio data.
    UPLINK = (
        '{"time": "2026-11-23T11:59:58.123456789+00:00", "fCnt": 7, "object":'
        ' {"temp": 20, "soil": {"temp": 50.0, "wet": 31.5}, "door": true},'
        ' "rxInfo": [{"rssi": -57}]}'
    )

    def publish(self, wanted: dict[str, Any], payload: str = UPLINK) -> Normalised:
        topic = "application/17c82e96/device/+/event/up"
        source = {"topic": topic, "format": "json", "values": wanted, "time": "time"}
        return Devices(sources=[source]).publish(topic.replace("+", "0A0B"), payload)

    def test_values_are_found_by_their_paths(self) -> None:
        found = self.publish(
            {
                "object.temp": "temperature",
                "object.soil.wet": {"kind": "soil_moisture"},
                "object.door": "open",
                "rxInfo.0.rssi": "rssi",
            }
        )

        assert values(found) == {
            "sensors.temperature.0a0b": (20.0, "°C"),
            "metrics.system.0a0b.device": {"soil_moisture_percent": 31.5, "open": True},
        }
        (reading,) = (each for each in records(found).values() if "value" in each)
        assert reading["timestamp"] == 1_795_435_198.123
        assert found.skipped == {"kind rssi": 1, "not configured": 2}

    def test_values_of_one_kind_are_sensors_of_their_own(self) -> None:
        fahrenheit = {"kind": "temperature", "unit": "°F"}
        found = self.publish(
            {"object.temp": "temperature", "object.soil.temp": fahrenheit}
        )

        assert values(found) == {
            "sensors.temperature.0a0b.object.temp": (20.0, "°C"),
            "sensors.temperature.0a0b.object.soil.temp": (50.0, "°F"),
        }

    def test_what_is_no_object_is_a_dead_letter(self) -> None:
        found = self.publish({"object.temp": "temperature"}, "online")

        assert found.dead is not None
        assert "the body is not valid JSON" in found.dead.reason


_GREENHOUSE = {"topic": "greenhouse/+", "format": "number", "kind": "temperature"}


@pytest.mark.parametrize(
    ("topic", "body", "key", "happened"),
    [
        (
            *("zigbee2mqtt/hall/dimmer", '{"action": "hold"}'),
            *("home.device.hall_dimmer.trigger", "hold"),
        ),
        (
            *("stat/hall/RESULT", '{"Button1": {"Action": "DOUBLE"}}'),
            *("home.device.hall_button1.trigger", "DOUBLE"),
        ),
        (
            "tele/zb/SENSOR",
            '{"ZbReceived": {"0xFF74": {"Click": "double", "Endpoint": 2}}}',
            *("home.device.zb_0xff74_2.trigger", "double"),
        ),
        (
            *("shellies/x/input_event/1", '{"event": "S", "event_cnt": 3}'),
            *("home.device.x_1.trigger", "S"),
        ),
        (
            "x/events/rpc",
            (
                '{"method": "NotifyEvent", "params": {"events": '
                '[{"component": "input:0", "event": "single_push"}]}}'
            ),
            *("home.device.x_input_0.trigger", "single_push"),
        ),
    ],
)
def test_a_button_is_an_event(topic: str, body: str, key: str, happened: str) -> None:
    (message,) = Devices().publish(topic, body).messages
    record = json.loads(message.body)

    assert (message.exchange, message.routing_key) == ("home.events", key)
    assert record["trigger"] == happened
    assert record["automation"] == f"device.{record['sensor_id']}"
