"""config/producers/NAME.yaml: one file for each producer, with a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from meshtasks.config.loader import load_yaml
from meshtasks.config.settings import Settings

_Model = TypeVar("_Model", bound=BaseModel)

#: One word of a routing key.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Model(BaseModel):
    """A part of a configuration file: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Selection(Model):
    """Which of the things that have names are wanted.

    Attributes:
        include: patterns; ``*`` is any text, ``?`` any character.
        exclude: patterns of those that are not wanted all the same.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether the name fits one of the first and none of the second."""
        return fits(name, self.include) and not fits(name, self.exclude)


def fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def producer_config(settings: Settings, name: str, model: type[_Model]) -> _Model:
    """Read a producer's file.

    Raises:
        ConfigError: it is missing or does not fit the model; with the key and what
            was expected.
    """
    return load_yaml(producer_file(settings, name), model)


def producer_file(settings: Settings, name: str) -> Path:
    """Where a producer's file is."""
    return settings.env.config_file(f"producers/{name}.yaml")


def _read(settings: Settings, name: str, module: str, reader: str) -> object:
    found = getattr(import_module(f"producers.{name}.{module}"), reader)
    if isinstance(found, type) and issubclass(found, BaseModel):
        return producer_config(settings, name, found)
    return found(settings)


#: Name of the file without ``.yaml`` → reads it, and raises ConfigError for its faults.
#: `meshtasks config check` reads those that are there.
CONFIGS: Mapping[str, Callable[[Settings], object]] = {
    name: partial(_read, name=name, module=module, reader=reader)
    for name, module, reader in (
        ("homeassistant", "config", "HomeAssistantConfig"),
        ("prometheus", "config", "PrometheusConfig"),
        ("sensornet", "config", "load"),
        ("system", "collector", "SystemConfig"),
        ("triton", "collector", "TritonConfig"),
    )
}
