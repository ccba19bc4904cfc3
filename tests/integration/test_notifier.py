"""Notifications on their way to phones: ntfy, Home Assistant's HTTP API."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from meshtasks.demo import loopback
from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.alerts.notifier import Notifier
from meshtasks.flows.alerts.rendering import Notification
from tests.support.ntfy import Ntfy, stable, without_sequence
from tests.support.receiver import Answer, Receiver
from tests.support.recording import differences

DAMP = Notification(
    title="Dachboden ist feucht",
    body="85 % humidity.\nSince 13:20 💧",
    priority=4,
    tags=("warning", "attic"),
    tag="mesh-0123456789abcdef",
    severity="warning",
    resolved=False,
)
DRY = replace(DAMP, title="Resolved: Dachboden ist feucht", resolved=True, priority=2)
SECRET = "tk_0123456789secret"


def notifier(url: str) -> Notifier:
    return Notifier({"phone": SecretStr(url)})


class TestNtfy:
    def test_it_answers_as_recorded(self, every_ntfy: Ntfy) -> None:
        alike = stable if every_ntfy.replaces else without_sequence
        assert list(differences("ntfy", every_ntfy.port, alike)) == []

    def test_a_notification_arrives_whole(self, every_ntfy: Ntfy, topic: str) -> None:
        notifier(every_ntfy.receiver_url(topic)).send("phone", DAMP)

        (message,) = every_ntfy.sent(topic)
        assert message["title"] == DAMP.title
        assert message["message"] == DAMP.body
        assert message["priority"] == 4
        assert message["tags"] == ["warning", "attic"]

    def test_a_later_notification_replaces_the_earlier_one(
        self, every_ntfy: Ntfy, topic: str
    ) -> None:
        phone = notifier(every_ntfy.receiver_url(topic))
        phone.send("phone", DAMP)
        phone.send("phone", replace(DAMP, tag="mesh-another", title="hall is damp"))
        phone.send("phone", DRY)

        shown = [message["title"] for message in every_ntfy.shown(topic)]
        if every_ntfy.replaces:
            assert shown == [DRY.title, "hall is damp"]
        else:  # a server older than 2.16 takes it all the same
            assert shown == [DAMP.title, "hall is damp", DRY.title]

    def test_every_topic_of_the_url_gets_it(self, every_ntfy: Ntfy, topic: str) -> None:
        notifier(f"{every_ntfy.receiver_url(topic)}/{topic}-2").send("phone", DAMP)

        assert len(every_ntfy.sent(topic)) == len(every_ntfy.sent(f"{topic}-2")) == 1

    def test_the_token_of_the_url_goes_along(self, receiver: Receiver) -> None:
        phone = notifier(f"ntfy://{SECRET}@127.0.0.1:{receiver.port}/alerts")
        phone.send("phone", DAMP)

        (request,) = receiver.requests
        assert request.headers["authorization"] == f"Bearer {SECRET}"

    @pytest.mark.parametrize("scheme", ["ntfy", "json"])
    def test_no_proxy_is_asked_for_this_machine(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{loopback.free_port()}")
        monkeypatch.setenv("no_proxy", "push.lan")

        notifier(f"{scheme}://127.0.0.1:{receiver.port}/alerts").send("phone", DAMP)

        assert len(receiver.requests) == 1

    def test_a_topic_that_the_server_refuses_is_rejected_with_its_reason(
        self, every_ntfy: Ntfy
    ) -> None:
        with pytest.raises(SinkRejected, match=r"receiver phone: HTTP 400 .*topic"):
            notifier(every_ntfy.receiver_url("v1")).send("phone", DAMP)


class TestHomeAssistant:
    @pytest.fixture
    def url(self, receiver: Receiver) -> Callable[[str], str]:
        def url(target: str) -> str:
            token = f"{'a' * 20}.{'b' * 20}.{'c' * 20}"
            return f"hassio://127.0.0.1:{receiver.port}/{token}/{target}"

        return url

    def sent(self, receiver: Receiver) -> dict[str, Any]:
        (request,) = receiver.requests
        content: dict[str, Any] = json.loads(request.body)
        return content

    def test_the_app_is_notified_through_its_service(
        self, receiver: Receiver, url: Callable[[str], str]
    ) -> None:
        notifier(url("notify.mobile_app_pixel")).send("phone", DAMP)

        (request,) = receiver.requests
        assert (request.method, request.path) == (
            "POST",
            "/api/services/notify/mobile_app_pixel",
        )
        assert request.headers["authorization"].startswith("Bearer aaaa")
        assert json.loads(request.body) == {
            "title": DAMP.title,
            "message": DAMP.body,
            "data": {
                "tag": DAMP.tag,
                "ttl": 0,
                "priority": "high",
                "push": {"interruption-level": "time-sensitive"},
            },
        }

    def test_a_critical_one_makes_itself_heard(
        self, receiver: Receiver, url: Callable[[str], str]
    ) -> None:
        critical = replace(DAMP, priority=5, severity="critical")
        notifier(url("mobile_app_pixel")).send("phone", critical)

        data = self.sent(receiver)["data"]
        assert data["channel"] == "alarm_stream"
        assert data["push"]["interruption-level"] == "critical"

    def test_a_later_one_has_the_same_tag_and_replaces_it(
        self, receiver: Receiver, url: Callable[[str], str]
    ) -> None:
        phone = notifier(url("mobile_app_pixel"))
        phone.send("phone", DAMP)
        phone.send("phone", DRY)

        tags = {json.loads(each.body)["data"]["tag"] for each in receiver.requests}
        assert tags == {DAMP.tag}

    def test_without_a_service_it_shows_in_home_assistant_itself(
        self, receiver: Receiver, url: Callable[[str], str]
    ) -> None:
        notifier(url("")).send("phone", DAMP)

        assert receiver.requests[0].path == (
            "/api/services/persistent_notification/create"
        )
        assert self.sent(receiver)["notification_id"] == DAMP.tag


class TestOtherServices:
    @pytest.mark.parametrize(
        ("notification", "kind"),
        [
            (DAMP, "warning"),
            (DRY, "success"),
            (replace(DAMP, severity="critical"), "failure"),
        ],
    )
    def test_whatever_apprise_knows_gets_title_text_and_kind(
        self, receiver: Receiver, notification: Notification, kind: str
    ) -> None:
        notifier(f"json://127.0.0.1:{receiver.port}/hook").send("phone", notification)

        (request,) = receiver.requests
        content = json.loads(request.body)
        assert request.path == "/hook"
        assert content["title"] == notification.title
        assert content["message"] == notification.body
        assert content["type"] == kind

    def test_text_of_an_alert_is_no_markup_where_html_is_shown(
        self, receiver: Receiver
    ) -> None:
        hostile = replace(DAMP, body='<img src="http://x/?seen"> <b>all is well</b>')
        url = f"json://127.0.0.1:{receiver.port}/hook?format=html"
        notifier(url).send("phone", hostile)
        (request,) = receiver.requests
        told = json.loads(request.body)["message"]
        assert "<img" not in told
        assert "&lt;b&gt;all" in told

    def test_a_service_that_fails_is_unavailable(self, receiver: Receiver) -> None:
        receiver.always = Answer(500)

        with pytest.raises(
            SinkUnavailable, match=r"receiver phone: .* did not take it"
        ):
            notifier(f"json://127.0.0.1:{receiver.port}/hook").send("phone", DAMP)


def test_services_that_are_called_directly_load_no_other_plugins_of_apprise() -> None:
    """All of Apprise's plugins would take 10 MB of the worker."""
    code = (
        "import sys\n"
        "from pydantic import SecretStr\n"
        "from meshtasks.flows.alerts.notifier import Notifier\n"
        "urls = 'ntfys://ntfy.sh/topic', 'hassio://localhost/token'\n"
        "Notifier({url[:4]: SecretStr(url) for url in urls})\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    loaded = {*done.stdout.split()}

    assert "apprise.plugins.ntfy" in loaded
    assert "apprise.plugins.telegram" not in loaded


class TestFailures:
    @pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 504])
    def test_what_may_pass_makes_the_sink_unavailable(
        self, receiver: Receiver, status: int
    ) -> None:
        receiver.always = Answer(status, headers={"Retry-After": "42"})

        with pytest.raises(SinkUnavailable, match=f"phone: HTTP {status}") as caught:
            notifier(f"ntfy://127.0.0.1:{receiver.port}/alerts").send("phone", DAMP)
        assert caught.value.sink == "notifier"
        assert caught.value.retry_after_seconds == 42

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(200, b"<html>Please log in</html>"),
            Answer(200, b"It works!"),
            Answer(302, headers={"Location": "/login"}),
            Answer(204),
        ],
    )
    def test_an_answer_that_is_not_the_services_is_no_success(
        self, receiver: Receiver, answer: Answer
    ) -> None:
        receiver.always = answer

        with pytest.raises(SinkUnavailable, match="not as the service answers"):
            notifier(f"ntfy://127.0.0.1:{receiver.port}/alerts").send("phone", DAMP)
        assert len(receiver.requests) == 1

    @pytest.mark.parametrize("status", [400, 413])
    def test_what_does_not_is_rejected(self, receiver: Receiver, status: int) -> None:
        body = b'{"code": 40001, "error": "too long", "message": "x"}'
        receiver.always = Answer(status, body)

        with pytest.raises(SinkRejected, match=f"phone: HTTP {status} too long"):
            notifier(f"ntfy://127.0.0.1:{receiver.port}/alerts").send("phone", DAMP)
        assert len(receiver.requests) == 1

    def test_nobody_there(self, receiver: Receiver) -> None:
        receiver.stop()

        with pytest.raises(SinkUnavailable, match="phone: NewConnectionError"):
            notifier(f"ntfy://127.0.0.1:{receiver.port}/alerts").send("phone", DAMP)

    def test_a_slow_service_is_given_up(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "meshtasks.flows.alerts.notifier._READ_TIMEOUT_SECONDS", 0.05
        )
        receiver.always = Answer(delay_seconds=30)

        with pytest.raises(SinkUnavailable, match="phone: ReadTimeout"):
            notifier(f"ntfy://127.0.0.1:{receiver.port}/alerts").send("phone", DAMP)


