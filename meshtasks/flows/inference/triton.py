"""Client of Triton Inference Server, over HTTP.

tritonclient makes the requests. This module decides what a response means: the request
is at fault (400, 413, and 500 if the model itself raised), the model is (404 while it
is not loaded, 500 after its process died), or the server is (no connection, no response
in time, 503 and other responses of proxies).

A client belongs to the thread that made it, because it uses gevent.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import gevent
import numpy as np
from geventhttpclient.response import HTTPParseError
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype
from urllib3.exceptions import HTTPError

from meshtasks.errors import MeshError, SinkRejected, SinkUnavailable
from meshtasks.flows.inference.tensors import (
    DATATYPES,
    Inference,
    InputSpec,
    ModelCrashed,
    ModelNotReady,
    ModelSpec,
    NoSuchModel,
    Tensor,
)
from meshtasks.http import pool_manager, request
from meshtasks.text import clip, ends
from meshtasks.timing import timing

CONNECT_TIMEOUT_SECONDS = 3.0
_PROBE_TIMEOUT_SECONDS = 5.0
#: How long the description of a model is kept.
MODEL_AGE_SECONDS = 60.0
#: Wait before requests to a model that is not loaded or has crashed are retried.
MODEL_RETRY_SECONDS = 30.0
#: A connection that was idle for longer is not used again. Networks between containers
#: drop idle connections silently (moby#31208), and a request on such a connection
#: times out.
_IDLE_SECONDS = 60.0

_REASON_LIMIT_CHARS = 500
#: Statuses that mean a fault of the request alone.
_TOO_LARGE = "413"  # also of a proxy
_REFUSALS = frozenset({"400", _TOO_LARGE})
#: Statuses of Triton if its index of models is not accessible.
_CLOSED = frozenset({"400", "403"})
#: Beginnings of the client's message if a response is not Triton's.
_FOREIGN = ("an exception occurred in the client", "client received an empty response")


class Triton:
    """Runs models; each thread has its own client.

    Args:
        url: host and port, with or without ``http://`` or ``https://``.
        answer_timeout_seconds: maximum time to wait for a response.
    """

    def __init__(self, url: str, *, answer_timeout_seconds: float = 30.0) -> None:
        self._url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._host = urlsplit(self._url).netloc
        self._answer_timeout_seconds = answer_timeout_seconds
        self._client: InferenceServerClient | None = None
        self._used_at = 0.0
        self._models: dict[tuple[str, str], ModelSpec] = {}

    def model(
        self, name: str, version: str, *, max_age_seconds: float = MODEL_AGE_SECONDS
    ) -> ModelSpec:
        """Return the description of a model.

        Args:
            version: version of the model; empty for the server's choice.
            max_age_seconds: maximum age of a description that was read before.

        Raises:
            NoSuchModel: the server does not have the model.
            ModelNotReady: the model is not loaded.
            SinkUnavailable: the server did not respond, or not as Triton does.
        """
        known = self._models.get((name, version))
        now = time.monotonic()
        if known is not None and now - known.read_at <= max_age_seconds:
            return known
        with self._connected(name, version) as client:
            # Triton has no metadata of a model that is being loaded, and would block
            # the request until it has.
            if not client.is_model_ready(name, version):
                raise self._absent(name, version, "is not ready")
            metadata = client.get_model_metadata(name, version)
            config = client.get_model_config(name, version)
            spec = _spec(name, version, metadata, config)._replace(read_at=now)
        self._models[name, version] = spec
        return spec

    @timing("triton")
    def infer(self, spec: ModelSpec, inputs: Sequence[Tensor]) -> Inference:
        """Run a model.

        Raises:
            SinkRejected: the model does not take these inputs or fails on them, or its
                outputs cannot be put into a message.
            NoSuchModel: the server does not have the model any more.
            ModelNotReady: the model is not loaded any more.
            ModelCrashed: the model's process died.
            SinkUnavailable: the server did not respond, or not as Triton does.
        """
        given = [_infer_input(tensor) for tensor in inputs]
        try:
            with self._connected(spec.name, spec.version) as client:
                began_at = time.monotonic()
                result = client.infer(spec.name, given, model_version=spec.version)
                latency_ms = (time.monotonic() - began_at) * 1000
                version = str(result.get_response().get("model_version", ""))
                return Inference(version, _outputs(result), latency_ms)
        except MeshError:
            # The model may have been replaced.
            self._models.pop((spec.name, spec.version), None)
            raise

    def probe(self) -> None:
        """Check that the server is live. It is ready only if all its models are.

        The client is not used, because each thread that uses one needs two file
        descriptors, and probes run in threads of their own.

        Raises:
            SinkUnavailable: the server did not respond, or not with 200.
        """
        url, seconds = f"{self._url}/v2/health/live", _PROBE_TIMEOUT_SECONDS
        try:
            with pool_manager(maxsize=1) as http:
                answer = request(http, "GET", url, timeout_seconds=seconds)
        except HTTPError as error:
            reason = f"cannot be reached: {error}"
            raise self._unavailable(reason) from error
        if answer.status != HTTPStatus.OK:
            reason = f"answered {answer.status} to its health check"
            raise self._unavailable(reason)

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _connected(self, model: str, version: str) -> Iterator[InferenceServerClient]:
        """Yield a client; its errors are raised as errors of the mesh."""
        # The client limits the time of each read only; a server may send byte by byte.
        longest_seconds = CONNECT_TIMEOUT_SECONDS + self._answer_timeout_seconds
        try:
            try:
                with gevent.Timeout(longest_seconds, TimeoutError):
                    yield self._open()
            except InferenceServerException as error:
                raise self._meaning(error, model, version) from error
        except (TimeoutError, OSError, HTTPParseError, ValueError, KeyError) as error:
            self.close()
            match error:
                case TimeoutError():
                    limit = f"{self._answer_timeout_seconds:g} s"
                    reason = f"did not answer within {limit} when asked for {model}"
                case OSError() | HTTPParseError():
                    reason = f"cannot be reached: {error}"
                case _:
                    reason = f"does not answer as Triton does: {error!r}"
            raise self._unavailable(reason) from error
        self._used_at = time.monotonic()

    def _open(self) -> InferenceServerClient:
        if time.monotonic() - self._used_at > _IDLE_SECONDS:
            self.close()
        if self._client is None:
            self._client = InferenceServerClient(
                self._url.partition("://")[2],
                connection_timeout=CONNECT_TIMEOUT_SECONDS,
                network_timeout=self._answer_timeout_seconds,
                ssl=self._url.startswith("https://"),
                # by default it uses certifi's authorities instead of OpenSSL's
                ssl_options={"ca_certs": ssl.get_default_verify_paths().cafile},
            )
        return self._client

    def _meaning(
        self, error: InferenceServerException, model: str, version: str
    ) -> MeshError:
        status, text = error.status(), _text(error)
        if text.startswith(_FOREIGN) and status != _TOO_LARGE:
            # first, because other services may respond 400 as well
            return self._unavailable(f"answered {status}, and not as Triton does")
        if status is None or status in _REFUSALS:
            return SinkRejected(f"{model} refused: {text}")
        if status == "404" and "unknown model" in text:
            return self._absent(model, version, text)
        if status == "500" and "Stub process" in text and "not healthy" in text:
            return ModelCrashed(f"{model}: {text}", MODEL_RETRY_SECONDS)
        if status == "500":
            return SinkRejected(f"{model} failed: {text}")
        return self._unavailable(f"answered {status}: {text}")

    def _absent(self, model: str, version: str, reason: str) -> MeshError:
        """Return why a model cannot be run: it does not exist, or is not loaded."""
        try:
            index = self._open().get_model_repository_index()
        except InferenceServerException as error:
            if error.status() in _CLOSED and not _text(error).startswith(_FOREIGN):
                return ModelNotReady(f"{model}: {reason}", MODEL_RETRY_SECONDS)
            return self._unavailable(f"answered {error.status()}: {_text(error)}")
        found = [entry for entry in index if entry["name"] == model]
        if not found:
            names = ", ".join(sorted({entry["name"] for entry in index})) or "none"
            text = f"there is no model {model}; there are: {names}"
            return NoSuchModel(clip(text, _REASON_LIMIT_CHARS))
        versions = [str(entry["version"]) for entry in found if "version" in entry]
        if version and versions and version not in versions:
            text = f"{model} has no version {version}; it has {', '.join(versions)}"
            return NoSuchModel(text)
        states = {str(entry.get("state", "not loaded")) for entry in found}
        reasons = {entry["reason"] for entry in found if entry.get("reason")}
        text = f"{model} is {', '.join(sorted(states | reasons))}"
        return ModelNotReady(
            clip(_flat(text), _REASON_LIMIT_CHARS), MODEL_RETRY_SECONDS
        )

    def _unavailable(self, reason: str) -> SinkUnavailable:
        return SinkUnavailable("triton", f"Triton at {self._host} {reason}")


def _spec(
    name: str, version: str, metadata: dict[str, Any], config: dict[str, Any]
) -> ModelSpec:
    optional = {part["name"] for part in config["input"] if part.get("optional")}
    inputs = {}
    for part in metadata["inputs"]:
        key, shape = part["name"], tuple(map(int, part["shape"]))
        inputs[key] = InputSpec(key, part["datatype"], shape, key in optional)
    return ModelSpec(name, version, inputs, int(config.get("max_batch_size", 0)))


def _infer_input(tensor: Tensor) -> InferInput:
    values = np.array(tensor.data, dtype=triton_to_np_dtype(tensor.datatype))
    given = InferInput(tensor.name, list(tensor.shape), tensor.datatype)
    return given.set_data_from_numpy(values.reshape(tensor.shape))


def _outputs(result: Any) -> tuple[Tensor, ...]:
    outputs = []
    for output in result.get_response().get("outputs", ()):
        name, datatype = output["name"], output["datatype"]
        if datatype not in DATATYPES:
            message = f"the model's output {name} has the datatype {datatype}"
            raise SinkRejected(message)
        data = result.as_numpy(name).ravel().tolist()
        outputs.append(Tensor(name, datatype, tuple(map(int, output["shape"])), data))
    return tuple(outputs)


def _text(error: InferenceServerException) -> str:
    """Return Triton's message without the placeholder for a missing request id."""
    text = str(error.message()).removeprefix("[request id: <id_unknown>] ")
    return ends(_flat(text), _REASON_LIMIT_CHARS)


def _flat(text: str) -> str:
    return " ".join(text.split())
