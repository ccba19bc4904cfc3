"""A model that does nothing: a zero for each row."""

# ruff: noqa: INP001 - the directory of a model is no package

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's Python backend asks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        window = pb_utils.get_input_tensor_by_name(request, "window")
        rows = window.shape()[0]
        score = pb_utils.Tensor("score", np.zeros((rows, 1), np.float32))
        return pb_utils.InferenceResponse([score])
