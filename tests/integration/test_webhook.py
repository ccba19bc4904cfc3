"""The webhook sink: what an answer means, and whose fault a silence is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial

import pytest

from meshtasks.demo import loopback
from meshtasks.errors import SinkUnavailable, Transient
from meshtasks.flows.circuit import Circuit
from meshtasks.flows.webhooks.client import WebhookBusy, WebhookRefused, Webhooks
from meshtasks.flows.webhooks.config import Workflow
from tests.support.receiver import Answer, Receiver, Request

HEALTH = "/healthz/readiness"
PATH = "/webhook/light"

Connect = Callable[..., Webhooks]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens sinks, and closes them after the test."""
    with ExitStack() as opened:

        def connect(
            n8n_url: str,
            clock: Callable[[], float] = time.monotonic,
            new_circuit: Callable[[], Circuit] = Circuit,
            **secrets: str,
        ) -> Webhooks:
            sink = Webhooks(n8n_url, secrets, clock, new_circuit)
            opened.callback(sink.close)
            return sink

        yield connect


@pytest.fixture
def sink(connect: Connect, receiver: Receiver) -> Webhooks:
    """A sink whose n8n is the receiver, which is in good health."""
    receiver.by_path[HEALTH] = Answer(200, b'{"status":"ok"}')
    return connect(receiver.url)


def workflow(url: str = PATH, name: str = "light", **webhook: object) -> Workflow:
    return Workflow.model_validate(
        {"name": name, "routing_key": "#", "webhook": {"url": url, **webhook}}
    )


def calls(receiver: Receiver) -> list[Request]:
    return [each for each in receiver.requests if each.path != HEALTH]


def nobody() -> str:
    return f"http://127.0.0.1:{loopback.free_port()}"


# --- what is sent


def test_one_call_is_one_request_with_the_body_and_headers_given(
    sink: Webhooks, receiver: Receiver
) -> None:
    sink.call(workflow(), b'{"motion":true}', {"Idempotency-Key": "m1/light"})

    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", PATH)
    assert request.body == b'{"motion":true}'
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == "m1/light"


def test_the_method_is_that_of_the_configuration(
    sink: Webhooks, receiver: Receiver
) -> None:
    sink.call(workflow(method="PUT"), b"{}", {})

    assert receiver.requests[0].method == "PUT"


def test_the_secret_goes_into_the_header_that_wants_it(
    connect: Connect, receiver: Receiver
) -> None:
    auth = {"header": "X-Mesh-Token", "secret": "n8n"}

    connect(receiver.url, n8n="s3cret").call(workflow(auth=auth), b"{}", {})

    assert receiver.requests[0].headers["x-mesh-token"] == "s3cret"


def test_n8n_may_be_below_a_path(connect: Connect, receiver: Receiver) -> None:
    connect(f"{receiver.url}/n8n/").call(workflow(), b"{}", {})

    assert receiver.requests[0].path == f"/n8n{PATH}"


def test_a_whole_url_is_called_instead_of_n8n(
    connect: Connect, receiver: Receiver
) -> None:
    connect(nobody()).call(workflow(f"{receiver.url}/diary"), b"{}", {})

    assert receiver.requests[0].path == "/diary"


def test_no_proxy_is_taken_from_the_environment(
    sink: Webhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", nobody())
    monkeypatch.setenv("HTTP_PROXY", nobody())

    sink.call(workflow(), b"{}", {})

    assert len(receiver.requests) == 1


# --- what an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_2xx_is_done(sink: Webhooks, receiver: Receiver, status: int) -> None:
    receiver.always = Answer(status)

    sink.call(workflow(), b"{}", {})


@pytest.mark.parametrize("status", [400, 409, 410, 413, 422])
def test_a_4xx_is_a_refusal_with_what_was_said(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status, b'{"message":"no such webhook"}')

    with pytest.raises(WebhookRefused) as caught:
        sink.call(workflow(), b"{}", {})

    assert str(caught.value) == (
        f'workflow "light" at 127.0.0.1:{receiver.port} answered {status}: '
        '{"message":"no such webhook"}'
    )
    assert caught.value.of_data == (status in {400, 413, 422})


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405])
def test_what_comes_from_its_set_up_holds_the_record(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status, b'{"message":"not registered"}')

    with pytest.raises(WebhookBusy, match="not registered") as caught:
        sink.call(workflow(), b"{}", {})

    assert not caught.value.counts


def test_which_answers_hold_is_configured(sink: Webhooks, receiver: Receiver) -> None:
    receiver.script(Answer(404), Answer(409))
    gone, held = workflow(held_statuses=[]), workflow(held_statuses=[409])

    with pytest.raises(WebhookRefused):
        sink.call(gone, b"{}", {})
    with pytest.raises(WebhookBusy):
        sink.call(held, b"{}", {})


