"""Everything that is wrong with the configuration, and all that looks so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from meshtasks.amqp.connecting import unopened
from meshtasks.cli.config_crosscheck import Doubt, doubts
from meshtasks.config.loader import fault_in
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError
from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.builtin import FILES, HANDLERS, handlers_of
from meshtasks.flows.sinks import TIMESERIES, Sinks
from meshtasks.gateway.config import GATEWAY
from producers.configuration import CONFIGS

#: Files of config/ that are read; those of producers are named in CONFIGS.
_READ = (*FILES, GATEWAY)
_FILES = frozenset(file.name for file in _READ)

Level = Literal["error", "warning", "note"]
_LEVELS = get_args(Level)


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        level: an error stops the start; a warning is of something that is never
            going to work; a note is good to know.
        source: the file or environment variable.
        line: of the file.
        key: dotted path of the value.
        text: what was expected, or what is odd.
    """

    level: Level
    source: str
    line: int | None
    key: str
    text: str

    @property
    def place(self) -> str:
        """Where, as editors and terminals understand it."""
        return self.source if self.line is None else f"{self.source}:{self.line}"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return self._asdict()


def findings(settings: Settings) -> list[Finding]:
    """All findings, errors first.

    What files say of each other is looked at once all of them can be read.
    """
    errors = list(_errors(settings))
    if errors:
        return [_error(each) for each in errors]
    found = [_doubt(settings, each) for each in doubts(settings, handlers_of(settings))]
    found += _unread(settings)
    if not settings.env.broker_url.get_secret_value():
        text = "not set: workers and commands need amqp://user:password@host:5672/vhost"
        found.append(Finding("note", "environment", None, "MESH_BROKER_URL", text))
    return sorted(found, key=lambda each: _LEVELS.index(each.level))


def _errors(settings: Settings) -> Iterator[ConfigError]:
    broken = settings.faults(_READ)
    yield from broken
    if not broken:  # these need the files
        yield from _raised(partial(handlers_of, settings))
        for name, read in CONFIGS.items():
            path = settings.env.config_file(f"producers/{name}.yaml")
            if path.exists():
                yield from _raised(partial(read, settings))
        for timer in {each.timer for each in HANDLERS.values() if each.timer}:
            yield from _raised(partial(timer.check, settings))
    sinks = Sinks(settings)
    if url := settings.env.broker_url.get_secret_value():
        yield from _raised(lambda: unopened(url))
    yield from _raised(lambda: sinks[OBJECTS])
    yield from _raised(lambda: sinks[TIMESERIES])
    sinks.close()


def _raised(attempt: Callable[[], object]) -> Iterator[ConfigError]:
    try:
        attempt()
    except ConfigError as error:
        yield from (error, *error.more)


def _error(fault: ConfigError) -> Finding:
    return Finding("error", fault.source, fault.line, fault.key, fault.expected)


def _doubt(settings: Settings, doubt: Doubt) -> Finding:
    path = settings.env.config_file(doubt.file)
    fault = fault_in(path, doubt.key, doubt.text)
    return Finding(doubt.level, fault.source, fault.line, fault.key, fault.expected)


def _unread(settings: Settings) -> Iterator[Finding]:
    directory = settings.env.config_dir
    for path in _yaml_files(directory):
        if path.name not in _FILES:
            text = f"nothing reads this file; known are {', '.join(sorted(_FILES))}"
            yield Finding("warning", str(path), None, "-", text)
    for path in _yaml_files(directory / "producers"):
        if path.stem not in CONFIGS:
            text = "not checked: producers/configuration.py does not name it"
            yield Finding("note", str(path), None, "-", text)


def _yaml_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
