"""F1: environment and config/*.yaml become one frozen :class:`Settings`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshtasks.amqp.queues import QueuesConfig
from meshtasks.amqp.topology import Topology
from meshtasks.config.certificates import trust
from meshtasks.config.environment import Environment, auth_headers
from meshtasks.config.loader import fault_in, load_yaml, refuse, together
from meshtasks.config.web import is_base_url
from meshtasks.errors import ConfigError
from meshtasks.flows.alerts.config import AlertPolicy
from meshtasks.flows.alerts.templates import BadTemplate, Renderer
from meshtasks.flows.excerpts import ArchivePolicy
from meshtasks.flows.inference.config import ModelBook
from meshtasks.flows.webhooks.config import WorkflowBook
from meshtasks.records.units import KindsConfig
from meshtasks.rules.config import RuleBook


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
