"""How long sinks take to answer."""

from __future__ import annotations

from typing import Any

import pytest

from meshtasks.amqp.content import Origin
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Outcome
from meshtasks.timing import listening, timing
from meshtasks.worker.runner import BatchRunner


@timing("store")
def write(number: int) -> int:
    """A sink's method, which is down for negative numbers."""
    if number < 0:
        raise SinkUnavailable("store")
    return number


def test_each_call_is_noted_with_its_duration() -> None:
    with listening() as calls:
        assert [write(1), write(2)] == [1, 2]

    assert [(call.sink, call.failed) for call in calls] == [("store", False)] * 2
    assert all(call.seconds >= 0 for call in calls)


def test_a_call_that_raises_is_noted_as_failed() -> None:
    with listening() as calls, pytest.raises(SinkUnavailable):
        write(-1)

    assert [call.failed for call in calls] == [True]


def test_nothing_is_noted_when_nobody_listens() -> None:
    with listening() as calls:
        pass
    write(1)

    assert calls == []


def test_the_calls_of_a_batch_come_back_with_its_result() -> None:
    def handle(batch: Batch[Any], _sinks: Sinks) -> list[Outcome]:
        write(len(batch.records))
        return [DONE] * len(batch.records)

    handler = Handler("q", handle, dict[str, Any], (), bare_value=False)
    run = BatchRunner(handler, Settings(Environment()))

    result = run([(b"{}", "x", "x", Origin(None, None, {}), 0.0)])

    assert [call.sink for call in result.sink_calls] == ["store"]
    assert result.seconds >= result.sink_calls[0].seconds
