"""The collector of system metrics, on this machine and on machines it never saw."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import pytest

from meshtasks.domain.metrics import fields_of, tags_of
from meshtasks.domain.points import fields_text, metric_start
from meshtasks.domain.rules import RuleBook
from meshtasks.environment import Environment
from meshtasks.settings import Settings
from producers.collecting import Measured
from producers.configuration import Selection
from producers.system.collector import SystemCollector
from producers.system.config import Group, SystemConfig
from tests.unit.test_producers_configuration import SHIPPED

#: Two rounds are this far apart.
SECONDS = 10.0


class Clock:
    """Time that the test moves on."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., SystemCollector]


@pytest.fixture
def collector(clock: Clock) -> Make:
    """Makes a collector for the groups it is given."""

    def make(*wanted: Group, **config: Any) -> SystemCollector:
        options = {"host": "nas", "groups": frozenset(wanted or Group), **config}
        return SystemCollector(SystemConfig(**options), elapsed=clock)

    return make


class Disk(NamedTuple):
    read_count: int
    write_count: int
    read_bytes: int
    write_bytes: int
    busy_time: int


class Sensor(NamedTuple):
    label: str
    current: float
    high: float | None
    critical: float | None


def fields(measured: Measured) -> dict[str, Any]:
    found: dict[str, Any] = measured.record["fields"]
    return found


class TestThisMachine:
    def test_the_mesh_can_store_every_metric(self, collector: Make) -> None:
        collects = collector()

        for measured in [*collects.collect(), *collects.collect()]:
            record: Any = measured.record
            assert metric_start(record["name"], tags_of(record))
            assert fields_text(fields_of(record))

    def test_every_group_goes_under_the_name_of_host_and_group(
        self, collector: Make
    ) -> None:
        for measured in collector().collect():
            group = measured.record["name"]
            assert measured.routing_key == f"metrics.system.nas.{group}"
            assert measured.record["tags"]["host"] == "nas"

    def test_there_are_processors_memory_disks_network_load_and_processes(
        self, collector: Make, clock: Clock
    ) -> None:
        collects = collector()
        list(collects.collect())
        clock.seconds += SECONDS
        found = {each.record["name"]: each for each in collects.collect()}

        assert 0 <= fields(found["mem"])["used_percent"] <= 100
        assert fields(found["disk"])["total_bytes"] > 0
        assert fields(found["net"])["received_bytes_per_second"] >= 0
        assert fields(found["system"])["load1"] >= 0
        assert fields(found["processes"])["total"] > 0

    def test_the_names_are_those_that_shipped_rules_watch(
        self, collector: Make
    ) -> None:
        rules: RuleBook = Settings(Environment(config_dir=SHIPPED)).rules
        watched: dict[str, str] = {}
        for each in collector().collect():
            name, tags = each.record["name"], tuple(each.record["tags"].items())
            for field in rules.matching_metric(each.routing_key, name, tags):
                assert field in fields(each)
                watched[name] = field

        assert watched == {"disk": "used_percent", "mem": "used_percent"}

    def test_only_the_groups_that_are_configured_are_measured(
        self, collector: Make
    ) -> None:
        (measured,) = collector(Group.MEMORY).collect()

        assert measured.record["name"] == "mem"

    def test_a_watched_program_is_counted_even_if_it_does_not_run(
        self, collector: Make
    ) -> None:
        own = psutil.Process().name()
        watched = Selection(include=(own, "no-such-program", "nothing-*"))
        found = {
            each.record["tags"]["program"]: fields(each)
            for each in collector(Group.PROCESS, process=watched).collect()
        }

        assert found.keys() == {own, "no-such-program"}
        assert found[own]["count"] >= 1
        assert found[own]["resident_bytes"] > 0
        assert found["no-such-program"]["count"] == 0


