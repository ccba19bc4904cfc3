"""Loads the flows: the built-in ones, and those of installed packages.

A package announces a flow in the entry point group ``meshtasks.flows``::

    [project.entry-points."meshtasks.flows"]
    tides = "mesh_tides.flow:FLOW"
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

from msgspec import Struct
from pydantic import BaseModel, TypeAdapter

from meshtasks.amqp.queues import QUEUES, QueueEntry
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.loader import refuse
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError, MeshError, told
from meshtasks.flows.alerts.handler import FLOW as ALERTS
from meshtasks.flows.analytics import FLOW as ANALYTICS
from meshtasks.flows.archive.handler import FLOW as ARCHIVE
from meshtasks.flows.commands import FLOW as COMMANDS
from meshtasks.flows.contract import (
    Arguments,
    Command,
    Flow,
    Handler,
    Scope,
    Timer,
)
from meshtasks.flows.diagnosis import Check, Detail, Doubt
from meshtasks.flows.inference.handler import FLOW as INFERENCE
from meshtasks.flows.metrics import FLOW as METRICS
from meshtasks.flows.pending import FLOW as PENDING
from meshtasks.flows.readings.handler import FLOW as READINGS
from meshtasks.flows.sinks import SinkKey
from meshtasks.flows.webhooks.handler import FLOW as WEBHOOKS
from meshtasks.records.kinds import KINDS
from meshtasks.text import described

GROUP = "meshtasks.flows"

_BUILT_IN = (
    *(READINGS, METRICS, WEBHOOKS, INFERENCE),
    *(ALERTS, ARCHIVE, ANALYTICS, COMMANDS, PENDING),
)


@dataclass(frozen=True)
class Flows:
    """The flows of the mesh.

    Attributes:
        flows: built-in flows first, then those of packages.
        packages: name and version of the package of each flow, by name of the flow;
            empty for a built-in flow.
    """

    flows: tuple[Flow, ...]
    packages: Mapping[str, str]

    @cached_property
    def files(self) -> tuple[ConfigFile[Any], ...]:
        """All files of config/ that flows use."""
        own = (file for flow in self.flows for file in flow.files)
        return tuple(dict.fromkeys((TOPOLOGY, QUEUES, *own)))

    @cached_property
    def commands(self) -> dict[str, Command[Any]]:
        """All commands by name."""
        return {each.name: each for flow in self.flows for each in flow.commands}

    @cached_property
    def fixed(self) -> dict[str, Handler]:
        """Handlers of the flows' own queues, by queue."""
        return {each.queue: each for flow in self.flows for each in flow.handlers}

    def handlers(self, settings: Settings) -> dict[str, Handler]:
        """All handlers by queue, including those that queues.yaml assigns.

        Raises:
            ConfigError: a file is invalid, or queues.yaml names a flow or a kind that
                does not exist.
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
        """The flow that handles a queue; there must be one."""
        for flow in self.flows:
            if any(handler.queue == queue for handler in flow.handlers):
                return flow
        name = settings.read(QUEUES).queues[queue].flow
        return next(flow for flow in self.flows if flow.name == name)

    def _faults(
        self, queue: str, entry: QueueEntry, flows: Iterable[str], settings: Settings
    ) -> Iterator[tuple[str, str]]:
        """Invalid keys of a queue's entry, and what is expected there."""
        kinds = settings.read(KINDS).quantities
        if queue in self.fixed:
            yield "flow", f"expected no flow, since {queue} has one already"
        elif queue not in settings.read(TOPOLOGY).domain_queues:
            yield "flow", f"expected no flow, since {queue} is no queue of records"
        elif entry.flow not in flows:
            known = f"expected one of {', '.join(flows)}, got {entry.flow}"
            yield "flow", f"{known}; `meshtasks flow list` has those installed"
        elif entry.kind not in kinds:
            known = f"one of {', '.join(kinds)}, or another that kinds.yaml declares"
            if entry.kind:
                yield "kind", f"expected {known}, got {entry.kind}"
            else:
                yield "flow", f"expected a kind beside it: {known}"


