"""The producer of Home Assistant's events: its configuration and what it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, SchemaMismatch
from meshtasks.producers.homeassistant.config import (
    CONFIG,
    Loops,
    access_token,
    websocket_url,
)
from meshtasks.producers.homeassistant.messages import (
    Gap,
    missed_trigger,
    reading,
    state_change,
)
from meshtasks.producers.homeassistant.publishing import KnownStates, OwnContexts
from meshtasks.records.models import StateChange

SHIPPED = Path(__file__).parents[2] / "config"
NOON = 1_795_435_200.0
AT_NOON = "2026-11-23T12:00:00+00:00"


def settings_of(**environment: Any) -> Settings:
    return Settings(Environment(**environment))


def state(text: str, **attributes: Any) -> Any:
    return {"state": text, "attributes": attributes, "last_updated": AT_NOON}


def change(entity_id: str, old: Any, new: Any) -> StateChange:
    return {"entity_id": entity_id, "old_state": old, "new_state": new}


class TestConfiguration:
    def test_what_ships_publishes_every_entity_and_no_reading(self) -> None:
        settings = settings_of(config_dir=SHIPPED)
        config = settings.read(CONFIG)

        assert config.entities.wants("light.kitchen")
        assert not config.readings.wants("sensor.attic")
        assert not config.loops.starts("automation.porch")

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("entities: {include: [Light.kitchen]}", "entities.include.0"),
            ("entities: {exclude: [light]}", "entities.exclude.0"),
            ("readings: {entities: ['*']}", "readings.entities"),
            ("loops: {users: ['']}", "loops.users.0"),
            ("loops: {automations: porch}", "loops.automations"),
        ],
    )
    def test_a_bad_file_is_refused_with_file_and_key(
        self, tmp_path: Path, text: str, key: str
    ) -> None:
        path = tmp_path / "producers" / "homeassistant.yaml"
        path.parent.mkdir()
        path.write_text(text)

        with pytest.raises(ConfigError) as caught:
            settings_of(config_dir=tmp_path).read(CONFIG)
        assert (caught.value.source, caught.value.key) == (str(path), key)

    @pytest.mark.parametrize(
        ("url", "websocket"),
        [
            ("http://hass.lan:8123", "ws://hass.lan:8123/api/websocket"),
            ("https://home.example/hass/", "wss://home.example/hass/api/websocket"),
            ("ws://supervisor/core/websocket", "ws://supervisor/core/websocket"),
        ],
    )
    def test_its_websocket_is_found_by_its_url(self, url: str, websocket: str) -> None:
        assert websocket_url(settings_of(hass_url=url)) == websocket

    @pytest.mark.parametrize(
        "url",
        [
            "hass.lan",
            "hass.lan:8123",
            "http://",
            "http://[",
            "http://me:secret@hass",
            "ftp://hass",
        ],
    )
    def test_what_is_no_url_of_it_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigError, match="MESH_HASS_URL"):
            websocket_url(settings_of(hass_url=url))

    def test_a_missing_token_is_asked_for_with_where_to_make_one(self) -> None:
        with pytest.raises(ConfigError, match="your profile"):
            access_token(settings_of(hass_token=SecretStr(" ")))

    def test_the_token_may_stand_in_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "token").write_text("long-lived\n")
        monkeypatch.setenv("MESH_HASS_TOKEN_FILE", str(tmp_path / "token"))

        assert access_token(settings_of()) == "long-lived"


class TestReadings:
    @pytest.mark.parametrize("text", ["unavailable", "unknown", "", "nan", "inf"])
    def test_a_state_that_is_no_number_is_no_reading(self, text: str) -> None:
        attributes = {"device_class": "temperature", "unit_of_measurement": "°C"}
        new = state(text, **attributes)

        assert reading(change("sensor.attic", None, new), NOON) is None

    @pytest.mark.parametrize(
        ("old", "new", "motion"),
        [
            ("off", "on", b'"motion":true'),
            ("on", "off", b'"motion":false'),
            ("on", "on", None),
            ("off", "unavailable", None),
        ],
    )
    def test_motion_is_a_reading_when_it_begins_and_when_it_ends(
        self, old: str, new: str, motion: bytes | None
    ) -> None:
        states = (state(each, device_class="motion") for each in (old, new))

        message = reading(change("binary_sensor.hall", *states), NOON)

        if motion is None:
            assert message is None
        else:
            assert message is not None
            assert message.routing_key == "sensors.motion.hall"
            assert motion in message.body

    @pytest.mark.parametrize(
        ("entity_id", "device_class"),
        [("sensor.power", "power"), ("binary_sensor.door", "door"), ("light.a", None)],
    )
    def test_nothing_else_is_a_reading(
        self, entity_id: str, device_class: str | None
    ) -> None:
        new = state("1", device_class=device_class)

        assert reading(change(entity_id, None, new), NOON) is None


class TestStateChanges:
    @pytest.mark.parametrize("entity_id", ["light", "light.a.b", "light.#", "a b.c"])
    def test_an_id_that_is_not_two_words_of_a_routing_key_is_refused(
        self, entity_id: str
    ) -> None:
        with pytest.raises(SchemaMismatch, match="entity_id"):
            state_change(change(entity_id, None, state("on")), NOON)

    def test_the_same_change_has_the_same_id_live_and_after_a_gap(self) -> None:
        new = state("on")
        live = state_change(change("light.a", state("off"), new), NOON)
        gap = Gap(NOON - 60, NOON)
        caught_up = state_change(change("light.a", None, new), NOON, gap)

        assert live.message_id == caught_up.message_id
        assert b'"gap":{"since":"2026-11-23T11:59:00+00:00"' in caught_up.body


class TestMissedTriggers:
    def test_an_automation_has_the_time_of_its_trigger_in_a_gap(self) -> None:
        old, new = state("on", last_triggered=None), state("on", last_triggered=AT_NOON)
        message = missed_trigger(
            change("automation.a", old, new), Gap(NOON - 60, NOON + 60)
        )

        assert message is not None
        assert message.routing_key == "home.automation.a.trigger"
        assert message.timestamp == NOON

    def test_a_trigger_from_before_the_gap_was_not_missed(self) -> None:
        new = state("on", last_triggered=AT_NOON)
        gap = Gap(NOON + 1, NOON + 60)

        assert missed_trigger(change("automation.a", None, new), gap) is None


class TestLoops:
    def test_a_cause_is_followed_to_its_consequences(self) -> None:
        guard = OwnContexts(Loops(automations=("automation.mesh_*",)))

        assert guard.caused({"id": "1"}, "automation.mesh_porch")
        assert guard.caused({"id": "1"})
        assert guard.caused({"id": "2", "parent_id": "1"})
        assert guard.caused({"id": "3", "parent_id": "2"}, "automation.fan")
        assert not guard.caused({"id": "4", "parent_id": "0"}, "automation.fan")

    def test_users_of_the_mesh_are_causes(self) -> None:
        guard = OwnContexts(Loops())
        guard.user_ids = {"mesh"}

        assert guard.caused({"id": "1", "user_id": "mesh"})
        assert not guard.caused({"id": "2", "user_id": "anna"})
        assert not guard.caused({"id": "3", "user_id": None})


class TestKnownStates:
    def test_what_is_known_outlives_the_process(self, tmp_path: Path) -> None:
        memory = KnownStates(tmp_path / "deep" / "states.json")
        memory.apply(change("light.a", None, state("on")))
        memory.heard_at = NOON
        memory.save()

        again = KnownStates(tmp_path / "deep" / "states.json")
        again.load()

        assert again.heard_at == NOON
        assert again.compare([], complete=True) == [
            change("light.a", state("on"), None)
        ]

    @pytest.mark.parametrize("text", ["", "{}", '{"heard_at": 1, "states": {"a": 1}}'])
    def test_a_file_that_cannot_be_used_is_a_first_start(
        self, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "states.json").write_text(text)
        memory = KnownStates(tmp_path / "states.json")

        memory.load()

        assert memory.heard_at is None
        assert "cannot be used" in caplog.text
