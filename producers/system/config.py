"""The model of config/producers/system.yaml."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from producers.configuration import Seconds, Selection, Word


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


class SystemConfig(BaseModel):
    """What the collector of system metrics looks at.

    Attributes:
        interval_seconds: time between two rounds.
        host: name of this machine in tags and routing keys; its own, up to the
            first dot, when not given.
        groups: those that are measured.
        cpu: by number; ``total`` is all of them together.
        disk: file systems, by mount point.
        diskio: block devices, by name.
        net: network interfaces, by name.
        temp: thermometers, by chip (``coretemp``, ``nvme``).
        process: programs that are watched by name, each for itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_seconds: Seconds = 10.0
    host: Word | None = None
    groups: Annotated[frozenset[Group], Field(min_length=1)] = frozenset(Group)
    cpu: Selection = Selection(include=("total",))
    disk: Selection = Selection()
    diskio: Selection = Selection()
    net: Selection = Selection()
    temp: Selection = Selection()
    process: Selection = Selection(include=())
