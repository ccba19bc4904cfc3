"""A real Home Assistant, and the mesh beside it."""

from __future__ import annotations

from tests.peers.homeassistant import HomeAssistant


def test_a_house_is_set_up_and_its_log_tells_what_it_fires(
    home_assistant: HomeAssistant,
) -> None:
    home_assistant.call("input_boolean.turn_on", "input_boolean.lamp")
    home_assistant.stop()

    fired = home_assistant.fired()
    assert ("state_changed", "input_boolean.lamp") in fired
    assert ("automation_triggered", "automation.fan_follows_lamp") in fired
