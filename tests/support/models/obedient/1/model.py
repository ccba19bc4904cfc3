"""A model that fails as it is told, by the second number of a row."""

# ruff: noqa: INP001 - the directory of a model is no package

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

DOUBLE, RAISE, REFUSE, BE_BUSY, BE_SLOW, GIVE_NAN, SKIP_A_ROW, DIE = range(8)
SLOW_SECONDS = 1.0


class TritonPythonModel:
    """What Triton's Python backend asks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        orders = set(x[:, 1].astype(int).tolist())
        y = 2 * x[:, :1]
        if DIE in orders:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISE in orders:
            message = "told to"
            raise RuntimeError(message)
        if REFUSE in orders:
            return self._error("told to refuse", pb_utils.TritonError.INVALID_ARG)
        if BE_BUSY in orders:
            return self._error("told to be busy", pb_utils.TritonError.UNAVAILABLE)
        if BE_SLOW in orders:
            time.sleep(SLOW_SECONDS)
        if SKIP_A_ROW in orders:
            y = y[:1]
        y[x[:, 1] == GIVE_NAN] = np.nan
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", y)])

    def _error(self, text: str, code: int) -> Any:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
