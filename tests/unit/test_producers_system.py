"""The collector of system metrics, on this machine and on machines it never saw."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.producers.buffer import encode
from meshtasks.producers.collecting import Measured
from meshtasks.producers.configuration import Selection
from meshtasks.producers.system import Group, SystemCollector, SystemConfig
from meshtasks.records.points import fields_of, fields_text, metric_start, tags_of
from meshtasks.rules.config import RULES, RuleBook
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
        rules: RuleBook = Settings(Environment(config_dir=SHIPPED)).read(RULES)
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
    def test_thermometers_are_distinct_even_without_names(
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

    def test_a_machine_without_disks_has_no_metrics_of_them(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(psutil, "disk_io_counters", lambda **_options: None)

        assert list(collector(Group.DISK_IO).collect()) == []

    def test_a_group_that_cannot_be_read_is_logged_once_and_the_others_go_on(
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
        assert "group system has recovered" in caplog.text

    @pytest.mark.parametrize(
        ("group", "name", "error"),
        [
            # lxcfs shows disks with more columns than psutil knows
            # (giampaolo/psutil#2148).
            (
                Group.DISK_IO,
                "disk_io_counters",
                ValueError("not sure how to interpret line '8 0 sda 0 0 0 2 0 42 7'"),
            ),
            # A chip whose file holds no number (giampaolo/psutil#1323).
            (Group.TEMPERATURES, "sensors_temperatures", ValueError("invalid literal")),
            (Group.SWAP, "swap_memory", KeyError(b"SwapTotal:")),
            (Group.NETWORK, "net_io_counters", AttributeError("\x1b[31m")),
            (Group.PROCESSES, "process_iter", IndexError("")),
            (
                Group.DISK,
                "disk_partitions",
                UnicodeDecodeError("utf-8", b"x", 0, 1, ""),
            ),
        ],
    )
    def test_whatever_a_group_raises_the_others_go_on(
        self,
        collector: Make,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        group: Group,
        name: str,
        error: Exception,
    ) -> None:
        def raising(*_args: object, **_options: object) -> None:
            raise error

        monkeypatch.setattr(psutil, name, raising, raising=False)
        collects = collector(group, Group.MEMORY)

        for _ in range(3):
            (measured,) = collects.collect()
            assert measured.record["name"] == "mem"

        (said,) = caplog.messages
        assert said.startswith(f"group {group}: failed: {type(error).__name__}")
        assert "\x1b" not in said

    def test_a_reason_that_quotes_counters_is_not_logged_in_each_round(
        self,
        collector: Make,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        counts = itertools.count(7)

        def raising(**_options: object) -> None:
            message = f"not sure how to interpret line '8 0 sda {next(counts)}'"
            raise ValueError(message)

        monkeypatch.setattr(psutil, "disk_io_counters", raising)
        collects = collector(Group.DISK_IO)
        for _ in range(5):
            assert list(collects.collect()) == []

        assert len(caplog.messages) == 1

    def test_thermometers_have_the_fields_that_the_chip_has(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Limits and readings of real chips (giampaolo/psutil#1902)."""
        none: Any = None
        chips = {
            "iwlwifi_1": [Sensor("", none, None, None)],
            "nan": [Sensor("", float("nan"), None, None)],
            "nct6775": [Sensor("AUXTIN", -128.0, 80.0, None)],
            "nvme": [Sensor("Composite", 40.9, 65261.85, float("inf"))],
        }
        monkeypatch.setattr(
            psutil, "sensors_temperatures", lambda: chips, raising=False
        )

        found = [fields(each) for each in collector(Group.TEMPERATURES).collect()]

        assert found == [
            {"celsius": -128.0, "high_celsius": 80.0},
            {"celsius": 40.9, "high_celsius": 65261.85},
        ]

    def test_a_device_mounted_twice_is_published_once(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = SimpleNamespace(
            device="/dev/sda1", mountpoint="/", fstype="ext4", opts="rw"
        )
        again = SimpleNamespace(**{**vars(root), "mountpoint": "/zzz/bind"})
        monkeypatch.setattr(psutil, "disk_partitions", lambda: [again, root])

        (measured,) = collector(Group.DISK).collect()

        assert measured.record["tags"]["path"] == root.mountpoint


class Part(NamedTuple):
    """A mount, as psutil has it."""

    mountpoint: str
    fstype: str
    opts: str = "rw,relatime"

    @property
    def device(self) -> str:
        return f"/dev/of{self.mountpoint}"


class Usage(NamedTuple):
    total: int = 100
    used: int = 100
    free: int = 0
    percent: float = 100.0


class TestFileSystems:
    def test_in_a_container_they_are_those_of_the_machine_by_its_own_names(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts = [
            *(Part("/", "overlay"), Part("/etc/mesh", "ext4"), Part("/hosts", "ext4")),
            *(Part("/host", "ext4"), Part("/host/mnt/a.", "vfat")),
        ]
        asked = []

        def usage(path: str) -> Usage:
            asked.append(path)
            return Usage()

        monkeypatch.setattr(psutil, "disk_partitions", lambda: parts)
        monkeypatch.setattr(psutil, "disk_usage", usage)
        config = SystemConfig(groups=frozenset({Group.DISK}))
        found = SystemCollector(config, root=Path("/host")).collect()

        assert [each.record["tags"]["path"] for each in found] == ["/", "/mnt/a."]
        assert asked == ["/host", "/host/mnt/a."]

    @pytest.fixture
    def paths(
        self, collector: Make, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., list[str]]:
        """The mounts that are measured, of those that there are."""

        def paths(*parts: Part, usage: Callable[[str], Usage]) -> list[str]:
            monkeypatch.setattr(psutil, "disk_partitions", lambda: list(parts))
            monkeypatch.setattr(psutil, "disk_usage", usage)
            found = collector(Group.DISK).collect()
            return [each.record["tags"]["path"] for each in found]

        return paths

    @pytest.mark.parametrize(
        "image",
        [
            Part("/media/cdrom0", "iso9660", "ro,nosuid"),
            Part("/media/dvd", "udf", "ro"),
            # Outside /snap, too (cloudalchemy/ansible-node-exporter#202).
            Part("/var/lib/snapd/snap/core/1", "squashfs", "ro,nodev"),
            Part("/snap/core/2", "fuse.snapfuse", "rw,nodev"),
            Part("/", "overlay"),
            Part("/run/image", "erofs"),
            Part("/tmp", "tmpfs"),
            Part("/run/netns/a", "nsfs"),
            Part("/tank/.zfs/snapshot/monday", "zfs", "ro,noatime"),
            Part("/mnt/usb stick", "exfat", "nosuid,ro"),
        ],
        ids=lambda part: part.fstype,
    )
    def test_what_cannot_be_written_is_no_full_disk(
        self, paths: Callable[..., list[str]], image: Part
    ) -> None:
        root = Part("/data", "ext4")

        assert paths(image, root, usage=lambda _: Usage()) == ["/data"]

    def test_a_disk_that_is_read_only_for_this_service_alone_is_measured(
        self, paths: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As systemd's ProtectSystem mounts it."""
        mounts = (
            "36 35 98:0 / /usr ro,nosuid shared:1 - ext4 /dev/sda1 rw,errors=x\n"
            "37 35 98:1 / /rescue ro,nosuid - ext4 /dev/sda2 ro\n"
            "38 35 98:2 / /my\\040disk ro - btrfs /dev/sdb rw,ssd\n"
            "torn\n"
        )
        monkeypatch.setattr(Path, "read_text", lambda *_a, **_o: mounts)
        parts = [Part(path, "ext4", "ro") for path in ("/usr", "/rescue", "/my disk")]

        assert paths(*parts, usage=lambda _: Usage()) == ["/my disk", "/usr"]

    def test_a_mount_that_cannot_be_read_hides_no_other(
        self, paths: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
    ) -> None:
        def usage(path: str) -> Usage:
            if path == "/b":
                raise PermissionError(13, "Permission denied", path)
            return Usage()

        parts = [Part("/a", "ext4"), Part("/b", "ext4"), Part("/c", "ext4")]

        assert paths(*parts, usage=usage) == ["/a", "/c"]
        assert "file system /b: failed: PermissionError" in caplog.text

    def test_a_mount_whose_name_is_not_unicode_can_be_published(
        self, paths: Callable[..., list[str]]
    ) -> None:
        (path,) = paths(Part("/m\udcff", "ext4"), usage=lambda _: Usage())

        assert encode(path) == b'"/m?"'

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(st.text(), st.text(), st.text(), st.floats() | st.none() | st.text())
    def test_whatever_is_mounted_the_others_are_measured(
        self,
        paths: Callable[..., list[str]],
        path: str,
        fstype: str,
        opts: str,
        percent: Any,
    ) -> None:
        odd = Part(f"/a{path}", fstype, opts)

        found = paths(
            odd,
            Part("/b", "ext4"),
            usage=lambda at: Usage(percent=percent) if at.startswith("/a") else Usage(),
        )

        assert "/b" in found
