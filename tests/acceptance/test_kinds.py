"""A kind of readings that only configuration knows, as docs/add-a-queue.md has it."""

from __future__ import annotations

import csv
import io
import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.problems import Problem
from meshtasks.gateway.validation import Validator
from meshtasks.producers.sensornet.config import CONFIG
from tests.support.amqp import publish_raw, queue_depth, take
from tests.support.archive import lines_in
from tests.support.command import Command, command_in
from tests.support.docs import DOCS, with_snippets
from tests.support.meshes import declared, reconfigured
from tests.support.victoria import export
from tests.support.waiting import wait_until
from tests.support.worker import ROOT, Worker, running

PAGE = DOCS / "add-a-queue.md"
KEY = "sensors.co2.attic"


@pytest.fixture
def env(new_mesh_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A mesh with the lines of the page; its archive does not wait long."""
    files = with_snippets(PAGE, ROOT / "config")
    sensornet = files.pop("producers/sensornet")
    files["queues"]["queues"]["archive.metrics"] = {"batch": {"age_ms": 100}}
    env = reconfigured(new_mesh_env, tmp_path / "config", **files)
    (tmp_path / "config/producers").mkdir()
    (tmp_path / "config/producers/sensornet.yaml").write_text(json.dumps(sensornet))
    return env


@pytest.fixture
def settings(env: dict[str, str]) -> Settings:
    return Settings(Environment(config_dir=Path(env["MESH_CONFIG_DIR"])))


@pytest.fixture
def meshtasks(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """The console script in that mesh."""
    return command_in(env, monkeypatch, capsys)


def test_readings_of_a_configured_kind_are_stored_watched_archived_and_queried(
    env: dict[str, str],
    victoria: VictoriaMetrics,
    meshtasks: Command,
    tmp_path: Path,
) -> None:
    url = declared(env)["MESH_BROKER_URL"]
    reading = {"value": 2_100_000, "unit": "ppb", "timestamp": round(time.time())}
    with running(Worker(tmp_path, env, "sensors.co2", "archive.metrics")):
        for record in (reading, {"value": 50_000}):
            publish_raw(url, "sensors", KEY, json.dumps(record).encode())
        (letter,) = take(url, "dead.letter.queue", 1)
        (alert,) = take(url, "alerts.notifications", 1)
        with closing(open_store(Environment())) as store:
            wait_until(lambda: lines_in(store), 30, "an archive object")
            archived = [line["record"] for line in lines_in(store)]

    (series,) = export(victoria)
    assert (series.name, series.labels) == ("co2_ppm", {"sensor_id": "attic"})
    assert list(series.samples.values()) == [2100.0]
    assert letter.headers["x-mesh-reason"] == (
        "value: 50000 ppm cannot be: kinds.yaml allows 0 to 40000 ppm"
    )
    assert queue_depth(url, "dead.letter.queue") == 0
    said = json.loads(alert.body)
    assert said["title"] == "attic needs fresh air"
    assert said["message"] == "attic has 2100 ppm, more than 1500 ppm."
    assert queue_depth(url, "alerts.notifications") == 0
    assert archived == [reading]
    columns = "kind, sensor_id, value, unit"
    queried = meshtasks("query", "--csv", f"SELECT {columns} FROM readings")
    assert list(csv.reader(io.StringIO(queried.stdout)))[1:] == [
        ["co2", "attic", "2100.0", "ppm"]
    ]
    page = tmp_path / "house.html"
    assert meshtasks("report", "--out", page).exit_code == 0
    assert "2,100 ppm" in page.read_text(encoding="utf-8")


def test_the_kind_is_explained_and_checked(meshtasks: Command) -> None:
    checked = meshtasks("config", "check")
    explained = meshtasks("config", "check", "--explain", KEY)

    assert checked.exit_code == 0, checked
    assert "queue       sensors.co2\n" in explained.stdout
    assert "rule      stale-air: warning" in explained.stdout


def test_the_gateway_refuses_what_the_kind_refuses(settings: Settings) -> None:
    validator = Validator(settings, load_flows().handlers(settings))

    assert validator.check("sensors", KEY, b'{"value": 0.1, "unit": "%"}') == [
        "sensors.co2"
    ]
    for body, reason in (
        (b"50000", "kinds.yaml allows 0 to 40000 ppm"),
        (b'{"value": 1, "unit": "kg"}', 'unit "kg" is not a co2 unit; expected ppm'),
    ):
        with pytest.raises(Problem) as refused:
            validator.check("sensors", KEY, body)
        assert reason in str(refused.value.errors)


def test_devices_that_report_it_are_read_into_its_queue(settings: Settings) -> None:
    assert settings.read(CONFIG).kinds["co2"] == "sensors"
