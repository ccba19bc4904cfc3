"""``meshtasks config``: check the configuration, and explain its effect."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import typer

from meshtasks.amqp.connecting import unopened
from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.cli.terminal import EXIT_USAGE, AsJson, fail, say
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import ConfigError
from meshtasks.flows.contract import Handler
from meshtasks.flows.diagnosis import Doubt
from meshtasks.flows.loading import Flows, load_flows
from meshtasks.flows.sinks import TIMESERIES, Sinks
from meshtasks.gateway.config import GATEWAY
from meshtasks.observation.explain import exchanges_for, explain, is_known
from meshtasks.producers.configuration import CONFIGS

Level = Literal["error", "warning", "note"]
_LEVELS = get_args(Level)


class Finding(NamedTuple):
    """A result of the check.

    Attributes:
        level: an error stops the start; a warning means that something cannot work; a
            note is for information.
        source: the file, the environment variable or the package.
        line: line number in the file; None without one.
        key: dotted path of the value.
        text: what was expected, or what is unusual.
    """

    level: Level
    source: str
    line: int | None
    key: str
    text: str

    @property
    def place(self) -> str:
        """Source and line, in the form that editors and terminals recognise."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


def findings(settings: Settings) -> list[Finding]:
    """All findings, errors first.

    Relations between files are checked only if all files can be read.

    Raises:
        ConfigError: a flow cannot be loaded.
    """
    flows = load_flows()
    if errors := list(_errors(settings, flows)):
        return [_finding(error) for error in errors]
    handlers = flows.handlers(settings)
    doubts = list(_of_queues(settings, handlers))
    for flow in flows.flows:
        doubts += flow.doubts(settings, handlers)
    found = [
        _finding(settings.fault(doubt.file, doubt.key, doubt.text), doubt.level)
        for doubt in doubts
    ]
    found += _unread(settings, flows)
    if not settings.env.broker_url.get_secret_value():
        text = "not set: workers and commands need amqp://user:password@host:5672/vhost"
        found.append(Finding("note", "environment", None, "MESH_BROKER_URL", text))
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


def _finding(fault: ConfigError, level: Level = "error") -> Finding:
    return Finding(level, fault.source, fault.line, fault.key, fault.expected)


def _errors(settings: Settings, flows: Flows) -> Iterator[ConfigError]:
    broken = settings.faults((*flows.files, GATEWAY))
    yield from broken
    if not broken:  # the following needs the files
        yield from _raised(partial(flows.handlers, settings))
        for name, read in CONFIGS.items():
            if settings.env.config_file(f"producers/{name}.yaml").exists():
                yield from _raised(partial(read, settings))
        for timer in {each.timer for each in flows.fixed.values() if each.timer}:
            yield from _raised(partial(timer.check, settings))
    for flow in flows.flows:
        yield from _raised(partial(flow.validate, settings))
    sinks = Sinks(settings)
    if url := settings.env.broker_url.get_secret_value():
        yield from _raised(lambda: unopened(url))
    yield from _raised(lambda: sinks[TIMESERIES])
    sinks.close()


def _raised(attempt: Callable[[], object]) -> Iterator[ConfigError]:
    try:
        attempt()
    except ConfigError as error:
        yield from (error, *error.more)


def _of_queues(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    topology = settings.read(TOPOLOGY)
    for index, queue in enumerate(topology.queues):
        if queue.name not in topology.domain_queues:
            continue
        key = f"queues.{index}.name"
        if queue.name not in handlers:
            text = (
                f"no handler for {queue.name}: a worker started without -Q leaves it "
                "alone. Another program must consume it, or queues.yaml give it a flow"
            )
            yield Doubt("note", TOPOLOGY, key, text)
        is_bound = any(binding.queue == queue.name for binding in topology.bindings)
        if not is_bound and queue.name != PENDING_TIMESERIES:
            text = f"no binding leads to {queue.name}: nothing arrives there"
            yield Doubt("warning", TOPOLOGY, key, text)
    for name in sorted(handlers.keys() - set(topology.domain_queues)):
        is_declared = name in topology.queue_names
        why = "is no queue of records" if is_declared else "is not declared"
        text = f"{name} has a handler, but {why}: it is not consumed"
        yield Doubt("warning", TOPOLOGY, "queues", text)


def _unread(settings: Settings, flows: Flows) -> Iterator[Finding]:
    directory = settings.env.config_dir
    names = {file.name for file in (*flows.files, GATEWAY)}
    for path in _yaml_files(directory):
        if path.name not in names:
            text = f"nothing reads this file; known are {', '.join(sorted(names))}"
            yield Finding("warning", str(path), None, "-", text)
    for path in _yaml_files(directory / "producers"):
        if path.stem not in CONFIGS:
            text = "not checked: meshtasks/producers/configuration.py does not name it"
            yield Finding("note", str(path), None, "-", text)


def _yaml_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


app = typer.Typer()


@app.command()
def check(
    *,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="ROUTING_KEY",
            help="Show what would happen to a message with this routing key: queues, "
            "handlers, sinks, rules, workflows, alerts, archive.",
        ),
    ] = None,
    exchange: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --explain: exchange of the message, if the routing key does "
            "not determine it.",
        ),
    ] = None,
    allow_warnings: Annotated[
        bool,
        typer.Option(
            "--allow-warnings", help="Exit with 0 if there are only warnings."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check config/, config/producers and the MESH_… variables for mistakes.

    All mistakes are listed, with file and line. The command connects to nothing
    (`meshtasks doctor` does). An error stops the start; a warning is something that
    cannot work as configured; a note is information.

    Exit codes: 0 no errors and no warnings; 1 warnings; 78 errors.
    """
    if explain is not None:
        _explain(load_settings(), explain, exchange, as_json=as_json)
    elif exchange is not None:
        fail("--exchange needs --explain", EXIT_USAGE)
    else:
        _check(as_json=as_json, allow_warnings=allow_warnings)


def _check(*, as_json: bool, allow_warnings: bool) -> None:
    try:
        found = findings(load_settings())
    except ConfigError as error:  # from the environment or a flow
        found = [_finding(fault) for fault in (error, *error.more)]
    levels = [finding.level for finding in found]
    if as_json:
        say(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        for finding in found:
            say(f"{finding.place}: {finding.level}: {finding.key}: {finding.text}")
        errors, warnings = levels.count("error"), levels.count("warning")
        counts = [_count(errors, "error"), _count(warnings, "warning")]
        if notes := levels.count("note"):
            counts.append(_count(notes, "note"))
        say(", ".join(counts))
    if "error" in levels:
        sys.exit(ConfigError.exit_code)
    if "warning" in levels and not allow_warnings:
        sys.exit(1)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _explain(
    settings: Settings, routing_key: str, exchange: str | None, *, as_json: bool
) -> None:
    topology = settings.read(TOPOLOGY)
    if exchange is None:
        candidates = exchanges_for(topology, routing_key)
        if not candidates and routing_key in topology.queue_names:
            candidates = [""]  # the default exchange, which retries use, too
        if len(candidates) != 1:
            hint = ", ".join(candidates or (each.name for each in topology.exchanges))
            fail(f"which exchange? Give --exchange, one of {hint}", EXIT_USAGE)
        (exchange,) = candidates
    elif not is_known(topology, exchange):
        fail(f"topology.yaml declares no exchange {exchange}", EXIT_USAGE)
    found = explain(settings, load_flows(), exchange, routing_key)
    if as_json:
        say(json.dumps(found.as_json(), indent=2))
        return
    say("\n".join(found.lines(settings.env.receivers)))
