"""The Triton sink: what a model takes, what it answers, and what a fault means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tritonclient.http import InferenceServerClient

from meshtasks.demo import loopback
from meshtasks.errors import SinkRejected, SinkUnavailable, Transient
from meshtasks.flows.inference.tensors import (
    Inference,
    InputSpec,
    ModelCrashed,
    ModelNotReady,
    NoSuchModel,
    json_tensor,
    model_input,
)
from meshtasks.flows.inference.triton import Triton
from tests.support.proxy import Proxy
from tests.support.receiver import Answer, Receiver
from tests.support.recording import differences
from tests.support.triton import (
    BE_BUSY,
    BE_SLOW,
    DIE,
    DOUBLE,
    RAISE,
    REFUSE,
    Server,
    load,
    rows,
    stable,
    unload,
    write_broken_model,
    write_gated_model,
)

TRITON = "meshtasks.flows.inference.triton"

Connect = Callable[..., Triton]


@pytest.fixture(params=["played_triton", "real_triton"])
def triton(request: pytest.FixtureRequest) -> Server:
    """Every server there is to test with."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(params=["new_played_triton", "new_real_triton"])
def new_triton(request: pytest.FixtureRequest) -> Server:
    """The same, of the test's own."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens sinks, and closes them after the test."""
    with ExitStack() as opened:

        def connect(url: str, **options: float) -> Triton:
            sink = Triton(url, **options)
            opened.callback(sink.close)
            return sink

        yield connect


def ask(sink: Triton, model: str, *inputs: Any) -> Inference:
    spec = sink.model(model, "")
    return sink.infer(spec, model_input(inputs, spec).tensors)


# --- what a model takes


def test_it_answers_as_recorded(new_triton: Server, models: Path) -> None:
    write_broken_model(models)

    assert list(differences("triton", new_triton.port, stable)) == []


def test_a_model_says_what_it_takes(connect: Connect, triton: Server) -> None:
    spec = connect(triton.url).model("temperature-anomaly", "")

    assert spec.inputs == {"window": InputSpec("window", "FP32", (-1, 24), False)}
    assert spec.max_batch_size == 64


def test_inputs_may_be_optional_and_models_may_take_no_batches(
    connect: Connect, triton: Server
) -> None:
    spec = connect(triton.url).model("echo", "1")

    assert spec.inputs["BYTES"] == InputSpec("BYTES", "BYTES", (-1, -1), True)
    assert spec.max_batch_size == 0


def test_the_description_of_a_model_is_read_again_only_after_a_while(
    connect: Connect, triton: Server
) -> None:
    sink = connect(triton.url)
    first = sink.model("echo", "")

    assert sink.model("echo", "") is first
    assert sink.model("echo", "", max_age_seconds=0.0) is not first


def test_a_model_that_does_not_exist_is_named_with_those_that_do(
    connect: Connect, triton: Server
) -> None:
    expected = "no model ecko; there are: echo, obedient, temperature-anomaly"

    with pytest.raises(NoSuchModel, match=expected):
        connect(triton.url).model("ecko", "")


def test_a_version_that_does_not_exist_is_named_with_those_that_do(
    connect: Connect, triton: Server
) -> None:
    with pytest.raises(NoSuchModel, match="echo has no version 7; it has 1"):
        connect(triton.url).model("echo", "7")


# --- what it answers


def test_a_model_answers(connect: Connect, triton: Server) -> None:
    answer = ask(connect(triton.url), "obedient", rows((1.5, DOUBLE), (-2, DOUBLE)))

    (output,) = answer.outputs
    assert output == ("y", "FP32", (2, 1), [3.0, -4.0])
    assert answer.version == "1"
    assert answer.latency_ms > 0


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("BOOL", [2], [True, False]),
        ("UINT8", [2], [0, 255]),
        ("UINT16", [1], [65_535]),
        ("UINT32", [1], [2**32 - 1]),
        ("UINT64", [2], [0, 2**64 - 1]),
        ("INT8", [2], [-128, 127]),
        ("INT16", [1], [-32_768]),
        ("INT32", [1], [-(2**31)]),
        ("INT64", [2], [-(2**63), 2**63 - 1]),
        ("FP16", [2], [0.5, -65_504.0]),
        ("FP32", [2], [0.25, 3.4028234663852886e38]),
        ("FP64", [2], [0.1, -1.7976931348623157e308]),
        ("BYTES", [2, 2], ["Küche", "", "a\u0000b", "🌡"]),
        ("BYTES", [0, 3], []),
    ],
)
def test_values_of_every_datatype_come_through(
    connect: Connect, triton: Server, datatype: str, shape: list[int], data: list[Any]
) -> None:
    given = {"name": datatype, "shape": shape, "datatype": datatype, "data": data}

    (output,) = ask(connect(triton.url), "echo", given).outputs

    assert json_tensor(output) == {**given, "name": f"{datatype}_out"}