@cache
def load_flows() -> Flows:
    """The built-in flows, and those of installed packages in order of their names.

    Raises:
        ConfigError: the flow of a package cannot be used; the text has the package and
            the reason.
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
    if point.pattern.match(point.value) is None:
        expected = f"expected module:attribute, got {described(point.value)}"
        raise ConfigError(source, key, expected)
    try:
        with redirect_stdout(sys.stderr):  # a command may be printing JSON
            flow = point.load()
    except BaseException as error:
        expected = f"{point.value} cannot be loaded: {told(error)}"
        raise ConfigError(source, key, expected) from error
    if not isinstance(flow, Flow):
        expected = f"expected {point.value} to be a Flow, got {_class_of(flow)}"
        raise ConfigError(source, key, expected)
    refuse(ConfigError(source, key, fault) for fault in _misfits(flow))
    changes: dict[str, Any] = {name: tuple(getattr(flow, name)) for name in _PARTS}
    for name in _CALLED:
        if (function := getattr(flow, name)) is not None:
            changes[name] = _Foreign(source, f"flow {flow.name}", name, function)
    changes["handlers"] = tuple(
        replace(each, timer=replace(each.timer, check=check))
        if each.timer and (check := _Foreign(source, key, "check", each.timer.check))
        else each
        for each in changes["handlers"]
    )
    return replace(flow, **changes)


#: Attributes of a flow that are tuples (lists are accepted), with the type of items.
_PARTS: dict[str, type] = {
    "handlers": Handler,
    "files": ConfigFile,
    "sinks": SinkKey,
    "commands": Command,
}
#: Attributes of a flow that are functions, with the type of the items that they return;
#: ``by_kind`` returns one item.
_CALLED: dict[str, type] = {
    "by_kind": Handler,
    "validate": ConfigError,
    "checks": Check,
    "doubts": Doubt,
    "explain": Detail,
}


def _misfits(flow: Any) -> Iterator[str]:
    """Wrong types of a flow's attributes. Python has not checked them."""
    if not isinstance(flow.name, str) or not flow.name.strip():
        yield f"expected its name to be text, got {described(flow.name)}"
    for name, kind in _PARTS.items():
        yield from _strangers(getattr(flow, name), name, kind)
    for name in _CALLED:
        value = getattr(flow, name)
        if not callable(value) and not (name == "by_kind" and value is None):
            yield f"expected {name} to be a function, got {_class_of(value)}"
    for name, faults in _DEEPER.items():
        for part in getattr(flow, name) if _is_list(getattr(flow, name)) else ():
            if isinstance(part, _PARTS[name]):
                yield from faults(part)


def _is_list(value: object) -> bool:
    return isinstance(value, tuple | list)


def _strangers(parts: object, name: str, kind: type) -> Iterator[str]:
    found: Any = parts if _is_list(parts) else (parts,)
    wrong = [each for each in found if not isinstance(each, kind)]
    if wrong or found is not parts:
        got = _class_of(wrong[0] if wrong and found is parts else parts)
        hint = "; is @handles missing?" if kind is Handler and got == "function" else ""
        yield f"expected {name} to be a tuple of {kind.__name__}, got {got}{hint}"


def _unfit(handler: Any) -> Iterator[str]:
    if not isinstance(handler.queue, str) or not handler.queue:
        yield f"expected the name of a queue, got {described(handler.queue)}"
        return
    of = f"of the handler of {handler.queue}"
    for name in ("handle", "validate", "on_exhausted", "originals"):
        if not callable(function := getattr(handler, name)):
            yield f"expected {name} {of} to be a function, got {_class_of(function)}"
    if handler.timer is not None and not isinstance(handler.timer, Timer):
        yield f"expected timer {of} to be a Timer, got {_class_of(handler.timer)}"
    if handler.struct is not None and not _is_subclass(handler.struct, Struct):
        yield f"expected struct {of} to be a class of msgspec.Struct"
    yield from _strangers(handler.sinks, f"sinks {of}", SinkKey)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # models of pydantic 1
            TypeAdapter(handler.record)
    except Exception as error:  # noqa: BLE001 - of pydantic, or of a class of its own
        yield f"record {of} is no type of records: {told(error)}"
    if callable(handler.handle) and (fault := _uncallable(handler.handle)):
        yield f"expected handle {of} to be a function of a batch and sinks {fault}"


#: Functions whose call does not return what they compute.
_NOT_PLAIN = (
    inspect.iscoroutinefunction,
    inspect.isasyncgenfunction,
    inspect.isgeneratorfunction,
)


