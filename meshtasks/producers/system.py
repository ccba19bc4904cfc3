"""``python -m meshtasks.producers system``: metrics of this machine."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import psutil
import typer
from pydantic import Field

from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import (
    LONGEST_GAP_INTERVALS,
    WRAP_32_BIT,
    Counters,
    DryRun,
    Fields,
    Guard,
    Measured,
    elapsed_seconds,
    metric,
    routing_word,
    run_collector,
)
from meshtasks.producers.configuration import Seconds, Selection, Word


class Group(StrEnum):
    """Things measured together; also the name of their metric."""

    CPU = "cpu"
    MEMORY = "mem"
    SWAP = "swap"
    DISK = "disk"
    DISK_IO = "diskio"
    NETWORK = "net"
    TEMPERATURES = "temp"
    SYSTEM = "system"
    PROCESSES = "processes"
    PROCESS = "process"


class SystemConfig(ConfigModel):
    """Settings of the system collector.

    Attributes:
        interval_seconds: between two rounds of metrics.
        host: name of this machine in tags and routing keys; by default its host name
            up to the first dot.
        groups: groups to measure.
        cpu: processors by number; ``total`` is all together.
        disk: file systems by mount point.
        diskio: block devices by name.
        net: network interfaces by name.
        temp: temperature sensors by chip (``coretemp``, ``nvme``).
        process: programs to measure individually, by name.
    """

    interval_seconds: Seconds = 10.0
    host: Word | None = None
    groups: Annotated[frozenset[Group], Field(min_length=1)] = frozenset(Group)
    cpu: Selection = Selection(include=("total",))
    disk: Selection = Selection()
    diskio: Selection = Selection()
    net: Selection = Selection()
    temp: Selection = Selection()
    process: Selection = Selection(include=())


_T = TypeVar("_T")

#: Field → name in psutil.
_SPACE = {
    "total_bytes": "total",
    "used_bytes": "used",
    "free_bytes": "free",
    "used_percent": "percent",
}
_MEMORY = {
    "total_bytes": "total",
    "available_bytes": "available",
    "used_percent": "percent",
    "free_bytes": "free",
    "buffers_bytes": "buffers",
    "cached_bytes": "cached",
}
_TEMPERATURES = {"celsius": "current"} | {
    f"{limit}_celsius": limit for limit in ("high", "critical")
}
_PROCESS_STATES = {
    psutil.STATUS_RUNNING: "running",
    psutil.STATUS_SLEEPING: "sleeping",
    psutil.STATUS_DISK_SLEEP: "blocked",
    psutil.STATUS_STOPPED: "stopped",
    psutil.STATUS_ZOMBIE: "zombies",
    psutil.STATUS_IDLE: "idle",
}
_DISK_RATES = {
    "read_count": "reads_per_second",
    "write_count": "writes_per_second",
    "read_bytes": "read_bytes_per_second",
    "write_bytes": "written_bytes_per_second",
}
_NETWORK_RATES = {
    "bytes_recv": "received_bytes_per_second",
    "bytes_sent": "sent_bytes_per_second",
    "packets_recv": "received_packets_per_second",
    "packets_sent": "sent_packets_per_second",
    "errin": "receive_errors_per_second",
    "errout": "send_errors_per_second",
    "dropin": "receive_drops_per_second",
    "dropout": "send_drops_per_second",
}


#: File systems that are always full (read-only images), that overlay others, or that
#: are in memory.
_NO_DISKS = frozenset(
    {
        *("iso9660", "cdfs", "squashfs", "erofs", "cramfs", "romfs"),
        *("overlay", "overlayfs", "aufs", "unionfs", "fuse-overlayfs"),
        *("tmpfs", "devtmpfs", "ramfs", "nsfs", "autofs"),
    }
)
#: ``fuse.snapfuse``, ``fuse.squashfuse_ll``, ``fuse.fuse-overlayfs``, …
_NO_DISK_PREFIXES = ("fuse.snap", "fuse.squash", "fuse.fuse-overlay", "fuse.archive")

CONFIG = ConfigFile("producers/system.yaml", SystemConfig)


def _attributes(found: object, names: Mapping[str, str]) -> dict[str, Any]:
    """Return attributes as fields; None for one that the platform does not have."""
    return {field: getattr(found, name, None) for field, name in names.items()}


class Found(NamedTuple):
    """Fields of one metric, and the tags that distinguish it within its group."""

    fields: Fields
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """Context of one round.

    Attributes:
        config: settings of the collector.
        counters: readings of the earlier rounds.
        at_seconds: time of the round, see :func:`elapsed_seconds`.
        guard: isolates failures of single things of a group.
        root: mount point of the machine's root; in a container, mounts outside it are
            the container's own.
    """

    config: SystemConfig
    counters: Counters
    at_seconds: float
    guard: Guard
    root: Path = Path("/")

    def rates(
        self, group: Group, name: str, values: Mapping[str, float]
    ) -> dict[str, float]:
        """Return counter → increase per second; empty if the rates are not known."""
        increase = self.counters.read((group, name), values, self.at_seconds)
        if increase is None:
            return {}
        return {each: by / increase.seconds for each, by in increase.by.items()}


def cpu(look: Look) -> Iterator[Found]:
    """Yield each processor's use since the last round, in percent of the time."""
    shares = {"total": psutil.cpu_times_percent()}
    for number, each in enumerate(psutil.cpu_times_percent(percpu=True)):
        shares[str(number)] = each
    for name, share in shares.items():
        percents = share._asdict()
        # All are 0 before the first interval has passed.
        if look.config.cpu.wants(name) and any(percents.values()):
            idle = percents["idle"] + percents.get("iowait", 0.0)
            fields = {f"{kind}_percent": each for kind, each in percents.items()}
            yield Found({"used_percent": 100.0 - idle, **fields}, {"cpu": name})


