"""``python -m meshtasks.producers simulator`` against a real broker; a process, where
somebody ends it or reads its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.connecting import connected
from meshtasks.producers.__main__ import application
from meshtasks.producers.simulator.badmessages import LABEL_HEADER, SPECIMENS, BadKind
from tests.support.amqp import Delivery, drain, queue_depth
from tests.support.command import Result
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
#: All that it publishes to; the other queue of alerts has the same.
QUEUES = (*(kind for kind in SPECIMENS if kind != "alerts"), "alerts.critical")

Simulate = Callable[..., dict[str, Any]]


def started(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "meshtasks.producers", "simulator", *arguments],
        env={**os.environ, "MESH_BROKER_URL": url},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def summary_in(output: str) -> dict[str, Any]:
    """The one line that it prints."""
    (line,) = output.splitlines()
    summary: dict[str, Any] = json.loads(line)
    return summary


def summary_of(process: subprocess.Popen[str], exit_code: int = 0) -> dict[str, Any]:
    """Wait for the end of a process; what it printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == exit_code, errors
    return summary_in(output)


@pytest.fixture
def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs it in this process until it ends; what it printed."""

    def ended(url: str, *arguments: str) -> Result:
        monkeypatch.setenv("MESH_BROKER_URL", url)
        run = application("simulator")
        with pytest.raises(SystemExit) as ended:
            run(["simulator", *arguments], obj=threading.Event())
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return ended


@pytest.fixture
def simulate(ended: Callable[..., Result]) -> Simulate:
    """Runs it like that; its summary."""

    def simulate(url: str, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        result = ended(url, *arguments)
        assert result.exit_code == exit_code, result.stderr
        return summary_in(result.stdout)

    return simulate


def arrived(url: str) -> list[Delivery]:
    return [delivery for queue in QUEUES for delivery in drain(url, queue)]


def records_in(delivery: Delivery) -> int:
    payload = json.loads(delivery.body)
    return len(payload) if isinstance(payload, list) else 1


def test_the_summary_balances_with_what_is_in_the_queues(
    simulate: Simulate, mesh_url: str
) -> None:
    summary = simulate(mesh_url, "--count=800", "--rate=4000", "--bad-share=0.05")

    deliveries = arrived(mesh_url)
    good = [each for each in deliveries if LABEL_HEADER not in each.headers]
    labels = Counter(
        each.headers[LABEL_HEADER] for each in deliveries if each not in good
    )
    assert summary["messages"] == len(deliveries) == 800
    assert summary["bad_messages"] == labels
    assert set(labels) == set(BadKind)
    assert summary["bad_records"] == 40 + labels[BadKind.ARRAY_WITH_BAD_MEMBERS]
    stored_from_bad = 2 * labels[BadKind.ARRAY_WITH_BAD_MEMBERS]
    assert summary["good_records"] == stored_from_bad + sum(map(records_in, good))
    assert summary["records"] == summary["good_records"] + summary["bad_records"]
    assert sum(summary["good_records_by_kind"].values()) == summary["good_records"]
    assert set(summary["good_records_by_kind"]) == set(SPECIMENS)
    assert sum(summary["messages_by_kind"].values()) == 800
    assert summary["unconfirmed_records"] == summary["dropped_records"] == 0


def test_the_same_seed_and_start_publish_the_same_bodies(
    simulate: Simulate, mesh_url: str
) -> None:
    options = ("--count=300", "--rate=3000", "--start=2026-01-15T06:00:00Z", "--seed=7")
    runs = []
    for _ in range(2):
        simulate(mesh_url, *options)
        runs.append([(each.routing_key, each.body) for each in arrived(mesh_url)])

    assert runs[0] == runs[1]
    assert any(b'"2026-01-15T06:00:00.' in body for _, body in runs[0])


def test_sigterm_ends_it_in_order_with_a_summary(mesh_url: str) -> None:
    process = started(mesh_url, "--rate=500")
    wait_until(
        lambda: queue_depth(mesh_url, "sensors.temperature") > 100, 30.0, "readings"
    )
    process.send_signal(signal.SIGTERM)

    summary = summary_of(process)

    assert summary["messages"] == len(arrived(mesh_url))
    assert summary["finished"] is True


def test_it_ends_by_itself_after_so_many_seconds(
    simulate: Simulate, mesh_url: str
) -> None:
    summary = simulate(mesh_url, "--for=1", "--rate=100")

    assert 0 < summary["messages"] <= 100


def test_a_fast_house_has_lived_through_its_day_when_it_ends(
    simulate: Simulate, mesh_url: str
) -> None:
    simulate(mesh_url, "--count=480", "--rate=2000", "--speed=360000", "--bad-share=0")

    stamps = [each.properties["timestamp"] for each in arrived(mesh_url)]
    assert max(stamps) - min(stamps) == pytest.approx(86_400, rel=0.01)


def test_readings_packed_into_arrays_are_counted_one_by_one(
    simulate: Simulate, mesh_url: str
) -> None:
    summary = simulate(
        mesh_url, "--count=2000", "--rate=10000", "--array=100", "--bad-share=0"
    )

    deliveries = arrived(mesh_url)
    assert summary["good_records"] == sum(map(records_in, deliveries)) == 2_000
    assert summary["messages"] == len(deliveries) < 1_000  # fewer, the faster it is


def test_the_stats_file_follows_the_run(mesh_url: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    process = started(mesh_url, "--rate=200", f"--stats-file={path}")

    def stats() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    wait_until(lambda: stats().get("messages", 0) > 100, 30.0, "a growing number")
    assert stats()["finished"] is False
    process.terminate()
    summary = summary_of(process)
    assert stats() == summary | {"elapsed_seconds": stats()["elapsed_seconds"]}


def test_a_stats_file_that_cannot_be_written_is_an_error_at_once(
    ended: Callable[..., Result], mesh_url: str, tmp_path: Path
) -> None:
    result = ended(mesh_url, f"--stats-file={tmp_path}/missing/stats.json")

    assert result.exit_code == os.EX_CANTCREAT
    assert "cannot write --stats-file" in result.stderr


def test_a_source_is_a_module_that_can_be_run(mesh_url: str) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "meshtasks.producers.simulator",
            "--count=3",
            "--rate=1000",
        ],
        env={**os.environ, "MESH_BROKER_URL": mesh_url},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )

    assert json.loads(process.stdout)["messages"] == 3


def test_without_a_broker_it_gives_up_with_69(proxy: Proxy, amqp_url: str) -> None:
    proxy.close_door()
    process = started(proxy.url(amqp_url), "--connect-timeout=0.5")
    _, errors = process.communicate(timeout=300)

    assert process.returncode == os.EX_UNAVAILABLE
    assert "no connection to RabbitMQ within" in errors


def test_without_confirms_at_the_end_it_exits_with_75_and_counts_them(
    mesh_url: str, proxy: Proxy, tmp_path: Path
) -> None:
    path = tmp_path / "stats.json"
    process = started(
        proxy.url(mesh_url), "--drain-timeout=0.5", f"--stats-file={path}"
    )
    wait_until(
        lambda: queue_depth(mesh_url, "sensors.temperature") > 20, 30.0, "readings"
    )
    proxy.close_door()
    wait_until(
        lambda: json.loads(path.read_text())["unconfirmed_records"] > 200,
        30.0,
        "readings to pile up",
    )
    process.terminate()
    summary = summary_of(process, exit_code=os.EX_TEMPFAIL)

    assert summary["unconfirmed_records"] > 200
    assert summary["messages"] <= len(arrived(mesh_url))


def test_messages_that_no_queue_is_bound_for_are_counted_and_give_1(
    simulate: Simulate,
    mesh_url: str,
) -> None:
    with connected(mesh_url) as connection:
        channel = connection.channel()
        for exchange in ("sensors", "unrouted"):
            channel.exchange_delete(exchange)
        channel.exchange_declare("sensors", "topic", durable=True, auto_delete=False)
    options = ("--count=50", "--bad-share=0", "--domain=sensors")
    summary = simulate(mesh_url, *options, exit_code=1)

    assert summary["messages"] == 0
    assert summary["unroutable_records"] >= 50


def test_a_broker_url_that_is_none_is_a_fault_of_the_configuration() -> None:
    process = started("http://127.0.0.1:1/")
    _, errors = process.communicate(timeout=300)

    assert process.returncode == os.EX_CONFIG
    assert "MESH_BROKER_URL" in errors


@pytest.mark.parametrize(
    "argument", ["--overheat=dungeon", "--start=yesterday", "--start=2026-01-15T06:00"]
)
def test_an_option_that_makes_no_sense_is_refused(
    ended: Callable[..., Result], argument: str
) -> None:
    result = ended("amqp://127.0.0.1:1/", argument)

    assert result.exit_code == 2
    assert argument.partition("=")[0] in result.stderr
