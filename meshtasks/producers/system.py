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
    """What is measured together; also the metric's name."""

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
    """What the collector of system metrics looks at.

    Attributes:
        host: name of this machine in tags and routing keys; its own, up to the first
            dot, when not given.
        cpu: by number; ``total`` is all of them together.
        disk: file systems, by mount point.
        diskio: block devices, by name.
        net: network interfaces, by name.
        temp: thermometers, by chip (``coretemp``, ``nvme``).
        process: programs that are watched by name, each for itself.
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

#: Field → psutil's name of it.
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


#: Images that are read-only by nature, and file systems that lie over others or in
#: memory.
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
    """Some attributes as fields; what this platform does not have is None."""
    return {field: getattr(found, name, None) for field, name in names.items()}


class Found(NamedTuple):
    """One metric's fields, and the tags that tell it from others of its group."""

    fields: Fields
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """One round's look at the machine.

    Attributes:
        counters: what was counted before.
        at_seconds: the round's moment, by :func:`elapsed_seconds`.
        guard: for the things of a group that may fail one by one.
        root: where the machine's file systems are; others are a container's own.
    """

    config: SystemConfig
    counters: Counters
    at_seconds: float
    guard: Guard
    root: Path = Path("/")

    def rates(
        self, group: Group, name: str, values: Mapping[str, float]
    ) -> dict[str, float]:
        """Counter → increase per second; empty when there is no telling."""
        increase = self.counters.read((group, name), values, self.at_seconds)
        if increase is None:
            return {}
        return {each: by / increase.seconds for each, by in increase.by.items()}


def cpu(look: Look) -> Iterator[Found]:
    """Shares of the time since the round before."""
    shares = {"total": psutil.cpu_times_percent()}
    for number, each in enumerate(psutil.cpu_times_percent(percpu=True)):
        shares[str(number)] = each
    for name, share in shares.items():
        percents = share._asdict()
        # There is no time before the first round to have shares of.
        if look.config.cpu.wants(name) and any(percents.values()):
            idle = percents["idle"] + percents.get("iowait", 0.0)
            fields = {f"{kind}_percent": each for kind, each in percents.items()}
            yield Found({"used_percent": 100.0 - idle, **fields}, {"cpu": name})


def memory(_look: Look) -> Iterator[Found]:
    """The machine's memory; "used" is what is not available to programs."""
    found = psutil.virtual_memory()
    fields = _attributes(found, _MEMORY)
    yield Found({**fields, "used_bytes": found.total - found.available}, {})


def swap(look: Look) -> Iterator[Found]:
    """Swap space, and what moves in and out of it."""
    found = psutil.swap_memory()
    rates = look.rates(Group.SWAP, "", {"in": found.sin, "out": found.sout})
    moved = {f"{way}_bytes_per_second": rates.get(way) for way in ("in", "out")}
    yield Found({**_attributes(found, _SPACE), **moved}, {})


def disk(look: Look) -> Iterator[Found]:
    """File systems on devices. One that is mounted in several places is published
    once, at the shortest path; those of the network are not, since one that is away
    would hang. Nor are those that cannot be written: images are always
    full, and that is no news."""
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
    """What the machine itself calls a mount point; None of one that is not its own."""
    path = Path(mountpoint)
    return str("/" / path.relative_to(root)) if path.is_relative_to(root) else None


def _never_fills(part: Any) -> bool:
    """Whether a file system is as full as it will ever be, or is no disk at all."""
    kind = part.fstype.lower()
    if kind in _NO_DISKS or kind.startswith(_NO_DISK_PREFIXES):
        return True
    read_only = "ro" in part.opts.split(",")
    return read_only and not _is_writable_elsewhere(part.mountpoint)


def _is_writable_elsewhere(path: str) -> bool:
    """Whether a file system is written all the same where it is mounted read-only:
    systemd and containers mount disks so for single services.

    Linux lists a mount's own options and, behind the dash, of those of its file
    system (proc_pid_mountinfo(5)).
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    writable = False  # the last mount at a path is the one that is seen
    for line in mounts.splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split(" ")[4:5] == [path.replace(" ", "\\040")]:
            writable = "rw" in file_system.rpartition(" ")[2].split(",")
    return writable


def disk_io(look: Look) -> Iterator[Found]:
    """What block devices read and write."""
    # Wraps and restarts are for look.counters to find.
    every = psutil.disk_io_counters(perdisk=True, nowrap=False)
    for name, found in _wanted(every, look.config.diskio):
        rates = look.rates(Group.DISK_IO, name, found._asdict())
        fields = {field: rates.get(each) for each, field in _DISK_RATES.items()}
        if "busy_time" in rates:  # milliseconds in each second
            fields["busy_percent"] = min(100.0, rates["busy_time"] / 10.0)
        yield Found(fields, {"device": name})


def network(look: Look) -> Iterator[Found]:
    """What network interfaces receive and send."""
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
    """Thermometers of chips and disks, on Linux and FreeBSD."""
    if not hasattr(psutil, "sensors_temperatures"):
        return
    chips = psutil.sensors_temperatures()
    for chip, sensors in _wanted(chips, look.config.temp):
        for number, sensor in enumerate(sensors):
            # Several of a chip may have no name, or the same one.
            tags = {"chip": chip, "sensor": f"{number} {sensor.label}".strip()}
            yield Found(_attributes(sensor, _TEMPERATURES), tags)


def load(_look: Look) -> Iterator[Found]:
    """Load and uptime."""
    loads = zip(("load1", "load5", "load15"), psutil.getloadavg(), strict=True)
    uptime_seconds = time.time() - psutil.boot_time()
    counted = {"cpus": psutil.cpu_count(), "uptime_seconds": uptime_seconds}
    yield Found({**dict(loads), **counted}, {})


def processes(_look: Look) -> Iterator[Found]:
    """How many processes there are, by state."""
    states = Counter[str]()
    total = threads = 0
    for process in psutil.process_iter(["status", "num_threads"]):
        total += 1
        threads += process.info["num_threads"] or 0
        states[process.info["status"]] += 1
    named = {name: states[state] for state, name in _PROCESS_STATES.items()}
    yield Found({"total": total, "threads": threads, **named}, {})


def process(look: Look) -> Iterator[Found]:
    """The programs that are watched; all processes of one name together. One that
    is watched by its full name and does not run has a count of 0."""
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


#: Those that this user may not see are None.
_PROCESS_ATTRIBUTES = [
    *("pid", "name", "create_time", "cpu_times", "memory_info", "num_threads")
]


@dataclass(slots=True)
class _Program:
    """The processes of one name."""

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
            # Process ids are used again.
            source = f"{info['pid']} {info['create_time']}"
            rates = look.rates(Group.PROCESS, source, used_seconds)
            if rates:
                self.cpu_percent = (self.cpu_percent or 0.0) + 100.0 * rates["cpu"]


def _wanted(
    every: Mapping[str, _T] | None, selection: Selection
) -> list[tuple[str, _T]]:
    """Those that are wanted, by name; None on a machine without any."""
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

    A group that cannot be read is left out, and logged once; the others go on.
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
        """One round."""
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