PAGE = b"<!-- v2 -->\n<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize("status", [200, 400, 422, 500])
def test_a_page_for_people_is_no_answer_of_a_webhook(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status, PAGE)
    receiver.by_path["/healthz"] = Answer(200, b'{"status":"ok"}')

    with pytest.raises(WebhookBusy, match="page for people") as caught:
        sink.call(workflow(), b"{}", {})

    assert not caught.value.counts


def test_a_webhook_may_be_one_that_answers_with_a_page(
    sink: Webhooks, receiver: Receiver
) -> None:
    receiver.always = Answer(200, PAGE)

    sink.call(workflow(accepts_pages=True), b"{}", {})


def test_a_text_that_a_small_server_calls_html_is_done(
    sink: Webhooks, receiver: Receiver
) -> None:
    receiver.always = Answer(200, b"ok", {"Content-Type": "text/html"})

    sink.call(workflow(), b"{}", {})


def test_a_page_in_place_of_all_of_n8n_means_that_it_is_unavailable(
    sink: Webhooks, receiver: Receiver
) -> None:
    receiver.always = Answer(200, PAGE)

    with pytest.raises(SinkUnavailable, match="page for people"):
        sink.call(workflow(), b"{}", {})


def test_of_a_long_answer_the_beginning_and_the_end_are_kept(
    sink: Webhooks, receiver: Receiver
) -> None:
    receiver.always = Answer(410, b"begin" + b"ab" * 50_000 + b"end")

    with pytest.raises(WebhookRefused) as caught:
        sink.call(workflow(), b"{}", {})

    assert ": begin" in str(caught.value)
    assert str(caught.value).endswith("end")
    assert len(str(caught.value)) < 600


def test_a_secret_that_is_repeated_in_an_answer_is_not_told(
    connect: Connect, receiver: Receiver
) -> None:
    receiver.always = Answer(401, b"token s3cret is unknown")
    auth = {"header": "X-Mesh-Token", "secret": "n8n"}

    with pytest.raises(WebhookBusy, match="token … is unknown"):
        connect(receiver.url, n8n="s3cret").call(workflow(auth=auth), b"{}", {})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    with Receiver() as elsewhere:
        place = {"Location": f"{elsewhere.url}/x"}
        receiver.always = Answer(status, headers=place)

        with pytest.raises(WebhookBusy, match="redirects are not followed"):
            sink.call(workflow(), b"{}", {})

        assert elsewhere.requests == []
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [408, 425, 500, 501, 502, 504])
def test_a_fault_that_may_pass_is_the_records_own_while_n8n_is_well(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status, b"not now", {"Retry-After": "7"})

    with pytest.raises(Transient, match=f"answered {status}: not now") as caught:
        sink.call(workflow(), b"{}", {})

    assert not isinstance(caught.value, WebhookBusy | SinkUnavailable)
    assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize("status", [429, 503])
def test_a_webhook_that_asks_for_a_pause_is_busy(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status, headers={"Retry-After": "30"})

    with pytest.raises(WebhookBusy) as caught:
        sink.call(workflow(), b"{}", {})

    assert caught.value.retry_after_seconds == 30


# --- circuits of single webhooks


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patient(connect: Connect, receiver: Receiver, clock: Clock) -> Webhooks:
    """A sink whose n8n is in good health and whose clock is the test's."""
    receiver.by_path[HEALTH] = Answer(200)
    exactly = partial(Circuit, lambda _low, high: high)
    return connect(receiver.url, clock=clock, new_circuit=exactly)


def pause(sink: Webhooks, name: str = "light") -> tuple[float | None, bool]:
    """How long a call that fails is told to wait, and whether that counts."""
    with pytest.raises(WebhookBusy) as caught:
        sink.call(workflow(name=name), b"{}", {})
    return caught.value.retry_after_seconds, caught.value.counts


def test_a_busy_webhook_is_paused_as_long_as_it_asks(
    patient: Webhooks, receiver: Receiver, clock: Clock
) -> None:
    receiver.script(Answer(429, headers={"Retry-After": "30"}))

    assert pause(patient) == (30, False)
    clock.now += 10
    assert pause(patient) == (20, False)
    clock.now += 20
    patient.call(workflow(), b"{}", {})

    assert len(calls(receiver)) == 2


def test_the_log_says_that_a_webhook_is_paused_and_for_how_long_and_when_it_is_over(
    patient: Webhooks,
    receiver: Receiver,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.script(*[Answer(429, b"slowly", {"Retry-After": "30"})] * 2)

    pause(patient)
    pause(patient)
    for _ in range(2):
        clock.now += 30
        with suppress(WebhookBusy):
            patient.call(workflow(), b"{}", {})

    host = receiver.url.partition("://")[2]
    reason = f'workflow "light" at {host} answered 429: slowly'
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("WARNING", f"Webhook paused, retried in 30 s: {reason}"),
        ("WARNING", 'Workflow "light" is no longer paused'),
    ]


