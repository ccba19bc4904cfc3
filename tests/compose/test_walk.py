"""docs/docker.md from its first command to its last, with all that it promises.

The tests share one stack and go through the page in its order.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.compose import engine, page
from tests.compose.conftest import NewStack, started, walk
from tests.compose.stack import Stack
from tests.compose.traffic import (
    Traffic,
    come_back_from_the_archive,
    stored_readings,
)
from tests.support.waiting import wait_until

#: Sensors that the page sends readings of: by MQTT, by AMQP, to the gateway.
_SENT = {"attic", "kitchen", "hall"}
_SECONDS = 300.0


@pytest.fixture(scope="module")
def stack(new_stack: NewStack, note: Callable[[str], None]) -> Iterator[Stack]:
    """The full stack, started as the page says on an engine that lacks its image."""
    with new_stack() as stack:
        started(stack, note, "full")
        yield stack


def test_every_command_of_the_page_is_run_here() -> None:
    tests = "".join(
        path.read_text("utf-8") for path in Path(__file__).parent.glob("*.py")
    )

    assert [each for each in page.sections() if f'"{each}"' not in tests] == []


def test_what_the_page_sends_is_stored(stack: Stack) -> None:
    walk(stack, "Publish messages")

    def stored() -> set[str]:
        return {sensor for sensor, _ in stored_readings(stack, "")}

    wait_until(lambda: stored() >= _SENT, _SECONDS, "the readings of the page")


def test_a_name_more_is_in_the_brokers_certificate(stack: Stack) -> None:
    assert "mesh.lan" in walk(stack, "TLS")
    assert re.search(r"ok +certificate +that of rabbitmq is good until", doctor(stack))


def test_what_the_page_sends_is_archived_and_notified(stack: Stack) -> None:
    def seen() -> bool:
        text = walk(stack, "Inspect")
        return "Smoke in the attic" in text and bool(re.search(r"\bsensors\b", text))

    wait_until(seen, _SECONDS, "the archive's list and the notification")


def test_flower_shows_every_worker(stack: Stack) -> None:
    variables = stack.variables()
    account = f"{variables['MESH_FLOWER_USER']}:{variables['MESH_FLOWER_PASSWORD']}"
    basic = base64.b64encode(account.encode()).decode()
    request = Request(
        "http://127.0.0.1:5555/api/workers?refresh=1",
        headers={"Authorization": f"Basic {basic}"},
    )

    def shown() -> set[str]:
        with urlopen(request, timeout=60) as answer:
            return {name.partition("@")[0] for name in json.load(answer)}

    workers = {
        name.removeprefix("worker-")
        for name in stack.services()
        if name.startswith("worker-")
    }
    wait_until(lambda: shown() == workers, _SECONDS, f"{workers} in Flower")


def test_a_service_that_is_restarted_loses_nothing(stack: Stack) -> None:
    with Traffic(stack) as traffic:
        for service in _that_stay(stack):
            traffic.at_least(10)
            stack.compose("restart", service)
        stack.wait_until_healthy()
        traffic.at_least(100)

    traffic.assert_balanced()


def test_a_service_that_is_killed_comes_back_and_loses_nothing(stack: Stack) -> None:
    with Traffic(stack) as traffic:
        for service in _that_stay(stack):
            traffic.at_least(10)
            before = stack.containers()[service]["RestartCount"]
            stack.kill(service)

            def again(service: str = service, before: int = before) -> bool:
                container = stack.containers()[service]
                running: bool = container["State"]["Running"]
                return running and container["RestartCount"] > before

            wait_until(again, _SECONDS, f"{service}, which was killed")
        stack.wait_until_healthy()
        traffic.at_least(100)

    come_back_from_the_archive(stack)
    traffic.assert_balanced()


def test_new_passwords_lose_nothing(stack: Stack) -> None:
    with Traffic(stack) as traffic:
        traffic.at_least(20)
        before = stack.variables()
        walk(stack, "New passwords")
        stack.wait_until_healthy()
        traffic.at_least(50)

    traffic.assert_balanced()
    changed = {
        name for name, value in stack.variables().items() if before[name] != value
    }
    assert {"MESH_BROKER_PASSWORD_WORKER", "MESH_API_TOKENS"} < changed


def test_everything_is_there_after_down_and_up(stack: Stack) -> None:
    before = stored_readings(stack, "")

    walk(stack, "Stop and start")

    stack.wait_until_healthy()
    assert stored_readings(stack, "") >= before
    with Traffic(stack) as traffic:
        traffic.at_least(50)
    traffic.assert_balanced()


def test_what_was_backed_up_is_there_again(stack: Stack) -> None:
    with Traffic(stack) as stored:
        stored.at_least(50)
    stored.assert_balanced()
    before = stored_readings(stack, "")
    stack.compose("stop", "worker-climate")
    with Traffic(stack) as waiting:
        waiting.at_least(50)
    walk(stack, "Back up")
    (stack.directory / ".env").unlink()
    for lost in (".mesh", "config"):
        shutil.rmtree(stack.directory / lost)

    walk(stack, "Restore")

    stack.wait_until_healthy()
    assert stored_readings(stack, "") >= before
    stored.assert_balanced()
    waiting.assert_balanced()


def test_nothing_is_left_that_was_removed(stack: Stack) -> None:
    walk(stack, "Remove")

    assert stack.containers() == {}
    mine = f"label=com.docker.compose.project={stack.name}"
    assert engine.docker("volume", "ls", "--quiet", "--filter", mine) == ""


def doctor(stack: Stack) -> str:
    """What `doctor` sees of the stack, whether all is well or not."""
    return stack.run("docker compose run --rm -T tools doctor || [ $? = 1 ]")


def _that_stay(stack: Stack) -> list[str]:
    """Services that are to run for ever."""
    services = stack.services().items()
    return [name for name, each in services if each.get("restart") != "no"]
