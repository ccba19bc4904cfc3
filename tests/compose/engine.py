"""The Docker engine that the tests use, and what it has."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterable
from typing import Any

from tests.support.containers import STAND_IN

_NEXT_STEP = "start Docker, or let DOCKER_HOST name an engine that runs"


class Unusable(Exception):
    """There is no engine to test with; the text says what to do."""


def docker(*arguments: str, timeout_seconds: float = 120.0) -> str:
    """What a ``docker`` command writes.

    Raises:
        AssertionError: it failed; with what it wrote.
    """
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_seconds,
    )
    assert done.returncode == 0, f"docker {arguments[0]}: {done.stderr}"
    return done.stdout


def usable(ports: Iterable[int]) -> str:
    """The engine in a line.

    Args:
        ports: those that the stack will publish.

    Raises:
        Unusable: there is no engine, no Compose, or a port is taken.
    """
    if not shutil.which("docker"):
        reason = "there is no `docker` command: install Docker's client"
        raise Unusable(reason)
    try:
        info = json.loads(docker("info", "--format", "{{json .}}"))
        compose = docker("compose", "version", "--short").strip()
    except (AssertionError, subprocess.TimeoutExpired) as error:
        reason = f"{error}\n{_NEXT_STEP}"
        raise Unusable(reason) from error
    if not info.get("ServerVersion"):
        reason = f"no Docker engine answers: {info.get('ServerErrors')}\n{_NEXT_STEP}"
        raise Unusable(reason)
    if taken := _taken(ports):
        reason = f"something listens on ports of the stack: stop what has {taken}"
        raise Unusable(reason)
    images = dict(info.get("DriverStatus") or ()).get("driver-type", info["Driver"])
    return f"Docker {info['ServerVersion']}, images: {images}, Compose {compose}"


def inspected(*names: str, kind: str = "container") -> list[dict[str, Any]]:
    """What the engine knows of objects of one kind."""
    found: list[dict[str, Any]] = json.loads(
        docker(kind, "inspect", *names) if names else "[]"
    )
    return found


def stand_in(image: str) -> str:
    """What an image is made of that stands in for the one of its name; else empty."""
    labels = inspected(image, kind="image")[0]["Config"].get("Labels") or {}
    return str(labels.get(STAND_IN, ""))


def provide(images: Iterable[str]) -> list[str]:
    """Pull the images that the engine does not have; those that cannot be had."""
    missing = []
    for image in images:
        for command in (("image", "inspect"), ("pull", "--quiet")):
            try:
                docker(*command, image, timeout_seconds=1800.0)
                break
            except AssertionError:
                continue
        else:
            missing.append(image)
    return missing


def _taken(ports: Iterable[int]) -> list[int]:
    """Ports that something listens on already."""
    found = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                found.append(port)
    return found