# --- faults of a request


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (REFUSE, "obedient refused: told to refuse"),
        (RAISE, "obedient failed: .*RuntimeError: told to"),
    ],
)
def test_a_request_that_a_model_cannot_answer_is_rejected(
    connect: Connect, triton: Server, order: int, reason: str
) -> None:
    with pytest.raises(SinkRejected, match=reason):
        ask(connect(triton.url), "obedient", rows((1, order)))


def test_a_request_that_is_too_large_for_a_proxy_is_rejected(
    connect: Connect, triton: Server, receiver: Receiver
) -> None:
    receiver.always = Answer(413, b"<h1>Request Entity Too Large</h1>")
    spec = connect(triton.url).model("obedient", "")

    with pytest.raises(SinkRejected):
        connect(receiver.url).infer(spec, model_input([rows((1, 0))], spec).tensors)


# --- faults of a model


def test_a_model_that_was_unloaded_is_not_ready_until_it_is_loaded(
    connect: Connect, new_triton: Server
) -> None:
    sink = connect(new_triton.url)
    ask(sink, "obedient", rows((1, DOUBLE)))
    unload(new_triton, "obedient")

    with pytest.raises(ModelNotReady, match="obedient is UN") as caught:
        ask(sink, "obedient", rows((1, DOUBLE)))
    with pytest.raises(ModelNotReady):
        sink.model("obedient", "")
    assert caught.value.retry_after_seconds == 30
    sink.probe()  # the server itself is well

    load(new_triton, "obedient")
    assert ask(sink, "obedient", rows((1, DOUBLE))).outputs


def test_a_model_that_is_being_loaded_is_retried_later(
    connect: Connect, new_triton: Server, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    write_gated_model(tmp_path / "models", "slow", gate)
    loading = threading.Thread(target=load, args=(new_triton, "slow"))
    loading.start()

    try:
        # Triton says that it is not ready, or nothing at all until it is.
        with pytest.raises(Transient):
            connect(new_triton.url, answer_timeout_seconds=3.0).model("slow", "")
    finally:
        gate.touch()
        loading.join()

    assert connect(new_triton.url).model("slow", "").max_batch_size == 8


def test_a_model_that_could_not_be_loaded_is_not_ready_and_says_why(
    connect: Connect, new_triton: Server, tmp_path: Path
) -> None:
    write_broken_model(tmp_path / "models")
    with pytest.raises(loopback.HTTPFailed):
        load(new_triton, "broken")

    with pytest.raises(ModelNotReady, match=r"broken is .*OSError: 5.*UNAVAILABLE"):
        connect(new_triton.url).model("broken", "")


def test_a_model_whose_process_died_has_crashed_until_it_is_loaded_again(
    connect: Connect, new_triton: Server
) -> None:
    sink = connect(new_triton.url)

    for order in (DIE, DOUBLE):
        with pytest.raises(ModelCrashed, match="not healthy") as caught:
            ask(sink, "obedient", rows((1, order)))
    assert caught.value.retry_after_seconds == 30
    assert ask(sink, "echo", {**rows(), "name": "FP32", "shape": [0]}).outputs

    unload(new_triton, "obedient")
    load(new_triton, "obedient")
    assert ask(sink, "obedient", rows((1, DOUBLE))).outputs


# --- faults of the server


def test_a_server_that_is_down_is_unavailable_until_it_is_back(
    connect: Connect, new_triton: Server
) -> None:
    sink = connect(new_triton.url)
    sink.probe()
    ask(sink, "obedient", rows((1, DOUBLE)))
    new_triton.kill()

    with pytest.raises(SinkUnavailable, match="cannot be reached") as caught:
        ask(sink, "obedient", rows((1, DOUBLE)))
    with pytest.raises(SinkUnavailable):
        sink.probe()
    assert caught.value.sink == "triton"

    new_triton.start()
    sink.probe()
    assert ask(sink, "obedient", rows((1, DOUBLE))).outputs


def test_a_model_that_does_not_answer_in_time_is_unavailable(
    connect: Connect, triton: Server
) -> None:
    sink = connect(triton.url, answer_timeout_seconds=0.3)

    with pytest.raises(SinkUnavailable, match=r"within 0\.3 s when asked for obedient"):
        ask(sink, "obedient", rows((1, BE_SLOW)))


def test_a_late_answer_is_not_taken_for_the_next_one(
    connect: Connect, triton: Server
) -> None:
    sink = connect(triton.url, answer_timeout_seconds=0.3)
    with pytest.raises(SinkUnavailable):
        ask(sink, "obedient", rows((1, BE_SLOW)))

    (output,) = ask(
        sink, "echo", {**rows((7, 7)), "name": "FP32", "shape": [2]}
    ).outputs

    assert output.data == [7.0, 7.0]


def test_a_model_with_a_full_queue_is_unavailable(
    connect: Connect, triton: Server
) -> None:
    with pytest.raises(SinkUnavailable, match="answered 503: told to be busy"):
        ask(connect(triton.url), "obedient", rows((1, BE_BUSY)))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<h1>It works</h1>"),
        (200, b"{}"),
        (302, b""),
        (401, b"{}"),
        (404, b"<h1>Not Found</h1>"),
        (404, b""),
        (429, b'{"error": "slow down"}'),
        (500, b"<h1>Internal Server Error</h1>"),
        (502, b"\xff not UTF-8 \xff"),
        (503, b""),
        (504, b'{"message": "no error"}'),
    ],
)
def test_an_answer_that_is_not_tritons_is_no_fault_of_the_request(
    connect: Connect, receiver: Receiver, status: int, body: bytes
) -> None:
    receiver.script(Answer(200))  # the model is ready
    receiver.always = Answer(status, body)

    with pytest.raises(SinkUnavailable):
        connect(receiver.url).model("obedient", "")


