"""The flows of the mesh: the built-in ones, and those of installed packages.

A package announces a flow under the entry point group ``meshtasks.flows``::

    [project.entry-points."meshtasks.flows"]
    tides = "mesh_tides.flow:FLOW"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import Any

from meshtasks.amqp.queues import QUEUES, QueueEntry
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.loader import refuse
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError
from meshtasks.flows.alerts.handler import FLOW as ALERTS
from meshtasks.flows.analytics import FLOW as ANALYTICS
from meshtasks.flows.archive.handler import FLOW as ARCHIVE
from meshtasks.flows.commands.commands import FLOW as COMMANDS
from meshtasks.flows.contract import Command, Flow, Handler
from meshtasks.flows.inference.handler import FLOW as INFERENCE
from meshtasks.flows.metrics.handler import FLOW as METRICS
from meshtasks.flows.pending import FLOW as PENDING
from meshtasks.flows.readings.handler import FLOW as READINGS
from meshtasks.flows.webhooks.handler import FLOW as WEBHOOKS
from meshtasks.records.kinds import KINDS

GROUP = "meshtasks.flows"

_BUILT_IN = (
    *(READINGS, METRICS, WEBHOOKS, INFERENCE),
    *(ALERTS, ARCHIVE, ANALYTICS, COMMANDS, PENDING),
)


@dataclass(frozen=True)
class Flows:
    """The flows of the mesh.

    Attributes:
        packages: of each flow by name, the package that brings it; empty for a
            built-in one.
    """

    flows: tuple[Flow, ...]
    packages: Mapping[str, str]

    @cached_property
    def files(self) -> tuple[ConfigFile[Any], ...]:
        """Every file of config/ that flows read."""
        own = (file for flow in self.flows for file in flow.files)
        return tuple(dict.fromkeys((TOPOLOGY, QUEUES, *own)))

    @cached_property
    def commands(self) -> dict[str, Command[Any]]:
        """Every command, by name."""
        return {each.name: each for flow in self.flows for each in flow.commands}

    @cached_property
    def fixed(self) -> dict[str, Handler]:
        """The handlers of queues that the flows know by themselves, by queue."""
        return {each.queue: each for flow in self.flows for each in flow.handlers}

    def handlers(self, settings: Settings) -> dict[str, Handler]:
        """All handlers by queue, those of queues.yaml included.

        Raises:
            ConfigError: a file cannot be used, or queues.yaml names a flow or a kind
                that does not exist.
        """
        entries = settings.read(QUEUES).queues
        given = {queue: entry for queue, entry in entries.items() if entry.flow}
        by_kind = {flow.name: flow.by_kind for flow in self.flows if flow.by_kind}
        refuse(
            settings.fault(QUEUES, f"queues.{queue}.{key}", expected)
            for queue, entry in given.items()
            for key, expected in self._faults(queue, entry, by_kind, settings)
        )
        return self.fixed | {
            queue: by_kind[entry.flow](queue, entry.kind)
            for queue, entry in given.items()
        }

    def of_queue(self, settings: Settings, queue: str) -> Flow:
        """The flow that handles this queue; there must be one."""
        for flow in self.flows:
            if any(handler.queue == queue for handler in flow.handlers):
                return flow
        name = settings.read(QUEUES).queues[queue].flow
        return next(flow for flow in self.flows if flow.name == name)

    def _faults(
        self, queue: str, entry: QueueEntry, flows: Iterable[str], settings: Settings
    ) -> Iterator[tuple[str, str]]:
        """Keys of a queue's entry, and what was expected there."""
        kinds = settings.read(KINDS).quantities
        if queue in self.fixed:
            yield "flow", f"no flow, since {queue} has one already"
        elif queue not in settings.read(TOPOLOGY).domain_queues:
            yield "flow", f"no flow, since {queue} is no queue of records"
        elif entry.flow not in flows:
            yield "flow", f"expected one of {', '.join(flows)}, got {entry.flow}"
        elif entry.kind not in kinds:
            known = f"one of {', '.join(kinds)}, or another that kinds.yaml declares"
            if entry.kind:
                yield "kind", f"expected {known}, got {entry.kind}"
            else:
                yield "flow", f"expected a kind beside it: {known}"


@cache
def load_flows() -> Flows:
    """The built-in flows, and those of installed packages, in order of their names.

    Raises:
        ConfigError: naming the package whose flow cannot be used, and why.
    """
    flows, packages = list(_BUILT_IN), dict.fromkeys((f.name for f in _BUILT_IN), "")
    faults: list[ConfigError] = []
    for point in sorted(entry_points(group=GROUP)):
        package = _package(point)
        try:
            flow = _load(point)
        except ConfigError as fault:
            faults.append(fault)
            continue
        if clashes := list(_clashes(flow, flows, packages)):
            faults += [
                ConfigError(f"package {package}", f"flow {point.name}", clash)
                for clash in clashes
            ]
            continue
        flows.append(flow)
        packages[flow.name] = package
    refuse(faults)
    return Flows(tuple(flows), packages)


def _load(point: EntryPoint) -> Flow:
    source, key = f"package {_package(point)}", f"flow {point.name}"
    try:
        flow = point.load()
    except Exception as error:  # it is somebody else's code
        what = f"{type(error).__name__}: {error}"
        expected = f"{point.value} cannot be loaded: {what}{_line_of(error)}"
        raise ConfigError(source, key, expected) from error
    if not isinstance(flow, Flow):
        expected = f"expected {point.value} to be a Flow, got {type(flow).__name__}"
        raise ConfigError(source, key, expected)
    return flow


def _line_of(error: Exception) -> str:
    """The last line that is not of those that import; empty if there is none."""
    importing = {__file__, metadata.__file__}
    for frame in reversed(extract_tb(error.__traceback__)):
        if frame.filename not in importing and not frame.filename.startswith("<frozen"):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def _clashes(
    flow: Flow, others: Iterable[Flow], packages: Mapping[str, str]
) -> Iterator[str]:
    """What this flow cannot have, because another has it, or it has it twice.

    Files and sinks of one name may be shared, as one object.
    """
    queues = [handler.queue for handler in flow.handlers]
    for queue in sorted({queue for queue in queues if queues.count(queue) > 1}):
        yield f"queue {queue} has two handlers"
    for other in others:
        of = packages[other.name]
        owner = f"the flow {other.name}" + (f" of package {of}" if of else "")
        if flow.name == other.name:
            yield f"expected another name: there is {owner} already"
        for what, mine, theirs in (
            ("queue", _queues(flow), _queues(other)),
            ("command", _commands(flow), _commands(other)),
            ("file", _files(flow), _files(other)),
            ("sink", _sinks(flow), _sinks(other)),
        ):
            for name in sorted(mine.keys() & theirs.keys()):
                if mine[name] is not theirs[name]:
                    yield f"{what} {name} belongs to {owner} already"


def _queues(flow: Flow) -> dict[str, object]:
    return {handler.queue: handler for handler in flow.handlers}


def _commands(flow: Flow) -> dict[str, object]:
    return {command.name: command for command in flow.commands}


def _files(flow: Flow) -> dict[str, object]:
    return {file.name: file for file in flow.files}


def _sinks(flow: Flow) -> dict[str, object]:
    keys = (key for handler in flow.handlers for key in handler.sinks)
    return {key.name: key for key in (*keys, *flow.sinks)}
