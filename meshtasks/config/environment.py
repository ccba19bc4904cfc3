"""Addresses, directories and secrets, from environment variables.

Variables have the prefix ``MESH_`` and may be in ``.env``. For every secret,
``MESH_X_FILE`` may name a file that contains it (Docker and Kubernetes secrets). All
other configuration is in the YAML files of config/.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

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

#: Read in the working directory of the process.
ENV_FILE = Path(".env")

_PACKAGED = Path(__file__).with_name("shipped")
_OF_A_CLONE = Path(__file__).parents[2] / "config"
#: Directory of the configuration files that the package ships.
SHIPPED_CONFIG = _PACKAGED if _PACKAGED.is_dir() else _OF_A_CLONE
#: Fields whose secrets are sent in an HTTP header unencoded.
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
#: Unicode categories that a secret never contains on purpose: control and format
#: characters (such as a byte order mark), surrogates, line and paragraph separators.
_STRAY = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

#: Printable ASCII without blanks at the ends. Other characters are allowed in headers,
#: but servers decode them differently.
_FIT_FOR_A_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")

_STATE_FILE = re.compile(r"sqlite:///(?!:memory:)[^?]+")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def _ports(text: str) -> range:
    """The ports of ``9151`` or ``9151-9159``; no ports of an empty text.

    Raises:
        ValueError: the text is neither a port nor a range of ports.
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


