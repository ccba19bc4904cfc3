"""Servers that only run in containers, for machines with a Docker engine.

The images are those of docker-compose.yml. Where the engine has one that stands in for
the real one (label ``meshtasks.stand-in``), what only the real one does is skipped.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import docker  # type: ignore[import-untyped]
import pytest
import yaml
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy, LogMessageWaitStrategy

from meshtasks.flows.archive.garage import Garage
from tests.support.influx import InfluxTarget
from tests.support.s3 import S3Target

ROOT = Path(__file__).parents[2]
#: Of an image that stands in for the real one of its name: what it is made of.
STAND_IN = "meshtasks.stand-in"

#: Gives the AMQP URL of a virtual host that it makes.
NewUrl = Callable[[str], str]

_SECRET = "mesh-container-secret"
_STARTING_SECONDS = 120


def docker_answers() -> bool:
    """Whether a Docker engine can be used here."""
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def image_of(service: str) -> str:
    """The image that docker-compose.yml pins for a service."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    name: str = compose["services"][service]["image"]
    return name


@contextmanager
def rabbitmq_container() -> Iterator[NewUrl]:
    """RabbitMQ 4; makes virtual hosts in it and gives their AMQP URLs."""
    container = (
        DockerContainer(image_of("rabbitmq"))
        .with_envs(RABBITMQ_DEFAULT_USER="mesh", RABBITMQ_DEFAULT_PASS=_SECRET)
        .with_exposed_ports(5672)
        .waiting_for(_log("Server startup complete"))
    )
    with container:

        def new_url(vhost: str) -> str:
            everything = ("mesh", ".*", ".*", ".*")
            for command in (
                ("add_vhost", vhost),
                ("set_permissions", "--vhost", vhost, *everything),
            ):
                done = container.exec(["rabbitmqctl", "--quiet", *command])
                assert done.exit_code == 0, done.output
            return f"amqp://mesh:{_SECRET}@{_address(container, 5672)}/{vhost}"

        yield new_url


@contextmanager
def influxdb_container() -> Iterator[InfluxTarget]:
    """InfluxDB 2 with one bucket."""
    image = image_of("influxdb")
    _skip_stand_in(image)
    target = {"token": _SECRET, "org": "home", "bucket": "mesh"}
    container = (
        DockerContainer(image)
        .with_envs(
            DOCKER_INFLUXDB_INIT_MODE="setup",
            DOCKER_INFLUXDB_INIT_USERNAME="mesh",
            DOCKER_INFLUXDB_INIT_PASSWORD=_SECRET,
            DOCKER_INFLUXDB_INIT_ADMIN_TOKEN=target["token"],
            DOCKER_INFLUXDB_INIT_ORG=target["org"],
            DOCKER_INFLUXDB_INIT_BUCKET=target["bucket"],
        )
        .with_exposed_ports(8086)
        # While it sets itself up it listens elsewhere, so this is answered last.
        .waiting_for(_http(8086, "/health"))
    )
    with container:
        yield InfluxTarget(f"http://{_address(container, 8086)}", **target)


@contextmanager
def garage_container() -> Iterator[S3Target]:
    """Garage, with a key that may make buckets."""
    token, key = secrets.token_hex(16), f"GK{secrets.token_hex(12)}"
    secret = secrets.token_hex(32)
    config = ROOT / "config" / "garage" / "garage.toml"
    container = (
        DockerContainer(image_of("garage"))
        .with_command("/garage server")
        .with_envs(GARAGE_RPC_SECRET=secrets.token_hex(32), GARAGE_ADMIN_TOKEN=token)
        .with_volume_mapping(str(config), "/etc/garage.toml")
        .with_exposed_ports(3900, 3903)
    )
    with container:
        admin = f"http://{_address(container, 3903)}"
        Garage(admin, token, _STARTING_SECONDS).prepare("mesh", key, secret)
        # The archive's own key may use one bucket; the tests make more.
        may = Request(
            f"{admin}/v2/UpdateKey?id={key}",
            json.dumps({"allow": {"createBucket": True}}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        urlopen(may).close()
        yield S3Target(_address(container, 3900), key, secret)


def _skip_stand_in(image: str) -> None:
    """Skip what only a real server does."""
    client = docker.from_env()
    try:
        made_of = client.images.get(image).labels.get(STAND_IN)
    except docker.errors.ImageNotFound:  # it will be pulled
        return
    finally:
        client.close()
    if made_of:
        pytest.skip(f"{image} is a stand-in here: {made_of}")


def _log(text: str) -> LogMessageWaitStrategy:
    return LogMessageWaitStrategy(text).with_startup_timeout(_STARTING_SECONDS)


def _http(port: int, path: str) -> HttpWaitStrategy:
    return HttpWaitStrategy(port, path).with_startup_timeout(_STARTING_SECONDS)


def _address(container: DockerContainer, port: int) -> str:
    host = container.get_container_host_ip()
    return f"{host}:{container.get_exposed_port(port)}"
