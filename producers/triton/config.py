"""The model of config/producers/triton.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, FilePath

from meshtasks.config.web import Auth, HttpUrl
from producers.configuration import Seconds, Selection, Word


class TritonConfig(BaseModel):
    """Which server is asked, and for which of its models.

    Attributes:
        interval_seconds: time between two rounds.
        timeout_seconds: longest wait for the statistics.
        url: of the server; that of ``MESH_TRITON_URL`` when not given.
        service: third word of the routing keys, and a tag.
        models: those that are published.
        auth: header with a secret.
        ca_file: certificates (PEM) that the server's own is signed by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_seconds: Seconds = 15.0
    timeout_seconds: Seconds = 5.0
    url: HttpUrl | None = None
    service: Word = "triton"
    models: Selection = Selection()
    auth: Auth | None = None
    ca_file: FilePath | None = None