def memory(_look: Look) -> Iterator[Found]:
    """Yield the memory of the machine; "used" is what programs cannot get."""
    found = psutil.virtual_memory()
    fields = _attributes(found, _MEMORY)
    yield Found({**fields, "used_bytes": found.total - found.available}, {})


def swap(look: Look) -> Iterator[Found]:
    """Yield the swap space, and the rates in and out."""
    found = psutil.swap_memory()
    rates = look.rates(Group.SWAP, "", {"in": found.sin, "out": found.sout})
    moved = {f"{way}_bytes_per_second": rates.get(way) for way in ("in", "out")}
    yield Found({**_attributes(found, _SPACE), **moved}, {})


def disk(look: Look) -> Iterator[Found]:
    """Yield the file systems on devices.

    A device that is mounted several times is published once, with the first mount point
    in alphabetical order. Network file systems are left out, because one that is
    unavailable hangs, and so are file systems that cannot be written: images are always
    full.
    """
    seen = set()
    for part in sorted(psutil.disk_partitions(), key=lambda each: each.mountpoint):
        if (path := _on_host(part.mountpoint, look.root)) is None:
            continue
        unwanted = not look.config.disk.wants(path)
        if part.device in seen or unwanted or _never_fills(part):
            continue
        usage = look.guard.attempt(
            f"file system {path}", partial(psutil.disk_usage, part.mountpoint)
        )
        if usage is None:
            continue
        seen.add(part.device)
        tags = {"path": path, "device": part.device, "fstype": part.fstype}
        yield Found(_attributes(usage, _SPACE), tags)


def _on_host(mountpoint: str, root: Path) -> str | None:
    """Return a mount point as seen by the machine; None for the container's own."""
    path = Path(mountpoint)
    return str("/" / path.relative_to(root)) if path.is_relative_to(root) else None


def _never_fills(part: Any) -> bool:
    """Return whether a file system cannot be written, or is not on a disk."""
    kind = part.fstype.lower()
    if kind in _NO_DISKS or kind.startswith(_NO_DISK_PREFIXES):
        return True
    read_only = "ro" in part.opts.split(",")
    return read_only and not _is_writable_elsewhere(part.mountpoint)


def _is_writable_elsewhere(path: str) -> bool:
    """Return whether a file system that is mounted read-only here is itself writable:
    systemd and containers mount disks read-only for single services."""
    # options of the mount, a dash, those of the file system: proc_pid_mountinfo(5)
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    writable = False  # of several mounts at a path, the last one is visible
    for line in mounts.splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split(" ")[4:5] == [path.replace(" ", "\\040")]:
            writable = "rw" in file_system.rpartition(" ")[2].split(",")
    return writable


def disk_io(look: Look) -> Iterator[Found]:
    """Yield the rates at which block devices read and write."""
    # nowrap=False: look.counters detects wraps and restarts.
    every = psutil.disk_io_counters(perdisk=True, nowrap=False)
    for name, found in _wanted(every, look.config.diskio):
        rates = look.rates(Group.DISK_IO, name, found._asdict())
        fields = {field: rates.get(each) for each, field in _DISK_RATES.items()}
        if "busy_time" in rates:  # milliseconds per second
            fields["busy_percent"] = min(100.0, rates["busy_time"] / 10.0)
        yield Found(fields, {"device": name})


def network(look: Look) -> Iterator[Found]:
    """Yield the rates at which network interfaces receive and send."""
    states = psutil.net_if_stats()
    every = psutil.net_io_counters(pernic=True, nowrap=False)
    for name, found in _wanted(every, look.config.net):
        rates = look.rates(Group.NETWORK, name, found._asdict())
        fields: dict[str, float | bool | None] = {
            field: rates.get(each) for each, field in _NETWORK_RATES.items()
        }
        fields["up"] = states[name].isup if name in states else None
        yield Found(fields, {"interface": name})


def temperatures(look: Look) -> Iterator[Found]:
    """Yield the temperatures of chips and disks; only on Linux and FreeBSD."""
    if not hasattr(psutil, "sensors_temperatures"):
        return
    chips = psutil.sensors_temperatures()
    for chip, sensors in _wanted(chips, look.config.temp):
        for number, sensor in enumerate(sensors):
            # Sensors of a chip may have no label, or the same one.
            tags = {"chip": chip, "sensor": f"{number} {sensor.label}".strip()}
            yield Found(_attributes(sensor, _TEMPERATURES), tags)


