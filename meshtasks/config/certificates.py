"""F1: whose certificates are believed.

Every client of the mesh (AMQP, HTTP, S3, notifications) checks certificates against
what OpenSSL and requests take by default. Both read where that is from the environment
of the process; so one file with the public authorities and one's own serves them all.
"""

from __future__ import annotations

import os
import secrets
import ssl
from pathlib import Path

import certifi

from meshtasks.errors import ConfigError

#: What OpenSSL, and requests, read.
_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def trust(ca_file: Path, directory: Path) -> None:
    """Believe also certificates that this authority has signed, in this process and
    those that it starts.

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
            aside = bundle.with_name(f".{secrets.token_hex(8)}")
            aside.write_text(text, encoding="utf-8")
            aside.replace(bundle)
    except OSError as error:
        expected = f"to be copied to {bundle}, but: {error.strerror}"
        raise ConfigError("environment", "MESH_CA_FILE", expected) from error
    os.environ.update(dict.fromkeys(_VARIABLES, str(bundle)))
