"""Places and secrets, from the environment.

Variables carry the prefix ``MESH_``; ``.env`` is honoured, and for every secret
``MESH_X_FILE`` names a file that holds it (Docker and Kubernetes secrets). Everything
else lives in config/.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshtasks.config.extras import require
from meshtasks.config.loader import fault_in, refuse
from meshtasks.config.urls import (
    HIGHEST_PORT,
    Auth,
    fault_of,
    is_base_url,
    postgresql_url,
    urls_of,
)
from meshtasks.errors import ConfigError
from meshtasks.text import keep_secret

_ENV_FILE = ".env"
_PACKAGED = Path(__file__).with_name("shipped")
_OF_A_CLONE = Path(__file__).parents[2] / "config"
#: The configuration that comes with the package.
SHIPPED_CONFIG = _PACKAGED if _PACKAGED.is_dir() else _OF_A_CLONE
#: Secrets that are sent in a header as they are.
_IN_HEADERS = frozenset(
    {
        "influx_token",
        "influx_admin_token",
        "minio_access_key",
        "minio_secret_key",
        "garage_admin_token",
        "hass_token",
        "secrets",
    }
)
#: Control and format characters (a byte order mark is one), halves of characters, line
#: and paragraph separators: nobody means one in a secret.
_STRAY = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

#: Printable ASCII: whatever else a header may hold, somebody reads it differently.
_FIT_FOR_A_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")

_STATE_FILE = re.compile(r"sqlite:///(?!:memory:)[^?]+")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def _ports(text: str) -> range:
    """The ports of ``9151`` or ``9151-9159``; none of an empty text.

    Raises:
        ValueError: these are no ports.
    """
    if not text:
        return range(0)
    found = _PORTS.fullmatch(text)
    first, last = map(int, (found[1], found[2] or found[1])) if found else (1, 0)
    if not first <= last <= HIGHEST_PORT:
        message = f"expected a port or a range such as 9151-9159, not {text!r}"
        raise ValueError(message)
    return range(first, last + 1)


def _ports_text(text: str) -> str:
    _ports(text)
    return text


class Environment(BaseSettings):
    """Places and secrets, from ``MESH_*`` variables.

    Attributes:
        broker_url: AMQP URL of RabbitMQ, virtual host included; of a cluster, one for
            each node, with ``;`` between them.
        console_broker_url: the same for the console, which looks at more than the
            gateway may; empty, ``broker_url``.
        management_url: where RabbitMQ's management pages are, which get the same
            account, likewise; empty, on their usual port if they show themselves.
        config_dir: directory of the YAML files; one that is not there is taken from
            :data:`SHIPPED_CONFIG`.
        state_dir: directory of this host's own files: the state, unless ``state_url``
            says otherwise, and producers' spools.
        state_url: where the state is that workers share:
            ``postgresql+psycopg://user:password@host/database`` for those of several
            hosts, ``sqlite:////directory/mesh.db`` for those of one; empty, the file
            ``mesh.db`` in ``state_dir``.
        ca_file: certificates, PEM, of an authority of one's own, which all clients
            believe beside the public ones.
        spool_messages: most messages that wait in the spool of one producer.
        spool_bytes: most bytes of them.
        influx_admin_token: of InfluxDB's owner, for ``meshtasks influxdb`` alone.
        archive_url: ``s3://bucket`` or ``file:///directory``.
        archive_dataset: whether workers add what they archive to the analytics dataset
            at once; otherwise compaction does it later.
        minio_region: of the bucket, which signatures name; MinIO's is this default.
        garage_admin_token: of a Garage that ``meshtasks archive garage`` prepares.
        receivers: Apprise URLs of the receivers of alerts.yaml, by name:
            ``MESH_RECEIVERS__PHONE`` or ``MESH_RECEIVERS__PHONE_FILE``.
        secrets: values of the headers of workflows.yaml, by name:
            ``MESH_SECRETS__N8N`` or ``MESH_SECRETS__N8N_FILE``.
        links: pages of other programs that the console leads to, by name:
            ``MESH_LINKS__GRAFANA``.
        host_root: where the file systems of this machine are, for the collector of its
            metrics; in a container, where ``/`` is mounted.
        metrics_host: address at which a worker shows its metrics.
        metrics_port: the port, or a range of which each worker takes the first
            free one: ``9151-9159``. 0 is any free port; empty, no metrics are shown.
    """

    model_config = SettingsConfigDict(
        env_prefix="MESH_",
        env_file=_ENV_FILE,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
    )

    broker_url: SecretStr = SecretStr("")
    console_broker_url: SecretStr = SecretStr("")
    management_url: str = ""
    config_dir: Path = Path("config")
    state_dir: Path = Path(".mesh/state")
    state_url: SecretStr = SecretStr("")
    ca_file: Path | None = None
    spool_messages: Annotated[int, Field(ge=1)] = 1_000_000
    spool_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
    influx_url: str = "http://127.0.0.1:8428"
    influx_token: SecretStr = SecretStr("")
    influx_admin_token: SecretStr = SecretStr("")
    influx_org: Annotated[str, Field(min_length=1)] = "home"
    influx_bucket: Annotated[str, Field(min_length=1)] = "mesh"
    archive_url: str = "file://.mesh/archive"
    archive_dataset: bool = True
    minio_endpoint: str = "127.0.0.1:9000"
    minio_access_key: SecretStr = SecretStr("")
    minio_secret_key: SecretStr = SecretStr("")
    minio_secure: bool = False
    garage_admin_token: SecretStr = SecretStr("")
    minio_region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "us-east-1"
    triton_url: str = "127.0.0.1:8000"
    n8n_url: str = "http://127.0.0.1:5678"
    hass_url: str = "http://homeassistant.local:8123"
    hass_token: SecretStr = SecretStr("")
    flower_user: str = "mesh"
    flower_password: SecretStr = SecretStr("")
    api_tokens: SecretStr = SecretStr("")
    receivers: dict[str, SecretStr] = {}
    secrets: dict[str, SecretStr] = {}
    links: dict[str, str] = {}
    host_root: Path = Path("/")
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[str, AfterValidator(_ports_text)] = ""

    @property
    def metrics_ports(self) -> range:
        """``metrics_port`` as ports to try in order."""
        return _ports(self.metrics_port)

    @property
    def triton_base_url(self) -> str:
        """``triton_url`` with its scheme.

        Raises:
            ConfigError: it is not the address of a server.
        """
        url = self.triton_url
        url = url if "://" in url else f"http://{url}"
        if not is_base_url(url):
            expected = "expected host and port, such as 127.0.0.1:8000"
            raise ConfigError("environment", "MESH_TRITON_URL", expected)
        return url

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

    def config_file(self, name: str) -> Path:
        """Where a configuration file is.

        Args:
            name: its path in ``config_dir``, such as ``rules.yaml``.

        Raises:
            ConfigError: this account may not look into the directory.
        """
        path = self.config_dir / name
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            if path.is_symlink():
                expected = f"expected a file, but it is a link to {path.readlink()}"
                raise ConfigError(str(path), "-", expected) from error
            return SHIPPED_CONFIG / name
        except OSError as error:
            expected = f"expected a readable file, but: {error.strerror}"
            raise ConfigError(str(path), "-", expected) from error
        return path

    def place_faults(self) -> Iterator[ConfigError]:
        """Faults of places that show without connecting anywhere."""
        if "config_dir" in self.model_fields_set and not self.config_dir.is_dir():
            expected = f"expected a directory, but there is no {self.config_dir}"
            yield ConfigError("environment", "MESH_CONFIG_DIR", expected)
        # of Home Assistant's websocket, too
        hass_url = re.sub(r"^ws(?=s?://)", "http", self.hass_url)
        influx = "http://127.0.0.1:8086, without a user, blanks or a query"
        for variable, url, example in (
            ("MESH_INFLUX_URL", self.influx_url, influx),
            *(
                ("MESH_MANAGEMENT_URL", url, "http://127.0.0.1:15672")
                for url in urls_of(self.management_url)
            ),
            ("MESH_N8N_URL", self.n8n_url, "http://127.0.0.1:5678"),
            ("MESH_HASS_URL", hass_url, "http://homeassistant.local:8123"),
            *(
                (f"MESH_LINKS__{name.upper()}", url, "http://192.168.1.5:3000")
                for name, url in self.links.items()
                if url
            ),
        ):
            if not is_base_url(url) and (url or variable != "MESH_MANAGEMENT_URL"):
                expected = f"expected a URL such as {example}"
                yield ConfigError("environment", variable, expected)
        try:
            _ = self.triton_base_url
        except ConfigError as fault:
            yield fault
        for variable, given in (
            ("MESH_BROKER_URL", self.broker_url),
            ("MESH_CONSOLE_BROKER_URL", self.console_broker_url),
        ):
            broker = given.get_secret_value()
            if broker and (expected := fault_of(broker)):
                yield ConfigError("environment", _given_in(variable), expected)
        yield from self._state_faults()

    def _state_faults(self) -> Iterator[ConfigError]:
        url = self.state_url.get_secret_value()
        if not url or _STATE_FILE.fullmatch(url):
            return
        if not postgresql_url(url):
            expected = (
                "expected postgresql+psycopg://user:password@host:5432/database "
                "(special characters are percent-encoded) or "
                "sqlite:////directory/mesh.db"
            )
            yield ConfigError("environment", _given_in("MESH_STATE_URL"), expected)
            return
        try:
            require("postgresql", "MESH_STATE_URL")
        except ConfigError as fault:
            yield fault

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Every secret, given in a variable or in a file, without what is around it.

        Raises:
            ConfigError: one cannot be read, or not be a secret; names its variable.
        """
        given = {**dotenv_values(_ENV_FILE), **os.environ}
        faults: list[ConfigError] = []

        def read(variable: str, value: Any, file: str | None, field: str) -> Any:
            try:
                return _secret(variable, value, file, field)
            except ConfigError as fault:
                faults.append(fault)
                return value

        for name, field in cls.model_fields.items():
            if field.annotation is SecretStr:
                variable = f"MESH_{name.upper()}"
                file = given.get(f"{variable}_FILE")
                if (value := read(variable, values.get(name), file, name)) is not None:
                    values[name] = value
        for name in ("receivers", "secrets"):
            if isinstance(named := values.get(name), dict):
                values[name] = {
                    word: read(
                        f"MESH_{name.upper()}__{word.upper()}",
                        value if key == word else None,
                        None if key == word else value,
                        name,
                    )
                    for key, value in named.items()
                    if value and (word := key.removesuffix("_file"))
                }
        refuse(faults)
        return values

    @model_validator(mode="after")
    def _keep_secrets(self) -> Environment:
        """Have them masked in every text from now on."""
        values = (
            *vars(self).values(),
            *self.receivers.values(),
            *self.secrets.values(),
        )
        secrets = (
            each.get_secret_value() for each in values if isinstance(each, SecretStr)
        )
        keep_secret(each for each in secrets if each and not each.startswith("sqlite:"))
        return self


