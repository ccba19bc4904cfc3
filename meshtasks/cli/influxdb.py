"""``meshtasks influxdb``: tokens for an InfluxDB of one's own, each good for what its
owner does and no more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from meshtasks.cli.services import InfluxOwner
from meshtasks.cli.terminal import say
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError, Transient

_RETRY_SECONDS = 1.0


def influxdb(
    *,
    worker_file: Annotated[
        Path,
        typer.Option(metavar="FILE", help="For a token that reads and writes points."),
    ],
    reader_file: Annotated[
        Path, typer.Option(metavar="FILE", help="For one that only reads: Grafana's.")
    ],
    wait: Annotated[
        int, typer.Option(metavar="SECONDS", min=0, help="Time for InfluxDB to start.")
    ] = 120,
) -> None:
    """Make the tokens of workers and of Grafana, where they are missing.

    Both are good for the bucket MESH_INFLUX_BUCKET alone. A token that is in its file
    and works is kept; others that this command made for the same purpose are deleted.
    Needs MESH_INFLUX_ADMIN_TOKEN.

    Exit codes: 0; 69 InfluxDB does not answer; 78 the configuration cannot be used, or
    InfluxDB refuses the token.
    """
    env = load_settings().env
    token = env.influx_admin_token.get_secret_value()
    if not token:
        expected = "expected the token of InfluxDB's owner"
        raise ConfigError("environment", "MESH_INFLUX_ADMIN_TOKEN", expected)
    owner = InfluxOwner(env.influx_url.rstrip("/"), token)
    deadline = time.monotonic() + wait
    while True:
        try:
            bucket = owner.bucket(env.influx_org, env.influx_bucket)
            break
        except Transient:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)
    for purpose, file, actions in (
        ("meshtasks worker", worker_file, ("read", "write")),
        ("meshtasks reader", reader_file, ("read",)),
    ):
        is_new = owner.keep_token(purpose, file, bucket, actions)
        say(f"{file}: {'made' if is_new else 'kept'}: {purpose}")