def load(_look: Look) -> Iterator[Found]:
    """Yield load averages, number of processors and uptime."""
    loads = zip(("load1", "load5", "load15"), psutil.getloadavg(), strict=True)
    uptime_seconds = time.time() - psutil.boot_time()
    counted = {"cpus": psutil.cpu_count(), "uptime_seconds": uptime_seconds}
    yield Found({**dict(loads), **counted}, {})


def processes(_look: Look) -> Iterator[Found]:
    """Yield the number of processes, in all and by state."""
    states = Counter[str]()
    total = threads = 0
    for process in psutil.process_iter(["status", "num_threads"]):
        total += 1
        threads += process.info["num_threads"] or 0
        states[process.info["status"]] += 1
    named = {name: states[state] for state, name in _PROCESS_STATES.items()}
    yield Found({"total": total, "threads": threads, **named}, {})


def process(look: Look) -> Iterator[Found]:
    """Yield the selected programs; processes of the same name are one program. A
    program whose full name is in ``include`` has a count of 0 while it does not run."""
    selection = look.config.process
    if not selection.include:
        return
    full_names = (name for name in selection.include if not {*name} & {*"*?["})
    programs = {name: _Program() for name in full_names}
    for each in psutil.process_iter(_PROCESS_ATTRIBUTES):
        name = each.info["name"]
        if name and selection.wants(name):
            programs.setdefault(name, _Program()).add(look, each.info)
    for name, program in sorted(programs.items()):
        yield Found(asdict(program), {"program": name})


#: psutil returns None for attributes that this user may not read.
_PROCESS_ATTRIBUTES = [
    *("pid", "name", "create_time", "cpu_times", "memory_info", "num_threads")
]


@dataclass(slots=True)
class _Program:
    count: int = 0
    threads: int = 0
    resident_bytes: int = 0
    cpu_percent: float | None = None

    def add(self, look: Look, info: Mapping[str, Any]) -> None:
        self.count += 1
        self.threads += info["num_threads"] or 0
        if info["memory_info"] is not None:
            self.resident_bytes += info["memory_info"].rss
        if info["cpu_times"] is not None:
            times = info["cpu_times"]
            used_seconds = {"cpu": times.user + times.system}
            # Process ids are reused.
            source = f"{info['pid']} {info['create_time']}"
            rates = look.rates(Group.PROCESS, source, used_seconds)
            if rates:
                self.cpu_percent = (self.cpu_percent or 0.0) + 100.0 * rates["cpu"]


def _wanted(
    every: Mapping[str, _T] | None, selection: Selection
) -> list[tuple[str, _T]]:
    """Return the selected items, sorted by name; psutil returns None if none exist."""
    found = every or {}
    return [(name, found[name]) for name in sorted(found) if selection.wants(name)]


GROUPS: Mapping[Group, Callable[[Look], Iterator[Found]]] = {
    Group.CPU: cpu,
    Group.MEMORY: memory,
    Group.SWAP: swap,
    Group.DISK: disk,
    Group.DISK_IO: disk_io,
    Group.NETWORK: network,
    Group.TEMPERATURES: temperatures,
    Group.SYSTEM: load,
    Group.PROCESSES: processes,
    Group.PROCESS: process,
}


class SystemCollector:
    """Measures this machine.

    A group that cannot be read is logged once and left out.

    Args:
        root: mount point of the machine's root, see :class:`Look`.
        elapsed: clock of rates.
    """

    def __init__(
        self,
        config: SystemConfig,
        *,
        root: Path = Path("/"),
        elapsed: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self._config = config
        self._root = root
        self._elapsed = elapsed
        self._host = config.host or routing_word(platform.node().partition(".")[0])
        self._counters = Counters(
            LONGEST_GAP_INTERVALS * config.interval_seconds, wraps_at=WRAP_32_BIT
        )
        self._guard = Guard()

    def collect(self) -> Iterator[Measured]:
        """Yield the metrics of one round."""
        at_seconds = self._elapsed()
        look = Look(self._config, self._counters, at_seconds, self._guard, self._root)
        timestamp = time.time()
        for group in Group:
            if group not in self._config.groups:
                continue
            what, measure = f"group {group}", partial(GROUPS[group], look)
            for found in self._guard.gather(what, measure):
                tags = {"host": self._host, **found.tags}
                record = metric(group, found.fields, tags, timestamp)
                if record["fields"]:
                    routing_key = f"metrics.system.{self._host}.{group}"
                    yield Measured(routing_key, record)
        self._counters.forget_unread()


def system(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of this machine: processors, memory, disks, network, …

    Groups of metrics and interval are in config/producers/system.yaml. Metrics go to
    the exchange metrics, with the routing keys metrics.system.<host>.<group>.

    Exit codes: 0 all confirmed; 1 no queue for some messages; 75 some not confirmed,
    they are on disk; 78 bad configuration.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    collector = SystemCollector(config, root=settings.env.host_root)
    run_collector(context, collector.collect, config.interval_seconds, dry_run=dry_run)


if __name__ == "__main__":
    main("system")
