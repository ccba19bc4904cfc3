"""An S3 service as clients see it, whichever server it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class S3Target:
    """Where an S3 service is and how to sign for it.

    Attributes:
        endpoint: ``host:port``, without TLS.
    """

    endpoint: str
    access_key: str
    secret_key: str
