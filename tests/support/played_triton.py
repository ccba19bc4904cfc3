"""Plays Triton Inference Server for machines on which it does not run.

Its words are those of a recording of Triton 2.51 (``data/recorded/triton.jsonl``)
which a test holds against both. The models are the real ones, each in a process of its
own as in Triton, so that they fail, wait and die as they do there.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from meshtasks.demo import loopback
from tests.support.httpserver import Handler, HTTPServer
from tests.support.recording import recorded

_JSON, _PLAIN, _BINARY = "application/json", "text/plain", "application/octet-stream"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_INVALID, _UNAVAILABLE = 3, 4
#: What Triton's HTTP front makes of the codes of errors.
_STATUS = {
    _INVALID: HTTPStatus.BAD_REQUEST,
    _UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(\w+))?")
_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
#: A model of which there is no recording is one like this.
_LIKE = "obedient"
_STEPS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
)


#: Body and headers of a good answer.
_Answer = tuple[bytes, dict[str, str]]


class _Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, text: str, kind: str = _JSON) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind


@dataclass
class _Model:
    """A model that is loaded, or was, or could not be.

    Attributes:
        state: as in Triton's index.
        reason: why it is in that state, as there.
        counts: of requests and steps, nanoseconds of each, by step.
        batches: executions by their number of rows.
        width: numbers in a row of its first input.
    """

    name: str
    file: Path
    state: str = "LOADING"
    reason: str = ""
    rows: int = 0
    counts: dict[str, list[int]] = field(default_factory=dict)
    batches: dict[int, int] = field(default_factory=dict)
    width: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Start its process, and wait until it is ready or has failed."""
        ours, theirs = socket.socketpair()
        with theirs:
            runner = Path(__file__).with_name("model_process.py")
            command = [
                sys.executable,
                str(runner),
                str(theirs.fileno()),
                str(self.file),
            ]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._asked = Connection(ours.detach())
        self.counts = {step: [0, 0] for step in _STEPS}
        self.batches, self.rows = {}, 0
        config = (self.file.parents[1] / "config.pbtxt").read_text(encoding="utf-8")
        found = re.search(r"dims: \[ *(\d+) *\]", config)
        self.width = int(found[1]) if found else 0
        answer = self._answer()
        self.state = "READY"
        if answer != ("ready",):
            self.unload()
            self.reason = f"Internal: {answer[1]}" if answer[1:] else ""

    def unload(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.wait()
        self._asked.close()
        self.state, self.reason = "UNAVAILABLE", "unloaded"

    def run(self, tensors: list[tuple[str, Any]], rows: int) -> list[tuple[str, Any]]:
        """What it answers to inputs of so many rows.

        Raises:
            _Refused: it answers with an error.
        """
        with self.turn:
            began = time.monotonic_ns()
            try:
                self._asked.send(tensors)
                answer = self._answer()
            except OSError:
                answer = ()
            took = time.monotonic_ns() - began
            if answer:
                self._count(rows, took, failed=answer[0] == "failed")
        match answer:
            case ("outputs", outputs):
                found: list[tuple[str, Any]] = outputs
                return found
            case ("refused", text, code):
                raise _Refused(_STATUS[code], text, _PLAIN)
            case ("failed", text):
                message = (
                    "Failed to process the request(s) for model "
                    f"'{self.name}_0_0', message: {text}"
                )
                raise _Refused(500, message, _PLAIN)
            case _:
                message = f"Stub process '{self.name}_0_0' is not healthy."
                raise _Refused(500, message, _PLAIN)

    def statistics(self) -> dict[str, Any]:
        """As Triton's statistics extension has them."""

        def duration(count: int, ns: int) -> dict[str, int]:
            return {"count": count, "ns": ns}

        none = duration(0, 0)
        return {
            "name": self.name,
            "version": "1",
            "last_inference": int(time.time() * 1000),
            "inference_count": self.rows,
            "execution_count": sum(self.batches.values()),
            "inference_stats": {
                **{step: duration(*self.counts[step]) for step in _STEPS},
                "cache_hit": none,
                "cache_miss": none,
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    **{step: duration(count, count) for step in _STEPS[-3:]},
                }
                for size, count in sorted(self.batches.items())
            ],
            "memory_usage": [],
        }

    def _answer(self) -> tuple[Any, ...]:
        try:
            answer: tuple[Any, ...] = self._asked.recv()
        except (EOFError, OSError):
            return ()
        return answer

    def _count(self, rows: int, took_ns: int, *, failed: bool) -> None:
        self.batches[rows] = self.batches.get(rows, 0) + 1
        ended = ("fail",) if failed else ("success", *_STEPS[2:])
        self.rows += 0 if failed else rows
        for step in ended:
            self.counts[step][0] += 1
            self.counts[step][1] += took_ns


