"""What somebody tries with the console who may not."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urljoin

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.amqp import queue_depth, take
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter
from tests.support.gateway import Gateway, token_of
from tests.support.viewers import Viewer, session_cookie


@pytest.fixture
def url(console_url: str) -> str:
    return console_url


@pytest.fixture(scope="module")
def cookie(console: Gateway) -> str:
    """The session of somebody who may operate the mesh."""
    return session_cookie(console.url, token_of("operator"))


def test_a_page_of_another_port_opens_no_web_socket(
    console: Gateway, cookie: str
) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        Viewer(console.url, cookie, origin="http://127.0.0.1:1"),
    ):
        pass

    assert refused.value.response.status_code == HTTPStatus.FORBIDDEN


def test_a_page_of_another_port_polls_no_events(console: Gateway, cookie: str) -> None:
    answer = requests.get(
        f"{console.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling",
        headers={"Origin": "http://127.0.0.1:1", "Cookie": cookie},
        timeout=300,
    )

    assert answer.status_code == HTTPStatus.FORBIDDEN


def test_a_web_socket_needs_a_session(console: Gateway) -> None:
    address = console.url.replace("http", "ws") + "/_nicegui_ws/socket.io/"
    with (
        pytest.raises(InvalidStatus),
        connect(f"{address}?EIO=4&transport=websocket"),
    ):
        pass


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_another_site_can_log_nobody_in_or_out(
    console: Gateway, cookie: str, path: str
) -> None:
    answer = requests.post(
        console.url + path,
        data={"token": token_of("operator")},
        headers={"Origin": "http://evil.example", "Cookie": cookie},
        timeout=60,
        allow_redirects=False,
    )

    assert answer.status_code == HTTPStatus.FORBIDDEN
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "next_page",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "\\/evil.example",
        "javascript:alert(1)",
        "/%0d%0aSet-Cookie:x=1",
        '/"><script>alert(1)</script>',
    ],
)
def test_logging_in_leads_to_no_other_site(console: Gateway, next_page: str) -> None:
    form = requests.get(f"{console.url}/login", params={"next": next_page}, timeout=60)
    answer = requests.post(
        f"{console.url}/login",
        data={"token": token_of("operator"), "next": next_page},
        timeout=60,
        allow_redirects=False,
    )

    location = urljoin(console.url, answer.headers["Location"])
    assert location.startswith(f"{console.url}/")
    assert "<script>" not in form.text
    assert form.headers["Content-Security-Policy"]


def test_a_session_is_a_new_one_and_over_after_logging_out(console: Gateway) -> None:
    token = token_of("operator")
    fixed = {"Cookie": "mesh_session=chosen-by-somebody-else"}
    answer = requests.get(
        f"{console.url}/login",
        params={"token": token},
        headers=fixed,
        timeout=60,
        allow_redirects=False,
    )
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert "chosen" not in cookie
    with Viewer(console.url, cookie) as viewer:
        requests.post(
            f"{console.url}/logout",
            headers={"Cookie": cookie, "Origin": console.url},
            timeout=60,
        )

        viewer.wait_for("/login?next=")  # the page that is open is over, too

    again = requests.get(
        console.url, headers={"Cookie": cookie}, timeout=60, allow_redirects=False
    )
    assert again.status_code == HTTPStatus.SEE_OTHER


def test_behind_a_proxy_with_tls_the_cookie_goes_by_tls_alone(console: Gateway) -> None:
    answer = requests.get(
        f"{console.url}/login",
        params={"token": token_of("visitor")},
        headers={"X-Forwarded-Proto": "https"},
        timeout=60,
        allow_redirects=False,
    )

    cookie = answer.headers["Set-Cookie"]
    assert {"Secure", "HttpOnly", "SameSite=lax"} <= set(cookie.split("; "))


def test_who_may_only_look_can_press_what_is_hidden_in_vain(
    console: Gateway, url: str
) -> None:
    add_dead_letters(url, [dead_letter(1)])
    cookie = session_cookie(console.url, token_of("visitor"))
    with Viewer(console.url, cookie, "/dead-letters") as viewer:
        viewer.wait_for("1 dead letters of 1 causes")

        viewer.press_all()

        viewer.read(2.0)
        assert "would be requeued" not in viewer.received
    assert len(take(url, QUEUE, 1)) == 1


@pytest.mark.parametrize("path", ["/try", "/workers", "/archive"])
def test_who_may_only_look_publishes_and_starts_nothing(
    console: Gateway, url: str, path: str
) -> None:
    cookie = session_cookie(console.url, token_of("visitor"))
    with Viewer(console.url, cookie, path) as viewer:
        viewer.press_all()
        viewer.read(2.0)

    assert queue_depth(url, "commands") == 0
    assert queue_depth(url, "sensors.temperature") == 0
