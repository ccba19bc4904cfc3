"""The settings of a process: environment variables, and the files of config/."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import certifi
from pydantic import BaseModel, ValidationError

from meshtasks.config.environment import Environment
from meshtasks.config.loader import fault_in, load_yaml, refuse, together
from meshtasks.config.private_files import replace_file
from meshtasks.errors import ConfigError, MeshError, told

M = TypeVar("M", bound=BaseModel)

#: Variables that name the file of trusted authorities for OpenSSL and for requests.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def _no_faults(_model: BaseModel, _settings: Settings) -> Iterable[ConfigError]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class ConfigFile(Generic[M]):
    """A file of config/, defined as a constant beside its model.

    Attributes:
        name: name of the file, such as ``rules.yaml``.
        model: model of its content.
        check: returns faults that depend on another file or on the environment, which
            the model does not know; it may also raise ``ConfigError``.
        default: file to read if config/ has none of this name; for the files that
            flows of other packages ship.
    """

    name: str
    model: type[M]
    check: Callable[[M, Settings], Iterable[ConfigError]] = _no_faults
    default: Path | None = None


class Settings:
    """The environment and the configuration files of a process.

    Each file is read and validated on first use, and then kept.

    Attributes:
        env: values of the environment variables.
    """

    def __init__(self, env: Environment) -> None:
        self.env = env
        self._models: dict[ConfigFile[Any], Any] = {}

    def read(self, file: ConfigFile[M]) -> M:
        """The content of a file.

        Raises:
            ConfigError: the file has faults; the error carries all of them.
        """
        if (kept := self._models.get(file)) is None:
            try:
                kept = load_yaml(self.path(file), file.model)
                refuse(file.check(kept, self))
            except MeshError:
                raise
            except Exception as error:  # a bug in the model or check of a foreign flow
                expected = f"what checks this file failed: {told(error)}"
                raise ConfigError(str(self.path(file)), "-", expected) from error
            self._models[file] = kept
        model: M = kept
        return model

    def path(self, file: ConfigFile[Any]) -> Path:
        """Path of a file: in config/, else the default; it need not exist."""
        path = self.env.config_file(file.name)
        if path.exists():
            return path
        return file.default or self.env.config_dir / file.name

    def fault(self, file: ConfigFile[Any], key: str, expected: str) -> ConfigError:
        """A fault of a file, with its line.

        Args:
            key: dotted path of the value at fault.
            expected: what was expected.
        """
        return fault_in(self.path(file), key, expected)

    def faults(self, files: Iterable[ConfigFile[Any]]) -> list[ConfigError]:
        """All faults of these files; reads every file."""
        found: dict[str, ConfigError] = {}
        for file in files:
            try:
                self.read(file)
            except ConfigError as error:
                # A file that other files are checked against is reported repeatedly.
                found |= {str(fault): fault for fault in (error, *error.more)}
        return list(found.values())

    def validate(self, files: Iterable[ConfigFile[Any]]) -> None:
        """Read these files now, so that a fault stops the start.

        Raises:
            ConfigError: there are faults; each has the file, the line, the key and
                what was expected.
        """
        refuse(self.faults(files))


def load_settings() -> Settings:
    """Settings from the environment, ``.env`` and the config directory.

    Raises:
        ConfigError: a variable is wrong; names it and what was expected.
    """
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
    if env.ca_file and env.ca_file != Path():  # Path() if the variable is empty
        trust(env.ca_file, env.state_dir)
    return Settings(env)


def trust(ca_file: Path, directory: Path) -> None:
    """Trust a private authority too, in this process and the processes that it starts.

    Every client (AMQP, HTTP, S3, notifications) uses the default authorities of OpenSSL
    or of requests. Both read the path of their file from an environment variable. This
    function writes one file with the public authorities and this one, for all clients.

    Args:
        ca_file: certificates of the authority, PEM.
        directory: directory for the combined file; created if missing.

    Raises:
        ConfigError: the file contains no certificate, or the combined file cannot be
            written.
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