class PlayedTriton:
    """A server of the models in some directories, with Triton's HTTP interface.

    Args:
        repositories: directories of models.
    """

    def __init__(self, repositories: Sequence[Path]) -> None:
        self._repositories = repositories
        self._server = _Server(self)
        self.port = self._server.port
        self.models: dict[str, _Model] = {}

    @property
    def url(self) -> str:
        """For ``MESH_TRITON_URL``."""
        return f"{loopback.HOST}:{self.port}"

    def start(self) -> None:
        """Load all models, and listen."""
        self.models = {name: _Model(name, file) for name, file in self.files().items()}
        for model in self.models.values():
            model.load()
        self._server.start()

    def stop(self) -> None:
        """End everything at once."""
        for model in self.models.values():
            model.unload()
        self._server.stop()

    kill = stop

    def files(self) -> dict[str, Path]:
        """The models that there are now."""
        found = (each.glob("*/1/model.py") for each in self._repositories)
        return {path.parts[-3]: path for paths in found for path in sorted(paths)}


class _Server(HTTPServer):
    def __init__(self, triton: PlayedTriton) -> None:
        super().__init__(_Handler)
        self.triton = triton
        exchanges = recorded("triton")
        #: Answers by method, path and body: those to what is no sound request, and
        #: the descriptions of models.
        self.answers = {
            (each.method, each.path, each.body): each for each in reversed(exchanges)
        }


class _Handler(Handler):
    #: Head and body in one packet.
    wbufsize = -1

    def _serve(self) -> None:
        body = self.read_body()
        try:
            content, headers = self._answer(body)
        except _Refused as refused:
            text = _text({"error": str(refused)})
            self.answer(refused.status, text.encode(), {"Content-Type": refused.kind})
            return
        self.answer(200, content, headers)

    do_GET = do_POST = _serve  # noqa: N815 - names that http.server looks up

    def _answer(self, body: bytes) -> _Answer:
        triton = self.owner.triton
        if self.path == "/v2/health/live":
            return b"", {"Content-Type": _PLAIN}
        if self.path == "/v2/repository/index":
            return _compact([_entry(triton, name) for name in sorted(triton.files())])
        if self.path == "/v2/models/stats":
            ready = [each for each in triton.models.values() if each.state == "READY"]
            ready.sort(key=lambda model: model.name)
            return _compact({"model_stats": [each.statistics() for each in ready]})
        if found := _REPOSITORY.fullmatch(self.path):
            (_load if found[2] == "load" else _unload)(triton, found[1])
            return b"", {"Content-Type": _JSON}
        if found := _MODEL.fullmatch(self.path):
            name, version, what = found.groups()
            return self._answer_of(name, version, what, body)
        raise _Refused(404, "Not Found", _PLAIN)

    def _answer_of(
        self, name: str, version: str | None, what: str | None, body: bytes
    ) -> _Answer:
        model = self.owner.triton.models.get(name)
        is_there = model is not None and version in {None, "1"}
        if what == "ready":
            if is_there and model.state == "READY":
                return b"", {"Content-Type": _PLAIN}
            raise _Refused(400, "Model version not ready", _PLAIN)
        if what == "stats":
            if is_there and model.state == "READY":
                return _compact({"model_stats": [model.statistics()]})
            raise _Refused(400, f"requested model '{name}' is not available")
        kind = _PLAIN if what == "infer" else _JSON
        if model is None or not is_there:
            which = f"'{name}'" + (f" version {version}" if version else "")
            raise _Refused(
                404, f"Request for unknown model: {which} is not found", kind
            )
        if model.state != "READY":
            message = f"Request for unknown model: '{name}' has no available versions"
            raise _Refused(404, message, kind)
        if what == "infer":
            return self._infer(model, body)
        return _compact(self._described(name, what))

    def _described(self, name: str, what: str | None) -> Any:
        """A model's metadata, or its configuration."""
        path = "/v2/models/{}" + (f"/{what}" if what else "")
        answers = self.owner.answers
        exchange = answers.get(("GET", path.format(name), ""))
        if exchange is not None:
            return json.loads(exchange.answer)
        text = answers["GET", path.format(_LIKE), ""].answer.replace(_LIKE, name)
        described = json.loads(text)
        width = self.owner.triton.models[name].width
        if what is None:
            described["inputs"][0]["shape"][1] = width
        else:
            described["input"][0]["dims"] = [width]
        return described

    def _infer(self, model: _Model, body: bytes) -> _Answer:
        header = int(self.headers.get(_HEADER_LENGTH) or len(body))
        # What is no sound request was recorded word by word.
        text = body.decode(errors="replace")
        known = self.owner.answers.get(("POST", self.path, text))
        try:
            request = json.loads(body[:header])
            given = _tensors(request, body[header:])
        except (ValueError, KeyError, TypeError):
            if known is None:
                raise
            error = json.loads(known.answer)["error"]
            raise _Refused(known.status, error) from None
        _check(model.name, self._described(model.name, None), request)
        config = self._described(model.name, "config")
        outputs = model.run(given, _rows(model.name, config, request))
        answer: dict[str, Any] = {"id": request["id"]} if "id" in request else {}
        answer |= {"model_name": model.name, "model_version": "1", "outputs": []}
        is_binary = request.get("parameters", {}).get("binary_data_output", False)
        blobs = b""
        for name, array in outputs:
            datatype = np_to_triton_dtype(array.dtype)
            output = {"name": name, "datatype": datatype, "shape": list(array.shape)}
            if is_binary:
                blob = _packed(array, datatype)
                output["parameters"] = {"binary_data_size": len(blob)}
                blobs += blob
            else:
                output["data"] = _listed(array, datatype)
            answer["outputs"].append(output)
        content, headers = _compact(answer)
        if blobs:
            headers = {"Content-Type": _BINARY, _HEADER_LENGTH: str(len(content))}
        return content + blobs, headers


