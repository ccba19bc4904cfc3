"""A model that gives back what it is given."""

# ruff: noqa: INP001 - the directory of a model is no package

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's Python backend asks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with its own inputs."""
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(f"{tensor.name()}_out", tensor.as_numpy())
                    for tensor in request.inputs()
                ]
            )
            for request in requests
        ]
