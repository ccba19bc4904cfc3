"""The gateway as a process, on a real broker behind a network that can be cut.

One gateway serves the session. Nobody runs commands here: what workers answer is
published by the tests (tests/acceptance/test_commands.py has a real worker).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests

from meshtasks.config.environment import Environment
from tests.conftest import ROOT
from tests.support.amqp import Delivery, drain, publish_raw, take
from tests.support.command import Command, command
from tests.support.gateway import MAX_BODY_BYTES, Gateway, token_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

ATTIC = "/v1/events/sensors/sensors.temperature.attic"
TEMPERATURES = "sensors.temperature"
INPUTS = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]


@pytest.fixture
def message(gateway_url: str) -> Callable[[], Delivery]:
    """Takes the one message that came to the temperatures."""
    drain(gateway_url, TEMPERATURES)

    def only() -> Delivery:
        (delivery,) = drain(gateway_url, TEMPERATURES)
        return delivery

    return only


def problem_of(response: requests.Response, status: HTTPStatus) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["title"]
    return problem


def pointers(response: requests.Response) -> list[str]:
    problem = problem_of(response, HTTPStatus.UNPROCESSABLE_ENTITY)
    return [error["pointer"] for error in problem["errors"]]


class TestEvents:
    def test_what_is_accepted_is_in_its_queue_as_it_was_sent(
        self, gateway: Gateway, message: Callable[[], Delivery]
    ) -> None:
        body = b'{ "value": 21.50, "unit":"C" }'

        answer = gateway.post(ATTIC, body)

        assert answer.status_code == HTTPStatus.ACCEPTED
        delivery = message()
        assert delivery.body == body
        assert delivery.routing_key == "sensors.temperature.attic"
        assert delivery.properties["delivery_mode"] == 2
        assert answer.json() == {
            "message_id": delivery.properties["message_id"],
            "queues": [TEMPERATURES],
        }

    def test_a_bare_number_is_a_reading(
        self, gateway: Gateway, message: Callable[[], Delivery]
    ) -> None:
        assert gateway.post(ATTIC, b"21.5").status_code == HTTPStatus.ACCEPTED
        assert message().body == b"21.5"

    @pytest.mark.parametrize(
        ("body", "at"),
        [
            (b'{"value": "warm"}', ["#/value"]),
            (b'{"value": 1, "sensor_id": 7, "unit": 8}', ["#/sensor_id", "#/unit"]),
            (b'[{"value": 1}, {"unit": "C"}, 5]', ["#/1/value", "#/2"]),
            (b'{"value": NaN}', ["#/value"]),
            (b'{"value": ', ["#"]),
            (b"", ["#"]),
            (b"[]", ["#"]),
            (b'[{"value": 1}, {"value": 1, "unit": "furlong"}]', ["#/1"]),
            (b'{"value": -300}', ["#"]),
        ],
    )
    def test_what_a_handler_would_refuse_is_refused_with_its_place(
        self, gateway: Gateway, gateway_url: str, body: bytes, at: list[str]
    ) -> None:
        assert pointers(gateway.post(ATTIC, body)) == at
        assert not drain(gateway_url, TEMPERATURES)

    @pytest.mark.parametrize(
        ("route", "body", "said"),
        [
            ("metrics/metrics.system.nas", {"name": "disk"}, "value: "),
            ("sensors/sensors.motion", {"motion": True}, "sensor_id: "),
            ("ai/ai.model.echo", {"model": "echo"}, "inputs: "),
            ("home.events/home.light.hall.state_changed", {"entity_id": "a"}, "new_st"),
        ],
    )
    def test_what_only_a_handler_knows_is_told_too(
        self, gateway: Gateway, route: str, body: Any, said: str
    ) -> None:
        answer = gateway.post(f"/v1/events/{route}", body)

        problem = problem_of(answer, HTTPStatus.UNPROCESSABLE_ENTITY)
        assert problem["errors"][0]["detail"].startswith(said)

    @pytest.mark.parametrize(
        ("route", "hint"),
        [
            ("sensors/sensors.pressure.attic", "sensors.temperature.#"),
            ("commands/commands", "no exchange commands"),
            ("dead.letter/%23", "no exchange dead.letter"),
            ("retry.5/commands", "no exchange retry.5"),
            ("amq.direct/commands", "no exchange amq.direct"),
        ],
    )
    def test_what_no_domain_takes_is_not_found(
        self, gateway: Gateway, route: str, hint: str
    ) -> None:
        answer = gateway.post(f"/v1/events/{route}", {"value": 1})

        assert hint in problem_of(answer, HTTPStatus.NOT_FOUND)["detail"]

    def test_messages_of_many_callers_at_once_are_all_published(
        self, gateway: Gateway, gateway_url: str
    ) -> None:
        def post(number: int) -> int:
            answer = requests.post(
                gateway.url + ATTIC,
                data=b"%d" % number,
                headers={"Authorization": f"Bearer {token_of('sensor')}"},
                timeout=300,
            )
            return answer.status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = set(pool.map(post, range(40)))

        assert statuses == {HTTPStatus.ACCEPTED}
        bodies = {
            int(delivery.body) for delivery in take(gateway_url, TEMPERATURES, 40)
        }
        assert bodies == set(range(40))


class TestLimits:
    def test_a_body_that_says_it_is_too_large_is_refused(
        self, gateway: Gateway
    ) -> None:
        answer = gateway.post(ATTIC, b" " * (MAX_BODY_BYTES + 1))

        problem_of(answer, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def test_a_body_that_does_not_say_so_is_refused_too(self, gateway: Gateway) -> None:
        chunks = iter([b" " * 10_000] * 11)

        answer = gateway.request("POST", ATTIC, data=chunks)

        assert "Content-Length" not in answer.request.headers
        problem_of(answer, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def test_who_asks_too_often_is_told_when_to_ask_again(
        self, gateway: Gateway
    ) -> None:
        def until_refused() -> requests.Response:
            while (answer := gateway.get("/metrics", caller="greedy")).ok:
                pass
            return answer

        answer = until_refused()

        problem_of(answer, HTTPStatus.TOO_MANY_REQUESTS)
        assert int(answer.headers["Retry-After"]) >= 1
        assert gateway.get("/metrics", caller="operator").ok

    def test_alerts_count_one_by_one(self, gateway: Gateway) -> None:
        alert = {"title": "t", "message": "m", "severity": "critical", "source": "s"}
        many = [{**alert, "source": f"s{number}"} for number in range(1_000)]

        answer = gateway.post("/v1/events/alerts/alerts.flood", many)

        problem = problem_of(answer, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        assert "1000 alerts; at most" in problem["detail"]


class TestAccess:
    @pytest.mark.parametrize(
        "header", [None, "Bearer ", "Bearer nobody", f"Basic {token_of('n8n')}"]
    )
    def test_who_has_no_token_is_asked_for_one(
        self, gateway: Gateway, header: str | None
    ) -> None:
        headers = {"Authorization": header} if header else {}

        answer = gateway.post(ATTIC, {"value": 1}, caller=None, headers=headers)

        problem_of(answer, HTTPStatus.UNAUTHORIZED)
        assert answer.headers["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        ("caller", "path", "missing"),
        [
            ("asker", ATTIC, "publish"),
            ("asker", "/v1/tasks/publish", "publish"),
            ("sensor", "/v1/tasks/infer", "trigger"),
            ("n8n", "/v1/tasks/silence_alerts", "operate"),
        ],
    )
    def test_a_token_does_only_what_it_is_for(
        self, gateway: Gateway, caller: str, path: str, missing: str
    ) -> None:
        bodies = {
            "publish": {"exchange": "sensors", "routing_key": "x", "record": 1},
            "infer": {"model": "echo", "inputs": INPUTS},
            "silence_alerts": {"matchers": ["a=b"], "lasts": "1h"},
        }

        body = bodies.get(path.rpartition("/")[2], {})
        answer = gateway.post(path, body, caller=caller)

        assert missing in problem_of(answer, HTTPStatus.FORBIDDEN)["detail"]


class TestIdempotency:
    def test_a_request_made_again_is_done_once_and_answered_alike(
        self, gateway: Gateway, message: Callable[[], Delivery]
    ) -> None:
        key = {"Idempotency-Key": str(uuid.uuid4())}

        first = gateway.post(ATTIC, {"value": 1}, headers=key)
        again = gateway.post(ATTIC, {"value": 1}, headers=key)

        assert again.json() == first.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert message().properties["message_id"] == first.json()["message_id"]

    def test_a_key_stands_for_one_request(self, gateway: Gateway) -> None:
        key = {"Idempotency-Key": str(uuid.uuid4())}
        gateway.post(ATTIC, {"value": 1}, headers=key)

        other_body = gateway.post(ATTIC, {"value": 2}, headers=key)
        other_path = gateway.post(f"{ATTIC}.north", {"value": 1}, headers=key)

        problem_of(other_body, HTTPStatus.UNPROCESSABLE_ENTITY)
        problem_of(other_path, HTTPStatus.UNPROCESSABLE_ENTITY)

    def test_a_request_that_was_refused_leaves_its_key_free(
        self, gateway: Gateway
    ) -> None:
        key = {"Idempotency-Key": str(uuid.uuid4())}

        refused = gateway.post(ATTIC, {"value": "warm"}, headers=key)
        mended = gateway.post(ATTIC, {"value": 1}, headers=key)

        problem_of(refused, HTTPStatus.UNPROCESSABLE_ENTITY)
        assert mended.status_code == HTTPStatus.ACCEPTED

    def test_keys_of_another_token_are_other_keys(
        self, gateway: Gateway, gateway_url: str
    ) -> None:
        drain(gateway_url, TEMPERATURES)
        key = {"Idempotency-Key": str(uuid.uuid4())}

        gateway.post(ATTIC, {"value": 1}, headers=key)
        gateway.post(ATTIC, {"value": 2}, headers=key, caller="sensor")

        assert len(drain(gateway_url, TEMPERATURES)) == 2

    def test_a_request_that_failed_may_be_made_again(
        self, gateway: Gateway, gateway_network: Proxy, message: Callable[[], Delivery]
    ) -> None:
        key = {"Idempotency-Key": str(uuid.uuid4())}
        gateway_network.close_door()

        failed = gateway.post(ATTIC, {"value": 1}, headers=key)
        wait_until(lambda: not gateway.is_healthy(), 60, "the loss to be noticed")
        gateway_network.open_door()
        wait_until(gateway.is_healthy, 60, "the gateway to recover")
        again = gateway.post(ATTIC, {"value": 1}, headers=key)

        problem = problem_of(failed, HTTPStatus.SERVICE_UNAVAILABLE)
        assert "Not confirmed by the broker" in problem["detail"]
        assert int(failed.headers["Retry-After"]) > 0
        assert again.status_code == HTTPStatus.ACCEPTED
        assert message().properties["message_id"] == again.json()["message_id"]


class TestTasks:
    def test_a_task_waits_until_somebody_answers(
        self, gateway: Gateway, gateway_url: str
    ) -> None:
        drain(gateway_url, "commands")
        arguments = {"model": "echo", "inputs": INPUTS, "wait_seconds": 5}

        accepted = gateway.post("/v1/tasks/infer", arguments)

        assert accepted.status_code == HTTPStatus.ACCEPTED
        path = accepted.headers["Location"]
        (call,) = drain(gateway_url, "commands")
        assert call.headers["task"] == "infer"
        assert call.headers["id"] == accepted.json()["id"]
        assert json.loads(call.body)[1] == arguments
        pending = gateway.get(path)
        assert pending.json()["state"] == "pending"
        assert pending.headers["Retry-After"] == "1"

        give_answer(gateway_url, accepted, state="STARTED")
        give_answer(gateway_url, accepted, state="SUCCESS", result={"outputs": [1]})
        wait_until(lambda: "Retry-After" not in gateway.get(path).headers, 30, "it")
        shown = gateway.get(path).json()
        assert (shown["state"], shown["result"]) == ("success", {"outputs": [1]})

    def test_why_a_task_failed_is_told(
        self, gateway: Gateway, gateway_url: str
    ) -> None:
        body = {"model": "echo", "inputs": INPUTS}
        accepted = gateway.post("/v1/tasks/infer", body, caller="asker")
        path = accepted.headers["Location"]

        publish_raw(gateway_url, "", "commands.answers", b"no answer at all")
        give_answer(gateway_url, accepted, state="FAILURE", error="SinkRejected: no")
        wait_until(
            lambda: gateway.get(path, caller="asker").json()["state"] != "pending",
            30,
            "the answer",
        )

        shown = gateway.get(path, caller="asker").json()
        assert (shown["state"], shown["error"]) == ("failure", "SinkRejected: no")

    def test_an_id_that_was_never_given_out_is_unknown(self, gateway: Gateway) -> None:
        answer = gateway.get(f"/v1/tasks/{uuid.uuid4()}")

        problem_of(answer, HTTPStatus.NOT_FOUND)

    def test_a_task_of_another_token_is_shown_to_operators_alone(
        self, gateway: Gateway
    ) -> None:
        body = {"model": "echo", "inputs": INPUTS}
        path = gateway.post("/v1/tasks/infer", body).headers["Location"]

        asker = gateway.get(path, caller="asker")
        operator = gateway.get(path, caller="operator")

        problem_of(asker, HTTPStatus.NOT_FOUND)
        assert operator.status_code == HTTPStatus.OK

    @pytest.mark.parametrize(
        ("name", "body", "at"),
        [
            ("infer", {"model": "a b"}, ["#/model", "#/inputs"]),
            ("infer", {"model": "a", "inputs": INPUTS, "wait": 1}, ["#/wait"]),
            (
                "publish",
                {
                    "exchange": "sensors",
                    "routing_key": "sensors.temperature.attic",
                    "record": {"value": "warm"},
                },
                ["#/record/value"],
            ),
            ("infer", b'{"model": ', ["#/10"]),
        ],
    )
    def test_wrong_arguments_are_named(
        self, gateway: Gateway, name: str, body: Any, at: list[str]
    ) -> None:
        headers = {"Content-Type": "application/json"}

        answer = gateway.post(f"/v1/tasks/{name}", body, headers=headers)

        assert pointers(answer) == at

    def test_a_body_without_a_type_is_json_all_the_same(self, gateway: Gateway) -> None:
        body = b'{"model": "m", "inputs": []}'

        answer = gateway.post("/v1/tasks/infer", body, headers={"Content-Type": None})

        assert "got a bytes" not in answer.text
        assert all(each != "#" for each in pointers(answer))

    def test_an_unknown_task_is_not_found(self, gateway: Gateway) -> None:
        answer = gateway.post("/v1/tasks/celery.starmap", {})

        assert "only infer, " in problem_of(answer, HTTPStatus.NOT_FOUND)["detail"]

    def test_a_silence_bears_the_name_of_its_token(
        self, gateway: Gateway, gateway_url: str
    ) -> None:
        drain(gateway_url, "commands")
        body = {"matchers": ["a=b"], "lasts": "2h", "created_by": "the boss"}

        gateway.post("/v1/tasks/silence_alerts", body, caller="operator")

        (call,) = drain(gateway_url, "commands")
        assert json.loads(call.body)[1]["created_by"] == "operator"


def give_answer(url: str, accepted: requests.Response, **fields: Any) -> None:
    answer = {"task_id": accepted.json()["id"], "at": time.time(), **fields}
    publish_raw(url, "", "commands.answers", json.dumps(answer).encode())


class TestOperation:
    def test_metrics_are_for_those_with_a_token(self, gateway: Gateway) -> None:
        gateway.post(ATTIC, {"value": 1})

        text = gateway.get("/metrics").text

        problem_of(gateway.get("/metrics", caller=None), HTTPStatus.UNAUTHORIZED)
        assert 'meshtasks_gateway_published_total{exchange="sensors"}' in text
        assert 'route="/v1/events/{exchange}/{routing_key}",status="202"}' in text

    def test_the_interface_describes_itself(self, gateway: Gateway) -> None:
        paths = gateway.get("/openapi.json", caller=None).json()["paths"]

        assert {"/v1/tasks/infer", "/v1/tasks/{task_id}"} <= paths.keys()
        refusals = paths["/v1/tasks/infer"]["post"]["responses"]["422"]["content"]
        assert list(refusals) == ["application/problem+json"]

    def test_its_pages_load_nothing_from_elsewhere(self, gateway: Gateway) -> None:
        page = gateway.get("/docs", caller=None).text

        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(loaded) >= 3
        for path in loaded:
            assert path.startswith("/")
            assert gateway.get(path, caller=None).status_code == HTTPStatus.OK

    @pytest.mark.parametrize(
        "body",
        [
            '{"value": 1}'.encode("utf-16"),
            b'{"value": "\\ud800", "\\udfff": 1}',
            b'{"value": ' + b"[" * 50_000,
            b"\xff\xfe",
            b"",
            b'{"value": 1' + b"0" * 5_000 + b"}",
            b'{"value": NaN}',
        ],
        ids=lambda body: repr(body[:12]),
    )
    @pytest.mark.parametrize("path", [ATTIC, "/v1/tasks/publish", "/v1/tasks/infer"])
    def test_no_body_is_a_fault_of_the_gateway(
        self, gateway: Gateway, path: str, body: bytes
    ) -> None:
        headers = {"Content-Type": "application/json"}

        problem = gateway.post(path, body, headers=headers)

        assert 400 <= problem.status_code < 500
        assert problem.json()["detail"]

    def test_a_short_request_has_no_long_answer(self, gateway: Gateway) -> None:
        answer = gateway.post(ATTIC, b"[" + b'"x",' * 10_000 + b"0]")

        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        assert len(answer.content) < 50_000

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nowhere", HTTPStatus.NOT_FOUND),
            ("PUT", "/v1/tasks/infer", HTTPStatus.METHOD_NOT_ALLOWED),
        ],
    )
    def test_every_error_is_a_problem(
        self, gateway: Gateway, method: str, path: str, status: HTTPStatus
    ) -> None:
        problem_of(gateway.request(method, path), status)


class TestTheCommand:
    @pytest.fixture
    def meshtasks(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Command:
        environment = Environment(
            broker_url="amqp://nobody@127.0.0.1:1//",
            config_dir=ROOT / "config",
            state_dir=tmp_path,
        )
        return command(environment, monkeypatch, capsys)

    def test_it_does_not_start_without_a_token(self, meshtasks: Command) -> None:
        result = meshtasks("gateway")

        assert result.exit_code == 78
        assert "MESH_API_TOKENS: expected at least one token" in result.stderr
        assert "token_urlsafe" in result.stderr

    def test_it_does_not_start_where_another_listens(
        self, meshtasks: Command, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MESH_API_TOKENS", f"n8n:publish:{token_of('n8n')}")

        result = meshtasks("gateway", "--port", gateway.port)

        assert result.exit_code == 69
        assert "Is another gateway running?" in result.stderr