def _uncallable(handle: Any) -> str:
    """Why a worker cannot call a function as a handler; empty if it can."""
    for function in (handle, type(handle).__call__):
        if any(is_kind(function) for is_kind in _NOT_PLAIN):
            return "that returns a list, but it is asynchronous or a generator"
    with suppress(ValueError):  # some built-in functions have no signature
        try:
            inspect.signature(handle).bind(None, None)
        except TypeError as error:
            return f"({error})"
    return ""


def _is_subclass(value: object, of: type) -> bool:
    return isinstance(value, type) and issubclass(value, of)


def _unfit_command(command: Any) -> Iterator[str]:
    of = f"of the command {command.name}"
    if not _is_subclass(command.arguments, Arguments):
        yield f"expected arguments {of} to be a class of Arguments"
    if not callable(command.run):
        yield f"expected run {of} to be a function, got {_class_of(command.run)}"
    if unknown := {str(scope) for scope in command.scopes} - {*get_args(Scope)}:
        known = ", ".join(get_args(Scope))
        yield f"expected scopes {of} of {known}; got {', '.join(sorted(unknown))}"


def _unfit_file(file: Any) -> Iterator[str]:
    if not _is_subclass(file.model, BaseModel):
        yield f"expected the model of {file.name} to be a class of pydantic's BaseModel"


#: Attributes of a flow whose items have attributes of their own to check.
_DEEPER: dict[str, Callable[[Any], Iterator[str]]] = {
    "handlers": _unfit,
    "commands": _unfit_command,
    "files": _unfit_file,
}


def _class_of(value: object) -> str:
    return "None" if value is None else type(value).__name__


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A function of a flow of a package. Errors and wrong results become a ConfigError
    that names the package."""

    source: str
    key: str
    name: str
    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        is_one, kind = self.name == "by_kind", _CALLED.get(self.name, Handler)
        try:
            given = self.function(*args)
            if self.name == "check":  # of a timer: it raises, or returns nothing
                return None
            # a generator raises only when it is read
            parts = (given,) if is_one else tuple(given)
        except MeshError:
            raise
        except Exception as error:
            fault = self._fault(f"{self.name} failed: {told(error)}")
            raise fault from error
        faults = [*_strangers(parts, f"what {self.name} gives", kind)]
        if is_one and not faults:
            faults = [*_unfit(given)]
            if given.queue != args[0]:
                faults.append(f"by_kind gave {args[0]} the handler of {given.queue}")
        for doubt in parts if kind is Doubt and not faults else ():
            faults += _strangers((doubt.file,), "the file of a doubt", ConfigFile)
        refuse(map(self._fault, faults))
        return given if is_one else parts

    def _fault(self, text: str) -> ConfigError:
        return ConfigError(self.source, self.key, text)


def _package(point: EntryPoint) -> str:
    """Name and version of a package, if its metadata have them."""
    found = (point.dist.name, point.dist.version) if point.dist else ()
    return " ".join(filter(None, found)) or "unknown"


def _clashes(
    flow: Flow, others: Iterable[Flow], packages: Mapping[str, str]
) -> Iterator[str]:
    """Conflicts of a flow with others: names that another flow has, and queues with two
    handlers.

    Flows may share a file or a sink if it is the same object.
    """
    queues = [handler.queue for handler in flow.handlers]
    for queue in sorted({queue for queue in queues if queues.count(queue) > 1}):
        yield f"queue {queue} has two handlers"
    for other in others:
        of = packages[other.name]
        owner = f"the flow {other.name}" + (f" of package {of}" if of else "")
        if flow.name == other.name:
            yield f"expected another name: there is {owner} already"
        theirs = _owned(other)
        for what, mine in _owned(flow).items():
            for name in sorted(mine.keys() & theirs[what].keys()):
                if mine[name] is not theirs[what][name]:
                    yield f"{what} {name} belongs to {owner} already"


def _owned(flow: Flow) -> dict[str, dict[str, object]]:
    """Entities of a flow that need unique names, by kind and name."""
    keys = (key for handler in flow.handlers for key in handler.sinks)
    return {
        "queue": {handler.queue: handler for handler in flow.handlers},
        "command": {command.name: command for command in flow.commands},
        "file": {file.name: file for file in flow.files},
        "sink": {key.name: key for key in (*keys, *flow.sinks)},
    }
