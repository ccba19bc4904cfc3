"""``meshtasks certificates``: TLS for broker and proxy, with a private authority.

The key of the authority stays in ``.mesh/certificates``. Containers mount
``.mesh/compose/certificates``. Everybody may read the files in it, because the broker
has another account, but only the owner can enter its parent directory.

openssl creates the certificates. On Debian and Ubuntu it is installed together with
ca-certificates.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer
from typing_extensions import override

from meshtasks.cli.answers import own_address
from meshtasks.cli.terminal import EXIT_USAGE, fail, say
from meshtasks.config.environment import ENV_FILE, env_file_values
from meshtasks.config.private_files import make_private_directory, write_private
from meshtasks.errors import ConfigError

#: Key of the authority; only the owner may read it.
AUTHORITY_KEY = Path(".mesh/certificates/ca.key")
#: Directory that docker-compose.yml mounts.
SHARED = Path(".mesh/compose/certificates")
AUTHORITY = SHARED / "ca.pem"
#: Key and certificate of the server, in one file so that they change together.
SERVER = SHARED / "server.pem"

#: Apple's devices trust no certificate of more than 825 days
#: (support.apple.com/103769).
_SERVER_DAYS = 820
_AUTHORITY_DAYS = 7_300
#: A certificate that expires sooner is renewed.
RENEWED_SECONDS = 60 * 86_400.0
#: TLS of Tasmota and other small devices supports no other keys.
KEY = ("-newkey", "rsa:2048", "-nodes")
_OF_AUTHORITY = """\
basicConstraints=critical,CA:TRUE,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
"""
_OF_SERVER = """\
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName={names}
"""
#: Names of a certificate in the output of openssl.
_NAMES = re.compile(r"(?:DNS|IP Address):([^,\s]+)")
_DNS_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
#: Names of every certificate; other containers call the broker ``rabbitmq``.
_ALWAYS = ("localhost", "127.0.0.1", "::1", "rabbitmq")


class Certificate(NamedTuple):
    """Content of a certificate.

    Attributes:
        names: names and addresses of the server.
        ends_at: time of expiry, in epoch seconds.
    """

    names: frozenset[str]
    ends_at: float

    @override
    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d", time.gmtime(self.ends_at))
        return f"good until {day} for {', '.join(sorted(self.names))}"


def certificates(
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Name or address by which this machine is reached, in addition to "
            "its own names and MESH_HOST_ADDRESS. Can be repeated. Names of the "
            "existing certificate are kept.",
        ),
    ] = None,
    *,
    renew: Annotated[
        bool,
        typer.Option("--renew", help="Renew the certificate, with the same names."),
    ] = False,
) -> None:
    """Create the certificate of broker and proxy, and the authority that signs it.

    An existing certificate is kept until less than 60 days are left, or it needs
    another name; `meshtasks secrets` checks this, too. Give ca.pem to devices, to
    phones, and to programs on other machines as MESH_CA_FILE. They also trust a renewed
    certificate.

    Exit codes: 0; 2 wrong usage; 78 openssl is missing, or existing files cannot be
    used.
    """
    say(make_certificates(name or (), renew=renew))
    say(
        f"for devices, phones and programs elsewhere: {AUTHORITY}\n"
        "RabbitMQ takes a new certificate within two minutes; of the proxy: "
        "docker compose restart proxy"
    )


def make_certificates(more: Iterable[str] = (), *, renew: bool = False) -> str:
    """Create missing certificates in the current directory, and renew expiring ones.

    Args:
        more: additional names and addresses of the server.
        renew: whether to renew the certificate of the server in any case.

    Returns:
        A line about the certificate of the server.

    Raises:
        ConfigError: openssl is missing, or existing files cannot be used.
        typer.Exit: a name is invalid.
        OSError: a file cannot be written.
    """
    wanted = {_name(each) for each in (*_ALWAYS, *_own_names(), *more)}
    make_private_directory(AUTHORITY_KEY.parent)
    make_private_directory(SHARED.parent)
    SHARED.mkdir(exist_ok=True)
    SHARED.chmod(0o755)
    if not AUTHORITY.exists():
        renew |= AUTHORITY_KEY.exists()  # old certificates do not fit a new authority
        _make_authority()
    found = _read(SERVER) if SERVER.exists() else None
    if found is not None:
        if not renew and not _is_ours():
            return f"{SERVER}: as it was, {found}; it is not of {AUTHORITY_KEY}"
        wanted |= found.names
        renew |= found.ends_at - time.time() < RENEWED_SECONDS
    if found is None or renew or wanted != found.names:
        _make_server(wanted)
        return f"{SERVER}: made, {_read(SERVER)}"
    return f"{SERVER}: as it was, {found}"


def _own_names() -> Iterable[str]:
    """Names and addresses by which other machines reach this one."""
    yield own_address()
    if configured := env_file_values(ENV_FILE).get("MESH_HOST_ADDRESS"):
        yield configured
    host = socket.gethostname()
    if _DNS_NAME.fullmatch(host):
        yield host
        if "." not in host:
            yield f"{host}.local"  # name in mDNS (avahi)


def _name(text: str) -> str:
    """A name or an address as in a certificate."""
    bare = text.removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        return str(ipaddress.ip_address(bare))
    if not _DNS_NAME.fullmatch(text):
        expected = "a name or an address such as mesh.lan or 192.168.1.5"
        fail(f"--name {text!r}: expected {expected}", EXIT_USAGE)
    return text.rstrip(".").lower()


def _make_authority() -> None:
    """Create an authority with a new name.

    Programs confuse two authorities with the same name.
    """
    with TemporaryDirectory(dir=AUTHORITY_KEY.parent) as draft:
        here = Path(draft)
        write_private(here / "extensions", f"[x]\n{_OF_AUTHORITY}[req]\n[dn]\n")
        subject = f"/O=meshtasks/CN=meshtasks of {socket.gethostname()[:40]}"
        _openssl(
            f"req -x509 -sha256 -days {_AUTHORITY_DAYS} -extensions x",
            *(*KEY, "-subj", f"{subject} {os.urandom(3).hex()}"),
            *("-config", here / "extensions"),
            *("-keyout", here / "key", "-out", here / "pem"),
        )
        (here / "key").chmod(0o600)
        (here / "pem").chmod(0o644)
        (here / "key").replace(AUTHORITY_KEY)
        (here / "pem").replace(AUTHORITY)


def _make_server(names: Iterable[str]) -> None:
    """Create the certificate of the server.

    An existing key is kept, because some devices identify the server by its key.
    """
    kinds = (("IP" if _is_address(each) else "DNS", each) for each in sorted(names))
    alternative = ",".join(f"{kind}:{name}" for kind, name in kinds)
    with TemporaryDirectory(dir=AUTHORITY_KEY.parent) as draft:
        here = Path(draft)
        write_private(here / "extensions", _OF_SERVER.format(names=alternative))
        write_private(here / "request", "[req]\ndistinguished_name=dn\n[dn]\n")
        key = [*KEY, "-keyout"]
        if SERVER.exists():
            _openssl("pkey", "-in", SERVER, "-out", here / "key")
            key = ["-key"]
        _openssl(
            "req -new -sha256 -subj /CN=meshtasks",
            *(*key, str(here / "key")),
            *("-config", here / "request", "-out", here / "csr"),
        )
        _openssl(
            f"x509 -req -sha256 -days {_SERVER_DAYS}",
            *("-set_serial", f"0x{os.urandom(16).hex()}"),
            *("-CA", AUTHORITY, "-CAkey", AUTHORITY_KEY, "-in", here / "csr"),
            *("-extfile", here / "extensions", "-out", here / "pem"),
        )
        text = "".join((here / part).read_text("ascii") for part in ("pem", "key"))
        write_private(here / "server", text)
        (here / "server").chmod(0o644)  # see the docstring of the module
        (here / "server").replace(SERVER)


def _read(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        ConfigError: the file contains no certificate.
    """
    shown = _openssl("x509 -noout -enddate -ext subjectAltName", "-in", path)
    end = re.search(r"^notAfter=(.+)$", shown, re.MULTILINE)
    if end is None:
        raise ConfigError(str(path), "-", "a certificate with an end")
    names = frozenset(_name(each) for each in _NAMES.findall(shown))
    return Certificate(names, float(ssl.cert_time_to_seconds(end[1])))


def _is_ours() -> bool:
    """Whether our authority signed the server's certificate; users may replace it."""
    if not AUTHORITY_KEY.exists():
        return False
    with suppress(ConfigError):
        _openssl("verify -no_check_time", "-CAfile", AUTHORITY, SERVER)
        return True
    return False


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _openssl(command: str, *more: str | Path) -> str:
    """Run openssl and return its output.

    Args:
        command: arguments, separated by blanks.
        more: further arguments, which may contain blanks.

    Raises:
        ConfigError: openssl is not installed, or fails.
    """
    program = shutil.which("openssl")
    if program is None:
        expected = "it, to make certificates: apt-get install openssl"
        raise ConfigError("PATH", "openssl", expected)
    arguments = [*command.split(), *map(str, more)]
    done = subprocess.run(  # noqa: S603 - no shell is involved
        [program, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        which = next((each for each in arguments if each.startswith(".mesh")), "-")
        expected = (
            f"what `openssl {arguments[0]}` takes, but: {lines[0]}. Files of "
            f"{SHARED} that are deleted are created again"
        )
        raise ConfigError(which, "-", expected)
    return done.stdout
