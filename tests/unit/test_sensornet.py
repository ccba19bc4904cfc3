"""From a device's message to those of the mesh, whoever made the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError
from meshtasks.producers.sensornet.announcements import (
    Announcements,
    SavedAnnouncements,
)
from meshtasks.producers.sensornet.config import CONFIG, SensorNet
from meshtasks.producers.sensornet.kinds import name
from tests.support.devices import (
    NOW,
    SHIPPED,
    Devices,
    document_at,
    example,
    records,
    shipped,
    values,
)
from tests.support.meshes import reconfigured
from tests.support.topologies import shipped_topology


class TestMessages:
    def test_a_reading_is_a_record_of_the_mesh(self) -> None:
        (message,) = (
            Devices().publish("zigbee2mqtt/Hall", '{"temperature": 21}').messages
        )

        assert (message.exchange, message.routing_key) == (
            "sensors",
            "sensors.temperature.hall",
        )
        assert message.body == (
            b'{"sensor_id":"hall","value":21.0,"unit":"\xc2\xb0C",'
            b'"timestamp":1795435200.0}'
        )
        assert message.timestamp == NOW

    def test_everything_else_of_a_sensor_is_one_metric(self) -> None:
        body = '{"battery": 87, "pressure": 1013.2, "water_leak": false}'
        (message,) = Devices().publish("zigbee2mqtt/cellar", body).messages

        assert message.exchange == "metrics"
        assert records(Devices().publish("zigbee2mqtt/cellar", body)) == {
            "metrics.system.cellar.device": {
                "name": "device",
                "fields": {
                    "battery_percent": 87,
                    "pressure_hpa": 1013.2,
                    "water_leak": False,
                },
                "tags": {"sensor_id": "cellar"},
                "timestamp": NOW,
            }
        }

    def test_kinds_go_where_the_configuration_sends_them(self) -> None:
        devices = Devices(kinds={"temperature": "metrics", "humidity": "ignore"})
        body = '{"temperature": 21, "humidity": 40, "battery": 9}'
        normalised = devices.publish("zigbee2mqtt/hall", body)

        assert values(normalised) == {
            "metrics.system.hall.device": {"temperature_celsius": 21}
        }
        assert normalised.skipped == {"kind humidity": 1, "kind battery": 1}

    def test_a_repeated_delivery_has_the_same_message_ids(self) -> None:
        body = '{"temperature": 21, "humidity": 4, "last_seen": "2026-11-23T11:00:00Z"}'
        first, second = (
            Devices().publish("zigbee2mqtt/hall", body, received_at=moment)
            for moment in (NOW, NOW + 5)
        )
        ids = [message.message_id for message in first.messages]

        assert ids == [message.message_id for message in second.messages]
        assert len(set(ids)) == 2

    def test_equal_messages_without_a_time_of_their_own_have_different_ids(
        self,
    ) -> None:
        first, second = (
            Devices().publish("zigbee2mqtt/hall/temperature", "21", received_at=moment)
            for moment in (NOW, NOW + 60)
        )

        assert first.messages[0].message_id != second.messages[0].message_id

    def test_a_clock_that_was_never_set_is_not_believed(self) -> None:
        body = '{"temperature": 21, "last_seen": "1970-01-01T00:00:09Z"}'
        (record,) = records(Devices().publish("zigbee2mqtt/hall", body)).values()

        assert record["timestamp"] == NOW

    @pytest.mark.parametrize("days", [-31, 1, 400])
    def test_a_clock_that_is_far_off_is_counted_and_not_believed(
        self, days: int
    ) -> None:
        body = json.dumps({"temperature": 21, "last_seen": NOW + days * 86_400})
        found = Devices().publish("zigbee2mqtt/hall", body)
        (record,) = records(found).values()

        assert record["timestamp"] == NOW
        assert found.remarks == {("clock not believed", "time of the device"): 1}

    @pytest.mark.parametrize(
        ("received", "measured"),
        [("00:31", "00:30"), ("01:31", "01:30")],  # UTC; 02:30 in Berlin both times
    )
    def test_of_the_hour_that_autumn_repeats_the_nearer_one_is_meant(
        self, received: str, measured: str
    ) -> None:
        devices = Devices(timezone="Europe/Berlin")
        body = '{"Time": "2026-10-25T02:30:00", "AM2301": {"Temperature": 21}}'
        found = devices.publish("tele/shed/SENSOR", body, received_at=at(received))
        (record,) = records(found).values()

        assert record["timestamp"] == at(measured)


def at(clock: str) -> float:
    hours, minutes = map(int, clock.split(":"))
    midnight = 1_792_886_400.0  # 2026-10-25 00:00 UTC
    return midnight + hours * 3_600 + minutes * 60


class TestMotion:
    def test_motion_that_is_repeated_soon_is_passed_over(self) -> None:
        devices = Devices(motion_repeat_seconds=60)
        says = [
            devices.publish("zigbee2mqtt/hall", '{"occupancy": true}', NOW + seconds)
            for seconds in (0, 59, 60)
        ]

        assert [len(each.messages) for each in says] == [1, 0, 1]
        assert says[1].skipped == {"repeated motion": 1}

    def test_a_change_is_never_a_repetition(self) -> None:
        devices = Devices()
        says = [
            devices.publish("zigbee2mqtt/hall", f'{{"occupancy": {state}}}')
            for state in ("true", "false", "true")
        ]

        assert [len(each.messages) for each in says] == [1, 1, 1]

    def test_sensors_are_remembered_one_by_one(self) -> None:
        devices = Devices()
        says = [
            devices.publish(f"zigbee2mqtt/{place}", '{"occupancy": true}')
            for place in ("hall", "stairs")
        ]

        assert [len(each.messages) for each in says] == [1, 1]


class TestDeadLetters:
    @pytest.mark.parametrize(
        ("topic", "body", "reason"),
        [
            ("zigbee2mqtt/hall", b'{"temperature": 21', "not valid JSON"),
            ("zigbee2mqtt/hall", b"\xff\xfe", "not UTF-8"),
            ("zigbee2mqtt/hall", b"21.5", "expected a JSON object, got the number"),
            ("zigbee2mqtt/hall", b"[" * 100_000, "not valid JSON"),
            ("zigbee2mqtt/hall", b" " * 2_000_000 + b"1", "2000001 bytes"),
            ("tele/shed/SENSOR", rb'{"TempUnit": "\ud83d"}', "not valid JSON"),
            ("tele/shed/SENSOR", b"[1]", "expected a JSON object, got an array"),
            ("shellies/shellyht-x/sensor/humidity", b"wet", "expected a number"),
            ("shellies/shellyht-x/sensor/motion", b"perhaps", "true or false"),
            ("hall/events/rpc", b"{]", "not valid JSON"),
            ("node/sensor/bath_humidity/state", b"wet", "bath_humidity: expected"),
            ("somebody/else", b"21", "no source in sensornet.yaml has the topic"),
        ],
    )
    def test_what_cannot_be_read_is_dead_with_the_reason(
        self, topic: str, body: bytes, reason: str
    ) -> None:
        normalised = Devices().publish(topic, body)

        assert normalised.dead is not None
        assert reason in normalised.dead.reason
        assert not normalised.messages

    def test_the_good_values_of_a_message_with_a_bad_one_are_published(self) -> None:
        body = '{"temperature": "warm", "humidity": 44, "occupancy": "perhaps"}'
        normalised = Devices().publish("zigbee2mqtt/hall", body)

        assert values(normalised) == {"sensors.humidity.hall": (44, "%")}
        assert normalised.dead is not None
        assert normalised.dead.reason == (
            'temperature: expected a number, got the text "warm" (and 1 more)'
        )

    @pytest.mark.parametrize(
        ("sensor", "kind"), [("Pressure", "PressureUnit"), ("Temperature", "TempUnit")]
    )
    def test_an_unknown_unit_is_counted_and_no_dead_letter_a_message(
        self, sensor: str, kind: str
    ) -> None:
        body = f'{{"BME280": {{"{sensor}": 30.1}}, "{kind}": "furlong"}}'
        normalised = Devices().publish("tele/shed/SENSOR", body)

        assert normalised.dead is None
        assert normalised.counted == {("unit unknown", f"BME280.{sensor} (furlong)"): 1}

    @pytest.mark.parametrize(
        "word", ["null", '"unavailable"', '"unknown"', '""', "NaN", '"nan"']
    )
    def test_words_for_no_value_are_no_values(self, word: str) -> None:
        normalised = Devices().publish("zigbee2mqtt/hall", f'{{"temperature": {word}}}')

        assert normalised.skipped == {"unavailable": 1}
        assert normalised.dead is None

    def test_a_broken_number_costs_none_of_its_neighbours(self) -> None:
        body = (
            '{"humidity": nan, "voltage": -inf, "power": Infinity, "co2": 1.#INF, '
            '"state": "nan, inf", "temperature": 21, "temperature": 22}'
        )
        normalised = Devices().publish("zigbee2mqtt/hall", body)

        assert values(normalised) == {"sensors.temperature.hall": (21, "°C")}
        assert normalised.skipped == {"unavailable": 4, "kind unknown": 2}
        assert normalised.counted["kind unknown", "temperature (2)"] == 1

    @pytest.mark.parametrize(
        ("body", "name"),
        [
            ('{"illuminance": -1}', "illuminance"),
            ('{"battery": -1}', "battery"),
            ('{"vibration": -1}', "vibration"),
            ('{"temperature": -327.68}', "temperature"),
            ('{"humidity": 655.35}', "humidity"),
        ],
    )
    def test_numbers_that_stand_for_no_value_are_no_values(
        self, body: str, name: str
    ) -> None:
        normalised = Devices().publish("zigbee2mqtt/hall", body)

        assert normalised.counted == {("unavailable", name): 1}

    @pytest.mark.parametrize(
        "body",
        [
            *('{"battery": 255}', '{"pressure": -20}', '{"temperature": -999}'),
            '{"humidity": 110}',
        ],
    )
    def test_a_value_that_cannot_be_is_counted(self, body: str) -> None:
        assert Devices().publish("zigbee2mqtt/hall", body).skipped == {
            "value that cannot be": 1
        }

    def test_more_values_than_any_device_has_are_a_dead_letter(self) -> None:
        body = f'{{"list": [{"0," * 1_000}0]}}'
        normalised = Devices().publish("zigbee2mqtt/hall", body)

        assert normalised.dead is not None
        assert "too many values" in normalised.dead.reason

    @pytest.mark.parametrize("number", ["1e999", "true", "1" * 400, '"1e999"'])
    def test_numbers_that_are_none_are_dead(self, number: str) -> None:
        body = f'{{"temperature": {number}}}'

        assert Devices().publish("zigbee2mqtt/hall", body).dead is not None


class TestNames:
    @pytest.mark.parametrize(
        ("levels", "expected"),
        [
            (["Wohnzimmer Süd"], "wohnzimmer_süd"),
            (["kitchen/floor lamp"], "kitchen.floor_lamp"),
            (["кухня"], "кухня"),
            (["a#b*c"], "a_b_c"),
            (["0x00158d0001"], "0x00158d0001"),
            (["node", "bath.temp"], "node.bath_temp"),
            (["hall", ""], "hall"),
            (["a//b"], "a.b"),
        ],
    )
    def test_names_become_words_of_a_routing_key(
        self, levels: list[str], expected: str
    ) -> None:
        assert name(*levels) == expected

    @pytest.mark.parametrize(
        ("topic", "sensor"),
        [
            ("Living room", "living_room"),
            ("a*b", "a_b"),
            ("comma, eq=1", "comma_eq_1"),
            ("/double", "double"),
            ("trail/", "trail"),
            ("back\\slash", "back_slash"),
            ("bad\udcff\udcffname", "bad_name"),
            ("tab\tand\0nul", "tab_and_nul"),
        ],
    )
    def test_odd_topics_give_tidy_sensors(self, topic: str, sensor: str) -> None:
        (message,) = (
            Devices().publish(f"zigbee2mqtt/{topic}", '{"humidity": 40}').messages
        )

        assert message.routing_key == f"sensors.humidity.{sensor}"
        assert json.loads(message.body)["sensor_id"] == sensor

    def test_names_without_a_letter_stay_apart(self) -> None:
        assert name("🌡") != name("💧")
        assert name("🌡").startswith("x")

    def test_a_long_name_fits_a_routing_key_and_stays_its_own(self) -> None:
        long, longer = name("ü" * 200), name("ü" * 201)

        assert long != longer
        assert len(long.encode()) <= 200


class TestDiscovery:
    def test_a_device_is_called_what_it_calls_itself(self) -> None:
        devices = Devices()
        devices.publish(
            "homeassistant/sensor/x/temperature/config",
            '{"state_topic": "shellies/shellyht-3C/sensor/temperature", '
            '"device_class": "temperature", "unit_of_measurement": "°F", '
            '"device": {"name": "Bad oben", "suggested_area": "First floor", '
            '"identifiers": ["3C"]}}',
        )
        found = devices.publish("shellies/shellyht-3C/sensor/temperature", "70")

        assert records(found) == {
            "sensors.temperature.bad_oben": {
                "sensor_id": "bad_oben",
                "value": 70,
                "unit": "°F",
                "timestamp": NOW,
                "location": "First floor",
            }
        }

    def test_a_name_that_two_devices_share_is_not_used(self) -> None:
        devices = Devices()
        for node in ("a", "b"):
            devices.publish(
                f"homeassistant/sensor/{node}/temperature/config",
                f'{{"stat_t": "{node}/sensor/temperature/state", '
                f'"dev_cla": "temperature", '
                f'"dev": {{"name": "Thermometer", "ids": "{node}"}}}}',
            )
        found = values(devices.publish("a/sensor/temperature/state", "21"))

        assert found == {"sensors.temperature.a.temperature": (21, "°C")}

    def test_a_device_announces_all_its_sensors_at_once(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        devices.publish(*example("esphome", "whole_device"))
        found = devices.publish("multi/state", '{"temperature": 21, "humidity": 40}')

        assert values(found) == {
            "sensors.temperature.kitchen.temperature": (21, "°C"),
            "sensors.humidity.kitchen.humidity": (40, "%"),
        }

    def test_a_template_takes_one_value_out_of_a_body(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        devices.publish(*example("esphome", "plant"))
        found = devices.publish(
            "planthub/PlantHub-7814/80EACA892563/state", '{"temp": 21.4}'
        )

        assert values(found) == {"sensors.temperature.palme.temp": (21.4, "°C")}

    def test_rounding_does_not_make_a_template_a_computation(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        devices.publish(*example("esphome", "weather_station"))
        topic = "rtl_433/nodes/attic/devices/Fineoffset-WS69/174/temperature_C"

        assert list(values(devices.publish(topic, "8.33")).values()) == [(8.33, "°C")]

    def test_computations_are_not_run(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        devices.publish(*example("esphome", "computed"))
        found = devices.publish("weather/now", '{"t": 4, "v": 2}')

        assert found.counted == {
            ("computed by a template", "t"): 1,
            ("computed by a template", "v"): 1,
        }

    def test_an_empty_message_withdraws_the_announcement(self) -> None:
        devices = Devices(sources=ANNOUNCED)
        topic, body = example("esphome", "plant")
        devices.publish(topic, body)
        devices.publish(topic, b"")
        found = devices.publish("planthub/PlantHub-7814/80EACA892563/state", "{}")

        assert found.skipped == {"not announced": 1}

    @pytest.mark.parametrize(
        ("topic", "reason"),
        [
            ("homeassistant/status", "discovery status"),
            ("homeassistant/light/x/config", "discovery of no sensor"),
        ],
    )
    def test_other_topics_of_discovery_are_counted(
        self, topic: str, reason: str
    ) -> None:
        assert Devices().publish(topic, "online").skipped == {reason: 1}

    def test_a_config_that_is_no_json_is_dead(self) -> None:
        assert Devices().publish("homeassistant/sensor/x/config", "{").dead is not None

    def test_what_was_announced_outlives_the_process(self) -> None:
        devices = Devices()
        devices.publish(*example("esphome", "garage_temperature"))
        kept = devices.announcements.saved.model_dump_json()

        again = Announcements(SavedAnnouncements.model_validate_json(kept).root)
        key = "garagedoor1.sensor.garage_temperature.state"
        assert again.at(key) == devices.announcements.at(key)

    def test_only_news_have_to_be_kept(self) -> None:
        devices = Devices()
        for expected in (True, False):
            devices.publish(*example("esphome", "plant"))
            assert devices.announcements.changed is expected
            devices.announcements.changed = False


ANNOUNCED = [
    {"topic": "homeassistant/#", "format": "discovery"},
    {"topic": "#", "format": "announced"},
]


class TestConfiguration:
    def test_every_reading_of_the_shipped_one_finds_a_queue(self) -> None:
        topology = shipped_topology()
        for kind, destination in shipped().kinds.items():
            key = {
                "sensors": f"sensors.{kind}.hall",
                "metrics": "metrics.system.hall.device",
                "events": "home.device.hall.trigger",
            }.get(destination)
            if key is not None:
                exchange = key.partition(".")[0]
                exchange = "home.events" if exchange == "home" else exchange
                (queue,) = topology.queues_reached(exchange, key)
                assert queue != "dead.letter.queue"

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"sources": []}, "at least 1 item"),
            ({"sources": [{"topic": "a/#/b", "format": "tasmota"}]}, "last level"),
            ({"sources": [{"topic": "a+/b", "format": "tasmota"}]}, "of their own"),
            ({"sources": [{"topic": "a", "format": "number"}]}, "a kind belongs to"),
            (
                {"sources": [{"topic": "a", "format": "tasmota", "unit": "°C"}]},
                "a unit belongs to",
            ),
            ({"sources": [{"topic": "a", "format": "json"}]}, "values belong to"),
            (
                {"sources": [{"topic": "a", "format": "tasmota", "time": "ts"}]},
                "a time belongs to",
            ),
            (
                {
                    "sources": [
                        {"topic": "a", "format": "json", "values": {"t": "heat"}}
                    ]
                },
                '"heat" is not a kind',
            ),
            ({"kinds": {"heat": "metrics"}}, '"heat" is not a kind'),
            ({"kinds": {"power": "events"}}, "should go to sensors, metrics or ignore"),
            ({"kinds": {"action": "metrics"}}, "should go to events or ignore"),
            ({"kinds": {"power": "nowhere"}}, "'sensors', 'metrics', 'events'"),
            ({"timezone": "Berlin"}, "is not a time zone"),
            ({"devices": {"x": {"units": {"temperature": "furlong"}}}}, "furlong"),
            ({"devices": {"x": {"units": {"open": "%"}}}}, "open has no unit"),
            ({"motion_repeat_seconds": -1}, "greater than or equal to 0"),
            ({"topics": []}, "Extra inputs"),
        ],
    )
    def test_mistakes_are_refused_with_what_was_expected(
        self, changes: dict[str, Any], expected: str
    ) -> None:
        with pytest.raises(ValidationError, match=expected):
            shipped(**changes)

    def test_the_first_source_whose_topic_matches_is_taken(self) -> None:
        sources = [
            {"topic": "a/b", "format": "tasmota"},
            {"topic": "a/+", "format": "zigbee2mqtt"},
        ]
        config = SensorNet.model_validate({"sources": sources, "kinds": {}})

        found = [config.source_of(key) for key in ("a.b", "a.c", "c")]
        assert [each.format if each else None for each in found] == [
            "tasmota",
            "zigbee2mqtt",
            None,
        ]


class TestAgreementWithTheTopology:
    def refused(
        self, tmp_path: Path, mesh: dict[str, Any] | None = None, **changes: Any
    ) -> ConfigError:
        env = {"MESH_CONFIG_DIR": str(SHIPPED.parents[1])}
        document = yaml.safe_load(SHIPPED.read_text(encoding="utf-8")) | changes
        config = tmp_path / "config"
        reconfigured(env, config, **mesh or {})
        (config / "producers").mkdir()
        path = config / "producers" / "sensornet.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            Settings(Environment(config_dir=config)).read(CONFIG)
        assert caught.value.source == str(path)
        return caught.value

    def test_the_shipped_ones_agree(self) -> None:
        settings = Settings(Environment(config_dir=SHIPPED.parents[1]))

        assert settings.read(CONFIG) == shipped()

    def test_a_topic_without_a_binding_is_refused(self, tmp_path: Path) -> None:
        source = {"topic": "rtl_433/#", "format": "announced"}
        error = self.refused(tmp_path, sources=[source])

        assert error.key == "sources.0.topic"
        assert error.line is not None
        assert 'bind amq.topic to devices with "rtl_433.#"' in error.expected

    def test_a_topic_that_is_wider_than_its_binding_is_refused(
        self, tmp_path: Path
    ) -> None:
        source = {"topic": "+/status/#", "format": "shelly_gen2"}

        assert self.refused(tmp_path, sources=[source]).key == "sources.0.topic"

    def test_a_reading_that_no_queue_takes_is_refused(self, tmp_path: Path) -> None:
        error = self.refused(tmp_path, kinds={"pressure": "sensors"})

        assert error.key == "kinds.pressure"
        assert "no queue of topology.yaml takes sensors.pressure" in error.expected

    def test_a_kind_without_the_devices_unit_is_refused(self, tmp_path: Path) -> None:
        kinds = {"kinds": {"pressure": {"unit": "kPa", "field": "kpa"}}}
        topology = document_at(SHIPPED.parents[1] / "topology.yaml")
        binding = {
            "exchange": "sensors",
            "queue": "devices",
            "routing_key": "sensors.pressure.#",
        }
        bindings = [*topology["bindings"], binding]
        mesh = {"kinds": kinds, "topology": topology | {"bindings": bindings}}
        error = self.refused(tmp_path, mesh, kinds={"pressure": "sensors"})

        assert error.key == "kinds.pressure"
        assert 'unit "hPa" is not a pressure unit; expected kPa' in error.expected

    def test_an_unknown_queue_is_refused(self, tmp_path: Path) -> None:
        assert self.refused(tmp_path, queue="gadgets").key == "queue"