def _secret(variable: str, value: Any, file: str | None, field: str) -> Any:
    """The text of a secret: of its variable, or of the file that ``…_FILE`` names."""
    if file:
        variable = f"{variable}_FILE"
        try:
            value = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            # not the path: who mistakes the variable has put the secret there
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            expected = f"a readable UTF-8 file, but: {reason}"
            raise ConfigError("environment", variable, expected) from None
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return _checked(value, variable, field) if value else value


def _checked(text: str, variable: str, field: str) -> str:
    """A secret without the blanks, line breaks and byte order mark around it.

    Raises:
        ConfigError: there are such characters in it, or others that it cannot have.
    """
    secret = text.strip().strip("\ufeff").strip()
    # a list of secrets may have each on a line of its own
    parts = secret.split() if field == "api_tokens" else [secret]
    if any(unicodedata.category(char) in _STRAY for part in parts for char in part):
        expected = "expected text without control characters and line breaks in it"
        raise ConfigError("environment", variable, expected)
    if field in _IN_HEADERS and secret and not _FIT_FOR_A_HEADER.fullmatch(secret):
        expected = "expected printable ASCII, since it is sent in a header"
        raise ConfigError("environment", variable, expected)
    return secret


def _given_in(variable: str) -> str:
    """The variable that a secret was read from: this, or that of its file."""
    of_file = f"{variable}_FILE"
    given = {**dotenv_values(_ENV_FILE), **os.environ}
    return of_file if given.get(of_file) else variable


def auth_headers(
    auth: Auth | None, env: Environment, path: Path, key: str
) -> dict[str, str]:
    """The header that a configuration file asks for, with its secret, if it does.

    Args:
        path: the file, and ``key`` the place in it, for errors.

    Raises:
        ConfigError: the environment does not have the secret, or it cannot stand in
            a header.
    """
    if auth is None:
        return {}
    secret = env.secrets.get(auth.secret, SecretStr("")).get_secret_value()
    if not _FIT_FOR_A_HEADER.fullmatch(secret):
        variable = f"MESH_SECRETS__{auth.secret.upper()}"
        expected = f"{variable} or {variable}_FILE to hold a header's value"
        raise fault_in(path, f"{key}.secret", expected)
    return {auth.header: secret}
