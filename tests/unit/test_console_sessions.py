"""Who is logged in to the console, and who may try."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from nicegui import Client, ui
from starlette.requests import Request

from meshtasks.gateway.clients import Tokens
from meshtasks.gateway.console import frame
from meshtasks.gateway.console.sessions import Sessions

TOKEN = "a" * 30


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(Tokens(f"anna:operate:{TOKEN},mail:publish:{'b' * 30}"))


def test_every_session_has_a_cookie_of_its_own(sessions: Sessions) -> None:
    cookies = [sessions.begin(TOKEN, "10.0.0.1") for _ in range(3)]

    assert len(set(cookies)) == 3
    for cookie in cookies:
        client = sessions.client_of(cookie)
        assert client is not None
        assert client.name == "anna"


def test_a_token_that_may_only_publish_begins_none(sessions: Sessions) -> None:
    assert sessions.begin("b" * 30, "10.0.0.1") is None


def test_a_session_that_was_ended_is_nobodys(sessions: Sessions) -> None:
    cookie = sessions.begin(TOKEN, "10.0.0.1")
    sessions.end(cookie)
    assert sessions.client_of(cookie) is None


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("unknown", "", False),
    ],
)
def test_attempts_count_by_the_network_that_one_person_has(
    sessions: Sessions, first: str, second: str, *, together: bool
) -> None:
    while not sessions.wait_seconds(first):
        pass
    assert (sessions.wait_seconds(second) > 0) is together


@pytest.mark.parametrize("stayed", [True, False])
def test_once_its_session_is_over_a_page_is_deleted_if_its_browser_stayed(
    monkeypatch: pytest.MonkeyPatch, *, stayed: bool
) -> None:
    """NiceGUI deletes the others, and fails where somebody did it before."""
    ticks: list[Callable[[], None]] = []
    monkeypatch.setattr(ui, "timer", lambda _seconds, tick: ticks.append(tick))
    asked = {"type": "http", "path": "/", "headers": [], "server": ("gateway", 80)}
    nobodys: Any = SimpleNamespace(viewer=lambda: None)
    with Client(ui.page("/"), request=Request(asked | {"query_string": b""})) as page:
        frame._stay_open(nobodys)  # noqa: SLF001
        page.tab_id = "a tab"
        (tick,) = ticks
        tick()
        assert not page.is_deleted  # its browser is told to leave
        page.tab_id = "a tab" if stayed else None
        tick()

    assert page.is_deleted is stayed
    Client.instances.pop(page.id, None)