def _entry(triton: PlayedTriton, name: str) -> dict[str, str]:
    model = triton.models.get(name)
    if model is None:
        return {"name": name}
    entry = {"name": name, "version": "1", "state": model.state}
    return {**entry, "reason": model.reason} if model.reason else entry


def _load(triton: PlayedTriton, name: str) -> None:
    if (file := triton.files().get(name)) is None:
        message = f"failed to load '{name}', failed to poll from model repository"
        raise _Refused(500, message)
    if name in triton.models and triton.models[name].state == "READY":
        triton.models[name].unload()
    model = triton.models[name] = _Model(name, file)
    model.load()
    if model.state != "READY":
        message = (
            f"load failed for model '{name}': version 1 is at UNAVAILABLE state: "
            f"{model.reason};\n"
        )
        raise _Refused(400, message)


def _unload(triton: PlayedTriton, name: str) -> None:
    if name in triton.models:
        triton.models[name].unload()


def _tensors(request: dict[str, Any], blobs: bytes) -> list[tuple[str, Any]]:
    """The inputs of a request, which stand in its JSON or behind it."""
    found = []
    for part in request["inputs"]:
        datatype = part["datatype"]
        size = part.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = part["data"]
            if datatype == "BYTES":
                values = [text.encode() for text in values]
            elif any(isinstance(value, str) for value in values):
                message = "text where a number belongs"
                raise TypeError(message)
            array = np.array(values, dtype=triton_to_np_dtype(datatype))
        else:
            blob, blobs = blobs[:size], blobs[size:]
            if datatype == "BYTES":
                array = deserialize_bytes_tensor(blob)
            else:
                array = np.frombuffer(blob, dtype=triton_to_np_dtype(datatype))
        found.append((part["name"], array))
    return [
        (name, array.reshape(part["shape"]) if _fits(array, part["shape"]) else array)
        for (name, array), part in zip(found, request["inputs"], strict=True)
    ]


def _fits(array: Any, shape: list[int]) -> bool:
    return bool(array.size == np.prod(shape))


def _check(model: str, metadata: dict[str, Any], request: dict[str, Any]) -> None:
    """Whether a model takes such inputs."""
    inputs = {part["name"]: part for part in metadata["inputs"]}
    for part in request["inputs"]:
        name = part["name"]
        if (wanted := inputs.get(name)) is None:
            message = f"unexpected inference input '{name}' for model '{model}'"
            raise _Refused(400, message)
        shapes = zip(part["shape"], wanted["shape"], strict=False)
        if len(part["shape"]) != len(wanted["shape"]) or any(
            size not in {given, -1} for given, size in shapes
        ):
            message = (
                f"[request id: <id_unknown>] unexpected shape for input '{name}' for "
                f"model '{model}'. Expected {_text(wanted['shape'])}, "
                f"got {_text(part['shape'])}. NOTE: Setting a non-zero "
                "max_batch_size in the model config requires a batch dimension to be "
                "prepended to each input shape. If you want to specify the full shape "
                "including the batch dim in your input dims config, try setting "
                "max_batch_size to zero. See the model configuration docs for more "
                "info on max_batch_size."
            )
            raise _Refused(400, message)
        if part["datatype"] != wanted["datatype"]:
            message = (
                f"[request id: <id_unknown>] inference input '{name}' data-type is "
                f"'{part['datatype']}', but model '{model}' expects "
                f"'{wanted['datatype']}'"
            )
            raise _Refused(400, message)


def _rows(model: str, config: dict[str, Any], request: dict[str, Any]) -> int:
    """The rows of a request; what a model takes that knows none is one."""
    limit: int = config["max_batch_size"]
    rows: int = request["inputs"][0]["shape"][0] if limit else 1
    if limit and rows > limit:
        message = (
            "[request id: <id_unknown>] inference request batch-size must be "
            f"<= {limit} for '{model}'"
        )
        raise _Refused(400, message)
    return rows


def _packed(array: Any, datatype: str) -> bytes:
    if datatype == "BYTES":
        return bytes(serialize_byte_tensor(array).item()) if array.size else b""
    return bytes(array.tobytes())


def _listed(array: Any, datatype: str) -> list[Any]:
    values: list[Any] = array.ravel().tolist()
    return [value.decode() for value in values] if datatype == "BYTES" else values


def _compact(content: Any) -> _Answer:
    return _text(content).encode(), {"Content-Type": _JSON}


def _text(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)
