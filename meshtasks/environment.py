"""F1: places and secrets, from the environment.

Variables carry the prefix ``MESH_``; ``.env`` is honoured, and for every secret
``MESH_X_FILE`` names a file that holds it (Docker and Kubernetes secrets). Everything
that is not a secret and not a place lives in config/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshtasks.configfile import fault_in
from meshtasks.domain.errors import ConfigError
from meshtasks.domain.web import Auth

#: Secrets that may also be given as a file, ``MESH_<NAME>_FILE``.
_SECRETS = (
    "broker_url",
    "influx_token",
    "minio_access_key",
    "minio_secret_key",
    "flower_password",
    "api_tokens",
    "hass_token",
)


#: Printable ASCII: whatever else a header may hold, somebody reads it differently.
_FIT_FOR_A_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_HIGHEST_PORT = 65_535


def _ports(text: str) -> range:
    """The ports of ``9151`` or ``9151-9159``; none of an empty text.

    Raises:
        ValueError: these are no ports.
    """
    if not text:
        return range(0)
    found = _PORTS.fullmatch(text)
    first, last = map(int, (found[1], found[2] or found[1])) if found else (1, 0)
    if not first <= last <= _HIGHEST_PORT:
        message = f"expected a port or a range such as 9151-9159, not {text!r}"
        raise ValueError(message)
    return range(first, last + 1)


def _ports_text(text: str) -> str:
    _ports(text)
    return text


class Environment(BaseSettings):
    """Places and secrets, from ``MESH_*`` variables.

    Attributes:
        broker_url: AMQP URL of RabbitMQ, virtual host included.
        config_dir: directory of the YAML files.
        state_dir: directory of this host's own state (rule and archive journals,
            producers' spools).
        spool_messages: most messages that wait in the spool of one producer.
        spool_bytes: most bytes of them.
        archive_url: ``s3://bucket`` or ``file:///directory``.
        receivers: Apprise URLs of the receivers of alerts.yaml, by name:
            ``MESH_RECEIVERS__PHONE`` or ``MESH_RECEIVERS__PHONE_FILE``.
        secrets: values of the headers of workflows.yaml, by name:
            ``MESH_SECRETS__N8N`` or ``MESH_SECRETS__N8N_FILE``.
        metrics_host: address at which a worker shows its metrics.
        metrics_port: the port, or a range of which each worker takes the first
            free one: ``9151-9159``. 0 is any free port; empty, no metrics are shown.
    """

    model_config = SettingsConfigDict(
        env_prefix="MESH_",
        env_file=".env",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
    )

    broker_url: SecretStr = SecretStr("")
    config_dir: Path = Path("config")
    state_dir: Path = Path(".mesh/state")
    spool_messages: Annotated[int, Field(ge=1)] = 1_000_000
    spool_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
    influx_url: str = "http://127.0.0.1:8428"
    influx_token: SecretStr = SecretStr("")
    influx_org: str = "home"
    influx_bucket: str = "mesh"
    archive_url: str = "file://.mesh/archive"
    minio_endpoint: str = "127.0.0.1:9000"
    minio_access_key: SecretStr = SecretStr("")
    minio_secret_key: SecretStr = SecretStr("")
    minio_secure: bool = False
    triton_url: str = "127.0.0.1:8000"
    n8n_url: str = "http://127.0.0.1:5678"
    hass_url: str = "http://homeassistant.local:8123"
    hass_token: SecretStr = SecretStr("")
    flower_user: str = "mesh"
    flower_password: SecretStr = SecretStr("")
    api_tokens: SecretStr = SecretStr("")
    receivers: dict[str, SecretStr] = {}
    secrets: dict[str, SecretStr] = {}
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[str, AfterValidator(_ports_text)] = ""

    @property
    def metrics_ports(self) -> range:
        """``metrics_port`` as ports to try in order."""
        return _ports(self.metrics_port)

    @property
    def amqp_url(self) -> str:
        """``broker_url`` as text; there is no default account to fall back to.

        Raises:
            ConfigError: it is not given.
        """
        if url := self.broker_url.get_secret_value():
            return url
        expected = "expected the broker's URL, amqp://user:password@host:5672/vhost"
        raise ConfigError("environment", "MESH_BROKER_URL", expected)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _SECRETS:
            variable = f"MESH_{name.upper()}_FILE"
            if path := os.environ.get(variable):
                values[name] = _secret_in(path, variable)
        for field in ("receivers", "secrets"):
            if isinstance(named := values.get(field), dict):
                values[field] = {
                    name.removesuffix("_file"): (
                        _secret_in(value, f"MESH_{field.upper()}__{name.upper()}")
                        if name.endswith("_file")
                        else value
                    )
                    for name, value in named.items()
                    if value
                }
        return values


def _secret_in(path: str, variable: str) -> str:
    """The secret in the file that a variable names."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a readable UTF-8 file, but: {error}"
        raise ConfigError("environment", variable, expected) from error


def auth_headers(auth: Auth, env: Environment, path: Path, key: str) -> dict[str, str]:
    """The header that a configuration file asks for, with its secret.

    Args:
        path: the file, and ``key`` the place in it, for errors.

    Raises:
        ConfigError: the environment does not have the secret, or it cannot stand in
            a header.
    """
    secret = env.secrets.get(auth.secret, SecretStr("")).get_secret_value()
    if not _FIT_FOR_A_HEADER.fullmatch(secret):
        variable = f"MESH_SECRETS__{auth.secret.upper()}"
        expected = f"{variable} or {variable}_FILE to hold a header's value"
        raise fault_in(path, f"{key}.secret", expected)
    return {auth.header: secret}
