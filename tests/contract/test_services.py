"""What every sink owes the worker when its service is not what it should be: whatever
answers, nothing is lost, and nothing is taken for success."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import urllib3
from pydantic import SecretStr

from meshtasks.errors import MeshError, SinkUnavailable
from meshtasks.flows.alerts import notifier
from meshtasks.flows.alerts.notifier import Notifier
from meshtasks.flows.alerts.rendering import Notification
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.flows.archive import s3
from meshtasks.flows.archive.objects import FileStore
from meshtasks.flows.archive.s3 import S3Store
from meshtasks.flows.inference.tensors import InputSpec, ModelSpec, Tensor
from meshtasks.flows.inference.triton import Triton
from meshtasks.flows.timeseries import TimeSeries
from meshtasks.flows.webhooks import client as webhook
from meshtasks.flows.webhooks.client import WebhookBusy, Webhooks
from meshtasks.flows.webhooks.config import Workflow
from meshtasks.flows.webhooks.log import WebhookLog
from meshtasks.outcome import Retry, outcome_of
from meshtasks.rules.store import RuleStateStore
from meshtasks.state.archive_journal import ArchiveJournal
from meshtasks.state.database import StateLocation
from tests.support.liar import LIES, Liar, Lie, answer

#: Nobody waits longer for an answer here.
PATIENCE_SECONDS = 0.2

DAMP = Notification("attic is damp", "85 %", 4, (), "t", "warning", resolved=False)
MODEL = ModelSpec("m", "", {"x": InputSpec("x", "FP32", (1,), optional=False)}, 0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PROBE_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(notifier, "_READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    timeout = urllib3.Timeout(connect=PATIENCE_SECONDS, read=PATIENCE_SECONDS)
    monkeypatch.setattr(s3, "_TIMEOUT", timeout)
    monkeypatch.setattr("meshtasks.flows.inference.triton.CONNECT_TIMEOUT_SECONDS", 0.2)


# --- the work of each sink that asks a server


def write_points(liar: Liar) -> None:
    sink = TimeSeries(liar.url, "t", "o", "b", answer_timeout_seconds=PATIENCE_SECONDS)
    with closing(sink):
        rejected = sink.write(["m v=1 1", "m v=2 2"])
    assert rejected == {}, rejected


def call_webhook(liar: Liar) -> None:
    hook = {"url": "/webhook/x", "timeout_seconds": PATIENCE_SECONDS}
    fields = {"name": "x", "routing_key": "#", "webhook": hook}
    with closing(Webhooks(liar.url, {})) as sink:
        sink.call(Workflow.model_validate(fields), b"{}", {})


def ask_model(liar: Liar) -> None:
    sink = Triton(liar.url, answer_timeout_seconds=PATIENCE_SECONDS)
    with closing(sink):
        sink.infer(MODEL, [Tensor("x", "FP32", (1,), [1.0])])


def learn_model(liar: Liar) -> None:
    sink = Triton(liar.url, answer_timeout_seconds=PATIENCE_SECONDS)
    with closing(sink):
        sink.model("m", "")


def notify_ntfy(liar: Liar) -> None:
    url = SecretStr(f"ntfy://127.0.0.1:{liar.port}/alerts")
    Notifier({"phone": url}).send("phone", DAMP)


def notify_app(liar: Liar) -> None:
    url = SecretStr(f"hassio://127.0.0.1:{liar.port}/a.b.c/mobile_app_x")
    Notifier({"phone": url}).send("phone", DAMP)


def bucket(liar: Liar) -> S3Store:
    store = S3Store(
        "archive",
        endpoint=f"127.0.0.1:{liar.port}",
        access_key="key",
        secret_key="secret",
        secure=False,
    )
    # Its first question is where the bucket is; what comes after it is tried, too.
    store._client._region_map["archive"] = "us-east-1"  # noqa: SLF001
    return store


def put_object(liar: Liar) -> None:
    with closing(bucket(liar)) as store:
        store.put("events/a.zst", b"data", {})


def stat_object(liar: Liar) -> None:
    with closing(bucket(liar)) as store:
        assert store.stat("events/a.zst") is None


def get_object(liar: Liar) -> None:
    with closing(bucket(liar)) as store:
        store.get("events/a.zst")


def list_objects(liar: Liar) -> None:
    with closing(bucket(liar)) as store:
        list(store.list("events/"))


#: By name of the sink that has to be named; a single webhook's trouble has none.
WORKS: list[tuple[str | None, Callable[[Liar], None]]] = [
    ("timeseries", write_points),
    ("webhook", call_webhook),
    ("triton", ask_model),
    ("triton", learn_model),
    ("notifier", notify_ntfy),
    ("notifier", notify_app),
    ("objects", put_object),
    ("objects", stat_object),
    ("objects", get_object),
    ("objects", list_objects),
]


#: A question for headers alone is answered once these are there.
ANSWERED = {
    (stat_object, "breaking off"),
    (stat_object, "breaking off in a chunk"),
    (stat_object, "dripping a body"),
}


@pytest.mark.parametrize(
    ("name", "work", "lie"),
    [
        pytest.param(name, work, lie, id=f"{work.__name__}-{title}")
        for name, work in WORKS
        for title, lie in LIES.items()
        if (work, title) not in ANSWERED
    ],
)
def test_whatever_answers_in_place_of_a_service_is_transient(
    name: str, work: Callable[[Liar], None], lie: Lie
) -> None:
    with Liar(lie) as liar, pytest.raises(MeshError) as caught:
        work(liar)

    outcome = outcome_of(caught.value)
    assert isinstance(outcome, Retry), outcome
    if isinstance(caught.value, WebhookBusy):
        assert not caught.value.counts
    else:
        assert outcome.sink == name, outcome
    assert (outcome.retry_after_seconds or 0) <= 300


@pytest.mark.parametrize(
    ("name", "work", "lie"),
    [
        ("timeseries", write_points, answer("200 OK")),
        ("timeseries", write_points, answer("202 Accepted", b"{}")),
        ("objects", put_object, answer("200 OK")),
        ("objects", put_object, answer("507 Storage Full", b"<Error/>")),
        ("notifier", notify_ntfy, answer("204 No Content")),
        ("triton", ask_model, answer("400 Bad Request", b"")),
    ],
)
def test_what_the_service_itself_would_not_answer_is_transient(
    name: str, work: Callable[[Liar], None], lie: Lie
) -> None:
    with Liar(lie) as liar, pytest.raises(MeshError) as caught:
        work(liar)

    outcome = outcome_of(caught.value)
    assert isinstance(outcome, Retry), outcome
    assert outcome.sink == name


@pytest.mark.parametrize("lie", [name for name in LIES if "breaking off" in name])
def test_an_answer_to_apprise_that_breaks_off_is_transient(lie: str) -> None:
    with Liar(LIES[lie]) as liar:
        url = SecretStr(f"json://127.0.0.1:{liar.port}/alerts")
        with pytest.raises(SinkUnavailable):
            Notifier({"other": url}).send("other", DAMP)


# --- sinks that are files


def store_object(place: Path) -> None:
    FileStore(place).put("events/a.zst", b"data" * 100_000, {})


def remember_rules(place: Path) -> None:
    store = RuleStateStore(StateLocation.in_directory(place))
    with closing(store), store.transaction(["a"], 0.0) as states:
        states.clear()


def remember_alerts(place: Path) -> None:
    store = AlertStore(StateLocation.in_directory(place))
    with closing(store), store.transaction():
        pass


def remember_calls(place: Path) -> None:
    with closing(WebhookLog(StateLocation.in_directory(place))) as log:
        log.note({"a": ["b"]}, 0.0)


def remember_objects(place: Path) -> None:
    journal = ArchiveJournal(StateLocation.in_directory(place))
    with closing(journal), journal.hold():
        journal.stored(["a"])


FILES: list[tuple[str, Callable[[Path], None]]] = [
    ("objects", store_object),
    ("rule_state", remember_rules),
    ("alert_state", remember_alerts),
    ("webhook_log", remember_calls),
    ("journal", remember_objects),
]


@pytest.mark.parametrize(("name", "work"), FILES)
def test_a_directory_that_cannot_be_made_is_transient(
    name: str, work: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MeshError) as caught:
        work(tmp_path / "file" / "directory")

    outcome = outcome_of(caught.value)
    assert isinstance(outcome, Retry)
    assert outcome.sink == name


@pytest.mark.parametrize(("name", "work"), FILES[1:])
def test_a_file_that_is_no_database_or_locked_is_transient(
    name: str,
    work: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshtasks.state.connecting.BUSY_TIMEOUT_SECONDS", 0.05)
    work(tmp_path)
    (path,) = tmp_path.glob("mesh.db")
    path.write_bytes(b"not a database" * 1_000)
    for other in tmp_path.glob("*-*"):
        other.unlink()

    with pytest.raises(MeshError) as caught:
        work(tmp_path)

    outcome = outcome_of(caught.value)
    assert isinstance(outcome, Retry)
    assert outcome.sink == name


def test_a_disk_that_takes_small_files_and_no_large_ones_is_transient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    FileStore(tmp_path).put("events/small.zst", b"probe", {})

    with pytest.raises(MeshError, match="No space left") as caught:
        store_object(tmp_path)

    outcome = outcome_of(caught.value)
    assert isinstance(outcome, Retry)
    assert outcome.sink == "objects"
    assert [each.name for each in FileStore(tmp_path).list("")] == ["events/small.zst"]
