"""config/producers/NAME.yaml: one file per producer, each with its own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import Annotated

from pydantic import Field

from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import Settings

#: One word of a routing key.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Selection(ConfigModel):
    """Selects names: those that match ``include`` and do not match ``exclude``.

    Both are lists of patterns with ``*`` and ``?``.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Return whether the name matches ``include`` and not ``exclude``."""
        return fits(name, self.include) and not fits(name, self.exclude)


def fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _read(settings: Settings, module: str) -> object:
    return settings.read(import_module(f"meshtasks.producers.{module}").CONFIG)


#: File name without ``.yaml`` → function that reads the file, and raises ConfigError
#: for its faults. `meshtasks config check` reads the files that exist.
CONFIGS: Mapping[str, Callable[[Settings], object]] = {
    module.partition(".")[0]: partial(_read, module=module)
    for module in (
        "homeassistant.config",
        "prometheus.config",
        "sensornet.config",
        "system",
        "triton",
    )
}
