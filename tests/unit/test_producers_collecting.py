"""What the collectors have in common: one thing that fails takes no other along."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from meshtasks.errors import MeshError
from meshtasks.producers.collecting import (
    Guard,
    Measured,
    collect_each,
    metric,
    publishing,
)


class Script:
    """A collector that finds what it is told to, round by round."""

    def __init__(self, *rounds: list[Any]) -> None:
        self._rounds = iter(rounds)

    def collect(self) -> Iterator[Measured]:
        for each in next(self._rounds):
            if isinstance(each, Exception):
                raise each
            yield Measured(f"metrics.system.x.{each}", metric(each, {"n": 1}, {}, 1.0))


def test_a_round_that_fails_is_logged_once_and_the_next_ones_are_collected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken: list[str] = []
    torn = ["a", AttributeError("'NoneType' object has no attribute 'x'"), "b"]

    collect_each(
        Script(torn, torn, ["a", "b"]).collect,
        [None] * 3,
        lambda each: taken.append(each.record["name"]),
    )

    assert taken == ["a", "a", "a", "b"]
    assert len([each for each in caplog.messages if "AttributeError" in each]) == 1


def test_a_metric_that_cannot_be_published_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken: list[str] = []

    class Refusing:
        """Stands for the producer: it refuses b."""

        def submit(self, _exchange: str, key: str, _record: Any, **_: Any) -> None:
            if key.endswith(".b"):
                message = "routing key is longer than 255 bytes"
                raise ValueError(message)
            taken.append(key)

    producer: Any = Refusing()
    names = ["a", "b", "c"]

    collect_each(Script(names, names).collect, [None] * 2, publishing(producer))

    assert taken == ["metrics.system.x.a", "metrics.system.x.c"] * 2
    assert len(caplog.messages) == 1


def test_a_failure_is_logged_again_when_it_changes_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard()
    script: list[Exception | int] = [
        MeshError("answered 500"),
        MeshError("answered 500"),
        MeshError("answered 503"),
        RecursionError("maximum recursion depth exceeded"),
        7,
        7,
    ]

    def look() -> int:
        outcome = script.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with caplog.at_level(logging.INFO):
        found = [guard.attempt("it", look) for _ in range(6)]

    assert found == [None, None, None, None, 7, 7]
    assert caplog.messages == [
        "it: answered 500",
        "it: answered 503",
        "it: failed: RecursionError: maximum recursion depth exceeded",
        "it has recovered",
    ]


def test_ctrl_c_is_no_fault_of_what_was_looked_at() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard().attempt("it", interrupted)


def test_a_field_without_a_finite_number_is_left_out() -> None:
    odd: dict[str, Any] = {
        "nan": float("nan"),
        "inf": float("-inf"),
        "long": 10**400,
        "text": "1",
        "none": None,
        "good": 0,
        "yes": True,
    }

    assert metric("m", odd, {}, 1.0)["fields"] == {"good": 0, "yes": True}
