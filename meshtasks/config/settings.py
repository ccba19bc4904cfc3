"""The settings of a process: the environment, and the files of config/."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from meshtasks.config.certificates import trust
from meshtasks.config.environment import Environment
from meshtasks.config.loader import fault_in, load_yaml, refuse, together
from meshtasks.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def _no_faults(_model: BaseModel, _settings: Settings) -> Iterable[ConfigError]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class ConfigFile(Generic[M]):
    """A file of config/; stands beside its model, as a constant.

    Attributes:
        name: of the file, such as ``rules.yaml``.
        model: what it is read into.
        check: faults that the model cannot know by itself, because they depend on
            another file or on the environment; it may raise them, too.
        default: the file that is read where config/ has none of this name; for flows
            of other packages, which bring their own.
    """

    name: str
    model: type[M]
    check: Callable[[M, Settings], Iterable[ConfigError]] = _no_faults
    default: Path | None = None


class Settings:
    """Everything that a process knows at start. Each file is read and validated on
    first use and then kept."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self._models: dict[ConfigFile[Any], Any] = {}

    def read(self, file: ConfigFile[M]) -> M:
        """The content of a file.

        Raises:
            ConfigError: it has faults; carries all of them.
        """
        if (kept := self._models.get(file)) is None:
            kept = load_yaml(self.path(file), file.model)
            refuse(file.check(kept, self))
            self._models[file] = kept
        model: M = kept
        return model

    def path(self, file: ConfigFile[Any]) -> Path:
        """Where a file is."""
        path = self.env.config_file(file.name)
        return path if file.default is None or path.exists() else file.default

    def fault(self, file: ConfigFile[Any], key: str, expected: str) -> ConfigError:
        """A fault of a file that was read already, with its line.

        Args:
            file: the file.
            key: dotted path of the value at fault.
            expected: what would have been right.
        """
        return fault_in(self.path(file), key, expected)

    def faults(self, files: Iterable[ConfigFile[Any]]) -> list[ConfigError]:
        """Everything that is wrong with these files; reads them all."""
        found: dict[str, ConfigError] = {}
        for file in files:
            try:
                self.read(file)
            except ConfigError as error:
                # the faults of a file that others are checked against come repeatedly
                found |= {str(fault): fault for fault in (error, *error.more)}
        return list(found.values())

    def validate(self, files: Iterable[ConfigFile[Any]]) -> None:
        """Read these files now, so that a bad one stops the start.

        Raises:
            ConfigError: naming the file, the line, the key and what was expected.
        """
        refuse(self.faults(files))


def load_settings() -> Settings:
    """Settings from the environment, ``.env`` and the config directory.

    Raises:
        ConfigError: naming the variable and what was expected.
    """
    try:
        env = Environment()
    except ValidationError as error:
        raise together(
            ConfigError(
                "environment",
                f"MESH_{'__'.join(map(str, each['loc'])).upper()}",
                each["msg"].removeprefix("Value error, "),
            )
            for each in error.errors(include_input=False)
        ) from error
    refuse(env.place_faults())
    if env.ca_file and env.ca_file != Path():  # as an empty variable says
        trust(env.ca_file, env.state_dir)
    return Settings(env)
