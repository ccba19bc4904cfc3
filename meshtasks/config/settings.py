"""The settings of a process: the environment, and the files of config/."""

from __future__ import annotations

import io
import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import certifi
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BaseModel, ValidationError

from meshtasks.config.environment import Environment
from meshtasks.config.loader import fault_in, load_yaml, refuse, together
from meshtasks.config.private_files import replace_file
from meshtasks.errors import ConfigError, MeshError, told

#: Read in the directory that a process runs in.
ENV_FILE = Path(".env")

M = TypeVar("M", bound=BaseModel)

#: What OpenSSL, and requests, read.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


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
            try:
                kept = load_yaml(self.path(file), file.model)
                refuse(file.check(kept, self))
            except MeshError:
                raise
            except Exception as error:  # of the model of somebody else's flow
                expected = f"what checks this file failed: {told(error)}"
                raise ConfigError(str(self.path(file)), "-", expected) from error
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
    env_file_values(ENV_FILE)
    try:
        env = Environment()
    except ValidationError as error:
        raise together(
            ConfigError(
                "environment",
                f"MESH_{'__'.join(map(str, fault['loc'])).upper()}",
                fault["msg"].removeprefix("Value error, "),
            )
            for fault in error.errors(include_input=False)
        ) from error
    refuse(env.place_faults())
    if env.ca_file and env.ca_file != Path():  # of an empty variable
        trust(env.ca_file, env.state_dir)
    return Settings(env)


def env_file_values(file: Path) -> dict[str, str]:
    """The variables of a file such as ``.env``; none, if it is not there.

    Raises:
        ConfigError: it cannot be read, or a line of it is no assignment.
    """
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        expected = f"expected a readable UTF-8 file, but: {reason}"
        raise ConfigError(str(file), "-", expected) from error
    expected = "expected NAME=value; a value with blanks, quotes or # is in quotes"
    # The library passes over such a line, and over what a stray quote takes along.
    refuse(
        ConfigError(str(file), "-", expected, binding.original.line)
        for binding in parse_stream(io.StringIO(text))
        if binding.error
    )
    found = dotenv_values(stream=io.StringIO(text)).items()
    return {name: value for name, value in found if value is not None}


def trust(ca_file: Path, directory: Path) -> None:
    """Believe also certificates that this authority has signed, in this process and
    those that it starts.

    Every client (AMQP, HTTP, S3, notifications) checks certificates against what
    OpenSSL takes by default, or requests; both read where that is from the
    environment of the process. One file with the public authorities and this one
    serves them all.

    Args:
        ca_file: certificates of the authority, PEM.
        directory: for the file with all authorities; made if missing.

    Raises:
        ConfigError: there is no certificate in the file, or none can be written.
    """
    try:
        own = ca_file.read_text(encoding="utf-8-sig")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=own or "-")
    except (OSError, ValueError) as error:
        expected = f"a file of PEM certificates, but: {error}"
        raise ConfigError("environment", "MESH_CA_FILE", expected) from error
    public = Path(ssl.get_default_verify_paths().openssl_cafile)
    if not public.is_file():
        public = Path(certifi.where())
    text = f"{public.read_text(encoding='utf-8')}\n{own}"
    bundle = directory.absolute() / "ca-bundle.pem"
    try:
        if not bundle.is_file() or bundle.read_text(encoding="utf-8") != text:
            directory.mkdir(parents=True, exist_ok=True)
            replace_file(bundle, text.encode(), 0o644)
    except OSError as error:
        expected = f"to be copied to {bundle}, but: {error.strerror}"
        raise ConfigError("environment", "MESH_CA_FILE", expected) from error
    os.environ.update(dict.fromkeys(_CA_VARIABLES, str(bundle)))