def test_a_call_that_is_busy_counts_once_others_were_taken(
    patient: Webhooks, receiver: Receiver, clock: Clock
) -> None:
    for _ in range(5):
        patient.call(workflow(), b"{}", {})
    receiver.always = Answer(503)

    assert pause(patient) == (1, True)
    clock.now += 1
    assert pause(patient) == (1, False)


def test_a_call_that_fails_right_after_a_pause_waits_until_others_had_their_turn(
    patient: Webhooks, receiver: Receiver, clock: Clock
) -> None:
    receiver.script(Answer(503), Answer(200), Answer(503))
    pause(patient)
    clock.now += 1
    patient.call(workflow(), b"{}", {})

    # it is left alone for two seconds once more, and has 20 for the others
    assert pause(patient) == (22, False)


def test_other_webhooks_are_called_meanwhile(
    patient: Webhooks, receiver: Receiver
) -> None:
    receiver.script(Answer(503))
    pause(patient)

    patient.call(workflow(name="other"), b"{}", {})

    assert len(calls(receiver)) == 2


# --- whose fault a silence is


def test_a_webhook_that_does_not_answer_in_time_is_busy_while_n8n_is_well(
    sink: Webhooks, receiver: Receiver
) -> None:
    receiver.always = Answer(delay_seconds=60)

    with pytest.raises(WebhookBusy, match=r"did not answer within 0\.1 s"):
        sink.call(workflow(timeout_seconds=0.1), b"{}", {})


def test_an_answer_whose_end_is_missing_counts(connect: Connect) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 410 Gone\r\n\r\nfor good, bec")
                connection.recv(1)  # until the other side has had enough

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(WebhookRefused, match="410: for good, bec"):
            connect(nobody()).call(workflow(url, timeout_seconds=0.2), b"{}", {})
        thread.join()


@pytest.mark.parametrize(
    "health",
    [Answer(502), Answer(503), Answer(504), Answer(200, b"n8n is starting up")],
)
def test_when_n8n_fails_too_it_is_n8n_that_is_unavailable(
    sink: Webhooks, receiver: Receiver, health: Answer
) -> None:
    receiver.by_path[HEALTH] = health
    receiver.always = Answer(503)

    with pytest.raises(SinkUnavailable) as caught:
        sink.call(workflow(), b"{}", {})

    assert caught.value.sink == "webhook"


def test_n8n_that_cannot_be_reached_is_unavailable(connect: Connect) -> None:
    with pytest.raises(SinkUnavailable, match="Connection refused"):
        connect(nobody()).call(workflow(), b"{}", {})


def test_n8n_by_its_whole_url_is_n8n(connect: Connect) -> None:
    url = nobody()

    with pytest.raises(SinkUnavailable):
        connect(url).call(workflow(f"{url}/webhook/x"), b"{}", {})


def test_another_host_that_cannot_be_reached_does_not_count_for_n8n(
    sink: Webhooks, receiver: Receiver
) -> None:
    with pytest.raises(WebhookBusy, match="cannot be reached"):
        sink.call(workflow(f"{nobody()}/diary"), b"{}", {})

    assert receiver.requests == []


def test_a_200_of_n8n_that_migrates_its_database_has_done_nothing(
    sink: Webhooks, receiver: Receiver
) -> None:
    receiver.always = Answer(200, b"n8n is starting up. Please wait")

    with pytest.raises(WebhookBusy, match="is starting up"):
        sink.call(workflow(), b"{}", {})


def test_a_connection_that_was_closed_meanwhile_is_replaced(
    sink: Webhooks, receiver: Receiver
) -> None:
    sink.call(workflow(), b"{}", {})
    receiver.stop()
    receiver.start()

    sink.call(workflow(), b"{}", {})

    assert len(calls(receiver)) == 2


# --- the probe


@pytest.mark.parametrize("status", [200, 301, 401, 404, 500])
def test_any_answer_of_its_own_is_a_sign_of_life(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.by_path[HEALTH] = Answer(status)

    sink.probe()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxys_word_for_it_is_none(
    sink: Webhooks, receiver: Receiver, status: int
) -> None:
    receiver.by_path[HEALTH] = Answer(status, headers={"Retry-After": "20"})

    with pytest.raises(SinkUnavailable) as caught:
        sink.probe()

    assert caught.value.retry_after_seconds == 20


def test_silence_is_none(connect: Connect) -> None:
    with pytest.raises(SinkUnavailable):
        connect(nobody()).probe()
