"""Triton, the real one and the one that is played; what tests do to it, and ask."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import triton_to_np_dtype

from meshtasks.demo import loopback
from meshtasks.flows.inference.tensors import JsonTensor
from tests.support.recording import Exchange, decoded

ROOT = Path(__file__).parents[2]
#: The models that ship, and those that tests need (``obedient``, ``echo``).
REPOSITORIES = (ROOT / "config" / "triton", Path(__file__).with_name("models"))

_SHIPPED = "temperature-anomaly"
#: What ``obedient`` does, by the second number of a row (see its model.py).
DOUBLE, RAISE, REFUSE, BE_BUSY, BE_SLOW, GIVE_NAN, SKIP_A_ROW, DIE = range(8)


class Server(Protocol):
    """A Triton on loopback."""

    port: int

    @property
    def url(self) -> str:
        """For ``MESH_TRITON_URL``."""

    def start(self) -> None:
        """Start it and wait until it has loaded its models."""

    def kill(self) -> None:
        """End it as a crash would."""


_GATED_MODEL = """\
import pathlib
import time

class TritonPythonModel:
    def initialize(self, args):
        while not pathlib.Path({gate!r}).exists():
            time.sleep(0.02)

    def execute(self, requests):
        return []
"""


def load(server: Server, model: str) -> None:
    """Load a model; returns once it is loaded."""
    _command(server, f"/v2/repository/models/{model}/load")


def unload(server: Server, model: str) -> None:
    """Unload a model."""
    _command(server, f"/v2/repository/models/{model}/unload")


def rows_and_executions(server: Server, model: str) -> tuple[int, int]:
    """How many rows a model has computed, and in how many executions."""
    answer = loopback.request("GET", server.port, f"/v2/models/{model}/stats")
    (statistics,) = json.loads(answer)["model_stats"]
    return statistics["inference_count"], statistics["execution_count"]


def write_gated_model(repository: Path, name: str, gate: Path) -> None:
    """Make a model that is being loaded until the file ``gate`` exists."""
    (repository / name / "1").mkdir(parents=True)
    code = _GATED_MODEL.format(gate=str(gate))
    (repository / name / "1" / "model.py").write_text(code, encoding="utf-8")
    config = REPOSITORIES[1] / "obedient" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace("obedient", name)
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")


def rows(*rows: tuple[float, int], name: str = "x") -> JsonTensor:
    """An input of ``obedient``: rows of a number and what to do."""
    return {
        "name": name,
        "shape": [len(rows), 2],
        "datatype": "FP32",
        "data": [number for row in rows for number in row],
    }


def _command(server: Server, path: str) -> None:
    loopback.request("POST", server.port, path, body=b"{}", timeout_seconds=30.0)


def stable(content: Any, name: str = "") -> Any:
    """An answer without durations, moments and places in files."""
    match content:
        case dict():
            return {key: stable(value, key) for key, value in content.items()}
        case list():
            return [stable(each, name) for each in content]
        case int() if name in {"ns", "last_inference"}:
            return "some int"
        case str() if name in {"error", "reason"}:
            return re.sub(r"\n\nAt:\n.*", "", content, flags=re.DOTALL)
        case _:
            return content


def _infer(*inputs: JsonTensor, model: str = "obedient", **more: Any) -> Exchange:
    body = json.dumps({"inputs": inputs, **more})
    return Exchange("POST", f"/v2/models/{model}/infer", body=body)


def _infer_binary(model: str, *inputs: JsonTensor) -> Exchange:
    """A request as the client makes it."""
    given = []
    for each in inputs:
        values = np.array(each["data"], dtype=triton_to_np_dtype(each["datatype"]))
        tensor = InferInput(each["name"], each["shape"], each["datatype"])
        given.append(tensor.set_data_from_numpy(values.reshape(each["shape"])))
    body, length = InferenceServerClient.generate_request_body(given)
    headers = {"Inference-Header-Content-Length": str(length)}
    return Exchange("POST", f"/v2/models/{model}/infer", headers, decoded(body))


def _get(*paths: str) -> list[Exchange]:
    return [Exchange("GET", f"/v2/{path}") for path in paths]


def _post(path: str) -> Exchange:
    return Exchange("POST", f"/v2/repository/{path}", body="{}")


def _tensor(datatype: str, shape: list[int], data: list[Any]) -> JsonTensor:
    return {"name": datatype, "shape": shape, "datatype": datatype, "data": data}


#: What is asked to make the recording. ``broken`` is a model that cannot be loaded.
REQUESTS = [
    *_get("health/live", "nothing"),
    *_get(*(f"models/{each}/ready" for each in ("echo", "echo/versions/7", "ecko"))),
    *_get("models/ecko", "models/echo/versions/7", "models/obedient/versions/1"),
    *(
        each
        for model in ("echo", "obedient", "temperature-anomaly")
        for each in _get(f"models/{model}", f"models/{model}/config")
    ),
    Exchange("POST", "/v2/repository/index"),
    *(_infer(rows((1.5, order))) for order in range(DIE)),
    _infer(rows((1.5, DOUBLE), (-2, DOUBLE)), id="abc"),
    _infer(rows((1, DOUBLE)), parameters={"binary_data_output": True}),
    _infer_binary("obedient", rows((0.1, DOUBLE), (3, DOUBLE))),
    _infer(rows((1, 0), name="z")),
    _infer({**rows((1, 0)), "shape": [2, 1]}),
    _infer({**rows((1, 0)), "datatype": "INT8"}),
    _infer({**rows((1, 0)), "data": [1, "2"]}),
    _infer(rows(*[(1, 0)] * 9)),
    _infer(rows((1, 0)), model="ecko"),
    _infer(rows((1, 0)), model="echo/versions/7"),
    _infer(_tensor("BYTES", [2, 2], ["a", "", "Küche", "🌡"]), model="echo"),
    _infer_binary("echo", _tensor("BYTES", [2, 2], ["a", "", "Küche", "🌡"])),
    _infer_binary("echo", _tensor("BYTES", [0, 3], [])),
    _infer_binary(
        "echo", _tensor("UINT64", [2], [0, 2**64 - 1]), _tensor("BOOL", [1], [True])
    ),
    _infer(_tensor("FP32", [1, 24], [20.0] * 24) | {"name": "window"}, model=_SHIPPED),
    *(Exchange("POST", "/v2/models/echo/infer", body=body) for body in ("{", "")),
    *_get("models/obedient/stats", "models/stats"),
    _post("models/obedient/unload"),
    *_get("models/obedient/ready", "models/obedient", "models/obedient/stats"),
    _infer(rows((1, 0))),
    *_get("models/stats"),
    _post("models/obedient/load"),
    *_get("models/obedient/ready", "models/obedient/stats"),
    _post("models/broken/load"),
    _post("models/nowhere/load"),
    Exchange("POST", "/v2/repository/index"),
    *(_infer(rows((1, order))) for order in (DIE, DOUBLE)),
    *_get("models/obedient/ready"),
]


def write_broken_model(repository: Path) -> None:
    """Make ``broken``, a model that cannot be loaded."""
    write_gated_model(repository, "broken", repository)
    (repository / "broken" / "1" / "model.py").write_text("raise OSError(5)")
