"""Runs one model file as Triton's Python backend does, in a process of its own.

Usage: ``model_process.py DESCRIPTOR MODEL_FILE``. By the descriptor come lists of
``(name, array)``; back goes ``("outputs", [(name, array), …])``, ``("refused", text,
code)`` or ``("failed", text)``, and first ``("ready",)`` or ``("failed", text)``.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any


@dataclass
class Tensor:
    """As in ``triton_python_backend_utils``."""

    given_name: str
    array: Any

    def name(self) -> str:
        return self.given_name

    def as_numpy(self) -> Any:
        return self.array


@dataclass
class TritonError:
    """As in ``triton_python_backend_utils``."""

    text: str
    code: int = 0

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE = range(5)


@dataclass
class InferenceResponse:
    """As in ``triton_python_backend_utils``."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


@dataclass
class InferenceRequest:
    """As in ``triton_python_backend_utils``."""

    given: list[Tensor]

    def inputs(self) -> list[Tensor]:
        return self.given


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    """As in ``triton_python_backend_utils``."""
    return next((each for each in request.given if each.name() == name), None)


def _loaded(path: str) -> Any:
    utils: Any = ModuleType("triton_python_backend_utils")
    for each in (Tensor, TritonError, InferenceResponse, get_input_tensor_by_name):
        setattr(utils, each.__name__, each)
    sys.modules["triton_python_backend_utils"] = utils
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    if hasattr(model, "initialize"):
        model.initialize({})
    return model


def _failure(error: Exception) -> tuple[str, str]:
    """The error, and where it happened, as the backend words it."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = "".join(f"  {at.filename}({at.lineno}): {at.name}\n" for at in frames)
    return "failed", f"{type(error).__name__}: {error}\n\nAt:\n{places}"


def _answer(model: Any, tensors: list[tuple[str, Any]]) -> tuple[Any, ...]:
    request = InferenceRequest([Tensor(*each) for each in tensors])
    try:
        (response,) = model.execute([request])
    except Exception as error:  # noqa: BLE001 - whatever a model raises is an answer
        return _failure(error)
    if response.error is not None:
        return "refused", response.error.text, response.error.code
    outputs = [(each.name(), each.as_numpy()) for each in response.output_tensors]
    return "outputs", outputs


def main(descriptor: int, path: str) -> None:
    """Load the model, and answer until nobody asks any more."""
    with Connection(descriptor) as asker:
        try:
            model = _loaded(path)
        except Exception as error:  # noqa: BLE001 - as above
            asker.send(_failure(error))
            return
        asker.send(("ready",))
        while True:
            try:
                tensors = asker.recv()
            except EOFError:
                return
            asker.send(_answer(model, tensors))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
