"""The stack of docker-compose.yml, in a copy of the project."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from tests.compose import engine
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]

#: A cold start on a busy machine of two cores, with a probe every half minute.
START_SECONDS = 600.0
_COMMAND_SECONDS = 1800.0
_OWN = "com.docker.compose.project"


class Stack:
    """A copy of the project, and its services on the engine.

    Args:
        directory: to copy the project to; the umask of the copy is 077, as careful
            people have it.
        name: of the Compose project.
        image: name for the mesh's own image.
        profiles: in the place of those that ``.env`` names.
    """

    def __init__(
        self, directory: Path, name: str, image: str, profiles: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.name = name
        tools = directory.parent / "tools"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MESH_", "COMPOSE_"))
        }
        self.environment = {
            **inherited,
            "PATH": f"{tools}:{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "COMPOSE_PROJECT_NAME": name,
            "COMPOSE_ANSI": "never",
            "COMPOSE_PROGRESS": "quiet",
            "MESH_IMAGE": image,
        }
        if profiles:
            self.environment["COMPOSE_PROFILES"] = ",".join(profiles)
        _copy_of_the_project(directory)
        _tools(tools)

    def run(self, script: str, timeout_seconds: float = _COMMAND_SECONDS) -> str:
        """What a shell script writes that is run in the directory of the project.

        Raises:
            AssertionError: it failed; with what it wrote and the states of services.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
        if done.returncode:
            failed = f"exit code {done.returncode} of\n{script}\n{done.stdout}"
            failure = f"{failed}\n{self.troubles()}"
            raise AssertionError(failure)
        return done.stdout

    def compose(self, *arguments: str) -> str:
        """What a ``docker compose`` command writes."""
        return self.run(shlex.join(["docker", "compose", *arguments]))

    def variables(self) -> dict[str, str]:
        """What stands in ``.env``."""
        values = dotenv_values(self.directory / ".env")
        return {name: value or "" for name, value in values.items()}

    def services(self) -> dict[str, Any]:
        """The services of the profiles, as Compose understands the file."""
        configured = json.loads(self.compose("config", "--format", "json"))
        found: dict[str, Any] = configured["services"]
        return found

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container, by service."""
        mine = ("--filter", f"label={_OWN}={self.name}")
        ids = engine.docker("ps", "--all", "--quiet", "--no-trunc", *mine).split()
        found = {}
        for container in engine.inspected(*ids):
            labels = container["Config"]["Labels"]
            if labels.get("com.docker.compose.oneoff") != "True":
                found[labels["com.docker.compose.service"]] = container
        return found

    def wait_until_healthy(self, *names: str) -> float:
        """Wait until services (all of them, if none is named) run and are healthy, or
        are done if they are to end; how many seconds it took."""
        begun = time.monotonic()
        wanted = set(names or self.services())
        try:
            wait_until(lambda: not self._waits(wanted), START_SECONDS, "the services")
        except AssertionError as error:
            failure = f"{self._waits(wanted)}\n{self.troubles()}"
            raise AssertionError(failure) from error
        return time.monotonic() - begun

    def kill(self, service: str) -> None:
        """End a service's process as a crash does: by SIGKILL, out of the blue. (After
        ``docker kill`` the engine would not start it again.)"""
        pid = self.containers()[service]["State"]["Pid"]
        program = f"import os; os.kill({pid}, 9)"
        image = self.environment["MESH_IMAGE"]
        options = ("--rm", "--pid=host", "--user=0", "--network=none")
        engine.docker("run", *options, image, "python", "-c", program)

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of each service, in MiB, as the engine counts it."""
        found = {}
        for service, container in self.containers().items():
            if container["State"]["Running"]:
                used = engine.docker(
                    *("stats", "--no-stream", "--format", "{{.MemUsage}}"),
                    container["Id"],
                )
                found[service] = _mib(used.partition("/")[0].strip())
        return found

    def troubles(self) -> str:
        """The states of the services that do not run as they should, with the ends of
        their logs."""
        lines = []
        for service, container in self.containers().items():
            state = container["State"]
            health = state.get("Health", {}).get("Status", "no probe")
            status = f"{state['Status']} ({health}), exit code {state['ExitCode']}"
            lines.append(f"{service}: {status}, {container['RestartCount']} restarts")
            if health == "unhealthy" or not (state["Running"] or not state["ExitCode"]):
                logs = subprocess.run(
                    ["docker", "logs", "--tail", "12", container["Id"]],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                lines.append(logs.stdout)
        return "\n".join(lines)

    def remove(self) -> list[str]:
        """Take everything down, with its volumes; what is left all the same."""
        if not (self.directory / ".env").exists():  # it was never started
            return []
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans")
        mine = ("--filter", f"label={_OWN}={self.name}")
        return [
            name
            for listing in (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
            for name in engine.docker(*listing, "--quiet", *mine).split()
        ]

    def _waits(self, wanted: set[str]) -> set[str]:
        """Services that are not what they are to become."""
        return wanted - {
            service
            for service, container in self.containers().items()
            if _as_it_should_be(container)
        }


def _as_it_should_be(container: dict[str, Any]) -> bool:
    state = container["State"]
    if container["HostConfig"]["RestartPolicy"]["Name"] in {"", "no"}:
        return (state["Status"], state["ExitCode"]) == ("exited", 0)
    if not state["Running"] or state["Restarting"]:
        return False
    return bool(state.get("Health", {}).get("Status", "healthy") == "healthy")


def _mib(text: str) -> float:
    units = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0, "B": 1 / 1024**2}
    unit = next(unit for unit in units if text.endswith(unit))
    return float(text.removesuffix(unit)) * units[unit]


def _copy_of_the_project(directory: Path) -> None:
    """What git would clone, as it is in the working tree, for its owner only."""
    listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    answer = subprocess.run(
        ["git", *listing], cwd=ROOT, capture_output=True, check=True
    )
    before = os.umask(0o077)
    try:
        for name in filter(None, answer.stdout.decode().split("\0")):
            source, target = ROOT / name, directory / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                target.chmod(0o700 if os.access(source, os.X_OK) else 0o600)
                stamp = source.stat()
                os.utime(target, (stamp.st_atime, stamp.st_mtime))
        # `make setup` has been run here; another half gigabyte would tell no more.
        (directory / ".venv").mkdir()
        (directory / ".venv" / "bin").symlink_to(ROOT / ".venv" / "bin")
        (directory / ".venv" / ".ready").touch()
    finally:
        os.umask(before)


def _tools(directory: Path) -> None:
    """Programs that the page uses and this machine lacks."""
    directory.mkdir(exist_ok=True)
    if not shutil.which("mosquitto_pub"):
        tool = directory / "mosquitto_pub"
        module = shlex.join([sys.executable, "-m", "tests.compose.mosquitto_pub"])
        tool.write_text(
            f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {module} "$@"\n'
        )
        tool.chmod(0o755)
