"""What is proposed to be added to the configuration can be pasted, and then works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.loading import load_flows
from meshtasks.observation.explain import additions_for, fault_of_key, in_the_way
from meshtasks.records.kinds import KINDS

ROOT = Path(__file__).parents[2]
READING = b'{"value": 21, "unit": "hPa"}'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return tmp_path / "config"


def settings_of(config: Path) -> Settings:
    url = SecretStr("amqp://u:p@127.0.0.1:1/mesh")
    return Settings(Environment(config_dir=config, broker_url=url))


def paste(config: Path, routing_key: str, body: bytes) -> Settings:
    """The configuration after what is proposed was pasted."""
    for addition in additions_for(settings_of(config), routing_key, body):
        path = config / addition.file
        lines = path.read_text().splitlines()
        at = lines.index(addition.below) + 1 if addition.below else len(lines)
        path.write_text("\n".join([*lines[:at], *addition.lines, *lines[at:], ""]))
    return settings_of(config)


@pytest.mark.parametrize(
    "routing_key",
    [
        "sensors.pressure.attic",
        "garden.moisture.bed1",
        "garden",
        "Garten.Boden feuchte.2",
        "no.on.true",
        "1.2.3",
        ".leading.dot",
        "a..b",
        "zo\N{LATIN SMALL LETTER E WITH DIAERESIS}.t\N{SNOWMAN}.x",
        "amq.topic.x",
        "retry.1.x",
        "dead.letter",
        "x." + "y" * 200,
        "quo\"te.'single.#",
        "partitions.x.y",
        "commands.of.mine",
    ],
)
@pytest.mark.parametrize("body", [READING, b"21.5", b'{"state": "on"}', b"\xff"])
def test_what_nobody_takes_is_taken_once_it_was_pasted(
    config: Path, routing_key: str, body: bytes
) -> None:
    topology = settings_of(config).read(TOPOLOGY)
    before = topology.queue_names

    settings = paste(config, routing_key, body)

    topology = settings.read(TOPOLOGY)
    load_flows().handlers(settings)
    (queue,) = topology.queue_names - before
    exchanges = [each.name for each in topology.exchanges]
    assert any(queue in topology.queues_reached(x, routing_key) for x in exchanges)
    # and from a device, whose topic has slashes for dots
    assert queue in topology.queues_reached("amq.topic", routing_key)


def test_a_reading_gets_its_flow_and_its_kind(config: Path) -> None:
    settings = paste(config, "sensors.pressure.attic", READING)

    handlers = load_flows().handlers(settings)
    assert "sensors.pressure" in handlers
    assert settings.read(KINDS).quantities["pressure"].canonical_unit == "hPa"


def test_a_known_kind_is_not_declared_again(config: Path) -> None:
    settings = paste(config, "greenhouse.temperature.north", READING)

    assert "greenhouse.temperature" in load_flows().handlers(settings)


def test_a_file_of_another_indentation_is_kept_as_it_is(config: Path) -> None:
    path = config / "queues.yaml"
    path.write_text("queues:\n    sensors.motion: {batch: {count: 5}}\n")

    settings = paste(config, "sensors.pressure.attic", READING)

    assert "    sensors.pressure: {flow: readings" in path.read_text()
    assert "sensors.pressure" in load_flows().handlers(settings)


def test_a_binding_for_misspelt_names_is_told(config: Path) -> None:
    topology = settings_of(config).read(TOPOLOGY)

    assert in_the_way(topology, "sensor.temperature.attic") == ["sensor.#"]
    assert in_the_way(topology, "garden.x") == []


@pytest.mark.parametrize(
    ("routing_key", "fault"),
    [
        ("", "needs a routing key"),
        ("x" * 256, "at most 255 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_key_that_nothing_can_be_published_with_is_said_so(
    routing_key: str, fault: str
) -> None:
    assert fault in (fault_of_key(routing_key) or "")
    assert fault_of_key("a.b") is None