def test_an_idle_connection_that_was_cut_is_replaced(
    connect: Connect, triton: Server
) -> None:
    with Proxy(triton.port) as proxy:
        sink = connect(f"127.0.0.1:{proxy.port}")
        ask(sink, "obedient", rows((1, DOUBLE)))
        proxy.cut()

        assert ask(sink, "obedient", rows((1, DOUBLE))).outputs


def test_after_a_connection_was_cut_in_the_middle_there_is_a_new_one(
    connect: Connect, triton: Server
) -> None:
    with Proxy(triton.port, cut_after_bytes=20_000) as proxy:
        sink = connect(f"http://127.0.0.1:{proxy.port}/")
        numbers = {**rows(*[(0, 0)] * 5_000), "name": "FP32", "shape": [10_000]}
        with pytest.raises(SinkUnavailable, match="cannot be reached"):
            ask(sink, "echo", numbers)

        assert ask(sink, "echo", numbers).outputs


class CountingClient(InferenceServerClient):  # type: ignore[misc]  # it has no types
    """Counts how many were made."""

    made = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        CountingClient.made += 1
        super().__init__(*arguments, **options)


@pytest.mark.parametrize(("idle_seconds", "clients"), [(60.0, 1), (0.0, 3)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(
    connect: Connect,
    triton: Server,
    monkeypatch: pytest.MonkeyPatch,
    idle_seconds: float,
    clients: int,
) -> None:
    monkeypatch.setattr(f"{TRITON}.InferenceServerClient", CountingClient)
    monkeypatch.setattr(f"{TRITON}._IDLE_SECONDS", idle_seconds)
    monkeypatch.setattr(CountingClient, "made", 0)
    sink = connect(triton.url)

    spec = sink.model("obedient", "")
    for _ in range(2):
        sink.infer(spec, model_input([rows((1, DOUBLE))], spec).tensors)

    assert CountingClient.made == clients


@pytest.mark.parametrize("status", [403, 503])
def test_a_model_that_is_missing_for_unknown_reasons_may_come_back(
    connect: Connect, triton: Server, receiver: Receiver, status: int
) -> None:
    spec = connect(triton.url).model("obedient", "")
    unknown = b'{"error": "Request for unknown model: x is not found"}'
    receiver.script(Answer(404, unknown), Answer(status, b'{"error": "no index"}'))

    with pytest.raises(Transient):
        connect(receiver.url).infer(spec, model_input([rows((1, 0))], spec).tensors)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_server_that_is_not_well_is_unavailable_to_the_probe(
    connect: Connect, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status)

    with pytest.raises(SinkUnavailable, match=f"answered {status}"):
        connect(receiver.url).probe()


def test_a_port_that_nobody_listens_on_is_unavailable(connect: Connect) -> None:
    sink = connect(f"http://127.0.0.1:{loopback.free_port()}")

    with pytest.raises(SinkUnavailable, match="cannot be reached"):
        sink.model("obedient", "")
