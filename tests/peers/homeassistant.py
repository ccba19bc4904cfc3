"""A real Home Assistant on loopback, set up without a browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from websockets.sync.client import connect

from meshtasks.demo import loopback
from meshtasks.demo.packages import InstallFailed, ensure_venv
from meshtasks.demo.process import Process
from tests.peers.places import PEERS

REQUIREMENTS = Path(__file__).with_name("requirements-homeassistant.txt")
VENV = PEERS / "homeassistant"

#: The first boot writes its database of devices; a busy machine takes its time.
_READY_SECONDS = 180.0
_STOP_SECONDS = 60.0
_TOKEN_DAYS = 365

_CONFIGURATION = """\
homeassistant:
  name: Peer
  unit_system: metric
  time_zone: Europe/Berlin
http:
  server_host: 127.0.0.1
  server_port: {port}
api:
websocket_api:
config:
webhook:
demo:
logger:
  default: warning
  logs:
    # Writes each event down: the count to compare the mesh's with.
    homeassistant.core: debug
input_boolean:
  lamp:
  fan:
  porch:
input_number:
  attic:
    min: -40
    max: 60
    step: 0.1
template:
  - sensor:
      - name: Attic temperature
        unique_id: attic_temperature
        state: "{{{{ states('input_number.attic') }}}}"
        unit_of_measurement: °C
        device_class: temperature
        state_class: measurement
automation:
  - id: fan_follows_lamp
    alias: Fan follows lamp
    mode: queued
    max: 100
    trigger: {{platform: state, entity_id: input_boolean.lamp, to: "on"}}
    action: {{service: input_boolean.toggle, target: {{entity_id: input_boolean.fan}}}}
  - id: mesh_porch
    alias: Mesh porch
    mode: queued
    max: 100
    trigger:
      platform: webhook
      webhook_id: mesh-porch
      local_only: true
      allowed_methods: [POST]
    action:
      service: input_boolean.toggle
      target: {{entity_id: input_boolean.porch}}
"""

#: How Home Assistant's log shows an event that it fires.
_FIRED = re.compile(
    r"(?P<logged_at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) DEBUG .*?"
    r"Bus:Handling <Event (?P<kind>\w+)\[L\]: (?P<data>.*)>",
    re.DOTALL,
)
_LOG_LINE = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} )", re.MULTILINE)
_ENTITY_ID = re.compile(r"\bentity_id=(\w+\.\w+)")
_LAST_CHANGED = re.compile(r" @ ([^ @>]+)>$")


class Fired(NamedTuple):
    """An event that Home Assistant has fired, as its own log has it.

    Attributes:
        kind: its type.
        entity_id: that it is about; empty for none.
        last_changed: of the new state, if it is a change to one; epoch seconds.
        logged_at: epoch seconds.
    """

    kind: str
    entity_id: str
    last_changed: float | None
    logged_at: float


def install() -> None:
    """Make its environment, if need be: 600 MB, a few minutes.

    Raises:
        InstallFailed: it could not be made; the text says why.
    """
    if sys.version_info >= (3, 13):
        message = "this Home Assistant needs Python 3.12 or 3.11: make setup PYTHON=…"
        raise InstallFailed(message)
    ensure_venv(VENV, REQUIREMENTS, "Home Assistant (600 MB)", "--no-deps")


class HomeAssistant:
    """One house with Home Assistant's own demo of 100 entities, a lamp, a fan that
    follows it, and a porch light that the mesh may switch by a webhook.

    Args:
        directory: of its configuration, database and logs.

    Attributes:
        token: a long-lived access token of its owner, once it has been set up.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = loopback.free_port()
        self._boots = 0
        self._process: Process | None = None
        self.token = ""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{loopback.HOST}:{self._port}"

    def start(self) -> None:
        """Boot it; the first time also create its owner and the token.

        Raises:
            ProcessFailed: it did not come up.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "configuration.yaml").write_text(
            _CONFIGURATION.format(port=self._port), encoding="utf-8"
        )
        self._boots += 1
        program = VENV / "bin" / "hass"
        command: list[str | Path] = [program, "--skip-pip", "--config", self.directory]
        log_file = self.directory / f"boot-{self._boots}.log"
        environment = {
            **os.environ,
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            "TZ": "UTC",  # of its log
            "HOME": str(self.directory),
        }
        self._process = Process(
            "Home Assistant",
            [*command, "--log-file", log_file],
            log_path=self.directory / "output.log",
            env=environment,
            cwd=self.directory,
        )
        self._process.start()
        self._process.wait_ready(self._answers, _READY_SECONDS)
        if not self.token:
            self.token = self._set_up()

    def stop(self) -> None:
        """Shut it down in order, as a restart from its settings page would."""
        if self._process is not None:
            self._process.stop(_STOP_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def call(self, service: str, entity_id: str, **data: Any) -> None:
        """Call a service (``input_boolean.turn_on``) and wait until it is done."""
        path = f"/api/services/{service.replace('.', '/')}"
        self.request("POST", path, {"entity_id": entity_id, **data})

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to its REST API; the answer's JSON.

        Raises:
            AssertionError: it was answered with something other than 2xx.
        """
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        text = None if body is None else json.dumps(body)
        return self._exchange(method, path, text, headers)

    def fired(self) -> list[Fired]:
        """Every event that it has fired in all its boots, in order."""
        logs = (self.directory / f"boot-{n + 1}.log" for n in range(self._boots))
        lines = (
            line
            for log in logs
            for line in _LOG_LINE.split(log.read_text(errors="replace"))
        )
        return [_fired(match) for line in lines if (match := _FIRED.match(line))]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, AssertionError):
            states = self._exchange("GET", "/api/onboarding", None, {})
            return bool(states)
        return False

    def _set_up(self) -> str:
        """Create the owner and a long-lived token of theirs."""
        client_id = f"{self.url}/"
        owner = {
            "client_id": client_id,
            "name": "Owner",
            "username": "owner",
            "password": "of-the-house",
            "language": "en",
        }
        code = self.request("POST", "/api/onboarding/users", owner)["auth_code"]
        grant = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": client_id,
        }
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        tokens = self._exchange("POST", "/auth/token", urlencode(grant), form)
        url = f"ws://{loopback.HOST}:{self._port}/api/websocket"
        with connect(url, proxy=None) as socket:
            socket.recv()
            auth = {"type": "auth", "access_token": tokens["access_token"]}
            socket.send(json.dumps(auth))
            socket.recv()
            wish = {
                "id": 1,
                "type": "auth/long_lived_access_token",
                "client_name": "mesh",
                "lifespan": _TOKEN_DAYS,
            }
            socket.send(json.dumps(wish))
            return str(json.loads(socket.recv())["result"])

    def _exchange(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> Any:
        connection = HTTPConnection(loopback.HOST, self._port, timeout=30.0)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status // 100 == 2, f"{method} {path}: {answer!r}"
        return json.loads(answer) if answer else None


def _fired(match: re.Match[str]) -> Fired:
    entity = _ENTITY_ID.search(match["data"])
    changed = _LAST_CHANGED.search(match["data"])
    return Fired(
        match["kind"],
        entity[1] if entity else "",
        datetime.fromisoformat(changed[1]).timestamp() if changed else None,
        datetime.fromisoformat(f"{match['logged_at']}+00:00").timestamp(),
    )