class TestSecrets:
    @pytest.mark.parametrize(
        "url",
        [
            "ntfy://{secret}@127.0.0.1:{port}/{secret}",
            "hassio://127.0.0.1:{port}/{secret}.{secret}.{secret}/mobile_app_x",
            "json://user:{secret}@127.0.0.1:{port}/{secret}",
        ],
    )
    @pytest.mark.parametrize("status", [200, 403, 503, None])
    def test_urls_appear_in_no_log_and_no_error(
        self,
        receiver: Receiver,
        url: str,
        status: int | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        phone = notifier(url.format(secret=SECRET, port=receiver.port))
        if status is None:
            receiver.stop()
        else:
            receiver.always = Answer(status)
        said = ""
        try:
            phone.send("phone", DAMP)
        except (SinkUnavailable, SinkRejected) as error:
            said = f"{error} {error!r} {error.__cause__} {error.__suppress_context__}"
            assert "receiver phone" in said

        assert (said == "") is (status == 200)
        assert SECRET not in said + caplog.text

    @pytest.mark.parametrize(
        "url", [f"nonsense {SECRET}", f"ntfy:/{SECRET}", f"ntfy//{SECRET}", "ntfy", ""]
    )
    def test_a_bad_url_is_refused_by_the_name_of_its_variable(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        with pytest.raises(ConfigError, match="MESH_RECEIVERS__PHONE") as caught:
            notifier(url)
        assert SECRET not in f"{caught.value}{caplog.text}"
