"""Spans of time, as people write and read them."""

from __future__ import annotations

import pytest

from meshtasks.config.durations import seconds_of, span_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5_400),
        ("7d", 604_800),
        ("1w", 604_800),
        (900, 900),
        (1.5, 1.5),
    ],
)
def test_a_span_is_seconds(text: object, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "5 m", "m5", "-5m", "1.5h", "5y", None, True]
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="such as 30s"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (45.4, "45 s"),
        (60, "1 min"),
        (1_500, "25 min"),
        (3_600, "1 h"),
        (11_100, "3 h 5 min"),
        (86_399, "1 d"),
        (183_600, "2 d 3 h"),
    ],
)
def test_a_span_is_read_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
