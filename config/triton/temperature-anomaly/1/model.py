"""How unusual the last temperature of a window is.

A straight line is fitted to the readings before the last one and drawn on to it.
The distance between the two is measured against how far the other readings lie
from the line (1.4826 times the median of their distances, which for normally
distributed noise is the standard deviation and, unlike that, does not mind a single
bad reading), but at least against what every sensor wavers by.
"""

# ruff: noqa: INP001 - the directory of a model is no package

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

#: What a cheap sensor wavers by, °C.
LEAST_NOISE_CELSIUS = 0.2
#: At this many times the noise the score is one half.
HALF_SCORE = 6.0
#: Median distance to standard deviation, for normally distributed noise.
MAD_TO_DEVIATION = 1.4826

ABSOLUTE_ZERO_CELSIUS = -273.15
#: Hotter than any thermometer of a house reads.
HOTTEST_CELSIUS = 2_000.0


def evaluate(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score windows.

    Args:
        windows: °C, shape (windows, readings), the latest reading last.

    Returns:
        Scores from 0 (as expected) to 1 (never), and the expected last
        temperatures, °C; both of shape (windows, 1).
    """
    past, last = windows[:, :-1], windows[:, -1:]
    readings = past.shape[1]
    place = np.arange(readings) - (readings - 1) / 2
    slope = (past @ place / (place @ place))[:, np.newaxis]
    line = past.mean(axis=1, keepdims=True) + slope * place
    expected = line[:, -1:] + slope
    distance = np.median(np.abs(past - line), axis=1, keepdims=True)
    noise = np.maximum(MAD_TO_DEVIATION * distance, LEAST_NOISE_CELSIUS)
    deviation = np.abs(last - expected) / noise
    return deviation / (deviation + HALF_SCORE), expected


class TritonPythonModel:
    """What Triton's Python backend asks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, which may hold several windows."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        window = pb_utils.get_input_tensor_by_name(request, "window")
        windows = window.as_numpy().astype(np.float64)
        if windows.min() < ABSOLUTE_ZERO_CELSIUS or windows.max() > HOTTEST_CELSIUS:
            message = (
                f"window: expected temperatures from {ABSOLUTE_ZERO_CELSIUS} to "
                f"{HOTTEST_CELSIUS:g} °C, got {windows.min():g} to {windows.max():g}"
            )
            error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        score, expected = evaluate(windows)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("score", score.astype(np.float32)),
                pb_utils.Tensor("expected", expected.astype(np.float32)),
            ]
        )
