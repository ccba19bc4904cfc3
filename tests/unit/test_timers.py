"""What handlers have to do by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, SinkUnavailable
from meshtasks.flows.contract import Timer
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.webhooks.handler import WEBHOOK_LOG
from meshtasks.flows.webhooks.log import WebhookLog
from meshtasks.worker import timers as module
from meshtasks.worker.timers import Timers
from tests.support.waiting import wait_until


def nothing(_: object) -> None:
    """Takes any settings."""


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Timers]:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    timers = Timers(Settings(Environment()), on_calls=nothing, forks=True)
    yield timers
    timers.stop(within_seconds=10)


def test_a_timer_runs_again_and_again(timers: Timers) -> None:
    runs: list[tuple[WebhookLog, set[str]]] = []

    def run(sinks: Sinks) -> None:
        opened = set(sinks.opened)
        runs.append((sinks[WEBHOOK_LOG], opened))

    timers.add(Timer(run, nothing))

    wait_until(lambda: len(runs) > 3, 10, "four runs")
    assert len({id(sink) for sink, _ in runs[:4]}) > 1  # opened anew each time
    assert all(opened == set() for _, opened in runs)


def test_what_it_opened_stays_open_where_no_process_is_forked(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "_forks", False)
    logs: list[WebhookLog] = []
    timers.add(Timer(lambda sinks: logs.append(sinks[WEBHOOK_LOG]), nothing))

    wait_until(lambda: len(logs) > 2, 10, "three runs")
    assert logs[0] is logs[1] is logs[2]


def test_it_runs_less_often_while_its_sink_is_in_trouble(timers: Timers) -> None:
    runs: list[Sinks] = []
    others: list[Sinks] = []

    def fail(sinks: Sinks) -> None:
        runs.append(sinks)
        raise SinkUnavailable("alert_state", "disk full")

    timers.add(Timer(fail, nothing))
    timers.add(Timer(others.append, nothing))

    wait_until(lambda: len(others) > 20, 10, "other runs")
    assert len(runs) < 3


def test_handlers_that_share_a_timer_have_it_run_once(timers: Timers) -> None:
    timer = Timer(nothing, nothing)
    timers.add(timer)
    timers.add(timer)
    timers.add(None)

    assert timers._timers == (timer,)  # noqa: SLF001 - the runs alone do not show it


def test_it_runs_at_once_when_a_batch_is_done(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 3_600.0)
    runs: list[Sinks] = []
    timer = Timer(runs.append, nothing)
    timers.add(timer)
    wait_until(lambda: len(runs) == 1, 10, "the first run")

    timers.wake()
    wait_until(lambda: len(runs) == 2, 10, "the second run")


def fault(error: Exception) -> Callable[[object], None]:
    def fail(_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [SinkUnavailable("alert_state", "disk full"), RuntimeError("disk full")]
)
def test_a_failing_run_is_reported_once_and_ends_nothing(
    timers: Timers, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [True]
    runs: list[object] = []

    def run(sinks: Sinks) -> None:
        runs.append(sinks)
        if failing[0]:
            fault(error)(sinks)

    timers.add(Timer(run, nothing))
    wait_until(lambda: len(runs) > 1, 10, "two failing runs")
    failing[0] = False
    wait_until(lambda: "run again" in caplog.messages[-1], 10, "a run that succeeds")

    said = [each for each in caplog.messages if each.startswith("A timer failed")]
    assert said == [
        f"A timer failed and is run again: {type(error).__name__}: disk full"
    ]


def test_settings_that_do_not_suit_are_refused_before_it_runs(timers: Timers) -> None:
    runs: list[Sinks] = []
    unsuited = Timer(runs.append, fault(ConfigError("environment", "MESH_X", "a URL")))

    with pytest.raises(ConfigError):
        timers.add(unsuited)
    assert runs == []
