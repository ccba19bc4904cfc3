"""Servers that only run in containers, for machines with a Docker engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy, LogMessageWaitStrategy

from tests.support.influx import InfluxTarget
from tests.support.s3 import S3Target

_SECRET = "mesh-container-secret"


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


@contextmanager
def rabbitmq_container() -> Iterator[str]:
    """RabbitMQ 4; its AMQP URL."""
    container = (
        DockerContainer("rabbitmq:4-management")
        .with_envs(RABBITMQ_DEFAULT_USER="mesh", RABBITMQ_DEFAULT_PASS=_SECRET)
        .with_exposed_ports(5672)
        .waiting_for(LogMessageWaitStrategy("Server startup complete"))
    )
    with container:
        yield f"amqp://mesh:{_SECRET}@{_address(container, 5672)}/%2F"


@contextmanager
def influxdb_container() -> Iterator[InfluxTarget]:
    """InfluxDB 2 with one bucket."""
    target = {"token": _SECRET, "org": "home", "bucket": "mesh"}
    container = (
        DockerContainer("influxdb:2")
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
        .waiting_for(HttpWaitStrategy(8086, "/health"))
    )
    with container:
        yield InfluxTarget(f"http://{_address(container, 8086)}", **target)


@contextmanager
def minio_container() -> Iterator[S3Target]:
    """MinIO."""
    container = (
        DockerContainer("minio/minio")
        .with_command("server /data")
        .with_envs(MINIO_ROOT_USER="mesh", MINIO_ROOT_PASSWORD=_SECRET)
        .with_exposed_ports(9000)
        .waiting_for(HttpWaitStrategy(9000, "/minio/health/live"))
    )
    with container:
        yield S3Target(_address(container, 9000), "mesh", _SECRET)


def _address(container: DockerContainer, port: int) -> str:
    host = container.get_container_host_ip()
    return f"{host}:{container.get_exposed_port(port)}"
