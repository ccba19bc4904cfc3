"""What is no pattern of routing keys is explained in a sentence."""

from __future__ import annotations

import pytest

from meshtasks.amqp.peek import pattern_fault


@pytest.mark.parametrize("pattern", ["#", "*", "sensors.#", "*.*.x", "a..b", "a/b.c"])
def test_a_pattern_is_taken(pattern: str) -> None:
    assert pattern_fault(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "# is every routing key"),
        (" sensors.#", "without blanks"),
        ("sensors.temp*", "temp* is no wildcard"),
        ("sensors.##", "## is no wildcard"),
        ("sensors/+/attic", "routing keys have dots: sensors.*.attic"),
        ("/sensors/#", "routing keys have dots: sensors.#"),
        ("x" * 256, "at most 255 bytes, not 256"),
        ("\N{SNOWMAN}" * 86, "at most 255 bytes, not 258"),
        ("\ud800", "expected a pattern"),
    ],
)
def test_what_matches_nothing_is_explained(pattern: str, reason: str) -> None:
    assert reason in (pattern_fault(pattern) or "")
