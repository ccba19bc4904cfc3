"""Who is logged in to the console, and who may try."""

from __future__ import annotations

import pytest

from meshtasks.gateway.clients import Tokens
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
