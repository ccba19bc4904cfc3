"""``meshtasks archive garage``: a Garage of one's own, made ready for the archive."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from meshtasks.cli.terminal import say
from meshtasks.config.settings import load_settings
from meshtasks.config.urls import is_base_url
from meshtasks.errors import ConfigError
from meshtasks.flows.archive.garage import Garage
from meshtasks.flows.archive.objects import open_store


def garage(
    *,
    admin_url: Annotated[
        str, typer.Option(metavar="URL", help="Of Garage's administration API.")
    ] = "http://127.0.0.1:3903",
    wait: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="Time for Garage to start.")
    ] = 120,
) -> None:
    """Make layout, bucket and key in a Garage of one's own, where they are missing.

    The bucket is that of MESH_ARCHIVE_URL; the key MESH_MINIO_ACCESS_KEY may read and
    write this bucket and no other. A key that this command made for the bucket before
    is deleted. Needs MESH_GARAGE_ADMIN_TOKEN.

    Exit codes: 0; 69 Garage cannot be reached; 78 the configuration cannot be used.
    """
    env = load_settings().env
    scheme, _, bucket = env.archive_url.partition("://")
    if scheme != "s3" or not bucket:
        expected = f"expected s3://bucket, such as s3://mesh, not {env.archive_url!r}"
        raise ConfigError("environment", "MESH_ARCHIVE_URL", expected)
    if not is_base_url(admin_url):
        expected = "expected a URL such as http://127.0.0.1:3903"
        raise typer.BadParameter(expected, param_hint="--admin-url")
    server = Garage(admin_url, env.garage_admin_token.get_secret_value(), wait)
    key_id = env.minio_access_key.get_secret_value()
    made = server.prepare(bucket, key_id, env.minio_secret_key.get_secret_value())
    with closing(open_store(env)) as store:
        store.probe()
    say("\n".join(f"made: {each}" for each in made) or "nothing is missing")
