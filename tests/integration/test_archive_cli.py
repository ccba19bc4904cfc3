"""``meshtasks archive``: looking into the archive, and sending it round again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.delivery import delivery_of
from meshtasks.cli import main
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.archive.objects import (
    OBJECTS,
    archived_objects,
    compress,
    decompress,
)
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.timeseries_queries import VictoriaMetricsState
from meshtasks.outcome import DONE
from meshtasks.records.envelope import Envelope
from tests.support.amqp import drain, open_channel, queue_depth
from tests.support.analytics import archive
from tests.support.archive import (
    NOON,
    bucket_environment,
    directory_environment,
    lines_in,
)
from tests.support.command import Command, command
from tests.support.handling import handle
from tests.support.swift import Swift
from tests.support.victoria import export

HOUR = 3_600.0
TEMPERATURE = "sensors.temperature"


@pytest.fixture
def environment(mesh_env: dict[str, str], mesh_url: str, tmp_path: Path) -> Environment:
    """A mesh whose archive is a directory."""
    return directory_environment(
        tmp_path, broker_url=mesh_url, influx_url=mesh_env["MESH_INFLUX_URL"]
    )


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def three_hours(sinks: Sinks) -> Sinks:
    """Two temperatures each in three hours from noon, and an event at noon."""
    for hour in range(3):
        readings = [{"value": 20 + hour}, {"value": 20.5 + hour}]
        start = NOON + hour * HOUR
        archive(
            sinks, "sensors.temperature.attic", *readings, start=start, name=f"t{hour}"
        )
    archive(sinks, "home.door.hall.trigger", {"automation": "bell"}, name="e")
    return sinks


def objects(sinks: Sinks) -> list[str]:
    return [each.name for each in archived_objects(sinks[OBJECTS])]


def envelopes(url: str, queue: str) -> list[Envelope]:
    """What is in a queue, as a worker's handlers see it."""
    found = []
    with open_channel(url) as channel:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            each = delivery_of(message, NOON + 10 * HOUR)
            found.append(
                Envelope(
                    each.body,
                    each.exchange,
                    each.routing_key,
                    queue,
                    each.properties.get("message_id"),
                    each.properties.get("timestamp"),
                    each.received_at,
                    dict(each.headers),
                )
            )
    return found


class TestList:
    def test_objects_and_bytes_by_domain_and_date(
        self, three_hours: Sinks, meshtasks: Command
    ) -> None:
        lines = meshtasks("archive", "list").stdout.splitlines()
        assert [line.split()[:4] for line in lines] == [
            ["home", "2026-11-23", "1", "objects"],
            ["sensors", "2026-11-23", "3", "objects"],
            ["all", "4", "objects", lines[2].split()[3]],
        ]

    def test_of_a_period_and_a_domain(
        self, three_hours: Sinks, meshtasks: Command
    ) -> None:
        options = ("--from", "2026-11-23T13:30", "--domain", "sensors")
        (line, _) = meshtasks("archive", "list", *options).stdout.splitlines()
        assert line.split()[:3] == ["sensors", "2026-11-23", "2"]

    def test_an_empty_archive(self, meshtasks: Command) -> None:
        assert meshtasks("archive", "list").stdout == "nothing is archived\n"


