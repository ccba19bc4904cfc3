"""F1: environment and config/*.yaml become one frozen :class:`Settings`.

Environment variables carry the prefix ``MESH_``; ``.env`` is honoured, and for
every secret ``MESH_X_FILE`` names a file that holds it (Docker and Kubernetes
secrets). Everything that is not a secret and not a place lives in config/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshtasks.configfile import fault_in, load_yaml, refuse, together
from meshtasks.domain.alerting.policy import AlertPolicy
from meshtasks.domain.archiving import ArchivePolicy
from meshtasks.domain.errors import ConfigError
from meshtasks.domain.inference.pipeline import ModelBook
from meshtasks.domain.retry import RetryPolicy
from meshtasks.domain.rules import RuleBook
from meshtasks.domain.topology import Topology
from meshtasks.domain.units import KindsConfig
from meshtasks.domain.web import Auth, is_base_url
from meshtasks.domain.workflows import WorkflowBook
from meshtasks.templates import BadTemplate, Renderer

__all__ = (
    "BatchLimits",
    "Environment",
    "QueueSettings",
    "QueuesConfig",
    "Settings",
    "auth_headers",
    "load_settings",
    "load_yaml",
)

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


class BatchLimits(BaseModel):
    """A batch is handed on as soon as one of these is reached.

    Attributes:
        count: messages.
        bytes: sum of the message bodies.
        age_ms: milliseconds since the batch's first message arrived.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1, le=20_000)] = 2000
    bytes: Annotated[int, Field(ge=1)] = 1 << 20
    age_ms: Annotated[int, Field(ge=1, le=600_000)] = 200


class QueueSettings(BaseModel):
    """How one queue is consumed.

    Attributes:
        max_message_bytes: a larger body is dead-lettered unread.
        time_limit_seconds: a batch that runs longer is killed and retried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: BatchLimits = BatchLimits()
    retry: RetryPolicy = RetryPolicy()
    max_message_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    time_limit_seconds: Annotated[float, Field(gt=0)] = 300.0


class QueuesConfig(BaseModel):
    """config/queues.yaml: ``defaults`` and what each queue changes of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    defaults: QueueSettings = QueueSettings()
    queues: dict[str, QueueSettings] = {}

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("queues"), dict):
            return data
        base = data.get("defaults") or {}
        merged = {
            name: _merged(base, changes or {})
            for name, changes in data["queues"].items()
        }
        return {**data, "queues": merged}

    def for_queue(self, name: str) -> QueueSettings:
        """Settings of one queue; the defaults where it has none of its own."""
        return self.queues.get(name, self.defaults)


