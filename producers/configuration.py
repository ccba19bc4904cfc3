"""config/producers/NAME.yaml: one file for each producer, with a model of its own."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from meshtasks.config.loader import load_yaml
from meshtasks.config.settings import Settings

_Model = TypeVar("_Model", bound=BaseModel)

#: One word of a routing key.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Selection(BaseModel):
    """Which of the things that have names are wanted.

    Attributes:
        include: patterns; ``*`` is any text, ``?`` any character.
        exclude: patterns of those that are not wanted all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether the name fits one of the first and none of the second."""
        return _fits(name, self.include) and not _fits(name, self.exclude)


def producer_config(settings: Settings, name: str, model: type[_Model]) -> _Model:
    """Read a producer's file.

    Raises:
        ConfigError: it is missing or does not fit the model; with the key and what
            was expected.
    """
    return load_yaml(producer_file(settings, name), model)


def producer_file(settings: Settings, name: str) -> Path:
    """Where a producer's file is."""
    return settings.env.config_dir / "producers" / f"{name}.yaml"


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