class Environment(BaseModel):
    """Addresses, directories and secrets, from ``MESH_*`` variables.

    Capitals do not matter in names of variables. Those of the process come before those
    of ``.env``, and keyword arguments before both.

    Attributes:
        broker_url: AMQP URL of RabbitMQ with the virtual host; for a cluster, one URL
            for each node, separated by ``;``.
        console_broker_url: the same for the console, whose account may read more than
            that of the gateway; if empty, ``broker_url``.
        management_url: URL of RabbitMQ's management API, or of several nodes, used
            with the account of the broker's URL; if empty, its default port is tried.
        config_dir: directory of the YAML files; files missing there are read from
            :data:`SHIPPED_CONFIG`.
        state_dir: directory of the files of this host: the state, unless ``state_url``
            is given, and the spools of producers.
        state_url: URL of the state database:
            ``postgresql+psycopg://user:password@host/database`` for workers on several
            hosts, ``sqlite:////directory/mesh.db`` for workers on one; if empty, the
            file ``mesh.db`` in ``state_dir``.
        ca_file: PEM certificates of a private authority, which all clients trust in
            addition to the public ones.
        spool_messages: most messages in the spool of one producer.
        spool_bytes: most bytes of these messages.
        influx_admin_token: token of InfluxDB's owner, only for ``meshtasks influxdb``.
        archive_url: ``s3://bucket`` or ``file:///directory``.
        archive_dataset: whether workers add archived records to the dataset of
            analytics at once; if false, compaction adds them later.
        minio_region: region of the bucket, part of S3 signatures; the default is that
            of MinIO.
        garage_admin_token: admin token of Garage, for ``meshtasks archive garage``.
        receivers: Apprise URLs of the receivers of alerts.yaml, by name:
            ``MESH_RECEIVERS__PHONE`` or ``MESH_RECEIVERS__PHONE_FILE``.
        secrets: values of the headers of workflows.yaml, by name:
            ``MESH_SECRETS__N8N`` or ``MESH_SECRETS__N8N_FILE``.
        links: URLs of other programs' pages that the console links to, by name:
            ``MESH_LINKS__GRAFANA``.
        host_root: root of the host's file systems, for the collector of its metrics;
            in a container, the directory where the host's ``/`` is mounted.
        metrics_host: address on which a worker serves its metrics.
        metrics_port: port of the metrics, or a range such as ``9151-9159``, of which
            each worker uses the first free port. 0 is any free port; if empty, no
            metrics are served.
    """

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

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
    _given: frozenset[str] = PrivateAttr()

    def __init__(self, *, _env_file: Path | None = ENV_FILE, **values: Any) -> None:
        """Read the variables of the process and of a file.

        Raises:
            ConfigError: the file or a secret cannot be read, or a secret is invalid.
            ValidationError: another value is invalid.
        """
        given = _variables(_env_file)
        super().__init__(**{**_values(given), **values})
        self._given = frozenset(name for name, text in given.items() if text)

    @property
    def metrics_ports(self) -> range:
        """The ports of ``metrics_port``, to be tried in order."""
        return _ports(self.metrics_port)

    @property
    def triton_base_url(self) -> str:
        """``triton_url`` with its scheme.

        Raises:
            ConfigError: the value is not the address of a server.
        """
        url = self.triton_url
        url = url if "://" in url else f"http://{url}"
        if not is_base_url(url):
            expected = "expected host and port, such as 127.0.0.1:8000"
            raise ConfigError("environment", "MESH_TRITON_URL", expected)
        return url

    @property
    def amqp_url(self) -> str:
        """``broker_url`` as text. There is no default account.

        Raises:
            ConfigError: the variable is not set.
        """
        if url := self.broker_url.get_secret_value():
            return url
        expected = "expected the broker's URL, amqp://user:password@host:5672/vhost"
        raise ConfigError("environment", "MESH_BROKER_URL", expected)

    def config_file(self, name: str) -> Path:
        """Path of a configuration file: in ``config_dir``, else the shipped one.

        Args:
            name: path relative to ``config_dir``, such as ``rules.yaml``.

        Raises:
            ConfigError: the directory is not readable, or the file is a dead link.
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
        """Yield faults of addresses and directories that show without a connection."""
        if "config_dir" in self.model_fields_set and not self.config_dir.is_dir():
            expected = f"expected a directory, but there is no {self.config_dir}"
            yield ConfigError("environment", "MESH_CONFIG_DIR", expected)
        # The URL of Home Assistant's websocket is allowed as well.
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
                yield ConfigError("environment", self._given_in(variable), expected)
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
            yield ConfigError("environment", self._given_in("MESH_STATE_URL"), expected)
            return
        try:
            require("postgresql", "MESH_STATE_URL")
        except ConfigError as fault:
            yield fault

    def _given_in(self, variable: str) -> str:
        """The variable that a secret was read from: ``variable`` or ``…_FILE``."""
        of_file = f"{variable}_FILE"
        is_file = of_file.lower().removeprefix("mesh_") in self._given
        return of_file if is_file else variable

    @model_validator(mode="after")
    def _keep_secrets(self) -> Environment:
        """Register the secrets to be masked in every text from now on."""
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


#: Fields that have one value for each name: ``MESH_LINKS__GRAFANA``.
_NAMED = frozenset({"receivers", "secrets", "links"})
_SECRETS = frozenset(
    name
    for name, field in Environment.model_fields.items()
    if field.annotation in {SecretStr, dict[str, SecretStr]}
)


def env_file_values(file: Path) -> dict[str, str]:
    """The variables in a file such as ``.env``; empty if there is no such file.

    Raises:
        ConfigError: the file cannot be read, or a line is not an assignment.
    """
    if not (file.is_file() or file.is_fifo()):
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        expected = f"expected a readable UTF-8 file, but: {reason}"
        raise ConfigError(str(file), "-", expected) from error
    expected = "expected NAME=value; a value with blanks, quotes or # is in quotes"
    # The library skips such lines, and everything that a stray quote encloses.
    refuse(
        ConfigError(str(file), "-", expected, binding.original.line)
        for binding in parse_stream(io.StringIO(text))
        if binding.error
    )
    found = dotenv_values(stream=io.StringIO(text)).items()
    return {name: value for name, value in found if value is not None}


def _variables(env_file: Path | None) -> dict[str, str]:
    """The variables of the mesh, in lower case and without their prefix."""
    of_file = env_file_values(env_file) if env_file else {}
    return {
        name.lower().removeprefix("mesh_"): text
        for name, text in {**of_file, **os.environ}.items()
        if name.lower().startswith("mesh_")
    }


def _values(given: dict[str, str]) -> dict[str, Any]:
    """The values of the fields that variables are given for. Secrets are checked.

    Raises:
        ConfigError: a secret cannot be read, or is invalid; names the variable.
    """
    values: dict[str, Any] = {}
    named: dict[str, dict[str, str]] = {}
    faults: list[ConfigError] = []
    for variable, text in given.items():
        name = variable.removesuffix("_file")
        field, _, word = name.partition("__")
        value = text
        if field not in _SECRETS:
            field, _, word = variable.partition("__")
        elif not text or (name == variable and given.get(f"{name}_file")):
            continue
        else:
            try:
                value = _secret(text, variable, field, in_file=name != variable)
            except ConfigError as fault:
                faults.append(fault)
        if not word:
            values[field] = value
        elif field in _NAMED:
            named.setdefault(field, {})[word] = value
    refuse(faults)
    return {**named, **values}


def _secret(text: str, variable: str, field: str, *, in_file: bool) -> str:
    """The secret in a variable, or in the file that the variable names.

    It is without the blanks, line breaks and byte order mark around it.

    Raises:
        ConfigError: the file cannot be read, or the secret contains such characters, or
            others that it cannot have.
    """
    variable = f"MESH_{variable.upper()}"
    if in_file:
        try:
            text = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            # Do not quote the path: by mistake it may be the secret itself.
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            expected = f"a readable UTF-8 file, but: {reason}"
            raise ConfigError("environment", variable, expected) from None
    secret = text.strip().strip("\ufeff").strip()
    # The tokens of a list may be on separate lines.
    parts = secret.split() if field == "api_tokens" else [secret]
    if any(unicodedata.category(char) in _STRAY for part in parts for char in part):
        expected = "expected text without control characters and line breaks in it"
        raise ConfigError("environment", variable, expected)
    if field in _IN_HEADERS and secret and not _FIT_FOR_A_HEADER.fullmatch(secret):
        expected = "expected printable ASCII, since it is sent in a header"
        raise ConfigError("environment", variable, expected)
    return secret


def auth_headers(
    auth: Auth | None, env: Environment, path: Path, key: str
) -> dict[str, str]:
    """The HTTP header that ``auth`` of a configuration file describes, if any.

    Args:
        path: the configuration file, for errors.
        key: dotted path of ``auth`` in the file, for errors.

    Raises:
        ConfigError: the environment lacks the secret, or it is not fit for a header.
    """
    if auth is None:
        return {}
    secret = env.secrets.get(auth.secret, SecretStr("")).get_secret_value()
    if not _FIT_FOR_A_HEADER.fullmatch(secret):
        variable = f"MESH_SECRETS__{auth.secret.upper()}"
        expected = f"{variable} or {variable}_FILE to hold a header's value"
        raise fault_in(path, f"{key}.secret", expected)
    return {auth.header: secret}
