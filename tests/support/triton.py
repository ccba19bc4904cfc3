"""What tests do to a real Triton, and ask of it."""

from __future__ import annotations

import json
from pathlib import Path

from meshtasks.demo import loopback
from meshtasks.demo.triton import Triton
from meshtasks.flows.inference.tensors import JsonTensor

ROOT = Path(__file__).parents[2]
#: The models that ship, and those that tests need (``obedient``, ``echo``).
REPOSITORIES = (ROOT / "config" / "triton", Path(__file__).with_name("models"))

#: What ``obedient`` does, by the second number of a row (see its model.py).
DOUBLE, RAISE, REFUSE, BE_BUSY, BE_SLOW, GIVE_NAN, SKIP_A_ROW, DIE = range(8)

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


def load(server: Triton, model: str) -> None:
    """Load a model; returns once it is loaded."""
    _post(server, f"/v2/repository/models/{model}/load")


def unload(server: Triton, model: str) -> None:
    """Unload a model."""
    _post(server, f"/v2/repository/models/{model}/unload")


def rows_and_executions(server: Triton, model: str) -> tuple[int, int]:
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


def _post(server: Triton, path: str) -> None:
    loopback.request("POST", server.port, path, body=b"{}", timeout_seconds=30.0)
