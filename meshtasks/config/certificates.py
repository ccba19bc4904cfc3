"""Certificates of servers: when they expire, why one is not trusted, and the remedy."""

from __future__ import annotations

import socket
import ssl

_OF_AUTHORITY = (
    "its certificate is of an authority that this machine does not trust: MESH_CA_FILE "
    "is to name the authority's file, which is ca.pem of a mesh"
)
_OF_OTHER_HOST = (
    "its certificate is for other hosts ({}): use a name that is in it, or add this "
    "one to it; for a mesh's own: `meshtasks certificates --name HOST`"
)
_NOT_STRICT = (
    "its certificate or its authority's lacks what Python requires since 3.13 ({}): "
    "make new ones, the authority with keyUsage=critical,keyCertSign,cRLSign, the "
    "certificate with authorityKeyIdentifier=keyid; those of a mesh have both"
)
#: Messages by ``X509_V_ERR_…`` number of OpenSSL's x509_vfy.h; Python has no names for
#: them.
_FAULTS = {
    9: "its certificate is not valid yet: set the clocks of both machines",
    10: "its certificate has expired: make another; a mesh's own is renewed by "
    "`meshtasks certificates --renew` where it runs",
    62: _OF_OTHER_HOST,
    64: _OF_OTHER_HOST,
    **dict.fromkeys((2, 18, 19, 20, 21), _OF_AUTHORITY),
    **dict.fromkeys(range(85, 94), _NOT_STRICT),
}


def tls_fault(error: ssl.SSLError) -> str:
    """Text about a failed TLS connection: what is wrong, and the next step."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _FAULTS.get(error.verify_code, "its certificate is refused: {}")
        return known.format(error.verify_message)
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        return "it speaks no TLS at this port"
    return f"no TLS with it: {error.reason or error}"


def ends_at(host: str, port: int, timeout_seconds: float) -> float:
    """When the certificate of a server expires, in epoch seconds.

    Raises:
        ssl.SSLError: the certificate is not trusted.
        OSError: there is no connection to the server.
    """
    context = ssl.create_default_context()
    with (
        socket.create_connection((host, port), timeout_seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