class TestVerify:
    def test_a_sound_archive(self, three_hours: Sinks, meshtasks: Command) -> None:
        result = meshtasks("archive", "verify")
        assert result.exit_code == 0
        assert "4 objects, 7 records" in result.stdout
        assert "all sound" in result.stdout

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda data: data[:-5], "damaged"),
            (lambda data: data[:60] + b"\0" + data[61:], "damaged"),
            (lambda data: _recompressed(data, slice(1)), "not those"),
            (lambda data: compress(b"{}\n", 3), "line 1: id"),
        ],
        ids=["cut off", "a byte changed", "a record missing", "something else"],
    )
    def test_a_damaged_object_is_named(
        self,
        three_hours: Sinks,
        meshtasks: Command,
        damage: Callable[[bytes], bytes],
        words: str,
    ) -> None:
        name = next(each for each in objects(three_hours) if "sensors" in each)
        store = three_hours[OBJECTS]
        store.put(name, damage(store.get(name)), {})

        result = meshtasks("archive", "verify")

        assert result.exit_code == 1
        seen = next(line for line in result.stdout.splitlines() if name in line)
        assert words in seen
        assert "1 DAMAGED" in result.stdout

    def test_files_of_the_dataset_that_compaction_moved_aside_are_listed(
        self, three_hours: Sinks, meshtasks: Command
    ) -> None:
        name = (
            "damaged/analytics/readings/domain=sensors/date=2026-11-23/"
            "20261123T120000Z-20261123T120029Z-000000000000000a.parquet"
        )
        three_hours[OBJECTS].put(name, b"cut off", {})

        result = meshtasks("archive", "verify")
        others = meshtasks("archive", "verify", "--to", "2026-11-22")

        assert result.exit_code == 0
        assert f"{name}: a damaged file of the dataset" in result.stdout
        assert "damaged/" not in others.stdout

    def test_in_a_bucket_the_metadata_must_agree(
        self,
        swift: Swift,
        mesh_url: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        bucket = bucket_environment(swift.target, tmp_path, broker_url=mesh_url)
        with closing(Sinks(Settings(bucket))) as sinks:
            archive(sinks, "sensors.temperature.attic", {"value": 20}, name="sound")
            meshtasks = command(bucket, monkeypatch, capsys)
            assert meshtasks("archive", "verify").exit_code == 0
            assert meshtasks("archive", "replay", "--from", "2026-11-23").exit_code == 0
            assert queue_depth(mesh_url, TEMPERATURE) == 1

            (name,) = objects(sinks)
            data = sinks[OBJECTS].get(name)
            sinks[OBJECTS].put(name, data, {"sha256": "0" * 64, "count": "1"})
            assert "sha256" in meshtasks("archive", "verify").stdout
            sinks[OBJECTS].put(name, data, {"count": "7"})
            assert "7 by its metadata" in meshtasks("archive", "verify").stdout


class TestReplay:
    def test_records_of_a_period_go_back_to_their_queue(
        self, three_hours: Sinks, mesh_url: str, meshtasks: Command
    ) -> None:
        period = ("--from", "2026-11-23T13:00", "--to", "2026-11-23T14:00:01")
        result = meshtasks("archive", "replay", *period)

        assert (result.exit_code, result.stdout.split()) == (
            0,
            ["3", "sent", "to", "sensors"],
        )
        back = drain(mesh_url, TEMPERATURE)
        assert [json.loads(each.body)["value"] for each in back] == [21, 21.5, 22]
        keys = {each.headers["x-mesh-routing-key"] for each in back}
        assert keys == {"sensors.temperature.attic"}
        archived = {line["id"]: line for line in lines_in(three_hours[OBJECTS])}
        for each in back:
            line = archived[each.headers["x-mesh-archived"]]
            assert json.loads(each.body) == line["record"]

    def test_of_a_domain_only(
        self, three_hours: Sinks, mesh_url: str, meshtasks: Command
    ) -> None:
        meshtasks("archive", "replay", "--from", "2026-11-23", "--domain", "sensors")
        assert queue_depth(mesh_url, "home.events.automations") == 0
        assert queue_depth(mesh_url, TEMPERATURE) == 6

    def test_to_one_queue_alone(
        self, three_hours: Sinks, mesh_url: str, meshtasks: Command
    ) -> None:
        with open_channel(mesh_url) as channel:
            channel.queue_declare("my.own", durable=True, auto_delete=False)
        options = ("--from", "2026-11-23", "--to-queue", "my.own", "--rate", "1000")
        meshtasks("archive", "replay", *options)
        back = drain(mesh_url, "my.own")
        assert len(back) == 7
        assert {each.headers["x-mesh-exchange"] for each in back} == {"sensors", "home"}
        assert queue_depth(mesh_url, TEMPERATURE) == 0

    def test_to_a_queue_that_is_not_there(self, meshtasks: Command) -> None:
        options = ("--from", "1d", "--to-queue", "nobody")
        result = meshtasks("archive", "replay", *options)
        assert result.exit_code == 1
        assert "no queue nobody" in result.stderr

    def test_a_dry_run_counts(
        self, three_hours: Sinks, mesh_url: str, meshtasks: Command
    ) -> None:
        options = ("--from", "2026-11-23", "--domain", "sensors", "--dry-run")
        assert (
            "6 would go to sensors" in meshtasks("archive", "replay", *options).stdout
        )
        assert queue_depth(mesh_url, TEMPERATURE) == 0

    def test_what_no_queue_takes_any_more_is_counted(
        self, sinks: Sinks, meshtasks: Command
    ) -> None:
        archive(sinks, "sensors.smell.attic", {"value": 1})
        result = meshtasks("archive", "replay", "--from", "2026-11-23")
        assert result.exit_code == 1
        assert "no queue of topology.yaml gets sensors.smell" in result.stdout

    def test_a_damaged_object_is_named_and_the_others_go(
        self, three_hours: Sinks, mesh_url: str, meshtasks: Command
    ) -> None:
        store = three_hours[OBJECTS]
        cut, changed, _ = (name for name in objects(three_hours) if "sensors" in name)
        store.put(cut, store.get(cut)[:-5], {})
        first, *_ = decompress(store.get(changed)).splitlines()
        store.put(changed, compress(first + b"\n{\n", 3), {})

        result = meshtasks("archive", "replay", "--from", "2026-11-23")

        assert result.exit_code == 1
        assert cut in result.stderr
        assert "1 not sent: a line is damaged" in result.stdout
        assert queue_depth(mesh_url, TEMPERATURE) == 3

    def test_what_the_time_series_store_would_drop_is_not_sent_unless_wanted(
        self,
        three_hours: Sinks,
        mesh_url: str,
        meshtasks: Command,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        kept_seconds = time.time() - (NOON + 1.5 * HOUR)
        state = VictoriaMetricsState(kept_seconds, {}, 0, 0)
        monkeypatch.setattr(
            "meshtasks.observation.archived.victoriametrics_state",
            lambda _: state,
        )

        result = meshtasks("archive", "replay", "--from", "2026-11-23")

        assert result.exit_code == 1
        assert "4 not sent: older than the time-series store keeps" in result.stdout
        assert queue_depth(mesh_url, TEMPERATURE) == 2
        meshtasks("archive", "replay", "--from", "2026-11-23", "--even-if-dropped")
        assert queue_depth(mesh_url, TEMPERATURE) == 8


class TestReplayedRecords:
    """What handlers do with records that come from the archive."""

    def replay(self, meshtasks: Command, *options: str) -> None:
        replayed = meshtasks("archive", "replay", "--from", "2026-11-23", *options)
        assert replayed.exit_code == 0

    def stored(self, sinks: Sinks, url: str, queue: str) -> None:
        found = envelopes(url, queue)
        assert set(handle(sinks, *found)) == {DONE}

    def test_they_become_the_same_points_and_are_not_archived_again(
        self,
        three_hours: Sinks,
        victoria: VictoriaMetrics,
        mesh_url: str,
        meshtasks: Command,
    ) -> None:
        for _ in range(2):
            self.replay(meshtasks, "--domain", "sensors")
            self.stored(three_hours, mesh_url, TEMPERATURE)

        (series,) = export(victoria)
        noon = int(NOON * 1000)
        assert series.samples == {
            noon + hour * 3_600_000 + second * 1_000: 20 + hour + second / 2
            for hour in range(3)
            for second in range(2)
        }
        assert queue_depth(mesh_url, "archive.metrics") == 0

    @pytest.mark.parametrize(("options", "alerts"), [((), 0), (("--with-effects",), 1)])
    def test_rules_look_at_them_only_with_effects(
        self,
        sinks: Sinks,
        mesh_url: str,
        meshtasks: Command,
        options: tuple[str, ...],
        alerts: int,
    ) -> None:
        readings = [{"value": 79}, {"value": 80}]
        archive(sinks, "sensors.temperature.attic", *readings, seconds_apart=900)
        self.replay(meshtasks, *options)
        self.stored(sinks, mesh_url, TEMPERATURE)
        assert queue_depth(mesh_url, "alerts.notifications") == alerts

    @pytest.mark.parametrize(("options", "firing"), [((), 0), (("--with-effects",), 1)])
    def test_alerts_are_sent_only_with_effects(
        self,
        sinks: Sinks,
        mesh_url: str,
        meshtasks: Command,
        options: tuple[str, ...],
        firing: int,
    ) -> None:
        alert: dict[str, Any] = {
            "title": "Hot",
            "message": "It burns.",
            "severity": "critical",
            "source": "test",
        }
        archive(sinks, "alerts.critical.test", alert)
        self.replay(meshtasks, *options)
        self.stored(sinks, mesh_url, "alerts.critical")
        with sinks[ALERT_STATE].tables() as tables:
            assert len(tables.firing()) == firing

    def test_what_is_sent_to_the_archive_once_more_is_not_stored_twice(
        self, three_hours: Sinks, mesh_url: str, meshtasks: Command
    ) -> None:
        before = objects(three_hours)
        self.replay(meshtasks, "--to-queue", "archive.metrics")
        self.stored(three_hours, mesh_url, "archive.metrics")
        assert objects(three_hours) == before


def _recompressed(data: bytes, kept: slice) -> bytes:
    lines = decompress(data).splitlines(keepends=True)
    return compress(b"".join(lines[kept]), 3)


def test_on_the_host_of_a_stack_it_says_that_the_stack_archives_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docker-compose.yml").touch()
    (tmp_path / "config").mkdir()
    monkeypatch.setattr("sys.argv", ["meshtasks", "archive", "list"])

    with pytest.raises(SystemExit):
        main()

    said = capsys.readouterr()
    assert "file://.mesh/archive (MESH_ARCHIVE_URL)" in said.err
    assert "docker compose run --rm tools archive list" in said.err
    assert said.out == "nothing is archived\n"
