"""The handler of requests to models, with a real Triton and a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.settings import load_settings
from meshtasks.errors import PublishUnconfirmed
from meshtasks.flows.inference.handler import run_models
from meshtasks.flows.sinks import PUBLISHER, Sinks
from meshtasks.outcome import DONE, Dead, Retry
from tests.support.amqp import drain
from tests.support.inference import RESULTS, batch_of, request
from tests.support.meshes import reconfigured
from tests.support.triton import (
    BE_BUSY,
    BE_SLOW,
    DIE,
    DOUBLE,
    GIVE_NAN,
    RAISE,
    REFUSE,
    SKIP_A_ROW,
    Server,
    load,
    rows,
    rows_and_executions,
    unload,
)

OpenSinks = Callable[..., Sinks]


@pytest.fixture
def open_sinks(
    mesh_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[OpenSinks]:
    """Sinks of a mesh whose topology is declared."""
    with ExitStack() as opened:

        def open_sinks(env: dict[str, str] = mesh_env, **changes: str) -> Sinks:
            for name, value in (env | changes).items():
                monkeypatch.setenv(name, value)
            sinks = Sinks(load_settings())
            opened.callback(sinks.close)
            return sinks

        yield open_sinks


@pytest.fixture
def sinks(open_sinks: OpenSinks, triton: Server) -> Sinks:
    return open_sinks(MESH_TRITON_URL=triton.url)


@pytest.fixture
def results(mesh_url: str) -> Callable[[], dict[str, dict[str, Any]]]:
    """Takes the published results, by request id."""

    def results() -> dict[str, dict[str, Any]]:
        taken = [json.loads(each.body) for each in drain(mesh_url, RESULTS)]
        return {each["request_id"]: each for each in taken}

    return results


Results = Callable[[], dict[str, dict[str, Any]]]


def numbers(result: dict[str, Any]) -> list[Any]:
    (output,) = result["outputs"]
    data: list[Any] = output["data"]
    return data


# --- answers


def test_a_request_is_answered(sinks: Sinks, mesh_url: str) -> None:
    asked = request("r1", 1.5, timestamp="2026-11-23T13:00:00.25Z", sensor_id="attic")

    assert run_models(batch_of(asked), sinks) == [DONE]

    (answer,) = drain(mesh_url, RESULTS)
    result = json.loads(answer.body)
    assert result.pop("latency_ms") > 0
    assert result == {
        "request_id": "r1",
        "model": "obedient",
        "version": "1",
        "outputs": [{"name": "y", "shape": [1, 1], "datatype": "FP32", "data": [3.0]}],
        "timestamp": "2026-11-23T13:00:00.250Z",
        "sensor_id": "attic",
    }
    assert (answer.exchange, answer.routing_key) == ("ai", "ai.result.obedient")


def test_the_shipped_model_tells_a_jump_of_temperature(
    sinks: Sinks, results: Results
) -> None:
    def window(*last: float) -> dict[str, Any]:
        data = [*(20 + number / 10 for number in range(24 - len(last))), *last]
        return {"name": "window", "shape": [1, 24], "datatype": "FP32", "data": data}

    asked = [
        request("usual", model="temperature-anomaly", inputs=[window()]),
        request("jump", model="temperature-anomaly", inputs=[window(9.0)]),
        request("frozen", model="temperature-anomaly", inputs=[window(-300.0)]),
    ]
    run_models(batch_of(*asked, routing_key="ai.model.temperature-anomaly"), sinks)

    answers = results()
    scores = {
        name: answers[name]["outputs"][0]["data"][0] for name in ("usual", "jump")
    }
    assert scores["usual"] < 0.1
    assert scores["jump"] > 0.8
    assert answers["usual"]["outputs"][1]["data"][0] == pytest.approx(22.3, abs=0.01)
    assert "expected temperatures from -273.15" in answers["frozen"]["error"]


def test_requests_are_stacked_and_each_gets_its_own_rows(
    sinks: Sinks, triton: Server, results: Results
) -> None:
    inputs = [rows((10, DOUBLE), (11, DOUBLE), (12, DOUBLE))]
    asked = [request(f"r{n}", n) for n in range(20)] + [request("three", inputs=inputs)]
    run_models(batch_of(request("r0")), sinks)  # whatever ran before is over
    rows_before, executions_before = rows_and_executions(triton, "obedient")

    assert run_models(batch_of(*asked), sinks) == [DONE] * 21

    rows_after, executions_after = rows_and_executions(triton, "obedient")
    assert rows_after - rows_before == 23
    assert executions_after - executions_before == 3
    answers = results()
    assert numbers(answers.pop("three")) == [20.0, 22.0, 24.0]
    assert {name: numbers(answer) for name, answer in answers.items()} == {
        f"r{n}": [2.0 * n] for n in range(20)
    }


def test_a_model_that_takes_no_batches_gets_requests_one_by_one(
    sinks: Sinks, triton: Server, results: Results
) -> None:
    def text(word: str) -> dict[str, Any]:
        return {"name": "BYTES", "shape": [1, 1], "datatype": "BYTES", "data": [[word]]}

    asked = [request(word, model="echo", inputs=[text(word)]) for word in ("a", "ö")]
    _, executions_before = rows_and_executions(triton, "echo")

    assert run_models(batch_of(*asked), sinks) == [DONE, DONE]

    _, executions_after = rows_and_executions(triton, "echo")
    assert executions_after - executions_before == 2
    assert {name: numbers(answer) for name, answer in results().items()} == {
        "a": ["a"],
        "ö": ["ö"],
    }


def test_a_rerun_gives_results_of_the_same_message_ids(
    sinks: Sinks, mesh_url: str
) -> None:
    nameless = request("x", 3)
    del nameless["request_id"]
    bad = request("bad", inputs=[])
    batch = batch_of(request("r1", 1), [nameless, request("r2", 2)], bad)

    def message_ids() -> list[str]:
        run_models(batch, sinks)
        return [each.properties["message_id"] for each in drain(mesh_url, RESULTS)]

    first = message_ids()
    assert len(set(first)) == 4
    assert {"obedient/r1/result", "obedient/bad/error"} < set(first)
    assert message_ids() == first


# --- requests that cannot be answered


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "obediant"}, "no model obediant; there are: echo, obedient"),
        ({"version": 2}, "obedient has no version 2; it has 1"),
        (
            {"inputs": [rows((1, 0), name="z")]},
            r"no input z; expected x (FP32 [-1, 2])",
        ),
        (
            {"inputs": [{**rows((1, 0)), "datatype": "FP64"}]},
            "x: expected the datatype FP32, got FP64",
        ),
        (
            {"inputs": [{**rows((1, 0)), "shape": [2]}]},
            "x: expected the shape [-1, 2], got [2]",
        ),
        ({"inputs": []}, "inputs: list should have at least 1 item"),
        ({"timestamp": "yesterday"}, "timestamp"),
    ],
)
def test_a_request_that_does_not_fit_is_dead_and_its_result_has_the_reason(
    sinks: Sinks, results: Results, changes: dict[str, Any], reason: str
) -> None:
    outcomes = run_models(
        batch_of(request("good"), request("bad", **changes, camera="porch")), sinks
    )

    good, bad = outcomes
    assert good is DONE
    assert isinstance(bad, Dead)
    assert reason in bad.reason
    answers = results()
    assert "outputs" in answers["good"]
    assert answers["bad"]["error"] == bad.reason
    assert answers["bad"]["camera"] == "porch"


def test_without_a_model_the_result_goes_by_the_routing_key(
    sinks: Sinks, mesh_url: str
) -> None:
    (outcome,) = run_models(batch_of({"request_id": "r1", "inputs": []}), sinks)

    (answer,) = drain(mesh_url, RESULTS)
    assert isinstance(outcome, Dead)
    assert answer.routing_key == "ai.result.obedient"
    assert json.loads(answer.body)["error"].startswith("model: this field is missing")


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (REFUSE, "told to refuse"),
        (RAISE, "told to"),
        (GIVE_NAN, "output y holds NaN or Infinity"),
    ],
)
def test_a_request_that_fails_does_not_fail_its_neighbours_in_the_stack(
    sinks: Sinks, results: Results, order: int, reason: str
) -> None:
    asked = [request(f"r{n}", n, DOUBLE) for n in range(7)]
    asked[5] = request("r5", 5, order)

    outcomes = run_models(batch_of(*asked), sinks)

    dead = outcomes.pop(5)
    assert isinstance(dead, Dead)
    assert reason in dead.reason
    assert outcomes == [DONE] * 6
    answers = results()
    assert answers.pop("r5")["error"] == dead.reason
    assert {name: numbers(answer) for name, answer in answers.items()} == {
        f"r{n}": [2.0 * n] for n in range(7) if n != 5
    }


def test_a_model_that_skips_rows_gets_requests_one_by_one(
    sinks: Sinks, results: Results
) -> None:
    asked = [request(f"r{n}", n, SKIP_A_ROW) for n in range(3)]

    assert run_models(batch_of(*asked), sinks) == [DONE] * 3
    assert {name: numbers(answer) for name, answer in results().items()} == {
        f"r{n}": [2.0 * n] for n in range(3)
    }


def test_a_result_that_its_queue_does_not_take_is_an_error(
    open_sinks: OpenSinks,
    mesh_env: dict[str, str],
    triton: Server,
    tmp_path: Path,
    results: Results,
) -> None:
    queues = {"queues": {RESULTS: {"max_message_bytes": 250}}}
    env = reconfigured(mesh_env, tmp_path / "config", queues=queues)
    sinks = open_sinks(env, MESH_TRITON_URL=triton.url)
    many = [rows(*((n, DOUBLE) for n in range(8)))]

    outcomes = run_models(
        batch_of(request("large", inputs=many, note="n" * 150), request("small")), sinks
    )

    answers = results()
    assert isinstance(outcomes[0], Dead)
    assert "the queue of results takes 250" in answers["large"]["error"]
    assert "note" not in answers["large"]
    assert outcomes[1] is DONE


# --- requests that have to wait


def test_while_the_server_is_unavailable_good_requests_wait_and_bad_ones_are_dead(
    open_sinks: OpenSinks, new_triton: Server, results: Results
) -> None:
    sinks = open_sinks(MESH_TRITON_URL=new_triton.url)
    new_triton.kill()

    good, bad, other = run_models(
        batch_of(request("good"), request("bad", inputs=[]), request(model="echo")),
        sinks,
    )

    assert isinstance(good, Retry)
    assert (good.sink, good.tried) == ("triton", True)
    assert isinstance(bad, Dead)
    assert isinstance(other, Retry)
    assert not other.tried
    assert list(results()) == ["bad"]


@pytest.mark.parametrize("order", [BE_BUSY, BE_SLOW])
def test_the_stack_that_met_a_busy_server_counts_as_tried_and_no_other(
    open_sinks: OpenSinks,
    mesh_env: dict[str, str],
    triton: Server,
    tmp_path: Path,
    results: Results,
    order: int,
) -> None:
    models = {"answer_timeout_seconds": 0.3}
    env = reconfigured(mesh_env, tmp_path / "config", models=models)
    sinks = open_sinks(env, MESH_TRITON_URL=triton.url)
    asked = [request(f"r{n}", n) for n in range(24)]
    asked[12] = request("r12", 12, order)

    outcomes = run_models(batch_of(*asked), sinks)

    assert outcomes[:8] == [DONE] * 8
    retries = [each for each in outcomes[8:] if isinstance(each, Retry)]
    assert [each.tried for each in retries] == [True] * 8 + [False] * 8
    assert {each.sink for each in retries} == {"triton"}
    assert len(results()) == 8


def test_a_request_that_was_tried_goes_alone(sinks: Sinks, triton: Server) -> None:
    batch = batch_of(*(request(f"r{n}") for n in range(6)))
    batch.envelopes[2].headers[headers.ATTEMPT] = 1
    batch.envelopes[4].headers[headers.ATTEMPT] = 0  # set aside in an outage
    run_models(batch_of(request("first")), sinks)  # whatever ran before is over
    _, executions_before = rows_and_executions(triton, "obedient")

    assert run_models(batch, sinks) == [DONE] * 6

    _, executions_after = rows_and_executions(triton, "obedient")
    assert executions_after - executions_before == 2


def test_requests_to_a_model_that_is_not_loaded_wait_and_others_are_answered(
    open_sinks: OpenSinks, new_triton: Server, results: Results
) -> None:
    sinks = open_sinks(MESH_TRITON_URL=new_triton.url)
    empty = {"name": "FP32", "shape": [0], "datatype": "FP32", "data": []}
    unload(new_triton, "obedient")

    waiting, answered = run_models(
        batch_of(request("r1"), request("r2", model="echo", inputs=[empty])), sinks
    )

    assert isinstance(waiting, Retry)
    assert (waiting.sink, waiting.retry_after_seconds) == (None, 30)
    assert answered is DONE
    assert list(results()) == ["r2"]


def test_the_description_of_a_model_is_read_again_when_inputs_do_not_fit(
    open_sinks: OpenSinks, new_triton: Server, tmp_path: Path, results: Results
) -> None:
    sinks = open_sinks(MESH_TRITON_URL=new_triton.url)
    source = Path(__file__).parents[1] / "support" / "models" / "obedient"
    model = tmp_path / "models" / "changing"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text((source / "1" / "model.py").read_text())
    config = (source / "config.pbtxt").read_text().replace('"obedient"', '"changing"')
    asked = batch_of(request("r1", model="changing"))

    (model / "config.pbtxt").write_text(config.replace("[ 2 ]", "[ 3 ]"))
    load(new_triton, "changing")
    (before,) = run_models(asked, sinks)
    (model / "config.pbtxt").write_text(config)
    load(new_triton, "changing")
    (after,) = run_models(asked, sinks)

    assert isinstance(before, Dead)
    assert after is DONE


def test_a_crashed_model_is_an_alert_until_it_answers_again(
    open_sinks: OpenSinks, new_triton: Server, mesh_url: str
) -> None:
    sinks = open_sinks(MESH_TRITON_URL=new_triton.url)

    outcomes = run_models(batch_of(request("r1", 1, DIE), request("r2", 2)), sinks)
    again = run_models(batch_of(request("r2", 2)), sinks)
    unload(new_triton, "obedient")
    load(new_triton, "obedient")
    mended = run_models(batch_of(request("r2", 2)), sinks)

    for outcome in [*outcomes, *again]:
        assert isinstance(outcome, Retry)
        assert (outcome.error_type, outcome.sink) == ("ModelCrashed", None)
        assert outcome.tried
    assert mended == [DONE]
    alerts = [json.loads(each.body) for each in drain(mesh_url, "alerts.critical")]
    assert [(each["title"], each["resolved"]) for each in alerts] == [
        ("Model obedient has crashed", False),
        ("Model obedient has crashed", True),
    ]
    assert alerts[0]["fingerprint"] == alerts[1]["fingerprint"]
    assert alerts[0]["severity"] == "critical"


class FailingPublisher(Publisher):
    """Publishes, and then loses the confirm."""

    @override
    def publish(self, messages: Sequence[Outgoing]) -> None:
        super().publish(messages)
        raise PublishUnconfirmed


def test_answers_whose_confirm_is_lost_are_given_again(
    sinks: Sinks, mesh_url: str
) -> None:
    sinks[PUBLISHER] = FailingPublisher(mesh_url)

    outcomes = run_models(batch_of(request("good"), request("bad", inputs=[])), sinks)

    assert [each.error_type for each in outcomes if isinstance(each, Retry)] == [
        "PublishUnconfirmed",
        "PublishUnconfirmed",
    ]
