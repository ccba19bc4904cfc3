"""Each profile of docker-compose.yml: started as docs/docker.md says, and used."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

import requests

from meshtasks.gateway.console import PAGES
from tests.compose import engine
from tests.compose.conftest import NewStack, started, walk
from tests.compose.stack import Stack
from tests.compose.traffic import GATEWAY, Traffic, publishing_token, waiting
from tests.support.waiting import wait_until

_SECONDS = 300.0
#: How long the simulated house is watched; MESH_TEST_DEMO_SECONDS has another time.
_DEMO_SECONDS = 120.0
#: What waits in a queue that is consumed as fast as it fills.
_WAITING = 2_000

Note = Callable[[str], None]


def test_light_stores_archives_and_fits(new_stack: NewStack, note: Note) -> None:
    with new_stack() as stack:
        started(stack, note, "light", "A small machine")
        with Traffic(stack) as traffic:
            traffic.at_least(500)
            look_at_the_console(stack)
            memory = stack.memory_mib()
        traffic.assert_balanced()

    note(f"light with the console: {sum(memory.values()):.0f} MiB: {memory}")
    assert sum(memory.values()) < 450, memory


def test_s3_archives_in_garage(new_stack: NewStack, note: Note) -> None:
    with new_stack() as stack:
        started(stack, note, "full with s3", "An archive in S3")
        with Traffic(stack) as traffic:
            traffic.at_least(100)
        traffic.assert_balanced()
        listing = ("run", "--rm", "-T", "tools", "archive", "list")
        wait_until(lambda: "sensors" in stack.compose(*listing), _SECONDS, "objects")


def test_tls_serves_the_gateway_with_a_certificate(
    new_stack: NewStack, note: Note
) -> None:
    with new_stack() as stack:
        started(stack, note, "full with tls", "HTTPS")
        assert walk(stack, "Test the certificate")


def test_ai_answers_what_a_model_is_asked(new_stack: NewStack, note: Note) -> None:
    with new_stack() as stack:
        started(stack, note, "full with ai", "Models")
        (path,) = re.findall(r"(?im)^location: (\S+)", walk(stack, "Run a model"))
        token = publishing_token(stack.variables())

        def result() -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {token}"}
            with urlopen(Request(f"{GATEWAY}{path}", headers=headers)) as answer:
                task: dict[str, Any] = json.load(answer)
            return task

        wait_until(lambda: result()["state"] == "success", _SECONDS, "the result")
        assert {"score"} < {each["name"] for each in result()["result"]["outputs"]}


def test_what_home_assistant_lacks_does_not_hold_up_the_rest(
    new_stack: NewStack, note: Note
) -> None:
    """Without a Home Assistant the producer waits for one; the stack goes on."""
    with new_stack() as stack:
        started(stack, note, "full with homeassistant", "Home Assistant")
        assert stack.containers()["homeassistant"]["RestartCount"] == 0
        with Traffic(stack) as traffic:
            traffic.at_least(50)
        traffic.assert_balanced()


def test_the_demo_fills_no_queue(new_stack: NewStack, note: Note) -> None:
    with new_stack() as stack:
        started(stack, note, "full with demo", "A simulated house")
        end = time.monotonic() + float(
            os.environ.get("MESH_TEST_DEMO_SECONDS", _DEMO_SECONDS)
        )
        while time.monotonic() < end:
            wait_until(lambda: max(waiting(stack).values()) < _WAITING, _SECONDS, "it")
            engine.docker("stats", "--no-stream")
        found = waiting(stack)
        note(f"demo: most that waited in the end: {max(found.values())}")


def look_at_the_console(stack: Stack) -> None:
    """Open its pages as a browser does, which makes the gateway load them."""
    tokens = stack.variables()["MESH_API_TOKENS"].split(",")
    (token,) = (each.split(":")[2] for each in tokens if ":operate:" in each)
    with requests.Session() as visitor:
        form = {"token": token, "next": "/"}
        entered = visitor.post(f"{GATEWAY}/login", data=form, timeout=300)
        assert "_nicegui" in entered.text
        for page in PAGES:
            assert visitor.get(f"{GATEWAY}{page}", timeout=300).ok
