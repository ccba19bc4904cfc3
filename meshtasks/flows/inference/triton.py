"""Triton Inference Server, over HTTP.

tritonclient brings the requests; what an answer means is decided here: which faults
are of the request (400, 413, and 500 where the model itself raised), which of the
model (404 while it is not loaded, 500 once its process died) and which of the server
(no connection, no answer in time, 503 and whatever else comes from in front of it).

A client belongs to the thread that made it, since it runs on gevent.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import gevent
import numpy as np
import urllib3
from geventhttpclient.response import HTTPParseError
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from meshtasks.config.settings import Settings
from meshtasks.errors import MeshError, SinkRejected, SinkUnavailable
from meshtasks.flows.inference.config import MODELS
from meshtasks.flows.inference.specs import (
    InputSpec,
    ModelCrashed,
    ModelNotReady,
    ModelSpec,
    NoSuchModel,
)
from meshtasks.flows.inference.stacking import Inference
from meshtasks.flows.inference.tensors import DATATYPES, Tensor
from meshtasks.text import clip, ends
from meshtasks.timing import timed

CONNECT_TIMEOUT_SECONDS = 3.0
#: For how long it is believed what a model takes.
MODEL_AGE_SECONDS = 60.0
#: How soon to ask again for a model that is not loaded, or that crashed.
MODEL_RETRY_SECONDS = 30.0
#: A connection that was idle for longer is not used again. Networks between
#: containers forget idle ones without a word (moby#31208), and what is sent then
#: only runs into the timeout.
_IDLE_SECONDS = 60.0

_REASON_LIMIT_CHARS = 500
#: What is wrong with nothing but the request.
_TOO_LARGE = "413"  # which a proxy may say as well
_REFUSALS = frozenset({"400", _TOO_LARGE})
#: What Triton answers when its index of models is closed to us.
_CLOSED = frozenset({"400", "403"})
#: How the client begins when an answer is not one of Triton's.
_FOREIGN = ("an exception occurred in the client", "client received an empty response")


class Triton:
    """Asks models; each thread has its own.

    Args:
        url: host and port, with ``http://`` or ``https://`` or without.
        answer_timeout_seconds: longest wait for an answer.
    """

    def __init__(self, url: str, *, answer_timeout_seconds: float = 30.0) -> None:
        self._url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._host = urlsplit(self._url).netloc
        self._answer_timeout_seconds = answer_timeout_seconds
        self._client: InferenceServerClient | None = None
        self._used_at = 0.0
        self._models: dict[tuple[str, str], ModelSpec] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The server that ``MESH_TRITON_URL`` names."""
        timeout_seconds = settings.read(MODELS).answer_timeout_seconds
        return cls(settings.env.triton_url, answer_timeout_seconds=timeout_seconds)

    def model(
        self, name: str, version: str, *, max_age_seconds: float = MODEL_AGE_SECONDS
    ) -> ModelSpec:
        """What a model takes.

        Args:
            name: of the model.
            version: empty for the server's choice.
            max_age_seconds: how long ago the server may have said so.

        Raises:
            NoSuchModel: the server does not have it.
            ModelNotReady: it is not loaded.
            SinkUnavailable: the server did not say.
        """
        known = self._models.get((name, version))
        now = time.monotonic()
        if known is not None and now - known.read_at <= max_age_seconds:
            return known
        with self._asking(name, version) as client:
            # A model that is being loaded has no metadata to give, and Triton
            # would keep us waiting for them until it has.
            if not client.is_model_ready(name, version):
                raise self._absent(name, version, "is not ready")
            metadata = client.get_model_metadata(name, version)
            config = client.get_model_config(name, version)
            spec = _spec(name, version, metadata, config)._replace(read_at=now)
        self._models[name, version] = spec
        return spec

    @timed("triton")
    def infer(self, spec: ModelSpec, inputs: Sequence[Tensor]) -> Inference:
        """Ask a model.

        Raises:
            SinkRejected: it will not take these inputs, or fails over them; or its
                answer holds what no message can.
            ModelNotReady: it is not loaded any more.
            ModelCrashed: its process is dead.
            SinkUnavailable: it did not answer.
        """
        given = [_infer_input(tensor) for tensor in inputs]
        try:
            with self._asking(spec.name, spec.version) as client:
                began_at = time.monotonic()
                result = client.infer(spec.name, given, model_version=spec.version)
                latency_ms = (time.monotonic() - began_at) * 1000
                version = str(result.get_response().get("model_version", ""))
                return Inference(version, _outputs(result), latency_ms)
        except MeshError:
            # It may be another model by now.
            self._models.pop((spec.name, spec.version), None)
            raise

    def probe(self) -> None:
        """See whether the server lives. Ready it is only if each of its models is.

        Without the client: every thread that uses one costs two file descriptors,
        and probes run in threads of their own.

        Raises:
            SinkUnavailable: it does not.
        """
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=5.0)
        with urllib3.PoolManager(timeout=timeout, retries=False) as http:
            try:
                status = http.request("GET", f"{self._url}/v2/health/live").status
            except urllib3.exceptions.HTTPError as error:
                what = f"cannot be reached: {error}"
                raise self._unavailable(what) from error
        if status != 200:  # noqa: PLR2004 - HTTP's OK
            what = f"answered {status} when asked whether it lives"
            raise self._unavailable(what)

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _asking(self, model: str, version: str) -> Iterator[InferenceServerClient]:
        """A client, whose faults become ours."""
        # The client bounds each read, so a server that drips would hold it for ever.
        longest_seconds = CONNECT_TIMEOUT_SECONDS + self._answer_timeout_seconds
        try:
            try:
                with gevent.Timeout(longest_seconds, TimeoutError):
                    yield self._open()
            except InferenceServerException as error:
                raise self._meaning(error, model, version) from error
        except TimeoutError as error:
            self.close()
            limit = f"{self._answer_timeout_seconds:g} s"
            what = f"did not answer within {limit} when asked for {model}"
            raise self._unavailable(what) from error
        except (OSError, HTTPParseError) as error:
            self.close()
            what = f"cannot be reached: {error}"
            raise self._unavailable(what) from error
        except (ValueError, KeyError) as error:
            self.close()
            what = f"does not answer as Triton does: {error!r}"
            raise self._unavailable(what) from error
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
                # else it takes certifi's authorities, whatever OpenSSL was told
                ssl_options={"ca_certs": ssl.get_default_verify_paths().cafile},
            )
        return self._client

    def _meaning(
        self, error: InferenceServerException, model: str, version: str
    ) -> MeshError:
        status, said = error.status(), _said(error)
        if said.startswith(_FOREIGN) and status != _TOO_LARGE:
            # before all else: whoever it is may say 400, too
            return self._unavailable(f"answered {status}, and not as Triton does")
        if status is None or status in _REFUSALS:
            return SinkRejected(f"{model} refused: {said}")
        if status == "404" and "unknown model" in said:
            return self._absent(model, version, said)
        if status == "500" and "Stub process" in said and "not healthy" in said:
            return ModelCrashed(f"{model}: {said}", MODEL_RETRY_SECONDS)
        if status == "500":
            return SinkRejected(f"{model} failed: {said}")
        return self._unavailable(f"answered {status}: {said}")

    def _absent(self, model: str, version: str, said: str) -> MeshError:
        """Why a model cannot be asked: there is none, or it is not loaded."""
        try:
            index = self._open().get_model_repository_index()
        except InferenceServerException as error:
            answer = f"{model}: {said}"
            if error.status() in _CLOSED and not _said(error).startswith(_FOREIGN):
                return ModelNotReady(answer, MODEL_RETRY_SECONDS)
            return self._unavailable(f"answered {error.status()}: {_said(error)}")
        found = [each for each in index if each["name"] == model]
        if not found:
            names = ", ".join(sorted({each["name"] for each in index})) or "none"
            text = f"there is no model {model}; there are: {names}"
            return NoSuchModel(clip(text, _REASON_LIMIT_CHARS))
        versions = {str(each["version"]): each for each in found if "version" in each}
        if version and versions and version not in versions:
            text = f"{model} has no version {version}; it has {', '.join(versions)}"
            return NoSuchModel(text)
        states = {f"{each.get('state', 'not loaded')}" for each in found}
        reasons = {each["reason"] for each in found if each.get("reason")}
        text = f"{model} is {', '.join(sorted(states | reasons))}"
        return ModelNotReady(
            clip(_flat(text), _REASON_LIMIT_CHARS), MODEL_RETRY_SECONDS
        )

    def _unavailable(self, what: str) -> SinkUnavailable:
        return SinkUnavailable("triton", f"Triton at {self._host} {what}")


def _spec(
    name: str, version: str, metadata: dict[str, Any], config: dict[str, Any]
) -> ModelSpec:
    optional = {each["name"] for each in config["input"] if each.get("optional")}
    inputs = {
        each["name"]: InputSpec(
            each["name"],
            each["datatype"],
            tuple(map(int, each["shape"])),
            each["name"] in optional,
        )
        for each in metadata["inputs"]
    }
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


def _said(error: InferenceServerException) -> str:
    """What Triton said, less the id that it gives to requests without one."""
    text = str(error.message()).removeprefix("[request id: <id_unknown>] ")
    return ends(_flat(text), _REASON_LIMIT_CHARS)


def _flat(text: str) -> str:
    return " ".join(text.split())