class TestCounters:
    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], None]:
        """Sets what the one disk has counted so far."""

        def counted(disk: Disk) -> None:
            monkeypatch.setattr(
                psutil, "disk_io_counters", lambda **_options: {"sda": disk}
            )

        return counted

    def test_rates_need_two_rounds_and_a_disk_without_any_is_left_out(
        self, collector: Make, clock: Clock, disk: Callable[[Disk], None]
    ) -> None:
        collects = collector(Group.DISK_IO)
        disk(Disk(100, 200, 4_096, 8_192, 1_000))
        assert list(collects.collect()) == []

        clock.seconds += SECONDS
        disk(Disk(150, 200, 8_192, 8_192, 3_500))
        (measured,) = collects.collect()

        assert fields(measured) == {
            "reads_per_second": 5.0,
            "writes_per_second": 0.0,
            "read_bytes_per_second": 409.6,
            "written_bytes_per_second": 0.0,
            "busy_percent": 25.0,
        }
        assert measured.record["tags"] == {"host": "nas", "device": "sda"}

    def test_a_lid_that_was_shut_for_a_night_leaves_no_rate_of_that_night(
        self, collector: Make, clock: Clock, disk: Callable[[Disk], None]
    ) -> None:
        collects = collector(Group.DISK_IO)
        disk(Disk(100, 200, 4_096, 8_192, 1_000))
        list(collects.collect())

        clock.seconds += 8 * 3600
        disk(Disk(5_000, 200, 4_096_000, 8_192, 1_000))
        assert list(collects.collect()) == []

        clock.seconds += SECONDS
        (measured,) = collects.collect()
        assert fields(measured)["reads_per_second"] == 0.0

    def test_a_disk_that_was_plugged_in_again_begins_anew(
        self, collector: Make, clock: Clock, disk: Callable[[Disk], None]
    ) -> None:
        collects = collector(Group.DISK_IO)
        disk(Disk(100, 200, 4_096, 8_192, 1_000))
        list(collects.collect())

        clock.seconds += SECONDS
        disk(Disk(1, 0, 512, 0, 3))

        assert list(collects.collect()) == []


class TestOtherMachines:
    def test_thermometers_are_told_apart_even_without_names(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chips = {
            "coretemp": [Sensor("Package id 0", 51.0, 80.0, 100.0)],
            "acpitz": [Sensor("", 27.8, None, None), Sensor("", 29.8, None, None)],
        }
        monkeypatch.setattr(
            psutil, "sensors_temperatures", lambda: chips, raising=False
        )

        found = {
            (each.record["tags"]["chip"], each.record["tags"]["sensor"]): fields(each)
            for each in collector(Group.TEMPERATURES).collect()
        }

        assert found == {
            ("acpitz", "0"): {"celsius": 27.8},
            ("acpitz", "1"): {"celsius": 29.8},
            ("coretemp", "0 Package id 0"): {
                "celsius": 51.0,
                "high_celsius": 80.0,
                "critical_celsius": 100.0,
            },
        }

    def test_a_machine_without_disks_has_nothing_to_tell_of_them(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(psutil, "disk_io_counters", lambda **_options: None)

        assert list(collector(Group.DISK_IO).collect()) == []

    def test_a_group_that_cannot_be_read_is_said_once_and_the_others_go_on(
        self,
        collector: Make,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def unreadable() -> None:
            raise NotImplementedError("no /proc/loadavg here")

        collects = collector(Group.SYSTEM, Group.MEMORY)
        with monkeypatch.context() as patched, caplog.at_level(logging.INFO):
            patched.setattr(psutil, "getloadavg", unreadable)
            for _ in range(3):
                (measured,) = collects.collect()
                assert measured.record["name"] == "mem"
        assert caplog.text.count("no /proc/loadavg here") == 1

        with caplog.at_level(logging.INFO):
            assert len(list(collects.collect())) == 2
        assert "group system: is well again" in caplog.text

    def test_a_device_mounted_twice_is_told_of_once(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = psutil.disk_partitions()[0]
        again = root._replace(mountpoint="/zzz/bind")
        monkeypatch.setattr(psutil, "disk_partitions", lambda: [again, root])

        (measured,) = collector(Group.DISK).collect()

        assert measured.record["tags"]["path"] == root.mountpoint