class GatewayConfig(BaseModel):
    """config/gateway.yaml.

    Attributes:
        max_body_bytes: a larger body is refused.
        requests_per_second: of one token, in the long run.
        burst: of one token, at once after a rest.
        keep_keys_hours: how long an ``Idempotency-Key`` is remembered.
        keep_tasks_days: how long a task is, after the last news of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    requests_per_second: Annotated[float, Field(gt=0)] = 50.0
    burst: Annotated[int, Field(ge=1)] = 200
    keep_keys_hours: Annotated[float, Field(gt=0)] = 24.0
    keep_tasks_days: Annotated[float, Field(gt=0)] = 7.0


class Settings:
    """Everything the mesh knows at start. Built once, by :func:`load_settings`;
    each YAML file is read and validated on first use and then kept."""

    def __init__(self, env: Environment) -> None:
        self.env = env

    @cached_property
    def topology(self) -> Topology:
        """config/topology.yaml."""
        return load_yaml(self.env.config_dir / "topology.yaml", Topology)

    @cached_property
    def queues(self) -> QueuesConfig:
        """config/queues.yaml."""
        path = self.env.config_dir / "queues.yaml"
        queues = load_yaml(path, QueuesConfig)
        expected = "a queue that topology.yaml declares"
        refuse(
            fault_in(path, f"queues.{name}", expected)
            for name in queues.queues
            if name not in self.topology.queue_names
        )
        return queues

    @cached_property
    def rules(self) -> RuleBook:
        """config/rules.yaml."""
        return load_yaml(self.env.config_dir / "rules.yaml", RuleBook)

    @cached_property
    def kinds(self) -> KindsConfig:
        """config/kinds.yaml."""
        return load_yaml(self.env.config_dir / "kinds.yaml", KindsConfig)

    @cached_property
    def archive(self) -> ArchivePolicy:
        """config/archive.yaml."""
        return load_yaml(self.env.config_dir / "archive.yaml", ArchivePolicy)

    @cached_property
    def alerts(self) -> AlertPolicy:
        """config/alerts.yaml."""
        path = self.env.config_dir / "alerts.yaml"
        policy = load_yaml(path, AlertPolicy)
        expected = f"a receiver that {path} declares under receivers"
        refuse(
            ConfigError("environment", f"MESH_RECEIVERS__{name.upper()}", expected)
            for name in self.env.receivers
            if name not in policy.receivers
        )
        return policy

    @cached_property
    def renderer(self) -> Renderer:
        """Makes the texts of notifications, by the templates of alerts.yaml."""
        try:
            return Renderer(self.alerts.templates)
        except BadTemplate as error:
            path = self.env.config_dir / "alerts.yaml"
            key = f"templates.{error.name}"
            raise fault_in(path, key, error.reason) from error

    @cached_property
    def workflows(self) -> WorkflowBook:
        """config/workflows.yaml; what its webhooks need of the environment is there."""
        path = self.env.config_dir / "workflows.yaml"
        book = load_yaml(path, WorkflowBook)
        refuse(self._missing_for(book, path))
        return book

    def _missing_for(self, book: WorkflowBook, path: Path) -> Iterator[ConfigError]:
        calls_n8n = any(workflow.webhook.is_path for workflow in book.workflows)
        if calls_n8n and not is_base_url(self.env.n8n_url):
            expected = "a URL such as http://127.0.0.1:5678"
            yield ConfigError("environment", "MESH_N8N_URL", expected)
        for place, workflow in enumerate(book.workflows):
            if auth := workflow.webhook.auth:
                key = f"workflows.{place}.webhook.auth"
                try:
                    auth_headers(auth, self.env, path, key)
                except ConfigError as error:
                    yield error

    @property
    def triton_base_url(self) -> str:
        """``MESH_TRITON_URL`` with its scheme.

        Raises:
            ConfigError: it is not the place of a server.
        """
        url = self.env.triton_url
        url = url if "://" in url else f"http://{url}"
        if not is_base_url(url):
            expected = "host and port, such as 127.0.0.1:8000"
            raise ConfigError("environment", "MESH_TRITON_URL", expected)
        return url

    @cached_property
    def models(self) -> ModelBook:
        """config/models.yaml; Triton's place in the environment can be one."""
        _ = self.triton_base_url
        return load_yaml(self.env.config_dir / "models.yaml", ModelBook)

    @cached_property
    def gateway(self) -> GatewayConfig:
        """config/gateway.yaml."""
        return load_yaml(self.env.config_dir / "gateway.yaml", GatewayConfig)

    def faults(self) -> list[ConfigError]:
        """Everything that is wrong with the files, and with what they need of the
        environment; reads them all."""
        found: dict[str, ConfigError] = {}
        for part in _PARTS:
            try:
                getattr(self, part)
            except ConfigError as error:
                # a file that others are checked against is complained of by each
                found |= {str(each): each for each in (error, *error.more)}
        return list(found.values())

    def validate(self) -> None:
        """Read every file now, so that a bad one stops the start.

        Raises:
            ConfigError: naming the file, the line, the key and what was expected.
        """
        refuse(self.faults())


#: What :meth:`Settings.faults` reads.
_PARTS = (
    *("topology", "queues", "rules", "kinds", "archive"),
    *("workflows", "models", "alerts", "renderer", "gateway"),
)


def load_settings() -> Settings:
    """Settings from the environment, ``.env`` and the config directory.

    Raises:
        ConfigError: naming the variable and what was expected.
    """
    try:
        return Settings(Environment())
    except ValidationError as error:
        raise together(
            ConfigError(
                "environment",
                f"MESH_{'__'.join(map(str, each['loc'])).upper()}",
                each["msg"].removeprefix("Value error, "),
            )
            for each in error.errors(include_input=False)
        ) from error


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


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``, one level deep."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = {**below, **value}
        else:
            result[key] = value
    return result
