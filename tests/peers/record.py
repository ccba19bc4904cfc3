"""Write down what a real Home Assistant says: ``python -m tests.peers.record``.

It boots one, lets a lamp, a thermometer and the mesh's porch light act, restarts it
and does so again. The files are tests/data/homeassistant/boot-<n>.jsonl: each line
is a message as it came over the websocket, from the greeting on; the answers are
those to the commands that the producer sends.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.peers import homeassistant
from tests.peers.homeassistant import HomeAssistant

DIRECTORY = Path(__file__).parents[1] / "data" / "homeassistant"

_COMMANDS: tuple[dict[str, Any], ...] = (
    {"type": "supported_features", "features": {"coalesce_messages": 1}},
    {"type": "config/auth/list"},
    {"type": "get_config"},
    {"type": "subscribe_events", "event_type": "state_changed"},
    {"type": "subscribe_events", "event_type": "automation_triggered"},
    {"type": "get_states"},
)
_ROUNDS = 6
_SILENCE_SECONDS = 3.0


def live_a_while(house: HomeAssistant) -> None:
    """Let things happen in the house."""
    for number in range(_ROUNDS):
        house.call("input_boolean.toggle", "input_boolean.lamp")
        house.call("input_number.set_value", "input_number.attic", value=18.5 + number)
        house.request("POST", "/api/webhook/mesh-porch", {})
    house.call("light.turn_on", "light.bed_light", brightness=120)
    house.call("climate.set_temperature", "climate.heatpump", temperature=19.5)
    states = "/api/states/sensor.visitor"
    house.request("POST", states, {"state": "here", "attributes": {}})
    house.request("DELETE", states)


def record(house: HomeAssistant, path: Path) -> int:
    """Write down a connection of this boot; how many messages it had."""
    messages = []
    url = house.url.replace("http", "ws") + "/api/websocket"
    with connect(url, proxy=None, max_size=None) as socket:
        messages.append(socket.recv(decode=True))
        socket.send(json.dumps({"type": "auth", "access_token": house.token}))
        messages.append(socket.recv(decode=True))
        for number, command in enumerate(_COMMANDS, start=1):
            socket.send(json.dumps({"id": number, **command}))
            messages.append(socket.recv(decode=True))
        live_a_while(house)
        try:
            while True:
                messages.append(socket.recv(timeout=_SILENCE_SECONDS, decode=True))
        except TimeoutError:
            pass
    text = "".join(f"{message}\n" for message in messages)
    path.write_text(text.replace(str(house.directory), "/config"), encoding="utf-8")
    return len(messages)


def main() -> None:
    """Record two boots."""
    homeassistant.install()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        house = HomeAssistant(Path(directory))
        try:
            for boot in (1, 2):
                house.start()
                count = record(house, DIRECTORY / f"boot-{boot}.jsonl")
                sys.stdout.write(f"boot {boot}: {count} messages\n")
                house.stop()
        finally:
            house.kill()


if __name__ == "__main__":
    main()
